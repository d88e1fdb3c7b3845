//! Which Pod may talk to which: NetworkPolicies.
//!
//! ```text
//! watch ──▶ model ──▶ compiled ──▶ acl: rules of the nat table  [rules]
//!                         └──────▶ allows: asked by the relay   [relay]
//! ```
//!
//! The name server is part of the node, and policies see it as they would elsewhere: as a Pod with the label
//! `k8s-app: kube-dns` in the namespace `kube-system`. The node's own addresses are open to all Pods, and the node may talk
//! to all of them, as upstream has it.

pub(crate) mod acl;
mod addresses;
mod attachments;
mod compiled;
mod follow;
mod model;
#[cfg(test)]
pub(crate) mod tests;

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;

use tokio::sync::Notify;

use crate::control::Name;
use crate::notice::About;
use crate::table::Protocol;

use attachments::Attachments;
pub use compiled::Compiled;
pub use follow::run;

/// The policies that are in force.
#[derive(Debug, Default)]
pub struct Policy {
    /// `None` until the API has said which there are.
    compiled: RefCell<Option<Rc<Compiled>>>,
    /// The policies themselves, from when they are heard of, and so before they hold.
    policies: RefCell<Rc<[About]>>,
    changed: Notify,
    attachments: Attachments,
}

impl Policy {
    /// Whether a new connection or flow may be carried. Asked by the relay for each, with the endpoint as destination.
    /// Nothing may while it is not known which policies there are.
    pub fn allows(&self, source: Ipv4Addr, destination: SocketAddrV4, protocol: Protocol) -> bool {
        self.compiled.borrow().as_ref().is_some_and(|compiled| compiled.allows(source, destination, protocol))
    }

    /// Takes in that a Pod is about to start with this address, and waits until policies hold for it; not for long.
    pub async fn attach(&self, namespace: &str, name: &str, address: Ipv4Addr) {
        let nothing = self.policies.borrow().is_empty() && self.compiled.borrow().is_some();
        if nothing {
            return;
        }
        let pod = Name { namespace: namespace.into(), name: name.into() };
        if !self.attachments.add(pod, address).await {
            tracing::warn!("{namespace}/{name} starts at {address} before its policies hold");
        }
    }

    /// What is in force; `None` while that is not known, and whatever the table says of it holds.
    pub(crate) fn compiled(&self) -> Option<Rc<Compiled>> {
        self.compiled.borrow().clone()
    }

    /// How often it was worked out what is in force.
    pub(crate) fn generation(&self) -> u64 {
        self.attachments.last()
    }

    /// The table says what was in force then, or is not to.
    pub(crate) fn enforced(&self, generation: u64) {
        self.attachments.enforced(generation);
    }

    /// The policies that there are.
    pub(crate) fn policies(&self) -> Rc<[About]> {
        self.policies.borrow().clone()
    }

    /// Waits until that changes.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Takes in which policies there are, which hold once what they come to is set.
    fn announce(&self, policies: Rc<[About]>) {
        self.policies.replace(policies);
    }

    fn set(&self, compiled: Compiled) {
        self.compiled.replace(Some(Rc::new(compiled)));
        self.changed.notify_one();
    }

    /// Of a node where it is known that there are none.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        let policy = Self::default();
        policy.set(Compiled::default());
        policy
    }
}
