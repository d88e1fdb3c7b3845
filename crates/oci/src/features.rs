//! What this runtime can do, as `features` tells it (runtime specification, "Features Structure").

use caps::CapSet;
use oci_spec::runtime::{
    ApparmorBuilder, CgroupBuilder, Features, FeaturesBuilder, IDMapBuilder, IntelRdtBuilder, LinuxFeatureBuilder,
    LinuxSeccompAction, MountExtensionsBuilder, SeccompBuilder, SelinuxBuilder,
};

use crate::namespaces::KINDS;
use crate::{Error, Kernel, Result, hooks, mount_options, spec};

/// What can be done here: of namespaces and capabilities what the kernel at hand has.
pub(crate) fn features() -> Result<Features> {
    describe().map_err(|error| Error::other("describe the features", error.to_string()))
}

fn describe() -> Result<Features, oci_spec::OciSpecError> {
    let namespaces = KINDS.iter().filter(|kind| std::path::Path::new("/proc/self/ns").join(kind.file).exists());
    let mut capabilities: Vec<_> = caps::read(None, CapSet::Bounding)
        .unwrap_or_default()
        .into_iter()
        .map(|capability| capability.to_string())
        .collect();
    capabilities.sort();
    let cgroup = CgroupBuilder::default().v1(true).v2(true).systemd(false).systemd_user(false).rdma(false).build()?;
    let linux = LinuxFeatureBuilder::default()
        .namespaces(namespaces.map(|kind| kind.kind).collect::<Vec<_>>())
        .capabilities(capabilities)
        .cgroup(cgroup)
        .seccomp(seccomp()?)
        .apparmor(ApparmorBuilder::default().enabled(false).build()?)
        .selinux(SelinuxBuilder::default().enabled(false).build()?)
        .intel_rdt(IntelRdtBuilder::default().enabled(false).build()?)
        .mount_extensions(
            MountExtensionsBuilder::default().idmap(IDMapBuilder::default().enabled(false).build()?).build()?,
        )
        .build()?;
    FeaturesBuilder::default()
        .oci_version_min("1.0.0")
        .oci_version_max(spec::VERSION)
        .hooks(hooks::KINDS.map(|(kind, _)| kind.to_owned()).to_vec())
        .mount_options(mount_options::known())
        .linux(linux)
        .build()
}

fn seccomp() -> Result<oci_spec::runtime::Seccomp, oci_spec::OciSpecError> {
    let mut actions = vec![
        LinuxSeccompAction::ScmpActAllow,
        LinuxSeccompAction::ScmpActErrno,
        LinuxSeccompAction::ScmpActKill,
        LinuxSeccompAction::ScmpActKillThread,
        LinuxSeccompAction::ScmpActTrace,
        LinuxSeccompAction::ScmpActTrap,
    ];
    if Kernel::look().seccomp_log {
        actions.extend([LinuxSeccompAction::ScmpActKillProcess, LinuxSeccompAction::ScmpActLog]);
    }
    SeccompBuilder::default().enabled(cfg!(target_arch = "x86_64")).actions(actions).build()
}
