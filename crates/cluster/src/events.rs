//! What happens while a cluster starts, as lines of a file: the supervisor writes them, `up` reads along.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::sync::Mutex;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorId, Layout};

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
    /// Something was left out, and the rest goes on.
    Warning {
        /// What, why, and where to look.
        message: String,
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
    /// The cluster is being taken down: somebody asked for it, or it cannot start.
    Stopping,
    /// The cluster could not start, or not be taken down; what could be undone is undone.
    Failed {
        /// What and why.
        message: String,
        /// The name of the error.
        #[serde(default)]
        id: ErrorId,
    },
}

/// How long the file may become, in bytes, by events that no one waits for.
const LIMIT: u64 = 256 << 10;

/// Writes the events of one start.
#[derive(Debug)]
pub(crate) struct Progress {
    file: Mutex<File>,
    start: Instant,
}

impl Progress {
    /// Starts the file anew; `start` is when `terrarium up` was called. Who still reads the last start's goes on with that.
    pub(crate) fn create(layout: &Layout, start: Instant) -> Result<Self, Error> {
        let path = layout.progress();
        crate::layout::write(&path, b"")?;
        let file = OpenOptions::new().append(true).open(&path).map_err(Error::io("write", path))?;
        Ok(Self { file: Mutex::new(file), start })
    }

    pub(crate) fn seconds(&self) -> f64 {
        let milliseconds = self.start.elapsed().as_millis();
        milliseconds as f64 / 1000.0
    }

    /// Tells an event. Of a cluster that has much to tell for long, only what changes its stage is told any more.
    pub(crate) fn report(&self, event: &Event) {
        let mut file = self.file.lock().expect("no holder of this lock panics");
        let is_of_note = matches!(event, Event::Up { .. } | Event::Stopping | Event::Failed { .. });
        if !is_of_note && file.metadata().is_ok_and(|metadata| metadata.len() > LIMIT) {
            return;
        }
        let mut line = serde_json::to_vec(event).expect("an event becomes JSON");
        line.push(b'\n');
        // A full disk must not stop the cluster for want of a progress line.
        let _ = file.write_all(&line);
    }
}

/// Reads the events as they come.
#[derive(Debug)]
pub(crate) struct Events {
    reader: BufReader<File>,
    line: Vec<u8>,
}

impl Events {
    /// From the beginning of the current start; `None` once a `down` has taken them away.
    pub(crate) fn open(layout: &Layout) -> Result<Option<Self>, Error> {
        let path = layout.progress();
        match File::open(&path) {
            Ok(file) => Ok(Some(Self { reader: BufReader::new(file), line: Vec::new() })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("read", path)(error)),
        }
    }

    /// The next event; `None` if there is none yet. A line that is none, torn on a full disk, is passed over.
    pub(crate) fn next(&mut self) -> Option<Event> {
        loop {
            // A line may be there in part: what was read stays in the buffer for the next call.
            self.reader.read_until(b'\n', &mut self.line).ok()?;
            if !self.line.ends_with(b"\n") {
                return None;
            }
            let event = serde_json::from_slice(&self.line);
            self.line.clear();
            if let Ok(event) = event {
                return Some(event);
            }
        }
    }
}

/// How far a cluster has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Starting,
    Up,
    /// It is being taken down, or was.
    Ending,
}

/// How far the last cluster that was started has come.
pub(crate) fn stage(layout: &Layout) -> Result<Stage, Error> {
    let Some(mut events) = Events::open(layout)? else { return Ok(Stage::Ending) };
    Ok(std::iter::from_fn(|| events.next()).fold(Stage::Starting, |stage, event| match event {
        Event::Up { .. } => Stage::Up,
        Event::Stopping | Event::Failed { .. } => Stage::Ending,
        Event::Started { .. } | Event::Ready { .. } | Event::Restarting { .. } | Event::Warning { .. } => stage,
    }))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use proptest::prelude::*;

    fn failed(message: &str) -> Event {
        Event::Failed { message: message.to_owned(), id: ErrorId::NoSpace }
    }

    fn any_event() -> impl Strategy<Value = Event> {
        // Whole milliseconds, as `Progress::seconds` makes them.
        let seconds = || (0_u32..10_000_000).prop_map(|milliseconds| f64::from(milliseconds) / 1000.0);
        prop_oneof![
            (any::<String>(), any::<String>()).prop_map(|(step, label)| Event::Started { step, label }),
            (any::<String>(), seconds()).prop_map(|(step, seconds)| Event::Ready { step, seconds }),
            (any::<String>(), any::<String>()).prop_map(|(step, why)| Event::Restarting { step, why }),
            seconds().prop_map(|seconds| Event::Up { seconds }),
            Just(Event::Stopping),
            (any::<String>(), prop::sample::select(ErrorId::ALL))
                .prop_map(|(message, id)| Event::Failed { message, id }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// However the bytes come, one or many at a time, the reader tells what was written, in order.
        #[test]
        fn events_come_back_as_they_were(events in prop::collection::vec(any_event(), 0..6), chunk in 1_usize..40) {
            let (_root, layout) = Layout::temporary();
            let progress = Progress::create(&layout, Instant::now()).unwrap();
            events.iter().for_each(|event| progress.report(event));
            let bytes = std::fs::read(layout.progress()).unwrap();
            let mut file = File::create(layout.progress()).unwrap();
            let mut reader = Events::open(&layout).unwrap().unwrap();
            let mut read = Vec::new();
            for piece in bytes.chunks(chunk) {
                file.write_all(piece).unwrap();
                read.extend(std::iter::from_fn(|| reader.next()));
            }
            prop_assert_eq!(read, events);
        }
    }

    #[test]
    fn a_line_that_is_no_event_hides_none_that_follow() {
        let (_root, layout) = Layout::temporary();
        let progress = Progress::create(&layout, Instant::now()).unwrap();
        let mut file = OpenOptions::new().append(true).open(layout.progress()).unwrap();
        file.write_all(b"{\"event\":\"of tomorrow\"}\n\xff torn\n").unwrap();
        progress.report(&failed("why"));
        let mut reader = Events::open(&layout).unwrap().unwrap();
        assert_eq!((reader.next(), reader.next()), (Some(failed("why")), None));
        assert_eq!(stage(&layout).unwrap(), Stage::Ending);
    }

    #[test]
    fn a_component_that_ends_for_ever_does_not_fill_the_disk() {
        let (_root, layout) = Layout::temporary();
        let progress = Progress::create(&layout, Instant::now()).unwrap();
        for _ in 0..200 {
            progress.report(&Event::Warning { message: "x".repeat(4 << 10) });
        }
        let length = || std::fs::metadata(layout.progress()).unwrap().len();
        assert!(length() < LIMIT + (8 << 10), "{}", length());
        progress.report(&Event::Stopping);
        assert_eq!(stage(&layout).unwrap(), Stage::Ending);
    }

    #[test]
    fn a_new_start_begins_a_new_file() {
        let (_root, layout) = Layout::temporary();
        assert_eq!(stage(&layout).unwrap(), Stage::Ending, "somebody has taken it down");
        let first = Progress::create(&layout, Instant::now()).unwrap();
        first.report(&failed("the first"));
        let mut reader = Events::open(&layout).unwrap().unwrap();
        let second = Progress::create(&layout, Instant::now()).unwrap();
        assert_eq!(stage(&layout).unwrap(), Stage::Starting);
        second.report(&Event::Up { seconds: 1.5 });
        second.report(&Event::Restarting { step: "kubelet".to_owned(), why: String::new() });
        assert_eq!(stage(&layout).unwrap(), Stage::Up);
        assert_eq!(
            (reader.next(), reader.next()),
            (Some(failed("the first")), None),
            "who reads the old one is not misled"
        );
        assert_eq!(Events::open(&layout).unwrap().unwrap().next(), Some(Event::Up { seconds: 1.5 }));
    }
}
