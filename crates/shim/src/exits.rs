//! Who has ended: the shim reaps the processes that it starts, and the containers' processes, which are reparented to it.

use std::collections::HashMap;
use std::io;
use std::process::{Child, Command};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::container::Container;
use crate::process::Process;

/// A container's process, with its container.
#[derive(Clone)]
pub struct Member {
    /// Whose process it is.
    pub container: Arc<Container>,
    /// The process itself.
    pub process: Arc<Process>,
}

/// A container's process that has ended.
pub struct Ended {
    /// Which one.
    pub member: Member,
    /// Its exit code, or 128 and the signal.
    pub status: u32,
}

/// All processes whose end somebody waits for.
///
/// A process may end before the shim knows its PID: between the runtime's fork and its pid file. So ends of unknown
/// processes are kept while any [`Window`] is open. And it may end before its start is told, so that containerd would hear of
/// the end first: such an end is held back ([`Exits::hold`]).
#[derive(Default)]
pub struct Exits {
    table: Mutex<Table>,
    changed: Condvar,
}

#[derive(Default)]
struct Table {
    known: HashMap<i32, Entry>,
    windows: usize,
    early: HashMap<i32, u32>,
}

enum Entry {
    /// A program that the shim runs, and its status when it has ended.
    Helper(Option<u32>),
    /// A container's process; while it is held, its end is kept here.
    Member { member: Member, held: bool, status: Option<u32> },
}

impl Exits {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on no end is forgotten, until the window is dropped.
    pub fn window(&self) -> Window<'_> {
        self.table().windows += 1;
        Window { exits: self }
    }

    /// Starts a program of the shim's own. Its end must be waited for by [`Exits::wait`].
    pub fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        // Under the lock: `reap` cannot take the child before it is known, nor one whose exec failed, which the standard
        // library waits for itself.
        let mut table = self.table();
        let child = command.spawn()?;
        table.known.insert(child.id() as i32, Entry::Helper(None));
        Ok(child)
    }

    /// Waits for a program of the shim's own, and says how it ended. Not for the thread that reaps.
    pub fn wait(&self, child: &Child) -> u32 {
        let pid = child.id() as i32;
        let mut table = self.table();
        loop {
            if let Some(Entry::Helper(Some(status))) = table.known.get(&pid) {
                let status = *status;
                table.known.remove(&pid);
                return status;
            }
            table = self.changed.wait(table).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Makes a container's process known; its end is held back until [`Exits::release`].
    pub fn hold(&self, pid: i32, member: Member) {
        let mut table = self.table();
        let status = table.early.remove(&pid);
        table.known.insert(pid, Entry::Member { member, held: true, status });
    }

    /// Holds the end of a process back that is known already; false if it has ended.
    pub fn hold_again(&self, pid: i32) -> bool {
        match self.table().known.get_mut(&pid) {
            Some(Entry::Member { held, .. }) => {
                *held = true;
                true
            }
            _ => false,
        }
    }

    /// Lets a process end; answers its end if that has come already.
    pub fn release(&self, pid: i32) -> Option<Ended> {
        let mut table = self.table();
        if let Some(Entry::Member { held, status, .. }) = table.known.get_mut(&pid) {
            *held = false;
            status.as_ref()?;
        }
        match table.known.remove(&pid) {
            Some(Entry::Member { member, status: Some(status), .. }) => Some(Ended { member, status }),
            Some(other) => {
                table.known.insert(pid, other);
                None
            }
            None => None,
        }
    }

    /// Takes the status of every child that has ended, and answers which containers' processes are among them.
    pub fn reap(&self) -> Vec<Ended> {
        let mut table = self.table();
        let mut ended = Vec::new();
        loop {
            let (pid, status) = match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid.as_raw(), code as u32),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid.as_raw(), 128 + signal as u32),
                Err(Errno::EINTR) => continue,
                Ok(WaitStatus::StillAlive) | Err(_) => break,
                // A stop or a continuation, which was not asked for.
                Ok(_) => continue,
            };
            ended.extend(table.note(pid, status));
        }
        drop(table);
        self.changed.notify_all();
        ended
    }
}

impl Table {
    fn note(&mut self, pid: i32, status: u32) -> Option<Ended> {
        match self.known.get_mut(&pid) {
            Some(Entry::Helper(helper)) => *helper = Some(status),
            Some(Entry::Member { held: true, status: kept, .. }) => *kept = Some(status),
            Some(Entry::Member { .. }) => {
                let Some(Entry::Member { member, .. }) = self.known.remove(&pid) else { return None };
                return Some(Ended { member, status });
            }
            None if self.windows > 0 => drop(self.early.insert(pid, status)),
            // An orphan of a container's that nobody knows.
            None => {}
        }
        None
    }
}

/// While it lives, ends of unknown processes are kept.
pub struct Window<'a> {
    exits: &'a Exits,
}

impl Drop for Window<'_> {
    fn drop(&mut self) {
        let mut table = self.exits.table();
        table.windows -= 1;
        if table.windows == 0 {
            table.early.clear();
        }
    }
}
