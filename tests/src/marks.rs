//! The marks that a cluster leaves on a sandbox.

use std::collections::{BTreeMap, BTreeSet};

use terrarium_testbed::Gvisor;

use crate::Cluster;

/// Prints each kind of mark under a heading. What the cluster may leave is left out: its data directory and the user's
/// kubeconfig. Processes, mounts, sysctls and files count as seen by a program that the sandbox's user starts.
const LOOK: &str = include_str!("marks.sh");

/// What was there at one moment, by kind.
#[derive(Debug)]
pub struct Marks {
    kinds: BTreeMap<String, BTreeSet<String>>,
    /// Whether the numbers of cgroups say what is there.
    counts_cgroups: bool,
}

const CGROUPS: &str = "cgroups";

impl Marks {
    /// Looks at everything by which a cluster could be noticed.
    #[track_caller]
    pub fn of(cluster: &Cluster) -> Self {
        let text = cluster.sh(LOOK).succeeds().stdout;
        let mut kinds: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut kind = String::new();
        for line in text.lines() {
            match line.strip_prefix("# ") {
                Some(heading) => heading.clone_into(&mut kind),
                None => drop(kinds.entry(kind.clone()).or_default().insert(line.trim().to_owned())),
            }
        }
        // In older builds /proc/cgroups goes on counting what was removed: after a mkdir and a rmdir it is one more.
        Self { kinds, counts_cgroups: cluster.kind().gvisor == Gvisor::V2026_07 }
    }

    /// Whether there are marks of this kind that were not there before, to see that the looking itself works.
    pub fn has_new(&self, kind: &str, before: &Self) -> bool {
        let none = BTreeSet::new();
        let marks = |marks: &Self| marks.kinds.get(kind).unwrap_or(&none).clone();
        !marks(self).is_subset(&marks(before))
    }

    /// Panics with what is new and what is gone, if there is any.
    #[track_caller]
    pub fn assert_same_as(&self, before: &Self) {
        let kinds: BTreeSet<&String> = self.kinds.keys().chain(before.kinds.keys()).collect();
        let mut text = String::new();
        for kind in kinds.into_iter().filter(|kind| self.counts_cgroups || *kind != CGROUPS) {
            let none = BTreeSet::new();
            let (now, then) = (self.kinds.get(kind).unwrap_or(&none), before.kinds.get(kind).unwrap_or(&none));
            text.extend(now.difference(then).map(|mark| format!("new in {kind}: {mark}\n")));
            text.extend(then.difference(now).map(|mark| format!("gone from {kind}: {mark}\n")));
        }
        assert!(text.is_empty(), "the sandbox is not as it was:\n{text}");
    }
}
