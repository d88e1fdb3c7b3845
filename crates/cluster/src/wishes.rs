//! What the user wants of a start.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::component::SERVER;
use crate::{Error, Layout, process, store, supervisor};

/// What the user wants of a start.
#[derive(Debug)]
pub struct Wishes<'a> {
    /// How long to wait until the cluster is up.
    pub wait: Duration,
    /// The API server's port; `None` for the one that the data directory has.
    pub api_port: Option<u16>,
    /// Whether to set the store aside and begin with an empty one.
    pub reset_store: bool,
    /// Becomes true when the user has had enough: the start is undone then.
    pub interrupted: &'a AtomicBool,
}

impl Wishes<'_> {
    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// Refuses what a cluster that runs cannot change.
    pub(crate) fn refuse_changes(&self, layout: &Layout) -> Result<(), Error> {
        if self.reset_store {
            return Err(Error::RestartNeeded { what: "the store" });
        }
        match self.api_port {
            Some(port) if port != layout.api_port()? => Err(Error::RestartNeeded { what: "the API's port" }),
            _ => Ok(()),
        }
    }

    /// Changes what the next start goes by; returns where the store was put, if it was set aside.
    pub(crate) fn grant(&self, layout: &Layout) -> Result<Option<PathBuf>, Error> {
        if self.api_port.is_none() && !self.reset_store {
            return Ok(None);
        }
        // Nobody starts a server under it.
        let _lock = supervisor::lock(layout)?;
        if process::recorded(layout, SERVER).is_some() {
            self.refuse_changes(layout)?;
            return Ok(None);
        }
        if let Some(port) = self.api_port {
            layout.set_api_port(port)?;
        }
        if self.reset_store { store::set_aside(layout) } else { Ok(None) }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::ErrorId;

    fn wishes(interrupted: &AtomicBool, api_port: Option<u16>, reset_store: bool) -> Wishes<'_> {
        Wishes { wait: Duration::ZERO, api_port, reset_store, interrupted }
    }

    #[test]
    fn a_cluster_that_runs_is_not_changed() {
        let (_root, layout) = Layout::temporary();
        let never = AtomicBool::new(false);
        wishes(&never, None, false).refuse_changes(&layout).unwrap();
        wishes(&never, Some(crate::DEFAULT_API_PORT), false).refuse_changes(&layout).unwrap();
        for wishes in [wishes(&never, Some(7443), false), wishes(&never, None, true)] {
            assert_eq!(wishes.refuse_changes(&layout).unwrap_err().id(), ErrorId::RestartNeeded);
        }
        // Its supervisor was killed.
        let own = process::ProcessRef::of(std::process::id().cast_signed()).unwrap();
        process::record(&layout, SERVER, &own).unwrap();
        fs::write(layout.store(), "the store").unwrap();
        assert_eq!(wishes(&never, None, true).grant(&layout).unwrap_err().id(), ErrorId::RestartNeeded);
        assert!(layout.store().exists());
    }

    #[test]
    fn the_next_start_goes_by_what_was_wished() {
        let (_root, layout) = Layout::temporary();
        let never = AtomicBool::new(false);
        fs::write(layout.store(), "the store").unwrap();
        assert_eq!(wishes(&never, Some(7443), false).grant(&layout).unwrap(), None);
        assert_eq!(layout.api_port().unwrap(), 7443);
        let aside = wishes(&never, None, true).grant(&layout).unwrap().unwrap();
        assert_eq!(fs::read_to_string(aside.join("state.db")).unwrap(), "the store");
        assert!(!layout.store().exists());
    }
}
