//! Taking a cluster down: everything that runs in its mount namespace, the Pods, the network, the remedies. It goes on
//! after an error and says the first at the end; what is gone already is fine, so it can be done again.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use procfs::process::all_processes;
use terrarium_remedies::{Isolation, Journal, POD_CGROUP_ROOT};

use crate::component::{CGROUPFS, CONTAINERD, COREDNS, GATE, KUBELET, NETD, Name, SERVER};
use crate::process::{self, wait_until};
use crate::{Error, Layout, network};

/// How long a component may take to end by itself.
const COMPONENT_GRACE: Duration = Duration::from_secs(10);

/// How long the Pods' processes may take to end by themselves.
const POD_GRACE: Duration = Duration::from_secs(2);

/// What Pods need to their end, in the order in which it is stopped.
const AFTER_PODS: [Name; 6] = [COREDNS, NETD, GATE, CONTAINERD, CGROUPFS, SERVER];

/// Stops what runs and undoes what the journal holds. Call it from inside the cluster's mount namespace, or when
/// nothing lives in it any more.
pub(crate) fn stop_cluster(layout: &Layout, journal: Option<Journal>) -> Result<(), Error> {
    let mut result = stop_service(layout, KUBELET);
    // A cluster that was given no namespaces has no Pods: those that there are, are somebody else's.
    if let Some(journal) = journal.as_ref().filter(|journal| journal.isolation() != Isolation::Nothing) {
        stop_pods();
        // The shims end with their containers; what else lives here (an import under way) has nobody to serve now.
        let services = AFTER_PODS.map(|name| process::recorded(layout, name).map(|process| process.pid));
        kill_members(journal, &services.into_iter().flatten().collect::<Vec<_>>());
    }
    for name in AFTER_PODS {
        result = result.and(stop_service(layout, name));
    }
    if let Some(journal) = journal {
        // What a service began in its last moment: containerd clears up after a shim by another process.
        wait_until(COMPONENT_GRACE, || kill_members(&journal, &[]));
        // A network namespace of the cluster's own takes all of it along.
        if journal.isolation() == Isolation::Mount {
            result = result.and(network::teardown());
        }
        result = result.and(journal.revert().map_err(Error::from));
    }
    if result.is_ok() {
        remove_runtime_files(layout)?;
    }
    result
}

/// Kills who lives in the cluster's namespaces, but for this process and these; says whether there is nobody else.
fn kill_members(journal: &Journal, spared: &[i32]) -> bool {
    let mut others = journal.members().unwrap_or_default();
    others.retain(|pid| *pid != std::process::id().cast_signed() && !spared.contains(pid));
    send(Signal::SIGKILL, &others)
}

/// Sends them a signal; says whether there is nobody.
fn send(signal: Signal, pids: &[i32]) -> bool {
    for pid in pids {
        // It may have ended by itself.
        let _ = kill(Pid::from_raw(*pid), signal);
    }
    pids.is_empty()
}

fn stop_service(layout: &Layout, name: Name) -> Result<(), Error> {
    process::recorded(layout, name).map_or(Ok(()), |process| process.stop(name, COMPONENT_GRACE))
}

/// Ends every process of every Pod: asks, waits, kills.
fn stop_pods() {
    if send(Signal::SIGTERM, &pod_processes()) || wait_until(POD_GRACE, || pod_processes().is_empty()) {
        return;
    }
    // A process may fork between the listing and the signal.
    wait_until(POD_GRACE, || send(Signal::SIGKILL, &pod_processes()));
}

/// The processes below the Pods' cgroup, told from each one's own /proc/PID/cgroup: that works from every mount
/// namespace, with the cgroup file systems mounted or not.
fn pod_processes() -> Vec<i32> {
    let root = format!("/{POD_CGROUP_ROOT}/");
    all_processes()
        .into_iter()
        .flatten()
        .filter_map(|process| {
            let process = process.ok()?;
            process.cgroups().ok()?.into_iter().any(|cgroup| cgroup.pathname.starts_with(&root)).then_some(process.pid)
        })
        .collect()
}

/// Removes the runtime directory, except the lock that is held and what the user may look at after a failure.
fn remove_runtime_files(layout: &Layout) -> Result<(), Error> {
    let kept = [
        layout.options(),
        layout.data_dir_note(),
        layout.lock(),
        layout.progress(),
        layout.record(crate::component::SUPERVISOR),
    ];
    let entries = match fs::read_dir(layout.runtime()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(Error::io("read", layout.runtime()))?,
    };
    let paths: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    for path in paths {
        if kept.iter().any(|kept| kept.starts_with(&path)) {
            continue;
        }
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(Error::io("remove", &path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::component::SUPERVISOR;

    #[test]
    fn what_tells_of_the_cluster_outlives_its_clean_up() {
        let (_root, layout) = Layout::temporary();
        let kept = [layout.lock(), layout.progress(), layout.data_dir_note(), layout.record(SUPERVISOR)];
        let gone = [layout.containerd_socket(), layout.kine_socket(), layout.cni("bin/loopback")];
        for path in kept.iter().chain(&gone) {
            fs::write(path, "").unwrap();
        }
        stop_cluster(&layout, None).unwrap();
        assert!(kept.iter().all(|path| path.exists()), "the next command finds the data directory and the reason");
        assert!(!gone.iter().any(|path| path.exists()));
        fs::remove_dir_all(layout.runtime()).unwrap();
        stop_cluster(&layout, None).unwrap();
    }
}
