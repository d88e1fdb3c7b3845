//! Each sandbox's own root over the shared Debian tree.
//!
//! What lies under the 9p root shows inside. On a plain directory a program may make overlayfs whiteouts (character
//! device 0:0), so that an overlay mounted inside can have its upper directory on the root; on an overlay of the host
//! (Docker's usual root) whiteouts are refused, and such an overlay cannot delete. Both kinds of users' sandboxes exist,
//! hence the choice, and never a silent fallback from one to the other.
//!
//! The overlay is mounted in a mount namespace that only this sandbox's runsc processes are in: the host never sees the
//! mount, and it ends with them, so that removing the directory cannot run into it.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::{
    config::HOSTNAME,
    error::{IoContext, Result},
    network::Slot,
    tool::{CP, Interrupt, UNSHARE},
};

/// `$1` are the overlay's options and `$2` its mount point; the rest is what runs on it.
const MOUNT_AND_RUN: &str = r#"mount -t overlay overlay -o "$1" "$2" && shift 2 && exec "$@""#;

/// A new mount namespace in which the host's later unmounts arrive, and from which nothing goes back.
const NAMESPACE: [&str; 5] = ["--mount", "--propagation", "slave", "--", "sh"];

/// What lies under the sandbox's 9p root on the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum RootKind {
    /// A plain directory: a full copy of the tree, a second or more.
    #[default]
    Directory,
    /// An overlay, as under Docker: nothing is copied.
    Overlay,
}

/// How runsc comes to see the root.
pub(crate) enum Layer {
    /// Through [`NAMESPACE`] and [`MOUNT_AND_RUN`] with these options on this directory.
    Overlay { options: String, root: PathBuf },
    /// It lies in place.
    Directory,
}

impl Layer {
    /// Prepares the root of one sandbox in its directory `disk`.
    pub(crate) fn make(kind: RootKind, tree: &Path, disk: &Path, slot: Slot, interrupt: &Interrupt) -> Result<Self> {
        let root = disk.join("rootfs");
        fs::create_dir_all(&root).io("create", &root)?;
        match kind {
            RootKind::Directory => {
                CP.run(&["-aT", "--reflink=auto", &tree.to_string_lossy(), &root.to_string_lossy()], interrupt)?;
                write_identity(&root, slot)?;
                Ok(Self::Directory)
            }
            RootKind::Overlay => {
                let (upper, work) = (disk.join("upper"), disk.join("work"));
                for directory in [&upper.join("etc"), &work] {
                    fs::create_dir_all(directory).io("create", directory)?;
                }
                // The merged directories have the mode of the upper ones, whatever our umask is.
                for directory in [&upper, &upper.join("etc")] {
                    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).io("open up", directory)?;
                }
                write_identity(&upper, slot)?;
                let (lower, upper, work) = (tree.display(), upper.display(), work.display());
                let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
                let overlay = Self::Overlay { options, root };
                overlay.check(interrupt)?;
                Ok(overlay)
            }
        }
    }

    /// Fails with mount's own words where the overlay cannot be mounted: the cache itself may lie on an overlay.
    fn check(&self, interrupt: &Interrupt) -> Result<()> {
        let Self::Overlay { options, root } = self else { return Ok(()) };
        let mut args = NAMESPACE.to_vec();
        let root = root.to_string_lossy();
        args.extend(["-c", MOUNT_AND_RUN, "sh", options, &root, "true"]);
        UNSHARE.run(&args, interrupt).map(|_| ())
    }

    /// `command`, run where the root is in place.
    pub(crate) fn around(&self, command: &Command) -> Command {
        let Self::Overlay { options, root } = self else {
            let mut plain = Command::new(command.get_program());
            plain.args(command.get_args());
            return plain;
        };
        let mut wrapped = Command::new(UNSHARE.0);
        wrapped.args(NAMESPACE).args(["-c", MOUNT_AND_RUN, "sh", options]).arg(root);
        wrapped.arg(command.get_program()).args(command.get_args());
        wrapped
    }
}

/// Writes the files that differ from sandbox to sandbox.
fn write_identity(root: &Path, slot: Slot) -> Result<()> {
    // The gateway refuses DNS at once unless a test serves it there: quicker than a name server that never answers.
    let files = [
        ("etc/resolv.conf", format!("nameserver {}\n", slot.gateway())),
        ("etc/hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned()),
        ("etc/hostname", format!("{HOSTNAME}\n")),
    ];
    for (name, content) in files {
        let path = root.join(name);
        // Never write through a link: it would lead into the host.
        let _ = fs::remove_file(&path);
        fs::write(&path, content).io("write", &path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).io("open up", &path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runsc_is_run_inside_the_overlay() {
        let mut runsc = Command::new("/opt/runsc");
        runsc.args(["run", "a"]);
        let words = |command: &Command| -> Vec<_> {
            command.get_args().map(|word| word.to_string_lossy().into_owned()).collect()
        };
        let overlay = Layer::Overlay { options: "lowerdir=/t".into(), root: "/d/rootfs".into() };
        assert_eq!(words(&overlay.around(&runsc))[7..], ["sh", "lowerdir=/t", "/d/rootfs", "/opt/runsc", "run", "a"]);
        assert_eq!(words(&Layer::Directory.around(&runsc)), ["run", "a"]);
    }
}
