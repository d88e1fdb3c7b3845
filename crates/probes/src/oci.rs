//! What OCI runtimes need of a kernel.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;

use terrarium_gaps::{Oci, Tried};

use crate::failure::{Doing as _, Failure};
use crate::scratch::{Scratch, mount, unmount};

/// The inode of the root of every procfs on Linux (`PROC_ROOT_INO`), by which runc tells a real one.
const PROC_ROOT_INODE: u64 = 1;

/// All but the joining of a pid namespace, which is tried elsewhere and filled in there.
pub(crate) fn look(scratch: &Scratch) -> Oci {
    Oci {
        masking_tmpfs: masking_tmpfs(scratch),
        procfs_inodes: procfs_inodes(),
        setgroups: File::open("/proc/self/setgroups").doing("open /proc/self/setgroups").into(),
        join_pid_namespace: Tried::Fails("not tried".to_owned()),
    }
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
