//! Fills the table from the API: Services, EndpointSlices, and the node's zone.
//!
//! ```text
//! watch ─▶ service, slice ─▶ routing (claims) ─▶ routes (frontends, choice) ─▶ table
//!                                      └──────▶ events, balancers, health_checks
//! ```
//!
//! The rules are kube-proxy's (`pkg/proxy` of Kubernetes 1.36). What is known is kept in own small types, of which there
//! are as many as Services, slices and endpoints.

mod balancers;
mod choice;
mod claims;
mod events;
mod frontends;
mod health;
mod health_checks;
mod http;
mod routes;
mod routing;
mod service;
mod slice;
#[cfg(test)]
mod tests;
pub(crate) mod watch;

use std::net::SocketAddrV4;
use std::rc::Rc;
use std::time::{Instant, SystemTime};

use hyper::StatusCode;
use k8s_openapi::api::core::v1::{Node, Service as ApiService};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::watcher;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{self, UnboundedReceiver};

use self::balancers::{Balancers, Ingress};
use self::frontends::Place;
use self::health::Health;
use self::health_checks::HealthChecks;
use self::http::Answer;
use self::routing::{Outcome, Routing};
use self::service::Service;
pub(crate) use self::service::{Name, protocol};
use self::slice::Slice;
use self::watch::{Event, Watch};
use crate::access::Access;
use crate::metrics::Metrics;
use crate::notice::{About, Notice};
use crate::{Error, Shared};

/// How many events may wait to be taken in, and are taken in at once.
const BATCH: usize = 256;

/// Services and slices that another proxy serves, or that have no address of their own, are left out, as in kube-proxy.
const OURS: &str = "!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless";

/// The node's zone, by this label.
const ZONE: &str = "topology.kubernetes.io/zone";

/// When the cause of a slice's last change was, by this annotation.
const TRIGGERED: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// A slice, and when the cause of its last change was.
type Caused = (Slice, Option<Timestamp>);

enum Update {
    Services(Event<Service>),
    Slices(Event<Caused>),
    Nodes(Event<Option<Box<str>>>),
}

/// Runs.
///
/// # Errors
/// The kubeconfig cannot be read, or the addresses for metrics and health are taken.
pub async fn run(shared: Shared, access: Rc<Access>, noticed: UnboundedReceiver<Notice>) -> Result<(), Error> {
    let config = &shared.config;
    let (metrics_at, healthz_at) = (listen(config.metrics).await?, listen(config.healthz).await?);
    let metrics = Rc::new(Metrics::new(shared.counters.clone())?);
    let health = Rc::new(Health::default());
    let balancers = Balancers::new(config.node_address);
    let mut control = Control {
        routing: Routing::new(Place::new(config.clone(), access.port()), shared.table.clone()),
        checks: HealthChecks::new(health.clone(), shared.notices.clone()),
        metrics: metrics.clone(),
        health: health.clone(),
        balancers: &balancers,
        shared: &shared,
        started: Timestamp::now(),
        listed: (false, false),
        caused: Vec::new(),
    };

    let (sender, mut receiver) = mpsc::channel(BATCH);
    let node: Box<str> = config.node.as_str().into();
    let services = Watch {
        config: watcher::Config::default().labels(OURS),
        keep: |service: ApiService, _: &str| Service::new(service),
        node: node.clone(),
        tell: Update::Services,
    };
    let slices = Watch {
        config: watcher::Config::default().labels(OURS),
        keep: |slice: EndpointSlice, node: &str| {
            let caused = slice.metadata.annotations.as_ref().and_then(|all| all.get(TRIGGERED)?.parse().ok());
            Slice::new(slice, node).map(|slice| (slice, caused))
        },
        node: node.clone(),
        tell: Update::Slices,
    };
    let nodes = Watch {
        config: watcher::Config::default().fields(&format!("metadata.name={node}")),
        keep: |node: Node, _: &str| {
            Some(node.metadata.labels.and_then(|mut labels| labels.remove(ZONE)).map(Into::into))
        },
        node: node.clone(),
        tell: Update::Nodes,
    };
    let apply = async {
        let mut updates = Vec::with_capacity(BATCH);
        let mut frontends = Vec::with_capacity(BATCH);
        let mut changed = shared.table.subscribe();
        loop {
            let came = tokio::select! {
                came = receiver.recv_many(&mut updates, BATCH) => came,
                came = changed.recv_many(&mut frontends, BATCH) => came,
            };
            if came == 0 {
                return;
            }
            frontends.drain(..).for_each(|frontend| control.routing.changed(frontend));
            control.apply(&mut updates);
        }
    };
    let (table, policy, counted) = (shared.table.clone(), shared.policy.clone(), metrics.clone());
    let all = async {
        tokio::join!(
            services.run(&access, sender.clone()),
            slices.run(&access, sender.clone()),
            nodes.run(&access, sender),
            apply,
            balancers.run(&access),
            events::run(noticed, &node, &access),
            http::serve(metrics_at, move |path| match path {
                "/metrics" => exposition(&counted, &table),
                _ => not_found(),
            }),
            http::serve(healthz_at, move |path| {
                let (answer, answers) = match path {
                    "/healthz" => (health.healthz(), &metrics.healthz),
                    "/readyz" => return health.readyz(policy.compiled().is_some()),
                    "/livez" => (health.livez(), &metrics.livez),
                    _ => return not_found(),
                };
                answers.with_label_values(&[answer.status().as_str()]).inc();
                answer
            }),
        )
    };
    all.await;
    Ok(())
}

/// What takes in what the watches tell.
struct Control<'a> {
    routing: Routing,
    metrics: Rc<Metrics>,
    health: Rc<Health>,
    checks: HealthChecks,
    balancers: &'a Balancers,
    shared: &'a Shared,
    started: Timestamp,
    /// Whether all Services, and all slices, have been told of.
    listed: (bool, bool),
    /// When the causes were of what is being applied.
    caused: Vec<Timestamp>,
}

impl Control<'_> {
    fn apply(&mut self, updates: &mut Vec<Update>) {
        let begun = Instant::now();
        for update in updates.drain(..) {
            match update {
                Update::Services(event) => self.services(event),
                Update::Slices(event) => self.slices(event),
                Update::Nodes(event) => self.nodes(event),
            }
        }
        if self.listed == (true, true) {
            self.routing.complete();
        }
        let outcomes = self.routing.publish();
        if self.listed != (true, true) {
            return;
        }
        self.health.applied();
        if outcomes.is_empty() {
            return;
        }
        outcomes.into_iter().for_each(|outcome| self.follow_up(outcome));
        self.count(begun);
    }

    fn services(&mut self, event: Event<Service>) {
        match event {
            Event::Apply(name, service) => self.routing.service(&name, Some(service)),
            Event::Delete(name) => self.routing.service(&name, None),
            Event::All(all) => {
                self.routing.services(all);
                self.listed.0 = true;
            }
            Event::Lost => return self.health.services.lost(),
        }
        self.metrics.service_changes.inc();
        self.health.services.heard();
    }

    fn slices(&mut self, event: Event<Caused>) {
        match event {
            Event::Apply(name, (slice, caused)) => {
                if self.routing.slice(&name, Some(slice)) {
                    // Not what happened before this process was there to apply it.
                    self.caused.extend(caused.filter(|caused| *caused > self.started));
                }
            }
            Event::Delete(name) => drop(self.routing.slice(&name, None)),
            Event::All(all) => {
                self.routing.slices(all.into_iter().map(|(name, (slice, _))| (name, slice)).collect());
                self.listed.1 = true;
            }
            Event::Lost => return self.health.slices.lost(),
        }
        self.metrics.endpoint_changes.inc();
        self.health.slices.heard();
    }

    fn nodes(&mut self, event: Event<Option<Box<str>>>) {
        match event {
            Event::Apply(_, zone) => {
                self.health.node(false);
                self.routing.zone(zone.as_deref());
            }
            Event::All(all) => self.routing.zone(all.into_values().next().flatten().as_deref()),
            Event::Delete(_) => self.health.node(true),
            Event::Lost => {}
        }
    }

    fn follow_up(&mut self, outcome: Outcome) {
        let Outcome { name, uid, health_check, balanced, notices } = outcome;
        let about = || About {
            api_version: "v1",
            kind: "Service",
            namespace: name.namespace.to_string(),
            name: name.name.to_string(),
            uid: uid.to_string(),
        };
        self.checks.set(name.clone(), health_check, |port| Notice {
            about: about(),
            reason: "FailedToStartServiceHealthcheck",
            message: format!("Load balancers cannot ask at port {port} for the endpoints on this node:"),
        });
        notices.into_iter().for_each(|notice| self.shared.notices.post(notice));
        self.balancers.set(name, balanced.map(|here| Ingress { uid, here }));
    }

    fn count(&mut self, begun: Instant) {
        let metrics = &self.metrics;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        metrics.sync_duration.observe(begun.elapsed().as_secs_f64());
        metrics.last_queued.set(now - begun.elapsed().as_secs_f64());
        metrics.last_sync.set(now);
        for caused in self.caused.drain(..) {
            metrics.programming_duration.observe(Timestamp::now().duration_since(caused).as_secs_f64().max(0.0));
        }
        let (internal, external) = self.routing.without_local();
        for (policy, ports) in [("internal", internal), ("external", external)] {
            metrics.without_local.with_label_values(&[policy]).set(ports.try_into().unwrap_or(i64::MAX));
        }
    }
}

async fn listen(address: SocketAddrV4) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(Error::io("listen on", address.to_string()))
}

fn exposition(metrics: &Metrics, table: &crate::table::Table) -> Answer {
    match metrics.text(table) {
        Ok(text) => http::answer(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text),
        Err(error) => http::plain(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

fn not_found() -> Answer {
    http::plain(StatusCode::NOT_FOUND, "404 page not found\n".to_owned())
}
