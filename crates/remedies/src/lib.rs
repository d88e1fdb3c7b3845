//! Remedies for the gaps of a sandbox.
//!
//! A [`Remedy`] looks at the sandbox and plans [`Action`]s, which are data: a mount, a file, a setting for a component.
//! [`apply_all`] takes the remedies in the gap table's order. Each action is written to the [`Journal`] before it is
//! done, so that [`Journal::revert`] undoes exactly what was begun, also after a crash half-way. Then the remedy
//! verifies that the gap is closed, by behaviour.
//!
//! Mounts are made inside a mount namespace of terrarium's own ([`namespace`]): nothing of them is seen outside it, and
//! they are gone with its last process.

mod action;
mod catalogue;
mod journal;
pub mod namespace;

use std::io;
use std::path::PathBuf;

pub use action::{Action, Setting};
pub use catalogue::{CATALOGUE, POD_CGROUP_ROOT};
pub use journal::Journal;
use terrarium_gaps::{GapId, Rung};

/// Where remedies may put what they need.
#[derive(Clone, Debug)]
pub struct Site {
    /// Runtime files, gone with the cluster: /run/terrarium.
    pub runtime_dir: PathBuf,
}

/// Closes one gap on one rung of its ladder.
pub trait Remedy: Sync {
    /// The gap.
    fn gap(&self) -> GapId;

    /// The rung.
    fn rung(&self) -> Rung;

    /// What has to be done here; nothing where the sandbox does not have the gap. Changes nothing.
    ///
    /// # Errors
    /// The sandbox could not be looked at.
    fn plan(&self, site: &Site) -> io::Result<Vec<Action>>;

    /// Does the actions, each noted in the journal first.
    ///
    /// # Errors
    /// The first action that failed; those before it are in the journal.
    fn apply(&self, actions: &[Action], journal: &mut Journal) -> Result<(), Error> {
        for action in actions {
            journal.note(self, action)?;
            action.apply().map_err(|source| Error::Apply { gap: self.gap(), action: action.to_string(), source })?;
        }
        Ok(())
    }

    /// Tries what the gap broke. A flag changes nothing in the sandbox, so there is nothing to try before the component
    /// runs: that the component becomes ready is its verification.
    ///
    /// # Errors
    /// What still does not work.
    fn verify(&self) -> io::Result<()> {
        Ok(())
    }

    /// Undoes one action; one that was never done, or is undone already, is fine.
    ///
    /// # Errors
    /// It could not be undone.
    fn revert(&self, action: &Action) -> io::Result<()> {
        action.revert()
    }
}

/// Plans, applies and verifies every remedy of the catalogue, and returns the settings that components must be given.
///
/// # Errors
/// The first remedy that failed. The caller reverts the journal.
pub fn apply_all(site: &Site, journal: &mut Journal) -> Result<Vec<Setting>, Error> {
    let mut settings = Vec::new();
    for remedy in CATALOGUE {
        let gap = remedy.gap();
        let actions = remedy.plan(site).map_err(|source| Error::Plan { gap, source })?;
        if actions.is_empty() {
            continue;
        }
        remedy.apply(&actions, journal)?;
        remedy.verify().map_err(|source| Error::Verify { gap, rung: remedy.rung(), source })?;
        settings.extend(actions.into_iter().filter_map(|action| match action {
            Action::Configure(setting) => Some(setting),
            _ => None,
        }));
    }
    Ok(settings)
}

/// Why a remedy could not be applied or undone.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The sandbox could not be looked at.
    #[error("cannot tell whether this sandbox has the gap {gap}")]
    Plan {
        /// The gap.
        gap: GapId,
        /// Why.
        source: io::Error,
    },
    /// An action failed.
    #[error("cannot close the gap {gap}: cannot {action}")]
    Apply {
        /// The gap.
        gap: GapId,
        /// The action, as a verb phrase.
        action: String,
        /// Why.
        source: io::Error,
    },
    /// An action succeeded and the gap is still there.
    #[error("the {rung} remedy for {gap} was applied and does not work here")]
    Verify {
        /// The gap.
        gap: GapId,
        /// The rung.
        rung: Rung,
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
    /// The mount namespace could not be made or entered.
    #[error("cannot {doing}")]
    Namespace {
        /// What was tried, as a verb phrase.
        doing: String,
        /// Why.
        source: io::Error,
    },
}
