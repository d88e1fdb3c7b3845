//! Where scenarios take place.

use std::iter;
use std::path::Path;

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

/// A stage in a kind of sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) kind: Kind,
    pub(crate) stage: Stage,
}

impl Place {
    /// Whether scenarios play there one after the other.
    pub(crate) fn is_shared(self) -> bool {
        self.stage != Stage::Own
    }
}

/// The one stage that a lane has set up at a time.
#[derive(Default)]
pub(crate) struct Stages {
    current: Option<(Place, Result<Cluster, String>)>,
}

impl Stages {
    /// The cluster of the stage, set up if it is not there yet; its files go under `artefacts`.
    pub(crate) fn enter(&mut self, place: Place, scenario: &str, artefacts: &Path) -> Result<&Cluster, String> {
        if !place.is_shared() || self.current.as_ref().is_some_and(|(current, _)| *current != place) {
            self.leave();
        }
        let (_, cluster) = self.current.get_or_insert_with(|| (place, set_up(place, scenario, artefacts)));
        cluster.as_ref().map_err(Clone::clone)
    }

    /// Keeps the logs of the current stage and removes its sandbox.
    pub(crate) fn leave(&mut self) {
        if let Some((_, Ok(cluster))) = self.current.take() {
            cluster.keep_logs();
        }
    }
}

fn set_up(Place { kind, stage }: Place, scenario: &str, artefacts: &Path) -> Result<Cluster, String> {
    let name = if stage == Stage::Own { scenario } else { stage.name() };
    let mut name = name.replace("::", "-");
    if kind != Kind::ORDINARY {
        name = format!("{}-{name}", kind.directory());
    }
    // A stage that is set up again has a directory of its own: what the one before left is kept.
    let names = iter::once(name.clone()).chain((2..).map(|number| format!("{name}-{number}")));
    let unused = names.map(|name| artefacts.join(name)).find(|path| !path.exists());
    let cluster = Cluster::in_new_sandbox(kind, &unused.ok_or("numbers do not end")?)?;
    if matches!(stage, Stage::Shared | Stage::Harmed)
        && let Err(failure) = cluster.terrarium("up").ok()
    {
        cluster.keep_logs();
        return Err(format!("{failure}\n{}", cluster.diagnosis()));
    }
    Ok(cluster)
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
