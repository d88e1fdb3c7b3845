//! Ports of the node that lead to one Pod.

use std::net::SocketAddr;
use std::time::Duration;

use harness::{Cluster, eventually};
use serde_json::{Value, json};

use crate::services::{CURL, SOON, assert_reached, http, reacher, udp};

crate::stories! {
    Shared in BUILDS:
        a_host_port_leads_to_its_pod_from_everywhere;
    Shared:
        a_host_port_is_free_again_with_its_pod
        what_cannot_be_had_keeps_a_pod_from_starting_and_is_told;
    Harmed:
        host_ports_go_on_after_their_proxy_was_killed;
}

fn a_host_port_leads_to_its_pod_from_everywhere(cluster: &Cluster) {
    let namespace = cluster.namespace("host-ports");
    namespace.apply(&pod("web-1", &json!([port(8_180, "TCP"), port(8_180, "UDP")])));
    namespace.wait("pod/web-1", "condition=Ready");
    let node = cluster.address();
    for host in [node.to_string(), "127.0.0.1".to_owned()] {
        eventually(SOON, || cluster.sh(&format!("{CURL} http://{host}:8180/healthz")).ok());
        eventually(SOON, || cluster.sh(&format!("{} | grep web-", udp(&format!("{host}/8180")))).ok());
    }
    let from_outside = eventually(SOON, || http(SocketAddr::from((node, 8_180))).map_err(|error| error.to_string()));
    assert!(from_outside.contains("ok"), "{from_outside}");
    namespace.apply(&reacher("other", &[&format!("http://{node}:8180/healthz"), &format!("udp://{node}:8180")]));
    assert_reached(&namespace, "other", 2);
}

fn a_host_port_is_free_again_with_its_pod(cluster: &Cluster) {
    let namespace = cluster.namespace("host-ports-freed");
    let mut local = port(8_181, "TCP");
    local["hostIP"] = json!("127.0.0.1");
    for name in ["one", "two"] {
        namespace.apply(&pod(name, &json!([local])));
        namespace.wait(&format!("pod/{name}"), "condition=Ready");
        eventually(SOON, || cluster.sh(&format!("{CURL} http://127.0.0.1:8181/ | grep 'Pod</dt><dd>{name}<'")).ok());
        cluster.sh(&format!("{CURL} http://{}:8181/", cluster.address())).exits(7); // another address
        namespace.kubectl(&format!("delete pod {name}"));
        cluster.sh(&format!("{CURL} http://127.0.0.1:8181/")).exits(7);
    }
}

fn what_cannot_be_had_keeps_a_pod_from_starting_and_is_told(cluster: &Cluster) {
    let namespace = cluster.namespace("host-ports-refused");
    let mut shaped: Value = serde_json::from_str(&pod("shaped", &json!([]))).expect("JSON");
    shaped["metadata"]["annotations"] = json!({"kubernetes.io/egress-bandwidth": "1M"});
    namespace.apply(&shaped.to_string());
    namespace.apply(&pod("taken", &json!([port(10_250, "TCP")])));
    namespace.apply(&pod("sctp", &json!([port(8_182, "SCTP")])));
    for (name, words) in [
        ("shaped", "kubernetes.io/egress-bandwidth cannot be honoured"),
        ("taken", "host port 0.0.0.0:10250/TCP cannot be had: a program on the node has"),
        ("sctp", "host port 8182/SCTP: only TCP and UDP"),
    ] {
        eventually(Duration::from_secs(90), || {
            let events = namespace.kubectl(&format!("get events --field-selector involvedObject.name={name}"));
            if events.contains(words) { Ok(()) } else { Err(events) }
        });
        assert_eq!(namespace.json(&format!("get pod {name}"))["status"]["phase"], "Pending");
    }
    // The kubelet has its port still, and Pods that never ran go.
    namespace.kubectl("delete pod --all");
    cluster.sh(&format!("curl -sk --max-time 5 https://{}:10250/healthz", cluster.address())).succeeds();
}

fn host_ports_go_on_after_their_proxy_was_killed(cluster: &Cluster) {
    cluster.up();
    let namespace = cluster.namespace("host-ports-killed");
    namespace.apply(&pod("web", &json!([port(8_183, "TCP")])));
    namespace.wait("pod/web", "condition=Ready");
    let url = format!("http://{}:8183/healthz", cluster.address());
    eventually(SOON, || cluster.sh(&format!("{CURL} {url}")).ok());

    let before = cluster.pid("netd");
    cluster.kill(&["netd"]);
    cluster.eventually_replaced("netd", before, Duration::from_secs(30));
    eventually(SOON, || cluster.sh(&format!("{CURL} {url}")).ok());

    // A Pod that goes while there is no proxy leaves nothing to the next one.
    let before = cluster.pid("netd");
    cluster.kill(&["netd"]);
    namespace.kubectl("delete pod web --wait=true");
    cluster.eventually_replaced("netd", before, Duration::from_secs(30));
    cluster.sh("ls /run/terrarium/netd/hostports | grep -c . ").exits(1);
}

fn port(host: u16, protocol: &str) -> Value {
    json!({"containerPort": 8080, "hostPort": host, "protocol": protocol})
}

/// A Pod that serves HTTP and datagrams at 8080.
fn pod(name: &str, ports: &Value) -> String {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [{
            "name": "sample", "image": "localhost/terrarium/sample:0.1.0", "imagePullPolicy": "Never", "ports": ports,
            "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1},
        }]},
    })
    .to_string()
}
