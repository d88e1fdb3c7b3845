//! Where scenarios take place.

use std::path::Path;
use std::rc::Rc;

use crate::Cluster;

/// Where a scenario takes place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// A cluster that runs, shared with the others: leave it as you found it.
    Shared,
    /// A cluster that runs, shared by those that kill parts of it: each brings it up again.
    Harmed,
    /// A sandbox in which no cluster was ever started, shared with the others.
    Bare,
    /// A sandbox of its own, in which nothing was started yet.
    Own,
}

/// The one stage that is set up at a time: two clusters would take the CPU from each other.
#[derive(Default)]
pub(crate) struct Stages {
    current: Option<(Stage, Result<Rc<Cluster>, String>)>,
}

impl Stages {
    /// The cluster of the stage, set up if it is not there yet; its files go under `artefacts`.
    pub(crate) fn enter(&mut self, stage: Stage, scenario: &str, artefacts: &Path) -> Result<Rc<Cluster>, String> {
        if let Some((set, cluster)) = &self.current
            && *set == stage
            && stage != Stage::Own
        {
            return cluster.clone();
        }
        self.leave();
        let name = if stage == Stage::Own { scenario } else { stage.name() };
        let cluster = Cluster::in_new_sandbox(&artefacts.join(name.replace("::", "-"))).and_then(|cluster| {
            if matches!(stage, Stage::Shared | Stage::Harmed) {
                cluster.terrarium("up").ok().map_err(|failure| format!("{failure}\n{}", cluster.diagnosis()))?;
            }
            Ok(Rc::new(cluster))
        });
        self.current = Some((stage, cluster.clone()));
        cluster
    }

    /// Keeps the logs of the current stage and removes its sandbox.
    pub(crate) fn leave(&mut self) {
        if let Some((_, Ok(cluster))) = self.current.take() {
            cluster.keep_logs();
        }
    }
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Harmed => "harmed",
            Self::Bare => "bare",
            Self::Own => "own",
        }
    }
}
