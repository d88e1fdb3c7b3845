//! The OCI configuration of a sandbox.
//!
//! It is what users' sandboxes look like: a hostname that does not resolve, tmpfs on /dev and /tmp,
//! no cgroups mounted.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    str::FromStr,
};

use oci_spec::{
    OciSpecError,
    runtime::{
        LinuxBuilder, LinuxCapabilitiesBuilder, LinuxNamespaceBuilder, LinuxNamespaceType, Mount, MountBuilder,
        PosixRlimitBuilder, PosixRlimitType, ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder,
    },
};

use crate::{
    filter::Filter,
    rights::{Deny, Privilege},
};

/// The sandbox's hostname: as for most users, nothing resolves it.
pub(crate) const HOSTNAME: &str = "sandbox";

/// The init waits for nobody: it ignores SIGCHLD, so that orphans that fall to it leave no zombies (wait(2), kept over
/// exec; gVisor does the same). A shell's `trap '' CHLD` is not enough: neither dash nor bash really ignores SIGCHLD.
const INIT: [&str; 4] = ["env", "--ignore-signal=CHLD", "sleep", "infinity"];

const OPEN_FILES: u64 = 1_048_576;

/// A file or directory of the host that the sandbox sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    /// On the host.
    pub source: PathBuf,
    /// In the sandbox: an absolute path.
    pub destination: PathBuf,
    /// Writes from inside are refused.
    pub read_only: bool,
}

impl FromStr for Bind {
    type Err = String;

    /// `SRC`, `SRC:DST`, `SRC:ro` or `SRC:DST:ro`; without DST it is SRC's own absolute path.
    fn from_str(text: &str) -> Result<Self, String> {
        let (paths, read_only) = match text.strip_suffix(":ro") {
            Some(paths) => (paths, true),
            None => (text.strip_suffix(":rw").unwrap_or(text), false),
        };
        let (source, destination) = match paths.split_once(':') {
            Some((source, destination)) => (source, Some(destination)),
            None => (paths, None),
        };
        let source = std::path::absolute(source).map_err(|error| format!("{source:?}: {error}"))?;
        let destination = destination.map_or_else(|| source.clone(), PathBuf::from);
        if !destination.is_absolute() || destination == Path::new("/") {
            return Err(format!("{} is not an absolute path below /", destination.display()));
        }
        Ok(Self { source, destination, read_only })
    }
}

/// What differs from sandbox to sandbox.
pub(crate) struct Config<'a> {
    pub(crate) privilege: Privilege,
    pub(crate) deny: &'a [Deny],
    pub(crate) rootfs: &'a Path,
    pub(crate) network_namespace: &'a Path,
    pub(crate) binds: &'a [Bind],
    pub(crate) env: &'a [(String, String)],
}

impl Config<'_> {
    /// The content of `config.json`, always the same for the same input.
    pub(crate) fn json(&self) -> serde_json::Value {
        let spec = self.spec().expect("every mandatory field is set");
        let mut json = serde_json::to_value(spec).expect("a spec is plain data");
        // oci-spec keeps capabilities in hash sets.
        if let Some(sets) = json.pointer_mut("/process/capabilities").and_then(|sets| sets.as_object_mut()) {
            for set in sets.values_mut().filter_map(|set| set.as_array_mut()) {
                set.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
            }
        }
        json
    }

    fn spec(&self) -> Result<Spec, OciSpecError> {
        // Inheritable and ambient stay empty, as Docker has them since 20.10.14 (CVE-2022-24769).
        let capabilities = self.privilege.capabilities(self.deny);
        let capabilities = LinuxCapabilitiesBuilder::default()
            .bounding(capabilities.clone())
            .effective(capabilities.clone())
            .permitted(capabilities)
            .inheritable(HashSet::new())
            .ambient(HashSet::new())
            .build()?;
        let user = UserBuilder::default().uid(self.privilege.id()).gid(self.privilege.id()).build()?;
        let open_files = PosixRlimitBuilder::default()
            .typ(PosixRlimitType::RlimitNofile)
            .soft(OPEN_FILES)
            .hard(OPEN_FILES)
            .build()?;
        let process = ProcessBuilder::default()
            .args(INIT.map(String::from))
            .user(user)
            .env(self.environment())
            .cwd(self.privilege.directory())
            .capabilities(capabilities)
            .rlimits([open_files])
            .no_new_privileges(false)
            .build()?;
        let mut namespaces = vec![
            LinuxNamespaceBuilder::default().typ(LinuxNamespaceType::Network).path(self.network_namespace).build()?,
        ];
        for typ in
            [LinuxNamespaceType::Pid, LinuxNamespaceType::Ipc, LinuxNamespaceType::Uts, LinuxNamespaceType::Mount]
        {
            namespaces.push(LinuxNamespaceBuilder::default().typ(typ).build()?);
        }
        let mut linux = LinuxBuilder::default().namespaces(namespaces).masked_paths([]).readonly_paths([]).build()?;
        linux.set_resources(None);
        linux.set_seccomp(Filter::of(self.deny).seccomp()?);
        SpecBuilder::default()
            .version("1.0.0")
            .root(RootBuilder::default().path(self.rootfs).readonly(false).build()?)
            .hostname(HOSTNAME)
            .process(process)
            .mounts(self.mounts()?)
            .linux(linux)
            .build()
    }

    fn environment(&self) -> Vec<String> {
        let own = |name: &str| self.env.iter().any(|(set, _)| set == name);
        let defaults = [
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            ("HOME", self.privilege.home()),
            ("TERM", "xterm"),
        ];
        let defaults =
            defaults.into_iter().filter(|(name, _)| !own(name)).map(|(name, value)| format!("{name}={value}"));
        defaults.chain(self.env.iter().map(|(name, value)| format!("{name}={value}"))).collect()
    }

    fn mounts(&self) -> Result<Vec<Mount>, OciSpecError> {
        let kernel = [("/proc", "proc"), ("/dev", "tmpfs"), ("/sys", "sysfs"), ("/tmp", "tmpfs")];
        let kernel = kernel.map(|(destination, typ)| {
            MountBuilder::default().destination(destination).typ(typ).source(typ).options(Vec::new()).build()
        });
        let binds = self.binds.iter().map(|bind| {
            let options = ["rbind", if bind.read_only { "ro" } else { "rw" }].map(String::from);
            let mount = MountBuilder::default().destination(&bind.destination).source(&bind.source);
            mount.typ("bind").options(options).build()
        });
        kernel.into_iter().chain(binds).collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    fn config<'a>(privilege: Privilege, deny: &'a [Deny]) -> Config<'a> {
        let (rootfs, network_namespace) = (Path::new("/cache/tt-a/rootfs"), Path::new("/run/netns/tt-1"));
        Config { privilege, deny, rootfs, network_namespace, binds: &[], env: &[] }
    }

    /// What a choice of rights decides.
    fn rights(privilege: Privilege, deny: &[Deny]) -> serde_json::Value {
        let json = config(privilege, deny).json();
        let at = |pointer| json.pointer(pointer).cloned().unwrap_or_default();
        serde_json::json!({
            "user": at("/process/user"),
            "env": at("/process/env"),
            "cwd": at("/process/cwd"),
            "capabilities": at("/process/capabilities"),
            "seccomp": at("/linux/seccomp"),
        })
    }

    #[test]
    fn the_rights_of_each_privilege() {
        insta::assert_json_snapshot!("docker", rights(Privilege::Docker, &[]));
        insta::assert_json_snapshot!("uid1000", rights(Privilege::Uid1000, &[]));
    }

    #[test]
    fn what_each_denial_takes_away() {
        for right in Deny::value_variants() {
            let json = rights(Privilege::Docker, &[*right]);
            insta::assert_json_snapshot!(format!("docker_without_{right}"), json);
        }
        let everything = rights(Privilege::Full, Deny::value_variants());
        for lost in ["CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_NET_RAW"] {
            assert!(!everything["capabilities"].to_string().contains(lost), "{lost}");
        }
    }

    #[test]
    fn the_configuration_of_a_full_sandbox() {
        let config = Config {
            rootfs: Path::new("/cache/tt-a/rootfs"),
            network_namespace: Path::new("/run/netns/tt-1"),
            binds: &["/opt/bin:/usr/local/bin:ro".parse().unwrap(), "/srv/app".parse().unwrap()],
            env: &[("TERM".into(), "dumb".into()), ("A".into(), "b".into())],
            ..config(Privilege::Full, &[])
        };
        insta::assert_json_snapshot!(config.json());
    }

    #[test]
    fn binds_are_read_as_written() {
        let bind = |source: &str, destination: &str, read_only| Bind {
            source: source.into(),
            destination: destination.into(),
            read_only,
        };
        assert_eq!("/a".parse(), Ok(bind("/a", "/a", false)));
        assert_eq!("/a:ro".parse(), Ok(bind("/a", "/a", true)));
        assert_eq!("/a:/b".parse(), Ok(bind("/a", "/b", false)));
        assert_eq!("/a:/b:ro".parse(), Ok(bind("/a", "/b", true)));
        assert!("/a:b".parse::<Bind>().is_err());
        assert!("/a:/".parse::<Bind>().is_err());
        assert!("".parse::<Bind>().is_err());
    }
}
