//! What the user decided for a start: given to the supervisor as arguments, and kept by it for whoever comes after it.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use serde::{Deserialize, Serialize};
use terrarium_remedies::{Choices, Decision};

use crate::component::{self, Name};
use crate::layout::write;
use crate::{Addon, Error, Layout, OciRuntime};

/// What the user decided for a start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Remedies that were chosen by hand.
    pub remedies: Choices,
    /// No node: the API, its controllers and its store, which need no remedy.
    pub control_plane_only: bool,
    /// Whether there is to be an add-on, of those of which something was said.
    pub addons: BTreeMap<Addon, bool>,
    /// What starts containers; the one that was, or terrarium's own, where nothing is said.
    pub oci_runtime: Option<OciRuntime>,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    remedies: Vec<String>,
    control_plane_only: bool,
    /// Missing where an earlier version kept them, as are those below.
    #[serde(default)]
    addons: Vec<String>,
    #[serde(default)]
    unwanted_addons: Vec<String>,
    #[serde(default)]
    oci_runtime: Option<String>,
}

impl Options {
    /// The arguments that say the same to `terrarium supervise`.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let mut arguments: Vec<_> = self.remedies.decisions().map(|decision| format!("--remedy={decision}")).collect();
        if self.control_plane_only {
            arguments.push("--control-plane-only".to_owned());
        }
        arguments.extend(self.addons.iter().map(|(addon, is_wanted)| {
            let flag = if *is_wanted { "--enable" } else { "--disable" };
            format!("{flag}={addon}")
        }));
        arguments.extend(self.oci_runtime.map(|runtime| format!("--oci-runtime={runtime}")));
        arguments
    }

    pub(crate) fn keep(&self, layout: &Layout) -> Result<(), Error> {
        let remedies = self.remedies.decisions().map(|decision| decision.to_string()).collect();
        let named = |wanted: bool| {
            let named = self.addons.iter().filter(|(_, is_wanted)| **is_wanted == wanted);
            named.map(|(addon, _)| addon.to_string()).collect()
        };
        let kept = Kept {
            remedies,
            control_plane_only: self.control_plane_only,
            addons: named(true),
            unwanted_addons: named(false),
            oci_runtime: self.oci_runtime.map(|runtime| runtime.to_string()),
        };
        write(&layout.options(), &serde_json::to_vec(&kept).expect("strings and booleans become JSON"))
    }

    /// Those of the cluster that runs, or was to run; `None` where nothing says them.
    pub(crate) fn kept(layout: &Layout) -> Result<Option<Self>, Error> {
        let path = layout.options();
        let content = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(Error::io("read", &path))?,
        };
        let invalid = |why: String| Error::io("read", &path)(io::Error::new(io::ErrorKind::InvalidData, why));
        let kept: Kept = serde_json::from_slice(&content).map_err(|error| invalid(error.to_string()))?;
        let decisions: Result<Vec<Decision>, String> = kept.remedies.iter().map(|decision| decision.parse()).collect();
        let remedies = decisions.map_err(invalid)?.into_iter().collect();
        let wanted = kept.addons.iter().map(|addon| (addon, true));
        let all = wanted.chain(kept.unwanted_addons.iter().map(|addon| (addon, false)));
        let addons: Result<_, String> = all.map(|(addon, is_wanted)| Ok((addon.parse()?, is_wanted))).collect();
        let addons = addons.map_err(invalid)?;
        let oci_runtime = kept.oci_runtime.map(|name| name.parse()).transpose().map_err(invalid)?;
        Ok(Some(Self { remedies, control_plane_only: kept.control_plane_only, addons, oci_runtime }))
    }

    /// Refuses what a cluster that runs cannot change.
    pub(crate) fn refuse_changes(&self, layout: &Layout) -> Result<(), Error> {
        let kept = Self::kept(layout)?.unwrap_or_default();
        if self.control_plane_only != kept.control_plane_only {
            return Err(Error::RestartNeeded { what: "whether there is a node" });
        }
        let has_decided = self.remedies.decisions().next().is_some();
        if has_decided && self.remedies != kept.remedies {
            return Err(Error::RestartNeeded { what: "how a gap is closed" });
        }
        if self.addons.iter().any(|(addon, is_wanted)| kept.wants(*addon) != *is_wanted) {
            return Err(Error::RestartNeeded { what: "which add-ons there are" });
        }
        if self.oci_runtime.is_some_and(|runtime| runtime != kept.oci_runtime.unwrap_or_default()) {
            return Err(Error::RestartNeeded { what: "which OCI runtime there is" });
        }
        Ok(())
    }

    /// The add-ons of the cluster: those that are wanted, and of the others those that every node has.
    pub(crate) fn addons(&self) -> impl Iterator<Item = Addon> {
        Addon::ALL.iter().copied().filter(|addon| !self.control_plane_only && self.wants(*addon))
    }

    fn wants(&self, addon: Addon) -> bool {
        self.addons.get(&addon).copied().unwrap_or_else(|| addon.is_default())
    }

    /// The components that go on for as long as the cluster runs.
    pub(crate) fn services(&self) -> Vec<Name> {
        let services = if self.control_plane_only { &[component::SERVER] } else { component::SERVICES };
        services.iter().copied().chain(self.addons().map(Addon::name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_what_was_decided() {
        let (_root, layout) = Layout::temporary();
        assert_eq!(Options::kept(&layout).unwrap(), None);
        let remedies = ["kmsg=none", "privileges=namespace"].map(|decision| decision.parse::<Decision>().unwrap());
        let addons = BTreeMap::from([(Addon::Ingress, true), (Addon::MetricsServer, false)]);
        let oci_runtime = Some(OciRuntime::Terrarium);
        let options =
            Options { remedies: remedies.into_iter().collect(), control_plane_only: true, addons, oci_runtime };
        options.keep(&layout).unwrap();
        assert_eq!(Options::kept(&layout).unwrap().as_ref(), Some(&options));
        options.refuse_changes(&layout).unwrap();
        Options { remedies: Choices::default(), ..options.clone() }.refuse_changes(&layout).unwrap();
        Options { addons: BTreeMap::new(), ..options.clone() }.refuse_changes(&layout).unwrap();
        assert!(Options { control_plane_only: false, ..options.clone() }.refuse_changes(&layout).is_err());
        Options { oci_runtime: None, ..options.clone() }.refuse_changes(&layout).unwrap();
        assert!(Options { oci_runtime: Some(OciRuntime::Runc), ..options.clone() }.refuse_changes(&layout).is_err());
        assert_eq!(
            options.arguments(),
            [
                "--remedy=privileges=namespace",
                "--remedy=kmsg=none",
                "--control-plane-only",
                "--enable=ingress",
                "--disable=metrics-server",
                "--oci-runtime=terrarium"
            ]
        );
        fs::write(layout.options(), "{\"remedies\":[\"kmsg=bogus\"],\"control_plane_only\":false}").unwrap();
        let error = crate::chain(&Options::kept(&layout).unwrap_err());
        assert!(error.contains("bogus"), "{error}");
        fs::write(layout.options(), "{\"remedies\":[],\"control_plane_only\":false}").unwrap();
        assert_eq!(Options::kept(&layout).unwrap(), Some(Options::default()), "an earlier version knew no add-ons");
    }

    fn with(addons: &[(Addon, bool)]) -> Options {
        Options { addons: addons.iter().copied().collect(), ..Options::default() }
    }

    #[test]
    fn an_add_on_is_there_if_it_is_wanted_or_every_node_has_it() {
        let has = |options: &Options| options.services().split_off(component::SERVICES.len());
        assert_eq!(has(&Options::default()), ["metrics-server"]);
        assert_eq!(has(&with(&[(Addon::Ingress, true)])), ["ingress", "metrics-server"]);
        assert!(has(&with(&[(Addon::Ingress, false), (Addon::MetricsServer, false)])).is_empty());
        let without_node = Options { control_plane_only: true, ..with(&[(Addon::MetricsServer, true)]) };
        assert_eq!(without_node.services(), [component::SERVER]);
    }

    #[test]
    fn only_another_word_about_an_add_on_is_a_change() {
        let (_root, layout) = Layout::temporary();
        with(&[(Addon::Ingress, true)]).keep(&layout).unwrap();
        let is_refused = |addon, is_wanted| with(&[(addon, is_wanted)]).refuse_changes(&layout).is_err();
        assert!(!is_refused(Addon::Ingress, true) && !is_refused(Addon::MetricsServer, true));
        assert!(is_refused(Addon::Ingress, false) && is_refused(Addon::MetricsServer, false));
        let refused = with(&[(Addon::MetricsServer, false)]).refuse_changes(&layout).unwrap_err();
        assert!(refused.to_string().contains("add-ons"), "{refused}");
    }
}
