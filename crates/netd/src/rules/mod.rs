//! The rules of the nat table that lead to the relay, or past it.
//!
//! All of them are in chains of our own. They are set at the start, after each change of what they follow from, and
//! when somebody removed them.

mod base;
mod keeper;

use std::time::Duration;

use terrarium_cni::iptables::{Chain, Hook, Match, Place};
use tokio::time::{MissedTickBehavior, interval};

use crate::config::{Config, Path};
use crate::{Error, Shared};
use keeper::Keeper;

/// The chain of Services.
const SERVICES: &str = "TERRARIUM-SERVICES";
/// The chains that this process keeps; `terrarium_cni::CHAINS` has them too, for who cleans up.
const CHAINS: &[&str] = &[SERVICES];
/// How often to look whether the rules are still there.
const INTERVAL: Duration = Duration::from_secs(10);

/// Keeps the rules, and removes those of Services in the end.
pub async fn run(shared: Shared) -> Result<(), Error> {
    if shared.config.path == Path::Bound {
        return std::future::pending().await;
    }
    let mut kept = Kept(Keeper::open(CHAINS).map_err(Error::Nat)?);
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if !kept.0.is_disturbed() {
            continue;
        }
        if let Err(error) = kept.0.set(|_| (vec![services(&shared.config)], ())).await {
            tracing::error!(error = &error as &dyn std::error::Error, "the rules of Services cannot be set");
        }
    }
}

/// The rules while this process is there. Those of policies outlast it: they are to hold while it is started again.
struct Kept(Keeper);

impl Drop for Kept {
    fn drop(&mut self) {
        if let Err(error) = self.0.remove(&[SERVICES]) {
            tracing::error!(error = &error as &dyn std::error::Error, "the rules of Services cannot be removed");
        }
    }
}

fn services(config: &Config) -> Chain {
    let jumps = vec![(Hook::Prerouting, Match::all()), (Hook::Output, Match::all())];
    let rules = base::before(config).into_iter().chain(base::after(config)).collect();
    Chain { name: SERVICES, jumps, place: Place::First, rules }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

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

    #[test]
    fn whoever_cleans_up_knows_the_chains() {
        assert!(CHAINS.iter().all(|chain| terrarium_cni::CHAINS.contains(chain)));
    }
}
