//! The network's whole path, tried by Pods that are made for it: the first leg that fails is where it breaks.
//!
//! What a leg needs from the node is tried by a Pod on the node's network, so that it works from wherever the caller
//! stands, and where no program can be run in a container: results come by the containers' logs.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::serde_json::{Value, from_value, json};
use kube::api::{DeleteParams, ListParams, LogParams, PostParams};
use kube::{Api, Client};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{sleep, timeout};

use crate::config::Network;
use crate::{Error, Layout, readiness, status};
use terrarium_probes::Resolver;
use terrarium_remedies::Journal;

/// The image that Pods are made of; every start imports it.
const IMAGE: &str = concat!("localhost/terrarium/sample:", env!("CARGO_PKG_VERSION"));

/// What marks the namespaces that are made here, so that one that was left behind is found.
const LABEL: &str = "terrarium.dev/doctor";

/// How long Pods may take to start, and to end.
const LIMIT: Duration = Duration::from_secs(60);

/// How long a leg may take to come up: rules and endpoints follow Pods in their own time.
const WITHIN: &str = "10s";

const INTERVAL: Duration = Duration::from_millis(100);

/// One leg of the path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Leg {
    /// From where to where.
    pub name: &'static str,
    /// Whether it works.
    pub works: bool,
    /// How long it took, or why it does not work.
    pub found: String,
    /// Whose matter it is, and where to look on.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub hint: &'static str,
}

const PODS: &str =
    "Pods do not start or do not end: see `terrarium status`, `terrarium logs kubelet`, and `terrarium doctor`";
const LINKS: &str = "a Pod's link or its route on the node: see `terrarium logs containerd` and `ip route`";
const ROUTES: &str = "the node does not route between Pods, or a policy is in the way: see `terrarium doctor`";
const PROXY: &str = "the Service proxy: see `terrarium logs netd` and `iptables-legacy -t nat -S`";
const DNS: &str = "the name server: see `terrarium logs coredns`";
const EGRESS: &str = "the way out for Pods, by SNAT or by the gate: see `terrarium logs netd` and `terrarium doctor`";

/// The legs, in the order in which they rest on one another: who tries it, its name, and whose matter it is.
const LEGS: &[(Tester, &str, &str)] = &[
    (Tester::Node, "node to Pod", LINKS),
    (Tester::Node, "node to Service", PROXY),
    (Tester::Node, "node to node port", PROXY),
    (Tester::Node, "node to name server", DNS),
    (Tester::Pod, "Pod to Pod", ROUTES),
    (Tester::Pod, "Pod to node", PROXY),
    (Tester::Pod, "Pod to Service", PROXY),
    (Tester::Pod, "Pod to node port", PROXY),
    (Tester::Itself, "Pod to itself by its Service", PROXY),
    (Tester::Pod, "Pod to API", PROXY),
    (Tester::Pod, "Pod to name server", DNS),
    (Tester::Pod, "Pod to name server over TCP", DNS),
    (Tester::Pod, "Pod to Service by name", DNS),
    (Tester::Pod, OUTSIDE, EGRESS),
];

/// Only where the sandbox itself reaches an address outside.
const OUTSIDE: &str = "Pod to outside";

/// The container that tries a leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Tester {
    /// On the node's network.
    Node,
    /// In a Pod of its own.
    Pod,
    /// In the Pod that serves.
    Itself,
}

impl Tester {
    const ALL: [Self; 3] = [Self::Node, Self::Pod, Self::Itself];

    fn pod(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Pod => "client",
            Self::Itself => "server",
        }
    }
}

/// Tries every leg; takes a few seconds.
///
/// # Errors
/// No cluster runs, or its API refuses.
pub fn check_network(layout: &Layout) -> Result<Vec<Leg>, Error> {
    if !status::server_runs(layout) {
        return Err(Error::NotRunning);
    }
    let journal = Journal::open(&layout.journal())?.ok_or(Error::NotRunning)?;
    let network = Network::of(journal.settings());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::io("start the event loop of", "the network check"))?;
    runtime.block_on(async {
        let client = readiness::client(layout).await?;
        let namespaces = Api::<Namespace>::all(client.clone());
        let api = |error| Error::Api(Box::new(error));
        remove_left_behind(&namespaces).await.map_err(api)?;
        let wanted = object(json!({"metadata": {"generateName": "terrarium-doctor-", "labels": {LABEL: ""}}}));
        let namespace: Namespace = namespaces.create(&PostParams::default(), &wanted).await.map_err(api)?;
        let name = namespace.metadata.name.unwrap_or_default();
        let legs = Check { client, network, namespace: name.clone() }.run().await;
        let removed = namespaces.delete(&name, &DeleteParams::default()).await;
        let legs = legs.map_err(api)?;
        removed.map(drop).map_err(api)?;
        Ok(legs)
    })
}

/// What an interrupted check left.
async fn remove_left_behind(namespaces: &Api<Namespace>) -> Result<(), kube::Error> {
    for left in namespaces.list(&ListParams::default().labels(LABEL)).await? {
        if left.metadata.deletion_timestamp.is_none() {
            namespaces.delete(&left.metadata.name.unwrap_or_default(), &DeleteParams::default()).await?;
        }
    }
    Ok(())
}

struct Check {
    client: Client,
    network: Network,
    namespace: String,
}

impl Check {
    async fn run(&self) -> Result<Vec<Leg>, kube::Error> {
        let services = Api::<Service>::namespaced(self.client.clone(), &self.namespace);
        let service = object(json!({
            "metadata": {"name": "server"},
            // The Pod behind it is not ready once one of its containers has ended.
            "spec": {"type": "NodePort", "selector": {"app": "server"}, "publishNotReadyAddresses": true,
                "ports": [{"port": 80, "targetPort": 8080}]},
        }));
        let service: Service = services.create(&PostParams::default(), &service).await?;
        let spec = service.spec.unwrap_or_default();
        let cluster_ip = spec.cluster_ip.unwrap_or_default();
        let node_port = spec.ports.iter().flatten().find_map(|port| port.node_port).unwrap_or_default();

        let serve = json!({"name": "serve", "image": IMAGE});
        let by_service = reach(&[("Pod to itself by its Service", format!("http://{cluster_ip}/healthz"))]);
        self.start(Tester::Itself.pod(), json!({"containers": [serve, by_service]})).await?;
        let Some((server, node)) = self.until(Tester::Itself.pod(), addresses).await? else {
            return Ok(vec![not_started("no address was given to a Pod")]);
        };

        let network = &self.network;
        let (dns, api) = (network.dns(), network.api_service());
        let known = "kubernetes.default.svc.cluster.local.";
        let mut of_node = vec![
            ("node to Pod", format!("http://{server}:8080/healthz")),
            ("node to Service", format!("http://{cluster_ip}/healthz")),
            ("node to node port", format!("http://{node}:{node_port}/healthz")),
            ("node to name server", format!("dns://{dns}/{known}")),
        ];
        let mut of_pod = vec![
            ("Pod to Pod", format!("http://{server}:8080/healthz")),
            ("Pod to node", format!("tcp://{node}:10250")),
            ("Pod to Service", format!("http://{cluster_ip}/healthz")),
            ("Pod to node port", format!("http://{node}:{node_port}/healthz")),
            ("Pod to API", format!("tcp://{api}:443")),
            ("Pod to name server", format!("dns://{dns}/{known}")),
            ("Pod to name server over TCP", format!("dns+tcp://{dns}/{known}")),
            ("Pod to Service by name", format!("http://server.{}.svc.cluster.local/healthz", self.namespace)),
        ];
        if let Some(outside) = name_server_outside() {
            of_node.push((OUTSIDE, format!("dns://{outside}")));
            of_pod.push((OUTSIDE, format!("dns://{outside}")));
        }
        let on_node = json!({"hostNetwork": true, "containers": [reach(&of_node)]});
        self.start(Tester::Node.pod(), on_node).await?;
        self.start(Tester::Pod.pod(), json!({"containers": [reach(&of_pod)]})).await?;

        let mut found = BTreeMap::new();
        for tester in Tester::ALL {
            let pods = Api::<Pod>::namespaced(self.client.clone(), &self.namespace);
            if self.until(tester.pod(), has_ended).await?.is_none() {
                return Ok(vec![not_started(&format!("the Pod {} did not end in time", tester.pod()))]);
            }
            let params = LogParams { container: Some("reach".to_owned()), ..LogParams::default() };
            let log = pods.logs(tester.pod(), &params).await?;
            found.extend(log.lines().filter_map(result).map(|(name, result)| ((tester, name.to_owned()), result)));
        }
        Ok(judged(&found))
    }

    async fn start(&self, name: &str, mut spec: Value) -> Result<(), kube::Error> {
        spec["restartPolicy"] = "Never".into();
        spec["terminationGracePeriodSeconds"] = 0.into();
        spec["automountServiceAccountToken"] = false.into();
        spec["tolerations"] = json!([{"operator": "Exists"}]);
        let pod = object(json!({"metadata": {"name": name, "labels": {"app": name}}, "spec": spec}));
        let pods = Api::<Pod>::namespaced(self.client.clone(), &self.namespace);
        pods.create(&PostParams::default(), &pod).await.map(drop)
    }

    /// Waits until this can be told of a Pod; `None` if that takes too long.
    async fn until<T>(&self, name: &str, tell: fn(&Pod) -> Option<T>) -> Result<Option<T>, kube::Error> {
        let pods = Api::<Pod>::namespaced(self.client.clone(), &self.namespace);
        let told = async {
            loop {
                if let Some(told) = tell(&pods.get(name).await?) {
                    return Ok(told);
                }
                sleep(INTERVAL).await;
            }
        };
        timeout(LIMIT, told).await.ok().transpose()
    }
}

/// The container that tries these.
fn reach(targets: &[(&str, String)]) -> Value {
    let targets = targets.iter().map(|(name, url)| format!("{name}={url}"));
    let args: Vec<String> = ["reach", "--within", WITHIN].map(str::to_owned).into_iter().chain(targets).collect();
    json!({"name": "reach", "image": IMAGE, "args": args})
}

fn object<T: DeserializeOwned>(value: Value) -> T {
    from_value(value).expect("a constant object of this kind")
}

/// The addresses of a Pod that runs, and of its node.
fn addresses(pod: &Pod) -> Option<(String, String)> {
    let status = pod.status.as_ref()?;
    Some((status.pod_ip.clone()?, status.host_ip.clone()?))
}

/// Whether the container that tries has ended.
fn has_ended(pod: &Pod) -> Option<()> {
    let mut containers = pod.status.as_ref()?.container_statuses.iter().flatten();
    let reach = containers.find(|container| container.name == "reach")?;
    reach.state.as_ref()?.terminated.as_ref().map(drop)
}

/// A line of the container's log: the leg, and how long it took or why it failed.
fn result(line: &str) -> Option<(&str, Result<String, String>)> {
    let mut words = line.splitn(3, '\t');
    match (words.next()?, words.next()?, words.next()?) {
        ("ok", name, took) => Some((name, Ok(took.to_owned()))),
        ("failed", name, why) => Some((name, Err(why.to_owned()))),
        _ => None,
    }
}

/// The legs in their order. What the node itself does not reach outside is not asked of Pods.
fn judged(found: &BTreeMap<(Tester, impl AsRef<str> + Ord), Result<String, String>>) -> Vec<Leg> {
    let of = |tester, name: &str| {
        found.iter().find(|((who, leg), _)| *who == tester && leg.as_ref() == name).map(|(_, result)| result.clone())
    };
    let sandbox_reaches_outside = matches!(of(Tester::Node, OUTSIDE), Some(Ok(_)));
    let legs = LEGS.iter().filter(|(_, name, _)| *name != OUTSIDE || sandbox_reaches_outside);
    legs.map(|(tester, name, hint)| match of(*tester, name) {
        Some(Ok(took)) => Leg { name, works: true, found: took, hint: "" },
        Some(Err(why)) => Leg { name, works: false, found: why, hint },
        None => Leg { name, works: false, found: "nothing was heard of it".to_owned(), hint },
    })
    .collect()
}

fn not_started(why: &str) -> Leg {
    Leg { name: "Pods", works: false, found: why.to_owned(), hint: PODS }
}

/// A name server of the sandbox's that is not on its loopback device.
fn name_server_outside() -> Option<IpAddr> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    Resolver::read(&text).servers.into_iter().find(|server| server.is_ipv4() && !server.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outside_is_asked_of_pods_only_where_the_sandbox_reaches_it() {
        let mut found: BTreeMap<(Tester, &str), Result<String, String>> =
            LEGS.iter().map(|(tester, name, _)| ((*tester, *name), Ok("1ms".to_owned()))).collect();
        assert_eq!(judged(&found).len(), LEGS.len() - 1);
        found.insert((Tester::Node, OUTSIDE), Ok("2ms".to_owned()));
        found.insert((Tester::Pod, OUTSIDE), Err("timeout".to_owned()));
        let legs = judged(&found);
        let failed: Vec<_> = legs.iter().filter(|leg| !leg.works).collect();
        assert_eq!((legs.len(), failed.len()), (LEGS.len(), 1));
        assert_eq!((failed[0].name, failed[0].found.as_str(), failed[0].hint), (OUTSIDE, "timeout", EGRESS));
    }

    #[test]
    fn a_leg_that_nothing_is_heard_of_does_not_work() {
        let found: BTreeMap<(Tester, &str), _> = BTreeMap::new();
        assert!(judged(&found).iter().all(|leg| !leg.works && !leg.hint.is_empty()));
    }

    #[test]
    fn lines_of_other_programs_are_no_results() {
        assert_eq!(result("ok\tPod to Pod\t1.2ms"), Some(("Pod to Pod", Ok("1.2ms".to_owned()))));
        assert_eq!(result("failed\tPod to Pod\tno\troute"), Some(("Pod to Pod", Err("no\troute".to_owned()))));
        assert_eq!(result("panic: what"), None);
    }
}
