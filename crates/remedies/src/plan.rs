//! The planner: what a report asks for, as a plan. Pure: the same report, choices and site give the same plan.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use terrarium_gaps::{Blocks, GapId, Place, Report, Rung, TABLE};

use crate::{Action, CATALOGUE, Setting};

/// Where remedies may put what they need, and what they must leave alone.
#[derive(Clone, Debug)]
pub struct Site {
    /// Runtime files, gone with the cluster: /run/terrarium.
    pub runtime_dir: PathBuf,
    /// What must not be hidden: the data directory.
    pub data_dir: PathBuf,
}

/// What the user decided for some gaps: `--remedy GAP=RUNG`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choices(BTreeMap<GapId, Choice>);

/// What the user decided for one gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// This rung and no other, whether or not the gap was seen.
    Rung(Rung),
    /// The gap stays open.
    Nothing,
}

/// One decision, as it is written: `GAP=RUNG`, or `GAP=none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The gap.
    pub gap: GapId,
    /// What shall be done about it.
    pub choice: Choice,
}

impl FromStr for Decision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (gap, choice) = text.split_once('=').ok_or("a decision is written GAP=RUNG, or GAP=none")?;
        let row = TABLE.iter().find(|row| row.id.to_string() == gap).ok_or_else(|| {
            let all: Vec<_> = TABLE.iter().map(|row| row.id.to_string()).collect();
            format!("there is no gap {gap:?}; there are: {}", all.join(", "))
        })?;
        if choice == "none" {
            return Ok(Self { gap: row.id, choice: Choice::Nothing });
        }
        let built: Vec<Rung> = CATALOGUE
            .iter()
            .filter_map(|remedy| match remedy.purpose() {
                Purpose::Gap { gap, rung } => (gap == row.id).then_some(rung),
                Purpose::Preparation { .. } => None,
            })
            .collect();
        let rung = built.iter().find(|rung| rung.to_string() == choice).ok_or_else(|| {
            let all: Vec<_> = built.iter().map(Rung::to_string).chain(["none".to_owned()]).collect();
            format!("{choice:?} is no remedy for {gap}; there are: {}", all.join(", "))
        })?;
        Ok(Self { gap: row.id, choice: Choice::Rung(*rung) })
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.choice {
            Choice::Rung(rung) => write!(f, "{}={rung}", self.gap),
            Choice::Nothing => write!(f, "{}=none", self.gap),
        }
    }
}

impl FromIterator<Decision> for Choices {
    /// Of several for one gap the last counts.
    fn from_iter<T: IntoIterator<Item = Decision>>(decisions: T) -> Self {
        Self(decisions.into_iter().map(|Decision { gap, choice }| (gap, choice)).collect())
    }
}

impl Choices {
    /// What was decided for the gap.
    #[must_use]
    pub fn of(&self, gap: GapId) -> Option<Choice> {
        self.0.get(&gap).copied()
    }

    /// The decisions, by gap.
    pub fn decisions(&self) -> impl Iterator<Item = Decision> {
        self.0.iter().map(|(gap, choice)| Decision { gap: *gap, choice: *choice })
    }
}

/// What shall be done before a cluster can run here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The namespaces that the cluster is given.
    pub isolation: Isolation,
    /// What is done, in this order.
    pub steps: Vec<Step>,
    /// The gaps for which nothing is done.
    pub open: Vec<Open>,
}

/// The namespaces of a cluster's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    /// None.
    Nothing,
    /// A mount namespace.
    Mount,
    /// User and mount namespaces, with so many IDs mapped.
    User {
        /// Counted from 0 and mapped to the same outside; 1 for the caller's own, mapped to 0.
        ids: u32,
        /// Whether there is a network namespace, too.
        network: bool,
    },
}

impl Isolation {
    /// Whether the cluster has a network namespace of its own, out of which only the gate leads.
    #[must_use]
    pub fn has_network(self) -> bool {
        matches!(self, Self::User { network: true, .. })
    }
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// What for.
    #[serde(flatten)]
    pub purpose: Purpose,
    /// What it does, in a sentence.
    pub does: String,
    /// What was seen that asks for it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub evidence: String,
    /// The rungs before it, which cannot work here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<Skipped>,
    /// What it comes to here; nothing where a part that terrarium ships does it all.
    pub actions: Vec<Action>,
}

/// A rung that cannot work here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// The rung.
    pub rung: Rung,
    /// Why.
    pub why: String,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rung, self.why)
    }
}

/// What a step is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Purpose {
    /// It closes a gap.
    Gap {
        /// The gap.
        gap: GapId,
        /// The rung of its ladder.
        rung: Rung,
    },
    /// It makes room for the cluster, on whatever kernel.
    Preparation {
        /// Which.
        preparation: Preparation,
    },
}

/// What a cluster needs on every kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preparation {
    /// Directories for what dies with the cluster.
    Directories,
    /// A cgroup for the Pods.
    PodCgroups,
    /// Routing between Pods.
    PodNetwork,
}

impl Purpose {
    /// The gap that it closes.
    #[must_use]
    pub fn gap(self) -> Option<GapId> {
        match self {
            Self::Gap { gap, .. } => Some(gap),
            Self::Preparation { .. } => None,
        }
    }
}

impl fmt::Display for Preparation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gap { gap, rung } => write!(f, "{gap}={rung}"),
            Self::Preparation { preparation } => write!(f, "{preparation}"),
        }
    }
}

/// A gap that stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// The gap.
    pub gap: GapId,
    /// Why nothing is done.
    pub why: String,
    /// What cannot be while it is open.
    pub blocks: Blocks,
    /// Whether the user wants it so.
    pub asked_for: bool,
}

/// Chooses for each gap of the report the cheapest remedy that can work here.
#[must_use]
pub fn plan(report: &Report, choices: &Choices, site: &Site) -> Plan {
    let mut plan = Plan { isolation: isolation(report, choices), steps: Vec::new(), open: Vec::new() };
    let mut seen = HashSet::new();
    for remedy in CATALOGUE {
        let input = Input { report, choices, site, isolation: plan.isolation };
        match remedy.purpose() {
            purpose @ Purpose::Preparation { .. } => {
                // One that refuses is not needed here.
                if let Ok(actions) = remedy.plan(&input) {
                    let does = remedy.does();
                    plan.steps.push(Step { purpose, does, evidence: String::new(), skipped: Vec::new(), actions });
                }
            }
            Purpose::Gap { gap, .. } if seen.insert(gap) => plan.close(gap, &input),
            Purpose::Gap { .. } => {}
        }
    }
    for gap in TABLE.iter().map(|row| row.id).filter(|gap| !seen.contains(gap) && report.has(*gap)) {
        plan.leave_open(gap, "its remedy is not built yet".to_owned(), false);
    }
    plan
}

/// What a remedy plans from.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// What was seen.
    pub report: &'a Report,
    /// What the user decided.
    pub choices: &'a Choices,
    /// Where remedies may put things.
    pub site: &'a Site,
    /// The namespaces that the cluster is given.
    pub isolation: Isolation,
}

/// Whether Pods are to have the node's network, and the node that of its caller: no other has links.
pub(crate) fn shares_network(report: &Report, choices: &Choices) -> bool {
    let gap = GapId::PodLinks;
    choices.of(gap).map_or_else(|| report.has(gap), |choice| choice != Choice::Nothing)
}

fn isolation(report: &Report, choices: &Choices) -> Isolation {
    let user = Isolation::User { ids: report.rights.mappable_ids, network: !shares_network(report, choices) };
    // The last rung does with what there is.
    match choices.of(GapId::Privileges).filter(|choice| *choice != Choice::Rung(Rung::Intercept)) {
        Some(Choice::Rung(_)) if report.rights.user_namespace.works() => user,
        Some(_) if report.rights.mount_namespace.works() => Isolation::Mount,
        Some(_) => Isolation::Nothing,
        None => match report.rights.place {
            Place::MountNamespace => Isolation::Mount,
            Place::UserNamespace => user,
            Place::Nowhere => Isolation::Nothing,
        },
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => write!(f, "no namespaces of its own"),
            Self::Mount => write!(f, "in a mount namespace of its own"),
            Self::User { ids, network } => {
                let kinds = if *network { "user, mount and network" } else { "user and mount" };
                let ids = if *ids == 1 { "one ID".to_owned() } else { format!("{ids} IDs") };
                write!(f, "in {kinds} namespaces of its own, with {ids}")
            }
        }
    }
}

impl Plan {
    /// For a cluster without a node: nothing is asked of the sandbox.
    #[must_use]
    pub fn nothing() -> Self {
        Self { isolation: Isolation::Nothing, steps: Vec::new(), open: Vec::new() }
    }

    /// Whether it is for a node that no Pod can run on.
    #[must_use]
    pub fn has_no_pods(&self) -> bool {
        self.settings().any(|setting| matches!(setting, Setting::WithoutMounts { .. }))
    }

    /// Whether Pods can run once it is done.
    #[must_use]
    pub fn can_run_pods(&self) -> bool {
        !self.has_no_pods() && !self.open.iter().any(|open| open.blocks >= Blocks::Pods)
    }

    /// The gaps that keep a node from starting, but for those that the user wants open.
    pub fn obstacles(&self) -> impl Iterator<Item = &Open> {
        self.open.iter().filter(|open| open.blocks == Blocks::Node && !open.asked_for)
    }

    /// The step that closes the gap.
    #[must_use]
    pub fn step(&self, gap: GapId) -> Option<&Step> {
        self.steps.iter().find(|step| step.purpose.gap() == Some(gap))
    }

    /// The settings that components must be given.
    pub fn settings(&self) -> impl Iterator<Item = &Setting> {
        self.steps.iter().flat_map(|step| &step.actions).filter_map(Action::setting)
    }

    fn close(&mut self, gap: GapId, input: &Input<'_>) {
        let choice = input.choices.of(gap);
        let evidence = input.report.evidence(gap);
        let wanted = match choice {
            Some(Choice::Nothing) => {
                if evidence.is_some() {
                    self.leave_open(gap, "left open, as asked for".to_owned(), true);
                }
                return;
            }
            Some(Choice::Rung(rung)) => Some(rung),
            None if evidence.is_none() => return,
            None => None,
        };
        let mut skipped = Vec::new();
        for remedy in CATALOGUE {
            let purpose = remedy.purpose();
            let Purpose::Gap { gap: closes, rung } = purpose else { continue };
            if closes != gap || wanted.is_some_and(|wanted| wanted != rung) {
                continue;
            }
            match remedy.plan(input) {
                Ok(actions) => {
                    let (does, evidence) = (remedy.does(), evidence.unwrap_or_default());
                    self.steps.push(Step { purpose, does, evidence, skipped, actions });
                    return;
                }
                Err(why) => skipped.push(Skipped { rung, why }),
            }
        }
        let why = match skipped.as_slice() {
            [first, others @ ..] if !others.is_empty() && others.iter().all(|other| other.why == first.why) => {
                first.why.clone()
            }
            skipped => skipped.iter().map(Skipped::to_string).collect::<Vec<_>>().join("; "),
        };
        self.leave_open(gap, why, false);
    }

    fn leave_open(&mut self, gap: GapId, why: String, asked_for: bool) {
        self.open.push(Open { gap, why, blocks: gap.gap().blocks, asked_for });
    }
}
