//! `net.ipv4.ip_forward`: without it the node does not route between its Pods.
//!
//! gVisor (`pkg/sentry/fsimpl/proc/tasks_sys.go`) starts with 0 and differs from Linux in two ways. The file always is
//! that of the sandbox's first network namespace, whoever writes it: in another one nothing can be turned on, and the
//! configuration has `ipForward` false. And each mount of /proc tells only what was written through it: a 0 may be
//! wrong, and writing 1 once more does no harm.

use std::fs;
use std::io;
use std::path::Path;
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statfs::{PROC_SUPER_MAGIC, statfs};

const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// Turns forwarding on if it is off.
///
/// `terrarium` lays an overlay over /proc/sys where gVisor lacks files that the kubelet wants. A write there would only
/// change the overlay's copy, and a read may find such a copy, so both then go through a fresh /proc in a mount
/// namespace that ends with the thread.
pub fn enable() -> io::Result<()> {
    if statfs(Path::new(IP_FORWARD))?.filesystem_type() == PROC_SUPER_MAGIC {
        return write_if_off();
    }
    let thread = thread::Builder::new().name("fresh-proc".into()).spawn(|| {
        let none = None::<&str>;
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none)?;
        write_if_off()
    })?;
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn write_if_off() -> io::Result<()> {
    if fs::read_to_string(IP_FORWARD)?.trim() == "1" { Ok(()) } else { fs::write(IP_FORWARD, "1") }
}
