//! Ingress, for those who ask for it: requests to the node find their Pods by host and path.

use std::collections::BTreeSet;
use std::time::Duration;

use harness::{Cluster, DATA_DIR, Marks, Namespace, eventually};

crate::stories! {
    Own:
        requests_find_their_pods_by_host_and_path
        a_used_port_is_told_and_taken_when_it_is_free;
}

const WEB: &str = include_str!("../manifests/ingress.yaml");

/// How long the controller may take to see a change.
const SOON: Duration = Duration::from_secs(60);

fn requests_find_their_pods_by_host_and_path(cluster: &Cluster) {
    let before = Marks::of(cluster);
    cluster.terrarium("up --enable ingress").succeeds();
    cluster.terrarium("up --enable ingress").succeeds().complains("up already");
    eventually(SOON, || is_ready(cluster));
    let namespace = cluster.namespace("ingress");
    // One of the cluster's CA, so that a caller can tell whose is served.
    let certificate = format!("{DATA_DIR}/pki/loopback-serving");
    namespace.kubectl(&format!("create secret tls web --cert {certificate}.crt --key {certificate}.key"));
    namespace.apply(WEB);
    namespace.wait("deployment/web", "condition=Available");
    eventually(SOON, || answers(cluster, "web.example", "/", 200));

    let ingress = namespace.json("get ingress web");
    assert_eq!(ingress["spec"]["ingressClassName"], "traefik", "the class is the default one");
    eventually(SOON, || {
        let status = namespace.json("get ingress web")["status"].clone();
        let address = &status["loadBalancer"]["ingress"][0]["ip"];
        if *address == cluster.address().to_string() { Ok(()) } else { Err(status.to_string()) }
    });

    // Each Pod names itself on its page.
    let name = |page: &str| page.lines().find(|line| line.contains("<dt>Pod</dt>")).unwrap_or_default().to_owned();
    eventually(SOON, || {
        let names: BTreeSet<String> = (0..8).map(|_| name(&request(cluster, "web.example", "/").0)).collect();
        if names.len() == 2 { Ok(()) } else { Err(format!("not both Pods are asked: {names:?}")) }
    });
    for (host, path, status) in [
        ("web.example", "/healthz", 200),
        ("web.example", "/env", 404),
        // Of whole path elements: what is for /health is not for /healthz.
        ("prefix.example", "/healthz", 404),
        ("localhost", "/healthz", 200),
        ("localhost", "/", 404),
        ("other.example", "/", 404),
        ("other.example", "/healthz", 404),
    ] {
        answers(cluster, host, path, status).unwrap_or_else(|error| panic!("{error}"));
    }

    the_certificate_of_the_secret_is_served(&namespace);
    the_controller_has_few_rights(&namespace);

    let killed = cluster.pid("ingress");
    cluster.kill(&["ingress"]);
    cluster.eventually_replaced("ingress", killed, SOON);
    eventually(SOON, || answers(cluster, "web.example", "/healthz", 200));

    namespace.kubectl("scale deployment/web --replicas=0");
    eventually(SOON, || answers(cluster, "web.example", "/healthz", 503));
    namespace.kubectl("delete ingress web");
    eventually(SOON, || answers(cluster, "web.example", "/healthz", 404));
    namespace.keep();
    cluster.terrarium("down").succeeds();
    Marks::of(cluster).assert_same_as(&before);
}

fn the_certificate_of_the_secret_is_served(namespace: &Namespace<'_>) {
    let secure = format!("curl -sS --max-time 10 --cacert {DATA_DIR}/pki/ca.crt https://localhost/healthz");
    namespace.cluster.sh(&secure).succeeds().prints("ok");
    namespace.kubectl("delete secret web");
    // Then it is Traefik's own, which nobody trusts.
    eventually(SOON, || {
        let ran = namespace.cluster.sh(&secure);
        if ran.code == 60 { Ok(()) } else { Err(ran.to_string()) }
    });
}

fn the_controller_has_few_rights(namespace: &Namespace<'_>) {
    let pki = format!("{DATA_DIR}/pki");
    let certificate = format!("--cacert {pki}/ca.crt --cert {pki}/ingress.crt --key {pki}/ingress.key");
    let api = format!("https://127.0.0.1:6443/api/v1/namespaces/{}", namespace.name);
    for (request, status) in [("/services", "200"), ("/pods", "403"), ("/services/web -X DELETE", "403")] {
        let script = format!("curl -sS -o /dev/null -w '%{{http_code}}' {certificate} {api}{request}");
        assert_eq!(namespace.cluster.sh(&script).succeeds().stdout, status, "{request}");
    }
}

fn a_used_port_is_told_and_taken_when_it_is_free(cluster: &Cluster) {
    let listen = "perl -MIO::Socket::INET -e '$s = IO::Socket::INET->new(LocalPort => 80, Listen => 1) or die; \
        sleep 1000' >/dev/null 2>&1 & echo $!";
    let holder = cluster.sh(listen).succeeds().stdout.trim().to_owned();
    eventually(SOON, || cluster.sh("grep ':0050 .* 0A ' /proc/net/tcp").ok());
    let up = cluster.terrarium("up --enable ingress").succeeds();
    up.complains(&format!("ingress: port 80 is used by process {holder} (perl"));
    // The rest of the cluster does without it.
    cluster.eventually_runs(Duration::from_secs(60));
    assert_eq!(cluster.pid("ingress"), None);
    cluster.terrarium("status").succeeds().prints("! port 80 is used by process ");
    cluster.sh("curl -s --max-time 5 http://127.0.0.1:8080/").exits(7);

    cluster.sh(&format!("kill {holder}")).succeeds();
    eventually(SOON, || is_ready(cluster));
    answers(cluster, "any.example", "/", 404).unwrap_or_else(|error| panic!("{error}"));
    cluster.terrarium("down").succeeds();
    // Whoever wants another set of add-ons than the running cluster has begins anew.
    cluster.up();
    cluster.terrarium("up --enable ingress").exits(4).complains("[restart-needed]");
    cluster.terrarium("down").succeeds();
}

/// Whether the controller runs, by its own word.
fn is_ready(cluster: &Cluster) -> Result<(), String> {
    let status = cluster.status();
    let components = status["components"].as_array().into_iter().flatten();
    let found = components.filter(|component| component["name"] == "ingress");
    let is_ready = found.filter(|component| component["pid"].is_i64() && component["unhealthy"].is_null()).count() == 1;
    if is_ready { Ok(()) } else { Err(format!("the controller is not ready: {status}")) }
}

/// The body and the status of the node's answer to a request for a host.
fn request(cluster: &Cluster, host: &str, path: &str) -> (String, u16) {
    let script =
        format!("curl -sS --max-time 10 -w '\\n%{{http_code}}' -H 'Host: {host}' 'http://{}{path}'", cluster.address());
    let answer = cluster.sh(&script).stdout;
    let (body, status) = answer.rsplit_once('\n').unwrap_or(("", ""));
    (body.to_owned(), status.parse().unwrap_or_default())
}

fn answers(cluster: &Cluster, host: &str, path: &str, expected: u16) -> Result<(), String> {
    match request(cluster, host, path) {
        (_, status) if status == expected => Ok(()),
        (body, status) => Err(format!("{host}{path} was answered with {status} instead of {expected}: {body}")),
    }
}
