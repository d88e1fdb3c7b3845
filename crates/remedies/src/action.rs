//! What a remedy does, as data that can be journalled, done and undone.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use nix::mount::{MntFlags, MsFlags};
use serde::{Deserialize, Serialize};
use terrarium_cni::netlink::{Netlink, Route};

use crate::without_mounts::mount_tables;
use crate::{Isolation, SERVICE_RANGE, namespace};

/// One change to the sandbox, or one setting of a component.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "do")]
pub enum Action {
    /// Makes a directory, mode 0755, and those above it that are not there. Undone only where empty then.
    CreateDir {
        /// Its path.
        path: PathBuf,
    },
    /// Makes a cgroup, if it is not there. Undone with all cgroups below it, which hold no process any more.
    Cgroup {
        /// Its directory in a hierarchy.
        path: PathBuf,
    },
    /// Makes a file that must not exist yet, mode 0644.
    CreateFile {
        /// Its path; the parent exists.
        path: PathBuf,
        /// What it holds.
        content: String,
    },
    /// Makes an empty file to mount something over, if there is none.
    CreateMountPoint {
        /// Its path; the parent exists.
        path: PathBuf,
    },
    /// Makes a directory of the cluster's own, mode 0755, with those above it; one that is there is used as it is. Undone with
    /// all in it.
    CreateOwnDir {
        /// Its path.
        path: PathBuf,
    },
    /// Makes files like mountinfo(5) and /proc/mounts with hierarchies of cgroups that are not mounted: files once it is to be
    /// done.
    CreateMountTables {
        /// The one; the parent exists.
        mountinfo: PathBuf,
        /// The other.
        mounts: PathBuf,
        /// Controllers and the directories that are to look like their mount points.
        hierarchies: Vec<(String, PathBuf)>,
    },
    /// Makes a file with a new machine ID (machine-id(5)): a file once it is to be done.
    CreateMachineId {
        /// Its path; the parent exists.
        path: PathBuf,
    },
    /// Writes a sysctl.
    Sysctl {
        /// Its file below /proc/sys.
        path: PathBuf,
        /// The value.
        value: String,
        /// The value that it had; known once it is to be done.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<String>,
    },
    /// Gives the loopback device an address, and brings it up. All of its network is the node's own then.
    Address {
        /// The address and its network.
        address: Ipv4Net,
    },
    /// Leads all that the network namespace has no other way for to its loopback device, where rules can take it up.
    DefaultRoute,
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
    /// Leaves a mount point to a component that stacks file systems over it. Undone with those that it left there.
    Stack {
        /// Where something is mounted.
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
    /// Cgroup files that the kernel lacks, from a component that adds them.
    CgroupFiles {
        /// The controllers to which some are added.
        controllers: Vec<String>,
        /// The directory in which these are mounted once more, as the kernel has them.
        backing: PathBuf,
    },
    /// That component kills the container that is over its limit of memory.
    MemoryGuard,
    /// The kubelet's cgroup library does not ask whether a file is the kernel's.
    UncheckedCgroupFiles,
    /// A rule by which chosen system calls of the kubelet are intercepted.
    Intercept {
        /// The list of rules that it belongs to, as in the crate `intercept`.
        list: String,
        /// The rule.
        rule: serde_json::Value,
    },
    /// Nothing can be mounted: there is a node without Pods.
    WithoutMounts {
        /// Where containerd and the kubelet keep what dies with the cluster.
        state: PathBuf,
    },
    /// Pods have the node's network.
    HostNetwork,
    /// What the CNI plugin may do.
    PodNetwork {
        /// Turn on routing.
        ip_forward: bool,
        /// Let Pods out by SNAT.
        ip_masq: bool,
        /// Lead connections to the Service proxy by rules of the nat table.
        redirect: bool,
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
    /// What a planned action comes to now, as it is journalled: a directory is made with those above it that are missing,
    /// a sysctl that has its value stays, one that has not is known by the value that it had.
    pub(crate) fn resolve(&self) -> io::Result<Vec<Self>> {
        Ok(match self {
            Self::CreateDir { path } => missing(path).map(Self::create_dir).collect(),
            Self::CreateOwnDir { path } => {
                let made = missing(path).map(|one| if one == *path { self.clone() } else { Self::create_dir(one) });
                made.collect()
            }
            Self::CreateMountTables { mountinfo, mounts, hierarchies } => {
                let [long, short] = ["/proc/self/mountinfo", "/proc/self/mounts"].map(fs::read_to_string);
                let (long, short) = mount_tables(&long?, &short?, hierarchies)?;
                [(mountinfo, long), (mounts, short)]
                    .map(|(path, content)| Self::CreateFile { path: path.clone(), content })
                    .into()
            }
            Self::Sysctl { path, value, .. } => match fs::read_to_string(path).map(|before| before.trim().to_owned()) {
                Ok(before) if before == *value => Vec::new(),
                before => vec![Self::Sysctl { path: path.clone(), value: value.clone(), before: before.ok() }],
            },
            // Before it is journalled: what is there is somebody's, and stays when the journal is reverted.
            Self::CreateFile { path, .. } if fs::symlink_metadata(path).is_ok() => {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            Self::CreateMountPoint { path } if path.exists() => Vec::new(),
            Self::CreateMountPoint { path } => vec![Self::CreateFile { path: path.clone(), content: String::new() }],
            Self::CreateMachineId { path } => {
                let mut random = [0; 16];
                fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
                let content = format!("{:032x}\n", u128::from_be_bytes(random));
                vec![Self::CreateFile { path: path.clone(), content }]
            }
            Self::Mount { fstype, target, options } if fstype == "tmpfs" => {
                vec![Self::mount(fstype, target, with_bytes(options, total_memory()?))]
            }
            other => vec![other.clone()],
        })
    }

    /// The setting of a component that it is.
    pub(crate) fn setting(&self) -> Option<&Setting> {
        match self {
            Self::Configure(setting) => Some(setting),
            _ => None,
        }
    }

    pub(crate) fn create_dir(path: impl Into<PathBuf>) -> Self {
        Self::CreateDir { path: path.into() }
    }

    pub(crate) fn mount(fstype: &str, target: impl Into<PathBuf>, options: impl Into<String>) -> Self {
        Self::Mount { fstype: fstype.to_owned(), target: target.into(), options: options.into() }
    }

    pub(crate) fn sysctl(path: &str, value: &str) -> Self {
        Self::Sysctl { path: path.into(), value: value.to_owned(), before: None }
    }

    pub(crate) fn apply(&self) -> io::Result<()> {
        match self {
            Self::CreateOwnDir { path } => fs::DirBuilder::new().mode(0o755).create(path),
            Self::CreateDir { path } => match fs::DirBuilder::new().mode(0o755).create(path) {
                Err(_) if path.is_dir() => Ok(()),
                other => other,
            },
            // gVisor's cgroups outlast their mounts: one that was left behind is there when its controller is mounted again.
            Self::Cgroup { path } => match fs::create_dir(path) {
                Err(_) if path.is_dir() => Ok(()),
                other => other,
            },
            Self::CreateFile { path, content } => {
                OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?.write_all(content.as_bytes())
            }
            Self::Sysctl { path, value, .. } => fs::write(path, value),
            Self::Address { address } => {
                let (mut netlink, loopback) = loopback()?;
                netlink.set_up(loopback).map_err(io::Error::other)?;
                if netlink.addresses(loopback).map_err(io::Error::other)?.contains(&address.addr()) {
                    return Ok(());
                }
                netlink.add_address(loopback, *address).map_err(io::Error::other)
            }
            Self::DefaultRoute => {
                let (mut netlink, link) = loopback()?;
                let destination = Ipv4Net::default();
                let routes = netlink.routes().map_err(io::Error::other)?;
                if routes.iter().any(|route| route.destination == destination && route.link == link) {
                    return Ok(());
                }
                // gVisor wants a gateway, of which it makes no use; Linux wants none that is its own.
                let by = |gateway| Route { destination, gateway, link };
                netlink
                    .add_route(by(None))
                    .or_else(|_| netlink.add_route(by(Some(SERVICE_RANGE.addr()))))
                    .map_err(io::Error::other)
            }
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
            // Resolved before it is done, or done by a component.
            Self::CreateMachineId { .. }
            | Self::CreateMountPoint { .. }
            | Self::CreateMountTables { .. }
            | Self::Stack { .. }
            | Self::Configure(_) => Ok(()),
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
            // What others have mounted there since is not ours.
            Self::CreateOwnDir { path } if namespace::is_mount_point(path)? => Ok(()),
            Self::CreateOwnDir { path } => gone_is_fine(fs::remove_dir_all(path)),
            Self::CreateFile { path, .. } => gone_is_fine(fs::remove_file(path)),
            Self::Cgroup { path } => {
                remove_cgroups_below(path)?;
                gone_is_fine(fs::remove_dir(path))
            }
            Self::Sysctl { path, before, .. } => before.as_ref().map_or(Ok(()), |before| fs::write(path, before)),
            Self::Address { address } => {
                let (mut netlink, loopback) = loopback()?;
                if !netlink.addresses(loopback).map_err(io::Error::other)?.contains(&address.addr()) {
                    return Ok(());
                }
                netlink.delete_address(loopback, *address).map_err(io::Error::other)
            }
            Self::Mount { target, .. } | Self::Bind { target, .. } => {
                if namespace::is_mount_point(target)? {
                    nix::mount::umount2(target, MntFlags::MNT_DETACH)?;
                }
                Ok(())
            }
            Self::Stack { target } => match fs::metadata(target) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                _ => terrarium_cgroupfs::detach_left(target).map(drop).map_err(io::Error::other),
            },
            // The cluster's own network namespace takes it along.
            Self::DefaultRoute => Ok(()),
            Self::CreateMachineId { .. }
            | Self::CreateMountPoint { .. }
            | Self::CreateMountTables { .. }
            | Self::Configure(_) => Ok(()),
        }
    }

    /// Whether only the cluster's own namespaces see it: it is gone when they are.
    pub(crate) fn is_in_namespace_only(&self, isolation: Isolation) -> bool {
        match self {
            Self::DefaultRoute | Self::Mount { .. } | Self::Bind { .. } | Self::Stack { .. } | Self::Configure(_) => {
                true
            }
            Self::Address { .. } => isolation.has_network(),
            Self::Sysctl { path, .. } => isolation.has_network() && path.starts_with("/proc/sys/net"),
            _ => false,
        }
    }
}

/// A directory and those above it that are not there, the outermost first.
fn missing(path: &Path) -> impl Iterator<Item = &Path> {
    let missing: Vec<_> = path.ancestors().take_while(|ancestor| fs::symlink_metadata(ancestor).is_err()).collect();
    missing.into_iter().rev()
}

/// The options of a tmpfs with its size in bytes: older gVisor does not take a part of all memory, as in `size=50%`.
fn with_bytes(options: &str, memory: u64) -> String {
    let in_bytes = |option: &str| {
        let percent: u64 = option.strip_prefix("size=")?.strip_suffix('%')?.parse().ok()?;
        Some(format!("size={}", memory / 100 * percent))
    };
    let options = options.split(',').map(|option| in_bytes(option).unwrap_or_else(|| option.to_owned()));
    options.collect::<Vec<_>>().join(",")
}

/// MemTotal of proc_meminfo(5), in bytes.
fn total_memory() -> io::Result<u64> {
    let information = fs::read_to_string("/proc/meminfo")?;
    let total =
        information.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok());
    total.map(|kilobytes: u64| kilobytes * 1024).ok_or_else(|| io::Error::other("/proc/meminfo does not tell MemTotal"))
}

/// Removes the cgroups that the kubelet and the OCI runtime made: directories that hold nothing but their own files.
fn remove_cgroups_below(cgroup: &Path) -> io::Result<()> {
    let children = match fs::read_dir(cgroup) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for child in children {
        let child = child?;
        if child.file_type()?.is_dir() {
            remove_cgroups_below(&child.path())?;
            fs::remove_dir(child.path())?;
        }
    }
    Ok(())
}

fn loopback() -> io::Result<(Netlink, u32)> {
    let mut netlink = Netlink::open().map_err(io::Error::other)?;
    let index = netlink.expect_link("lo").map_err(io::Error::other)?.index;
    Ok((netlink, index))
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateDir { path } => write!(f, "make the directory {}", path.display()),
            Self::Cgroup { path } => write!(f, "make the cgroup {}", path.display()),
            Self::CreateFile { path, .. } => write!(f, "make the file {}", path.display()),
            Self::CreateMountPoint { path } => write!(f, "make sure of the file {}", path.display()),
            Self::CreateOwnDir { path } => write!(f, "make sure of the directory {}", path.display()),
            Self::CreateMountTables { mountinfo, .. } => write!(f, "make the table of mounts {}", mountinfo.display()),
            Self::CreateMachineId { path } => write!(f, "make a machine ID in {}", path.display()),
            Self::Address { address } => write!(f, "give the loopback device the address {address}"),
            Self::DefaultRoute => write!(f, "lead to the loopback device what has no other way"),
            Self::Sysctl { path, value, .. } => write!(f, "write {value} to {}", path.display()),
            Self::Mount { fstype, target, .. } => write!(f, "mount {fstype} on {}", target.display()),
            Self::Bind { source, target } => write!(f, "bind {} over {}", source.display(), target.display()),
            Self::Stack { target } => write!(f, "leave {} to the file system with more files", target.display()),
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
            Self::CgroupFiles { controllers, backing } => {
                write!(f, "more cgroup files for {}, beside those in {}", controllers.join(", "), backing.display())
            }
            Self::MemoryGuard => write!(f, "the guard of limits of memory"),
            Self::UncheckedCgroupFiles => write!(f, "the kubelet's cgroup library to take all files for the kernel's"),
            Self::Intercept { list, rule } => write!(f, "interception of the kubelet's calls, {list}: {rule}"),
            Self::WithoutMounts { state } => write!(f, "a node without Pods in {}", state.display()),
            Self::HostNetwork => write!(f, "the node's network for every Pod"),
            Self::PodNetwork { ip_forward, ip_masq, redirect } => {
                write!(f, "the Pods' network ip_forward={ip_forward} ip_masq={ip_masq} redirect={redirect}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_all_memory_is_said_in_bytes() {
        assert_eq!(with_bytes("mode=0755,size=50%", 8 << 30), format!("mode=0755,size={}", (8u64 << 30) / 100 * 50));
        assert_eq!(with_bytes("mode=0755,size=1m", 8 << 30), "mode=0755,size=1m");
    }
}
