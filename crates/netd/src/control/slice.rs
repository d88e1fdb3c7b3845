//! An EndpointSlice, as much of it as is needed to lead to its endpoints.

use std::net::Ipv4Addr;

use k8s_openapi::api::discovery::v1 as api;

use super::service::{Name, port_number, protocol};
use crate::table::Protocol;

/// By this label a slice says whose it is.
const SERVICE: &str = "kubernetes.io/service-name";

/// An EndpointSlice.
#[derive(Clone, Debug, PartialEq)]
pub struct Slice {
    /// Whose endpoints these are.
    pub service: Box<str>,
    /// Its UID.
    pub uid: Box<str>,
    /// The ports that each of the endpoints has.
    pub ports: Box<[Port]>,
    /// The endpoints.
    pub endpoints: Box<[Endpoint]>,
}

/// A port of endpoints.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// The name of the Service's port that leads there.
    pub name: Box<str>,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
}

/// An endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// Its address.
    pub address: Ipv4Addr,
    /// Whether it wants connections.
    pub ready: bool,
    /// Whether it answers, though it may be on its way out.
    pub serving: bool,
    /// Whether it is on its way out.
    pub terminating: bool,
    /// Whether it is on this node.
    pub local: bool,
    /// Whether it is meant for this node; `None` where it is meant for none in particular.
    pub for_node: Option<bool>,
    /// The zones that it is meant for; none: for none in particular.
    pub for_zones: Box<[Box<str>]>,
}

impl Slice {
    /// From the API's object. `None` where it is no Service's, or of another address type.
    pub fn new(object: api::EndpointSlice, node: &str) -> Option<Self> {
        if object.address_type != "IPv4" {
            return None;
        }
        let service = object.metadata.labels?.remove(SERVICE).filter(|service| !service.is_empty())?;
        let ports = object.ports.unwrap_or_default().into_iter().filter_map(Port::new).collect();
        let endpoints = object.endpoints.unwrap_or_default();
        Some(Self {
            service: service.into(),
            uid: object.metadata.uid.unwrap_or_default().into(),
            ports,
            endpoints: endpoints.into_iter().filter_map(|endpoint| Endpoint::new(endpoint, node)).collect(),
        })
    }

    /// The Service whose endpoints these are.
    pub fn service_in(&self, namespace: &str) -> Name {
        Name { namespace: namespace.into(), name: self.service.clone() }
    }
}

impl Port {
    fn new(port: api::EndpointPort) -> Option<Self> {
        Some(Self {
            name: port.name?.into(),
            protocol: protocol(port.protocol.as_deref())?,
            port: port_number(port.port?)?,
        })
    }
}

impl Endpoint {
    fn new(endpoint: api::Endpoint, node: &str) -> Option<Self> {
        let conditions = endpoint.conditions.unwrap_or_default();
        let hints = endpoint.hints.unwrap_or_default();
        let nodes = hints.for_nodes.unwrap_or_default();
        Some(Self {
            address: endpoint.addresses.first()?.parse().ok()?, // consumers use the first, says the API
            ready: conditions.ready.unwrap_or(true),
            serving: conditions.serving.unwrap_or(true),
            terminating: conditions.terminating.unwrap_or(false),
            local: endpoint.node_name.as_deref() == Some(node),
            for_node: (!nodes.is_empty()).then(|| nodes.iter().any(|hint| hint.name == node)),
            for_zones: hints.for_zones.unwrap_or_default().into_iter().map(|hint| hint.name.into()).collect(),
        })
    }
}
