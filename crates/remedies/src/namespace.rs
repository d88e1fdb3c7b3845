//! The namespaces of the cluster's own: made once, joined again by a later process through any of their members.

use std::fs::{self, File};
use std::io::{self, BufRead as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use serde::{Deserialize, Serialize};

use crate::{Error, Isolation};

/// Names the namespaces of a process: the boot's ID, and what /proc/PID/ns/* read as, such as `mnt:[INODE]`. gVisor counts
/// its inodes from one, so that the same number comes again in the next sandbox on the same disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Namespaces {
    boot: String,
    user: String,
    net: String,
    uts: String,
    ipc: String,
    mnt: String,
}

/// The kinds, in the order in which they are joined: the user namespace gives the right to join the others.
const KINDS: [(&str, CloneFlags); 5] = [
    ("user", CloneFlags::CLONE_NEWUSER),
    ("net", CloneFlags::CLONE_NEWNET),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("mnt", CloneFlags::CLONE_NEWNS),
];

impl Namespaces {
    /// Those of this thread.
    pub(crate) fn current() -> io::Result<Self> {
        Self::of("thread-self")
    }

    fn of(process: &str) -> io::Result<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        let [user, net, uts, ipc, mnt] = KINDS.map(|(kind, _)| link(process, kind));
        Ok(Self { boot, user: user?, net: net?, uts: uts?, ipc: ipc?, mnt: mnt? })
    }

    /// Whether this thread is in them: that of the mounts decides, which is always the cluster's own.
    pub(crate) fn is_current(&self) -> io::Result<bool> {
        let current = Self::current()?;
        Ok((current.boot, current.mnt) == (self.boot.clone(), self.mnt.clone()))
    }

    /// The processes that live in them.
    pub(crate) fn members(&self) -> io::Result<Vec<i32>> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        if boot.trim() != self.boot {
            return Ok(Vec::new());
        }
        let mut members = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            // A process may end between the listing and this look.
            if link(&pid.to_string(), "mnt").is_ok_and(|mnt| mnt == self.mnt) {
                members.push(pid);
            }
        }
        Ok(members)
    }

    /// Moves this process into them, through one of their members; `false` if there is none, or this kernel lets nobody
    /// join a user namespace (gVisor before 2026-07). Whether there is one of their own to join says `isolation`: the links
    /// of older builds name another at each look, also where there is but one.
    pub(crate) fn join(&self, isolation: Isolation) -> Result<bool, Error> {
        let failed = |source| Error::Namespace { doing: format!("join the cluster's namespaces {}", self.mnt), source };
        // A member may end while it is looked at: then the next one is tried.
        let mut last = None;
        for member in self.members().map_err(failed)? {
            match self.join_through(&member.to_string(), isolation) {
                Ok(joined) => return Ok(joined),
                Err(error) => last = Some(error),
            }
        }
        last.map_or(Ok(false), |error| Err(failed(error)))
    }

    fn join_through(&self, member: &str, isolation: Isolation) -> io::Result<bool> {
        let current = Self::current()?;
        let user = if matches!(isolation, Isolation::User { .. }) { &current.user } else { &self.user };
        let theirs_and_ours = [
            (&self.user, user),
            (&self.net, &current.net),
            (&self.uts, &current.uts),
            (&self.ipc, &current.ipc),
            (&self.mnt, &current.mnt),
        ];
        let other = KINDS.into_iter().zip(theirs_and_ours);
        // All are opened first: once one is joined, the others' links may be hidden from this process.
        let files = other
            .filter(|(_, (theirs, ours))| theirs != ours)
            .map(|((kind, flag), _)| Ok((File::open(format!("/proc/{member}/ns/{kind}"))?, flag)))
            .collect::<io::Result<Vec<_>>>()?;
        let directory = std::env::current_dir();
        for (file, flag) in files {
            match nix::sched::setns(file, flag) {
                Err(Errno::EINVAL) if flag == CloneFlags::CLONE_NEWUSER => return Ok(false),
                other => other?,
            }
        }
        // setns(2) moves the working directory to the namespace's root.
        if let Ok(directory) = directory {
            let _ = std::env::set_current_dir(directory);
        }
        Ok(true)
    }
}

fn link(process: &str, kind: &str) -> io::Result<String> {
    Ok(fs::read_link(format!("/proc/{process}/ns/{kind}"))?.to_string_lossy().into_owned())
}

/// Moves this process into new namespaces. Nothing mounted in them is seen outside; inside, mounts are shared, so that
/// containers that ask for propagation get it. Call it before the process has a second thread.
///
/// # Errors
/// The kernel refuses.
pub fn enter_new(isolation: Isolation) -> Result<(), Error> {
    match isolation {
        Isolation::Nothing => return Ok(()),
        Isolation::Mount => unshare(CloneFlags::CLONE_NEWNS, "make a mount namespace")?,
        Isolation::User { ids, network } => enter_new_user_namespace(ids, network)?,
    }
    for (flags, doing) in [
        (MsFlags::MS_SLAVE | MsFlags::MS_REC, "part the mounts from those outside"),
        (MsFlags::MS_SHARED | MsFlags::MS_REC, "make the mounts shared"),
    ] {
        nix::mount::mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).map_err(failed(doing))?;
    }
    Ok(())
}

fn failed<E: Into<io::Error>>(doing: &str) -> impl FnOnce(E) -> Error {
    let doing = doing.to_owned();
    move |error| Error::Namespace { doing, source: error.into() }
}

fn unshare(flags: CloneFlags, doing: &str) -> Result<(), Error> {
    nix::sched::unshare(flags).map_err(failed(doing))
}

/// The hidden command of this program that maps IDs for a process that has entered a user namespace.
pub const MAP_IDS: &str = "map-ids";

fn enter_new_user_namespace(ids: u32, network: bool) -> Result<(), Error> {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    // A container that shares the node's namespaces joins them by name, which takes rights over each of them.
    let wanted = KINDS.into_iter().map(|(_, flag)| flag).filter(|flag| network || *flag != CloneFlags::CLONE_NEWNET);
    let flags = wanted.fold(CloneFlags::empty(), |flags, flag| flags | flag);
    let doing = "make user, UTS, IPC, mount and, where it has links, network namespaces";
    if ids == 1 {
        unshare(flags, doing)?;
        // Who cannot set groups outside may map one only after giving up to set them inside. Older gVisor has no such file.
        let _ = fs::write("/proc/self/setgroups", "deny");
        return fs::write("/proc/self/uid_map", format!("0 {uid} 1"))
            .and_then(|()| fs::write("/proc/self/gid_map", format!("0 {gid} 1")))
            .map_err(failed("map the caller's user and group"));
    }
    // Once inside, this process has no rights outside any more: one that stays there maps the IDs.
    let doing_map = "map user and group IDs";
    let mut mapper = Command::new("/proc/self/exe")
        .args([MAP_IDS, &std::process::id().to_string(), &ids.to_string()])
        .stdin(Stdio::piped())
        .spawn()
        .map_err(failed(doing_map))?;
    unshare(flags, doing)?;
    drop(mapper.stdin.take().map(|mut stdin| stdin.write_all(b"\n")));
    let status = mapper.wait().map_err(failed(doing_map))?;
    if status.success() { Ok(()) } else { Err(failed(doing_map)(io::Error::other(format!("it ended with {status}")))) }
}

/// Maps as many IDs, counted from 0, to the same outside for a process that has entered a user namespace; waits for a
/// line on stdin first, by which that process says so.
///
/// # Errors
/// The kernel refuses.
pub fn map_ids(pid: u32, ids: u32) -> io::Result<()> {
    if io::stdin().lock().read_line(&mut String::new())? == 0 {
        return Err(io::Error::other("the process that was to enter a user namespace ended"));
    }
    for map in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{pid}/{map}"), format!("0 0 {ids}"))?;
    }
    Ok(())
}

/// Whether something is mounted exactly at `path`, in this mount namespace.
pub(crate) fn is_mount_point(path: &Path) -> io::Result<bool> {
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo")?;
    Ok(mounts.lines().filter_map(|line| line.split(' ').nth(4)).any(|target| Path::new(&unescape(target)) == path))
}

/// Undoes mountinfo's octal escapes of space, tab, newline and backslash (proc_pid_mountinfo(5)).
fn unescape(field: &str) -> String {
    field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As the kernel's mangle() does, escaping every character that the fields are told apart by.
    fn escape(path: &str) -> String {
        path.replace('\\', "\\134").replace(' ', "\\040").replace('\t', "\\011").replace('\n', "\\012")
    }

    proptest! {
        #[test]
        fn a_mount_point_is_told_by_its_escaped_path(path in "/([a-z0-9/ \t\n\\\\é])*") {
            prop_assert_eq!(unescape(&escape(&path)), path);
        }
    }
}
