//! Remedies for the gaps of a sandbox.
//!
//! [`plan`] turns a [`Report`](terrarium_gaps::Report) into a [`Plan`]: for each gap the cheapest [`Remedy`] of the
//! [`CATALOGUE`] that can work here, as [`Action`]s, which are data: a mount, a file, a setting for a component.
//! [`Plan::apply`] does them. Each action is written to the [`Journal`] before it is done, so that [`Journal::revert`]
//! undoes exactly what was begun, also after a crash half-way. Then each remedy verifies that its gap is closed, by
//! behaviour.
//!
//! Mounts are made inside namespaces of the cluster's own ([`namespace`]): nothing of them is seen outside, and they are
//! gone with the last process in them.

mod action;
mod catalogue;
mod cgroups;
mod journal;
pub mod namespace;
mod plan;
mod pod_network;
mod without_mounts;

use std::io;
use std::path::PathBuf;

pub use action::{Action, Setting};
pub use catalogue::CATALOGUE;
pub use cgroups::{CGROUP_ROOT, POD_CGROUP_ROOT};
pub use journal::Journal;
pub use plan::{
    Choice, Choices, Decision, Input, Isolation, Open, Plan, Preparation, Purpose, Site, Skipped, Step, plan,
};
pub use pod_network::{LOOPBACK_SERVICE_RANGE, NODE_ADDRESS, SERVICE_RANGE};
pub use without_mounts::NO_PODS_TAINT;

/// Closes one gap on one rung of its ladder, or makes room for the cluster.
pub trait Remedy: Sync {
    /// What for.
    fn purpose(&self) -> Purpose;

    /// What it does, in a sentence: what the gap table says of the rung.
    fn does(&self) -> String {
        match self.purpose() {
            Purpose::Gap { gap, rung } => gap
                .gap()
                .remedies
                .iter()
                .find(|remedy| remedy.rung == rung && remedy.built)
                .map(|remedy| remedy.does.to_owned())
                .unwrap_or_default(),
            Purpose::Preparation { preparation } => preparation.to_string(),
        }
    }

    /// What has to be done here. Pure.
    ///
    /// # Errors
    /// Why it cannot work here: the next rung is tried then.
    fn plan(&self, input: &Input<'_>) -> Result<Vec<Action>, String>;

    /// Tries what the gap broke. A flag changes nothing in the sandbox, so there is nothing to try before the component
    /// runs: that the component becomes ready is its verification.
    ///
    /// # Errors
    /// What still does not work.
    fn verify(&self) -> io::Result<()> {
        Ok(())
    }
}

impl Plan {
    /// Does the actions, each noted in the journal first, and verifies each step. Call it in the cluster's namespaces.
    ///
    /// # Errors
    /// The first action that failed, or the first remedy that does not work. The caller reverts the journal.
    pub fn apply(&self, journal: &mut Journal) -> Result<(), Error> {
        for step in &self.steps {
            for planned in &step.actions {
                let failed = |source| Error::Apply { purpose: step.purpose, action: planned.to_string(), source };
                for action in planned.resolve().map_err(failed)? {
                    journal.note(step.purpose, &action)?;
                    action.apply().map_err(failed)?;
                }
            }
            let remedy = CATALOGUE.iter().find(|remedy| remedy.purpose() == step.purpose);
            if let Some(Err(source)) = remedy.map(|remedy| remedy.verify()) {
                return Err(Error::Verify { purpose: step.purpose, source });
            }
        }
        Ok(())
    }
}

/// Why a remedy could not be applied or undone.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An action failed.
    #[error("cannot prepare the sandbox ({purpose}): cannot {action}")]
    Apply {
        /// What it is for.
        purpose: Purpose,
        /// The action, as a verb phrase.
        action: String,
        /// Why.
        source: io::Error,
    },
    /// An action succeeded and the gap is still there.
    #[error("the remedy {purpose} was applied and does not work here")]
    Verify {
        /// What it is for.
        purpose: Purpose,
        /// What was tried.
        source: io::Error,
    },
    /// Actions could not be undone.
    #[error("cannot undo: {}", .0.join("; "))]
    Revert(Vec<String>),
    /// The journal could not be read or written.
    #[error("journal {}", path.display())]
    Journal {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The namespaces could not be made or entered.
    #[error("cannot {doing}")]
    Namespace {
        /// What was tried, as a verb phrase.
        doing: String,
        /// Why.
        source: io::Error,
    },
}
