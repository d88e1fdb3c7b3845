//! The add-on `metrics-server`, which every node has unless it is unwanted: what `kubectl top` and autoscalers ask.
//!
//! It asks the kubelet every 15 s, and serves what that said as an API of the cluster's own: the API server passes requests
//! for it on to the Service, whose endpoint is this process on the node's address. No endpoint may have an address of the
//! loopback device. Certificates and the CA of who asks are read again when they change
//! (k8s.io/apiserver, pkg/server/dynamiccertificates).

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use crate::component::{self, CommandLine, Component, KUBELET, Name, Readiness, Runs, SERVER, Spec};
use crate::pki::{self, key_files};
use crate::{Error, Layout, objects};

/// The add-on, its component, its client certificate, and its Service.
pub(crate) const NAME: Name = pki::METRICS;

pub(crate) const PROGRAM: &str = "metrics-server";

/// Upstream's choice, 10250, is the kubelet's here.
pub(crate) const PORTS: &[u16] = &[PORT];
const PORT: u16 = 10251;

/// Who it is to the API and the kubelet.
pub(crate) const USER: &str = "system:metrics-server";

/// By which the API server knows it.
pub(crate) const SERVICE_NAME: &str = "metrics-server.kube-system.svc";

const NAMESPACE: &str = "kube-system";

/// It starts after the node is Ready: before, there is nothing to ask, and on few cores the start would take longer by it.
pub(crate) fn component(spec: &Spec<'_>) -> Result<Component, Error> {
    let layout = spec.layout;
    let command = CommandLine { program: layout.component(PROGRAM)?, args: args(spec) };
    // Not whether it has figures: that takes two rounds, and the kubelet has to have some.
    let ready = Readiness::Https {
        address: SocketAddrV4::new(spec.address, PORT),
        path: "/livez",
        authority: key_files(layout, pki::CA).certificate,
    };
    let runs = Runs::Service { command, env: component::environment(spec), ready };
    Ok(Component { name: NAME, label: "metrics", needs: &[SERVER, KUBELET], objects: objects(spec.address), runs })
}

/// Those of upstream's manifest, but for what is the node's own. Whose word it takes is said here: from the API it would
/// learn that a second after it begins to serve, and until then it refuses the API server.
fn args(spec: &Spec<'_>) -> Vec<String> {
    let layout = spec.layout;
    let kubeconfig = layout.config(&format!("{}.kubeconfig", pki::METRICS)).display().to_string();
    let certificate = |name: &str| key_files(layout, name).certificate.display().to_string();
    let mut args = vec![
        format!("--kubeconfig={kubeconfig}"),
        format!("--authentication-kubeconfig={kubeconfig}"),
        format!("--authorization-kubeconfig={kubeconfig}"),
        "--authentication-skip-lookup=true".to_owned(),
        format!("--client-ca-file={}", certificate(pki::CA)),
    ];
    args.extend(component::front_proxy_args(layout));
    args.extend([
        format!("--bind-address={}", spec.address),
        format!("--secure-port={PORT}"),
        format!("--tls-cert-file={}", certificate(pki::METRICS_SERVING)),
        format!("--tls-private-key-file={}", key_files(layout, pki::METRICS_SERVING).key.display()),
        format!("--kubelet-certificate-authority={}", certificate(pki::CA)),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        "--kubelet-use-node-status-port".to_owned(),
        "--metric-resolution=15s".to_owned(),
        "--profiling=false".to_owned(),
    ]);
    args
}

/// Its rights, those of who may read what it serves, and the Service by which the API server finds it, as in upstream's
/// manifest.
fn objects(address: Ipv4Addr) -> Vec<Value> {
    let read = ["get", "list", "watch"];
    let rules = json!([
        {"apiGroups": [""], "resources": ["nodes/metrics"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["pods", "nodes"], "verbs": read},
    ]);
    let aggregated = |to: &str| (format!("rbac.authorization.k8s.io/aggregate-to-{to}"), Value::from("true"));
    let reader = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {
            "name": "system:aggregated-metrics-reader",
            "labels": Value::Object(["view", "edit", "admin"].map(aggregated).into_iter().collect()),
        },
        "rules": [{"apiGroups": ["metrics.k8s.io"], "resources": ["pods", "nodes"], "verbs": read}],
    });
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": NAMESPACE, "name": NAME, "labels": {"k8s-app": NAME}},
        "spec": {"ports": [
            {"name": "https", "port": 443, "protocol": "TCP", "targetPort": PORT, "appProtocol": "https"},
        ]},
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": NAMESPACE,
            "name": NAME,
            "labels": {
                "endpointslice.kubernetes.io/managed-by": "terrarium",
                "kubernetes.io/service-name": NAME,
            },
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": PORT, "protocol": "TCP", "appProtocol": "https"}],
    });
    let delegator = objects::binding("metrics-server:system:auth-delegator", "system:auth-delegator", USER);
    objects::role_of_user(USER, rules).into_iter().chain([delegator, reader, service, slice]).collect()
}

/// The API that it serves, as part of the cluster's.
///
/// # Errors
/// The CA's certificate cannot be read.
pub(crate) fn api_service(layout: &Layout) -> Result<Value, Error> {
    let authority = key_files(layout, pki::CA).certificate;
    let authority = fs::read(&authority).map_err(Error::io("read", &authority))?;
    Ok(json!({
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": "v1beta1.metrics.k8s.io", "labels": {"k8s-app": NAME}},
        "spec": {
            "group": "metrics.k8s.io",
            "version": "v1beta1",
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "service": {"namespace": NAMESPACE, "name": NAME},
            "caBundle": BASE64.encode(authority),
        },
    }))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_api_server_is_told_by_whose_word_it_knows_it() {
        let (_root, layout) = Layout::temporary();
        assert!(api_service(&layout).is_err(), "no cluster was ever started");
        let (address, api_service_address) = ([192, 0, 2, 7].into(), [10, 43, 0, 1].into());
        let names = pki::Names { node: "n".to_owned(), address, api_service: api_service_address };
        pki::issue(&layout, &names, Duration::from_secs(3600)).unwrap();
        let spec = api_service(&layout).unwrap()["spec"].clone();
        let bundle = BASE64.decode(spec["caBundle"].as_str().unwrap()).unwrap();
        assert_eq!(bundle, fs::read(key_files(&layout, pki::CA).certificate).unwrap());
        let Value::Object(service) = &spec["service"] else { panic!("{spec}") };
        // Of the form in which k8s.io/kube-aggregator, pkg/apiserver/handler_proxy.go, asks for it.
        let name = format!("{}.{}.svc", service["name"].as_str().unwrap(), service["namespace"].as_str().unwrap());
        assert_eq!(name, SERVICE_NAME);
    }
}
