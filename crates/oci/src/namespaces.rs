//! The kinds of namespaces, and which of them a container has of its own.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;
use nix::unistd::Pid;
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType};

use crate::error::Doing as _;
use crate::{Error, Result};

/// `CLONE_NEWTIME`, which nix does not name.
const CLONE_NEWTIME: CloneFlags = CloneFlags::from_bits_retain(0x80);

/// A kind of namespace: its name in the specification, its file below `/proc/PID/ns`, its flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    pub kind: LinuxNamespaceType,
    pub file: &'static str,
    pub flag: CloneFlags,
}

/// All kinds, in the order in which they are joined: the user namespace first, since it gives the rights over the
/// others; the mount namespace last, since it takes the old `/proc` away.
pub(crate) const KINDS: [Kind; 8] = [
    Kind { kind: LinuxNamespaceType::User, file: "user", flag: CloneFlags::CLONE_NEWUSER },
    Kind { kind: LinuxNamespaceType::Cgroup, file: "cgroup", flag: CloneFlags::CLONE_NEWCGROUP },
    Kind { kind: LinuxNamespaceType::Ipc, file: "ipc", flag: CloneFlags::CLONE_NEWIPC },
    Kind { kind: LinuxNamespaceType::Uts, file: "uts", flag: CloneFlags::CLONE_NEWUTS },
    Kind { kind: LinuxNamespaceType::Network, file: "net", flag: CloneFlags::CLONE_NEWNET },
    Kind { kind: LinuxNamespaceType::Pid, file: "pid", flag: CloneFlags::CLONE_NEWPID },
    Kind { kind: LinuxNamespaceType::Time, file: "time", flag: CLONE_NEWTIME },
    Kind { kind: LinuxNamespaceType::Mount, file: "mnt", flag: CloneFlags::CLONE_NEWNS },
];

/// What a container asks for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Namespaces {
    new: Vec<Kind>,
    joined: Vec<(Kind, PathBuf)>,
}

impl Namespaces {
    /// What the configuration asks for. A cgroup namespace is left out, with a warning, where the kernel has none: what
    /// is seen then is the container's own cgroup among the others.
    pub fn of(listed: &[LinuxNamespace], warnings: &mut Vec<String>) -> Result<Self> {
        let mut namespaces = Self::default();
        for (index, namespace) in listed.iter().enumerate() {
            let field = || format!("linux.namespaces[{index}]");
            let kind = KINDS.into_iter().find(|kind| kind.kind == namespace.typ());
            let kind = kind.ok_or_else(|| Error::spec(field(), "this kind of namespace is not known"))?;
            if namespaces.has(kind.kind) {
                return Err(Error::spec(field(), format!("a second {} namespace", kind.file)));
            }
            match namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty()) {
                Some(path) if !path.is_absolute() => {
                    return Err(Error::spec(format!("{}.path", field()), "is not absolute"));
                }
                Some(path) => namespaces.joined.push((kind, path.clone())),
                None if Path::new("/proc/self/ns").join(kind.file).exists() => namespaces.new.push(kind),
                None if kind.kind == LinuxNamespaceType::Cgroup => {
                    warnings.push("this kernel has no cgroup namespaces: the container gets none".to_owned());
                }
                None => return Err(Error::spec(field(), format!("this kernel has no {} namespaces", kind.file))),
            }
        }
        Ok(namespaces)
    }

    /// The same but for those of a kind that the process is in already.
    pub fn without(mut self, kind: LinuxNamespaceType) -> Self {
        self.new.retain(|new| new.kind != kind);
        self.joined.retain(|(joined, _)| joined.kind != kind);
        self
    }

    /// Whether the container has a namespace of this kind that is not the runtime's, or joins one.
    pub fn has(&self, kind: LinuxNamespaceType) -> bool {
        self.is_new(kind) || self.joined.iter().any(|(joined, _)| joined.kind == kind)
    }

    /// Whether one of this kind is made.
    pub fn is_new(&self, kind: LinuxNamespaceType) -> bool {
        self.new.iter().any(|new| new.kind == kind)
    }

    /// The path of the one of this kind that is joined.
    pub fn joined(&self, kind: LinuxNamespaceType) -> Option<&Path> {
        self.joined.iter().find(|(joined, _)| joined.kind == kind).map(|(_, path)| path.as_path())
    }

    /// Joins those that are given by path. All are opened before the first is joined, since a path may lead nowhere
    /// from inside. One that this process is in already is left out: in a user namespace it may not join that of outside.
    pub fn join(&self) -> Result<()> {
        let mut open = Vec::new();
        for kind in KINDS {
            if let Some(path) = self.joined(kind.kind) {
                let file = File::open(path).doing_with(|| format!("open the namespace {}", path.display()))?;
                if !is_own(kind, path, &file) {
                    open.push((kind, file));
                }
            }
        }
        open.into_iter().try_for_each(|(kind, file)| enter(kind, &file))
    }

    /// Makes the others, except the user namespace, whose IDs must be mapped first, and the cgroup namespace, whose
    /// root is the cgroup that the process is in when it is made.
    pub fn make(&self) -> Result<()> {
        let late = [LinuxNamespaceType::User, LinuxNamespaceType::Cgroup];
        for new in self.new.iter().filter(|new| !late.contains(&new.kind)) {
            make(*new)?;
        }
        Ok(())
    }

    /// Makes the one of this kind, if one is asked for.
    pub fn make_one(&self, kind: LinuxNamespaceType) -> Result<()> {
        self.new.iter().find(|new| new.kind == kind).map_or(Ok(()), |new| make(*new))
    }
}

fn make(kind: Kind) -> Result<()> {
    nix::sched::unshare(kind.flag).doing_with(|| format!("make a {} namespace", kind.file))
}

fn enter(kind: Kind, file: impl AsFd) -> Result<()> {
    nix::sched::setns(file, kind.flag).doing_with(|| format!("join a {} namespace", kind.file))
}

/// Joins a namespace of the kind whose file has this name.
pub(crate) fn enter_named(name: &str, file: &OwnedFd) -> Result<()> {
    let kind = KINDS.into_iter().find(|kind| kind.file == name);
    let kind = kind.ok_or_else(|| Error::other("join a namespace", format!("there is no kind {name:?}")))?;
    enter(kind, file)
}

/// Whether this process is in that namespace, by its file (namespaces(7)) or its name: on gVisor 2024-07 pid namespaces
/// have a file for each process. In all of gVisor a user namespace may have several of both: that they differ says nothing.
fn is_own(kind: Kind, path: &Path, file: &File) -> bool {
    let own = format!("/proc/self/ns/{}", kind.file);
    let identity = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino);
    let file_of_own = rustix::fs::stat(&own).map(identity);
    file_of_own.is_ok() && file_of_own == rustix::fs::fstat(file).map(identity)
        // What was mounted somewhere has no name.
        || fs::read_link(path).is_ok_and(|theirs| fs::read_link(&own).is_ok_and(|own| own == theirs))
}

/// The namespaces of a container's process that are not this one's, opened. Only kinds that its configuration names: of
/// the others it has those of whoever created it, who is taken to be in the same ones as whoever enters it.
#[derive(Debug)]
pub(crate) struct Theirs(Vec<(Kind, File)>);

impl Theirs {
    /// Those of this process, of the kinds that its container asked for. In gVisor every look at a user namespace may be
    /// another file, so that they differ says nothing of the others.
    pub fn of(pid: Pid, asked: &Namespaces) -> Result<Self> {
        let mut open = Vec::new();
        for kind in KINDS.into_iter().filter(|kind| asked.has(kind.kind)) {
            let theirs = PathBuf::from(format!("/proc/{pid}/ns/{}", kind.file));
            match fs::read_link(&theirs) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                link => {
                    let link = link.doing_with(|| format!("look at {}", theirs.display()))?;
                    if fs::read_link(format!("/proc/self/ns/{}", kind.file)).is_ok_and(|ours| ours == link) {
                        continue;
                    }
                }
            }
            open.push((kind, File::open(&theirs).doing_with(|| format!("open {}", theirs.display()))?));
        }
        Ok(Self(open))
    }

    /// Whether this kernel lets a process into that pid namespace, or it is this one's own. gVisor before 2026 refuses
    /// any. What was tried concerns processes that are forked afterwards, so only a process that forks none may ask.
    pub fn lets_into_pid_namespace(&self) -> bool {
        self.0
            .iter()
            .find(|(kind, _)| kind.kind == LinuxNamespaceType::Pid)
            .is_none_or(|(kind, file)| nix::sched::setns(file, kind.flag).is_ok())
    }

    /// Whether one of this kind is among them.
    pub fn has(&self, kind: LinuxNamespaceType) -> bool {
        self.0.iter().any(|(theirs, _)| theirs.kind == kind)
    }

    /// For another process, which joins them by [`enter_named`].
    pub fn into_files(self) -> (Vec<String>, Vec<File>) {
        self.0.into_iter().map(|(kind, file)| (kind.file.to_owned(), file)).unzip()
    }

    /// Joins all of them.
    pub fn join(self) -> Result<()> {
        self.0.into_iter().try_for_each(|(kind, file)| enter(kind, &file))
    }
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::LinuxNamespaceBuilder;

    use super::*;

    fn namespace(kind: LinuxNamespaceType, path: Option<&str>) -> LinuxNamespace {
        let builder = LinuxNamespaceBuilder::default().typ(kind);
        let builder = if let Some(path) = path { builder.path(path) } else { builder };
        builder.build().expect("a namespace")
    }

    #[test]
    fn a_namespace_is_new_unless_it_has_a_path() {
        let listed = [
            namespace(LinuxNamespaceType::Mount, None),
            namespace(LinuxNamespaceType::Network, Some("/proc/1/ns/net")),
            namespace(LinuxNamespaceType::Uts, Some("")),
        ];
        let namespaces = Namespaces::of(&listed, &mut Vec::new()).expect("valid");
        assert!(namespaces.is_new(LinuxNamespaceType::Mount) && namespaces.is_new(LinuxNamespaceType::Uts));
        assert_eq!(namespaces.joined(LinuxNamespaceType::Network), Some(Path::new("/proc/1/ns/net")));
        assert!(!namespaces.has(LinuxNamespaceType::Pid));
    }

    #[test]
    fn errors_name_the_namespace() {
        let twice = [namespace(LinuxNamespaceType::Ipc, None), namespace(LinuxNamespaceType::Ipc, Some("/x"))];
        let error = Namespaces::of(&twice, &mut Vec::new()).expect_err("two of one kind");
        assert_eq!(error.to_string(), "linux.namespaces[1]: a second ipc namespace");
        let relative = [namespace(LinuxNamespaceType::Ipc, Some("x"))];
        let error = Namespaces::of(&relative, &mut Vec::new()).expect_err("a relative path");
        assert_eq!(error.to_string(), "linux.namespaces[0].path: is not absolute");
    }

    #[test]
    fn a_namespace_that_the_process_is_in_is_not_joined() {
        let listed = [
            namespace(LinuxNamespaceType::Network, Some("/proc/self/ns/net")),
            namespace(LinuxNamespaceType::User, Some("/proc/self/ns/user")),
        ];
        let namespaces = Namespaces::of(&listed, &mut Vec::new()).expect("valid");
        // Its own user namespace is one that nobody may join.
        namespaces.join().expect("there is nothing to join");
    }

    #[test]
    fn this_process_has_no_namespaces_but_its_own() {
        let all = Namespaces { new: KINDS.to_vec(), joined: Vec::new() };
        let theirs = Theirs::of(Pid::this(), &all).expect("look");
        assert!(KINDS.iter().all(|kind| !theirs.has(kind.kind)));
    }
}
