//! Names resolve: those of the cluster in every Pod, and those of the outside as far as the sandbox's resolvers know them.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use harness::{Cluster, Namespace, eventually};
use serde_json::{Value, json};
use terrarium_testbed::Gvisor;

crate::stories! {
    Shared in PODS:
        names_of_the_cluster_resolve_in_a_pod
        a_pod_has_the_resolvers_that_its_policy_says
        names_of_the_outside_are_asked_of_the_sandboxs_resolver;
    Shared:
        malformed_questions_do_no_harm
        settings_of_the_users_own_are_taken_over;
    Harmed:
        a_killed_name_server_is_started_again;
    Idle:
        who_has_port_53_is_named
        without_a_resolver_other_names_do_not_exist;
}

const NAMES: &str = include_str!("../manifests/names.yaml");

/// Where the cluster's names are asked for.
const SERVER: &str = "10.43.0.10";

fn names_of_the_cluster_resolve_in_a_pod(cluster: &Cluster) {
    let namespace = cluster.namespace("dns-names");
    namespace.apply(NAMES);
    namespace.kubectl("rollout status statefulset/peers --timeout=120s");
    let front = namespace.json("get service front")["spec"]["clusterIP"].as_str().expect("a ClusterIP").to_owned();
    let peers = ["peers-0", "peers-1"].map(|name| namespace.pod(name).address.to_string());
    let mut both = peers.clone();
    both.sort();
    let dashed = peers[0].replace('.', "-");
    let expected = [
        ("a:kubernetes.default.svc.cluster.local", "10.43.0.1"),
        ("a:kubernetes.default.svc", "10.43.0.1"),
        ("a:kubernetes.default", "10.43.0.1"),
        ("a:front", &front),
        ("tcp/a:front", &front),
        ("a:front.dns-names", &front),
        // Whole names: others would be asked for outside, too.
        ("a:kubernetes.dns-names.svc.cluster.local.", "error: no such host"),
        ("a:nowhere.cluster.local.", "error: no such host"),
        ("a:peers", &both.join(" ")),
        ("a:peers-0.peers", &peers[0]),
        ("tcp/a:peers-1.peers.dns-names.svc.cluster.local", &peers[1]),
        (&format!("a:{dashed}.dns-names.pod.cluster.local"), &peers[0]),
        ("srv:_http._tcp.front", "front.dns-names.svc.cluster.local.:80"),
        (
            "srv:_http._tcp.peers",
            "peers-0.peers.dns-names.svc.cluster.local.:8080 peers-1.peers.dns-names.svc.cluster.local.:8080",
        ),
        ("srv:_gopher._tcp.front.dns-names.svc.cluster.local.", "error: no such host"),
        ("ptr:10.43.0.1", "kubernetes.default.svc.cluster.local."),
        (&format!("ptr:{front}"), "front.dns-names.svc.cluster.local."),
        (&format!("ptr:{}", peers[0]), "peers-0.peers.dns-names.svc.cluster.local."),
        ("cname:alias", "kubernetes.default.svc.cluster.local."),
        ("a:alias", "10.43.0.1"),
    ];
    // What is ready is told to CoreDNS a moment later.
    let mut attempt = 0;
    eventually(Duration::from_secs(90), || {
        attempt += 1;
        let questions: Vec<_> = expected.iter().map(|(question, _)| *question).collect();
        let answers = resolve(&namespace, &format!("asker-{attempt}"), &questions);
        let wrong = expected.iter().filter(|(question, expected)| {
            let answer = answers.get(*question).map(String::as_str).unwrap_or_default();
            // An address has several names where several Services lead to it.
            if question.starts_with("ptr:") {
                !answer.split(' ').any(|name| name == *expected)
            } else {
                answer != *expected
            }
        });
        let wrong: Vec<_> = wrong.collect();
        if wrong.is_empty() { Ok(()) } else { Err(format!("expected {wrong:?}, got {answers:#?}")) }
    });
}

fn a_pod_has_the_resolvers_that_its_policy_says(cluster: &Cluster) {
    let namespace = cluster.namespace("dns-policies");
    let show = ["cat", "/etc/resolv.conf"];
    let own = json!({"nameservers": ["192.0.2.53"], "searches": ["corp.example"], "options": [{"name": "ndots", "value": "2"}]});
    for (pod, spec) in [
        ("first", json!({"dnsPolicy": "ClusterFirst"})),
        ("default", json!({"dnsPolicy": "Default"})),
        ("none", json!({"dnsPolicy": "None", "dnsConfig": own})),
        ("host", json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true})),
        ("host-first", json!({"dnsPolicy": "ClusterFirst", "hostNetwork": true})),
    ] {
        start(&namespace, pod, &show, spec);
    }
    let of = |pod: &str| ended(&namespace, pod);
    let search = "search dns-policies.svc.cluster.local svc.cluster.local cluster.local";
    for pod in ["first", "host"] {
        let conf = of(pod);
        assert!(conf.contains(&format!("nameserver {SERVER}\n")) && conf.contains("options ndots:5"), "{pod}: {conf}");
        assert!(conf.lines().any(|line| line.starts_with(search)), "{pod}: {conf}");
    }
    let sandboxs = cluster.sh("grep ^nameserver /etc/resolv.conf").stdout;
    for pod in ["default", "host-first"] {
        let conf = of(pod);
        let servers: String =
            conf.lines().filter(|line| line.starts_with("nameserver")).map(|line| format!("{line}\n")).collect();
        assert_eq!(servers, sandboxs, "{pod}: {conf}");
        assert!(!conf.contains("cluster.local"), "{pod}: {conf}");
    }
    let conf = of("none");
    for line in ["nameserver 192.0.2.53", "search corp.example", "options ndots:2"] {
        assert!(conf.lines().any(|other| other == line), "{conf}");
    }
    assert!(!conf.contains(SERVER), "{conf}");
}

fn names_of_the_outside_are_asked_of_the_sandboxs_resolver(cluster: &Cluster) {
    if cluster.kind().gvisor == Gvisor::V2024_07 {
        cluster.lacks("the testbed gives this build no way out");
    }
    let namespace = cluster.namespace("dns-outside");
    let server = NameServer::at(cluster.outside());
    let mut questions = ["a:printer.corp.test"; 11];
    questions[10] = "a:nobody.corp.test";
    let (answers, asked) = server.serve_while(|| resolve(&namespace, "asker", &questions));
    assert_eq!(answers["a:printer.corp.test"], "192.0.2.77", "{answers:?}");
    assert_eq!(answers["a:nobody.corp.test"], "error: no such host", "{answers:?}");
    // A question whose answer takes its time is asked again.
    let times = asked.iter().filter(|name| *name == "printer.corp.test").count();
    assert!((1..=3).contains(&times), "what is known is kept: {asked:?}");
    assert!(!asked.iter().any(|name| name.ends_with("cluster.local")), "names of the cluster leak: {asked:?}");

    // So do the programs that pull images. Before 2026-07 nobody can join a user namespace to try it.
    if cluster.kind().has_all_rights() || cluster.kind().gvisor == Gvisor::V2026_07 {
        let asks = || cluster.terrarium("exec -- getent ahostsv4 printer.corp.test");
        server.serve_while(asks).0.succeeds().prints("192.0.2.77");
    }
}

fn malformed_questions_do_no_harm(cluster: &Cluster) {
    let before = (cluster.pid("coredns"), restarts(cluster));
    let script = format!(
        "import random, socket
random.seed(53)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
good = bytes.fromhex('123401000001000000000000') + b'\\x0akubernetes\\x07default\\x03svc\\x07cluster\\x05local\\0\\0\\x01\\0\\x01'
for n in range(2000):
    if n % 2:
        packet = random.randbytes(random.randrange(600))
    else:
        packet = bytearray(good)
        for _ in range(random.randrange(1, 6)):
            packet[random.randrange(len(packet))] = random.randrange(256)
    udp.sendto(packet, ('{SERVER}', 53))
for n in range(50):
    tcp = socket.create_connection(('{SERVER}', 53), 5)
    tcp.sendall(random.randbytes(random.randrange(1, 600)))
    tcp.close()
"
    );
    cluster.run_with_input(["python3", "-"], script.as_bytes()).succeeds();
    answers_on_the_node(cluster);
    assert_eq!((cluster.pid("coredns"), restarts(cluster)), before);
}

fn settings_of_the_users_own_are_taken_over(cluster: &Cluster) {
    let directory = format!("{}/coredns", cluster.data_dir());
    let write = format!(
        "printf 'hosts {{\\n 192.0.2.9 pinned.corp.test\\n fallthrough\\n}}\\n' > {directory}/pinned.override
         printf 'zone.test {{\\n bind {SERVER}\\n hosts {{\\n 192.0.2.10 in.zone.test\\n }}\\n}}\\n' > {directory}/zone.server"
    );
    cluster.sh(&write).succeeds();
    eventually(Duration::from_secs(60), || {
        let answers = ["pinned.corp.test", "in.zone.test"].map(|name| ask_on_the_node(cluster, name));
        if answers == ["192.0.2.9", "192.0.2.10"] { Ok(()) } else { Err(format!("{answers:?}")) }
    });
    answers_on_the_node(cluster);
    cluster.sh(&format!("rm {directory}/pinned.override {directory}/zone.server")).succeeds();
}

fn a_killed_name_server_is_started_again(cluster: &Cluster) {
    cluster.up();
    let killed = cluster.pid("coredns");
    cluster.kill(&["coredns"]);
    cluster.eventually_replaced("coredns", killed, Duration::from_secs(30));
    answers_on_the_node(cluster);
    let namespace = cluster.namespace("dns-killed");
    let answers = resolve(&namespace, "asker", &["a:kubernetes.default"]);
    assert_eq!(answers["a:kubernetes.default"], "10.43.0.1");
}

fn who_has_port_53_is_named(cluster: &Cluster) {
    let script = "
        python3 -c '
import socket, time
taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
taken.bind((\"0.0.0.0\", 53))
print(flush=True)
time.sleep(100)' > /tmp/taken & taken=$!
        until [ -s /tmp/taken ]; do sleep 0.05; done
        terrarium up; code=$?
        kill $taken; wait $taken; rm /tmp/taken; exit $code";
    cluster.sh(script).exits(4).complains("port 53 of every address is used already by process").complains("(python3");
}

fn without_a_resolver_other_names_do_not_exist(cluster: &Cluster) {
    let kept = cluster.sh("cat /etc/resolv.conf; : > /etc/resolv.conf").succeeds().stdout;
    // On loopback nobody is in the way of the cluster's DNS.
    let script = "
        python3 -c '
import socket, time
local = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
local.bind((\"127.0.0.53\", 53))
time.sleep(100)' & local=$!
        terrarium up; code=$?; kill $local; exit $code";
    cluster.sh(script).succeeds();
    let namespace = cluster.namespace("dns-nowhere");
    let answers = resolve(&namespace, "asker", &["a:example.org", "a:kubernetes.default", "ptr:192.0.2.1"]);
    let asker = namespace.json("get pod asker")["status"]["containerStatuses"][0]["state"]["terminated"].clone();
    let at = |key: &str| format!("$(date -d {} +%s)", asker[key].as_str().expect("a time"));
    let took = cluster.sh(&format!("echo $(({} - {}))", at("finishedAt"), at("startedAt"))).succeeds().stdout;
    assert!(took.trim().parse::<u32>().is_ok_and(|seconds| seconds < 20), "somebody waited {took} s: {answers:?}");
    assert_eq!(answers["a:example.org"], "error: no such host");
    assert_eq!(answers["ptr:192.0.2.1"], "error: no such host");
    assert_eq!(answers["a:kubernetes.default"], "10.43.0.1");
    cluster.terrarium("down").succeeds();
    cluster.run_with_input(["tee", "/etc/resolv.conf"], kept.as_bytes()).succeeds();
}

/// What a Pod of this name finds, by question.
#[track_caller]
fn resolve(namespace: &Namespace<'_>, pod: &str, questions: &[&str]) -> BTreeMap<String, String> {
    let words: Vec<_> = ["resolve"].into_iter().chain(questions.iter().copied()).collect();
    start(namespace, pod, &words, json!({}));
    let lines = ended(namespace, pod);
    let parted = lines.lines().filter_map(|line| line.split_once(" = "));
    parted.map(|(question, answer)| (question.to_owned(), answer.to_owned())).collect()
}

/// Starts a Pod that runs the sample program with these words once.
#[track_caller]
fn start(namespace: &Namespace<'_>, name: &str, words: &[&str], mut spec: Value) {
    spec["restartPolicy"] = "Never".into();
    spec["containers"] = json!([{
        "name": "sample",
        "image": "localhost/terrarium/sample:0.1.0",
        "imagePullPolicy": "Never",
        "args": words,
    }]);
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
    namespace.apply(&pod.to_string());
}

/// What the Pod wrote, once it has ended.
#[track_caller]
pub fn ended(namespace: &Namespace<'_>, pod: &str) -> String {
    eventually(Duration::from_secs(60), || {
        let phase =
            namespace.json(&format!("get pod {pod}"))["status"]["phase"].as_str().unwrap_or_default().to_owned();
        if ["Succeeded", "Failed"].contains(&phase.as_str()) { Ok(()) } else { Err(format!("{pod} is {phase}")) }
    });
    namespace.kubectl(&format!("logs {pod}"))
}

/// The address that the cluster's DNS has for a name, asked on the node.
fn ask_on_the_node(cluster: &Cluster, name: &str) -> String {
    let script = format!(
        "import socket
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.settimeout(2)
labels = b''.join(bytes([len(label)]) + label.encode() for label in '{name}'.split('.'))
udp.sendto(bytes.fromhex('123401000001000000000000') + labels + b'\\0\\0\\x01\\0\\x01', ('{SERVER}', 53))
answer = udp.recv(512)
print('.'.join(map(str, answer[-4:])) if answer[7] else 'code %d' % (answer[3] & 15), end='')
"
    );
    let ran = cluster.run_with_input(["python3", "-"], script.as_bytes());
    if ran.code == 0 { ran.stdout } else { ran.stderr }
}

#[track_caller]
fn answers_on_the_node(cluster: &Cluster) {
    eventually(Duration::from_secs(20), || match ask_on_the_node(cluster, "kubernetes.default.svc.cluster.local") {
        answer if answer == "10.43.0.1" => Ok(()),
        other => Err(other),
    });
}

fn restarts(cluster: &Cluster) -> Option<u64> {
    let status = cluster.status();
    let components = status["components"].as_array()?;
    components.iter().find(|component| component["name"] == "coredns")?["restarts"].as_u64()
}

/// A name server that knows one address, of `printer.corp.test`.
struct NameServer {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl NameServer {
    fn at(address: Ipv4Addr) -> Self {
        let udp = UdpSocket::bind((address, 53)).expect("the port of the sandbox's resolver");
        udp.set_read_timeout(Some(PATIENCE)).expect("a limit");
        let tcp = TcpListener::bind((address, 53)).expect("the port of the sandbox's resolver");
        tcp.set_nonblocking(true).expect("a mode");
        Self { udp, tcp }
    }

    /// Answers for as long as `ask` runs; returns the names whose addresses it was asked for, too.
    fn serve_while<T>(&self, ask: impl FnOnce() -> T) -> (T, Vec<String>) {
        let (is_over, asked) = (AtomicBool::new(false), Mutex::new(Vec::new()));
        let found = thread::scope(|scope| {
            // Also where `ask` panics: the scope waits for the server.
            let _end = Ends(&is_over);
            let is_over = || is_over.load(Ordering::Relaxed);
            let reply = |packet: &[u8]| {
                let (name, answer) = answer(packet)?;
                asked.lock().expect("nobody panicked").extend(name);
                Some(answer)
            };
            scope.spawn(move || {
                let mut packet = [0; 512];
                while !is_over() {
                    let Ok((length, client)) = self.udp.recv_from(&mut packet) else { continue };
                    if let Some(answer) = reply(&packet[..length]) {
                        let _ = self.udp.send_to(&answer, client);
                    }
                }
            });
            scope.spawn(move || {
                while !is_over() {
                    match self.tcp.accept() {
                        Ok((stream, _)) => {
                            drop(scope.spawn(move || while !is_over() && answer_one(&stream, reply).is_ok() {}))
                        }
                        Err(_) => thread::sleep(PATIENCE),
                    }
                }
            });
            ask()
        });
        (found, asked.into_inner().expect("nobody panicked"))
    }
}

/// Answers one question of a stream (RFC 1035, section 4.2.2), if one comes.
fn answer_one(mut stream: &TcpStream, reply: impl Fn(&[u8]) -> Option<Vec<u8>>) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut length = [0; 2];
    match stream.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
        other => other?,
    }
    let mut packet = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut packet)?;
    let answer = reply(&packet).ok_or(io::ErrorKind::InvalidData)?;
    let length = u16::try_from(answer.len()).expect("a short answer").to_be_bytes();
    stream.write_all(&[&length, &answer[..]].concat())
}

/// How long it takes at most to notice the end.
const PATIENCE: Duration = Duration::from_millis(200);

/// Says when it goes that it is over.
pub struct Ends<'a>(pub &'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The answer to a question, and the name if an address was asked for.
fn answer(packet: &[u8]) -> Option<(Option<String>, Vec<u8>)> {
    const NO_SUCH_NAME: u8 = 3;
    let (name, end) = question(packet)?;
    let is_a = packet.get(end..end + 2) == Some(&[0, 1]);
    let (code, count) = match name.as_str() {
        "printer.corp.test" => (0, u8::from(is_a)),
        _ => (NO_SUCH_NAME, 0),
    };
    let mut answer =
        [&packet[..2], &[0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0], packet.get(12..end + 4)?].concat();
    if count == 1 {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(Ipv4Addr::new(192, 0, 2, 77).octets());
    }
    Some((is_a.then_some(name), answer))
}

/// The name in a question (RFC 1035, section 4), and where it ends.
fn question(packet: &[u8]) -> Option<(String, usize)> {
    let (mut labels, mut at) = (Vec::new(), 12);
    loop {
        let length = usize::from(*packet.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join(".").to_lowercase(), at));
        }
        labels.push(String::from_utf8_lossy(packet.get(at..at + length)?).into_owned());
        at += length;
    }
}
