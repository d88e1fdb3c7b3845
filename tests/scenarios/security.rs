//! Who may do what, and what can be reached from where.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use harness::{Cluster, DATA_DIR, Namespace};
use ipnet::Ipv4Net;

crate::stories! {
    Shared:
        strangers_are_refused_by_the_api_and_the_kubelet
        the_kubelet_asks_the_api_for_rights
        the_read_only_port_is_closed
        a_node_reads_only_the_secrets_of_its_pods
        a_node_changes_no_other_node
        keys_are_for_root_alone
        a_container_that_asks_for_nothing_is_confined
        only_api_kubelet_and_relay_listen_on_every_address;
}

const SECRETS: &str = include_str!("../manifests/secrets.yaml");
const OTHER_NODE: &str = include_str!("../manifests/other-node.yaml");

/// kube-apiserver's port: other machines' kubectl and nodes come to it.
const API_PORT: u16 = 6443;
/// The kubelet's port: the API server and Pods come to it.
const KUBELET_PORT: u16 = 10250;
/// metrics-server's port on the node's address: the API server comes to it.
const METRICS_PORT: u16 = 10251;
/// Where rules lead connections to Services.
const RELAY_PORT: u16 = 10260;
/// What users' Services of type NodePort may have.
const NODE_PORTS: RangeInclusive<u16> = 30_000..=32_767;
const SERVICES: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 43, 0, 0), 16);
const KUBELET_READ_ONLY_PORT: u16 = 10255;

/// A caller of HTTPS servers inside the sandbox: its curl options.
struct Caller(String);

impl Caller {
    /// Without any credentials.
    fn stranger() -> Self {
        Self(format!("--cacert {DATA_DIR}/pki/ca.crt"))
    }

    /// With the client certificate of this name.
    fn with(certificate: &str) -> Self {
        let pki = format!("{DATA_DIR}/pki");
        Self(format!("--cacert {pki}/ca.crt --cert {pki}/{certificate}.crt --key {pki}/{certificate}.key"))
    }

    /// The status and body of the answer. Fails also where the server's certificate is not of the cluster's CA.
    #[track_caller]
    fn ask(&self, cluster: &Cluster, options: &str, port: u16, path: &str) -> (String, String) {
        let url = format!("https://{}:{port}{path}", cluster.address());
        let script = format!("curl -sS --max-time 20 -w '\\n%{{http_code}}' {} {options} '{url}'", self.0);
        let answer = cluster.sh(&script).succeeds().stdout;
        let (body, status) = answer.rsplit_once('\n').expect("curl writes the status after a line break");
        (status.to_owned(), body.to_owned())
    }

    #[track_caller]
    fn status(&self, cluster: &Cluster, port: u16, path: &str) -> String {
        self.ask(cluster, "", port, path).0
    }
}

fn strangers_are_refused_by_the_api_and_the_kubelet(cluster: &Cluster) {
    let stranger = Caller::stranger();
    for path in ["/api", "/api/v1/secrets", "/version", "/metrics"] {
        assert_eq!(stranger.status(cluster, API_PORT, path), "401", "{path}");
    }
    for path in ["/pods", "/metrics", "/stats/summary", "/configz", "/logs/"] {
        assert_eq!(stranger.status(cluster, KUBELET_PORT, path), "401", "{path}");
    }
    let forged = stranger.ask(cluster, "-H 'Authorization: Bearer forged'", KUBELET_PORT, "/pods");
    assert_eq!(forged.0, "401");
}

fn the_kubelet_asks_the_api_for_rights(cluster: &Cluster) {
    let (status, pods) = Caller::with("admin").ask(cluster, "", KUBELET_PORT, "/pods");
    assert_eq!(status, "200");
    assert!(pods.contains("\"kind\":\"PodList\""), "{pods}");
    // Known to the cluster, but nobody's administrator.
    assert_eq!(Caller::with("kube-scheduler").status(cluster, KUBELET_PORT, "/pods"), "403");
    assert_eq!(Caller::with("kube-scheduler").status(cluster, API_PORT, "/api/v1/secrets"), "403");
}

fn the_read_only_port_is_closed(cluster: &Cluster) {
    const REFUSED: i32 = 7;
    for address in [cluster.address(), Ipv4Addr::LOCALHOST] {
        let url = format!("http://{address}:{KUBELET_READ_ONLY_PORT}/pods");
        cluster.run(["curl", "-sS", "--max-time", "5", &url]).exits(REFUSED);
    }
}

fn a_node_reads_only_the_secrets_of_its_pods(cluster: &Cluster) {
    let namespace = cluster.namespace("security-secrets");
    namespace.apply(SECRETS);
    namespace.wait("pod/web", "condition=Ready");
    let node = Caller::with("kubelet");
    let secret = |name: &str| format!("/api/v1/namespaces/{}/secrets/{name}", namespace.name);
    assert_eq!(node.status(cluster, API_PORT, &secret("used")), "200");
    assert_eq!(node.status(cluster, API_PORT, &secret("unused")), "403");
    assert_eq!(node.status(cluster, API_PORT, &secret("")), "403");
    assert_eq!(node.status(cluster, API_PORT, "/api/v1/secrets"), "403");
}

fn a_node_changes_no_other_node(cluster: &Cluster) {
    let namespace = cluster.namespace("security-nodes");
    let elsewhere = Elsewhere::add(&namespace);
    let node = Caller::with("kubelet");
    let label = |node_name: &str, label: &str| {
        let patch = format!(r#"{{"metadata":{{"labels":{{"{label}":"x"}}}}}}"#);
        let options = format!("-X PATCH -H 'Content-Type: application/merge-patch+json' -d '{patch}'");
        node.ask(cluster, &options, API_PORT, &format!("/api/v1/nodes/{node_name}"))
    };
    let own = cluster.json("get nodes -l kubernetes.io/hostname")["items"][0]["metadata"]["name"].clone();
    let own = own.as_str().expect("the node has a name");
    assert_eq!(label(own, "scenarios.terrarium/mark").0, "200");
    let (status, why) = label("elsewhere", "scenarios.terrarium/mark");
    assert_eq!(status, "403", "{why}");
    assert!(why.contains(&format!("node \\\"{own}\\\" is not allowed to modify node \\\"elsewhere\\\"")), "{why}");
    let (status, why) = label(own, "node-restriction.kubernetes.io/mark");
    assert_eq!(status, "403", "{why}");
    assert!(why.contains("is not allowed to modify labels"), "{why}");
    drop(elsewhere);
    cluster.kubectl(&format!("label node {own} scenarios.terrarium/mark-"));
}

/// A second node, on paper only, while this lives.
struct Elsewhere<'a>(&'a Cluster);

impl<'a> Elsewhere<'a> {
    #[track_caller]
    fn add(namespace: &Namespace<'a>) -> Self {
        namespace.apply(OTHER_NODE);
        Self(namespace.cluster)
    }
}

impl Drop for Elsewhere<'_> {
    fn drop(&mut self) {
        self.0.try_kubectl("delete node elsewhere");
    }
}

fn keys_are_for_root_alone(cluster: &Cluster) {
    let look = format!("find {DATA_DIR}/pki {DATA_DIR}/etc /root/.kube/config -printf '%m %U %y %p\\n'");
    let found = cluster.sh(&look).succeeds().stdout;
    assert!(found.contains("pki/ca.key") && found.contains("etc/admin.kubeconfig"), "{found}");
    for line in found.lines() {
        let kind = line.split(' ').nth(2);
        let expected = if kind == Some("d") { "700 0 d" } else { "600 0 f" };
        assert!(line.starts_with(expected), "{line}");
    }
    // Names and contents of the rest are shut off by the directory above.
    let top = format!("stat -c %a {DATA_DIR} {DATA_DIR}/store {DATA_DIR}/images {DATA_DIR}/logs");
    assert_eq!(cluster.sh(&top).succeeds().stdout, "700\n".repeat(4));
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"];
    let read = ["cat", "/var/lib/terrarium/pki/ca.crt"];
    cluster.run(nobody.into_iter().chain(read)).exits(1).complains("Permission denied");
}

fn a_container_that_asks_for_nothing_is_confined(cluster: &Cluster) {
    const SECCOMP_MODE_FILTER: &str = "2";
    let namespace = cluster.namespace("confined");
    namespace.kubectl("run plain --image=localhost/terrarium/sample:0.1.0 --image-pull-policy=Never");
    namespace.wait("pod/plain", "condition=Ready");
    let status = namespace.exec("plain", "cat /proc/self/status").succeeds().stdout;
    let seccomp = status.lines().find_map(|line| line.strip_prefix("Seccomp:")).map(str::trim);
    assert_eq!(seccomp, Some(SECCOMP_MODE_FILTER), "{status}");
    let mounts = namespace.exec("plain", "cat /proc/self/mountinfo").succeeds().stdout;
    let is_read_only = |path: &str| {
        let mut fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        fields.any(|fields| fields[4] == path && fields[5].split(',').any(|option| option == "ro"))
    };
    assert!(is_read_only("/proc/sys") && is_read_only("/sys"), "{mounts}");
}

/// Connections to the relay that no rule led there are reset.
fn only_api_kubelet_and_relay_listen_on_every_address(cluster: &Cluster) {
    let sockets = cluster.sh("cat /proc/net/tcp /proc/net/tcp6").succeeds().stdout;
    let listening: BTreeSet<(IpAddr, u16)> = sockets.lines().filter_map(listener).collect();
    let node = IpAddr::from(cluster.address());
    assert!(listening.iter().any(|(address, port)| address.is_unspecified() && *port == API_PORT), "{sockets}");
    assert!(listening.iter().any(|(address, port)| address.is_unspecified() && *port == KUBELET_PORT), "{sockets}");
    for (address, port) in listening {
        let service = |address| matches!(address, IpAddr::V4(address) if SERVICES.contains(&address));
        let expected = address.is_loopback()
            || address.is_unspecified() && [API_PORT, KUBELET_PORT, RELAY_PORT].contains(&port)
            || address == node && port == METRICS_PORT
            || NODE_PORTS.contains(&port)
            || service(address) && [53, 9153].contains(&port);
        // gVisor lists the sockets of every network namespace: a Pod's are none of the node's.
        let target = if address.is_unspecified() { node } else { address };
        let is_here = || cluster.sh(&format!("true 2>/dev/null </dev/tcp/{target}/{port}")).code == 0;
        assert!(expected || !is_here(), "something listens on {address}:{port}:\n{sockets}");
    }
}

/// The address of a listening socket, from a line of /proc/net/tcp or tcp6 (proc(5)): hexadecimal, each four bytes in
/// the machine's order.
fn listener(line: &str) -> Option<(IpAddr, u16)> {
    const LISTEN: &str = "0A";
    let mut fields = line.split_whitespace().skip(1);
    let local = fields.next()?;
    if fields.nth(1)? != LISTEN {
        return None;
    }
    let (address, port) = local.split_once(':')?;
    let words: Vec<u32> = (0..address.len() / 8)
        .map(|n| u32::from_str_radix(&address[n * 8..][..8], 16))
        .collect::<Result<_, _>>()
        .ok()?;
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let address = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        _ => IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
    };
    Some((address.to_canonical(), u16::from_str_radix(port, 16).ok()?))
}
