//! What tests of several parts begin with.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};

use crate::config::{Config, Path};
use crate::table::{Otherwise, Owner, Route, Way};

/// A node that routes, with the nat table at hand.
pub(crate) fn config() -> Config {
    Config {
        kubeconfig: "/k".into(),
        node: "node".into(),
        node_address: [10, 201, 0, 2].into(),
        gateway: [10, 42, 0, 1].into(),
        pods: "10.42.0.0/24".parse().expect("it is one"),
        services: "10.43.0.0/16".parse().expect("it is one"),
        dns: [10, 43, 0, 10].into(),
        path: Path::Redirect,
        routed: true,
        gate: None,
        runtime_dir: "/run".into(),
        metrics: "127.0.0.1:10249".parse().expect("it is one"),
        healthz: "127.0.0.1:10256".parse().expect("it is one"),
    }
}

/// A port that nothing listens on, that is not among those that kernels choose, and that no other test of this
/// process gets.
pub(crate) fn unused_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    let is_free = |port: &u16| {
        let here = (Ipv4Addr::UNSPECIFIED, *port);
        TcpListener::bind(here).is_ok() && UdpSocket::bind(here).is_ok()
    };
    let ports = std::iter::repeat_with(|| NEXT.fetch_add(1, Ordering::Relaxed));
    ports.take_while(|port| *port < 30_000).find(is_free).expect("not all are taken")
}

/// A Service's route to these endpoints.
pub(crate) fn route(endpoints: &[&str]) -> Route {
    let [namespace, name, uid, port] = ["default", "web", "1", ""].map(String::from);
    Route {
        owner: Rc::new(Owner { kind: "Service", namespace, name, uid, port }),
        endpoints: endpoints.iter().map(|endpoint| endpoint.parse().expect("it is one")).collect(),
        otherwise: Otherwise::Reject,
        affinity: None,
        sources: Rc::default(),
        way: Way::default(),
        traffic: Rc::default(),
    }
}
