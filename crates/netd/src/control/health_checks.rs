//! The ports that tell load balancers whether a Service has endpoints on this node (healthCheckNodePort).

use std::cell::Cell;
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::health::Health;
use super::http::{self, Answer};
use super::service::Name;
use crate::notice::{Notice, Notices};

/// Pauses between attempts to listen: the first and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// All such ports.
#[derive(Debug)]
pub struct HealthChecks {
    health: Rc<Health>,
    notices: Notices,
    checks: HashMap<Rc<Name>, Check>,
}

#[derive(Debug)]
struct Check {
    port: u16,
    local: Rc<Cell<usize>>,
    _server: JoinSet<()>, // ends when dropped
}

impl HealthChecks {
    /// None yet.
    pub fn new(health: Rc<Health>, notices: Notices) -> Self {
        Self { health, notices, checks: HashMap::new() }
    }

    /// The port of a Service and the number of its endpoints on this node, from now on. `taken` is posted where the port
    /// cannot be listened on.
    pub fn set(&mut self, name: Rc<Name>, check: Option<(u16, usize)>, taken: impl FnOnce(u16) -> Notice) {
        let Some((port, local)) = check else {
            self.checks.remove(&name);
            return;
        };
        if let Some(check) = self.checks.get(&name).filter(|check| check.port == port) {
            check.local.set(local);
            return;
        }
        self.checks.remove(&name); // its port may be the new one's of another Service
        let local = Rc::new(Cell::new(local));
        let mut server = JoinSet::new();
        let (counted, called, health) = (local.clone(), name.clone(), self.health.clone());
        let answer = move |_: &str| answer(&called, counted.get(), health.is_healthy());
        server.spawn_local(listen(port, answer, self.notices.clone(), taken(port)));
        self.checks.insert(name, Check { port, local, _server: server });
    }
}

async fn listen(port: u16, answer: impl Fn(&str) -> Answer + Clone + 'static, notices: Notices, taken: Notice) {
    let (mut pause, longest) = BACKOFF;
    loop {
        match TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await {
            Ok(listener) => return http::serve(listener, answer).await,
            Err(error) => notices.post(Notice { message: format!("{} {error}.", taken.message), ..taken.clone() }),
        }
        sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

/// In kube-proxy's words.
fn answer(name: &Name, local: usize, healthy: bool) -> Answer {
    let body = json!({
        "service": { "namespace": &*name.namespace, "name": &*name.name },
        "localEndpoints": local,
        "serviceProxyHealthy": healthy,
    });
    let well = local > 0 && healthy;
    let mut answer = http::json(if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, body.to_string());
    let weight = HeaderName::from_static("x-load-balancing-endpoint-weight");
    answer.headers_mut().insert(weight, HeaderValue::from(local));
    answer
}
