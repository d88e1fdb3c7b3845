//! What became of a component since the cluster started: on disk, so that `status` reads it and the next supervisor goes
//! on with it. It is told, never relied on: a disk that takes no more of it stops nothing.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::layout::write;
use crate::{Layout, logs};

/// How many of the log's lines are kept of an end.
const LINES: usize = 5;

/// A component's ends and its health.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct History {
    /// How often it was started again.
    pub(crate) restarts: u32,
    /// Whether it was ready at any time.
    pub(crate) was_ready: bool,
    pub(crate) last_end: Option<End>,
    /// Until when it is left alone before it is started again: milliseconds since 1970.
    pub(crate) back_off_until: Option<u64>,
    /// Why it is not well although its process lives.
    pub(crate) unhealthy: Option<String>,
}

/// One end of a component's process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct End {
    /// When, in seconds since 1970.
    pub at: u64,
    /// How it ended, as a clause whose subject is "it".
    pub why: String,
    /// The last lines that it wrote.
    pub log: Vec<String>,
}

impl History {
    /// What is known; nothing where nothing is, or nothing readable.
    pub(crate) fn load(layout: &Layout, name: &str) -> Self {
        fs::read(path(layout, name)).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    /// Notes that the process ended and is started again after the wait.
    pub(crate) fn ended(&mut self, layout: &Layout, name: &str, why: &str, back_off: Duration) {
        self.restarts += 1;
        let log = logs::last_lines(layout, name, LINES);
        self.last_end = Some(End { at: since_1970(SystemTime::now()).as_secs(), why: why.to_owned(), log });
        let until = since_1970(SystemTime::now() + back_off).as_millis();
        self.back_off_until = u64::try_from(until).ok();
        self.unhealthy = None;
        self.save(layout, name);
    }

    /// Notes that the wait is over.
    pub(crate) fn started(&mut self, layout: &Layout, name: &str) {
        if self.back_off_until.take().is_some() {
            self.save(layout, name);
        }
    }

    /// Notes that it is ready.
    pub(crate) fn ready(&mut self, layout: &Layout, name: &str) {
        if !std::mem::replace(&mut self.was_ready, true) {
            self.save(layout, name);
        }
    }

    /// Notes whether it is well.
    pub(crate) fn is_unhealthy(&mut self, layout: &Layout, name: &str, why: Option<String>) {
        if self.unhealthy != why {
            self.unhealthy = why;
            self.save(layout, name);
        }
    }

    /// How long it is still left alone.
    pub(crate) fn back_off(&self, now: SystemTime) -> Option<Duration> {
        let until = Duration::from_millis(self.back_off_until?);
        until.checked_sub(since_1970(now)).filter(|left| !left.is_zero())
    }

    fn save(&self, layout: &Layout, name: &str) {
        let path = path(layout, name);
        if let Some(directory) = path.parent()
            && !directory.exists()
        {
            // Whether that went well is told by the write.
            let _ = crate::layout::make_private(directory);
        }
        let text = serde_json::to_vec(self).expect("numbers and texts become JSON");
        if let Err(error) = write(&path, &text) {
            tracing::warn!("{name}: {}; `terrarium status` will not tell of it", crate::error::chain(&error));
        }
    }
}

fn path(layout: &Layout, name: &str) -> PathBuf {
    layout.runtime().join("history").join(format!("{name}.json"))
}

fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_became_of_a_component_is_there_for_the_next_supervisor() {
        let (_root, layout) = Layout::temporary();
        assert_eq!(History::load(&layout, "part"), History::default());
        fs::write(layout.log("part"), "one\ntwo\n").unwrap();
        let mut history = History::default();
        history.is_unhealthy(&layout, "part", Some("it does not answer".to_owned()));
        let before = SystemTime::now();
        history.ended(&layout, "part", "it ended with exit status: 7", Duration::from_secs(30));
        let read = History::load(&layout, "part");
        assert_eq!(read, history);
        assert_eq!((read.restarts, read.unhealthy.as_deref()), (1, None));
        let end = read.last_end.as_ref().unwrap();
        assert_eq!((end.why.as_str(), end.log.join(",")), ("it ended with exit status: 7", "one,two".to_owned()));
        let left = read.back_off(before).unwrap();
        let longest = Duration::from_secs(30) + before.elapsed().unwrap();
        assert!((Duration::from_millis(29_999)..=longest).contains(&left), "{left:?}");
        assert_eq!(read.back_off(SystemTime::now() + Duration::from_secs(60)), None);
        history.started(&layout, "part");
        assert_eq!(History::load(&layout, "part").back_off_until, None);
    }

    #[test]
    fn a_disk_that_takes_no_more_stops_nothing() {
        let (_root, layout) = Layout::temporary();
        fs::write(layout.runtime().join("history"), "no directory").unwrap();
        let mut history = History::default();
        history.ended(&layout, "part", "it ended", Duration::ZERO);
        assert_eq!(history.restarts, 1);
    }
}
