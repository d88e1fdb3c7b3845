//! Which frontends a Service wants, and which of them it cannot have, whoever else there is.

use std::net::Ipv4Addr;
use std::rc::Rc;

use super::service::Service;
use crate::Config;
use crate::table::{Frontend, Protocol};

/// The kubelet's port on the node's address.
const KUBELET: u16 = 10_250;

/// The node, as far as Services depend on it.
#[derive(Clone, Debug)]
pub struct Place {
    /// What was decided for it.
    pub config: Rc<Config>,
    /// Its own TCP ports.
    pub reserved: Box<[u16]>,
}

/// A frontend that a Service wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The frontend.
    pub frontend: Frontend,
    /// Which of the Service's ports it is.
    pub port: usize,
    /// How it is reached.
    pub scope: Scope,
}

/// How a frontend is reached: what rules apply to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// By the Service's own address.
    Internal,
    /// By an address outside the cluster.
    External,
    /// By a node port.
    Node,
    /// By a load balancer.
    Balanced,
}

/// A frontend that no Service can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The frontend.
    pub frontend: Frontend,
    /// How it was to be reached.
    pub scope: Scope,
    /// Why not.
    pub why: &'static str,
}

impl Place {
    /// The node of this configuration, whose API is at this port.
    pub fn new(config: Rc<Config>, api: Option<u16>) -> Self {
        let own = [config.metrics, config.healthz].into_iter();
        let own = own.filter(|own| own.ip().is_unspecified() || *own.ip() == config.node_address);
        let reserved = own.map(|own| own.port()).chain(api).chain([KUBELET]).collect();
        Self { config, reserved }
    }

    /// The frontends that a Service wants, each once; what comes first decides the rules.
    pub fn frontends(&self, service: &Service) -> (Vec<Wanted>, Vec<Refused>) {
        let (mut wanted, mut refused) = (Vec::<Wanted>::new(), Vec::<Refused>::new());
        let node = &self.config.node_address;
        for (index, port) in service.ports.iter().enumerate() {
            let mut want = |address, number, scope| {
                let frontend = Frontend { protocol: port.protocol, address, port: number };
                if wanted.iter().any(|other| other.frontend == frontend) {
                    return;
                }
                match self.refusal(frontend, scope) {
                    Some(why) => refused.push(Refused { frontend, scope, why }),
                    None => wanted.push(Wanted { frontend, port: index, scope }),
                }
            };
            // The name server's address is served where it is: by the name server.
            if service.cluster_ip != self.config.dns {
                want(service.cluster_ip, port.port, Scope::Internal);
            }
            for address in &service.external_ips {
                want(*address, port.port, Scope::External);
            }
            for address in service.balanced(node) {
                want(*address, port.port, Scope::Balanced);
            }
            if let Some(node_port) = port.node_port {
                want(Ipv4Addr::UNSPECIFIED, node_port, Scope::Node);
            }
        }
        (wanted, refused)
    }

    fn refusal(&self, frontend: Frontend, scope: Scope) -> Option<&'static str> {
        if scope == Scope::Internal {
            return None;
        }
        let Frontend { protocol, address, port } = frontend;
        if scope == Scope::Node || address == self.config.node_address {
            let taken = protocol == Protocol::Tcp && self.reserved.contains(&port);
            return taken.then_some("the node itself listens there");
        }
        if self.config.services.contains(&address) {
            return Some("it is in the range of the Services");
        }
        if self.config.pods.contains(&address) {
            return Some("it is in the range of the Pods");
        }
        not_an_endpoint(address)
    }
}

/// Why nothing may lead to or from an address, whoever asks.
pub(super) fn not_an_endpoint(address: Ipv4Addr) -> Option<&'static str> {
    match address {
        _ if address.is_loopback() => Some("it is a loopback address"),
        _ if address.is_link_local() => Some("it is a link-local address"),
        _ if address.is_multicast() => Some("it is a multicast address"),
        _ if address.is_unspecified() => Some("it is no address"),
        _ if address.is_broadcast() => Some("it is the broadcast address"),
        _ => None,
    }
}
