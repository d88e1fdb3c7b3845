//! The routes of one Service, as things are.

use std::collections::{BTreeMap, HashSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;

use super::choice::{Choice, Policies, choose};
use super::claims::claimed;
use super::frontends::{Refused, Scope, Wanted, not_an_endpoint};
use super::routing::{Held, Routing};
use super::service::{Name, Port, Service};
use super::slice::{Endpoint, Slice};
use crate::notice::{About, Notice};
use crate::table::{Frontend, Otherwise, Route};

/// The routes of a Service.
#[derive(Debug, Default)]
pub(super) struct Routes {
    /// The frontends that it has.
    pub routes: Vec<(Frontend, Route)>,
    /// The frontends that another one has.
    pub lost: Vec<Frontend>,
    /// Whether all frontends of its load balancer are its own, and there are any.
    pub balanced: bool,
    /// How many of its ready endpoints are on this node.
    pub local: usize,
    /// Ports that lead nowhere from this node, by internalTrafficPolicy and externalTrafficPolicy.
    pub without_local: (usize, usize),
    /// What users are to be told of.
    pub problems: Vec<Notice>,
}

/// Where a port leads, by how it is reached.
struct Ends {
    cluster: Rc<[SocketAddrV4]>,
    local: Rc<[SocketAddrV4]>,
    any: bool,
}

impl Routing {
    pub(super) fn routes(&self, name: &Rc<Name>, held: &Held, slices: &BTreeMap<Box<str>, Slice>) -> Routes {
        let Held { service, ports } = held;
        let mut routes = Routes::default();
        let mut local = HashSet::new();
        let ends: Vec<Ends> = service.ports.iter().map(|port| self.ends(service, port, slices, &mut local)).collect();
        routes.local = local.len();
        for (port, ends) in service.ports.iter().zip(&ends) {
            let outside = service.external_local && self.reached_from_outside(service, port);
            let nowhere = usize::from(ends.any && ends.local.is_empty());
            routes.without_local.0 += if service.internal_local { nowhere } else { 0 };
            routes.without_local.1 += if outside { nowhere } else { 0 };
        }

        let (wanted, refused) = self.place.frontends(service);
        let of_balancer = |wanted: &Wanted| wanted.scope == Scope::Balanced;
        routes.balanced =
            wanted.iter().any(of_balancer) && refused.iter().all(|refused| refused.scope != Scope::Balanced);
        for wanted in wanted {
            let holder = self.claims.holder(&claimed(wanted.frontend, self.place.config.node_address));
            if let Some(holder) = holder.filter(|holder| *holder != name) {
                routes.balanced &= !of_balancer(&wanted);
                routes.lost.push(wanted.frontend);
                routes.problems.push(taken(name, service, &wanted, holder));
                continue;
            }
            let (owner, traffic) = &ports[wanted.port];
            let ends = &ends[wanted.port];
            let local = if wanted.scope == Scope::Internal { service.internal_local } else { service.external_local };
            let route = Route {
                owner: owner.clone(),
                endpoints: if local { ends.local.clone() } else { ends.cluster.clone() },
                otherwise: if ends.any { Otherwise::Drop } else { Otherwise::Reject },
                affinity: service.affinity,
                sources: if of_balancer(&wanted) { service.sources.clone() } else { Rc::default() },
                way: service.way,
                traffic: traffic.clone(),
            };
            routes.routes.push((wanted.frontend, route));
        }

        routes.problems.extend(refused.iter().map(|refused| refusal(name, service, refused)));
        if service.sctp {
            let message = "SCTP is not proxied: gVisor has no SCTP. Ports for TCP and UDP of this Service work.";
            routes.problems.push(notice(name, service, "ProtocolNotSupported", message.into()));
        }
        routes
            .problems
            .extend(slices.iter().filter_map(|(slice, there)| self.bad_endpoints(name, service, slice, there)));
        routes
    }

    fn reached_from_outside(&self, service: &Service, port: &Port) -> bool {
        service.reached_from_outside(port, &self.place.config.node_address)
    }

    fn ends(
        &self,
        service: &Service,
        port: &Port,
        slices: &BTreeMap<Box<str>, Slice>,
        local: &mut HashSet<Ipv4Addr>,
    ) -> Ends {
        let endpoints = self.endpoints(service, port, slices);
        local.extend(endpoints.values().filter(|it| it.ready && it.local).map(|it| it.address));
        let outside = self.reached_from_outside(service, port);
        let policies = Policies {
            cluster: !service.internal_local || outside,
            local: service.internal_local || (service.external_local && outside),
        };
        let Choice { cluster, local, any } = choose(&endpoints, policies, self.zone.as_deref());
        let cluster: Rc<[SocketAddrV4]> = cluster.into();
        let local = if *local == *cluster { cluster.clone() } else { local.into() };
        Ends { cluster, local, any }
    }

    /// The endpoints of a port, each once. A new Pod may have the address of one that is still on its way out.
    fn endpoints<'a>(
        &self,
        service: &Service,
        port: &Port,
        slices: &'a BTreeMap<Box<str>, Slice>,
    ) -> BTreeMap<SocketAddrV4, &'a Endpoint> {
        let mut endpoints = BTreeMap::new();
        for slice in slices.values() {
            let same = |it: &&super::slice::Port| it.name == port.name && it.protocol == port.protocol;
            for number in slice.ports.iter().filter(same).map(|port| port.port) {
                for endpoint in slice.endpoints.iter().filter(|it| self.bad_endpoint(service, it.address).is_none()) {
                    let address = SocketAddrV4::new(endpoint.address, number);
                    if !endpoint.terminating || !endpoints.contains_key(&address) {
                        endpoints.insert(address, endpoint);
                    }
                }
            }
        }
        endpoints
    }

    /// Why an endpoint is refused: by it a user could reach what listens for the node alone, or make a loop.
    fn bad_endpoint(&self, service: &Service, address: Ipv4Addr) -> Option<&'static str> {
        let config = &self.place.config;
        let name_server = address == config.dns && service.cluster_ip == config.dns;
        if config.services.contains(&address) && !name_server {
            return Some("it is in the range of the Services");
        }
        not_an_endpoint(address)
    }

    fn bad_endpoints(&self, name: &Name, service: &Service, called: &str, slice: &Slice) -> Option<Notice> {
        let bad = slice.endpoints.iter().find_map(|it| Some((it.address, self.bad_endpoint(service, it.address)?)));
        let (address, why) = bad?;
        Some(Notice {
            about: About {
                api_version: "discovery.k8s.io/v1",
                kind: "EndpointSlice",
                namespace: name.namespace.to_string(),
                name: called.into(),
                uid: slice.uid.to_string(),
            },
            reason: "EndpointRefused",
            message: format!("Nothing is sent to endpoint {address}: {why}. The other endpoints are used."),
        })
    }
}

fn notice(name: &Name, service: &Service, reason: &'static str, message: String) -> Notice {
    let about = About {
        api_version: "v1",
        kind: "Service",
        namespace: name.namespace.to_string(),
        name: name.name.to_string(),
        uid: service.uid.to_string(),
    };
    Notice { about, reason, message }
}

fn taken(name: &Name, service: &Service, wanted: &Wanted, holder: &Name) -> Notice {
    let frontend = wanted.frontend;
    let message = format!("Service {holder} has {frontend} already. This Service gets it when that one gives it up.");
    notice(name, service, "FrontendTaken", message)
}

fn refusal(name: &Name, service: &Service, refused: &Refused) -> Notice {
    let Refused { frontend, why, .. } = refused;
    notice(name, service, "FrontendRefused", format!("Nothing is served at {frontend}: {why}."))
}
