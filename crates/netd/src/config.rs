//! What is decided about the proxy of a node, by whoever starts it: one JSON file.

use std::iter;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// The configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// How to reach the API, and as whom.
    pub kubeconfig: PathBuf,
    /// The node's name.
    pub node: String,
    /// The node's address.
    pub node_address: Ipv4Addr,
    /// The node's address on every Pod's link; its own where Pods share its network.
    pub gateway: Ipv4Addr,
    /// The Pods' addresses.
    pub pods: Ipv4Net,
    /// The Services' addresses; all of them are the node's own, on its loopback device.
    pub services: Ipv4Net,
    /// The Service address that the name server listens on itself: it is left alone.
    pub dns: Ipv4Addr,
    /// How connections come here.
    pub path: Path,
    /// Whether the node routes between Pods and to the outside. Where it does not, whatever Pods send comes here.
    pub routed: bool,
    /// The socket of the process that makes connections to the outside, where this one's network namespace has no way out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<PathBuf>,
    /// Where runtime files are: sockets, and what is to outlast a restart of this process.
    pub runtime_dir: PathBuf,
    /// Where metrics are served, as kube-proxy's metricsBindAddress.
    pub metrics: SocketAddrV4,
    /// Where `/healthz` is served, as kube-proxy's healthzBindAddress.
    pub healthz: SocketAddrV4,
}

impl Config {
    /// Whether Pods share the node's network: the node is their gateway by its own address.
    pub(crate) fn is_shared(&self) -> bool {
        self.gateway == self.node_address
    }

    /// The addresses by which Pods know the node.
    pub(crate) fn own(&self) -> impl Iterator<Item = Ipv4Addr> {
        iter::once(self.node_address).chain((!self.is_shared()).then_some(self.gateway))
    }
}

/// How connections come to the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Path {
    /// TCP by one REDIRECT rule of the nat table for all Services; the rest by bound sockets.
    Redirect,
    /// A bound socket for each port of each Service: where the nat table is out of reach.
    Bound,
}
