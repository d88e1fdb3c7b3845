//! What OCI runtimes need of a kernel.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::process::ExitCode;

use nix::sched::CloneFlags;
use terrarium_gaps::{Oci, Tried};

use crate::failure::{Doing as _, Failure};
use crate::helper::{Helper, Part};
use crate::scratch::{Scratch, mount, unmount};

/// The inode of the root of every procfs on Linux (`PROC_ROOT_INO`), by which runc tells a real one.
const PROC_ROOT_INODE: u64 = 1;
const WORKS: &str = "works";

/// Tries all of it.
pub(crate) fn look(scratch: &Scratch) -> Oci {
    Oci {
        masking_tmpfs: masking_tmpfs(scratch),
        procfs_inodes: procfs_inodes(),
        setgroups: File::open("/proc/self/setgroups").doing("open /proc/self/setgroups").into(),
        join_pid_namespace: joins_pid_namespace(),
    }
}

/// Nothing of it could be tried, for this reason.
pub(crate) fn failed(why: &Failure) -> Oci {
    let tried = || why.tried();
    Oci { masking_tmpfs: tried(), procfs_inodes: tried(), setgroups: tried(), join_pid_namespace: tried() }
}

fn masking_tmpfs(scratch: &Scratch) -> Tried {
    let try_it = || {
        let target = scratch.dir("masking")?;
        mount("tmpfs", &target, "nr_blocks=1,nr_inodes=2").doing("mount a tmpfs with nr_blocks and nr_inodes")?;
        unmount(&target);
        Ok::<_, Failure>(())
    };
    try_it().into()
}

fn procfs_inodes() -> Tried {
    let try_it = || match fs::metadata("/proc").doing("look at /proc")?.ino() {
        PROC_ROOT_INODE => Ok(()),
        // Not which other: it need not be the same at the next run.
        _ => Err(Failure::new("the inode number of /proc is not 1")),
    };
    try_it().into()
}

/// Asks a child, since only a process with one thread can make a pid namespace in gVisor.
fn joins_pid_namespace() -> Tried {
    let try_it = || {
        let said = Helper::start(Part::PidNamespace)?.hear()?;
        if said == WORKS { Ok(()) } else { Err(Failure::new(said)) }
    };
    try_it().into()
}

/// The child: makes a pid namespace, starts its first process, and joins the namespace by it.
pub(crate) fn join_pid_namespace() -> ExitCode {
    let try_it = || -> Result<(), Failure> {
        nix::sched::unshare(CloneFlags::CLONE_NEWPID).doing("make a pid namespace")?;
        let first = Helper::start(Part::Holder)?;
        let namespace = File::open(format!("/proc/{}/ns/pid", first.pid())).doing("open a pid namespace")?;
        nix::sched::setns(namespace, CloneFlags::CLONE_NEWPID).doing("join a pid namespace")
    };
    let said = try_it().map_or_else(|why| why.to_string(), |()| WORKS.to_owned());
    match writeln!(io::stdout(), "{said}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
