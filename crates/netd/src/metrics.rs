//! What is counted, in Prometheus' text format, by kube-proxy's names where there are such.

use std::collections::HashSet;
use std::rc::Rc;

use prometheus::core::Collector;
use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
    exponential_buckets, linear_buckets,
};

use crate::relay::Gauges;
use crate::table::Table;

/// All that is counted.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    relayed: Rc<Gauges>,
    /// How long a change took to be applied.
    pub sync_duration: Histogram,
    /// The time from the cause of a change of endpoints until it was applied.
    pub programming_duration: Histogram,
    /// When a change was applied last, in seconds since 1970.
    pub last_sync: Gauge,
    /// When a change came last, in seconds since 1970.
    pub last_queued: Gauge,
    /// Changes of endpoints.
    pub endpoint_changes: IntCounter,
    /// Changes of Services.
    pub service_changes: IntCounter,
    /// Ports that lead nowhere from this node, by policy.
    pub without_local: IntGaugeVec,
    /// Answers of `/healthz`, by code.
    pub healthz: IntCounterVec,
    /// Answers of `/livez`, by code.
    pub livez: IntCounterVec,
    carried: Carried,
}

/// What is read where it is counted, when somebody asks.
#[derive(Debug)]
struct Carried {
    frontends: IntGauge,
    connections: IntCounterVec,
    bytes: IntCounterVec,
    relay: IntGaugeVec,
    refused: IntCounterVec,
    memory: IntGauge,
}

impl Metrics {
    /// Nothing has been counted yet.
    ///
    /// # Errors
    /// Two metrics have the same name.
    pub fn new(relayed: Rc<Gauges>) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let add = &registry;
        let port = ["kind", "namespace", "name", "port", "protocol"];
        let programming = [
            linear_buckets(0.25, 0.25, 2)?,
            linear_buckets(1.0, 1.0, 59)?,
            linear_buckets(60.0, 5.0, 12)?,
            linear_buckets(120.0, 30.0, 7)?,
        ];
        for pending in ["endpoint", "service"] {
            // Always 0 here: what has come is applied before anybody can ask.
            let name = format!("sync_proxy_rules_{pending}_changes_pending");
            added(add, IntGauge::with_opts(plain(&name, "Changes that are not applied yet.")))?;
        }
        Ok(Self {
            sync_duration: added(
                add,
                Histogram::with_opts(HistogramOpts {
                    common_opts: ours("sync_proxy_rules_duration_seconds", "Time to apply a change."),
                    buckets: exponential_buckets(0.001, 2.0, 15)?,
                }),
            )?,
            programming_duration: added(
                add,
                Histogram::with_opts(HistogramOpts {
                    common_opts: ours(
                        "network_programming_duration_seconds",
                        "Time from the cause of a change of endpoints until it was applied.",
                    ),
                    buckets: programming.concat(),
                }),
            )?,
            last_sync: added(
                add,
                Gauge::with_opts(ours("sync_proxy_rules_last_timestamp_seconds", "When a change was applied last.")),
            )?,
            last_queued: added(
                add,
                Gauge::with_opts(ours("sync_proxy_rules_last_queued_timestamp_seconds", "When a change came last.")),
            )?,
            endpoint_changes: added(
                add,
                IntCounter::with_opts(plain("sync_proxy_rules_endpoint_changes_total", "Changes of endpoints.")),
            )?,
            service_changes: added(
                add,
                IntCounter::with_opts(plain("sync_proxy_rules_service_changes_total", "Changes of Services.")),
            )?,
            without_local: added(
                add,
                IntGaugeVec::new(
                    ours("sync_proxy_rules_no_local_endpoints_total", "Ports that lead nowhere from this node."),
                    &["traffic_policy"],
                ),
            )?,
            healthz: added(add, IntCounterVec::new(plain("proxy_healthz_total", "Answers of /healthz."), &["code"]))?,
            livez: added(add, IntCounterVec::new(plain("proxy_livez_total", "Answers of /livez."), &["code"]))?,
            carried: Carried {
                frontends: added(add, IntGauge::with_opts(netd("frontends", "Frontends that are served.")))?,
                connections: added(
                    add,
                    IntCounterVec::new(netd("connections_total", "New connections, or flows of UDP."), &port),
                )?,
                bytes: added(add, IntCounterVec::new(netd("bytes_total", "Bytes carried, both ways."), &port))?,
                relay: added(add, IntGaugeVec::new(netd("relay", "What the relay has at hand."), &["what"]))?,
                refused: added(
                    add,
                    IntCounterVec::new(
                        netd("refused_total", "Connections and flows that were refused or ended."),
                        &["why"],
                    ),
                )?,
                memory: added(
                    add,
                    IntGauge::new("process_resident_memory_bytes", "Memory in use, shared pages included."),
                )?,
            },
            relayed,
            registry,
        })
    }

    /// All of it, as text.
    ///
    /// # Errors
    /// It cannot be written as text.
    pub fn text(&self, table: &Table) -> Result<String, prometheus::Error> {
        self.carried.read(&self.relayed, table);
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

impl Carried {
    fn read(&self, relayed: &Gauges, table: &Table) {
        let routes = table.all();
        self.frontends.set(routes.len().try_into().unwrap_or(i64::MAX));
        for kept in [&self.connections, &self.bytes, &self.refused] {
            kept.reset();
        }
        let mut seen = HashSet::new();
        for (frontend, route) in routes {
            if !seen.insert(Rc::as_ptr(&route.traffic)) {
                continue; // several frontends lead to the same port of a Service
            }
            let owner = &route.owner;
            let protocol = frontend.protocol.to_string();
            let port = [owner.kind, &owner.namespace, &owner.name, &owner.port, &protocol];
            self.connections.with_label_values(&port).inc_by(route.traffic.connections.get());
            self.bytes.with_label_values(&port).inc_by(route.traffic.bytes.get());
        }
        for (what, gauge) in [
            ("connections", &relayed.connections),
            ("connections-max", &relayed.maximum),
            ("flows", &relayed.flows),
            ("listeners", &relayed.listeners),
            ("listeners-failing", &relayed.unbound),
        ] {
            self.relay.with_label_values(&[what]).set(gauge.get().try_into().unwrap_or(i64::MAX));
        }
        for (why, counter) in [
            ("too-many-connections", &relayed.refused),
            ("no-endpoint-answers", &relayed.failed),
            ("too-many-flows", &relayed.evicted),
        ] {
            self.refused.with_label_values(&[why]).inc_by(counter.get());
        }
        let memory = procfs::process::Process::myself().and_then(|process| process.statm());
        let memory = memory.map_or(0, |memory| memory.resident * procfs::page_size());
        self.memory.set(memory.try_into().unwrap_or(i64::MAX));
    }
}

fn added<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: Result<C, prometheus::Error>,
) -> Result<C, prometheus::Error> {
    let collector = collector?;
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

/// One of kube-proxy's that has a value for each family of addresses. There is one here.
fn ours(name: &str, help: &str) -> Opts {
    plain(name, help).const_label("ip_family", "IPv4")
}

fn plain(name: &str, help: &str) -> Opts {
    Opts::new(name, help).subsystem("kubeproxy")
}

fn netd(name: &str, help: &str) -> Opts {
    Opts::new(name, help).subsystem("terrarium_netd")
}
