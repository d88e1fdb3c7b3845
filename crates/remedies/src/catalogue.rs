//! The remedies and preparations that are built, in the order in which they are applied: a later one may rest on an
//! earlier one. Of several for one gap the cheapest comes first.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;

use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use serde_json::json;
use terrarium_gaps::{GapId, MACHINE_ID, Rung, SYSCTLS, Sysctl, is_machine_id};

use crate::cgroups::{CgroupFiles, CgroupMounts, MemoryGuard, PodCgroups, RewrittenMagic, UncheckedCgroupFiles};
use crate::pod_network::{LocalPorts, NODE_ADDRESS, PodNetwork, SharedNetwork};
use crate::without_mounts::{NodeWithoutPods, WithoutMounts, hierarchies_shown, kmsg_led_to_null, with_mounts};
use crate::{Action, Input, Isolation, Preparation, Purpose, Remedy, Setting};

/// Every remedy that is built.
pub static CATALOGUE: &[&dyn Remedy] = &[
    &OwnNamespaces,
    &NodeWithoutPods,
    &TmpfsForImages,
    &WithoutMounts { gap: GapId::OverlayOnRoot, rung: Rung::Flag, actions: |_| Ok(Vec::new()) },
    &Directories,
    &SysctlOverlay,
    &RedirectedSysctls,
    &CgroupMounts,
    &WithoutMounts { gap: GapId::CgroupMounts, rung: Rung::Intercept, actions: hierarchies_shown },
    &PodCgroups,
    &CgroupFiles,
    &Fixed { gap: GapId::CgroupStats, rung: Rung::Flag, actions: no_local_storage_isolation },
    &UncheckedCgroupFiles,
    &RewrittenMagic,
    &MemoryGuard,
    &NoKmsg,
    &NullKmsg,
    &WithoutMounts { gap: GapId::Kmsg, rung: Rung::Intercept, actions: kmsg_led_to_null },
    &Fixed { gap: GapId::CgroupV1, rung: Rung::Flag, actions: accept_cgroup_v1 },
    &NoUnprivilegedSysctls,
    &LoopbackAddress,
    &SharedNetwork,
    &PodNetwork,
    &LocalPorts,
    &MachineId,
    &Fixed { gap: GapId::HostnameResolution, rung: Rung::Flag, actions: kubelet_by_address },
    &shipped(GapId::LinkKind, Rung::Replacement),
    &shipped(GapId::DevicelessRoute, Rung::Replacement),
    &shipped(GapId::Netfilter, Rung::Replacement),
    &shipped(GapId::OciRuntime, Rung::Replacement),
    &shipped(GapId::LinkMonitor, Rung::Replacement),
];

pub(crate) const fn gap(gap: GapId, rung: Rung) -> Purpose {
    Purpose::Gap { gap, rung }
}

pub(crate) const fn preparation(preparation: Preparation) -> Purpose {
    Purpose::Preparation { preparation }
}

/// Devices are refused on whatever is mounted in a user namespace, and nothing need be made here.
const DEVICES: &str = "/dev";

/// Others may have mounted files here, as Docker does, which an overlay would not show.
const CONFIGURATION: &str = "/etc";

/// User, mount and network namespaces of the cluster's own. Entering them is the supervisor's; here is what follows.
struct OwnNamespaces;

impl Remedy for OwnNamespaces {
    fn purpose(&self) -> Purpose {
        gap(GapId::Privileges, Rung::Namespace)
    }

    fn plan(&self, input: &Input<'_>) -> Result<Vec<Action>, String> {
        if let Some(why) = input.report.rights.user_namespace.why() {
            return Err(format!("user namespaces are refused here: {why}"));
        }
        let layers = input.site.runtime_dir.join("layers");
        // Where new entries are refused, an overlay takes them: its root has its upper layer's owner, who is the cluster's.
        let closed: Vec<_> = input
            .report
            .writable
            .iter()
            .filter(|(path, writable)| {
                !**writable && ![DEVICES, CONFIGURATION].map(Path::new).contains(&path.as_path())
            })
            .map(|(path, _)| path)
            .collect();
        for ours in [&input.site.data_dir, &input.site.runtime_dir] {
            if let Some(above) = closed.iter().find(|above| ours.starts_with(above)) {
                return Err(format!(
                    "{} lies below {}, over which an overlay must go: name another place with --data-dir",
                    ours.display(),
                    above.display()
                ));
            }
        }
        let mut actions = Vec::new();
        if !closed.is_empty() {
            actions.extend([Action::create_dir(&layers), Action::mount("tmpfs", &layers, "mode=0755")]);
        }
        for lower in closed {
            let name = lower.to_string_lossy().trim_matches('/').replace('/', "-");
            actions.extend(overlay(lower, &layers, &name));
        }
        actions.extend([
            in_user_namespace(),
            containerd("restrict_oom_score_adj", true),
            containerd("disable_apparmor", true),
        ]);
        Ok(actions)
    }
}

pub(crate) fn in_user_namespace() -> Action {
    kubelet("featureGates", json!({"KubeletInUserNamespace": true}))
}

/// An overlay over a directory, with new layers for it in `layers`.
fn overlay(lower: &Path, layers: &Path, name: &str) -> [Action; 3] {
    let (upper, work) = (layers.join(name), layers.join(format!("{name}.work")));
    let options = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    [Action::create_dir(upper), Action::create_dir(work), Action::mount("overlay", lower, options)]
}

/// A tmpfs of its own on each directory in which containerd and the kubelet keep what dies with the cluster. Binds of
/// one shared tmpfs would end in "device or resource busy" on unmounting, by propagation to the twin.
struct Directories;

/// containerd's state, the directories that the kubelet names itself, and what the CNI library and mount(8) write on
/// their behalf.
const DISPOSABLE: &[&str] =
    &["/run/containerd", "/run/mount", "/var/lib/cni", "/var/lib/kubelet", "/var/log/containers", "/var/log/pods"];

/// containerd's root: images and snapshots.
const IMAGES: &str = "/var/lib/containerd";

/// As large as tmpfs(5) has it where nothing is said; said, because the kubelet compares what is free with it, and not every
/// kernel tells a size of its own choice.
fn tmpfs_on(path: &str) -> [Action; 2] {
    [Action::create_dir(path), Action::mount("tmpfs", path, "mode=0755,size=50%")]
}

fn is_tmpfs(path: &str) -> io::Result<()> {
    let path = Path::new(path);
    match statfs(path)?.filesystem_type() {
        TMPFS_MAGIC => Ok(()),
        _ => Err(about(path, &io::Error::other("is not a tmpfs"))),
    }
}

impl Remedy for Directories {
    fn purpose(&self) -> Purpose {
        preparation(Preparation::Directories)
    }

    fn does(&self) -> String {
        "a tmpfs of its own on each directory of what dies with the cluster".to_owned()
    }

    fn plan(&self, input: &Input<'_>) -> Result<Vec<Action>, String> {
        with_mounts(input)?;
        let mut actions: Vec<Action> = DISPOSABLE.iter().flat_map(|path| tmpfs_on(path)).collect();
        if !input.report.has(GapId::OverlayOnRoot) {
            actions.extend(tmpfs_on(IMAGES));
        }
        Ok(actions)
    }

    fn verify(&self) -> io::Result<()> {
        DISPOSABLE.iter().try_for_each(|path| is_tmpfs(path))
    }
}

/// containerd's snapshots are overlays, and their layers need a file system that overlayfs takes.
struct TmpfsForImages;

impl Remedy for TmpfsForImages {
    fn purpose(&self) -> Purpose {
        gap(GapId::OverlayOnRoot, Rung::Mount)
    }

    fn plan(&self, input: &Input<'_>) -> Result<Vec<Action>, String> {
        with_mounts(input)?;
        match input.report.overlay_on_tmpfs.why() {
            None => Ok(tmpfs_on(IMAGES).to_vec()),
            Some(why) => Err(format!("overlayfs does not take a tmpfs either: {why}")),
        }
    }

    fn verify(&self) -> io::Result<()> {
        is_tmpfs(IMAGES)
    }
}

/// An overlay over each directory of /proc/sys that lacks something. Not over the whole of it: what works there, such
/// as net/ipv4/ip_forward, must go on reaching the kernel.
struct SysctlOverlay;

const PROC_SYS: &str = "/proc/sys";

impl Remedy for SysctlOverlay {
    fn purpose(&self) -> Purpose {
        gap(GapId::ProcSys, Rung::Mount)
    }

    fn plan(&self, input: &Input<'_>) -> Result<Vec<Action>, String> {
        with_mounts(input)?;
        if let Some(why) = input.report.sysctl_overlay.why() {
            return Err(format!("an overlay over /proc/sys is refused: {why}"));
        }
        let layers = input.site.runtime_dir.join("sysctl");
        let mut actions = vec![Action::create_dir(&layers), Action::mount("tmpfs", &layers, "mode=0755,size=1m")];
        let directories: BTreeSet<&str> =
            SYSCTLS.iter().filter_map(|(path, _)| Some(path.split_once('/')?.0)).collect();
        for directory in directories {
            let upper = layers.join(directory);
            let mut parents = BTreeSet::new();
            let mut files = Vec::new();
            for (path, content) in missing_sysctls(input).filter(|(path, _)| path.starts_with(&format!("{directory}/")))
            {
                let path = layers.join(path);
                parents.extend(path.parent().filter(|parent| *parent != upper).map(Path::to_owned));
                files.push(Action::CreateFile { path, content });
            }
            if files.is_empty() {
                continue;
            }
            let [make_upper, make_work, mount] = overlay(&Path::new(PROC_SYS).join(directory), &layers, directory);
            actions.extend([make_upper, make_work]);
            actions.extend(parents.into_iter().map(Action::create_dir));
            actions.extend(files);
            actions.push(mount);
        }
        Ok(actions)
    }

    fn verify(&self) -> io::Result<()> {
        for path in SYSCTLS.iter().map(|(path, _)| Path::new(PROC_SYS).join(path)) {
            let value = fs::read(&path).map_err(|error| about(&path, &error))?;
            let mut file = OpenOptions::new().write(true).open(&path).map_err(|error| about(&path, &error))?;
            io::Write::write_all(&mut file, &value).map_err(|error| about(&path, &error))?;
        }
        Ok(())
    }
}

/// The kubelet looks for OOM kills in the kernel's log, and in a user namespace does without.
struct NoKmsg;

impl Remedy for NoKmsg {
    fn purpose(&self) -> Purpose {
        gap(GapId::Kmsg, Rung::Flag)
    }

    fn plan(&self, input: &Input<'_>) -> Result<Vec<Action>, String> {
        match input.isolation {
            Isolation::User { .. } => Ok(vec![in_user_namespace()]),
            Isolation::Mount | Isolation::Nothing => {
                Err("outside of a user namespace the kubelet insists on it".to_owned())
            }
        }
    }
}

/// /dev/null in the place of the kernel's log, in which the kubelet looks for OOM kills.
struct NullKmsg;

const KMSG: &str = "/dev/kmsg";

impl Remedy for NullKmsg {
    fn purpose(&self) -> Purpose {
        gap(GapId::Kmsg, Rung::Mount)
    }

    fn plan(&self, input: &Input<'_>) -> Result<Vec<Action>, String> {
        with_mounts(input)?;
        Ok(vec![
            Action::CreateMountPoint { path: KMSG.into() },
            Action::Bind { source: "/dev/null".into(), target: KMSG.into() },
        ])
    }

    fn verify(&self) -> io::Result<()> {
        fs::read(KMSG).map(drop)
    }
}

/// containerd would set these sysctls in every Pod, and refuses to start where the kernel says that it is too old.
struct NoUnprivilegedSysctls;

impl Remedy for NoUnprivilegedSysctls {
    fn purpose(&self) -> Purpose {
        gap(GapId::UnprivilegedSysctls, Rung::Flag)
    }

    fn plan(&self, input: &Input<'_>) -> Result<Vec<Action>, String> {
        let report = input.report;
        let fields = [
            ("enable_unprivileged_ports", &report.unprivileged_ports),
            ("enable_unprivileged_icmp", &report.unprivileged_icmp),
        ];
        Ok(fields.into_iter().filter(|(_, tried)| !tried.works()).map(|(field, _)| containerd(field, false)).collect())
    }
}

/// The sysctls that the sandbox lacks, by their paths below /proc/sys, and what a file in their place holds.
fn missing_sysctls<'a>(input: &Input<'a>) -> impl Iterator<Item = (&'static str, String)> + use<'a> {
    let report = input.report;
    SYSCTLS.iter().filter_map(|(path, default)| match report.sysctls.get(*path)? {
        // The copy is made here: a file of procfs says that it is empty, and overlayfs may copy up no more.
        Sysctl::ReadOnly(value) => Some((*path, format!("{value}\n"))),
        Sysctl::Absent => Some((*path, format!("{default}\n"))),
        Sysctl::Writable => None,
    })
}

/// The same files where no mount is to show them: the kubelet's calls are led to them.
struct RedirectedSysctls;

impl Remedy for RedirectedSysctls {
    fn purpose(&self) -> Purpose {
        gap(GapId::ProcSys, Rung::Intercept)
    }

    fn plan(&self, input: &Input<'_>) -> Result<Vec<Action>, String> {
        let files = input.site.runtime_dir.join("sysctl");
        let mut actions = vec![Action::create_dir(&files)];
        let mut parents = BTreeSet::new();
        for (path, content) in missing_sysctls(input) {
            let to = files.join(path);
            if let Some(parent) = to.parent().map(Path::to_owned)
                && parents.insert(parent.clone())
            {
                actions.push(Action::create_dir(parent));
            }
            actions.push(Action::CreateFile { path: to.clone(), content });
            let from = Path::new(PROC_SYS).join(path);
            // No other of its calls has to stop: it opens them, and looks at files of others all the time.
            actions.push(intercept(input, "redirect", json!({"from": from, "to": to, "calls": ["openat"]}))?);
        }
        Ok(actions)
    }
}

/// A rule for the kubelet's system calls.
///
/// # Errors
/// They cannot be intercepted here.
pub(crate) fn intercept(input: &Input<'_>, list: &str, rule: serde_json::Value) -> Result<Action, String> {
    match input.report.intercept.why() {
        Some(why) => Err(format!("system calls cannot be intercepted: {why}")),
        None => Ok(Action::Configure(Setting::Intercept { list: list.to_owned(), rule })),
    }
}

/// The machine's identity, which the kubelet reports as the node's.
struct MachineId;

impl Remedy for MachineId {
    fn purpose(&self) -> Purpose {
        gap(GapId::MachineId, Rung::Mount)
    }

    fn plan(&self, input: &Input<'_>) -> Result<Vec<Action>, String> {
        with_mounts(input)?;
        if let Some(false) = input.report.writable.get(Path::new(CONFIGURATION)) {
            return Err(format!("new entries are refused in {CONFIGURATION}"));
        }
        // Bound over what may be there: an image may have an empty one.
        let made = input.site.runtime_dir.join("machine-id");
        Ok(vec![
            Action::create_dir(&input.site.runtime_dir),
            Action::CreateMachineId { path: made.clone() },
            Action::CreateMountPoint { path: MACHINE_ID.into() },
            Action::Bind { source: made, target: MACHINE_ID.into() },
        ])
    }

    fn verify(&self) -> io::Result<()> {
        if is_machine_id(&fs::read_to_string(MACHINE_ID)?) {
            Ok(())
        } else {
            Err(about(Path::new(MACHINE_ID), &io::Error::other("does not hold 32 hexadecimal digits")))
        }
    }
}

/// A remedy that is the same in every sandbox, and has nothing to try before the components run.
struct Fixed {
    gap: GapId,
    rung: Rung,
    actions: fn() -> Vec<Action>,
}

impl Remedy for Fixed {
    fn purpose(&self) -> Purpose {
        gap(self.gap, self.rung)
    }

    fn plan(&self, _: &Input<'_>) -> Result<Vec<Action>, String> {
        Ok((self.actions)())
    }
}

/// A part that terrarium ships and always uses: there is nothing to do but to say so.
const fn shipped(gap: GapId, rung: Rung) -> Fixed {
    Fixed { gap, rung, actions: Vec::new }
}

/// cAdvisor's figures of "/" fail as a whole where one file is absent, so the kubelet never learns the capacity of its
/// file systems, and with isolation on it refuses to run Pods. Without figures there is nothing to compare eviction's
/// thresholds with, either.
pub(crate) fn no_local_storage_isolation() -> Vec<Action> {
    vec![kubelet("localStorageCapacityIsolation", json!(false)), kubelet("evictionHard", json!({}))]
}

/// The kubelet refuses cgroup v1 since 1.35 unless it is told otherwise.
fn accept_cgroup_v1() -> Vec<Action> {
    vec![kubelet("failCgroupV1", json!(false))]
}

/// An address of the node's own on the loopback device.
struct LoopbackAddress;

impl Remedy for LoopbackAddress {
    fn purpose(&self) -> Purpose {
        gap(GapId::NodeAddress, Rung::Flag)
    }

    fn plan(&self, input: &Input<'_>) -> Result<Vec<Action>, String> {
        // In namespaces of the cluster's own it has the right.
        if input.isolation == Isolation::Nothing && !input.report.rights.capabilities.contains("CAP_NET_ADMIN") {
            return Err("without CAP_NET_ADMIN no device can be given an address".to_owned());
        }
        Ok(vec![Action::Address { address: NODE_ADDRESS.into() }])
    }
}

/// The API server reaches the kubelet by the node's address: nothing resolves the node's name.
fn kubelet_by_address() -> Vec<Action> {
    let (flag, value) = ("--kubelet-preferred-address-types".to_owned(), "InternalIP".to_owned());
    vec![Action::Configure(Setting::ApiServer { flag, value })]
}

pub(crate) fn kubelet(field: &str, value: serde_json::Value) -> Action {
    Action::Configure(Setting::Kubelet { field: field.to_owned(), value })
}

pub(crate) fn containerd(field: &str, value: bool) -> Action {
    Action::Configure(Setting::Containerd { field: field.to_owned(), value })
}

pub(crate) fn about(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
