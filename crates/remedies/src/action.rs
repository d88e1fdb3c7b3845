//! What a remedy does, as data that can be journalled, done and undone.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags};
use serde::{Deserialize, Serialize};

use crate::namespace;

/// One change to the sandbox, or one setting of a component.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "do")]
pub enum Action {
    /// Makes a directory, mode 0755, if it is not there. Undone only if it is empty then.
    CreateDir {
        /// Its path; the parent exists.
        path: PathBuf,
    },
    /// Makes a file that must not exist yet, mode 0644.
    CreateFile {
        /// Its path; the parent exists.
        path: PathBuf,
        /// What it holds.
        content: String,
    },
    /// Writes a sysctl.
    Sysctl {
        /// Its file below /proc/sys.
        path: PathBuf,
        /// The value.
        value: String,
        /// The value that it had.
        before: String,
    },
    /// Mounts a file system.
    Mount {
        /// Its type, as in mount(2).
        fstype: String,
        /// Where; exists.
        target: PathBuf,
        /// The data argument of mount(2): comma-separated options.
        options: String,
    },
    /// Mounts a file over another.
    Bind {
        /// What is to be seen.
        source: PathBuf,
        /// Where; exists.
        target: PathBuf,
    },
    /// Gives a component a setting.
    Configure(Setting),
}

/// A setting that a component must be given for a gap's sake.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "of")]
pub enum Setting {
    /// A field of KubeletConfiguration.
    Kubelet {
        /// The field's name.
        field: String,
        /// Its value.
        value: serde_json::Value,
    },
    /// A boolean field of containerd's `io.containerd.cri.v1.runtime` section.
    Containerd {
        /// The field's name.
        field: String,
        /// Its value.
        value: bool,
    },
    /// A flag of kube-apiserver.
    ApiServer {
        /// The flag, with its dashes.
        flag: String,
        /// Its value.
        value: String,
    },
}

impl Action {
    /// The `CreateDir`s that make `path` and those of its parents that do not exist.
    pub(crate) fn create_dirs(path: &Path) -> Vec<Self> {
        let mut missing: Vec<_> = path
            .ancestors()
            .take_while(|ancestor| !ancestor.exists())
            .map(|ancestor| Self::CreateDir { path: ancestor.to_owned() })
            .collect();
        missing.reverse();
        missing
    }

    pub(crate) fn mount(fstype: &str, target: impl Into<PathBuf>, options: impl Into<String>) -> Self {
        Self::Mount { fstype: fstype.to_owned(), target: target.into(), options: options.into() }
    }

    pub(crate) fn apply(&self) -> io::Result<()> {
        match self {
            // gVisor's cgroups outlast their mounts: one that was left behind is there when its controller is mounted again.
            Self::CreateDir { path } => match fs::DirBuilder::new().mode(0o755).create(path) {
                Err(_) if path.is_dir() => Ok(()),
                other => other,
            },
            Self::CreateFile { path, content } => {
                OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?.write_all(content.as_bytes())
            }
            Self::Sysctl { path, value, .. } => fs::write(path, value),
            Self::Mount { fstype, target, options } => nix::mount::mount(
                Some("terrarium"),
                target,
                Some(fstype.as_str()),
                MsFlags::empty(),
                Some(options.as_str()),
            )
            .map_err(Into::into),
            Self::Bind { source, target } => {
                nix::mount::mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                    .map_err(Into::into)
            }
            Self::Configure(_) => Ok(()),
        }
    }

    /// Undoes the action; one that was never done, or is undone already, is fine.
    pub(crate) fn revert(&self) -> io::Result<()> {
        let gone_is_fine = |result: io::Result<()>| match result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        match self {
            Self::CreateDir { path } => match gone_is_fine(fs::remove_dir(path)) {
                // Someone else uses it by now.
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::ResourceBusy) =>
                {
                    Ok(())
                }
                other => other,
            },
            Self::CreateFile { path, .. } => gone_is_fine(fs::remove_file(path)),
            Self::Sysctl { path, before, .. } => fs::write(path, before),
            Self::Mount { target, .. } | Self::Bind { target, .. } => {
                if namespace::is_mount_point(target)? {
                    nix::mount::umount2(target, MntFlags::MNT_DETACH)?;
                }
                Ok(())
            }
            Self::Configure(_) => Ok(()),
        }
    }

    /// Whether only terrarium's own mount namespace sees it: it is gone when that is.
    pub(crate) fn is_in_namespace_only(&self) -> bool {
        matches!(self, Self::Mount { .. } | Self::Bind { .. } | Self::Configure(_))
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateDir { path } => write!(f, "make the directory {}", path.display()),
            Self::CreateFile { path, .. } => write!(f, "make the file {}", path.display()),
            Self::Sysctl { path, value, .. } => write!(f, "write {value} to {}", path.display()),
            Self::Mount { fstype, target, .. } => write!(f, "mount {fstype} on {}", target.display()),
            Self::Bind { source, target } => write!(f, "bind {} over {}", source.display(), target.display()),
            Self::Configure(setting) => write!(f, "configure {setting}"),
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kubelet { field, value } => write!(f, "kubelet {field}={value}"),
            Self::Containerd { field, value } => write!(f, "containerd {field}={value}"),
            Self::ApiServer { flag, value } => write!(f, "kube-apiserver {flag}={value}"),
        }
    }
}
