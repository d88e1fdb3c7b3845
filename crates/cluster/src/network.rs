//! The Pods' network: the configurations of the CNI plugin and the Service proxy, and its end.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use serde_json::{Value, json};
use terrarium_cni::{DEFAULT_MTU, NetworkSettings, network_config};
use terrarium_netd::config::{Config, Path};
use terrarium_netd::host_ports;
use terrarium_remedies::Setting;

use crate::component::{CommandLine, Component, NETD, Readiness, Runs, SERVER, Spec};
use crate::launch::own_program;
use crate::{Error, Layout, gate, objects, pki};

/// Where the Service proxy serves its metrics, and tells of its health: kube-proxy's ports.
const METRICS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 10249);
const HEALTHZ: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 10256);

/// The list of CNI plugins: ours alone.
pub(crate) fn config(spec: &Spec<'_>) -> Value {
    let network = &spec.network;
    let Allowed { ip_forward, ip_masq, .. } = Allowed::by(spec);
    network_config(&NetworkSettings {
        pod_cidr: network.pods,
        cluster_cidr: network.pods,
        gateway: network.gateway(),
        node_ip: Some(spec.address),
        mtu: DEFAULT_MTU,
        ip_masq,
        ip_forward,
        ipam_data_dir: spec.layout.cni("leases"),
        host_ports: runtime_dir(spec.layout).join(host_ports::DIRECTORY),
    })
}

/// Where the Service proxy keeps what only its like may see.
fn runtime_dir(layout: &Layout) -> PathBuf {
    layout.runtime().join("netd")
}

/// The Service proxy: a part of this program.
pub(crate) fn component(spec: &Spec<'_>) -> Result<Component, Error> {
    let config = spec.layout.config("netd.json").to_string_lossy().into_owned();
    let command = CommandLine { program: own_program()?, args: vec![NETD.to_owned(), "--config".to_owned(), config] };
    let ready = Readiness::Http { port: HEALTHZ.port(), path: "/readyz" };
    let runs = Runs::Service { command, env: Vec::new(), ready };
    let objects = objects::role_of_user(pki::NETD, rules()).into();
    Ok(Component { name: NETD, label: "Service proxy", needs: &[SERVER], objects, runs })
}

/// Gives every Pod the node's network, and names as if it had its own. What its containers listen on becomes ports of the
/// node, by which the scheduler keeps two Pods apart.
pub(crate) fn host_network_policy() -> [Value; 2] {
    const NAME: &str = "terrarium-host-network";
    let api = "admissionregistration.k8s.io/v1";
    let patch = r#"[
        JSONPatch{op: "add", path: "/spec/hostNetwork", value: true}
    ] + (object.spec.?dnsPolicy.orValue("ClusterFirst") == "ClusterFirst" ? [
        JSONPatch{op: "add", path: "/spec/dnsPolicy", value: "ClusterFirstWithHostNet"}
    ] : [])"#;
    let policy = json!({
        "apiVersion": api,
        "kind": "MutatingAdmissionPolicy",
        "metadata": {"name": NAME},
        "spec": {
            "failurePolicy": "Fail",
            "reinvocationPolicy": "IfNeeded",
            "matchConstraints": {"resourceRules": [
                {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]},
            ]},
            "matchConditions": [
                {"name": "has-no-host-network", "expression": "!object.spec.?hostNetwork.orValue(false)"},
            ],
            "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": patch}}],
        },
    });
    let binding = json!({
        "apiVersion": api,
        "kind": "MutatingAdmissionPolicyBinding",
        "metadata": {"name": NAME},
        "spec": {"policyName": NAME},
    });
    [policy, binding]
}

/// What it asks of the API.
fn rules() -> Value {
    let read = ["get", "list", "watch"];
    json!([
        {"apiGroups": [""], "resources": ["namespaces", "nodes", "pods", "services"], "verbs": read},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": read},
        {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": read},
        {"apiGroups": [""], "resources": ["services/status"], "verbs": ["patch", "update"]},
        {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]},
    ])
}

/// The Service proxy's configuration.
pub(crate) fn netd(spec: &Spec<'_>) -> Value {
    let (layout, network) = (spec.layout, &spec.network);
    let Allowed { ip_forward, redirect, .. } = Allowed::by(spec);
    json!(Config {
        kubeconfig: layout.config(&format!("{}.kubeconfig", pki::NETD)),
        node: spec.node.clone(),
        node_address: spec.address,
        // Where Pods have no links there is no gateway on them: they know the node by its own address.
        gateway: if network.is_host { spec.address } else { network.gateway() },
        pods: network.pods,
        services: network.services,
        dns: network.dns(),
        path: if redirect { Path::Redirect } else { Path::Bound },
        routed: ip_forward,
        gate: gate::socket(layout, spec.isolation),
        runtime_dir: runtime_dir(layout),
        metrics: METRICS,
        healthz: HEALTHZ,
    })
}

/// Whether the node routes, so that Pods reach every address of its own.
pub(crate) fn is_routed(spec: &Spec<'_>) -> bool {
    Allowed::by(spec).ip_forward
}

/// What the sandbox allows.
struct Allowed {
    ip_forward: bool,
    ip_masq: bool,
    redirect: bool,
}

impl Allowed {
    fn by(spec: &Spec<'_>) -> Self {
        // What shares the node's network needs no way to it, and none of the table that all of the sandbox shares.
        if spec.network.is_host {
            return Self { ip_forward: true, ip_masq: false, redirect: false };
        }
        let allowed = spec.settings.iter().find_map(|setting| match setting {
            Setting::PodNetwork { ip_forward, ip_masq, redirect } => Some((*ip_forward, *ip_masq, *redirect)),
            _ => None,
        });
        let (ip_forward, ip_masq, redirect) = allowed.unwrap_or((true, true, true));
        Self { ip_forward, ip_masq, redirect }
    }
}

/// Puts the CNI plugins where containerd looks for them: this program, which knows its part by its name, and the IPAM.
pub(crate) fn link_plugins(layout: &Layout) -> Result<(), Error> {
    for (name, target) in [(terrarium_cni::PLUGIN, own_program()?), ("host-local", layout.component("host-local")?)] {
        let link = layout.cni("bin").join(name);
        symlink(target, &link).map_err(Error::io("make the link", &link))?;
    }
    Ok(())
}

/// Removes the links and the rules that the plugin left, once the Pods are gone.
pub(crate) fn teardown() -> Result<(), Error> {
    terrarium_cni::teardown().errors.into_iter().next().map_or(Ok(()), |error| Err(Error::Network(error)))
}
