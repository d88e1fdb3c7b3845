//! The machine: its kernel's name, its ID, its own name, and the directories in which new entries can be made.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use nix::unistd::AccessFlags;
use terrarium_gaps::{Kernel, MACHINE_ID, Tried, is_machine_id};

use crate::dns;
use crate::failure::{Doing as _, Failure};
use crate::scratch::nearest_existing;
use crate::sysctl;

/// The directories in which parts of Kubernetes insist on having entries of their own.
const WRITABLE: &[&str] = &["/dev", "/etc", "/run", "/var/lib", "/var/log"];

/// Since when Linux has what containerd would set (its `kernelGreaterEqualThan`).
const UNPRIVILEGED_SINCE: (u64, u64) = (4, 11);

/// What the kernel says of itself.
pub(crate) fn kernel() -> Kernel {
    let Ok(names) = nix::sys::utsname::uname() else { return Kernel { release: String::new(), gvisor: false } };
    let release = names.release().to_string_lossy().into_owned();
    let gvisor = release.contains("gvisor") || names.version().to_string_lossy() == GVISOR_VERSION;
    Kernel { release, gvisor }
}

/// What `uname -v` says in every gVisor sandbox (its `pkg/sentry/syscalls/linux`: `Version`).
const GVISOR_VERSION: &str = "#1 SMP Sun Jan 10 15:06:54 PST 2016";

/// A sysctl that containerd would set in every Pod, by its name below net/ipv4.
pub(crate) fn unprivileged(kernel: &Kernel, sysctl: &str) -> Tried {
    if version(&kernel.release) < UNPRIVILEGED_SINCE {
        return Tried::Fails(format!("the kernel says that it is {}, older than 4.11", kernel.release));
    }
    if !sysctl::exists(&format!("net/ipv4/{sysctl}")) {
        return Tried::Fails(format!("net/ipv4/{sysctl} is absent"));
    }
    Tried::Works
}

/// The first two numbers of a release.
fn version(release: &str) -> (u64, u64) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// /etc/machine-id.
pub(crate) fn machine_id() -> Tried {
    let try_it = || {
        let id = fs::read_to_string(MACHINE_ID).doing(&format!("read {MACHINE_ID}"))?;
        if is_machine_id(&id) {
            Ok(())
        } else {
            Err(Failure::new("/etc/machine-id does not hold 32 hexadecimal digits"))
        }
    };
    try_it().into()
}

/// Whether the machine's own name has an address, as a Go program would find one: /etc/hosts, then DNS. Not through
/// the C library: ours is linked in whole, and would load modules of another.
pub(crate) fn hostname() -> Tried {
    let try_it = || {
        let name = nix::unistd::gethostname().doing("ask for the host name")?;
        let name = name.to_string_lossy();
        let hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
        if has_address(&hosts, &name) {
            return Ok(());
        }
        let resolver = dns::Resolver::read(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
        if resolver.knows(&name) {
            Ok(())
        } else {
            Err(Failure::new("neither /etc/hosts nor DNS has an address for the host name"))
        }
    };
    try_it().into()
}

/// Whether a hosts(5) file has an address for a name.
fn has_address(hosts: &str, name: &str) -> bool {
    hosts.lines().any(|line| {
        let line = line.split('#').next().unwrap_or_default();
        line.split_whitespace().skip(1).any(|of| of.eq_ignore_ascii_case(name))
    })
}

/// Where new entries can be made. A directory that is not there yet is made in its parent.
pub(crate) fn writable() -> BTreeMap<PathBuf, bool> {
    WRITABLE.iter().map(|dir| (PathBuf::from(dir), can_make_entries(Path::new(dir)))).collect()
}

fn can_make_entries(dir: &Path) -> bool {
    nix::unistd::access(&nearest_existing(dir), AccessFlags::W_OK | AccessFlags::X_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_as_containerd_does() {
        for (release, older) in
            [("4.4.0", true), ("4.10.9-x", true), ("4.11.0", false), ("4.19.0-gvisor", false), ("6.1", false)]
        {
            assert_eq!(version(release) < UNPRIVILEGED_SINCE, older, "{release}");
        }
        let old = Kernel { release: "4.4.0".to_owned(), gvisor: true };
        assert!(unprivileged(&old, "ping_group_range").why().unwrap().contains("4.4.0"));
        let new = Kernel { release: "6.1.0".to_owned(), gvisor: false };
        assert!(unprivileged(&new, "no_such_thing").why().unwrap().ends_with("absent"));
    }

    #[test]
    fn a_name_in_the_hosts_file() {
        let hosts = "127.0.0.1 localhost\n# 10.0.0.1 commented\n10.0.0.2\tSandbox.example sandbox # it\n";
        for (name, has) in
            [("sandbox", true), ("SANDBOX", true), ("commented", false), ("it", false), ("10.0.0.2", false)]
        {
            assert_eq!(has_address(hosts, name), has, "{name}");
        }
    }

    #[test]
    fn a_directory_that_is_to_be_made_is_as_writable_as_its_parent() {
        let dir = tempfile::tempdir().unwrap();
        assert!(can_make_entries(dir.path()) && can_make_entries(&dir.path().join("a/b")));
        assert!(!can_make_entries(Path::new("/proc/sys/kernel/terrarium")));
    }
}
