//! What has been begun, on disk, so that it can be undone by whoever comes later.
//!
//! A file of JSON lines: a header that names the mount namespace, then one line per action, written and synced before
//! the action is done. A torn last line is an action that was never begun.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use terrarium_gaps::{GapId, Rung};

use crate::namespace::MountNamespace;
use crate::{Action, CATALOGUE, Error, Remedy, Setting};

/// The record of the actions done in one mount namespace.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    namespace: MountNamespace,
    entries: Vec<Entry>,
    file: File,
}

#[derive(Serialize, Deserialize)]
struct Header {
    namespace: MountNamespace,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    gap: GapId,
    rung: Rung,
    #[serde(flatten)]
    action: Action,
}

impl Journal {
    /// Starts an empty journal for the current mount namespace.
    ///
    /// # Errors
    /// There is one at `path` already, or it cannot be written.
    pub fn create(path: &Path) -> Result<Self, Error> {
        let create = || {
            let namespace = MountNamespace::current()?;
            let mut file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)?;
            append(&mut file, &Header { namespace: namespace.clone() })?;
            Ok(Self { path: path.to_owned(), namespace, entries: Vec::new(), file })
        };
        create().map_err(|source| Error::Journal { path: path.to_owned(), source })
    }

    /// Reads the journal that an earlier run left; `None` where there is none.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn open(path: &Path) -> Result<Option<Self>, Error> {
        let open = || {
            let file = match OpenOptions::new().read(true).append(true).open(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                other => other?,
            };
            let mut lines = BufReader::new(&file).lines();
            let header = lines.next().transpose()?.unwrap_or_default();
            let Ok(Header { namespace }) = serde_json::from_str(&header) else {
                // Torn while the header was written: nothing had been begun.
                fs::remove_file(path)?;
                return Ok(None);
            };
            let mut entries = Vec::new();
            for line in lines {
                match serde_json::from_str(&line?) {
                    Ok(entry) => entries.push(entry),
                    Err(_) => break,
                }
            }
            Ok(Some(Self { path: path.to_owned(), namespace, entries, file }))
        };
        open().map_err(|source| Error::Journal { path: path.to_owned(), source })
    }

    /// The mount namespace in which the actions were done.
    #[must_use]
    pub fn namespace(&self) -> &MountNamespace {
        &self.namespace
    }

    /// The settings that components were given.
    pub fn settings(&self) -> impl Iterator<Item = &Setting> {
        self.entries.iter().filter_map(|entry| match &entry.action {
            Action::Configure(setting) => Some(setting),
            _ => None,
        })
    }

    pub(crate) fn note(&mut self, remedy: &(impl Remedy + ?Sized), action: &Action) -> Result<(), Error> {
        let entry = Entry { gap: remedy.gap(), rung: remedy.rung(), action: action.clone() };
        append(&mut self.file, &entry).map_err(|source| Error::Journal { path: self.path.clone(), source })?;
        self.entries.push(entry);
        Ok(())
    }

    /// Undoes every action, the last one first, and removes the journal; it goes on after an error. From outside the namespace only what is seen
    /// outside is undone: the mounts are gone with the namespace's last process, and what is mounted here at those
    /// places is somebody else's.
    ///
    /// # Errors
    /// What could not be undone; the journal stays then.
    pub fn revert(self) -> Result<(), Error> {
        let journal_error = |source| Error::Journal { path: self.path.clone(), source };
        let inside = MountNamespace::current().map_err(journal_error)? == self.namespace;
        let mut failures = Vec::new();
        for Entry { gap, rung, action } in self.entries.iter().rev() {
            if !inside && action.is_in_namespace_only() {
                continue;
            }
            let remedy = CATALOGUE.iter().find(|remedy| (remedy.gap(), remedy.rung()) == (*gap, *rung));
            if let Err(error) = remedy.map_or_else(|| action.revert(), |remedy| remedy.revert(action)) {
                failures.push(format!("{action}: {error}"));
            }
        }
        if !failures.is_empty() {
            return Err(Error::Revert(failures));
        }
        fs::remove_file(&self.path).map_err(journal_error)
    }
}

fn append(file: &mut File, line: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(line)?;
    line.push(b'\n');
    file.write_all(&line)?;
    file.sync_data()
}
