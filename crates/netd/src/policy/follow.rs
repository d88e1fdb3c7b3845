//! Follows the API: policies always, Pods and namespaces from the first policy on.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::rc::Rc;

use k8s_openapi::api::core::v1::{Namespace, Pod as ApiPod};
use k8s_openapi::api::networking::v1::NetworkPolicy as ApiPolicy;
use kube::runtime::watcher;
use tokio::sync::mpsc::{self, Sender};
use tokio::task::JoinSet;

use super::compiled::{Compiled, Node, Placed};
use super::model::{Labels, NetworkPolicy, Pod};
use crate::access::Access;
use crate::config::{Config, Path};
use crate::control::Name;
use crate::control::watch::{Event, Watch};
use crate::notice::Notice;
use crate::table::Protocol;
use crate::{Error, Shared};

/// How many events may wait to be taken in, and are taken in at once.
const BATCH: usize = 256;

enum Update {
    Policies(Event<NetworkPolicy>),
    Pods(Event<Pod>),
    Namespaces(Event<Labels>),
}

/// Objects by name; `None` until all of them are known.
type Objects<T> = Option<HashMap<Name, T>>;

#[derive(Default)]
struct Known {
    policies: Objects<NetworkPolicy>,
    pods: Objects<Pod>,
    namespaces: Objects<Labels>,
}

/// Follows the API's policies.
pub async fn run(shared: Shared, access: Rc<Access>) -> Result<(), Error> {
    let config = &shared.config;
    let (sender, mut receiver) = mpsc::channel(BATCH);
    let mut policies = JoinSet::new();
    spawn(&mut policies, &shared.config.node, &access, &sender, Update::Policies, |policy: ApiPolicy, _| {
        Some(NetworkPolicy::new(policy))
    });
    let mut others = JoinSet::new();
    let mut known = Known::default();
    let mut updates = Vec::with_capacity(BATCH);
    loop {
        let mut changed = tokio::select! {
            received = receiver.recv_many(&mut updates, BATCH) => if received == 0 { return Ok(()) } else { false },
            () = shared.policy.attachments.changed.notified() => true,
        };
        for update in updates.drain(..) {
            changed |= known.update(update, |policy| tell(&shared, policy));
        }
        let wanted = known.has_policies();
        if wanted && others.is_empty() {
            spawn(&mut others, &shared.config.node, &access, &sender, Update::Pods, |pod: ApiPod, _| Pod::new(pod));
            spawn(&mut others, &shared.config.node, &access, &sender, Update::Namespaces, |namespace: Namespace, _| {
                Some(namespace.metadata.labels.unwrap_or_default())
            });
        }
        if changed {
            shared.policy.attachments.retain(|name| Some(known.pods.as_ref()?.get(name)?.address));
            let attached = shared.policy.attachments.addresses();
            if let Some(policies) = &known.policies {
                shared.policy.announce(policies.values().map(|policy| policy.about.clone()).collect());
            }
            if let Some(compiled) = known.compile(config, &attached) {
                shared.policy.set(compiled);
                let attachments = &shared.policy.attachments;
                attachments.compiled(|name| known.pods.as_ref().is_some_and(|pods| pods.contains_key(name)));
                if !wanted {
                    attachments.clear(); // there is nothing to wait for, and nobody says what becomes of them
                }
            }
        }
    }
}

/// Follows the objects of a kind until the set is dropped.
fn spawn<K, T: 'static>(
    tasks: &mut JoinSet<()>,
    node: &str,
    access: &Rc<Access>,
    sender: &Sender<Update>,
    tell: fn(Event<T>) -> Update,
    keep: fn(K, &str) -> Option<T>,
) where
    K: kube::Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let watch = Watch { config: watcher::Config::default(), keep, node: node.into(), tell };
    let (access, sender) = (access.clone(), sender.clone());
    tasks.spawn_local(async move { watch.run(&access, sender).await });
}

impl Known {
    /// Takes in what the API told. Whether anything changed that matters here.
    fn update(&mut self, update: Update, tell: impl Fn(&NetworkPolicy)) -> bool {
        match update {
            Update::Policies(event) => {
                match &event {
                    Event::Apply(_, policy) => tell(policy),
                    Event::All(all) => all.values().for_each(tell),
                    Event::Delete(_) | Event::Lost => {}
                }
                apply(&mut self.policies, event, |_, _| false)
            }
            Update::Pods(event) => apply(&mut self.pods, event, |one, other| one == other) && self.has_policies(),
            Update::Namespaces(event) => {
                apply(&mut self.namespaces, event, |one, other| one == other) && self.has_policies()
            }
        }
    }

    fn has_policies(&self) -> bool {
        self.policies.as_ref().is_some_and(|policies| !policies.is_empty())
    }

    /// What is to be in force, once all that matters is known.
    fn compile(&self, config: &Config, attached: &HashMap<Name, Ipv4Addr>) -> Option<Compiled> {
        let policies = self.policies.as_ref()?;
        let node =
            Node { address: config.node_address, gateway: config.gateway, services: config.services, dns: config.dns };
        if policies.is_empty() {
            return Some(Compiled::new(node, [], &[], &HashMap::new()));
        }
        let (pods, namespaces) = (self.pods.as_ref()?, self.namespaces.as_ref()?);
        let dns = name_server(config.dns);
        // The API hears of an address only when the Pod runs; the CNI plugin has said it before. What the API says may be of
        // a sandbox that has ended, and another Pod's by now.
        let given: HashSet<Ipv4Addr> = attached.values().copied().collect();
        let known = |pod: &Pod| pod.address.filter(|address| !given.contains(address));
        let address = |name: &Name, pod: &Pod| attached.get(name).copied().or_else(|| known(pod));
        let placed = pods.iter().filter_map(|(name, pod)| Some(Placed { pod, address: address(name, pod)? }));
        let pods: Vec<Placed<'_>> = placed.chain([Placed { pod: &dns, address: config.dns }]).collect();
        let labels = |(name, labels): (&Name, &Labels)| (name.name.to_string(), labels.clone());
        let namespaces = namespaces.iter().map(labels).collect();
        Some(Compiled::new(node, policies.values(), &pods, &namespaces))
    }
}

/// Takes in an event. Whether it changed anything.
fn apply<T>(objects: &mut Objects<T>, event: Event<T>, same: impl Fn(&T, &T) -> bool) -> bool {
    match (event, objects) {
        (Event::All(all), objects) => {
            *objects = Some(all);
            true
        }
        (Event::Apply(name, object), Some(objects)) => {
            let unchanged = objects.get(&name).is_some_and(|before| same(before, &object));
            objects.insert(name, object);
            !unchanged
        }
        (Event::Delete(name), Some(objects)) => objects.remove(&name).is_some(),
        // What comes before the whole list is from a watch that was given up.
        (Event::Apply(..) | Event::Delete(_), None) | (Event::Lost, _) => false,
    }
}

/// The name server as policies see it: the Pod that CoreDNS would be.
pub(super) fn name_server(address: Ipv4Addr) -> Pod {
    let port = |name: &str, protocol, port| (name.to_owned(), protocol, port);
    Pod {
        namespace: "kube-system".to_owned(),
        labels: [("k8s-app".to_owned(), "kube-dns".to_owned())].into(),
        address: Some(address),
        ports: vec![
            port("dns", Protocol::Udp, 53),
            port("dns-tcp", Protocol::Tcp, 53),
            port("metrics", Protocol::Tcp, 9153),
        ],
    }
}

/// Has the policy's author told what it asks for and does not get.
fn tell(shared: &Shared, policy: &NetworkPolicy) {
    let post = |reason, message: String| shared.notices.post(Notice { about: policy.about.clone(), reason, message });
    for flaw in &policy.flaws {
        post("NetworkPolicyNotEnforcedInPart", (*flaw).to_owned());
    }
    if shared.config.is_shared() {
        let message = "Pods share the node's network here, and policies hold for addresses of Pods' own";
        post("NetworkPolicyNotEnforced", message.to_owned());
    } else if shared.config.path == Path::Bound && shared.config.routed {
        let message = "the nat table cannot be reached here, so this holds for connections to Services only: \
                       what Pods send to each other's addresses is not filtered";
        post("NetworkPolicyNotEnforcedBetweenPods", message.to_owned());
    }
}
