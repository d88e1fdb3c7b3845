//! Each sandbox's own root over the shared Debian tree, and what else of the host its runsc shall see differently.
//!
//! What lies under the 9p root shows inside. On a plain directory a program may make overlayfs whiteouts (character
//! device 0:0), so that an overlay mounted inside can have its upper directory on the root; on an overlay of the host
//! (Docker's usual root) whiteouts are refused, and such an overlay cannot delete. Both kinds of users' sandboxes exist,
//! hence the choice, and never a silent fallback from one to the other.
//!
//! Mounts are made in a mount namespace that only this sandbox's runsc processes are in: the host never sees them, and they
//! end with those processes, so that removing the directory cannot run into one.

use std::{
    ffi::OsString,
    fmt, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::{
    config::HOSTNAME,
    error::{IoContext, Result},
    gvisor::name,
    network::Slot,
    record::Record,
    tool::{CP, Interrupt, UNSHARE, mortal, require, succeed},
};

/// Type, options and mount point of each mount up to `--`; the rest is what runs on them.
const MOUNT_AND_RUN: &str =
    r#"while [ "$1" != -- ]; do mount -t "$1" -o "$2" testbed "$3" || exit; shift 3; done; shift; exec "$@""#;

/// A new mount namespace in which the host's later unmounts arrive, and from which nothing goes back.
const NAMESPACE: [&str; 5] = ["--mount", "--propagation", "slave", "--", "sh"];

/// The sandbox's root. Inside it is 9p in any case; they differ by what lies under it on the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum RootKind {
    /// 9p over a plain directory: a full copy of the tree, a second or more.
    #[default]
    #[serde(rename = "9p")]
    #[value(name = "9p")]
    NineP,
    /// 9p over an overlay, as under Docker: nothing is copied.
    Overlay,
}

impl fmt::Display for RootKind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&name(*self))
    }
}

/// What is mounted for runsc, through [`NAMESPACE`] and [`MOUNT_AND_RUN`]; nothing where all lies in place.
pub(crate) struct Layer(Vec<Mount>);

struct Mount {
    kind: &'static str,
    options: String,
    point: PathBuf,
}

impl Layer {
    /// Prepares the root of one sandbox in its directory.
    pub(crate) fn make(record: &Record, tree: &Path, interrupt: &Interrupt) -> Result<Self> {
        let (disk, slot) = (&record.disk, record.slot);
        let root = disk.join("rootfs");
        fs::create_dir_all(&root).io("create", &root)?;
        let mut mounts = Vec::new();
        match record.root {
            RootKind::NineP => {
                CP.run(&["-aT", "--reflink=auto", &tree.to_string_lossy(), &root.to_string_lossy()], interrupt)?;
                write_identity(&root, slot)?;
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
                mounts.push(Mount { kind: "overlay", options, point: root });
            }
        }
        if record.gvisor.mistakes_namespaces() {
            mounts.push(Mount { kind: "tmpfs", options: "ro".into(), point: "/proc/sys/net".into() });
        }
        let layer = Self(mounts);
        layer.check(interrupt)?;
        Ok(layer)
    }

    /// Fails with mount's own words where something cannot be mounted: the cache itself may lie on an overlay.
    fn check(&self, interrupt: &Interrupt) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        require(UNSHARE.0, UNSHARE.1)?;
        succeed(mortal(UNSHARE.0).args(self.words()).arg("true"), interrupt).map(|_| ())
    }

    /// `command`, run where everything is in place; [mortal], since a clean-up knows it only once it is runsc.
    pub(crate) fn around(&self, command: &Command) -> Command {
        let mut around = if self.0.is_empty() {
            mortal(command.get_program())
        } else {
            let mut wrapped = mortal(UNSHARE.0);
            wrapped.args(self.words()).arg(command.get_program());
            wrapped
        };
        around.args(command.get_args());
        around
    }

    /// The arguments of `unshare` up to what is to run.
    fn words(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = NAMESPACE.map(Into::into).into();
        words.extend(["-c", MOUNT_AND_RUN, "sh"].map(Into::into));
        for mount in &self.0 {
            words.extend([mount.kind.into(), mount.options.as_str().into(), mount.point.as_os_str().to_owned()]);
        }
        words.push("--".into());
        words
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
    use crate::tool::describe;

    #[test]
    fn runsc_is_run_where_all_is_mounted() {
        let mut runsc = Command::new("/opt/runsc");
        runsc.args(["run", "a"]);
        let overlay = Mount { kind: "overlay", options: "lowerdir=/t".into(), point: "/d/rootfs".into() };
        let around = describe(&Layer(vec![overlay]).around(&runsc));
        assert!(around.ends_with(" sh overlay lowerdir=/t /d/rootfs -- /opt/runsc run a"), "{around}");
        assert_eq!(describe(&Layer(Vec::new()).around(&runsc)), "/opt/runsc run a");
    }

    #[test]
    fn roots_are_called_as_they_are_chosen() {
        assert_eq!(RootKind::NineP.to_string(), "9p");
        assert_eq!(serde_json::to_value(RootKind::NineP).unwrap(), "9p");
        assert_eq!(RootKind::Overlay.to_string(), "overlay");
    }
}
