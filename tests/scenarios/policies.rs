//! NetworkPolicies hold between Pods, by the Pods' own addresses.

use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use harness::{Cluster, Namespace, eventually};
use serde_json::{Value, json};

use crate::network::in_network_of;
use crate::pods;

crate::stories! {
    Shared in BUILDS:
        a_namespace_that_denies_opens_by_label_and_namespace
        a_policy_that_goes_opens_again
        what_is_established_goes_on_under_a_new_policy
        a_policy_that_takes_too_much_room_is_left_to_the_relay;
    Shared in PODS:
        a_policy_names_ports_by_name_and_number
        what_pods_send_is_up_to_policies_too;
    Shared:
        what_a_policy_cannot_have_is_told;
    Harmed:
        policies_hold_while_their_keeper_is_away;
}

/// What a policy took effect within: it is not told when.
const SOON: Duration = Duration::from_secs(1);

fn a_namespace_that_denies_opens_by_label_and_namespace(cluster: &Cluster) {
    let namespace = cluster.namespace("policies-closed");
    let other = cluster.namespace("policies-other");
    let server = serve(&namespace, "server");
    deny(&namespace);
    let from = json!([
        {"podSelector": {"matchLabels": {"role": "friend"}}},
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "policies-other"}},
            "podSelector": {"matchLabels": {"role": "guest"}}},
    ]);
    policy(
        &namespace,
        "open",
        &json!({"podSelector": {"matchLabels": {"app": "server"}}, "ingress": [{"from": from}]}),
    );
    let asked = [
        (&namespace, "friend", true),
        (&namespace, "guest", false),
        (&other, "friend", false),
        (&other, "guest", true),
    ];
    assert_reached(asked.map(|(namespace, role, reaches)| Asked::new(namespace, role, &web(server), reaches)));
    // The node may: it has to ask whether the Pod is ready.
    namespace.cluster.sh(&format!("curl -sSf --max-time 5 http://{server}:8080/healthz")).succeeds();
}

fn a_policy_names_ports_by_name_and_number(cluster: &Cluster) {
    let namespace = cluster.namespace("policies-ports");
    let [named, numbered, datagrams] = ["named", "numbered", "datagrams"].map(|name| serve(&namespace, name));
    for (name, port) in [
        ("named", json!({"port": "web"})),
        ("numbered", json!({"port": 8000, "endPort": 8079})),
        ("datagrams", json!({"port": 8080, "protocol": "UDP"})),
    ] {
        policy(
            &namespace,
            name,
            &json!({"podSelector": {"matchLabels": {"app": name}}, "ingress": [{"ports": [port]}]}),
        );
    }
    let udp = |address: Ipv4Addr| format!("udp://{address}:8080");
    assert_reached([
        Asked::new(&namespace, "named-tcp", &web(named), true),
        Asked::new(&namespace, "named-udp", &udp(named), false),
        Asked::new(&namespace, "numbered-tcp", &web(numbered), false),
        Asked::new(&namespace, "datagrams-udp", &udp(datagrams), true),
        Asked::new(&namespace, "datagrams-tcp", &web(datagrams), false),
    ]);
}

/// Names are asked of the name server, which policies see as the Pod that it is elsewhere.
fn what_pods_send_is_up_to_policies_too(cluster: &Cluster) {
    let namespace = cluster.namespace("policies-egress");
    let [one, two] = ["one", "two"].map(|name| serve(&namespace, name));
    let dns = json!([{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
        "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}]);
    let some = |role: &str, egress: Value| {
        let spec = json!({"podSelector": {"matchLabels": {"role": role}}, "policyTypes": ["Egress"], "egress": egress});
        policy(&namespace, role, &spec);
    };
    some("mute", json!([]));
    some("asks", json!([{"to": dns, "ports": [{"port": 53, "protocol": "UDP"}]}]));
    some("block", json!([{"to": [{"ipBlock": {"cidr": "10.42.0.0/16", "except": [format!("{two}/32")]}}]}]));
    let name = "dns://10.43.0.10/kubernetes.default.svc.cluster.local.";
    assert_reached([
        Asked::new(&namespace, "mute", &web(one), false),
        Asked { name: "mute-name", ..Asked::new(&namespace, "mute", name, false) },
        // Nor past the name server's own address.
        Asked { name: "mute-node", ..Asked::new(&namespace, "mute", &name.replace("10.43.0.10", "10.42.0.1"), false) },
        Asked::new(&namespace, "asks", name, true),
        Asked { name: "asks-web", ..Asked::new(&namespace, "asks", &web(one), false) },
        Asked { name: "block-one", ..Asked::new(&namespace, "block", &web(one), true) },
        Asked { name: "block-two", ..Asked::new(&namespace, "block", &web(two), false) },
    ]);
}

fn a_policy_that_goes_opens_again(cluster: &Cluster) {
    let namespace = cluster.namespace("policies-gone");
    let server = serve(&namespace, "server");
    deny(&namespace);
    assert_reached([Asked::new(&namespace, "before", &web(server), false)]);
    namespace.kubectl("delete networkpolicy --all");
    assert_reached([Asked::new(&namespace, "after", &web(server), true)]);
}

/// More blocks than the nat table has room for, in any build.
fn a_policy_that_takes_too_much_room_is_left_to_the_relay(cluster: &Cluster) {
    let namespace = cluster.namespace("policies-large");
    let server = serve(&namespace, "server");
    let blocks = (0..=250).map(|number| json!({"ipBlock": {"cidr": format!("198.51.{number}.7/32")}}));
    let friend = json!({"podSelector": {"matchLabels": {"role": "friend"}}});
    let from: Vec<Value> = blocks.chain([friend]).collect();
    policy(
        &namespace,
        "large",
        &json!({"podSelector": {"matchLabels": {"app": "server"}}, "ingress": [{"from": from}]}),
    );
    assert_told(&namespace, "NetworkPolicyNotEnforcedForUDP");
    assert_reached([
        Asked::new(&namespace, "friend", &web(server), true),
        Asked { name: "friend-udp", ..Asked::new(&namespace, "friend", &format!("udp://{server}:8080"), false) },
        Asked::new(&namespace, "other", &web(server), false),
    ]);
}

fn what_a_policy_cannot_have_is_told(cluster: &Cluster) {
    let namespace = cluster.namespace("policies-sctp");
    policy(&namespace, "sctp", &json!({"podSelector": {}, "ingress": [{"ports": [{"port": 7, "protocol": "SCTP"}]}]}));
    assert_told(&namespace, "NetworkPolicyNotEnforcedInPart");
}

/// An event of this reason is there, soon.
#[track_caller]
fn assert_told(namespace: &Namespace<'_>, reason: &str) {
    eventually(Duration::from_secs(60), || {
        let events = namespace.kubectl(&format!("get events --field-selector reason={reason} -o name"));
        if events.is_empty() { Err("no event".to_owned()) } else { Ok(()) }
    });
}

/// Looks whether the rules of policies are there, again and again. A table that changes as it is read is none.
const WATCH: &str = r#"until [ -e /tmp/watched ]; do
        saved=$(timeout 10 iptables-legacy-save -t nat) || continue
        echo looked >>/tmp/looks
        [[ $saved == *TERRARIUM-POLICY-IN* ]] || echo "$saved" >>/tmp/gone
    done >/dev/null 2>&1 &"#;

fn policies_hold_while_their_keeper_is_away(cluster: &Cluster) {
    cluster.up();
    let namespace = cluster.namespace("policies-killed");
    let server = serve(&namespace, "server");
    deny(&namespace);
    assert_reached([Asked::new(&namespace, "before", &web(server), false)]);
    // One that begins knows of no policy yet, and has them hold all the same.
    cluster.sh(WATCH).succeeds();
    for name in ["away", "away-again", "away-thrice"] {
        cluster.sh(": >/tmp/looks").succeeds();
        let before = cluster.pid("netd");
        cluster.kill(&["netd"]);
        assert_reached([Asked::new(&namespace, name, &web(server), false)]);
        cluster.eventually_replaced("netd", before, Duration::from_secs(30));
        cluster.sh("test -s /tmp/looks && ! cat /tmp/gone").succeeds();
    }
    thread::sleep(SOON);
    assert_reached([Asked::new(&namespace, "back", &web(server), false)]);
    cluster.terrarium("down").succeeds();
    cluster.sh("touch /tmp/watched; ! iptables-legacy-save -t nat | grep TERRARIUM").succeeds();
}

fn web(address: Ipv4Addr) -> String {
    format!("http://{address}:8080/healthz")
}

fn policy(namespace: &Namespace<'_>, name: &str, spec: &Value) {
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name}, "spec": spec,
    });
    namespace.apply(&policy.to_string());
}

/// By the Pod's own address and by its Service's, which the relay carries. The client is the sandbox's bash in the network
/// of the Pod `web`; it asks once before the policy and once after, by the same connection.
fn what_is_established_goes_on_under_a_new_policy(cluster: &Cluster) {
    let namespace = pods::web(cluster, "policies-established");
    let server = serve(&namespace, "server");
    namespace.kubectl("expose pod server --port 8080");
    let service = namespace.kubectl("get service server -o jsonpath={.spec.clusterIP}");
    let served = format!("curl -sSf --max-time 5 http://{}:8080/healthz", service.trim());
    eventually(Duration::from_secs(60), || cluster.sh(&served).ok());
    let addresses = [server.to_string(), service.trim().to_owned()];
    let connect: String =
        addresses.iter().zip(3..).map(|(to, fd)| format!("exec {fd}<>/dev/tcp/{to}/8080; ask {fd}; ")).collect();
    let client = format!(
        r#"ask() {{
            printf 'GET /healthz HTTP/1.1\r\nHost: server\r\n\r\n' >&$1
            timeout 20 grep -m 1 -o 'HTTP/1.1 200 OK' <&$1 || exit 1
        }}
        {connect} touch /tmp/established
        until [ -e /tmp/denied ]; do sleep 0.1; done
        ask 3; ask 4; ! timeout 2 bash -c 'exec 5<>/dev/tcp/{server}/8080'"#
    );
    thread::scope(|scope| {
        let client = scope.spawn(|| in_network_of(&namespace, &client));
        eventually(Duration::from_secs(30), || cluster.sh("test -e /tmp/established").ok());
        deny(&namespace);
        assert_reached([Asked::new(&namespace, "late", &web(server), false)]);
        cluster.sh("touch /tmp/denied").succeeds();
        let ran = client.join().expect("the client does not panic").succeeds();
        assert_eq!(ran.stdout.lines().count(), 4, "{ran}");
    });
    cluster.sh("rm /tmp/established /tmp/denied").succeeds();
}

/// Nobody may talk to any Pod of the namespace.
pub fn deny(namespace: &Namespace<'_>) {
    policy(namespace, "deny", &json!({"podSelector": {}}));
}

/// A Pod with the label `role` that tries to reach something.
struct Asked<'a> {
    namespace: &'a Namespace<'a>,
    name: &'a str,
    role: &'a str,
    target: String,
    reaches: bool,
}

impl<'a> Asked<'a> {
    fn new(namespace: &'a Namespace<'a>, role: &'a str, target: &str, reaches: bool) -> Self {
        Self { namespace, name: role, role, target: target.to_owned(), reaches }
    }
}

/// All of them at once. They try from their first instant on: policies hold by then.
#[track_caller]
fn assert_reached<const N: usize>(asked: [Asked<'_>; N]) {
    for one in &asked {
        // The first success ends it.
        let within = if one.reaches { "30s" } else { "4s" };
        let pod = pod(one.name, &json!({"role": one.role}), &["reach", "--within", within, &one.target], &json!([]));
        one.namespace.apply(&pod.to_string());
    }
    for one in &asked {
        let log = eventually(Duration::from_secs(120), || {
            let pod = one.namespace.json(&format!("get pod {}", one.name));
            let phase = pod["status"]["phase"].clone();
            let ended = phase == "Succeeded" || phase == "Failed";
            if ended { Ok(one.namespace.kubectl(&format!("logs {}", one.name))) } else { Err(phase.to_string()) }
        });
        let Asked { name, target, reaches, .. } = one;
        assert_eq!(log.starts_with("ok\t"), *reaches, "{name} to {target}: {log}");
    }
}

/// A Pod that serves on port 8080, TCP and UDP; the port's name for TCP is `web`. Returns its address.
fn serve(namespace: &Namespace<'_>, name: &str) -> Ipv4Addr {
    let ports = json!([{"name": "web", "containerPort": 8080}]);
    namespace.apply(&pod(name, &json!({"app": name}), &["serve"], &ports).to_string());
    namespace.wait(&format!("pod/{name}"), "condition=Ready");
    namespace.kubectl(&format!("get pod {name} -o jsonpath={{.status.podIP}}")).trim().parse().expect("an address")
}

fn pod(name: &str, labels: &Value, args: &[&str], ports: &Value) -> Value {
    let container = json!({"name": "sample", "image": "localhost/terrarium/sample:0.1.0", "imagePullPolicy": "Never",
        "args": args, "ports": ports});
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels},
        "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
            "containers": [container]},
    })
}
