//! The plugin for real, on this Linux: two Pods' network namespaces, the real host-local, TCP over the links.
//!
//! Everything happens in namespaces of the test's own, which the process enters first: nothing on the machine changes. It takes root and `TERRARIUM_COMPONENTS`, a folder with `host-local`; without them
//! the test says so and counts as skipped.

#![allow(clippy::unwrap_used, reason = "a test, though not one that cargo knows as such")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};
use terrarium_cni::netlink::Netlink;
use terrarium_cni::{NetworkSettings, network_config};

type Job = Box<dyn FnOnce() + Send>;

fn main() -> ExitCode {
    match prepare() {
        Ok(components) => {
            story(&components);
            println!("test linux ... ok");
        }
        Err(reason) => println!("test linux ... skipped: {reason}"),
    }
    ExitCode::SUCCESS
}

/// Leaves the machine's network and mount namespaces; finds host-local.
fn prepare() -> Result<PathBuf, String> {
    let components = std::env::var_os("TERRARIUM_COMPONENTS").map(PathBuf::from);
    let components = components.ok_or("TERRARIUM_COMPONENTS is not set")?;
    if !components.join("host-local").is_file() {
        return Err(format!("there is no host-local in {}", components.display()));
    }
    let isolate = || {
        let none = None::<&str>;
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)?;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none) // for iptables' lock file
    };
    isolate().map_err(|errno| format!("no namespaces can be made: {errno}"))?;
    Ok(components)
}

/// A Pod's network namespace: a thread that lives in it and does what it is told.
struct Pod {
    netns: PathBuf,
    jobs: Sender<Job>,
}

impl Pod {
    fn new() -> Self {
        let (jobs, todo) = channel::<Job>();
        let (ready, netns) = channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            ready.send(fs::read_link("/proc/thread-self").unwrap()).unwrap();
            todo.into_iter().for_each(|job| job());
        });
        Self { netns: Path::new("/proc").join(netns.recv().unwrap()).join("ns/net"), jobs }
    }

    fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = channel();
        self.jobs.send(Box::new(move || drop(done.send(work())))).unwrap();
        result.recv().unwrap()
    }
}

/// The node as a container runtime sees it.
struct Node {
    path: String,
    folder: tempfile::TempDir,
    conf: Value,
}

impl Node {
    fn new(components: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = NetworkSettings {
            pod_cidr: "10.42.0.0/24".parse().unwrap(),
            cluster_cidr: "10.42.0.0/16".parse().unwrap(),
            gateway: Ipv4Addr::new(10, 42, 0, 1),
            node_ip: Some(Ipv4Addr::new(10, 201, 0, 2)),
            mtu: 60_000,
            ip_masq: true,
            ip_forward: true,
            ipam_data_dir: folder.path().join("ipam"),
            host_ports: folder.path().join("hostports"),
        };
        let list = network_config(&settings);
        let mut conf = list["plugins"][0].clone();
        conf["name"] = list["name"].clone();
        conf["cniVersion"] = list["cniVersion"].clone();
        Self { path: components.to_str().unwrap().into(), folder, conf }
    }

    fn cni(&self, command: &str, container: &str, netns: &Path, conf: &Value) -> Output {
        let mut plugin = Command::new(env!("CARGO_BIN_EXE_terrarium-cni"))
            .env_clear()
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", container)
            .env("CNI_NETNS", netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", &self.path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        plugin.stdin.take().unwrap().write_all(conf.to_string().as_bytes()).unwrap();
        plugin.wait_with_output().unwrap()
    }

    fn succeeds(&self, command: &str, container: &str, netns: &Path, conf: &Value) -> Value {
        let output = self.cni(command, container, netns, conf);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{command} {container}: {text}");
        if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() }
    }

    fn fails(&self, command: &str, container: &str, netns: &Path, conf: &Value) -> Value {
        let output = self.cni(command, container, netns, conf);
        assert_eq!(output.status.code(), Some(1), "{command} {container} should fail");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn with(&self, key: &str, value: Value) -> Value {
        let mut conf = self.conf.clone();
        conf[key] = value;
        conf
    }

    fn leases(&self) -> Vec<String> {
        let files = fs::read_dir(self.folder.path().join("ipam/terrarium")).unwrap();
        files
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with("10."))
            .collect()
    }
}

/// Links of the calling thread's namespace, from the kernel and not from the plugin.
fn links() -> Vec<String> {
    let devices = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let names = devices.lines().skip(2).filter_map(|line| line.split_once(':'));
    names.map(|(name, _)| name.trim().to_owned()).filter(|name| name.starts_with("te") || name == "eth0").collect()
}

fn routes() -> BTreeMap<String, String> {
    let table = fs::read_to_string("/proc/thread-self/net/route").unwrap();
    let mut fields = |line: &str| {
        let mut words = line.split_whitespace().map(str::to_owned);
        (words.next().unwrap_or_default(), words.next().unwrap_or_default())
    };
    table.lines().skip(1).map(&mut fields).map(|(device, destination)| (destination, device)).collect()
}

/// A server in the calling thread's namespace; tells each client whence it came.
fn serve(port: u16) {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let peer = stream.peer_addr().unwrap().ip().to_string();
            stream.write_all(peer.as_bytes()).unwrap();
        }
    });
}

fn ask(address: [u8; 4], port: u16) -> String {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((address, port)), Duration::from_secs(3)).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// What a Pod sends to the outside arrives with the node's address. The world is one more namespace.
fn egress(node: &Node, pod: &Pod) {
    if node.conf["ipMasq"] == false {
        return;
    }
    if !ip("-V") {
        println!("linux: the way to the outside is skipped: there is no `ip` to build an outside with");
        return;
    }
    let world = Pod::new();
    let task = world.netns.ancestors().nth(2).unwrap().file_name().unwrap().to_str().unwrap().to_owned();
    assert!(ip(&format!("link add out type veth peer name world netns {task}")));
    assert!(ip("addr add 10.201.0.2/24 dev out") && ip("link set out up"));
    assert!(world.run(|| ip("addr add 10.201.0.1/24 dev world") && ip("link set world up")));
    world.run(|| serve(80));
    assert_eq!(pod.run(|| ask([10, 201, 0, 1], 80)), "10.201.0.2", "the node's address, not the Pod's");
    assert!(ip("link del out"));
    println!("linux: egress leaves with the node's address");
}

/// No address is left; then one whose link is gone is taken back.
fn a_full_range(node: &Node, one: &Pod, two: &Pod) {
    let mut conf = node.with("name", json!("small"));
    conf["ipam"]["ranges"][0][0]["subnet"] = json!("10.42.0.0/30");
    let first = node.succeeds("ADD", "pod1", &one.netns, &conf);
    assert_eq!(first["ips"][0]["address"], "10.42.0.2/32");
    let full = node.fails("ADD", "pod2", &two.netns, &conf);
    assert!(full["msg"].as_str().unwrap().contains("no IP addresses available in range set"), "{full}");
    let mut netlink = Netlink::open().unwrap();
    let link = netlink.expect_link(&links()[0]).unwrap();
    netlink.delete_link(link.index).unwrap();
    assert_eq!(node.succeeds("ADD", "pod2", &two.netns, &conf)["ips"], first["ips"]);
    node.succeeds("DEL", "pod2", &two.netns, &conf);
    assert!(links().is_empty());
}

/// Host ports take a proxy, and traffic is not shaped.
fn what_is_asked_for_one_pod(node: &Node, pod: &Pod) {
    let asking = |capability: &str, value: Value| node.with("runtimeConfig", json!({ capability: value }));
    let mapping =
        |protocol| asking("portMappings", json!([{"HostPort": 80, "ContainerPort": 80, "Protocol": protocol}]));
    let shaped = asking("bandwidth", json!({"IngressRate": 1_000_000}));
    for (conf, code, words) in [
        (mapping("tcp"), 11, "Service proxy"),
        (mapping("sctp"), 104, "80/SCTP: only TCP and UDP"),
        (shaped.clone(), 105, "kubernetes.io/ingress-bandwidth"),
    ] {
        let error = node.fails("ADD", "pod1", &pod.netns, &conf);
        assert_eq!(error["code"], code, "{error}");
        assert!(error["msg"].as_str().unwrap().contains(words), "{error}");
        assert_eq!((links(), node.leases()), (vec![], vec![]), "a failed ADD leaves nothing");
    }
    for conf in [mapping("tcp"), mapping("sctp"), shaped] {
        node.succeeds("DEL", "pod1", &pod.netns, &conf);
    }
}

/// Runs iproute2 in the calling thread's namespace; only to build what is not the plugin's to build.
fn ip(arguments: &str) -> bool {
    Command::new("ip").args(arguments.split(' ')).stdout(Stdio::null()).status().is_ok_and(|status| status.success())
}

fn story(components: &Path) {
    let mut node = Node::new(components);
    let (one, two, nowhere) = (Pod::new(), Pod::new(), Path::new(""));

    // A node whose kernel has no legacy ip_tables says so and still does all the rest.
    let status = node.cni("STATUS", "", nowhere, &node.conf);
    if !status.status.success() {
        let error: Value = serde_json::from_slice(&status.stdout).unwrap();
        assert_eq!(error["code"], 50);
        println!("linux: egress is skipped: {} ({})", error["msg"], error["details"]);
        assert_eq!(node.fails("ADD", "pod1", &one.netns, &node.conf)["code"], 102);
        node.conf["ipMasq"] = json!(false);
        node.succeeds("STATUS", "", nowhere, &node.conf);
    }

    let first = node.succeeds("ADD", "pod1", &one.netns, &node.conf);
    let second = node.succeeds("ADD", "pod2", &two.netns, &node.conf);
    assert_eq!(first["ips"], json!([{"address": "10.42.0.2/32", "gateway": "10.42.0.1", "interface": 1}]));
    assert_eq!(first["interfaces"][1]["mtu"], 60_000);
    assert_eq!(second["ips"][0]["address"], "10.42.0.3/32");
    assert_eq!((links().len(), one.run(links)), (2, vec!["eth0".to_owned()]));

    serve(80);
    one.run(|| serve(80));
    assert_eq!(one.run(|| ask([10, 42, 0, 1], 80)), "10.42.0.2", "Pod to gateway");
    assert_eq!(ask([10, 42, 0, 2], 80), "10.42.0.1", "node to Pod");
    assert_eq!(two.run(|| ask([10, 42, 0, 2], 80)), "10.42.0.3", "Pod to Pod");
    assert_eq!(
        one.run(|| {
            serve(81);
            ask([127, 0, 0, 1], 81)
        }),
        "127.0.0.1",
        "lo is up"
    );

    egress(&node, &one);

    let first = node.with("prevResult", first);
    let second = node.with("prevResult", second);
    node.succeeds("CHECK", "pod1", &one.netns, &first);
    assert_eq!(node.fails("CHECK", "pod1", &one.netns, &second)["code"], 103, "another Pod's result");
    assert_eq!(node.fails("ADD", "pod1", &one.netns, &node.conf)["code"], 999, "host-local: it has an address already");
    assert_eq!(node.fails("ADD", "pod3", &one.netns, &node.conf)["code"], 100, "eth0 is taken");
    assert_eq!((links().len(), node.leases().len()), (2, 2), "a failed ADD leaves nothing");
    assert_eq!(node.fails("ADD", "pod3", Path::new("/proc/self/ns/net"), &node.conf)["code"], 8);

    let valid = json!([{"containerID": "pod1", "ifname": "eth0"}]);
    node.succeeds("GC", "", nowhere, &node.with("cni.dev/valid-attachments", valid));
    assert_eq!((links().len(), two.run(links).len(), node.leases().len()), (1, 0, 1));
    node.succeeds("CHECK", "pod1", &one.netns, &first);
    assert_eq!(node.fails("CHECK", "pod2", &two.netns, &second)["code"], 999, "host-local: it has no address any more");

    node.succeeds("DEL", "pod2", Path::new("/run/netns/gone"), &node.conf);
    node.succeeds("DEL", "pod1", &one.netns, &first);
    node.succeeds("DEL", "pod1", &one.netns, &first);
    node.succeeds("DEL", "pod1", nowhere, &node.conf);
    assert_eq!((links(), one.run(links), node.leases()), (vec![], vec![], vec![]));
    assert!(routes().is_empty(), "{:?}", routes());

    a_full_range(&node, &one, &two);
    what_is_asked_for_one_pod(&node, &one);

    node.succeeds("ADD", "pod1", &one.netns, &node.conf);
    let done = terrarium_cni::teardown();
    assert!(done.errors.is_empty(), "{:?}", done.errors);
    assert_eq!((done.links_deleted.len(), done.rules_removed), (1, node.conf["ipMasq"] == true));
    assert!(links().is_empty());
    let again = terrarium_cni::teardown();
    assert!(again.errors.is_empty() && again.links_deleted.is_empty() && !again.rules_removed);
}
