//! What has been begun, on disk, so that it can be undone by whoever comes later.
//!
//! A file of JSON lines: a header that names the cluster's namespaces, then one line per action, written and synced before
//! the action is done. A torn last line is an action that was never begun.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::namespace::Namespaces;
use crate::{Action, Error, Isolation, Purpose, Setting};

/// The record of the actions done for one cluster.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    header: Header,
    entries: Vec<Entry>,
    file: File,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Header {
    isolation: Isolation,
    namespaces: Namespaces,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    #[serde(flatten)]
    purpose: Purpose,
    #[serde(flatten)]
    action: Action,
}

impl Journal {
    /// Starts an empty journal for the current namespaces, which are the cluster's own as far as `isolation` says.
    ///
    /// # Errors
    /// There is one at `path` already, or it cannot be written.
    pub fn create(path: &Path, isolation: Isolation) -> Result<Self, Error> {
        let create = || {
            let header = Header { isolation, namespaces: Namespaces::current()? };
            if read(path)?.is_some() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
            file.set_len(0)?;
            append(&mut file, &header)?;
            Ok(Self { path: path.to_owned(), header, entries: Vec::new(), file })
        };
        create().map_err(|source| Error::Journal { path: path.to_owned(), source })
    }

    /// Reads the journal that an earlier run left; `None` where there is none.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn open(path: &Path) -> Result<Option<Self>, Error> {
        let open = || {
            let Some((header, entries)) = read(path)? else { return Ok(None) };
            let file = OpenOptions::new().append(true).open(path)?;
            Ok(Some(Self { path: path.to_owned(), header, entries, file }))
        };
        open().map_err(|source| Error::Journal { path: path.to_owned(), source })
    }

    /// The namespaces that the cluster was given.
    #[must_use]
    pub fn isolation(&self) -> Isolation {
        self.header.isolation
    }

    /// The processes that live in the cluster's namespaces; none where it was given none of its own.
    ///
    /// # Errors
    /// /proc cannot be read.
    pub fn members(&self) -> io::Result<Vec<i32>> {
        match self.header.isolation {
            Isolation::Nothing => Ok(Vec::new()),
            Isolation::Mount | Isolation::User { .. } => self.header.namespaces.members(),
        }
    }

    /// Moves this process into the cluster's namespaces, through one of their members; `false` if there is none, or this
    /// kernel lets nobody join a user namespace. Call it before the process has a second thread.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn join(&self) -> Result<bool, Error> {
        match self.header.isolation {
            Isolation::Nothing => Ok(false),
            isolation @ (Isolation::Mount | Isolation::User { .. }) => self.header.namespaces.join(isolation),
        }
    }

    /// The settings that components were given.
    pub fn settings(&self) -> impl Iterator<Item = &Setting> {
        self.entries.iter().filter_map(|entry| entry.action.setting())
    }

    pub(crate) fn note(&mut self, purpose: Purpose, action: &Action) -> Result<(), Error> {
        let entry = Entry { purpose, action: action.clone() };
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
        let isolation = self.header.isolation;
        let inside = isolation == Isolation::Nothing || self.header.namespaces.is_current().map_err(journal_error)?;
        let mut failures = Vec::new();
        for Entry { action, .. } in self.entries.iter().rev() {
            if !inside && action.is_in_namespace_only(isolation) {
                continue;
            }
            if let Err(error) = action.revert() {
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
fn read(path: &Path) -> io::Result<Option<(Header, Vec<Entry>)>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut lines = BufReader::new(file).split(b'\n');
    let header = lines.next().transpose()?.unwrap_or_default();
    let Ok(header) = serde_json::from_slice(&header) else { return Ok(None) };
    let mut entries = Vec::new();
    for line in lines {
        // A torn line is the last one; were another damaged, those after it still are to be undone.
        entries.extend(serde_json::from_slice::<Entry>(&line?));
    }
    Ok(Some((header, entries)))
}

fn append(file: &mut File, line: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(line)?;
    line.push(b'\n');
    file.write_all(&line)?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use ipnet::Ipv4Net;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::Preparation;

    const PURPOSE: Purpose = Purpose::Preparation { preparation: Preparation::Directories };

    fn any_action() -> impl Strategy<Value = Action> {
        // A journal is JSON, so its paths and texts are Unicode.
        let text = || any::<String>();
        let path = || any::<String>().prop_map(PathBuf::from);
        prop_oneof![
            path().prop_map(|path| Action::CreateDir { path }),
            path().prop_map(|path| Action::CreateOwnDir { path }),
            path().prop_map(|state| Action::Configure(Setting::WithoutMounts { state })),
            (path(), text()).prop_map(|(path, content)| Action::CreateFile { path, content }),
            (path(), text(), any::<Option<String>>()).prop_map(|(path, value, before)| Action::Sysctl {
                path,
                value,
                before
            }),
            path().prop_map(|path| Action::Cgroup { path }),
            path().prop_map(|target| Action::Stack { target }),
            (prop::collection::vec(text(), 0..3), path())
                .prop_map(|(controllers, backing)| Action::Configure(Setting::CgroupFiles { controllers, backing })),
            (any::<u32>(), 0..=32u8)
                .prop_map(|(address, prefix)| Action::Address { address: Ipv4Net::new_assert(address.into(), prefix) }),
            (text(), path(), text()).prop_map(|(fstype, target, options)| Action::Mount { fstype, target, options }),
            (path(), path()).prop_map(|(source, target)| Action::Bind { source, target }),
            (text(), any::<i64>(), text()).prop_map(|(field, number, text)| {
                Action::Configure(Setting::Kubelet { field, value: json!({ "number": number, "text": [text, null] }) })
            }),
            (text(), any::<bool>()).prop_map(|(field, value)| Action::Configure(Setting::Containerd { field, value })),
            (text(), text()).prop_map(|(flag, value)| Action::Configure(Setting::ApiServer { flag, value })),
            any::<[bool; 3]>().prop_map(|[ip_forward, ip_masq, redirect]| {
                Action::Configure(Setting::PodNetwork { ip_forward, ip_masq, redirect })
            }),
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
            let mut journal = Journal::create(&path, Isolation::Mount).unwrap();
            for action in &actions {
                journal.note(PURPOSE, action).unwrap();
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
        drop(Journal::create(&path, Isolation::Mount).unwrap());
        assert!(Journal::open(&path).unwrap().is_some());
        assert!(Journal::create(&path, Isolation::Mount).is_err(), "one that holds something is not begun anew");
    }
}
