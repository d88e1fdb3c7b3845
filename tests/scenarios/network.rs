//! What Pods' packets go through.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, UdpSocket};
use std::thread;
use std::time::Duration;

use harness::{Cluster, Namespace, Ran};

use crate::pods::{reaches_the_outside, web};
use crate::services::{assert_reached, reacher};

crate::stories! {
    Shared in BUILDS:
        a_pod_sends_and_receives_megabytes_outside
        a_pod_exchanges_datagrams_with_the_outside;
    Shared in PODS:
        what_a_pod_sends_by_udp_is_answered_from_outside;
    Harmed in NODES_WITH_FEWER_RIGHTS:
        the_next_up_opens_the_gate_again;
}

/// More than any buffer on the way holds.
const MEGABYTES: usize = 8_000_000;

/// The Pods' links take packets forty times as large as the outside does.
fn a_pod_sends_and_receives_megabytes_outside(cluster: &Cluster) {
    let namespace = web(cluster, "network-streams");
    let server = TcpListener::bind((cluster.outside(), 0)).expect("a port on the sandbox's gateway");
    let port = server.local_addr().expect("an address").port();
    let served = thread::spawn(move || {
        let (mut stream, _) = server.accept().expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a limit");
        let mut received = vec![0; MEGABYTES];
        stream.read_exact(&mut received).expect("all that was sent");
        stream.write_all(&vec![b'x'; MEGABYTES]).expect("somebody who reads");
        received.iter().all(|byte| *byte == 0)
    });
    let script = format!(
        "exec 3<>/dev/tcp/{}/{port}; head -c {MEGABYTES} /dev/zero >&3; timeout 60 head -c {MEGABYTES} <&3 | tr -cd x | wc -c",
        cluster.outside()
    );
    in_network_of(&namespace, &script).succeeds().prints(&format!("{MEGABYTES}\n"));
    assert!(served.join().expect("the server does not panic"));
}

/// As far as they fit the way: larger ones are lost, see `docs/sandboxes.md`.
fn a_pod_exchanges_datagrams_with_the_outside(cluster: &Cluster) {
    let namespace = web(cluster, "network-datagrams");
    let server = UdpSocket::bind((cluster.outside(), 0)).expect("a port on the sandbox's gateway");
    let address = server.local_addr().expect("an address");
    let served = thread::spawn(move || {
        let mut datagram = [0; 2000];
        loop {
            let (length, client) = server.recv_from(&mut datagram).expect("a datagram");
            if length == 0 {
                return;
            }
            server.send_to(&datagram[..length], client).expect("an answer");
        }
    });
    for size in [100, 1400] {
        // A busy machine may drop one.
        let script = format!(
            "exec 3<>/dev/udp/{}/{}
             for _ in 1 2 3; do
                 head -c {size} /dev/zero >&3; got=$(timeout 4 head -c {size} <&3 | wc -c); [ $got = {size} ] && break
             done; echo $got",
            address.ip(),
            address.port()
        );
        in_network_of(&namespace, &script).succeeds().prints(&format!("{size}\n"));
    }
    UdpSocket::bind((cluster.outside(), 0)).and_then(|socket| socket.send_to(&[], address)).expect("the last datagram");
    served.join().expect("the server does not panic");
}

fn what_a_pod_sends_by_udp_is_answered_from_outside(cluster: &Cluster) {
    let namespace = cluster.namespace("network-udp");
    let server = UdpSocket::bind((cluster.outside(), 0)).expect("a port on the sandbox's gateway");
    server.set_read_timeout(Some(Duration::from_secs(60))).expect("a limit");
    let address = server.local_addr().expect("an address");
    let served = thread::spawn(move || {
        // Who asks does so again where an answer comes late; an empty datagram is the last.
        let mut asked = Vec::new();
        loop {
            let (length, client) = server.recv_from(&mut [0; 2000]).expect("a datagram");
            if length == 0 {
                return asked;
            }
            server.send_to(b"heard", client).expect("an answer");
            asked.push(client.ip());
        }
    });
    namespace.apply(&reacher("asks", &[&format!("udp://{address}")]));
    assert_reached(&namespace, "asks", 1);
    UdpSocket::bind((cluster.outside(), 0)).and_then(|socket| socket.send_to(&[], address)).expect("the last datagram");
    let asked = served.join().expect("the server does not panic");
    assert!(!asked.is_empty() && asked.iter().all(|client| *client == cluster.address()), "not the node's: {asked:?}");
}

/// What leads out of a network namespace of the cluster's own stays outside, and only who is there can start it.
fn the_next_up_opens_the_gate_again(cluster: &Cluster) {
    cluster.up();
    let killed = cluster.pid("gate");
    cluster.kill(&["gate"]);
    cluster.terrarium("status").exits(3).prints("gate           does not run");
    cluster.up();
    cluster.eventually_replaced("gate", killed, Duration::from_secs(30));
    cluster.eventually_runs(Duration::from_secs(60));
    if cluster.kind().has_root() {
        reaches_the_outside(&web(cluster, "network-gate"));
    }
    cluster.terrarium("down").succeeds();
    cluster.sh("! pgrep -f '[t]errarium gate'").succeeds();
}

/// Runs a script of the sandbox's own bash in the network namespace of the Pod `web`.
pub fn in_network_of(namespace: &Namespace<'_>, script: &str) -> Ran {
    let pod = namespace.pod("web").address;
    let script = script.replace('\'', r"'\''");
    let of_pod = format!("grep -lzx 'POD_IP={pod}' /proc/[0-9]*/environ 2>/dev/null | head -1 | cut -d/ -f3");
    namespace.cluster.sh(&format!("pid=$({of_pod}); exec nsenter --net=/proc/$pid/ns/net bash -c '{script}'"))
}
