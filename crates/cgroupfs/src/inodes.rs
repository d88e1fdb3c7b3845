//! Which number stands for which file.
//!
//! gVisor never forgets a number, so a cgroup that is removed takes its own and those below with it. No number is given
//! twice: who still holds one of a removed cgroup must not get at another.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use fuser::{FileAttr, FileType};

use crate::added::Added;
use crate::readers::Readers;

/// The root's number, by the protocol.
pub(crate) const ROOT: u64 = 1;

/// What a number stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    /// Where it is in what backs the hierarchy, or would be.
    pub path: PathBuf,
    pub kind: Kind,
}

/// Where a file comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A cgroup.
    Cgroup,
    /// A file of the sandbox's own.
    Own,
    /// One that is computed.
    Added(Added),
}

/// All that have a number.
#[derive(Debug)]
pub(crate) struct Inodes {
    by_number: HashMap<u64, Known>,
    by_path: BTreeMap<PathBuf, u64>,
    next: u64,
}

#[derive(Debug)]
struct Known {
    node: Node,
    /// How often the kernel was told the number and has not forgotten it.
    lookups: u64,
    /// What it was told of it.
    told: Option<FileAttr>,
    /// Who reads what it says, if it is a file.
    text: Readers<u8>,
    /// Who lists what it has, if it is a cgroup.
    entries: Readers<Entry>,
}

/// What a cgroup has, for who lists it.
#[derive(Debug)]
pub(crate) struct Entry {
    pub number: u64,
    pub kind: FileType,
    pub name: OsString,
}

impl Known {
    fn new(node: Node, lookups: u64) -> Self {
        Self { node, lookups, told: None, text: Readers::default(), entries: Readers::default() }
    }
}

impl Inodes {
    /// Only the root.
    pub fn new(root: &Path) -> Self {
        let node = Node { path: root.to_owned(), kind: Kind::Cgroup };
        Self {
            by_number: HashMap::from([(ROOT, Known::new(node, 1))]),
            by_path: BTreeMap::from([(root.to_owned(), ROOT)]),
            next: ROOT + 1,
        }
    }

    /// What a number stands for.
    pub fn get(&self, number: u64) -> Option<&Node> {
        self.by_number.get(&number).map(|known| &known.node)
    }

    /// The number of a path, which the kernel is told.
    pub fn look_up(&mut self, node: &Node) -> u64 {
        let number = match self.by_path.get(&node.path) {
            Some(number) if self.get(*number).is_some_and(|known| known.kind == node.kind) => *number,
            _ => self.add(node),
        };
        if let Some(known) = self.by_number.get_mut(&number) {
            known.lookups += 1;
        }
        number
    }

    fn add(&mut self, node: &Node) -> u64 {
        let number = self.next;
        self.next += 1;
        self.by_number.insert(number, Known::new(node.clone(), 0));
        if let Some(before) = self.by_path.insert(node.path.clone(), number) {
            self.by_number.remove(&before);
        }
        number
    }

    /// What the kernel was told last of what has a number.
    pub fn told(&self, number: u64) -> Option<FileAttr> {
        self.by_number.get(&number)?.told
    }

    /// The kernel is told that.
    pub fn tell(&mut self, attributes: FileAttr) {
        if let Some(known) = self.by_number.get_mut(&attributes.ino.0) {
            known.told = Some(attributes);
        }
    }

    /// Who reads a file.
    pub fn text(&mut self, number: u64) -> Option<&mut Readers<u8>> {
        self.by_number.get_mut(&number).map(|known| &mut known.text)
    }

    /// Who lists a cgroup.
    pub fn entries(&mut self, number: u64) -> Option<&mut Readers<Entry>> {
        self.by_number.get_mut(&number).map(|known| &mut known.entries)
    }

    /// What was told of a path and all below does not hold any more.
    pub fn tell_anew(&mut self, path: &Path) {
        for (_, number) in self.below(path) {
            if let Some(known) = self.by_number.get_mut(&number) {
                known.told = None;
            }
        }
    }

    /// The number of a path, if it has one.
    pub fn number(&self, path: &Path) -> Option<u64> {
        self.by_path.get(path).copied()
    }

    /// The kernel forgets a number that it was told so often.
    pub fn forget(&mut self, number: u64, lookups: u64) {
        let Some(known) = self.by_number.get_mut(&number) else { return };
        known.lookups = known.lookups.saturating_sub(lookups);
        if known.lookups == 0 && number != ROOT {
            let node = self.by_number.remove(&number).map(|known| known.node);
            if let Some(node) = node {
                self.by_path.remove(&node.path);
            }
        }
    }

    /// A cgroup is removed, with all in it.
    pub fn remove(&mut self, cgroup: &Path) {
        for (path, number) in self.below(cgroup) {
            self.by_path.remove(&path);
            self.by_number.remove(&number);
        }
    }

    /// A path and all below it that have numbers.
    fn below(&self, path: &Path) -> Vec<(PathBuf, u64)> {
        let from = self.by_path.range(path.to_owned()..).take_while(|(below, _)| below.starts_with(path));
        from.map(|(below, number)| (below.clone(), *number)).collect()
    }

    /// How many there are.
    #[cfg(test)]
    fn len(&self) -> usize {
        assert_eq!(self.by_number.len(), self.by_path.len());
        self.by_number.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(path: &str, kind: Kind) -> Node {
        Node { path: path.into(), kind }
    }

    #[test]
    fn a_number_goes_when_it_is_forgotten_as_often_as_it_was_told() {
        let mut inodes = Inodes::new(Path::new("/b"));
        let procs = node("/b/cgroup.procs", Kind::Own);
        let number = inodes.look_up(&procs);
        assert_eq!(inodes.look_up(&procs), number);
        inodes.forget(number, 1);
        assert_eq!(inodes.get(number), Some(&procs));
        inodes.forget(number, 1);
        assert_eq!(inodes.get(number), None);
        inodes.forget(ROOT, 100);
        assert_eq!(inodes.len(), 1, "the root stays");
    }

    #[test]
    fn a_removed_cgroup_takes_its_files_and_no_others() {
        let mut inodes = Inodes::new(Path::new("/b"));
        let a = inodes.look_up(&node("/b/a", Kind::Cgroup));
        let file = inodes.look_up(&node("/b/a/tasks", Kind::Own));
        let deep = inodes.look_up(&node("/b/a/c/tasks", Kind::Own));
        let beside = inodes.look_up(&node("/b/a.slice", Kind::Cgroup));
        inodes.remove(Path::new("/b/a"));
        assert_eq!([a, file, deep].map(|number| inodes.get(number)), [None, None, None]);
        assert!(inodes.get(beside).is_some());
        assert_eq!(inodes.len(), 2);
        assert_ne!(inodes.look_up(&node("/b/a", Kind::Cgroup)), a, "no number is given twice");
    }
}
