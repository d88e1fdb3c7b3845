//! Where scenarios take place.

use std::path::Path;
use std::rc::Rc;

use crate::{Cluster, Kind};

/// Where a scenario takes place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// A cluster that runs, shared with the others: leave it as you found it.
    Shared,
    /// A cluster that runs, shared by those that kill parts of it: each brings it up again.
    Harmed,
    /// A sandbox in which no cluster was ever started, shared with the others.
    Bare,
    /// A sandbox in which no cluster runs, shared by those that start one: each takes its own down again.
    Idle,
    /// A sandbox of its own, in which nothing was started yet.
    Own,
}

/// The one stage that is set up at a time: two clusters would take the CPU from each other.
#[derive(Default)]
pub(crate) struct Stages {
    current: Option<(Kind, Stage, Result<Rc<Cluster>, String>)>,
}

impl Stages {
    /// The cluster of the stage, set up if it is not there yet; its files go under `artefacts`.
    pub(crate) fn enter(
        &mut self,
        kind: Kind,
        stage: Stage,
        scenario: &str,
        artefacts: &Path,
    ) -> Result<Rc<Cluster>, String> {
        if let Some((set_kind, set_stage, cluster)) = &self.current
            && (*set_kind, *set_stage) == (kind, stage)
            && stage != Stage::Own
        {
            return cluster.clone();
        }
        self.leave();
        let name = if stage == Stage::Own { scenario } else { stage.name() };
        let mut name = name.replace("::", "-");
        if kind != Kind::ORDINARY {
            name = format!("{}-{name}", kind.directory());
        }
        let cluster = Cluster::in_new_sandbox(kind, &artefacts.join(name)).and_then(|cluster| {
            if matches!(stage, Stage::Shared | Stage::Harmed) {
                cluster.terrarium("up").ok().map_err(|failure| format!("{failure}\n{}", cluster.diagnosis()))?;
            }
            Ok(Rc::new(cluster))
        });
        self.current = Some((kind, stage, cluster.clone()));
        cluster
    }

    /// Keeps the logs of the current stage and removes its sandbox.
    pub(crate) fn leave(&mut self) {
        if let Some((_, _, Ok(cluster))) = self.current.take() {
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
            Self::Idle => "idle",
            Self::Own => "own",
        }
    }
}
