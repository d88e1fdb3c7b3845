//! What Pods' packets go through.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::thread;
use std::time::Duration;

use harness::{Cluster, Namespace, Ran};

crate::stories! {
    Shared in BUILDS:
        a_pod_sends_and_receives_megabytes_outside
        a_pod_exchanges_datagrams_with_the_outside;
}

const WEB: &str = include_str!("../manifests/web.yaml");

/// More than any buffer on the way holds.
const MEGABYTES: usize = 8_000_000;

/// The Pods' links take packets forty times as large as the outside does.
fn a_pod_sends_and_receives_megabytes_outside(cluster: &Cluster) {
    let (_namespace, pod) = web(cluster, "network-streams");
    let server = TcpListener::bind((cluster.outside(), 0)).expect("a port on the sandbox's gateway");
    let port = server.local_addr().expect("an address").port();
    let served = thread::spawn(move || {
        let (mut stream, _) = server.accept().expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a limit");
        let mut received = vec![0; MEGABYTES];
        stream.read_exact(&mut received).expect("all that was sent");
        stream.write_all(&received).expect("somebody who reads");
        received.iter().all(|byte| *byte == 0)
    });
    let script = format!(
        "exec 3<>/dev/tcp/{}/{port}; head -c {MEGABYTES} /dev/zero >&3; timeout 60 head -c {MEGABYTES} <&3 | tr -d '\\0' | wc -c",
        cluster.outside()
    );
    in_network_of(cluster, pod, &script).succeeds().prints("0\n");
    assert!(served.join().expect("the server does not panic"));
}

/// As far as they fit the way: larger ones are lost, see `docs/sandboxes.md`.
fn a_pod_exchanges_datagrams_with_the_outside(cluster: &Cluster) {
    let (_namespace, pod) = web(cluster, "network-datagrams");
    let server = UdpSocket::bind((cluster.outside(), 0)).expect("a port on the sandbox's gateway");
    server.set_read_timeout(Some(Duration::from_secs(30))).expect("a limit");
    let port = server.local_addr().expect("an address").port();
    let served = thread::spawn(move || {
        for _ in 0..2 {
            let mut datagram = [0; 2000];
            let (length, client) = server.recv_from(&mut datagram).expect("a datagram");
            server.send_to(&datagram[..length], client).expect("an answer");
        }
    });
    for size in [100, 1400] {
        let script = format!(
            "exec 3<>/dev/udp/{}/{port}; head -c {size} /dev/zero >&3; timeout 10 head -c {size} <&3 | wc -c",
            cluster.outside()
        );
        in_network_of(cluster, pod, &script).succeeds().prints(&format!("{size}\n"));
    }
    served.join().expect("the server does not panic");
}

/// A namespace with the Pod `web`, which is ready, and its address.
fn web<'a>(cluster: &'a Cluster, name: &'a str) -> (Namespace<'a>, Ipv4Addr) {
    let namespace = cluster.namespace(name);
    namespace.apply(WEB);
    namespace.wait("pod/web", "condition=Ready");
    let address = namespace.pod("web").address;
    (namespace, address)
}

/// Runs a script of the sandbox's own bash in the network namespace of the Pod with that address.
fn in_network_of(cluster: &Cluster, pod: Ipv4Addr, script: &str) -> Ran {
    let of_pod = format!("grep -lzx 'POD_IP={pod}' /proc/[0-9]*/environ 2>/dev/null | head -1 | cut -d/ -f3");
    cluster.sh(&format!("pid=$({of_pod}); exec nsenter --net=/proc/$pid/ns/net bash -c {script:?}"))
}
