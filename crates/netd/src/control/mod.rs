//! Fills the table from the API: Services, EndpointSlices, and the node's zone.
//!
//! ```text
//! watch ──▶ service, slice ──▶ routing ──▶ table
//!                             (claims, frontends, choice)
//! ```

mod choice;
mod claims;
mod frontends;
mod routes;
mod routing;
mod service;
mod slice;
mod watch;

use k8s_openapi::api::core::v1::{Node, Service as ApiService};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{self, UnboundedReceiver};

use self::frontends::Place;
use self::routing::Routing;
use self::service::Service;
use self::slice::Slice;
use self::watch::{Event, Watch};
use crate::notice::Notice;
use crate::{Error, Shared};

/// How many events may wait to be taken in, and are taken in at once.
const BATCH: usize = 256;

/// Services and slices that another proxy serves, or that name no address of their own, are left out, as in kube-proxy.
const OURS: &str = "!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless";

/// The node's zone, by this label.
const ZONE: &str = "topology.kubernetes.io/zone";

enum Update {
    Services(Event<Service>),
    Slices(Event<Slice>),
    Nodes(Event<Option<Box<str>>>),
}

/// Runs.
pub async fn run(shared: Shared, _noticed: UnboundedReceiver<Notice>) -> Result<(), Error> {
    let config = &shared.config;
    let (client, api) = watch::client(&config.kubeconfig).await.map_err(Box::new)?;
    let mut routing = Routing::new(Place::new(config.clone(), api), shared.table.clone());
    let (sender, mut receiver) = mpsc::channel(BATCH);
    let services = Watch {
        config: watcher::Config::default().labels(OURS),
        keep: |service: ApiService, _: &str| Service::new(service),
        node: config.node.clone(),
        tell: Update::Services,
    };
    let slices = Watch {
        config: watcher::Config::default().labels(OURS),
        keep: |slice: EndpointSlice, node: &str| Slice::new(slice, node),
        node: config.node.clone(),
        tell: Update::Slices,
    };
    let nodes = Watch {
        config: watcher::Config::default().fields(&format!("metadata.name={}", config.node)),
        keep: |node: Node, _: &str| Some(node.metadata.labels?.remove(ZONE).map(Into::into)),
        node: config.node.clone(),
        tell: Update::Nodes,
    };
    let apply = async {
        let mut updates = Vec::with_capacity(BATCH);
        let (mut services, mut slices) = (false, false);
        while receiver.recv_many(&mut updates, BATCH).await > 0 {
            for update in updates.drain(..) {
                match update {
                    Update::Services(Event::Apply(name, service)) => routing.service(&name, Some(service)),
                    Update::Services(Event::Delete(name)) => routing.service(&name, None),
                    Update::Services(Event::All(all)) => {
                        routing.services(all);
                        services = true;
                    }
                    Update::Slices(Event::Apply(name, slice)) => routing.slice(&name, Some(slice)),
                    Update::Slices(Event::Delete(name)) => routing.slice(&name, None),
                    Update::Slices(Event::All(all)) => {
                        routing.slices(all);
                        slices = true;
                    }
                    Update::Nodes(Event::Apply(_, zone)) => routing.zone(zone.as_deref()),
                    Update::Nodes(Event::All(all)) => {
                        routing.zone(all.into_values().next().flatten().as_deref());
                    }
                    Update::Services(Event::Lost) | Update::Slices(Event::Lost) | Update::Nodes(_) => {}
                }
            }
            if services && slices {
                routing.complete();
            }
            for outcome in routing.publish() {
                outcome.notices.into_iter().for_each(|notice| shared.notices.post(notice));
            }
        }
    };
    let healthz = async {
        let listen = || Error::io("listen on", config.healthz.to_string());
        let listener = TcpListener::bind(config.healthz).await.map_err(listen())?;
        loop {
            let (mut client, _) = listener.accept().await.map_err(listen())?;
            let _ = client.write_all(b"HTTP/1.0 200 OK\r\n\r\n").await;
        }
    };
    let follow = async {
        tokio::join!(
            services.run(&config.kubeconfig, client.clone(), sender.clone()),
            slices.run(&config.kubeconfig, client.clone(), sender.clone()),
            nodes.run(&config.kubeconfig, client, sender),
            apply,
        )
    };
    tokio::select! {
        _ = follow => Ok(()),
        error = healthz => error,
    }
}
