//! Pods that are about to start: upstream wants a Pod to be isolated from its very first instant, but the API hears of its
//! address only once it runs. So the CNI plugin says it, and waits until policies hold for it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use crate::control::Name;

/// How long a Pod waits at most: it is better to run late than never.
const PATIENCE: Duration = Duration::from_secs(3);

/// Addresses that the plugin has given and the API does not know yet.
#[derive(Debug, Default)]
pub struct Attachments {
    pods: RefCell<HashMap<Name, Attachment>>,
    /// There is another one.
    pub(super) changed: Notify,
    /// How often what is in force was worked out, and the last of that that the table says.
    compiled: Cell<u64>,
    enforced: Cell<u64>,
    progress: Notify,
}

#[derive(Clone, Copy, Debug)]
struct Attachment {
    address: Ipv4Addr,
    /// With which working-out policies first saw the Pod there.
    seen: Option<u64>,
}

impl Attachments {
    /// Takes in that a Pod gets this address, and waits until policies hold for it. Whether they do.
    pub(super) async fn add(&self, name: Name, address: Ipv4Addr) -> bool {
        self.pods.borrow_mut().retain(|_, former| former.address != address);
        self.pods.borrow_mut().insert(name.clone(), Attachment { address, seen: None });
        self.changed.notify_one();
        let held = async {
            loop {
                let progress = self.progress.notified();
                // Without an entry the API knows the address by now, or the Pod is gone, or there are no policies.
                let seen =
                    self.pods.borrow().get(&name).map_or(Some(self.compiled.get()), |attachment| attachment.seen);
                if seen.is_some_and(|seen| seen <= self.enforced.get()) {
                    return;
                }
                progress.await;
            }
        };
        timeout(PATIENCE, held).await.is_ok()
    }

    pub(super) fn addresses(&self) -> HashMap<Name, Ipv4Addr> {
        self.pods.borrow().iter().map(|(name, attachment)| (name.clone(), attachment.address)).collect()
    }

    /// Forgets those of which the API knows the address, and those that were seen and are gone. `known` says which address
    /// it knows, if it knows the Pod. A former one may be of a sandbox that has ended.
    pub(super) fn retain(&self, known: impl Fn(&Name) -> Option<Option<Ipv4Addr>>) {
        self.pods.borrow_mut().retain(|name, attachment| match known(name) {
            Some(address) => address != Some(attachment.address),
            None => attachment.seen.is_none(),
        });
    }

    /// Forgets all of them. Who waits does so for what is in force now.
    pub(super) fn clear(&self) {
        self.pods.borrow_mut().clear();
    }

    /// What is in force was worked out with these Pods in it.
    pub(super) fn compiled(&self, is_in_it: impl Fn(&Name) -> bool) {
        let now = self.compiled.get() + 1;
        self.compiled.set(now);
        for (name, attachment) in self.pods.borrow_mut().iter_mut() {
            if attachment.seen.is_none() && is_in_it(name) {
                attachment.seen = Some(now);
            }
        }
    }

    /// The last working-out.
    pub(super) fn last(&self) -> u64 {
        self.compiled.get()
    }

    /// The table says what this working-out came to.
    pub(super) fn enforced(&self, compiled: u64) {
        self.enforced.set(compiled);
        self.progress.notify_waiters();
    }
}
