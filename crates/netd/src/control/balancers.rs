//! Writes the status of Services that this node is the load balancer of.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::rc::Rc;

use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::service::Name;
use crate::access::{Access, Pause};

/// A status that is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ingress {
    /// The UID of the Service that it is for.
    pub uid: Box<str>,
    /// Whether the Service is reached by the node's address.
    pub here: bool,
}

/// The statuses that are still to be written.
#[derive(Debug)]
pub struct Balancers {
    node: Ipv4Addr,
    wanted: RefCell<HashMap<Rc<Name>, Ingress>>,
    changed: Notify,
}

impl Balancers {
    /// None yet; where the node is reached.
    pub fn new(node: Ipv4Addr) -> Self {
        Self { node, wanted: RefCell::default(), changed: Notify::new() }
    }

    /// What is to be written; `None` where all is as it should be.
    pub fn set(&self, name: Rc<Name>, ingress: Option<Ingress>) {
        let mut wanted = self.wanted.borrow_mut();
        match ingress {
            Some(ingress) => {
                wanted.insert(name, ingress);
                self.changed.notify_one();
            }
            None => drop(wanted.remove(&name)),
        }
    }

    /// Writes, forever.
    pub async fn run(&self, access: &Access) {
        let mut pause = Pause::default();
        loop {
            let next = self.wanted.borrow().iter().next().map(|(name, ingress)| (name.clone(), ingress.clone()));
            let Some((name, ingress)) = next else {
                self.changed.notified().await;
                continue;
            };
            match self.write(access, &name, &ingress).await {
                // It was deleted, or is another one by now: of that one a change will tell.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                Err(error) => {
                    tracing::debug!("cannot write the status of Service {name}: {error}");
                    access.renew_after(&error).await;
                    pause.after_error().await;
                    continue;
                }
                Ok(()) => {}
            }
            let mut wanted = self.wanted.borrow_mut();
            if wanted.get(&name) == Some(&ingress) {
                wanted.remove(&name);
            }
        }
    }

    async fn write(&self, access: &Access, name: &Name, ingress: &Ingress) -> Result<(), kube::Error> {
        let services = Api::<Service>::namespaced(access.client(), &name.namespace);
        let patch = Patch::Merge(self.patch(ingress));
        services.patch_status(&name.name, &PatchParams::default(), &patch).await.map(drop)
    }

    fn patch(&self, ingress: &Ingress) -> Value {
        let points = if ingress.here { json!([{ "ip": self.node, "ipMode": "VIP" }]) } else { json!([]) };
        json!({ "metadata": { "uid": &*ingress.uid }, "status": { "loadBalancer": { "ingress": points } } })
    }
}
