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

#[cfg(test)]
mod tests {
    use std::net::TcpListener as Blocking;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;
    use tokio::sync::mpsc::UnboundedReceiver;
    use tokio::task::LocalSet;

    use super::*;
    use crate::fixtures::unused_port;
    use crate::notice::{About, channel};

    fn notice(_: u16) -> Notice {
        let about =
            About { api_version: "v1", kind: "Service", namespace: "ns".into(), name: "web".into(), uid: "1".into() };
        Notice { about, reason: "FailedToStartServiceHealthcheck", message: "Taken:".to_owned() }
    }

    fn with_checks(test: impl AsyncFnOnce(HealthChecks, UnboundedReceiver<Notice>)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let (notices, noticed) = channel();
            let health = Rc::new(Health::default());
            health.applied();
            test(HealthChecks::new(health, notices), noticed).await;
        });
    }

    fn web() -> Rc<Name> {
        Rc::new(Name { namespace: "ns".into(), name: "web".into() })
    }

    async fn ask(port: u16) -> Option<String> {
        let mut client = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        Some(answer)
    }

    /// Other tasks have done what they can.
    async fn settle() {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn load_balancers_are_told_of_endpoints_here() {
        with_checks(async |mut checks, _noticed| {
            let port = unused_port();
            checks.set(web(), Some((port, 2)), notice);
            settle().await;
            let answer = ask(port).await.unwrap();
            assert!(
                answer.starts_with("HTTP/1.1 200") && answer.contains("x-load-balancing-endpoint-weight: 2"),
                "{answer}"
            );
            let expected =
                r#"{"service":{"namespace":"ns","name":"web"},"localEndpoints":2,"serviceProxyHealthy":true}"#;
            assert!(answer.ends_with(expected), "{answer}");

            checks.set(web(), Some((port, 0)), notice);
            let answer = ask(port).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 503") && answer.contains(r#""localEndpoints":0"#), "{answer}");

            checks.set(web(), None, notice);
            settle().await;
            assert_eq!(ask(port).await, None);
        });
    }

    #[test]
    fn a_port_that_is_taken_is_told_of_and_tried_again() {
        with_checks(async |mut checks, mut noticed| {
            let port = unused_port();
            let taken = Blocking::bind(("0.0.0.0", port)).unwrap();
            checks.set(web(), Some((port, 1)), notice);
            let notice = noticed.recv().await.unwrap();
            assert!(notice.message.starts_with("Taken: Address already in use"), "{}", notice.message);
            drop(taken);
            sleep(Duration::from_secs(2)).await;
            assert!(ask(port).await.is_some_and(|answer| answer.starts_with("HTTP/1.1 200")));
        });
    }
}
