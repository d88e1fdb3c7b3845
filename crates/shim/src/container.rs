//! A container: its init, what is executed in it, and in what order their ends are told.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use terrarium_oci::cgroups::Cgroups;

use crate::error::Error;
use crate::process::{Exit, Process};
use crate::runtime::Runtime;
use crate::stats;
use crate::stdio::Owner;

/// One container.
pub struct Container {
    /// As containerd names it.
    pub id: String,
    /// The directory with its configuration.
    pub bundle: PathBuf,
    /// Who owns its processes' pipes.
    pub owner: Owner,
    /// What makes and ends it.
    pub runtime: Runtime,
    /// Its first process.
    pub init: Arc<Process>,
    /// Where its use is counted, if that is known.
    pub cgroups: Option<Cgroups>,
    execs: Mutex<HashMap<String, Arc<Process>>>,
    ending: Mutex<Ending>,
    /// How many of its processes the kernel has ended for want of memory, as far as it was told.
    oom_kills: AtomicU64,
}

/// The init's end is told last. Until no other process runs, it waits here.
#[derive(Default)]
struct Ending {
    others: usize,
    init: Option<Exit>,
}

impl Container {
    /// A container whose init is not told of yet.
    pub fn new(id: &str, bundle: &Path, owner: Owner, runtime: Runtime, init: Process) -> Self {
        Self {
            id: id.to_owned(),
            bundle: bundle.to_owned(),
            owner,
            runtime,
            init: Arc::new(init),
            cgroups: stats::cgroups(bundle),
            execs: Mutex::default(),
            ending: Mutex::default(),
            oom_kills: AtomicU64::new(0),
        }
    }

    /// Whether the kernel has ended one of its processes for want of memory since this was asked last.
    pub fn met_oom(&self) -> bool {
        let kills = self.cgroups.as_ref().map_or(0, Cgroups::oom_kills);
        self.oom_kills.swap(kills, Ordering::Relaxed) < kills
    }

    /// Where its root file system is mounted, if the shim does that.
    pub fn rootfs(&self) -> PathBuf {
        self.bundle.join("rootfs")
    }

    /// The processes that were executed in it, by ID.
    pub fn execs(&self) -> MutexGuard<'_, HashMap<String, Arc<Process>>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The exec of that ID; init, if it is empty.
    pub fn process(&self, exec_id: &str) -> Result<Arc<Process>, Error> {
        if exec_id.is_empty() {
            return Ok(Arc::clone(&self.init));
        }
        let process = self.execs().get(exec_id).cloned();
        process.ok_or_else(|| Error::NotFound(format!("process does not exist {exec_id}")))
    }

    fn ending(&self) -> MutexGuard<'_, Ending> {
        self.ending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another process than init begins to run. Refused once init has ended.
    pub fn begin_other(&self) -> Result<(), Error> {
        let mut ending = self.ending();
        if ending.init.is_some() {
            return Err(Error::FailedPrecondition(format!("container {} init process is not running", self.id)));
        }
        ending.others += 1;
        Ok(())
    }

    /// Another process has ended, or was never started. Answers init's end if that has waited for this one.
    pub fn end_other(&self) -> Option<Exit> {
        let mut ending = self.ending();
        ending.others -= 1;
        if ending.others == 0 { ending.init } else { None }
    }

    /// Init has ended; `others` counts what is left to do before that may be told. Answers the end if nothing is.
    pub fn end_init(&self, exit: Exit, others: usize) -> Option<Exit> {
        let mut ending = self.ending();
        ending.init = Some(exit);
        ending.others += others;
        (ending.others == 0).then_some(exit)
    }

    /// Whether its processes live in a pid namespace of its own, so that all of them end with init.
    pub fn has_own_pid_namespace(&self) -> bool {
        let config = fs::read(self.bundle.join("config.json")).unwrap_or_default();
        own_pid_namespace(&config)
    }
}

#[derive(Default, Deserialize)]
struct Config {
    #[serde(default)]
    linux: Linux,
}

#[derive(Default, Deserialize)]
struct Linux {
    #[serde(default)]
    namespaces: Vec<Namespace>,
}

#[derive(Deserialize)]
struct Namespace {
    r#type: String,
    #[serde(default)]
    path: String,
}

fn own_pid_namespace(config: &[u8]) -> bool {
    let config: Config = serde_json::from_slice(config).unwrap_or_default();
    config.linux.namespaces.iter().any(|namespace| namespace.r#type == "pid" && namespace.path.is_empty())
}

/// How a container's init ended, on disk: for whoever cleans up when the shim is no more.
#[derive(Debug, Serialize, Deserialize, PartialEq)]
pub struct Record {
    /// Init's.
    pub pid: i32,
    /// Its exit code, or 128 and the signal.
    pub status: u32,
    since_epoch: Duration,
}

impl Record {
    const FILE: &str = "exit.json";

    /// An end as it is recorded.
    pub fn new(pid: i32, exit: Exit) -> Self {
        Self { pid, status: exit.status, since_epoch: exit.at.duration_since(UNIX_EPOCH).unwrap_or_default() }
    }

    /// When it was.
    pub fn at(&self) -> SystemTime {
        UNIX_EPOCH + self.since_epoch
    }

    /// Writes it into a bundle.
    pub fn write(&self, bundle: &Path) -> Result<(), Error> {
        let (file, new) = (bundle.join(Self::FILE), bundle.join(".exit.json"));
        let json = serde_json::to_vec(self).expect("numbers become JSON");
        fs::write(&new, json).and_then(|()| fs::rename(&new, &file)).map_err(Error::io("write", &file))
    }

    /// The one of a bundle, if there is one.
    pub fn read(bundle: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(bundle.join(Self::FILE)).ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use containerd_shim::api::Options;

    use super::*;
    use crate::exits::Exits;
    use crate::stdio::Stdio;

    fn container() -> Container {
        let bundle = Path::new("/bundle");
        let runtime = Runtime::new(Arc::new(Exits::default()), &Options::default(), "k8s.io", bundle, "one");
        Container::new("one", bundle, Owner::default(), runtime, Process::new("", Stdio::default(), Vec::new()))
    }

    #[test]
    fn inits_end_is_told_last() {
        let container = container();
        let exit = Exit::now(137);
        container.begin_other().unwrap();
        container.begin_other().unwrap();
        assert_eq!(container.end_other(), None);
        assert_eq!(container.end_init(exit, 1), None);
        assert!(container.begin_other().is_err(), "nothing is executed in what has ended");
        assert_eq!(container.end_other(), None);
        assert_eq!(container.end_other(), Some(exit));
    }

    #[test]
    fn inits_end_is_told_at_once_when_it_is_alone() {
        let exit = Exit::now(0);
        assert_eq!(container().end_init(exit, 0), Some(exit));
    }

    #[test]
    fn only_a_pid_namespace_of_its_own_ends_all_processes() {
        let config = |namespace: &str| format!(r#"{{"linux": {{"namespaces": [{{"type": "mount"}}, {namespace}]}}}}"#);
        assert!(own_pid_namespace(config(r#"{"type": "pid"}"#).as_bytes()));
        assert!(!own_pid_namespace(config(r#"{"type": "pid", "path": "/proc/1/ns/pid"}"#).as_bytes()));
        assert!(!own_pid_namespace(br#"{"linux": {}}"#));
        assert!(!own_pid_namespace(b""));
    }

    #[test]
    fn an_end_is_read_as_it_was_written() {
        let bundle = tempfile::tempdir().unwrap();
        assert_eq!(Record::read(bundle.path()), None);
        let record = Record::new(7, Exit::now(3));
        record.write(bundle.path()).unwrap();
        assert_eq!(Record::read(bundle.path()), Some(record));
    }
}
