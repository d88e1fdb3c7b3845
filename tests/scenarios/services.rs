//! Services lead to their Pods, from everywhere, and to no others.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use harness::{Cluster, Namespace, Ran, eventually};
use serde_json::{Value, json};

crate::stories! {
    Shared in BUILDS:
        a_service_leads_the_node_to_all_of_its_pods
        a_node_port_answers_on_the_node_and_from_outside
        a_node_port_by_udp_outlasts_the_pods_that_were_there
        a_load_balancer_and_an_external_address_answer
        a_client_stays_with_its_pod_where_it_is_asked_for
        a_service_without_pods_refuses_at_once
        routes_follow_endpoints
        a_rollout_under_load_loses_no_request
        a_service_goes_past_the_relay_where_that_is_asked_for;
    Shared:
        what_a_service_must_not_have_is_refused_with_an_event;
    Harmed:
        services_go_on_after_their_proxy_was_killed;
    Shared in PODS:
        a_service_leads_pods_to_pods_and_to_themselves
        a_pod_asks_the_api_by_its_service_with_its_token
        the_whole_path_is_tried_by_doctor;
    Shared:
        doctor_says_where_the_path_breaks;
}

const WEB: &str = include_str!("../manifests/service.yaml");

/// How long rules and endpoints may take to follow.
pub const SOON: Duration = Duration::from_secs(60);

fn a_service_leads_the_node_to_all_of_its_pods(cluster: &Cluster) {
    let namespace = web(cluster, "services-node");
    let pods: BTreeSet<String> = namespace.pods("app=web").iter().map(|pod| pod.address.to_string()).collect();
    let address = address(&namespace, "web");
    eventually(SOON, || {
        let answers = cluster.sh(&format!("for _ in $(seq 30); do {CURL} http://{address}/; done")).ok()?;
        let seen: BTreeSet<String> = answers.lines().filter_map(address_on).map(str::to_owned).collect();
        if seen == pods { Ok(()) } else { Err(format!("{seen:?} answered, not {pods:?}")) }
    });
    eventually(SOON, || cluster.sh(&format!("{} | grep web-", udp(&format!("{address}/80")))).ok());
}

fn a_service_leads_pods_to_pods_and_to_themselves(cluster: &Cluster) {
    let namespace = web(cluster, "services-pods");
    namespace.kubectl("scale deployment/web --replicas=1");
    namespace.apply(&reacher("other", &["tcp=http://web/healthz", "udp=udp://web:80"]));
    assert_reached(&namespace, "other", 2);
    // The one Pod that there is asks itself. One that has ended and is not removed yet has no address any more.
    let pod = eventually(Duration::from_secs(30), || {
        let names = namespace.kubectl("get pods -l app=web -o name");
        if names.lines().count() == 1 { Ok(names.trim().replace("pod/", "")) } else { Err(names) }
    });
    namespace.exec(&pod, "reach --within 10s http://web/healthz").succeeds().prints("ok\t");
}

fn a_node_port_answers_on_the_node_and_from_outside(cluster: &Cluster) {
    let namespace = web(cluster, "services-ports");
    let service = namespace.json("get service web");
    let port = |index: usize| service["spec"]["ports"][index]["nodePort"].as_u64().expect("a node port");
    let node = cluster.address();
    for host in [node.to_string(), "127.0.0.1".to_owned()] {
        eventually(SOON, || cluster.sh(&format!("{CURL} http://{host}:{}/healthz | grep ok", port(0))).ok());
    }
    eventually(SOON, || cluster.sh(&format!("{} | grep web-", udp(&format!("{node}/{}", port(1))))).ok());
    let of = |port: u64| SocketAddr::from((node, u16::try_from(port).expect("a port")));
    let answer = eventually(SOON, || http(of(port(0))).map_err(|error| error.to_string()));
    assert!(answer.contains("ok"), "{answer}");
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a limit");
    let mut answer = [0; 64];
    let (length, from) = eventually(SOON, || {
        socket.send_to(b"?", of(port(1))).expect("sent");
        socket.recv_from(&mut answer).map_err(|error| format!("no answer from outside by UDP: {error}"))
    });
    assert_eq!((from, &answer[..4]), (of(port(1)), b"web-".as_slice()), "{length} bytes");

    namespace.apply(&reacher(
        "other",
        &[&format!("http://{node}:{}/healthz", port(0)), &format!("udp://{node}:{}", port(1))],
    ));
    assert_reached(&namespace, "other", 2);
}

/// gVisor ties a UDP socket to the link that had its address when it was bound, which is a Pod's.
fn a_node_port_by_udp_outlasts_the_pods_that_were_there(cluster: &Cluster) {
    let namespace = web(cluster, "services-outlasting");
    let port = namespace.json("get service web")["spec"]["ports"][1]["nodePort"].as_u64().expect("a node port");
    let node = &cluster.json("get nodes")["items"][0]["status"]["addresses"][0]["address"];
    let target = format!("udp://{}:{port}", node.as_str().expect("the node's address"));
    for round in ["first", "second"] {
        namespace.apply(&reacher(round, &[&target]));
        assert_reached(&namespace, round, 1);
        namespace.kubectl(&format!("delete pod {round} --wait=true"));
        namespace.kubectl("rollout restart deployment/web");
        namespace.kubectl("rollout status deployment/web --timeout=90s");
    }
}

fn a_pod_asks_the_api_by_its_service_with_its_token(cluster: &Cluster) {
    let namespace = cluster.namespace("services-api");
    namespace.apply(&runner("asks", &["api", "/api/v1/namespaces/services-api/pods"]));
    namespace.wait("pod/asks", "jsonpath={.status.phase}=Failed");
    // It is known, and allowed nothing.
    let log = namespace.kubectl("logs asks");
    assert!(log.contains("system:serviceaccount:services-api:default") && log.contains("403 Forbidden"), "{log}");
}

fn a_load_balancer_and_an_external_address_answer(cluster: &Cluster) {
    let namespace = web(cluster, "services-balanced");
    let external = Ipv4Addr::new(192, 0, 2, 77);
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "balanced"},
        "spec": {"type": "LoadBalancer", "selector": {"app": "web"}, "externalIPs": [external],
            "ports": [{"port": 8765, "targetPort": 8080}]},
    });
    namespace.apply(&service.to_string());
    let node = cluster.address();
    namespace.wait("service/balanced", &format!("jsonpath={{.status.loadBalancer.ingress[0].ip}}={node}"));
    for host in [node, external] {
        eventually(SOON, || cluster.sh(&format!("{CURL} http://{host}:8765/healthz")).ok());
    }
    eventually(SOON, || http((node, 8765).into()).map_err(|error| error.to_string()));
    namespace.apply(&reacher(
        "other",
        &[&format!("http://{node}:8765/healthz"), &format!("http://{external}:8765/healthz")],
    ));
    assert_reached(&namespace, "other", 2);
    namespace.kubectl("delete service balanced");
    eventually(SOON, || match cluster.sh(&format!("{CURL} http://{node}:8765/healthz")).code {
        0 => Err("it still answers".to_owned()),
        _ => Ok(()),
    });
}

fn a_client_stays_with_its_pod_where_it_is_asked_for(cluster: &Cluster) {
    let namespace = web(cluster, "services-affinity");
    let patch = json!({"spec": {"sessionAffinity": "ClientIP"}});
    namespace.kubectl(&format!("patch service web -p {patch}"));
    let address = address(&namespace, "web");
    eventually(SOON, || {
        let answers = cluster.sh(&format!("for _ in $(seq 12); do {CURL} http://{address}/; done")).ok()?;
        let seen: BTreeSet<&str> = answers.lines().filter_map(address_on).collect();
        if seen.len() == 1 { Ok(()) } else { Err(format!("{seen:?} answered one client")) }
    });
}

fn a_service_without_pods_refuses_at_once(cluster: &Cluster) {
    let namespace = cluster.namespace("services-empty");
    namespace.kubectl("create service clusterip nobody --tcp=80:80");
    let address = address(&namespace, "nobody");
    let refused = cluster.sh(&format!("curl -sS --max-time 8 http://{address}/"));
    assert_refused(&refused);
}

/// A Service whose endpoints are written by hand goes back and forth between two Pods, as fast as the API takes it.
fn routes_follow_endpoints(cluster: &Cluster) {
    let namespace = web(cluster, "services-churn");
    let pods: Vec<Ipv4Addr> = namespace.pods("app=web").iter().map(|pod| pod.address).collect();
    namespace.apply(
        &json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "churn"}, "spec": {"ports": [{"port": 80}]},
        })
        .to_string(),
    );
    namespace.apply(&slice("churn", &pods[0].to_string()).to_string());
    let service = address(&namespace, "churn");
    let path = "/apis/discovery.k8s.io/v1/namespaces/services-churn/endpointslices/churn";
    let script = format!(
        r#"
        terrarium kubectl proxy --port=8101 >/dev/null & proxy=$!
        for _ in $(seq 600); do curl -s -o /dev/null http://127.0.0.1:8101/readyz && break; sleep 0.05; done
        wrong=0; last=0
        for round in $(seq 60); do
            [ $((round % 2)) = 0 ] && pod={one} || pod={two}
            curl -sSf -o /dev/null -X PATCH -H 'Content-Type: application/merge-patch+json' \
                -d '{{"endpoints":[{{"addresses":["'$pod'"],"conditions":{{"ready":true}}}}]}}' http://127.0.0.1:8101{path} || exit 9
            for try in $(seq 40); do
                answer=$({CURL} http://{service}/) && [[ $answer == *"<dd>$pod</dd>"* ]] && break
                sleep 0.025
            done
            [[ $answer == *"<dd>$pod</dd>"* ]] || wrong=$((wrong + 1))
            [ $try -le 4 ] || last=$((last + 1))
        done
        kill $proxy; echo "wrong $wrong late $last""#,
        one = pods[0],
        two = pods[1],
    );
    cluster.sh(&script).succeeds().prints("wrong 0 ");
}

fn a_rollout_under_load_loses_no_request(cluster: &Cluster) {
    // However slow the machine is, everybody has heard of an end by then.
    let patient = WEB.replace("seconds: 2", "seconds: 8").replace("PeriodSeconds: 10", "PeriodSeconds: 20");
    assert_ne!(patient, WEB);
    let namespace = deployed(cluster, "services-rollout", &patient);
    let address = address(&namespace, "web");
    eventually(SOON, || cluster.sh(&format!("{CURL} http://{address}/healthz")).ok());
    // A connection for each of ten requests: to start curl takes longer than they do.
    let ten = format!(
        "curl -sSf --max-time 30 --fail-early -H 'Connection: close' -o /dev/null 'http://{address}/healthz?[1-10]'"
    );
    let script = format!(
        "( done=0 failed=0
           until [ -e /tmp/rolled ]; do
               if {ten}; then done=$((done + 10)); else failed=$((failed + 1)); fi
           done; echo requests $done failed $failed ) & load=$!
         terrarium kubectl -n services-rollout rollout restart deployment/web &&
         terrarium kubectl -n services-rollout rollout status deployment/web --timeout=120s >&2
         code=$?; sleep 12; touch /tmp/rolled; wait $load; rm /tmp/rolled; exit $code"
    );
    let ran = cluster.sh(&script).succeeds().prints(" failed 0\n");
    let requests: u64 = ran
        .stdout
        .split_whitespace()
        .skip_while(|word| *word != "requests")
        .nth(1)
        .expect("a count")
        .parse()
        .expect("a number");
    assert!(requests > 100, "{ran}");
}

fn a_service_goes_past_the_relay_where_that_is_asked_for(cluster: &Cluster) {
    let namespace = web(cluster, "services-past");
    let address = address(&namespace, "web");
    let saved = format!("iptables-legacy-save -t nat | grep -- '-d {address}/32 .* -j DNAT'");
    let rules = || cluster.sh(&format!("{saved} | wc -l")).stdout;
    let counts = |wanted: &str| {
        eventually(SOON, || if rules().trim() == wanted { Ok(()) } else { Err(rules()) });
    };
    namespace.kubectl("annotate service web terrarium.dev/path=in-stack");
    counts("3");
    // A third each of what Pods connect from, 16000 to 65535, whatever the node's own connections have.
    let first = cluster.sh(&format!("{saved} | grep -o 'sport 1024:[0-9]*' | cut -d: -f2")).succeeds().stdout;
    let last_port: u16 = first.trim().parse().expect("the end of the first share");
    assert!((30_000..35_000).contains(&last_port), "{last_port}");
    let ask = format!("for _ in $(seq 30); do {CURL} http://{address}/ || exit 1; done");
    let answers = cluster.sh(&ask).succeeds();
    let seen: BTreeSet<&str> = answers.stdout.lines().filter_map(address_on).collect();
    assert!(seen.len() > 1, "only {seen:?} answered");
    namespace.apply(&reacher("other", &["http://web/healthz"]));
    assert_reached(&namespace, "other", 1);
    // Rules follow endpoints.
    namespace.kubectl("scale deployment/web --replicas=1");
    counts("1");
    namespace.kubectl("annotate service web terrarium.dev/path=relay --overwrite");
    counts("0");
    cluster.sh(&format!("{CURL} http://{address}/healthz")).succeeds();
}

fn what_a_service_must_not_have_is_refused_with_an_event(cluster: &Cluster) {
    let namespace = web(cluster, "services-refused");
    let node = cluster.address();
    let thief = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "thief"},
        "spec": {"selector": {"app": "web"}, "externalIPs": [node], "ports": [{"port": 6443, "targetPort": 8080}]},
    });
    let sctp = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "sctp"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "protocol": "SCTP"}]},
    });
    let inward = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "inward"}, "spec": {"ports": [{"port": 10249}]}});
    for object in [&thief, &sctp, &inward] {
        namespace.apply(&object.to_string());
    }
    // The API itself refuses loopback and link-local addresses; another Service's is for the proxy to refuse.
    namespace.try_apply(&slice("inward", "127.0.0.1").to_string()).exits(1).complains("loopback");
    namespace.apply(&slice("inward", &address(&namespace, "web")).to_string());
    for service in ["thief", "sctp", "inward"] {
        eventually(SOON, || {
            let events = namespace.kubectl("get events -o json");
            let events: Value = serde_json::from_str(&events).expect("JSON");
            let about = |event: &&Value| event["involvedObject"]["name"] == service && event["type"] == "Warning";
            let told = events["items"].as_array().and_then(|events| events.iter().find(about)).is_some();
            if told { Ok(()) } else { Err(format!("no event about {service}: {events}")) }
        });
    }
    cluster.kubectl("get --raw /readyz");
    let inward = address(&namespace, "inward");
    assert_refused(&cluster.sh(&format!("{CURL} http://{inward}:10249/")));
}

fn services_go_on_after_their_proxy_was_killed(cluster: &Cluster) {
    cluster.up();
    let namespace = web(cluster, "services-killed");
    let address = address(&namespace, "web");
    let before = cluster.pid("netd");
    cluster.kill(&["netd"]);
    cluster.eventually_replaced("netd", before, Duration::from_secs(30));
    eventually(SOON, || cluster.sh(&format!("{CURL} http://{address}/healthz")).ok());
    // Names do not need it.
    namespace.apply(&reacher("names", &["dns://10.43.0.10/web.services-killed.svc.cluster.local."]));
    assert_reached(&namespace, "names", 1);
}

fn the_whole_path_is_tried_by_doctor(cluster: &Cluster) {
    let ran = cluster.terrarium("doctor --network").succeeds().prints("✓ Pod to itself by its Service");
    assert!(!ran.stdout.contains('✗'), "{ran}");
    let legs: Value =
        serde_json::from_str(&cluster.terrarium("doctor --network -o json").succeeds().stdout).expect("JSON");
    assert!(
        legs.as_array().is_some_and(|legs| legs.len() >= 13 && legs.iter().all(|leg| leg["works"] == true)),
        "{legs}"
    );
    eventually(Duration::from_secs(60), || {
        let left = cluster.kubectl("get namespaces -l terrarium.dev/doctor -o name");
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}

fn doctor_says_where_the_path_breaks(cluster: &Cluster) {
    let netd = cluster.pid("netd").expect("netd runs");
    cluster.sh(&format!("kill -STOP {netd}")).succeeds();
    let ran = cluster.terrarium("doctor --network");
    cluster.sh(&format!("kill -CONT {netd}")).succeeds();
    ran.exits(1)
        .complains("the network breaks at node to Service")
        .complains("terrarium logs netd")
        .prints("✓ node to Pod");
    // While its API is out of reach no namespace goes.
    eventually(Duration::from_secs(60), || crate::metrics::is_served(cluster));
}

pub const CURL: &str = "curl -sSf --max-time 5";

/// A refusal or a reset, whichever of curl's calls met it, and no time-out.
#[track_caller]
fn assert_refused(curl: &Ran) {
    assert!([7, 55, 56].contains(&curl.code), "{curl}");
}

/// A namespace with the Service `web`, whose Pods are ready.
fn web<'a>(cluster: &'a Cluster, name: &'a str) -> Namespace<'a> {
    deployed(cluster, name, WEB)
}

fn deployed<'a>(cluster: &'a Cluster, name: &'a str, manifest: &str) -> Namespace<'a> {
    let namespace = cluster.namespace(name);
    namespace.apply(manifest);
    namespace.kubectl("rollout status deployment/web --timeout=90s");
    namespace
}

fn address(namespace: &Namespace<'_>, service: &str) -> String {
    namespace.kubectl(&format!("get service {service} -o jsonpath={{.spec.clusterIP}}"))
}

/// The Pod's address on the sample's page.
fn address_on(line: &str) -> Option<&str> {
    line.strip_prefix("<dt>Address</dt><dd>")?.strip_suffix("</dd>")
}

/// A Pod that runs the sample's program with these arguments, once.
fn runner(name: &str, args: &[&str]) -> String {
    let container = json!({"name": "sample", "image": "localhost/terrarium/sample:0.1.0", "imagePullPolicy": "Never", "args": args});
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"restartPolicy": "Never", "containers": [container]},
    })
    .to_string()
}

/// A Pod that tries these, and tells in its log.
pub fn reacher(name: &str, targets: &[&str]) -> String {
    runner(name, &[&["reach", "--within", "15s"], targets].concat())
}

pub fn assert_reached(namespace: &Namespace<'_>, pod: &str, targets: usize) {
    let log = eventually(Duration::from_secs(60), || {
        let ended = namespace.json(&format!("get pod {pod}"))["status"]["phase"].clone();
        if ended == "Succeeded" || ended == "Failed" {
            Ok(namespace.kubectl(&format!("logs {pod}")))
        } else {
            Err(ended.to_string())
        }
    });
    assert_eq!(log.lines().filter(|line| line.starts_with("ok\t")).count(), targets, "{log}");
}

/// An EndpointSlice of one endpoint.
fn slice(service: &str, address: &str) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": service, "labels": {"kubernetes.io/service-name": service}},
        "ports": [{"port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
    })
}

/// A shell's command that asks by a datagram and prints the answer.
pub fn udp(address: &str) -> String {
    format!("exec 3<>/dev/udp/{address} && echo '?' >&3 && timeout 5 head -c 4 <&3")
}

/// Asks for /healthz from the test's own machine.
pub fn http(server: SocketAddr) -> std::io::Result<String> {
    let mut connection = TcpStream::connect_timeout(&server, Duration::from_secs(5))?;
    connection.set_read_timeout(Some(Duration::from_secs(5)))?;
    connection.write_all(b"GET /healthz HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    Ok(answer)
}
