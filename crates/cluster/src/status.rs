//! What a cluster is doing, read from its processes and files, never from memory of what was.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::SystemTime;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ListParams;
use kube::{Api, Client};
use procfs::process::all_processes;
use serde::Serialize;
pub use terrarium_intercept::Stats;
use terrarium_remedies::Journal;

use crate::component::{self, GATE, GUARDIAN, KUBELET, SERVER, SUPERVISOR};
use crate::events::Events;
pub use crate::history::End;
use crate::history::History;
use crate::{Addon, Error, Event, Layout, Options, gate, interception, process, readiness};

/// The state of a cluster.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Whether all components but the add-ons run and the API is ready.
    pub running: bool,
    /// The data directory.
    pub data_dir: PathBuf,
    /// Guardian, supervisor and the components.
    pub components: Vec<ComponentStatus>,
    /// Whether the API server says that it is ready.
    pub api_ready: bool,
    /// The nodes, as the API has them.
    pub nodes: Vec<NodeStatus>,
    /// How many Pods are in each phase.
    pub pods: BTreeMap<String, usize>,
    /// The resident set of all processes of the cluster, Pods included, in bytes.
    pub resident_bytes: u64,
    /// How long the last start took.
    pub startup: Startup,
}

/// The state of a component.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ComponentStatus {
    /// Its name.
    pub name: &'static str,
    /// Its process, if it runs.
    pub pid: Option<i32>,
    /// Its resident set, in bytes.
    pub resident_bytes: u64,
    /// How often it was started again since the cluster started.
    pub restarts: u32,
    /// How its process ended the last time, if it did.
    pub last_end: Option<End>,
    /// How long it is still left alone before it is started again, in seconds.
    pub back_off_seconds: Option<f64>,
    /// Why it is not well although its process lives.
    pub unhealthy: Option<String>,
    /// How often each rule changed a system call of it, where some are intercepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intercept: Option<Stats>,
}

impl ComponentStatus {
    fn look(layout: &Layout, name: &'static str) -> Self {
        let process = process::recorded(layout, name);
        let history = History::load(layout, name);
        let back_off = history.back_off(SystemTime::now()).filter(|_| process.is_none());
        Self {
            name,
            pid: process.as_ref().map(|process| process.pid),
            resident_bytes: process.map_or(0, |process| process.resident_bytes()),
            restarts: history.restarts,
            back_off_seconds: back_off.map(|left| left.as_secs_f64()),
            unhealthy: history.unhealthy,
            last_end: history.last_end,
            intercept: interception::figures(layout, name),
        }
    }
}

/// The state of a node.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Whether it is Ready.
    pub ready: bool,
    /// Its kubelet's version.
    pub version: String,
}

/// Seconds from `terrarium up` to each moment of the last start.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Startup {
    /// The API was ready.
    pub api_seconds: Option<f64>,
    /// The node was Ready.
    pub node_seconds: Option<f64>,
    /// Everything was.
    pub up_seconds: Option<f64>,
}

/// Whether the process that serves the API runs.
#[must_use]
pub fn server_runs(layout: &Layout) -> bool {
    process::recorded(layout, SERVER).is_some()
}

/// Looks at the cluster.
///
/// # Errors
/// Files that are there cannot be read. A cluster that does not answer is a state, not an error.
pub fn look(layout: &Layout) -> Result<Status, Error> {
    let options = Options::kept(layout)?.unwrap_or_default();
    let gate = gate::is_needed(layout)?.then_some(GATE);
    let settings = component::settings_here(layout)?;
    let services = options.services().into_iter().filter(|name| component::is_part(name, &settings));
    let names = [GUARDIAN, SUPERVISOR].into_iter().chain(gate).chain(services);
    let components: Vec<ComponentStatus> = names.map(|name| ComponentStatus::look(layout, name)).collect();
    let (api_ready, nodes, pods) =
        if server_runs(layout) { ask_api(layout) } else { (false, Vec::new(), BTreeMap::new()) };
    let runs = |component: &ComponentStatus| component.pid.is_some() || Addon::of(component.name).is_some();
    Ok(Status {
        running: api_ready && components.iter().all(runs),
        data_dir: layout.data().to_owned(),
        components,
        api_ready,
        nodes,
        pods,
        resident_bytes: resident_bytes(layout)?,
        startup: startup(layout),
    })
}

fn ask_api(layout: &Layout) -> (bool, Vec<NodeStatus>, BTreeMap<String, usize>) {
    let silent = (false, Vec::new(), BTreeMap::new());
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return silent };
    let ask = async {
        let client: Client = readiness::client(layout).await?;
        let list = ListParams::default();
        let api_error = |error| Error::Api(Box::new(error));
        let nodes = Api::<Node>::all(client.clone()).list(&list).await.map_err(api_error)?;
        let pods = Api::<Pod>::all(client.clone()).list(&list).await.map_err(api_error)?;
        let ready = readiness::is_ready(&component::Readiness::Api, &client, SystemTime::now()).await;
        Ok::<_, Error>((ready, nodes.items, pods.items))
    };
    let limited = async { tokio::time::timeout(std::time::Duration::from_secs(5), ask).await };
    let Ok(Ok((ready, nodes, pods))) = runtime.block_on(limited) else { return silent };
    let nodes = nodes
        .into_iter()
        .map(|node| NodeStatus {
            ready: readiness::is_node_ready(&node, SystemTime::UNIX_EPOCH),
            version: node
                .status
                .and_then(|status| status.node_info)
                .map(|info| info.kubelet_version)
                .unwrap_or_default(),
            name: node.metadata.name.unwrap_or_default(),
        })
        .collect();
    let mut phases = BTreeMap::new();
    for phase in pods.into_iter().filter_map(|pod| pod.status?.phase) {
        *phases.entry(phase).or_default() += 1;
    }
    (ready, nodes, phases)
}

/// The guardian, the gate and the processes in the cluster's mount namespace, and their descendants: a container has a mount namespace of its own,
/// and its shim for an ancestor.
fn resident_bytes(layout: &Layout) -> Result<u64, Error> {
    let Some(journal) = Journal::open(&layout.journal())? else { return Ok(0) };
    let mut ours: BTreeSet<i32> = journal.members().unwrap_or_default().into_iter().collect();
    ours.extend([GUARDIAN, GATE].into_iter().filter_map(|name| Some(process::recorded(layout, name)?.pid)));
    let parents: Vec<(i32, i32)> = all_processes()
        .into_iter()
        .flatten()
        .filter_map(|process| process.ok()?.stat().ok())
        .map(|stat| (stat.pid, stat.ppid))
        .collect();
    loop {
        let children: Vec<i32> = parents
            .iter()
            .filter(|(pid, parent)| ours.contains(parent) && !ours.contains(pid))
            .map(|(pid, _)| *pid)
            .collect();
        if children.is_empty() {
            break;
        }
        ours.extend(children);
    }
    Ok(ours.into_iter().map(process::resident_bytes).sum())
}

fn startup(layout: &Layout) -> Startup {
    let mut startup = Startup::default();
    let Ok(Some(mut events)) = Events::open(layout) else { return startup };
    while let Some(event) = events.next() {
        match event {
            Event::Ready { step, seconds } if step == SERVER => startup.api_seconds = Some(seconds),
            Event::Ready { step, seconds } if step == KUBELET => startup.node_seconds = Some(seconds),
            Event::Up { seconds } => startup.up_seconds = Some(seconds),
            _ => {}
        }
    }
    startup
}
