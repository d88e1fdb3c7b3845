//! The remedies that are built, in the gap table's order.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use serde_json::json;
use terrarium_gaps::{GapId, Rung};

use crate::{Action, Remedy, Setting, Site};

/// Every remedy that is built.
pub static CATALOGUE: &[&dyn Remedy] = &[
    &SysctlOverlay,
    &CgroupMounts,
    &NoLocalStorageIsolation,
    &NullKmsg,
    &AcceptCgroupV1,
    &TmpfsDirectories,
    &NoUnprivilegedSysctls,
    &PodNetwork,
    &MachineId,
    &KubeletByAddress,
];

/// An overlay over each directory of /proc/sys that lacks something. Not over the whole of it: what works there, such
/// as net/ipv4/ip_forward, must go on reaching the kernel.
struct SysctlOverlay;

/// What the kubelet sets at its start (its container manager's kernel settings) or reads for its figures: the
/// directory, the file in it, and what the file says where the sandbox does not have it.
const SYSCTLS: &[(&str, &str, &str)] = &[
    ("vm", "overcommit_memory", "1"),
    ("vm", "panic_on_oom", "0"),
    ("kernel", "panic", "10"),
    ("kernel", "panic_on_oops", "1"),
    ("kernel", "pid_max", "4194304"),
    ("kernel", "keys/root_maxkeys", "1000000"),
    ("kernel", "keys/root_maxbytes", "25000000"),
];

const PROC_SYS: &str = "/proc/sys";

fn is_writable(path: &Path) -> bool {
    OpenOptions::new().read(true).write(true).open(path).is_ok()
}

impl Remedy for SysctlOverlay {
    fn gap(&self) -> GapId {
        GapId::ProcSys
    }

    fn rung(&self) -> Rung {
        Rung::Mount
    }

    fn plan(&self, site: &Site) -> io::Result<Vec<Action>> {
        let layers = site.runtime_dir.join("sysctl");
        let overlays: Vec<Action> =
            ["vm", "kernel"].into_iter().flat_map(|directory| sysctl_overlay(directory, &layers)).collect();
        if overlays.is_empty() {
            return Ok(overlays);
        }
        let mut actions = Action::create_dirs(&layers);
        actions.push(Action::mount("tmpfs", layers, "mode=0755,size=1m"));
        actions.extend(overlays);
        Ok(actions)
    }

    fn verify(&self) -> io::Result<()> {
        for (directory, file, _) in SYSCTLS {
            let path = Path::new(PROC_SYS).join(directory).join(file);
            let value = fs::read(&path).map_err(|error| about(&path, &error))?;
            fs::write(&path, value).map_err(|error| about(&path, &error))?;
        }
        Ok(())
    }
}

/// The overlay over one directory of /proc/sys, if it lacks something.
fn sysctl_overlay(directory: &str, layers: &Path) -> Vec<Action> {
    let lower = Path::new(PROC_SYS).join(directory);
    let upper = layers.join(directory);
    let work = layers.join(format!("{directory}.work"));
    let mut directories = BTreeSet::from([upper.clone(), work.clone()]);
    let mut files = Vec::new();
    for (_, file, default) in SYSCTLS.iter().filter(|(of, ..)| *of == directory) {
        if is_writable(&lower.join(file)) {
            continue;
        }
        // One that is there and read-only keeps its value. The copy is made here: a file of procfs says that it is
        // empty, and overlayfs may copy up no more than that.
        let content = fs::read_to_string(lower.join(file)).unwrap_or_else(|_| format!("{default}\n"));
        let path = upper.join(file);
        directories.extend(path.parent().map(Path::to_owned));
        files.push(Action::CreateFile { path, content });
    }
    if files.is_empty() {
        return files;
    }
    let options = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    let mut actions: Vec<_> = directories.into_iter().map(|path| Action::CreateDir { path }).collect();
    actions.extend(files);
    actions.push(Action::mount("overlay", lower, options));
    actions
}

/// gVisor's own cgroup v1 controllers, mounted where everyone looks for them, and in each a cgroup for the Pods.
struct CgroupMounts;

const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// The controllers, as gVisor names them.
const CONTROLLERS: &[&str] = &["cpu", "cpuacct", "cpuset", "devices", "job", "memory", "pids"];

/// The cgroup below which the kubelet keeps its Pods: what runs in it is ours.
pub const POD_CGROUP_ROOT: &str = "terrarium";

impl Remedy for CgroupMounts {
    fn gap(&self) -> GapId {
        GapId::CgroupMounts
    }

    fn rung(&self) -> Rung {
        Rung::Mount
    }

    fn plan(&self, _: &Site) -> io::Result<Vec<Action>> {
        let root = Path::new(CGROUP_ROOT);
        let mut actions = Vec::new();
        if is_cgroup_v2() {
            actions.extend(Action::create_dirs(&root.join(POD_CGROUP_ROOT)));
        } else if root.join("pids/cgroup.procs").exists() {
            for entry in fs::read_dir(root)? {
                let hierarchy = entry?.path();
                if hierarchy.join("cgroup.procs").exists() {
                    actions.extend(Action::create_dirs(&hierarchy.join(POD_CGROUP_ROOT)));
                }
            }
        } else {
            actions.extend(Action::create_dirs(root));
            actions.push(Action::mount("tmpfs", root, "mode=0755,size=1m"));
            for controller in CONTROLLERS {
                let path = root.join(controller);
                actions.push(Action::CreateDir { path: path.clone() });
                actions.push(Action::mount("cgroup", &path, *controller));
                actions.push(Action::CreateDir { path: path.join(POD_CGROUP_ROOT) });
            }
        }
        actions.push(kubelet("cgroupRoot", json!(format!("/{POD_CGROUP_ROOT}"))));
        Ok(actions)
    }

    fn verify(&self) -> io::Result<()> {
        let mut pods = vec![Path::new(CGROUP_ROOT).join(POD_CGROUP_ROOT)];
        for entry in fs::read_dir(CGROUP_ROOT)? {
            pods.push(entry?.path().join(POD_CGROUP_ROOT));
        }
        pods.retain(|cgroup| cgroup.is_dir());
        if pods.is_empty() {
            return Err(about(Path::new(CGROUP_ROOT), &io::Error::other("holds no cgroup for the Pods")));
        }
        for cgroup in pods {
            fs::read(cgroup.join("cgroup.procs")).map_err(|error| about(&cgroup, &error))?;
        }
        Ok(())
    }

    fn revert(&self, action: &Action) -> io::Result<()> {
        match action {
            Action::CreateDir { path } if path.ends_with(POD_CGROUP_ROOT) => remove_cgroups_below(path)?,
            _ => {}
        }
        action.revert()
    }
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

fn is_cgroup_v2() -> bool {
    Path::new(CGROUP_ROOT).join("cgroup.controllers").exists()
}

/// cAdvisor's figures of "/" fail as a whole where one file is absent, so the kubelet never learns the capacity of its
/// file systems, and with isolation on it refuses to run Pods.
struct NoLocalStorageIsolation;

impl Remedy for NoLocalStorageIsolation {
    fn gap(&self) -> GapId {
        GapId::CgroupStats
    }

    fn rung(&self) -> Rung {
        Rung::Flag
    }

    fn plan(&self, _: &Site) -> io::Result<Vec<Action>> {
        let complete = is_cgroup_v2() || Path::new(CGROUP_ROOT).join("cpuacct/cpuacct.usage_percpu").exists();
        // Without figures there is nothing to compare eviction's thresholds with.
        Ok(unless(complete, || {
            vec![kubelet("localStorageCapacityIsolation", json!(false)), kubelet("evictionHard", json!({}))]
        }))
    }
}

/// /dev/null in the place of the kernel's log, in which the kubelet looks for OOM kills.
struct NullKmsg;

const KMSG: &str = "/dev/kmsg";

impl Remedy for NullKmsg {
    fn gap(&self) -> GapId {
        GapId::Kmsg
    }

    fn rung(&self) -> Rung {
        Rung::Mount
    }

    fn plan(&self, _: &Site) -> io::Result<Vec<Action>> {
        Ok(unless(Path::new(KMSG).exists(), || {
            vec![
                Action::CreateFile { path: KMSG.into(), content: String::new() },
                Action::Bind { source: "/dev/null".into(), target: KMSG.into() },
            ]
        }))
    }

    fn verify(&self) -> io::Result<()> {
        fs::read(KMSG).map(drop)
    }
}

/// The kubelet refuses cgroup v1 since 1.35 unless it is told otherwise.
struct AcceptCgroupV1;

impl Remedy for AcceptCgroupV1 {
    fn gap(&self) -> GapId {
        GapId::CgroupV1
    }

    fn rung(&self) -> Rung {
        Rung::Flag
    }

    fn plan(&self, _: &Site) -> io::Result<Vec<Action>> {
        Ok(unless(is_cgroup_v2(), || vec![kubelet("failCgroupV1", json!(false))]))
    }
}

/// A tmpfs of its own on each directory in which containerd and the kubelet keep what dies with the cluster. Binds of
/// one shared tmpfs would end in "device or resource busy" on unmounting, by propagation to the twin.
struct TmpfsDirectories;

/// containerd's root and state, the directories that the kubelet names itself, and what the CNI library and mount(8)
/// write on their behalf.
const DISPOSABLE: &[&str] = &[
    "/run/containerd",
    "/run/mount",
    "/var/lib/cni",
    "/var/lib/containerd",
    "/var/lib/kubelet",
    "/var/log/containers",
    "/var/log/pods",
];

impl Remedy for TmpfsDirectories {
    fn gap(&self) -> GapId {
        GapId::OverlayOnRoot
    }

    fn rung(&self) -> Rung {
        Rung::Mount
    }

    fn plan(&self, _: &Site) -> io::Result<Vec<Action>> {
        Ok(DISPOSABLE
            .iter()
            .flat_map(|path| {
                let mut actions = Action::create_dirs(Path::new(path));
                actions.push(Action::mount("tmpfs", *path, "mode=0755"));
                actions
            })
            .collect())
    }

    fn verify(&self) -> io::Result<()> {
        for path in DISPOSABLE.iter().map(Path::new) {
            if statfs(path)?.filesystem_type() != TMPFS_MAGIC {
                return Err(about(path, &io::Error::other("is not a tmpfs")));
            }
        }
        Ok(())
    }
}

/// containerd would set these sysctls in every Pod, and refuses to start where the kernel says that it is too old.
struct NoUnprivilegedSysctls;

impl Remedy for NoUnprivilegedSysctls {
    fn gap(&self) -> GapId {
        GapId::UnprivilegedSysctls
    }

    fn rung(&self) -> Rung {
        Rung::Flag
    }

    fn plan(&self, _: &Site) -> io::Result<Vec<Action>> {
        let release = nix::sys::utsname::uname()?.release().to_string_lossy().into_owned();
        let exists = |file: &str| Path::new(PROC_SYS).join("net/ipv4").join(file).exists();
        let setting = |field: &str| Action::Configure(Setting::Containerd { field: field.to_owned(), value: false });
        let mut actions = Vec::new();
        if is_before_4_11(&release) || !exists("ip_unprivileged_port_start") {
            actions.push(setting("enable_unprivileged_ports"));
        }
        if is_before_4_11(&release) || !exists("ping_group_range") {
            actions.push(setting("enable_unprivileged_icmp"));
        }
        Ok(actions)
    }
}

/// containerd's own test (its `kernelGreaterEqualThan`), so that both say the same.
fn is_before_4_11(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < (4, 11)
}

/// What our CNI plugin changes for the whole sandbox: routing between Pods, and the lock of the legacy tables, which is
/// iptables' own and stays behind. Done ahead of it, so that it is undone with the rest.
struct PodNetwork;

const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";
const TABLE_LOCK: &str = "/run/xtables.lock";

impl Remedy for PodNetwork {
    fn gap(&self) -> GapId {
        GapId::Netfilter
    }

    fn rung(&self) -> Rung {
        Rung::Replacement
    }

    fn plan(&self, _: &Site) -> io::Result<Vec<Action>> {
        let mut actions = Vec::new();
        let before = fs::read_to_string(IP_FORWARD)?.trim().to_owned();
        if before != "1" {
            actions.push(Action::Sysctl { path: IP_FORWARD.into(), value: "1".to_owned(), before });
        }
        if !Path::new(TABLE_LOCK).exists() {
            actions.push(Action::CreateFile { path: TABLE_LOCK.into(), content: String::new() });
        }
        Ok(actions)
    }

    fn verify(&self) -> io::Result<()> {
        match fs::read_to_string(IP_FORWARD)?.trim() {
            "1" => Ok(()),
            other => {
                Err(about(Path::new(IP_FORWARD), &io::Error::other(format!("reads {other:?} after 1 was written"))))
            }
        }
    }
}

/// The machine's identity, which the kubelet reports as the node's.
struct MachineId;

const MACHINE_ID: &str = "/etc/machine-id";

impl Remedy for MachineId {
    fn gap(&self) -> GapId {
        GapId::MachineId
    }

    fn rung(&self) -> Rung {
        Rung::Mount
    }

    fn plan(&self, _: &Site) -> io::Result<Vec<Action>> {
        if Path::new(MACHINE_ID).exists() {
            return Ok(Vec::new());
        }
        let mut random = [0; 16];
        File::open("/dev/urandom")?.read_exact(&mut random)?;
        let content = format!("{:032x}\n", u128::from_be_bytes(random));
        Ok(vec![Action::CreateFile { path: PathBuf::from(MACHINE_ID), content }])
    }

    fn verify(&self) -> io::Result<()> {
        let id = fs::read_to_string(MACHINE_ID)?;
        let id = id.trim();
        if id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            Ok(())
        } else {
            Err(about(Path::new(MACHINE_ID), &io::Error::other("does not hold 32 hexadecimal digits")))
        }
    }
}

/// The API server reaches the kubelet by the node's address: nothing resolves the node's name.
struct KubeletByAddress;

impl Remedy for KubeletByAddress {
    fn gap(&self) -> GapId {
        GapId::HostnameResolution
    }

    fn rung(&self) -> Rung {
        Rung::Flag
    }

    fn plan(&self, _: &Site) -> io::Result<Vec<Action>> {
        Ok(vec![Action::Configure(Setting::ApiServer {
            flag: "--kubelet-preferred-address-types".to_owned(),
            value: "InternalIP".to_owned(),
        })])
    }
}

fn unless(fine: bool, actions: impl FnOnce() -> Vec<Action>) -> Vec<Action> {
    if fine { Vec::new() } else { actions() }
}

fn kubelet(field: &str, value: serde_json::Value) -> Action {
    Action::Configure(Setting::Kubelet { field: field.to_owned(), value })
}

fn about(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
