//! `net.ipv4.ip_forward`: without it the node does not route between its Pods.
//!
//! gVisor (`pkg/sentry/fsimpl/proc/tasks_sys.go`) starts with 0 and differs from Linux in two ways. The file always is
//! that of the sandbox's first network namespace, whoever writes it: in another one nothing can be turned on, and the
//! configuration has `ipForward` false. And each mount of /proc tells only what was written through it: a 0 may be
//! wrong, and writing 1 once more does no harm.

use std::fs;
use std::io;

const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// Turns forwarding on if it is off.
pub fn enable() -> io::Result<()> {
    if fs::read_to_string(IP_FORWARD)?.trim() == "1" { Ok(()) } else { fs::write(IP_FORWARD, "1") }
}
