//! Where records live, and who may touch which.
//!
//! `/run/terrarium-testbed/<id>/` holds a sandbox's record, lock, log and runsc's own state;
//! `${TERRARIUM_CACHE:-${XDG_CACHE_HOME:-~/.cache}/terrarium}/sandboxes/<id>/` its root, on disk.
//!
//! Whoever makes, owns or removes a sandbox holds the lock file of its directory. The kernel frees that lock when its
//! holder dies, however it dies: **a free lock on a sandbox that is not to be kept means that its owner is gone.**
//! The lock of the store itself is held only to look at the directory and to add to it, never while working. A directory
//! leaves by an atomic rename, so that it is either whole or not there.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use serde::de::DeserializeOwned;

use crate::{
    error::{Error, IoContext, Result},
    network::Slot,
    process::{Process, boot_id},
    record::{Files, Record, State, id},
    teardown,
    tool::Interrupt,
};

/// Marks a directory that is on its way out.
const GONE: &str = ".gone-";

/// All sandboxes of this host.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    run: PathBuf,
    cache: PathBuf,
}

/// The right to use and remove one sandbox.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) directory: PathBuf,
    _lock: Flock<File>,
}

/// What [`Store::claim`] found.
pub(crate) enum Claimed {
    /// The name was free: the record is written, the rest is to be made.
    New(Claim, Record),
    /// A kept sandbox of that name runs.
    Running(Record),
}

/// What a sweep did.
#[derive(Debug, Default)]
pub struct Swept {
    /// The identifiers of the sandboxes removed.
    pub removed: Vec<String>,
    /// What could not be removed; the next sweep tries again.
    pub failed: Vec<Error>,
}

impl Swept {
    /// Tells stderr what could not be removed: a reason to look, not to stop.
    pub fn warn(&self) {
        for error in &self.failed {
            eprintln!("warning: {error}");
        }
    }
}

enum Lock {
    Held,
    Gone,
    Free(Claim),
}

impl Store {
    /// The store of this host, made when missing.
    pub(crate) fn open() -> Result<Self> {
        Self::at("/run/terrarium-testbed".into(), cache_directory())
    }

    fn at(run: PathBuf, cache: PathBuf) -> Result<Self> {
        let store = Self { run, cache };
        for directory in [&store.run, &store.sandboxes()] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).io("create", directory)?;
        }
        Ok(store)
    }

    /// What can be made again: `${TERRARIUM_CACHE:-${XDG_CACHE_HOME:-~/.cache}/terrarium}`.
    pub(crate) fn cache(&self) -> &Path {
        &self.cache
    }

    fn sandboxes(&self) -> PathBuf {
        self.cache.join("sandboxes")
    }

    /// Where the record of the sandbox called `name` is.
    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        self.run.join(id(name))
    }

    /// Where what the sandbox called `name` writes goes.
    pub(crate) fn disk(&self, name: &str) -> PathBuf {
        self.sandboxes().join(id(name))
    }

    /// Claims the name of `draft`; its slot is chosen here. Waits while a kept sandbox of that name, or one whose
    /// owner is gone, comes or goes.
    pub(crate) fn claim(&self, draft: &Record, interrupt: &Interrupt) -> Result<Claimed> {
        let directory = self.run.join(draft.id());
        loop {
            interrupt.check()?;
            let whole = self.lock()?;
            if !directory.exists() {
                return self.add(directory, draft);
            }
            match try_lock(&directory)? {
                Lock::Gone => {}
                Lock::Held => {
                    drop(whole);
                    owned_by_another(read(&directory)?.as_ref())?;
                    thread::sleep(Duration::from_millis(50));
                }
                Lock::Free(claim) => {
                    drop(whole);
                    match read(&claim.directory)? {
                        Some(record) if record.keep && record.pid().is_some() => return Ok(Claimed::Running(record)),
                        record => self.remove(claim, record.as_ref())?,
                    }
                }
            }
        }
    }

    /// Call under the store's lock.
    fn add(&self, directory: PathBuf, draft: &Record) -> Result<Claimed> {
        let slot = Slot::free(self.slots()?)?.ok_or(Error::NoAddress)?;
        let record = Record { slot, ..draft.clone() };
        fs::DirBuilder::new().mode(0o700).create(&directory).io("create", &directory)?;
        match try_lock(&directory)? {
            Lock::Free(claim) => {
                claim.write(&record)?;
                Ok(Claimed::New(claim, record))
            }
            Lock::Held | Lock::Gone => unreachable!("the directory was made under the store's lock"),
        }
    }

    /// Takes the sandbox called `name` to remove it; none when there is none.
    pub(crate) fn take(&self, name: &str, interrupt: &Interrupt) -> Result<Option<(Claim, Option<Record>)>> {
        let directory = self.run.join(id(name));
        loop {
            interrupt.check()?;
            let whole = self.lock()?;
            if !directory.exists() {
                return Ok(None);
            }
            match try_lock(&directory)? {
                Lock::Gone => return Ok(None),
                Lock::Free(claim) => {
                    let record = read(&directory)?;
                    return Ok(Some((claim, record)));
                }
                Lock::Held => {
                    drop(whole);
                    owned_by_another(read(&directory)?.as_ref())?;
                    thread::sleep(Duration::from_millis(50));
                }
            }
        }
    }

    /// The record of the sandbox called `name`.
    pub(crate) fn find(&self, name: &str) -> Result<Option<Record>> {
        read(&self.run.join(id(name)))
    }

    /// Every sandbox and how it stands; not those of another testbed's format, of which [`sweep`](Self::sweep) tells.
    pub(crate) fn list(&self) -> Result<Vec<(Record, State)>> {
        let _whole = self.lock()?;
        let mut all = Vec::new();
        for directory in self.directories()? {
            let Ok(Some(record)) = read(&directory) else { continue };
            let held = matches!(try_lock(&directory)?, Lock::Held);
            let state = match record.pid() {
                Some(_) => State::Running,
                None if held => State::Busy,
                None => State::Dead,
            };
            all.push((record, state));
        }
        Ok(all)
    }

    /// Removes every sandbox whose owner is gone, and roots that a reboot left without a record.
    pub(crate) fn sweep(&self) -> Result<Swept> {
        let mut swept = Swept::default();
        for (claim, record) in self.abandoned(&mut swept.failed)? {
            let id = file_name(&claim.directory).to_owned();
            match self.remove(claim, record.as_ref()) {
                Ok(()) => swept.removed.push(id),
                Err(error) => swept.failed.push(error),
            }
        }
        let _whole = self.lock()?;
        // A record is written before its root is made: a root without one has lost it with an emptied /run.
        for root in children(&self.sandboxes())? {
            if file_name(&root).starts_with("tt-") && !self.run.join(file_name(&root)).exists() {
                swept.failed.extend(teardown::remove_tree(&root).err());
            }
        }
        for half in children(&self.run)? {
            if file_name(&half).starts_with(GONE) {
                // Another process may be removing it too.
                let _ = teardown::remove_tree(&half);
            }
        }
        Ok(swept)
    }

    /// [`sweep`](Self::sweep), and the links and network namespaces of our naming that no record has: an `ip` that outlived
    /// its killed testbed for a moment can make one after all else is swept.
    pub(crate) fn sweep_all(&self) -> Result<Swept> {
        let mut swept = self.sweep()?;
        // A slot is recorded under this lock before anything is made for it.
        let _whole = self.lock()?;
        let recorded = self.slots()?;
        for slot in Slot::of_this_host().difference(&recorded) {
            let problems = slot.delete();
            if problems.is_empty() {
                swept.removed.push(slot.link());
            } else {
                swept.failed.push(Error::Leftovers { id: slot.link(), problems });
            }
        }
        Ok(swept)
    }

    /// The Debian trees that sandboxes stand on; none when one of them does not tell.
    pub(crate) fn trees_in_use(&self) -> Result<Option<Vec<PathBuf>>> {
        let _whole = self.lock()?;
        let records = self.directories()?;
        let trees = records.iter().map(|directory| field::<PathBuf>(directory, "tree"));
        Ok(trees.collect())
    }

    /// Call under the store's lock.
    fn slots(&self) -> Result<BTreeSet<Slot>> {
        Ok(self.directories()?.iter().filter_map(|directory| field(directory, "slot")).collect())
    }

    fn abandoned(&self, failed: &mut Vec<Error>) -> Result<Vec<(Claim, Option<Record>)>> {
        let _whole = self.lock()?;
        let boot = boot_id();
        let mut abandoned = Vec::new();
        for directory in self.directories()? {
            if let Lock::Free(claim) = try_lock(&directory)? {
                match read(&directory) {
                    Ok(Some(record)) if !record.is_abandoned(&boot) => {}
                    // Records are first written under the store's lock: one that is missing now will never come, and
                    // nothing was made yet.
                    Ok(record) => abandoned.push((claim, record)),
                    // Another version's sandbox may well be in use.
                    Err(error) => failed.push(error),
                }
            }
        }
        Ok(abandoned)
    }

    /// Removes a sandbox wholly. Goes on after a failure; then the record stays, for the next sweep.
    pub(crate) fn remove(&self, claim: Claim, record: Option<&Record>) -> Result<()> {
        let name = file_name(&claim.directory).to_owned();
        let disk = record.map_or_else(|| self.sandboxes().join(&name), |record| record.disk.clone());
        teardown::remove(&claim.directory, record, &disk)?;
        let gone = self.run.join(format!("{GONE}{name}-{}", std::process::id()));
        fs::rename(&claim.directory, &gone).io("rename", &claim.directory)?;
        teardown::remove_tree(&gone)
    }

    fn directories(&self) -> Result<Vec<PathBuf>> {
        let ours = |path: &PathBuf| file_name(path).starts_with("tt-");
        Ok(children(&self.run)?.into_iter().filter(ours).collect())
    }

    fn lock(&self) -> Result<Flock<File>> {
        let path = self.run.join("lock");
        let file = open_lock(&path).io("open", &path)?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno).io("lock", path)
    }
}

impl Claim {
    /// Writes the record, so that a reader sees the old one or the new one.
    pub(crate) fn write(&self, record: &Record) -> Result<()> {
        let path = Files(&self.directory).record();
        let new = path.with_extension("new");
        let text = serde_json::to_vec_pretty(record).map_err(io::Error::from).io("encode", &path)?;
        fs::write(&new, text).io("write", &new)?;
        fs::rename(&new, &path).io("rename", &new)
    }
}

/// Call under the store's lock: it creates a lock file that is missing.
fn try_lock(directory: &Path) -> Result<Lock> {
    let path = Files(directory).lock();
    let file = match open_lock(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Lock::Gone),
        other => other.io("open", &path)?,
    };
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => {
            // The last holder may have removed the directory between open and lock.
            let same = fs::metadata(&path).is_ok_and(|now| lock.metadata().is_ok_and(|ours| ours.ino() == now.ino()));
            Ok(if same { Lock::Free(Claim { directory: directory.to_owned(), _lock: lock }) } else { Lock::Gone })
        }
        Err((_, Errno::EWOULDBLOCK)) => Ok(Lock::Held),
        Err((_, errno)) => Err(errno).io("lock", path),
    }
}

fn open_lock(path: &Path) -> io::Result<File> {
    File::options().create(true).truncate(false).write(true).open(path)
}

/// The record in `directory`; none when it was never written.
fn read(directory: &Path) -> Result<Option<Record>> {
    let path = Files(directory).record();
    match fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|source| Error::Foreign { path, source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).io("read", path),
    }
}

/// A field in a record of any version.
fn field<T: DeserializeOwned>(directory: &Path, name: &str) -> Option<T> {
    let record: serde_json::Value = serde_json::from_slice(&fs::read(Files(directory).record()).ok()?).ok()?;
    serde_json::from_value(record.get(name)?.clone()).ok()
}

fn owned_by_another(record: Option<&Record>) -> Result<()> {
    // Of one that is gone, somebody else is removing what is left.
    let lives = |record: &Record| record.is_of_this_boot() && Process::of(record.owner.cast_signed()).is_some();
    match record {
        Some(record) if !record.keep && lives(record) => {
            Err(Error::Owned { name: record.name.clone(), owner: record.owner })
        }
        _ => Ok(()),
    }
}

fn children(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).io("list", directory)?;
    let mut paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>();
    if let Ok(paths) = &mut paths {
        paths.sort();
    }
    paths.io("list", directory)
}

fn file_name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// As the scripts have it, where everything else that can be made again is.
fn cache_directory() -> PathBuf {
    cache_from(|name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from))
}

fn cache_from(set: impl Fn(&str) -> Option<PathBuf>) -> PathBuf {
    let home = || set("HOME").unwrap_or_else(|| "/root".into());
    let cache = || set("XDG_CACHE_HOME").unwrap_or_else(|| home().join(".cache")).join("terrarium");
    let cache = set("TERRARIUM_CACHE").unwrap_or_else(cache);
    // runsc asks for absolute paths.
    std::path::absolute(&cache).unwrap_or(cache)
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
