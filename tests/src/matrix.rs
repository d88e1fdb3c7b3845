//! Which scenarios are played in which kinds of sandboxes.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use terrarium_testbed::{Gvisor, Platform, Privilege, RootKind};

use crate::stage::Place;
use crate::{Kind, Scenario};

/// The kinds of sandboxes in which a scenario is played.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// In the full matrix.
    full: fn(&Kind) -> bool,
    /// In the cut: of those of the full matrix.
    cut: fn(&Kind) -> bool,
}

impl Scope {
    /// What holds wherever all rights are at hand; in the cut, played in the ordinary kind.
    pub const ALL_RIGHTS: Self = Self { full: Kind::has_all_rights, cut: |kind| *kind == Kind::ORDINARY };

    /// What holds in every kind; in the cut, played where least is allowed.
    pub const EVERYWHERE: Self =
        Self { full: |_| true, cut: |kind| !kind.has_root() && (!kind.can_mount() || representative(kind)) };

    /// What holds wherever a node can run.
    pub const NODES: Self = Self { full: Kind::can_mount, cut: representative };

    /// What holds where nothing can be mounted.
    pub const WITHOUT_MOUNTS: Self = Self { full: |kind| !kind.can_mount(), cut: |kind| !kind.can_mount() };

    /// What holds wherever Pods run; in the cut, played in the ordinary kind and with Docker's rights.
    pub const PODS: Self = Self {
        full: |kind| kind.can_mount() && kind.has_root() && kind.has_links(),
        cut: |kind| *kind == Kind { privilege: kind.privilege, ..Kind::ORDINARY },
    };

    /// What containers are like, which builds and rights decide; in the cut, played in the ordinary kind and with Docker's
    /// rights.
    pub const CONTAINERS: Self = Self {
        full: |kind| {
            Kind { gvisor: Kind::ORDINARY.gvisor, privilege: Privilege::Full, ..*kind } == Kind::ORDINARY
                && kind.has_root()
        },
        cut: |kind| *kind == Kind { privilege: kind.privilege, ..Kind::ORDINARY },
    };

    /// What holds where Pods share the node's network; in the cut, played on the newest build.
    pub const LINKLESS: Self = Self {
        full: |kind| !kind.has_links() && kind.privilege == Privilege::Full,
        cut: |kind| kind.gvisor == Kind::ORDINARY.gvisor,
    };

    /// What holds wherever a node can run without all rights; in the cut, played with Docker's.
    pub const NODES_WITH_FEWER_RIGHTS: Self = Self {
        full: |kind| kind.can_mount() && !kind.has_all_rights() && kind.has_links(),
        cut: |kind| representative(kind) && kind.gvisor == Kind::ORDINARY.gvisor && kind.has_root(),
    };

    /// What no more than the build of gVisor decides; in the cut, played in the ordinary kind.
    pub const BUILDS: Self = Self { full: Kind::differs_in_build_only, cut: |kind| *kind == Kind::ORDINARY };

    /// As above, and played in each build in the cut, too.
    pub const EACH_BUILD: Self = Self { full: Kind::differs_in_build_only, cut: Kind::differs_in_build_only };
}

/// One of each choice, the others being as they are most often.
fn representative(kind: &Kind) -> bool {
    let newest = kind.gvisor == Kind::ORDINARY.gvisor;
    let usual = kind.platform == Platform::Systrap && kind.root == RootKind::NineP;
    match kind.privilege {
        _ if !kind.has_links() => newest && kind.privilege == Privilege::Full,
        Privilege::Full => newest || usual,
        Privilege::Docker => kind.gvisor != Gvisor::V2024_07,
        Privilege::Uid1000 => newest,
    }
}

/// How much of the matrix is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    Cut,
    Full,
    /// All of it that is of this kind.
    Of(Kind),
}

impl Extent {
    /// By the variable `MATRIX`.
    pub(crate) fn asked_for() -> Result<Self, String> {
        match std::env::var("MATRIX").as_deref() {
            Ok("" | "cut") | Err(_) => Ok(Self::Cut),
            Ok("full") => Ok(Self::Full),
            Ok(name) => match Kind::all().into_iter().find(|kind| kind.to_string() == name) {
                Some(kind) => Ok(Self::Of(kind)),
                None => Err(format!("MATRIX={name}: there are cut, full, and kinds such as {}", Kind::ORDINARY)),
            },
        }
    }
}

/// A scenario in a kind of sandbox.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Play {
    pub(crate) scenario: Scenario,
    pub(crate) kind: Kind,
}

impl Play {
    pub(crate) fn place(&self) -> Place {
        Place { kind: self.kind, stage: self.scenario.stage }
    }
}

/// What is played, kind after kind and in each stage after stage, and what is left out.
pub(crate) fn select(scenarios: &[Scenario], kinds: &[Kind], extent: Extent) -> (Vec<Play>, Vec<Play>) {
    let mut scenarios = scenarios.to_vec();
    scenarios.sort_by_key(|scenario| scenario.stage);
    let all = kinds.iter().flat_map(|kind| scenarios.iter().map(|scenario| Play { scenario: *scenario, kind: *kind }));
    all.filter(|play| (play.scenario.scope.full)(&play.kind)).partition(|play| match extent {
        Extent::Full => true,
        Extent::Cut => (play.scenario.scope.cut)(&play.kind),
        Extent::Of(kind) => play.kind == kind,
    })
}

/// What is left out, by kind and theme.
pub(crate) fn describe_left_out(left_out: &[Play]) -> String {
    if left_out.is_empty() {
        return String::new();
    }
    let mut text = "left out in this cut; MATRIX=full plays them:\n".to_owned();
    let mut rest = left_out;
    while let Some(first) = rest.first() {
        let (same, other) = rest.split_at(rest.iter().take_while(|play| play.kind == first.kind).count());
        let mut themes: BTreeMap<&str, usize> = BTreeMap::new();
        for play in same {
            *themes.entry(play.scenario.name.split("::").next().unwrap_or_default()).or_default() += 1;
        }
        let themes: Vec<String> = themes.iter().map(|(theme, count)| format!("{theme} {count}")).collect();
        let _ = writeln!(text, "  {}: {}", first.kind, themes.join(", "));
        rest = other;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Stage;

    fn scenario(name: &'static str, stage: Stage, scope: Scope) -> Scenario {
        Scenario { name, stage, story: |_| {}, scope, is_final: false }
    }

    fn scenarios() -> [Scenario; 3] {
        [
            scenario("down::whole", Stage::Own, Scope::ALL_RIGHTS),
            scenario("pods::one", Stage::Shared, Scope::ALL_RIGHTS),
            scenario("matrix::main", Stage::Shared, Scope::NODES),
        ]
    }

    fn kinds_of(plays: &[Play], name: &str) -> Vec<String> {
        plays.iter().filter(|play| play.scenario.name == name).map(|play| play.kind.to_string()).collect()
    }

    #[test]
    fn the_cut_has_everything_in_the_ordinary_kind_and_the_main_scenario_in_one_of_each_choice() {
        let (played, left_out) = select(&scenarios(), &Kind::all(), Extent::Cut);
        assert_eq!(kinds_of(&played, "pods::one"), ["2026-07/systrap/9p/full"]);
        let expected = [
            "2026-07/systrap/9p/full",
            "2026-02/systrap/9p/full",
            "2024-07/systrap/9p/full",
            "2026-07/systrap/overlay/full",
            "2026-07/ptrace/9p/full",
            "2026-07/systrap/9p/docker",
            "2026-02/systrap/9p/docker",
            "2026-07/systrap/9p/uid1000",
            "2026-07/systrap/9p/full-links",
        ];
        assert_eq!(kinds_of(&played, "matrix::main"), expected);
        let (docker, _) =
            select(&scenarios(), &Kind::all(), Extent::Of(Kind { privilege: Privilege::Docker, ..Kind::ORDINARY }));
        assert_eq!(docker.iter().map(|play| play.scenario.name).collect::<Vec<_>>(), ["matrix::main"]);
        let (all, nothing) = select(&scenarios(), &Kind::all(), Extent::Full);
        assert_eq!(all.len(), played.len() + left_out.len());
        assert!(nothing.is_empty());
    }

    #[test]
    fn stages_of_a_kind_follow_one_another() {
        let (played, _) = select(&scenarios(), &[Kind::ORDINARY], Extent::Cut);
        let names: Vec<&str> = played.iter().map(|play| play.scenario.name).collect();
        assert_eq!(names, ["pods::one", "matrix::main", "down::whole"]);
    }

    #[test]
    fn what_is_left_out_is_told_by_kind() {
        let (_, left_out) = select(&scenarios(), &Kind::all(), Extent::Cut);
        let text = describe_left_out(&left_out);
        assert!(text.contains("\n  2024-07/systrap/overlay/full: down 1, matrix 1, pods 1\n"), "{text}");
        assert!(text.contains("\n  2024-07/systrap/9p/full: down 1, pods 1\n"), "{text}");
        assert_eq!(describe_left_out(&[]), "");
    }
}
