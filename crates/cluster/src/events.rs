//! What happens while a cluster starts, as lines of a file: the supervisor writes them, `up` reads along.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::Mutex;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::{Error, Layout};

/// One thing that happened. Times are seconds since `terrarium up` was called.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum Event {
    /// A step began.
    Started {
        /// The component.
        step: String,
        /// What it is to a person who waits.
        label: String,
    },
    /// A step is done: the component is ready.
    Ready {
        /// The component.
        step: String,
        /// When.
        seconds: f64,
    },
    /// A component ended and is started again.
    Restarting {
        /// The component.
        step: String,
        /// How it ended.
        why: String,
    },
    /// The cluster is up.
    Up {
        /// When.
        seconds: f64,
    },
    /// The cluster cannot start; everything is being undone.
    Failed {
        /// What, why, and what to do.
        message: String,
    },
}

/// Writes the events of one start.
#[derive(Debug)]
pub(crate) struct Progress {
    file: Mutex<File>,
    start: Instant,
}

impl Progress {
    /// Starts the file anew; `start` is when `terrarium up` was called.
    pub(crate) fn create(layout: &Layout, start: Instant) -> Result<Self, Error> {
        let path = layout.progress();
        let file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .map_err(Error::io("write", path))?;
        Ok(Self { file: Mutex::new(file), start })
    }

    pub(crate) fn seconds(&self) -> f64 {
        let milliseconds = self.start.elapsed().as_millis();
        milliseconds as f64 / 1000.0
    }

    pub(crate) fn report(&self, event: &Event) {
        let mut line = serde_json::to_vec(event).expect("an event becomes JSON");
        line.push(b'\n');
        // A full disk must not stop the cluster for want of a progress line.
        let _ = self.file.lock().expect("no holder of this lock panics").write_all(&line);
    }
}

/// Whether the current start has come to its end.
pub(crate) fn is_up(layout: &Layout) -> Result<bool, Error> {
    let mut events = Events::open(layout)?;
    Ok(std::iter::from_fn(|| events.next()).any(|event| matches!(event, Event::Up { .. })))
}

/// Reads the events as they come.
#[derive(Debug)]
pub(crate) struct Events {
    reader: BufReader<File>,
    line: String,
}

impl Events {
    /// From the beginning of the current start.
    pub(crate) fn open(layout: &Layout) -> Result<Self, Error> {
        let path = layout.progress();
        let file = File::open(&path).map_err(Error::io("read", path))?;
        Ok(Self { reader: BufReader::new(file), line: String::new() })
    }

    /// The next event; `None` if there is none yet.
    pub(crate) fn next(&mut self) -> Option<Event> {
        // A line may be there in part: what was read stays in the buffer for the next call.
        self.reader.read_line(&mut self.line).ok()?;
        if !self.line.ends_with('\n') {
            return None;
        }
        let event = serde_json::from_str(&self.line).ok();
        self.line.clear();
        event
    }
}
