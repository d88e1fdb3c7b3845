//! Which endpoint a client had last.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::num::NonZeroUsize;
use std::rc::Rc;

use lru::LruCache;
use tokio::time::{Duration, Instant};

use crate::table::Owner;

/// Clients with their endpoints: by port of a Service, not by frontend, so that a client which comes by a node port meets
/// the endpoint that it has by the ClusterIP, as with kube-proxy. Those that came longest ago are forgotten first.
pub(super) struct Affinity(LruCache<(Rc<Owner>, Ipv4Addr), (SocketAddrV4, Instant)>);

impl Affinity {
    pub(super) fn new(clients: usize) -> Self {
        Self(LruCache::new(NonZeroUsize::new(clients).unwrap_or(NonZeroUsize::MIN)))
    }

    /// The endpoint of a client, unless its last connection is longer ago than `lifetime`.
    pub(super) fn get(&mut self, owner: &Rc<Owner>, client: Ipv4Addr, lifetime: Duration) -> Option<SocketAddrV4> {
        let (endpoint, last) = *self.0.get(&(owner.clone(), client))?;
        (last.elapsed() < lifetime).then_some(endpoint)
    }

    /// Notes a connection.
    pub(super) fn put(&mut self, owner: &Rc<Owner>, client: Ipv4Addr, endpoint: SocketAddrV4) {
        self.0.put((owner.clone(), client), (endpoint, Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn owner(port: &str) -> Rc<Owner> {
        let [namespace, name, uid] = ["default", "web", "1"].map(String::from);
        Rc::new(Owner { kind: "Service", namespace, name, uid, port: port.into() })
    }

    #[tokio::test(start_paused = true)]
    async fn is_forgotten_some_time_after_the_last_connection() {
        let lifetime = Duration::from_secs(10);
        let client = Ipv4Addr::new(10, 42, 0, 2);
        let endpoint = SocketAddrV4::new(Ipv4Addr::new(10, 42, 0, 3), 80);
        let mut affinity = Affinity::new(2);
        affinity.put(&owner("http"), client, endpoint);
        advance(Duration::from_secs(9)).await;
        assert_eq!(affinity.get(&owner("http"), client, lifetime), Some(endpoint));
        assert_eq!(affinity.get(&owner("https"), client, lifetime), None);
        affinity.put(&owner("http"), client, endpoint);
        advance(Duration::from_secs(9)).await;
        assert_eq!(affinity.get(&owner("http"), client, lifetime), Some(endpoint));
        advance(Duration::from_secs(1)).await;
        assert_eq!(affinity.get(&owner("http"), client, lifetime), None);
    }

    #[test]
    fn remembers_so_many_clients() {
        let lifetime = Duration::from_secs(10);
        let endpoint = SocketAddrV4::new(Ipv4Addr::new(10, 42, 0, 3), 80);
        let client = |last| Ipv4Addr::new(10, 42, 0, last);
        let mut affinity = Affinity::new(2);
        for last in 2..5 {
            affinity.put(&owner("http"), client(last), endpoint);
        }
        let known = |last| affinity.get(&owner("http"), client(last), lifetime).is_some();
        assert_eq!([2, 3, 4].map(known), [false, true, true]);
    }
}
