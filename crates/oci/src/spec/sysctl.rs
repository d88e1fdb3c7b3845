//! Sysctls that a container may set: those that its own namespaces have.

use oci_spec::runtime::{Linux, LinuxNamespaceType};

use crate::namespaces::Namespaces;
use crate::{Error, Result};

/// Sysctls of the ipc namespace below `kernel` (ipc_namespaces(7)).
const IPC: &[&str] = &["msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced"];

pub(super) fn validate(linux: &Linux, namespaces: &Namespaces) -> Result<()> {
    for name in linux.sysctl().iter().flatten().map(|(name, _)| name) {
        let field = || format!("linux.sysctl[{name:?}]");
        let kind = namespace_of(name).ok_or_else(|| Error::spec(field(), "belongs to no namespace"))?;
        if !namespaces.has(kind) {
            return Err(Error::spec(field(), format!("needs a {kind} namespace")));
        }
        if name.split(['.', '/']).any(|part| part.is_empty() || part == "..") {
            return Err(Error::spec(field(), "is not a name of a sysctl"));
        }
    }
    Ok(())
}

/// The kind of namespace that has this sysctl, by sysctl(8)'s or the path's way of writing it.
fn namespace_of(name: &str) -> Option<LinuxNamespaceType> {
    let name = name.replace('/', ".");
    match name.split_once('.')? {
        ("net", _) => Some(LinuxNamespaceType::Network),
        ("fs", rest) if rest.starts_with("mqueue.") => Some(LinuxNamespaceType::Ipc),
        ("kernel", "domainname" | "hostname") => Some(LinuxNamespaceType::Uts),
        ("kernel", rest) if IPC.contains(&rest) => Some(LinuxNamespaceType::Ipc),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sysctl_belongs_to_a_namespace() {
        assert_eq!(namespace_of("net.ipv4.ip_forward"), Some(LinuxNamespaceType::Network));
        assert_eq!(namespace_of("net/ipv4/conf/eth0.100/forwarding"), Some(LinuxNamespaceType::Network));
        assert_eq!(namespace_of("kernel.shm_rmid_forced"), Some(LinuxNamespaceType::Ipc));
        assert_eq!(namespace_of("fs.mqueue.msg_max"), Some(LinuxNamespaceType::Ipc));
        assert_eq!(namespace_of("kernel.domainname"), Some(LinuxNamespaceType::Uts));
        for of_the_machine in ["kernel.panic", "vm.swappiness", "fs.file-max", "kernel"] {
            assert_eq!(namespace_of(of_the_machine), None);
        }
    }
}
