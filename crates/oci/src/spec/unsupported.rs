//! What the specification has and this runtime does not do. It is refused: leaving it out would give a container that is
//! not the one that was asked for.

use oci_spec::runtime::{Process, Spec};

use crate::{Error, Result};

const WHY: &str = "is not supported";

pub(super) fn refuse(spec: &Spec) -> Result<()> {
    let given = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let linux = spec.linux().as_ref();
    let asked = [
        ("solaris", spec.solaris().is_some()),
        ("windows", spec.windows().is_some()),
        ("vm", spec.vm().is_some()),
        ("zos", spec.zos().is_some()),
        ("linux.intelRdt", linux.is_some_and(|linux| linux.intel_rdt().is_some())),
        ("linux.memoryPolicy", linux.is_some_and(|linux| linux.memory_policy().is_some())),
        ("linux.personality", linux.is_some_and(|linux| linux.personality().is_some())),
        (
            "linux.netDevices",
            linux.is_some_and(|linux| linux.net_devices().as_ref().is_some_and(|all| !all.is_empty())),
        ),
        ("linux.mountLabel", linux.is_some_and(|linux| given(linux.mount_label()))),
    ];
    refuse_asked(&asked, "")?;
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        let given = |map: &Option<Vec<_>>| map.as_ref().is_some_and(|map| !map.is_empty());
        if given(mount.uid_mappings()) || given(mount.gid_mappings()) {
            return Err(Error::spec(format!("mounts[{index}].uidMappings"), "ID-mapped mounts are not supported"));
        }
    }
    Ok(())
}

pub(super) fn refuse_of_process(process: &Process, field: &str) -> Result<()> {
    let given = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let asked = [
        ("apparmorProfile", given(process.apparmor_profile())),
        ("selinuxLabel", given(process.selinux_label())),
        ("ioPriority", process.io_priority().is_some()),
        ("scheduler", process.scheduler().is_some()),
        ("execCPUAffinity", process.exec_cpu_affinity().is_some()),
        ("commandLine", given(process.command_line())),
    ];
    refuse_asked(&asked, &format!("{field}."))
}

fn refuse_asked(asked: &[(&str, bool)], prefix: &str) -> Result<()> {
    asked
        .iter()
        .find(|(_, is_asked)| *is_asked)
        .map_or(Ok(()), |(field, _)| Err(Error::spec(format!("{prefix}{field}"), WHY)))
}
