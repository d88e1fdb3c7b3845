//! A node where nothing can be mounted and no namespaces can be made. Its kubelet is shown what it insists on, by
//! interception alone, and becomes Ready; of Pods there can be none.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::json;
use terrarium_gaps::{Cgroups, GapId, Rung};

use crate::catalogue::{containerd, gap, in_user_namespace, intercept, kubelet, no_local_storage_isolation};
use crate::{Action, Choice, Input, Isolation, Purpose, Remedy, Setting};

/// Keeps Pods off the node, with a word that `kubectl describe pod` shows.
pub const NO_PODS_TAINT: &str = "terrarium.dev/no-pods";

/// What the kubelet looks for in mountinfo(5). Nothing is ever read or written in them.
const CONTROLLERS: [&str; 6] = ["cpu", "cpuacct", "cpuset", "devices", "memory", "pids"];

/// Where the kubelet makes entries, whatever its flags say.
const OF_KUBELET: [&str; 2] = ["/var/lib/kubelet", "/var/log/containers"];

/// What a remedy says that mounts.
const NO_MOUNTS: &str = "nothing can be mounted here";

/// Fails, with the reason, where nothing can be mounted.
pub(crate) fn with_mounts(input: &Input<'_>) -> Result<(), String> {
    if input.isolation == Isolation::Nothing { Err(NO_MOUNTS.to_owned()) } else { Ok(()) }
}

/// Fails, with the reason, where things can be mounted.
fn without_mounts(input: &Input<'_>) -> Result<(), String> {
    match with_mounts(input) {
        Ok(()) => Err("it is for sandboxes in which nothing can be mounted".to_owned()),
        Err(why) if input.choices.of(GapId::Privileges) == Some(Choice::Nothing) => Err(why),
        Err(_) => Ok(()),
    }
}

/// All but what other gaps are about.
pub(crate) struct NodeWithoutPods;

impl Remedy for NodeWithoutPods {
    fn purpose(&self) -> Purpose {
        gap(GapId::Privileges, Rung::Intercept)
    }

    fn plan(&self, input: &Input<'_>) -> Result<Vec<Action>, String> {
        without_mounts(input)?;
        let is_closed = |path: &Path| input.report.writable.get(path) == Some(&false);
        let closed = OF_KUBELET.iter().find(|path| Path::new(path).ancestors().any(is_closed));
        if let Some(closed) = closed {
            return Err(format!("the kubelet needs {closed}, which this user cannot make"));
        }
        let state = input.site.runtime_dir.join("node");
        let shown = state.join("shown");
        let mut actions: Vec<Action> = OF_KUBELET.map(|path| Action::CreateOwnDir { path: path.into() }).into();
        actions.push(Action::create_dir(&shown));
        let mut hierarchies = Vec::new();
        if hierarchies_shown(input).is_ok() {
            hierarchies = CONTROLLERS.map(|name| (name.to_owned(), shown.join(name))).to_vec();
            actions.extend(hierarchies.iter().map(|(_, path)| Action::create_dir(path)));
            let numbered = CONTROLLERS.iter().zip(1..);
            let content = numbered.map(|(name, number)| format!("{number}:{name}:/\n")).collect();
            actions.push(Action::CreateFile { path: shown.join("cgroup"), content });
            actions.push(led(input, "/proc/self/cgroup", &shown.join("cgroup"))?);
        }
        let (mountinfo, mounts) = (shown.join("mountinfo"), shown.join("mounts"));
        actions.extend([
            led(input, "/proc/self/mountinfo", &mountinfo)?,
            led(input, "/proc/thread-self/mountinfo", &mountinfo)?,
            led(input, "/proc/mounts", &mounts)?,
            Action::CreateMountTables { mountinfo, mounts, hierarchies },
            Action::Configure(Setting::UncheckedCgroupFiles),
            in_user_namespace(),
            kubelet("cgroupsPerQOS", json!(false)),
            kubelet("enforceNodeAllocatable", json!([])),
            kubelet("podLogsDir", json!(state.join("pod-logs"))),
            kubelet("registerWithTaints", json!([{"key": NO_PODS_TAINT, "effect": "NoSchedule"}])),
            containerd("restrict_oom_score_adj", true),
            containerd("disable_apparmor", true),
            Action::Configure(Setting::WithoutMounts { state }),
        ]);
        // There are no figures of anything.
        actions.extend(no_local_storage_isolation());
        Ok(actions)
    }
}

/// A part of a node without Pods that closes another gap.
pub(crate) struct WithoutMounts {
    pub gap: GapId,
    pub rung: Rung,
    pub actions: fn(&Input<'_>) -> Result<Vec<Action>, String>,
}

impl Remedy for WithoutMounts {
    fn purpose(&self) -> Purpose {
        gap(self.gap, self.rung)
    }

    fn plan(&self, input: &Input<'_>) -> Result<Vec<Action>, String> {
        without_mounts(input)?;
        (self.actions)(input)
    }
}

/// What there is to do is a part of the node's.
pub(crate) fn hierarchies_shown(input: &Input<'_>) -> Result<Vec<Action>, String> {
    match (&input.report.cgroups, input.choices.of(GapId::CgroupMounts)) {
        (_, Some(Choice::Nothing)) => Err("left open, as asked for".to_owned()),
        (Cgroups::Unmounted { .. }, _) => Ok(Vec::new()),
        (Cgroups::V1 { .. } | Cgroups::V2(_), _) => {
            Err("the hierarchies are mounted, and no cgroup can be made".to_owned())
        }
    }
}

/// /dev/null in the place of the kernel's log.
pub(crate) fn kmsg_led_to_null(input: &Input<'_>) -> Result<Vec<Action>, String> {
    led(input, "/dev/kmsg", Path::new("/dev/null")).map(|one| vec![one])
}

fn led(input: &Input<'_>, from: &str, to: &Path) -> Result<Action, String> {
    intercept(input, "redirect", json!({"from": from, "to": to}))
}

/// mountinfo(5) and /proc/mounts as they are, with hierarchies of cgroups beside. And every mount shares what is mounted
/// below it: the kubelet would bind its directory to itself for that.
pub(crate) fn mount_tables(
    mountinfo: &str,
    mounts: &str,
    hierarchies: &[(String, PathBuf)],
) -> io::Result<(String, String)> {
    let mut table: String = mountinfo
        .lines()
        .map(|line| match line.contains(" shared:") {
            true => format!("{line}\n"),
            false => line.replacen(" - ", " shared:1 - ", 1) + "\n",
        })
        .collect();
    let mut short = mounts.to_owned();
    let field = |line: &str, index: usize| line.split(' ').nth(index).map(str::to_owned);
    let numbers = |index: usize, part: fn(&str) -> Option<u32>| {
        mountinfo.lines().filter_map(|line| part(&field(line, index)?)).max().unwrap_or_default()
    };
    let last = numbers(0, |id| id.parse().ok());
    let last_device = numbers(2, |device| device.strip_prefix("0:")?.parse().ok());
    let root = mountinfo.lines().rfind(|line| field(line, 4).as_deref() == Some("/"));
    let root = root.and_then(|line| field(line, 0)).ok_or_else(|| io::Error::other("mountinfo does not tell /"))?;
    for ((controller, path), number) in hierarchies.iter().zip(1..) {
        let path = path.to_string_lossy().replace('\\', "\\134").replace(' ', "\\040");
        let (id, device) = (last + number, last_device + number);
        table += &format!("{id} {root} 0:{device} / {path} rw - cgroup none rw,{controller}\n");
        short += &format!("none {path} cgroup rw,{controller} 0 0\n");
    }
    Ok((table, short))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_have_what_is_mounted_and_what_is_not() {
        let mountinfo = "16 15 0:17 / / rw - 9p none rw\n18 16 0:19 / /dev rw shared:7 - dev none rw\n";
        let hierarchies = [("cpu".to_owned(), PathBuf::from("/my run/cpu"))];
        let (mountinfo, mounts) = mount_tables(mountinfo, "none / 9p rw 0 0\n", &hierarchies).unwrap();
        assert_eq!(
            mountinfo,
            "16 15 0:17 / / rw shared:1 - 9p none rw\n18 16 0:19 / /dev rw shared:7 - dev none rw\n\
             19 16 0:20 / /my\\040run/cpu rw - cgroup none rw,cpu\n"
        );
        assert_eq!(mounts, "none / 9p rw 0 0\nnone /my\\040run/cpu cgroup rw,cpu 0 0\n");
        assert!(mount_tables("", "", &[]).is_err());
    }
}
