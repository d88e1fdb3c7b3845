//! A Pod runs and is reached in every way that Kubernetes has.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use harness::{Cluster, Namespace, eventually};
use ipnet::Ipv4Net;

crate::stories! {
    Shared:
        the_node_is_ready_and_of_the_pinned_version
        a_pod_gets_an_address_and_logs
        exec_passes_on_exit_codes_and_both_outputs
        exec_passes_on_its_input
        port_forward_leads_to_the_pod
        the_node_reaches_the_pod
        a_pod_reaches_another_pod
        a_broken_container_is_restarted_by_its_liveness_probe;
    Shared in PODS:
        a_pod_reaches_the_outside_with_the_sandboxs_address;
}

const VERSION: &str = "v1.36.4";
const WEB: &str = include_str!("../manifests/web.yaml");
const FRAGILE: &str = include_str!("../manifests/probed.yaml");

fn the_node_is_ready_and_of_the_pinned_version(cluster: &Cluster) {
    let table = cluster.kubectl("get nodes --no-headers");
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows.len(), 1, "{table}");
    assert_eq!((rows[0][1], rows[0][4]), ("Ready", VERSION), "{table}");

    let node = &cluster.json("get nodes")["items"][0];
    let addresses = node["status"]["addresses"].as_array().expect("a node has addresses");
    let internal = addresses.iter().find(|address| address["type"] == "InternalIP").expect("an InternalIP");
    assert_eq!(internal["address"], cluster.address().to_string());

    let version = cluster.json("version");
    assert_eq!(version["clientVersion"]["gitVersion"], VERSION);
    assert_eq!(version["serverVersion"]["gitVersion"], VERSION);
}

fn a_pod_gets_an_address_and_logs(cluster: &Cluster) {
    let namespace = web(cluster, "pods-logs");
    let pod = namespace.pod("web");
    let range: Ipv4Net = "10.42.0.0/24".parse().expect("a network");
    assert!(range.contains(&pod.address) && pod.address != Ipv4Addr::new(10, 42, 0, 1), "{}", pod.address);
    assert_eq!(pod.json["status"]["phase"], "Running");

    assert!(namespace.kubectl("logs web").contains("listening on [::]:8080"));
    let before = namespace.kubectl("logs web").matches("GET /env 200").count();
    cluster.run(["curl", "-sSf", &format!("http://{}:8080/env", pod.address)]).succeeds();
    eventually(Duration::from_secs(30), || {
        let after = namespace.kubectl("logs web").matches("GET /env 200").count();
        if after == before + 1 { Ok(()) } else { Err(format!("{after} requests are in the log")) }
    });
}

fn exec_passes_on_exit_codes_and_both_outputs(cluster: &Cluster) {
    let namespace = web(cluster, "pods-exec");
    for code in [0, 1, 7, 255] {
        namespace.exec("web", &format!("exit {code}")).exits(code);
    }
    let echoed = namespace.exec("web", "echo one two").succeeds();
    assert_eq!((echoed.stdout.as_str(), echoed.stderr.as_str()), ("one two\n", ""));
    let failed = namespace.exec("web", "cat /nowhere").exits(1).complains("open /nowhere: no such file or directory");
    assert_eq!(failed.stdout, "");
    namespace.try_kubectl("exec web -- /nowhere").exits(1).complains("exec \"/nowhere\": No such file or directory");
}

fn exec_passes_on_its_input(cluster: &Cluster) {
    let namespace = web(cluster, "pods-stdin");
    let input = "first\nsecond\n".repeat(5_000);
    let words =
        ["terrarium", "kubectl", "-n", namespace.name, "exec", "-i", "web", "--", "/sample", "cat", "/dev/stdin"];
    let output = cluster.run_with_input(words, input.as_bytes()).succeeds().stdout;
    assert!(output == input, "{} bytes came back of {}", output.len(), input.len());
}

fn port_forward_leads_to_the_pod(cluster: &Cluster) {
    let _namespace = web(cluster, "pods-forward");
    let script = "
        terrarium kubectl -n pods-forward port-forward pod/web 8180:8080 >/tmp/forward.log 2>&1 & forward=$!
        for _ in $(seq 1200); do grep -q 'Forwarding from 127.0.0.1' /tmp/forward.log && break; sleep 0.05; done
        curl -sS --max-time 10 http://127.0.0.1:8180/ && curl -sS --max-time 10 http://127.0.0.1:8180/healthz
        code=$?; kill $forward; wait $forward; cat /tmp/forward.log >&2; rm /tmp/forward.log; exit $code";
    cluster.sh(script).succeeds().prints("this page comes from a Pod").prints("\nok\n");
}

fn the_node_reaches_the_pod(cluster: &Cluster) {
    let namespace = web(cluster, "pods-node");
    let address = namespace.pod("web").address;
    let url = format!("http://{address}:8080/");
    let page = cluster.run(["curl", "-sS", "--max-time", "10", "-w", "%{http_code}", &url]).succeeds();
    page.prints("<dt>Pod</dt><dd>web</dd>").prints(&format!("<dd>{address}</dd>")).prints("</html>\n200");
}

fn a_pod_reaches_another_pod(cluster: &Cluster) {
    let namespace = web(cluster, "pods-pods");
    namespace.apply(&WEB.replace("name: web", "name: other"));
    namespace.wait("pod/other", "condition=Ready");
    let (web, other) = (namespace.pod("web").address, namespace.pod("other").address);
    let page = namespace.exec("web", &format!("get http://{other}:8080/")).succeeds();
    page.prints("<dt>Pod</dt><dd>other</dd>");
    // No address is hidden between Pods.
    eventually(Duration::from_secs(30), || {
        let log = namespace.kubectl("logs other");
        let told = log.contains(&format!("{web}:"));
        if told { Ok(()) } else { Err(format!("the request came from another address than {web}:\n{log}")) }
    });
}

fn a_pod_reaches_the_outside_with_the_sandboxs_address(cluster: &Cluster) {
    reaches_the_outside(&web(cluster, "pods-outside"));
}

/// Its Pod `web` does, and is seen there with the sandbox's address.
#[track_caller]
pub fn reaches_the_outside(namespace: &Namespace<'_>) {
    let cluster = namespace.cluster;
    let server = TcpListener::bind((cluster.outside(), 0)).expect("a port on the sandbox's gateway");
    let url = format!("http://{}/", server.local_addr().expect("the server has an address"));
    let served = thread::spawn(move || serve_once(&server));
    namespace.exec("web", &format!("get {url}")).succeeds().prints("from outside");
    let peer = served.join().expect("the server does not panic").expect("one request");
    assert_eq!(peer, IpAddr::from(cluster.address()), "the outside sees a Pod's own address");
}

/// Answers one request, and tells where it came from.
fn serve_once(server: &TcpListener) -> std::io::Result<IpAddr> {
    server.set_nonblocking(true)?;
    let start = Instant::now();
    let (mut connection, peer) = loop {
        match server.accept() {
            Err(error) if start.elapsed() > Duration::from_secs(20) => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(20)),
            Ok(accepted) => break accepted,
        }
    };
    connection.set_nonblocking(false)?;
    let _ = connection.read(&mut [0; 1024])?;
    connection.write_all(b"HTTP/1.0 200 OK\r\n\r\nfrom outside")?;
    Ok(peer.ip())
}

fn a_broken_container_is_restarted_by_its_liveness_probe(cluster: &Cluster) {
    let namespace = cluster.namespace("pods-liveness");
    namespace.apply(FRAGILE);
    namespace.wait("pod/fragile", "condition=Ready");
    let before = namespace.pod("fragile");
    assert_eq!(before.restarts, 0);

    let url = |path: &str| format!("http://{}:8080/{path}", before.address);
    // By one curl: a second one may come after the restart.
    let codes = "-sS -o /dev/null -w %{http_code},";
    let both = format!("curl {codes} -X POST {} --next {codes} {}", url("break"), url("healthz"));
    assert_eq!(cluster.sh(&both).succeeds().stdout, "200,500,");
    namespace.wait("pod/fragile", "jsonpath={.status.containerStatuses[0].restartCount}=1");
    namespace.wait("pod/fragile", "condition=Ready");

    let after = namespace.pod("fragile");
    assert_ne!(after.container, before.container);
    assert_eq!(after.address, before.address, "a restart keeps the Pod's address");
    cluster.run(["curl", "-sSf", &url("healthz")]).succeeds();
    let events = namespace.kubectl("get events");
    assert!(events.contains("Liveness probe failed: HTTP probe failed with statuscode: 500"), "{events}");
}

/// A namespace with the Pod `web`, which is ready.
pub fn web<'a>(cluster: &'a Cluster, name: &'a str) -> Namespace<'a> {
    let namespace = cluster.namespace(name);
    namespace.apply(WEB);
    namespace.wait("pod/web", "condition=Ready");
    namespace
}
