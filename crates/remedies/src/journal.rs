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
            if read(path)?.is_some() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
            file.set_len(0)?;
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
            let Some((namespace, entries)) = read(path)? else { return Ok(None) };
            let file = OpenOptions::new().append(true).open(path)?;
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

    /// Undoes every action, the last one first, and removes the journal; it goes on after an error. From outside the
    /// namespace only what is seen outside is undone: the mounts are gone with the namespace's last process, and what is
    /// mounted here at those places is somebody else's.
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

/// What a journal holds; `None` where there is none, or no more than a part of a header: nothing has been begun then.
/// Such a file stays: somebody may be about to write the rest.
fn read(path: &Path) -> io::Result<Option<(MountNamespace, Vec<Entry>)>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut lines = BufReader::new(file).split(b'\n');
    let header = lines.next().transpose()?.unwrap_or_default();
    let Ok(Header { namespace }) = serde_json::from_slice(&header) else { return Ok(None) };
    let mut entries = Vec::new();
    for line in lines {
        match serde_json::from_slice(&line?) {
            Ok(entry) => entries.push(entry),
            Err(_) => break,
        }
    }
    Ok(Some((namespace, entries)))
}

fn append(file: &mut File, line: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(line)?;
    line.push(b'\n');
    file.write_all(&line)?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn any_action() -> impl Strategy<Value = Action> {
        // A journal is JSON, so its paths and texts are Unicode.
        let text = || any::<String>();
        let path = || any::<String>().prop_map(PathBuf::from);
        prop_oneof![
            path().prop_map(|path| Action::CreateDir { path }),
            (path(), text()).prop_map(|(path, content)| Action::CreateFile { path, content }),
            (path(), text(), text()).prop_map(|(path, value, before)| Action::Sysctl { path, value, before }),
            (text(), path(), text()).prop_map(|(fstype, target, options)| Action::Mount { fstype, target, options }),
            (path(), path()).prop_map(|(source, target)| Action::Bind { source, target }),
            (text(), any::<i64>(), text()).prop_map(|(field, number, text)| {
                Action::Configure(Setting::Kubelet { field, value: json!({ "number": number, "text": [text, null] }) })
            }),
            (text(), any::<bool>()).prop_map(|(field, value)| Action::Configure(Setting::Containerd { field, value })),
            (text(), text()).prop_map(|(flag, value)| Action::Configure(Setting::ApiServer { flag, value })),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Cut off anywhere, as by a crash, a journal holds the actions whose lines are whole.
        #[test]
        fn a_journal_cut_off_anywhere_holds_what_was_noted_before(
            actions in prop::collection::vec(any_action(), 0..5),
            cut in any::<prop::sample::Index>(),
        ) {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("journal");
            let mut journal = Journal::create(&path).unwrap();
            for action in &actions {
                journal.note(CATALOGUE[0], action).unwrap();
            }
            let whole = fs::read(&path).unwrap();
            let cut = &whole[..=cut.index(whole.len())];
            fs::write(&path, cut).unwrap();
            // A line but for its newline is whole: that comes last.
            let lines = whole.split_inclusive(|byte| *byte == b'\n').scan(0, |end, line| { *end += line.len(); Some(*end) });
            let survive = lines.filter(|end| *end <= cut.len() + 1).count();
            let read = Journal::open(&path).unwrap();
            prop_assert_eq!(read.is_some(), survive > 0);
            let read: Vec<Action> = read.into_iter().flat_map(|journal| journal.entries).map(|entry| entry.action).collect();
            prop_assert_eq!(&read, &actions[..survive.saturating_sub(1)]);
        }
    }

    #[test]
    fn looking_at_a_journal_that_is_being_begun_does_not_remove_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        // Between its creation and its header.
        fs::write(&path, "").unwrap();
        assert!(Journal::open(&path).unwrap().is_none());
        assert!(path.exists());
        drop(Journal::create(&path).unwrap());
        assert!(Journal::open(&path).unwrap().is_some());
        assert!(Journal::create(&path).is_err(), "one that holds something is not begun anew");
    }
}
