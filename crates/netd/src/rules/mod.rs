//! The rules of the nat table: those that lead to the relay, or past it, and those of policies.
//!
//! All of them are in chains of our own, which are replaced at once. They are set at the start, after each change of what
//! they follow from, and when somebody removed them.

mod base;
mod in_stack;
mod keeper;
mod plan;

use std::error::Error as _;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::config::Path;
use crate::notice::Notice;
use crate::policy::acl::{self, Level};
use crate::{Error, Shared};
use in_stack::InStack;
use keeper::Keeper;
use plan::plan;

/// The chain of Services.
const SERVICES: &str = "TERRARIUM-SERVICES";
/// The chains that this process keeps; `terrarium_cni::CHAINS` has them too, for who cleans up.
const CHAINS: &[&str] = &[SERVICES, acl::OUT, acl::IN, acl::RELAYED];
/// How often to look whether the rules are still there, and whether a Service has become busy.
const INTERVAL: Duration = Duration::from_secs(10);
/// How often to look while one is.
const BUSY_INTERVAL: Duration = Duration::from_secs(2);
/// How many changes of Services are looked at at once.
const BATCH: usize = 256;

/// Keeps the rules, and removes those of Services in the end.
pub async fn run(shared: Shared) -> Result<(), Error> {
    if shared.config.path == Path::Bound {
        loop {
            shared.policy.changed().await;
            shared.policy.enforced(shared.policy.generation());
        }
    }
    let mut kept = Kept(Keeper::open().map_err(Error::Nat)?);
    let mut in_stack = InStack::new();
    let mut changes = shared.table.subscribe();
    let mut changed = Vec::with_capacity(BATCH);
    let mut told = None;
    let mut due = true;
    loop {
        if due {
            set(&mut kept.0, &in_stack, &shared, &mut told).await;
        }
        let pause = if in_stack.is_busy() { BUSY_INTERVAL } else { INTERVAL };
        due = tokio::select! {
            () = shared.policy.changed() => true,
            _ = changes.recv_many(&mut changed, BATCH) => {
                let changed = changed.drain(..);
                changed.fold(false, |due, frontend| {
                    due | in_stack.changed(frontend, shared.table.get(&frontend).as_deref())
                })
            }
            () = sleep_until(in_stack.sampled() + pause) => {
                let sampled = in_stack.sample(Instant::now(), &shared.config, &shared.table.all());
                sampled || kept.0.is_disturbed()
            }
        };
    }
}

/// The rules while this process is there. Those of policies outlast it: they are to hold while it is started again.
struct Kept(Keeper);

impl Drop for Kept {
    fn drop(&mut self) {
        if let Err(error) = self.0.remove(&[SERVICES]) {
            tracing::error!("the rules of Services cannot be removed: {error}");
        }
    }
}

/// Sets what is to be there now, and has authors of policies told if that is not what they ask for. `told` is what they
/// were told last, policies and level.
async fn set(keeper: &mut Keeper, in_stack: &InStack, shared: &Shared, told: &mut Option<Level>) {
    let (compiled, generation) = (shared.policy.compiled(), shared.policy.generation());
    // While it is not known which policies there are, those that the table has hold on.
    let names = if compiled.is_some() { CHAINS } else { &CHAINS[..1] };
    let past = in_stack.rules(&shared.config, |frontend| shared.table.get(frontend));
    let level = keeper.set(names, |room| plan(&shared.config, compiled.as_deref(), &past, room)).await;
    let level = level.unwrap_or_else(|error| {
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        tracing::error!("the rules of Services and policies cannot be set: {error}{cause}");
        None
    });
    if level.is_some() {
        shared.policy.enforced(generation);
    }
    if *told != level {
        tracing::info!(?level, "policies in the nat table");
        *told = level;
    }
    let Some((reason, message)) = trouble(level).filter(|_| shared.config.routed) else { return };
    for about in shared.policy.policies().iter() {
        shared.notices.post(Notice { about: about.clone(), reason, message: message.to_owned() });
    }
}

/// What authors of policies are told.
fn trouble(level: Option<Level>) -> Option<(&'static str, &'static str)> {
    match level {
        Some(Level::Exact) => None,
        Some(Level::Relayed) => Some((
            "NetworkPolicyRelayed",
            "the node's nat table has no room for all rules: TCP connections of isolated Pods go through the relay, and \
             the other side sees the node's address. Fewer ports and blocks, or labels shared by more Pods, take fewer rules",
        )),
        Some(Level::Closed) => Some((
            "NetworkPolicyNotEnforcedForUDP",
            "the node's nat table has no room for all rules: TCP connections of isolated Pods go through the relay, and \
             all else but names is dropped, even if a policy allows it",
        )),
        Some(Level::Coarse) => Some((
            "NetworkPolicyNotEnforcedForUDP",
            "the node's nat table has next to no room: TCP connections go through the relay, and all else that isolated \
             Pods and their neighbours by address send or receive is dropped, names included unless a policy allows them",
        )),
        None => Some((
            "NetworkPolicyNotEnforced",
            "the node's nat table cannot be set: this holds for connections to Services only",
        )),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::config::Config;
    use crate::table::{Otherwise, Owner, Route, Way};

    pub(crate) fn config() -> Config {
        Config {
            kubeconfig: "/k".into(),
            node: "node".into(),
            node_address: [10, 201, 0, 2].into(),
            gateway: [10, 42, 0, 1].into(),
            pods: "10.42.0.0/24".parse().unwrap(),
            services: "10.43.0.0/16".parse().unwrap(),
            dns: [10, 43, 0, 10].into(),
            path: Path::Redirect,
            routed: true,
            gate: None,
            runtime_dir: "/run".into(),
            metrics: "127.0.0.1:10249".parse().unwrap(),
            healthz: "127.0.0.1:10256".parse().unwrap(),
        }
    }

    pub(crate) fn route(endpoints: &[&str]) -> Route {
        let [namespace, name, uid, port] = ["default", "web", "1", ""].map(String::from);
        Route {
            owner: Rc::new(Owner { kind: "Service", namespace, name, uid, port }),
            endpoints: endpoints.iter().map(|endpoint| endpoint.parse().unwrap()).collect(),
            otherwise: Otherwise::Reject,
            affinity: None,
            sources: Rc::default(),
            way: Way::default(),
            traffic: Rc::default(),
        }
    }

    #[test]
    fn whoever_cleans_up_knows_the_chains() {
        assert!(CHAINS.iter().all(|chain| terrarium_cni::CHAINS.contains(chain)));
    }
}
