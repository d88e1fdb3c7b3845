//! What the server keeps of cgroups, since gVisor has no place for it: in a file as well, for the server that comes after
//! one that was killed.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::cpuacct::Time;

/// Of one cgroup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Values {
    /// The most that was seen, in bytes.
    pub max_usage: u64,
    /// How often its limit was met.
    pub fail_count: u64,
    /// How many of its processes were ended for want of memory.
    pub oom_kills: u64,
    /// The time of cgroups below that were removed.
    pub ended: Time,
    pub clone_children: bool,
    pub notify_on_release: bool,
}

/// Of all.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    held: Mutex<Held>,
    file: Option<PathBuf>,
}

#[derive(Debug, Default)]
struct Held {
    cgroups: BTreeMap<PathBuf, Values>,
    /// The program that would be run when a cgroup is empty. It is never run.
    release_agent: String,
}

/// What the file says.
#[derive(Default, Serialize, Deserialize)]
struct Written {
    cgroups: BTreeMap<String, WrittenValues>,
    release_agent: String,
}

#[derive(Serialize, Deserialize)]
struct WrittenValues {
    /// The number of the directory: another one by that path has another.
    inode: u64,
    values: Values,
}

impl Kept {
    /// What an earlier server wrote down. Of cgroups that are gone it is forgotten, and so is all that cannot be read.
    pub fn load(file: PathBuf) -> Self {
        let read = || -> io::Result<Written> { Ok(serde_json::from_slice(&fs::read(&file)?)?) };
        let written = read().unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                warn!("read {}: {error}; counters begin anew", file.display());
            }
            Written::default()
        });
        let is_there = |(path, kept): (String, WrittenValues)| {
            inode(Path::new(&path)).is_ok_and(|inode| inode == kept.inode).then(|| (path.into(), kept.values))
        };
        let cgroups = written.cgroups.into_iter().filter_map(is_there).collect();
        Self { held: Mutex::new(Held { cgroups, release_agent: written.release_agent }), file: Some(file) }
    }

    /// Those of a cgroup.
    pub fn get(&self, cgroup: &Path) -> Values {
        self.held().cgroups.get(cgroup).copied().unwrap_or_default()
    }

    /// Changes those of a cgroup.
    pub fn change(&self, cgroup: &Path, change: impl FnOnce(&mut Values)) {
        self.count(cgroup, change);
        self.write_down();
    }

    /// The same where there is no time for the file: see [`Self::write_down`].
    pub fn count(&self, cgroup: &Path, change: impl FnOnce(&mut Values)) {
        change(self.held().of(cgroup));
    }

    /// So much was seen. Returns the most. It is written down with the next change.
    pub fn saw(&self, cgroup: &Path, usage: u64) -> u64 {
        let mut held = self.held();
        let values = held.of(cgroup);
        values.max_usage = values.max_usage.max(usage);
        values.max_usage
    }

    /// A cgroup is new: it has its parent's settings (`cgroup_create` in kernel/cgroup/cgroup.c).
    pub fn created(&self, cgroup: &Path) {
        let parent = cgroup.parent().map(|parent| self.get(parent)).unwrap_or_default();
        self.remove(cgroup);
        if parent.clone_children || parent.notify_on_release {
            self.change(cgroup, |values| {
                values.clone_children = parent.clone_children;
                values.notify_on_release = parent.notify_on_release;
            });
        }
    }

    /// A cgroup that took so much time is removed: those above it go on counting that.
    pub fn ended(&self, cgroup: &Path, time: Time, root: &Path) {
        if time == Time::default() {
            return;
        }
        for above in cgroup.ancestors().skip(1).take_while(|above| above.starts_with(root)) {
            self.count(above, |values| values.ended += time);
        }
        self.write_down();
    }

    /// A cgroup is removed.
    pub fn remove(&self, cgroup: &Path) {
        self.held().cgroups.remove(cgroup);
    }

    pub fn release_agent(&self) -> String {
        self.held().release_agent.clone()
    }

    pub fn set_release_agent(&self, agent: &str) {
        agent.clone_into(&mut self.held().release_agent);
        self.write_down();
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the next server.
    pub fn write_down(&self) {
        let Some(file) = &self.file else { return };
        if let Err(error) = self.held().write(file) {
            warn!("write {}: {error}; a server after this one will not know what was counted", file.display());
        }
    }
}

impl Held {
    fn of(&mut self, cgroup: &Path) -> &mut Values {
        self.cgroups.entry(cgroup.to_owned()).or_default()
    }

    /// Replaces the file. The umask is no protection here. What was removed behind the mount is forgotten.
    fn write(&mut self, file: &Path) -> io::Result<()> {
        let mut cgroups = BTreeMap::new();
        self.cgroups.retain(|path, values| match (inode(path), path.to_str()) {
            (Ok(inode), Some(path)) => {
                cgroups.insert(path.to_owned(), WrittenValues { inode, values: *values });
                true
            }
            (Err(error), _) => error.kind() != io::ErrorKind::NotFound,
            (Ok(_), None) => true,
        });
        let text = serde_json::to_vec(&Written { cgroups, release_agent: self.release_agent.clone() })?;
        let new = file.with_extension("new");
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?.write_all(&text)?;
        fs::rename(new, file)
    }
}

fn inode(cgroup: &Path) -> io::Result<u64> {
    fs::metadata(cgroup).map(|metadata| metadata.ino())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_new_cgroup_has_its_parents_settings_and_no_counts() {
        let kept = Kept::default();
        let (parent, child) = (Path::new("/a"), Path::new("/a/b"));
        kept.change(parent, |values| (values.notify_on_release, values.oom_kills) = (true, 3));
        kept.saw(child, 7);
        kept.created(child);
        assert_eq!(kept.get(child), Values { notify_on_release: true, ..Values::default() });
        assert_eq!((kept.saw(child, 5), kept.saw(child, 4)), (5, 5));
        kept.remove(child);
        assert_eq!(kept.get(child), Values::default());
    }

    #[test]
    fn another_server_goes_on_counting_for_the_same_cgroups() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("memory.json");
        let [stays, again, goes] = ["stays", "again", "goes"].map(|name| root.path().join(name));
        let kept = Kept::load(file.clone());
        for cgroup in [&stays, &again, &goes] {
            fs::create_dir(cgroup).unwrap();
            kept.saw(cgroup, 5);
        }
        kept.ended(&stays.join("below"), Time { user: 3, system: 4 }, root.path());
        kept.set_release_agent("/bin/agent");
        // While there was no server; the first stays until the second is there, so that it has another number.
        let spare = root.path().join("spare");
        fs::create_dir(&spare).unwrap();
        fs::rename(&spare, &again).unwrap();
        fs::remove_dir(&goes).unwrap();

        let next = Kept::load(file.clone());
        let ended = Time { user: 3, system: 4 };
        assert_eq!(next.get(&stays), Values { max_usage: 5, ended, ..Values::default() });
        assert_eq!(next.get(root.path()).ended, ended);
        assert_eq!([&again, &goes].map(|cgroup| next.get(cgroup)), [Values::default(); 2]);
        assert_eq!(next.release_agent(), "/bin/agent");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

        kept.set_release_agent("/bin/other");
        assert_eq!(kept.get(&goes), Values::default(), "it was removed behind the mount");

        fs::write(&file, "{").unwrap();
        assert_eq!(Kept::load(file).get(&stays), Values::default());
    }

    #[test]
    fn a_file_that_cannot_be_written_costs_nothing_else() {
        let kept = Kept::load("/dev/full/memory.json".into());
        kept.change(Path::new("/"), |values| values.oom_kills = 1);
        assert_eq!(kept.get(Path::new("/")).oom_kills, 1);
    }
}
