//! What is known of Services and endpoints, and the routes that follow from it.
//!
//! Changes are noted one by one; [`Routing::publish`] then brings the table up to date. Only the Services that changed, and
//! those that want the same frontends, are looked at: the work does not grow with the number of Services.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;

use super::claims::{Claim, Claims, claimed};
use super::frontends::Place;
use super::service::{Balancer, Name, Service};
use super::slice::Slice;
use crate::notice::Notice;
use crate::table::{Frontend, Owner, Route, Table, Traffic};

/// All Services and slices.
#[derive(Debug)]
pub struct Routing {
    pub(super) place: Place,
    pub(super) table: Rc<Table>,
    pub(super) claims: Claims,
    pub(super) zone: Option<Box<str>>,
    entries: HashMap<Rc<Name>, Entry>,
    /// Whose each slice is.
    homes: HashMap<Name, Rc<Name>>,
    /// What has changed since it was published.
    dirty: HashSet<Rc<Name>>,
    vacated: Vec<(Frontend, Rc<Name>)>,
    complete: bool,
    /// Ports that lead nowhere from this node, by internalTrafficPolicy and externalTrafficPolicy.
    without_local: (usize, usize),
}

/// What there is under the name of a Service: it or its slices, whichever came first, or both.
#[derive(Debug, Default)]
pub(super) struct Entry {
    pub(super) service: Option<Held>,
    pub(super) slices: BTreeMap<Box<str>, Slice>,
    told: Box<[Notice]>,
    without_local: (usize, usize),
}

/// A Service, and what its ports have carried.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) service: Service,
    pub(super) ports: Box<[(Rc<Owner>, Rc<Traffic>)]>,
}

/// What else is to be done about a Service whose routes were published.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    /// The Service.
    pub name: Rc<Name>,
    /// Its UID; empty where it is gone.
    pub uid: Box<str>,
    /// The port that tells load balancers of its endpoints, and how many of them are on this node.
    pub health_check: Option<(u16, usize)>,
    /// Whether its status is to have the node's address, where that is not as it should be.
    pub balanced: Option<bool>,
    /// What users are to be told of, and were not yet.
    pub notices: Vec<Notice>,
}

impl Routing {
    /// Nothing is known yet.
    pub fn new(place: Place, table: Rc<Table>) -> Self {
        Self {
            place,
            table,
            claims: Claims::default(),
            zone: None,
            entries: HashMap::new(),
            homes: HashMap::new(),
            dirty: HashSet::new(),
            vacated: Vec::new(),
            complete: false,
            without_local: (0, 0),
        }
    }

    /// Notes a Service as it is now. `None`: it is gone, or is not to be proxied.
    pub fn service(&mut self, name: &Name, service: Option<Service>) {
        let known = self.entries.get(name).and_then(|entry| entry.service.as_ref());
        if known.map(|held| &held.service) == service.as_ref() {
            return;
        }
        let name = self.entry(name);
        let old = self.entries.get_mut(&name).and_then(|entry| entry.service.take());
        let before = old.as_ref().map(|held| self.claims_of(&name, &held.service));
        let after = service.as_ref().map(|service| self.claims_of(&name, service));
        let (before, after) = (before.unwrap_or_default(), after.unwrap_or_default());
        for (frontend, claim) in before.iter().filter(|had| !after.contains(had)) {
            let others = self.claims.remove(&claimed(*frontend, self.place.config.node_address), claim);
            self.dirty.extend(others.iter().map(|other| other.name.clone()));
            self.vacated.push((*frontend, name.clone()));
        }
        for (frontend, claim) in after {
            let others = self.claims.add(claimed(frontend, self.place.config.node_address), claim);
            self.dirty.extend(others.iter().map(|other| other.name.clone()));
        }
        if let Some(service) = service
            && let Some(entry) = self.entries.get_mut(&name)
        {
            entry.service = Some(Held::new(&name, service, old));
        }
        self.dirty.insert(name);
    }

    /// Notes a slice as it is now, and says whether it was different. `None`: it is gone, or is none of ours.
    pub fn slice(&mut self, name: &Name, slice: Option<Slice>) -> bool {
        let home = slice.as_ref().map(|slice| slice.service_in(&name.namespace));
        if let Some(old) = self.homes.get(name).cloned()
            && home.as_ref() != Some(&*old)
        {
            self.homes.remove(name);
            if let Some(entry) = self.entries.get_mut(&old) {
                entry.slices.remove(&name.name);
            }
            self.dirty.insert(old);
        }
        let Some((slice, home)) = slice.zip(home) else { return true };
        let home = self.entry(&home);
        let Some(entry) = self.entries.get_mut(&home) else { return false };
        if entry.slices.get(&name.name) == Some(&slice) {
            return false;
        }
        entry.slices.insert(name.name.clone(), slice);
        self.homes.insert(name.clone(), home.clone());
        self.dirty.insert(home);
        true
    }

    /// All Services there are: what is not among them is gone.
    pub fn services(&mut self, all: HashMap<Name, Service>) {
        let gone = |(name, entry): (&Rc<Name>, &Entry)| {
            (entry.service.is_some() && !all.contains_key(&**name)).then(|| name.clone())
        };
        for name in self.entries.iter().filter_map(gone).collect::<Vec<_>>() {
            self.service(&name, None);
        }
        for (name, service) in all {
            self.service(&name, Some(service));
        }
    }

    /// All slices there are: what is not among them is gone.
    pub fn slices(&mut self, all: HashMap<Name, Slice>) {
        let gone: Vec<Name> = self.homes.keys().filter(|name| !all.contains_key(name)).cloned().collect();
        for name in gone {
            self.slice(&name, None);
        }
        for (name, slice) in all {
            self.slice(&name, Some(slice));
        }
    }

    /// Notes the node's zone.
    pub fn zone(&mut self, zone: Option<&str>) {
        if self.zone.as_deref() == zone {
            return;
        }
        self.zone = zone.map(Into::into);
        let hinted = |entry: &Entry| {
            entry.slices.values().flat_map(|slice| &slice.endpoints).any(|endpoint| !endpoint.for_zones.is_empty())
        };
        let hinted = self.entries.iter().filter(|(_, entry)| hinted(entry)).map(|(name, _)| name.clone());
        self.dirty.extend(hinted);
    }

    /// From now on what is not known is not there: both kinds have been listed.
    pub fn complete(&mut self) {
        self.complete = true;
    }

    /// How many ports lead nowhere from this node, by internalTrafficPolicy and by externalTrafficPolicy.
    pub fn without_local(&self) -> (usize, usize) {
        self.without_local
    }

    /// Brings the table up to date. Nothing happens before both kinds have been listed: a Service whose slices are not
    /// known yet would look like one without endpoints.
    pub fn publish(&mut self) -> Vec<Outcome> {
        if !self.complete {
            return Vec::new();
        }
        for (frontend, name) in std::mem::take(&mut self.vacated) {
            self.withdraw(&frontend, &name);
        }
        let dirty = std::mem::take(&mut self.dirty);
        dirty.into_iter().map(|name| self.publish_one(name)).collect()
    }

    /// What users have been told of, and still holds.
    #[cfg(test)]
    pub fn told(&self) -> Vec<Notice> {
        self.entries.values().flat_map(|entry| &entry.told).cloned().collect()
    }

    fn publish_one(&mut self, name: Rc<Name>) -> Outcome {
        let mut outcome = Outcome::new(name.clone());
        let Some(mut entry) = self.entries.remove(&name) else { return outcome };
        let before = std::mem::take(&mut entry.without_local);
        let mut problems = Vec::new();
        if let Some(held) = &entry.service {
            let routes = self.routes(&name, held, &entry.slices);
            for (frontend, route) in routes.routes {
                if !self.table.get(&frontend).is_some_and(|there| is_same(&there, &route)) {
                    self.table.set(frontend, route);
                }
            }
            for frontend in &routes.lost {
                self.withdraw(frontend, &name);
            }
            entry.without_local = routes.without_local;
            outcome.uid = held.service.uid.clone();
            outcome.health_check = held.service.health_check.map(|port| (port, routes.local));
            outcome.balanced = self.status(&held.service, routes.balanced);
            problems = routes.problems;
        }
        self.without_local.0 = self.without_local.0 + entry.without_local.0 - before.0;
        self.without_local.1 = self.without_local.1 + entry.without_local.1 - before.1;
        outcome.notices = problems.iter().filter(|problem| !entry.told.contains(problem)).cloned().collect();
        entry.told = problems.into();
        if entry.service.is_some() || !entry.slices.is_empty() {
            self.entries.insert(name, entry);
        }
        outcome
    }

    /// Whether the status is to have the node's address, unless it is so.
    fn status(&self, service: &Service, here: bool) -> Option<bool> {
        let Some(Balancer::Own(there)) = &service.balancer else { return None };
        let right = match &**there {
            [] => !here,
            [one] => here && *one == Some(self.place.config.node_address),
            _ => false,
        };
        (!right).then_some(here)
    }

    /// Takes a frontend from a Service that has it.
    fn withdraw(&self, frontend: &Frontend, name: &Name) {
        if self.table.get(frontend).is_some_and(|route| is_of(&route.owner, name)) {
            self.table.remove(frontend);
        }
    }

    fn entry(&mut self, name: &Name) -> Rc<Name> {
        if let Some((name, _)) = self.entries.get_key_value(name) {
            return name.clone();
        }
        let name = Rc::new(name.clone());
        self.entries.insert(name.clone(), Entry::default());
        name
    }

    fn claims_of(&self, name: &Rc<Name>, service: &Service) -> Vec<(Frontend, Claim)> {
        let claim = Claim { created: service.created, name: name.clone() };
        let (wanted, _) = self.place.frontends(service);
        wanted.into_iter().map(|wanted| (wanted.frontend, claim.clone())).collect()
    }
}

impl Outcome {
    fn new(name: Rc<Name>) -> Self {
        Self { name, uid: Box::default(), health_check: None, balanced: None, notices: Vec::new() }
    }
}

impl Held {
    /// What the ports of the same Service have carried goes on being counted.
    fn new(name: &Name, service: Service, old: Option<Self>) -> Self {
        let old = old.filter(|old| old.service.uid == service.uid);
        let ports = service.ports.iter().map(|port| {
            let same = old.as_ref().and_then(|old| {
                let at =
                    old.service.ports.iter().position(|had| had.name == port.name && had.protocol == port.protocol);
                at.map(|at| old.ports[at].clone())
            });
            same.unwrap_or_else(|| {
                let owner = Owner {
                    kind: "Service",
                    namespace: name.namespace.to_string(),
                    name: name.name.to_string(),
                    uid: service.uid.to_string(),
                    port: port.name.to_string(),
                };
                (Rc::new(owner), Rc::default())
            })
        });
        Self { ports: ports.collect(), service }
    }
}

fn is_of(owner: &Owner, name: &Name) -> bool {
    owner.kind == "Service" && *owner.namespace == *name.namespace && *owner.name == *name.name
}

fn is_same(there: &Route, route: &Route) -> bool {
    Rc::ptr_eq(&there.owner, &route.owner)
        && there.endpoints == route.endpoints
        && there.otherwise == route.otherwise
        && there.affinity == route.affinity
        && there.sources == route.sources
        && there.way == route.way
}
