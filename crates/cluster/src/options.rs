//! What the user decided for a start: given to the supervisor as arguments, and kept by it for whoever comes after it.

use std::collections::BTreeSet;
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
    /// What the cluster has beside what every one has.
    pub addons: BTreeSet<Addon>,
    /// What starts containers; the one that was, or terrarium's own, where nothing is said.
    pub oci_runtime: Option<OciRuntime>,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    remedies: Vec<String>,
    control_plane_only: bool,
    /// Missing where an earlier version kept them.
    #[serde(default)]
    addons: Vec<String>,
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
        arguments.extend(self.addons.iter().map(|addon| format!("--enable={addon}")));
        arguments.extend(self.oci_runtime.map(|runtime| format!("--oci-runtime={runtime}")));
        arguments
    }

    pub(crate) fn keep(&self, layout: &Layout) -> Result<(), Error> {
        let remedies = self.remedies.decisions().map(|decision| decision.to_string()).collect();
        let addons = self.addons.iter().map(ToString::to_string).collect();
        let oci_runtime = self.oci_runtime.map(|runtime| runtime.to_string());
        let kept = Kept { remedies, control_plane_only: self.control_plane_only, addons, oci_runtime };
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
        let addons: Result<_, String> = kept.addons.iter().map(|addon| addon.parse()).collect();
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
        if !self.addons.is_empty() && self.addons != kept.addons {
            return Err(Error::RestartNeeded { what: "which add-ons there are" });
        }
        if self.oci_runtime.is_some_and(|runtime| runtime != kept.oci_runtime.unwrap_or_default()) {
            return Err(Error::RestartNeeded { what: "which OCI runtime there is" });
        }
        Ok(())
    }

    /// The components that go on for as long as the cluster runs.
    pub(crate) fn services(&self) -> Vec<Name> {
        let services = if self.control_plane_only { &[component::SERVER] } else { component::SERVICES };
        services.iter().copied().chain(self.addons.iter().map(|addon| addon.name())).collect()
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
        let addons = BTreeSet::from([Addon::Ingress]);
        let oci_runtime = Some(OciRuntime::Terrarium);
        let options =
            Options { remedies: remedies.into_iter().collect(), control_plane_only: true, addons, oci_runtime };
        options.keep(&layout).unwrap();
        assert_eq!(Options::kept(&layout).unwrap().as_ref(), Some(&options));
        options.refuse_changes(&layout).unwrap();
        Options { remedies: Choices::default(), ..options.clone() }.refuse_changes(&layout).unwrap();
        Options { addons: BTreeSet::new(), ..options.clone() }.refuse_changes(&layout).unwrap();
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
                "--oci-runtime=terrarium"
            ]
        );
        assert_eq!(options.services(), [component::SERVER, "ingress"]);
        fs::write(layout.options(), "{\"remedies\":[\"kmsg=bogus\"],\"control_plane_only\":false}").unwrap();
        let error = crate::chain(&Options::kept(&layout).unwrap_err());
        assert!(error.contains("bogus"), "{error}");
        fs::write(layout.options(), "{\"remedies\":[],\"control_plane_only\":false}").unwrap();
        assert_eq!(Options::kept(&layout).unwrap(), Some(Options::default()), "an earlier version knew no add-ons");
        let refused = options_with_ingress().refuse_changes(&layout).unwrap_err();
        assert!(refused.to_string().contains("add-ons"), "{refused}");
    }

    fn options_with_ingress() -> Options {
        Options { addons: BTreeSet::from([Addon::Ingress]), ..Options::default() }
    }
}
