//! The way past the relay, for the Services that move most bytes: DNAT in the kernel.
//!
//! It carries more, and leaves the node's CPU to others; but new connections are slower there, since in gVisor one whose
//! source port was used a moment ago waits for a second. So it is for few and long connections. Those that the relay
//! carries already stay there.
//!
//! A Service's annotation `terrarium.dev/path` can say `in-stack` or `relay`. Otherwise what was carried decides.
//!
//! What goes past the relay cannot be counted: the kernel tells nothing of it. So the way is given for a while, and then
//! taken back to look again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::sync::LazyLock;
use std::time::Duration;
use std::{io, thread};

use nix::sched::{CloneFlags, unshare};
use terrarium_cni::iptables::{Match, Rule, Target};
use tokio::time::Instant;

use crate::config::Config;
use crate::table::{Frontend, Protocol, Route, Way};

/// Bytes per second that are worth rules.
const RATE: u64 = 4 << 20;
/// Bytes per connection below which new connections matter more than bytes.
const PER_CONNECTION: u64 = 1 << 20;
/// Samples in a row that must say so.
const STREAK: u8 = 2;
/// How long it lasts.
const LEASE: Duration = Duration::from_secs(60);
/// A rule for each endpoint: with more than these a Service takes the room of others.
const ENDPOINTS: usize = 16;

/// Who goes past the relay.
#[derive(Debug)]
pub struct InStack {
    /// Until when, and how many bytes per second it was worth.
    chosen: BTreeMap<Frontend, (Instant, u64)>,
    /// Those that are to, whatever they carry.
    asked: BTreeSet<Frontend>,
    /// Those that have carried something.
    samples: HashMap<Frontend, Sample>,
    sampled: Instant,
    /// Whether anything is carried that is worth a look.
    busy: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    connections: u64,
    bytes: u64,
    streak: u8,
}

impl InStack {
    pub fn new() -> Self {
        Self {
            chosen: BTreeMap::new(),
            asked: BTreeSet::new(),
            samples: HashMap::new(),
            sampled: Instant::now(),
            busy: false,
        }
    }

    /// Whether to look again soon.
    pub fn is_busy(&self) -> bool {
        self.busy || !self.chosen.is_empty()
    }

    /// When it was last looked.
    pub fn sampled(&self) -> Instant {
        self.sampled
    }

    /// Whether this frontend goes past the relay.
    pub fn has(&self, frontend: &Frontend) -> bool {
        self.chosen.contains_key(frontend) || self.asked.contains(frontend)
    }

    /// Takes in that a frontend's route has changed. Whether rules follow from it.
    pub fn changed(&mut self, frontend: Frontend, route: Option<&Route>) -> bool {
        let had = self.has(&frontend);
        if route.is_some_and(|route| route.way == Way::InStack) {
            self.asked.insert(frontend);
        } else {
            self.asked.remove(&frontend);
        }
        if route.is_none_or(|route| route.way == Way::Relay) {
            self.chosen.remove(&frontend);
        }
        had || self.has(&frontend)
    }

    /// Looks at what was carried since the last time. Whether anyone is to go another way now.
    pub fn sample(&mut self, now: Instant, config: &Config, routes: &[(Frontend, Rc<Route>)]) -> bool {
        let milliseconds = now.duration_since(self.sampled).as_millis().max(1) as u64;
        let before = std::mem::take(&mut self.samples);
        let had = self.chosen.len();
        self.chosen.retain(|_, (until, _)| *until > now);
        let mut changed = self.chosen.len() != had;
        self.busy = false;
        for (frontend, route) in routes {
            let (connections, bytes) = (route.traffic.connections.get(), route.traffic.bytes.get());
            if bytes == 0 {
                continue;
            }
            // One that is seen for the first time has carried what it has at an unknown time.
            let last = before.get(frontend).copied().unwrap_or(Sample { connections, bytes, streak: 0 });
            let carried = bytes.saturating_sub(last.bytes);
            let rate = carried.saturating_mul(1000) / milliseconds;
            let each = carried / connections.saturating_sub(last.connections).max(1);
            let worth = rate >= RATE
                && each >= PER_CONNECTION
                && route.way == Way::Measured
                && is_eligible(config, frontend, route);
            let streak = if worth { last.streak.saturating_add(1) } else { 0 };
            self.busy |= rate >= RATE;
            if streak >= STREAK && self.chosen.insert(*frontend, (now + LEASE, rate)).is_none() {
                changed = true;
            }
            self.samples.insert(*frontend, Sample { connections, bytes, streak });
        }
        self.sampled = now;
        changed
    }

    /// Rules of those that go past the relay, the busiest first. `route` is asked where they lead now.
    pub fn rules(&self, config: &Config, route: impl Fn(&Frontend) -> Option<Rc<Route>>) -> Vec<Vec<Rule>> {
        let chosen = self.chosen.iter().map(|(frontend, (_, rate))| (*rate, frontend));
        let mut chosen: Vec<_> = chosen.chain(self.asked.iter().map(|frontend| (u64::MAX, frontend))).collect();
        chosen.sort_unstable_by(|one, other| other.cmp(one));
        let rules = |(_, frontend): (u64, &Frontend)| {
            let route = route(frontend).filter(|route| is_eligible(config, frontend, route))?;
            Some(lead(frontend, &route, &PORTS))
        };
        chosen.into_iter().filter_map(rules).collect()
    }
}

/// Whether the kernel can do all that the route asks for.
fn is_eligible(config: &Config, frontend: &Frontend, route: &Route) -> bool {
    config.routed
        && frontend.protocol == Protocol::Tcp
        && config.services.contains(&frontend.address)
        && route.affinity.is_none()
        && route.sources.is_empty()
        && (1..=ENDPOINTS).contains(&route.endpoints.len())
        && route
            .endpoints
            .iter()
            .all(|endpoint| config.pods.contains(endpoint.ip()) && *endpoint.ip() != config.gateway)
}

/// A rule for each endpoint, for its share of the ports that Pods connect from. Connections of the node may have a part of
/// these only: some endpoints get none of those. What an endpoint sends to itself would never come back to it by this way,
/// so it is left to the relay.
fn lead(frontend: &Frontend, route: &Route, ports: &RangeInclusive<u16>) -> Vec<Rule> {
    let (first, count) = (u32::from(*ports.start()), route.endpoints.len() as u32);
    let width = u32::from(*ports.end()) + 1 - first;
    let begin = |share: u32| if share == 0 { 1024 } else { (first + share * width / count) as u16 };
    let rule = |(share, endpoint): (u32, &std::net::SocketAddrV4)| {
        let last = if share + 1 == count { u16::MAX } else { begin(share + 1) - 1 };
        Match::protocol(Protocol::Tcp)
            .not_from(*endpoint.ip())
            .to(frontend.address)
            .from_ports(begin(share)..=last)
            .to_ports(frontend.port..=frontend.port)
            .then(Target::Dnat(*endpoint.ip(), Some(endpoint.port())))
    };
    (0..).zip(route.endpoints.iter()).map(rule).collect()
}

/// Ports that Pods connect from; Linux's own where they cannot be found out. Most nodes never need to know.
static PORTS: LazyLock<RangeInclusive<u16>> = LazyLock::new(|| ports_of_pods().unwrap_or(32_768..=60_999));

/// What they are, about. It is tried in a network namespace, as theirs are: in gVisor the sysctl is that of
/// the sandbox's first one, wherever it is read, and is set for the node alone.
fn ports_of_pods() -> Option<RangeInclusive<u16>> {
    let in_new_namespace = || -> io::Result<Vec<u16>> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        terrarium_cni::local_ports()
    };
    let ports = thread::spawn(in_new_namespace).join().ok()?.ok()?;
    let (first, last) = (*ports.iter().min()?, *ports.iter().max()?);
    (1024 < first && first < last).then_some(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{config, route};

    fn frontend() -> Frontend {
        Frontend { protocol: Protocol::Tcp, address: [10, 43, 0, 7].into(), port: 80 }
    }

    fn carry(route: &Route, connections: u64, bytes: u64) {
        route.traffic.connections.set(route.traffic.connections.get() + connections);
        route.traffic.bytes.set(route.traffic.bytes.get() + bytes);
    }

    /// Carries so much each second, for so long; whether it goes past the relay then.
    fn after(seconds: u64, connections: u64, bytes: u64, route: Route) -> bool {
        let mut in_stack = InStack::new();
        let routes = [(frontend(), Rc::new(route))];
        let start = in_stack.sampled;
        for second in 0..seconds {
            carry(&routes[0].1, connections, bytes);
            in_stack.sample(start + Duration::from_secs(second), &config(), &routes);
        }
        in_stack.has(&frontend())
    }

    #[test]
    fn few_connections_of_many_bytes_go_past_the_relay_once_that_lasts() {
        let web = || route(&["10.42.0.5:8080"]);
        assert!(after(3, 1, 64 << 20, web()));
        assert!(!after(2, 1, 64 << 20, web()), "not at once");
        assert!(!after(9, 100, 64 << 20, web()), "many small ones");
        assert!(!after(9, 1, 1 << 20, web()), "not much");
        assert!(!after(9, 1, 64 << 20, route(&["10.42.0.5:8080", "10.201.0.2:6443"])), "to the node");
        assert!(!after(9, 1, 64 << 20, Route { affinity: Some(LEASE), ..web() }));
        assert!(!after(9, 1, 64 << 20, route(&[])));
        assert!(!after(9, 1, 64 << 20, Route { way: Way::Relay, ..web() }));
    }

    #[test]
    fn who_asks_for_a_way_has_it() {
        let mut in_stack = InStack::new();
        let asks = |way| Some(Rc::new(Route { way, ..route(&["10.42.0.5:8080"]) }));
        for (way, changes, rules) in
            [(Way::Measured, false, 0), (Way::InStack, true, 1), (Way::InStack, true, 1), (Way::Relay, true, 0)]
        {
            let route = asks(way);
            assert_eq!(in_stack.changed(frontend(), route.as_deref()), changes, "{way:?}");
            assert_eq!(in_stack.rules(&config(), |_| route.clone()).len(), rules, "{way:?}");
        }
        in_stack.changed(frontend(), asks(Way::InStack).as_deref());
        assert!(in_stack.changed(frontend(), None) && !in_stack.has(&frontend()));
    }

    #[test]
    fn the_way_is_taken_back_to_look_again() {
        let mut in_stack = InStack::new();
        let routes = [(frontend(), Rc::new(route(&["10.42.0.5:8080"])))];
        let mut now = in_stack.sampled;
        for _ in 0..3 {
            carry(&routes[0].1, 1, 64 << 20);
            now += Duration::from_secs(1);
            in_stack.sample(now, &config(), &routes);
        }
        assert!(in_stack.has(&frontend()) && in_stack.is_busy());
        assert!(!in_stack.sample(now + LEASE / 2, &config(), &routes));
        assert!(in_stack.sample(now + LEASE, &config(), &routes));
        assert!(!in_stack.has(&frontend()) && !in_stack.is_busy());
    }

    #[test]
    fn each_endpoint_has_its_share_of_the_ports() {
        let route = route(&["10.42.0.5:8080", "10.42.0.6:8080", "10.42.0.7:81"]);
        let rules: Vec<_> = lead(&frontend(), &route, &(16_000..=u16::MAX)).iter().map(ToString::to_string).collect();
        assert_eq!(
            rules,
            [
                "! -s 10.42.0.5/32 -d 10.43.0.7/32 -p tcp -m tcp --sport 1024:32511 --dport 80 \
                 -j DNAT --to-destination 10.42.0.5:8080",
                "! -s 10.42.0.6/32 -d 10.43.0.7/32 -p tcp -m tcp --sport 32512:49023 --dport 80 \
                 -j DNAT --to-destination 10.42.0.6:8080",
                "! -s 10.42.0.7/32 -d 10.43.0.7/32 -p tcp -m tcp --sport 49024:65535 --dport 80 \
                 -j DNAT --to-destination 10.42.0.7:81",
            ]
        );
    }
}
