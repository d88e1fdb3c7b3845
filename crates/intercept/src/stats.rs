//! How often each rule was used, as a file that others may read at any time.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Each rule with how often it was used: those of statfs, redirects, files, uname.
    pub rules: Vec<RuleStats>,
    /// How often a system call stopped for the tracer, used by a rule or not.
    pub traps: u64,
    /// How often a rule should have been used and could not, since the program could not be given the changed path: it has
    /// another /proc than its tracer, may not read there, or had no descriptor or memory left.
    pub missed: u64,
}

/// A rule's figures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleStats {
    /// Which, such as `redirect /proc/sys`.
    pub rule: String,
    /// How often it changed something.
    pub hits: u64,
}

impl Stats {
    /// Reads the file of a program that runs, or ran.
    ///
    /// # Errors
    /// It cannot be read, or is not one.
    pub fn read(path: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&std::fs::read(path)?)?)
    }
}

/// The counters, and where they are written.
#[derive(Debug)]
pub(crate) struct Counters {
    labels: Vec<String>,
    hits: Vec<AtomicU64>,
    traps: AtomicU64,
    missed: AtomicU64,
    file: Option<PathBuf>,
    written: Mutex<Option<Stats>>,
}

impl Counters {
    pub(crate) fn new(labels: Vec<String>, file: Option<PathBuf>) -> Self {
        let hits = labels.iter().map(|_| AtomicU64::new(0)).collect();
        Self { labels, hits, traps: AtomicU64::new(0), missed: AtomicU64::new(0), file, written: Mutex::new(None) }
    }

    pub(crate) fn hit(&self, rule: usize) {
        self.hits[rule].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn trap(&self) {
        self.traps.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn miss(&self) {
        self.missed.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn are_written(&self) -> bool {
        self.file.is_some()
    }

    fn stats(&self) -> Stats {
        let rules = self.labels.iter().zip(&self.hits);
        Stats {
            rules: rules
                .map(|(rule, hits)| RuleStats { rule: rule.clone(), hits: hits.load(Ordering::Relaxed) })
                .collect(),
            traps: self.traps.load(Ordering::Relaxed),
            missed: self.missed.load(Ordering::Relaxed),
        }
    }

    /// Replaces the file if there is something new.
    pub(crate) fn write(&self) -> Result<(), Error> {
        let Some(file) = &self.file else { return Ok(()) };
        // Whoever panicked while it held the lock has left nothing half done.
        let mut written = self.written.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let stats = self.stats();
        if written.as_ref() == Some(&stats) {
            return Ok(());
        }
        let failed = |source| Error::Stats { path: file.clone(), source };
        let mut new = file.clone().into_os_string();
        new.push(".new");
        let text = serde_json::to_string(&stats).map_err(|error| failed(error.into()))?;
        std::fs::write(&new, text + "\n").and_then(|()| std::fs::rename(&new, file)).map_err(failed)?;
        *written = Some(stats);
        Ok(())
    }
}
