//! A Service, as much of it as is needed to serve it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::table::{Protocol, Way};

/// The annotation that says by which way a Service's connections go.
const PATH_ANNOTATION: &str = "terrarium.dev/path";
/// Session affinity without a time of its own, as the API defaults it.
const AFFINITY: i32 = 10_800;

/// What an object is called.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    /// Its namespace.
    pub namespace: Box<str>,
    /// Its name there.
    pub name: Box<str>,
}

/// A Service that is proxied.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Its UID.
    pub uid: Box<str>,
    /// When it was created, in seconds since 1970: of two that want the same frontend, the older one has it.
    pub created: i64,
    /// Its address.
    pub cluster_ip: Ipv4Addr,
    /// Its ports, without those of protocols that are not proxied.
    pub ports: Box<[Port]>,
    /// Whether there is a port for SCTP.
    pub sctp: bool,
    /// Addresses outside the cluster's ranges.
    pub external_ips: Box<[Ipv4Addr]>,
    /// How a load balancer serves it, if any is to.
    pub balancer: Option<Balancer>,
    /// The sources that may use it by its load balancer; empty: all.
    pub sources: Rc<[Ipv4Net]>,
    /// Session affinity by the client's address.
    pub affinity: Option<Duration>,
    /// By which way its connections go, by its annotation.
    pub way: Way,
    /// Whether its own address leads only to endpoints of this node.
    pub internal_local: bool,
    /// Whether all other addresses lead only to endpoints of this node.
    pub external_local: bool,
    /// The port that tells load balancers whether there are endpoints on this node.
    pub health_check: Option<u16>,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// Its name; empty where a single port needs none.
    pub name: Box<str>,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
    /// The same on the node's addresses, if any.
    pub node_port: Option<u16>,
}

/// The load balancer of a Service.
#[derive(Clone, Debug, PartialEq)]
pub enum Balancer {
    /// This proxy: the node's address. With the addresses in the Service's status; `None` is what is not an address that
    /// leads here.
    Own(Box<[Option<Ipv4Addr>]>),
    /// One of the Service's own choice. With the addresses that it leads here.
    Other(Box<[Ipv4Addr]>),
}

impl Service {
    /// From the API's object. `None` where it is not proxied: headless, an external name, of another IP family.
    pub fn new(object: api::Service) -> Option<Self> {
        let spec = object.spec?;
        let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
        if kind == "ExternalName" {
            return None;
        }
        // One address per IP family, in either order.
        let addresses = spec.cluster_ips.unwrap_or_default();
        let cluster_ip = addresses.iter().chain(&spec.cluster_ip).find_map(|address| address.parse().ok())?;

        let external_ips: Box<[Ipv4Addr]> =
            spec.external_ips.iter().flatten().filter_map(|address| address.parse().ok()).collect();
        let all = spec.ports.unwrap_or_default();
        let sctp = all.iter().any(|port| port.protocol.as_deref() == Some("SCTP"));
        let ports = all.into_iter().filter_map(Port::new).collect();
        let reached_from_outside = matches!(kind, "NodePort" | "LoadBalancer") || !external_ips.is_empty();
        let external_local = reached_from_outside && spec.external_traffic_policy.as_deref() == Some("Local");
        let ingress = object.status.and_then(|status| status.load_balancer).and_then(|balancer| balancer.ingress);
        let ingress = ingress.unwrap_or_default().into_iter().map(address_of);
        let balancer = (kind == "LoadBalancer").then(|| match spec.load_balancer_class {
            None => Balancer::Own(ingress.collect()),
            Some(_) => Balancer::Other(ingress.flatten().collect()),
        });
        let health_check = (balancer.is_some() && external_local).then_some(spec.health_check_node_port);
        Some(Self {
            uid: object.metadata.uid.unwrap_or_default().into(),
            created: object.metadata.creation_timestamp.map_or(0, |time| time.0.as_second()),
            cluster_ip,
            ports,
            sctp,
            external_ips,
            balancer,
            sources: sources(&spec.load_balancer_source_ranges.unwrap_or_default()),
            affinity: (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
                let timeout = spec.session_affinity_config.and_then(|config| config.client_ip?.timeout_seconds);
                Duration::from_secs(timeout.unwrap_or(AFFINITY).max(0).unsigned_abs().into())
            }),
            way: way(&object.metadata.annotations.unwrap_or_default()),
            internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            external_local,
            health_check: health_check.flatten().and_then(port_number),
        })
    }

    /// The addresses by which its load balancer leads here.
    pub fn balanced<'a>(&'a self, node: &'a Ipv4Addr) -> &'a [Ipv4Addr] {
        match &self.balancer {
            None => &[],
            Some(Balancer::Own(_)) => std::slice::from_ref(node),
            Some(Balancer::Other(addresses)) => addresses,
        }
    }

    /// Whether anything but its own address leads to this port.
    pub fn reached_from_outside(&self, port: &Port, node: &Ipv4Addr) -> bool {
        port.node_port.is_some() || !self.external_ips.is_empty() || !self.balanced(node).is_empty()
    }
}

impl Port {
    fn new(port: api::ServicePort) -> Option<Self> {
        Some(Self {
            protocol: protocol(port.protocol.as_deref())?,
            port: port_number(port.port)?,
            node_port: port.node_port.and_then(port_number),
            name: port.name.unwrap_or_default().into(),
        })
    }
}

impl Name {
    /// What an object is called; the namespace is empty where it is in none.
    pub fn of(metadata: &ObjectMeta) -> Self {
        let text = |text: &Option<String>| text.as_deref().unwrap_or_default().into();
        Self { namespace: text(&metadata.namespace), name: text(&metadata.name) }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// By which way connections go: `in-stack`, `relay`, or what the proxy thinks best.
fn way(annotations: &BTreeMap<String, String>) -> Way {
    match annotations.get(PATH_ANNOTATION).map(String::as_str) {
        Some("in-stack") => Way::InStack,
        Some("relay") => Way::Relay,
        _ => Way::Measured,
    }
}

/// The protocol, where it is proxied.
pub(crate) fn protocol(name: Option<&str>) -> Option<Protocol> {
    match name {
        None | Some("TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some(_) => None,
    }
}

/// A port, where it is one.
pub(super) fn port_number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port != 0)
}

/// The address of an ingress point, where it leads here: not if a balancer in front makes connections of its own.
fn address_of(ingress: api::LoadBalancerIngress) -> Option<Ipv4Addr> {
    let address = ingress.ip?.parse().ok()?;
    ingress.ip_mode.is_none_or(|mode| mode == "VIP").then_some(address)
}

/// The source ranges of IPv4. Blanks around them are allowed by the API; one of length 0 allows all.
fn sources(ranges: &[String]) -> Rc<[Ipv4Net]> {
    let ranges: Vec<Ipv4Net> = ranges.iter().filter_map(|range| range.trim().parse().ok()).collect();
    if ranges.iter().any(|range| range.prefix_len() == 0) { Rc::default() } else { ranges.into() }
}
