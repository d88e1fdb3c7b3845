//! The marks that a cluster leaves on a sandbox.

use std::collections::{BTreeMap, BTreeSet};

use crate::Cluster;

/// Prints each kind of mark under a heading. What the cluster may leave is left out: its data directory and the user's
/// kubeconfig. Processes, mounts, sysctls and files count as seen by a program that the sandbox's user starts.
const LOOK: &str = include_str!("marks.sh");

/// What was there at one moment, by kind.
#[derive(Debug)]
pub struct Marks(BTreeMap<String, BTreeSet<String>>);

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
        Self(kinds)
    }

    /// Whether there are marks of this kind that were not there before, to see that the looking itself works.
    pub fn has_new(&self, kind: &str, before: &Self) -> bool {
        let none = BTreeSet::new();
        let marks = |marks: &Self| marks.0.get(kind).unwrap_or(&none).clone();
        !marks(self).is_subset(&marks(before))
    }

    /// Panics with what is new and what is gone, if there is any.
    #[track_caller]
    pub fn assert_same_as(&self, before: &Self) {
        let kinds: BTreeSet<&String> = self.0.keys().chain(before.0.keys()).collect();
        let mut text = String::new();
        for kind in kinds {
            let none = BTreeSet::new();
            let (now, then) = (self.0.get(kind).unwrap_or(&none), before.0.get(kind).unwrap_or(&none));
            text.extend(now.difference(then).map(|mark| format!("new in {kind}: {mark}\n")));
            text.extend(then.difference(now).map(|mark| format!("gone from {kind}: {mark}\n")));
        }
        assert!(text.is_empty(), "the sandbox is not as it was:\n{text}");
    }
}
