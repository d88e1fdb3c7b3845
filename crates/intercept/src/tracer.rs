//! The tracer: hears of every stop of every thread, and lets it go on.
//!
//! Where stops come differs. Resumed from a filter's stop to the end of the call, a thread stops once on Linux (since 4.8
//! the filter is asked after the beginning of a call was told) and twice in gVisor, as on older kernels. Nothing but an
//! experiment tells them apart, which the first call of the program is made to be ([`Then::Answer`]).

use std::collections::{HashMap, VecDeque};
use std::io;
use std::rc::Rc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::libc;
use terrarium_sys::process::kill;
use terrarium_sys::trace::{self, Change, Event, HAIL, Registers, Resume};

use crate::calls::restore_arguments;
use crate::decide::{status, statuses};
use crate::error::Error;
use crate::memory;
use crate::nudge::Nudge;
use crate::rules::Rules;
use crate::stats::Counters;
use crate::thread::{InCall, Phase, Process, Then, Thread, View};
use crate::window::{Made, Window};

/// How long those that are left get to end after they were killed.
const END: Duration = Duration::from_secs(2);
const ERROR_NO_CALL: u64 = (-libc::ENOSYS as i64).cast_unsigned();
const ERROR_FAULT: u64 = (-libc::EFAULT as i64).cast_unsigned();
/// As long as the machine instruction by which a call is made.
pub(crate) const INSTRUCTION: u64 = 2;

pub(crate) struct Tracer<'a> {
    pub(crate) rules: &'a Rules,
    pub(crate) counters: &'a Counters,
    pub(crate) window: Window,
    pub(crate) files: Vec<Made>,
    root: i32,
    pub(crate) threads: HashMap<i32, Thread>,
    /// Stopped, until there is a free slot in the window.
    waiting: VecDeque<i32>,
    /// Whether a stop where the call begins follows the filter's; unknown until the program has asked.
    stops_twice: Option<bool>,
    pub(crate) executed: bool,
    /// Whether anybody has asked for a root of its own.
    pub(crate) has_roots: bool,
    /// Of a process that sees no changed paths.
    pub(crate) told: bool,
    nudge: &'a Nudge,
    trial: Trial,
}

/// Whether a signal to a process that is stopped for its tracer is forgotten. The root gets one that nothing is done about,
/// and that is kept from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trial {
    ToCome,
    /// It was sent while the root was stopped: it comes next, or it was forgotten.
    Sent,
    /// It is still to come, some time.
    Owed,
    Over,
}

impl<'a> Tracer<'a> {
    pub(crate) fn new(rules: &'a Rules, counters: &'a Counters, nudge: &'a Nudge) -> Result<Self, Error> {
        let files = rules.files.iter().map(|content| Made::new(content)).collect::<Result<_, _>>()?;
        Ok(Self {
            rules,
            counters,
            window: Window::new()?,
            files,
            root: 0,
            threads: HashMap::new(),
            waiting: VecDeque::new(),
            stops_twice: None,
            executed: false,
            has_roots: false,
            told: false,
            nudge,
            trial: Trial::ToCome,
        })
    }

    /// Traces this process, which was seized, until it has ended; `ended` is called then. What it left is killed.
    pub(crate) fn follow(&mut self, root: i32, ended: impl FnOnce()) -> io::Result<Change> {
        self.root = root;
        let end = loop {
            // Without any child the root has ended, unheard: it would have been told.
            let Some((pid, change)) = trace::wait()? else { return Err(io::ErrorKind::NotFound.into()) };
            if pid == root && matches!(change, Change::Exited(_) | Change::Killed(_)) {
                break change;
            }
            match self.changed(pid, change) {
                // It was killed meanwhile, and its end will be told.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                other => other?,
            }
        };
        ended();
        self.threads.remove(&root);
        self.end()?;
        Ok(end)
    }

    /// Kills whatever is left, and waits for it: whoever starts the program anew must not meet it.
    fn end(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + END;
        for pid in self.threads.keys() {
            let _ = kill(*pid, libc::SIGKILL);
        }
        while Instant::now() < deadline {
            match trace::look()? {
                None => return Ok(()),
                Some(None) => sleep(Duration::from_millis(1)),
                Some(Some((_, Change::Exited(_) | Change::Killed(_)))) => {}
                // One that was not known yet.
                Some(Some((pid, _))) => drop(kill(pid, libc::SIGKILL)),
            }
        }
        Ok(())
    }

    fn changed(&mut self, pid: i32, change: Change) -> io::Result<()> {
        match (self.trial, change) {
            (Trial::Sent | Trial::Owed, Change::Signalled(libc::SIGURG)) if pid == self.root => {
                if self.trial == Trial::Sent {
                    self.nudge.decide(false);
                }
                self.trial = Trial::Over;
                return self.go_on(pid, 0);
            }
            (Trial::Sent, Change::Event(Event::Exec | Event::Filter, _)) => {
                self.nudge.decide(true);
                self.trial = Trial::Owed;
            }
            _ => {}
        }
        match change {
            Change::Exited(_) | Change::Killed(_) => self.forget(pid),
            Change::AtCall => self.at_call(pid),
            Change::Signalled(signal) if self.nudge.is_own(signal) => self.nudged(pid),
            Change::Signalled(signal) => self.go_on(pid, signal),
            Change::Event(Event::Filter, _) => self.at_filter(pid),
            Change::Event(Event::Clone | Event::Fork | Event::Vfork, _) => {
                self.adopt(pid)?;
                self.go_on(pid, 0)
            }
            Change::Event(Event::Exec, _) => {
                self.executed(pid)?;
                self.go_on(pid, 0)
            }
            // The process is stopped by a signal, until another one lets it go on: that is told, too.
            Change::Event(Event::Stop, libc::SIGSTOP | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU) => {
                self.thread(pid);
                self.resume(pid, Resume::Listening, 0)
            }
            Change::Event(Event::Stop | Event::Other, _) => {
                self.thread(pid);
                self.go_on(pid, 0)
            }
        }
    }

    /// A thread may be heard of before its maker; then it is taken for a process of its own, which costs it another opening
    /// of the window at most. It is not held up until its maker is heard of, who may have been killed.
    pub(crate) fn thread(&mut self, pid: i32) -> &mut Thread {
        let has_roots = self.has_roots;
        self.threads.entry(pid).or_insert_with(|| Thread::new(Process::new(has_roots)))
    }

    fn go_on(&mut self, pid: i32, signal: i32) -> io::Result<()> {
        let how = self.way(pid);
        self.resume(pid, how, signal)
    }

    /// Not by `resume`, after which it would be nudged again, for ever.
    fn nudged(&mut self, pid: i32) -> io::Result<()> {
        let how = self.way(pid);
        trace::resume(pid, how, 0)
    }

    fn way(&mut self, pid: i32) -> Resume {
        match self.thread(pid).phase {
            Phase::Free => Resume::Freely,
            Phase::InCall(_) => Resume::ToCall,
        }
    }

    pub(crate) fn resume(&self, pid: i32, how: Resume, signal: i32) -> io::Result<()> {
        trace::resume(pid, how, signal)?;
        // Not before: what is sent to one that stands still is forgotten, too.
        self.nudge.goes_on(pid);
        Ok(())
    }

    fn adopt(&mut self, maker: i32) -> io::Result<()> {
        let Ok(made) = i32::try_from(trace::event_message(maker)?) else { return Ok(()) };
        // In gVisor the number is that of the maker's PID namespace, and here may be anybody's.
        if !is_of(made, maker) {
            return Ok(());
        }
        let shares = shared(maker, &trace::registers(maker)?);
        let has = |flag: i32| shares & u64::from(flag.cast_unsigned()) != 0;
        let process = Rc::clone(&self.thread(maker).process);
        let process = if has(libc::CLONE_THREAD) { process } else { process.child(has(libc::CLONE_VM)) };
        match self.threads.get_mut(&made) {
            // What it has opened meanwhile is as good.
            Some(known)
                if known.process.view.get() != View::Closed
                    || known.process.is_blocked.get()
                    || known.opening.is_some() =>
            {
                known.process.has_root.set(process.has_root.get());
            }
            Some(known) => known.process = process,
            None => drop(self.threads.insert(made, Thread::new(process))),
        }
        Ok(())
    }

    /// All other threads of the process are gone, and the one that executed the program has the process's ID.
    fn executed(&mut self, pid: i32) -> io::Result<()> {
        let former = i32::try_from(trace::event_message(pid)?).unwrap_or(pid);
        let has_root = self.thread(former).process.has_root.get();
        self.forget(former)?;
        self.forget(pid)?;
        self.threads.insert(pid, Thread::new(Process::new(has_root)));
        self.executed |= pid == self.root;
        Ok(())
    }

    fn forget(&mut self, pid: i32) -> io::Result<()> {
        self.waiting.retain(|waiting| *waiting != pid);
        self.nudge.forget(pid);
        if let Some(Thread { phase: Phase::InCall(call), .. }) = self.threads.remove(&pid)
            && let Then::Restore(slot) = call.then
        {
            self.window.give_back(slot);
            return self.wake();
        }
        Ok(())
    }

    fn at_call(&mut self, pid: i32) -> io::Result<()> {
        match std::mem::replace(&mut self.thread(pid).phase, Phase::Free) {
            Phase::Free => self.go_on(pid, 0),
            Phase::InCall(mut call) => {
                let stops_twice = match (&call.then, self.stops_twice) {
                    (_, Some(known)) => known,
                    // The call is getpid(2), which cannot fail: this is where it begins.
                    (_, None) => trace::registers(pid)?.rax == ERROR_NO_CALL,
                };
                self.stops_twice = Some(stops_twice);
                if stops_twice && call.begins {
                    call.begins = false;
                    self.thread(pid).phase = Phase::InCall(call);
                    return self.go_on(pid, 0);
                }
                self.at_end(pid, *call)
            }
        }
    }

    fn at_end(&mut self, pid: i32, call: InCall) -> io::Result<()> {
        match call.then {
            Then::Answer => {
                self.restore(pid, &call.registers)?;
                if self.trial == Trial::ToCome {
                    kill(pid, libc::SIGURG)?;
                    self.trial = Trial::Sent;
                }
            }
            Then::Open => self.opened(pid, &call.registers, trace::registers(pid)?.rax)?,
            Then::Restore(slot) => {
                // Whatever becomes of this thread, others may wait for the slot.
                self.window.give_back(slot);
                let restored = self.restore(pid, &call.registers).and_then(|()| self.resume(pid, Resume::Freely, 0));
                return self.wake().and(restored);
            }
            // The registers say only whether it failed: of the calls that stop often this is the cheaper one.
            Then::Magic(index) => self.change_magic(pid, index, &call.registers),
            Then::Names if trace::registers(pid)?.rax == 0 => self.change_names(pid, &call.registers),
            Then::Names => {}
        }
        self.resume(pid, Resume::Freely, 0)
    }

    fn at_filter(&mut self, pid: i32) -> io::Result<()> {
        let registers = trace::registers(pid)?;
        if registers.orig_rax.cast_signed() == HAIL {
            if self.stops_twice.is_some() {
                return self.resume(pid, Resume::Freely, 0);
            }
            let mut asked = registers;
            asked.orig_rax = libc::SYS_getpid.cast_unsigned();
            return self.run_to_end(pid, registers, Some(&asked), Then::Answer);
        }
        self.stopped(pid, registers)
    }

    /// Has the thread make its call, or the changed one, and stop at the call's end.
    pub(crate) fn run_to_end(
        &mut self,
        pid: i32,
        registers: Registers,
        changed: Option<&Registers>,
        then: Then,
    ) -> io::Result<()> {
        self.thread(pid).phase = Phase::InCall(Box::new(InCall { registers, then, begins: true }));
        if let Some(changed) = changed {
            trace::set_registers(pid, changed)?;
        }
        self.resume(pid, Resume::ToCall, 0)
    }

    /// Gives the thread, at the end of its call, the arguments that it had before. The call is made again if it was by a window
    /// that is not there: a thread may execute a program just when another one of its process is let go on, which then lets
    /// the new program go on, unheard.
    fn restore(&mut self, pid: i32, before: &Registers) -> io::Result<()> {
        let mut registers = trace::registers(pid)?;
        restore_arguments(&mut registers, before);
        if registers.rax == ERROR_FAULT && !self.sees_window(pid) {
            self.thread(pid).process = Process::new(self.has_roots);
            (registers.rip, registers.rax) = (before.rip - INSTRUCTION, before.orig_rax);
        }
        trace::set_registers(pid, &registers)
    }

    fn sees_window(&mut self, pid: i32) -> bool {
        let View::Open(window) = self.thread(pid).process.view.get() else { return false };
        memory::read(pid, window).is_some_and(|mark| self.window.is_marked(&mark))
    }

    /// Keeps the thread where it is until there is a free slot.
    pub(crate) fn wait_for_slot(&mut self, pid: i32) {
        self.waiting.push_back(pid);
    }

    fn wake(&mut self) -> io::Result<()> {
        for _ in 0..self.waiting.len() {
            if !self.window.has_free() {
                break;
            }
            let Some(pid) = self.waiting.pop_front() else { break };
            match self.at_filter(pid) {
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                other => other?,
            }
        }
        Ok(())
    }
}

/// What the thread shares with the one that it has just made: flags of clone(2).
fn shared(pid: i32, registers: &Registers) -> u64 {
    match registers.orig_rax.cast_signed() {
        libc::SYS_vfork => libc::CLONE_VM as u64,
        libc::SYS_clone => registers.rdi,
        libc::SYS_clone3 => memory::read(pid, registers.rdi).map_or(0, u64::from_ne_bytes),
        _ => 0,
    }
}

/// Whether a thread is one of the maker's process, or of a child.
fn is_of(made: i32, maker: i32) -> bool {
    let process = status(maker, "Tgid:");
    process.is_some() && statuses(made, ["Tgid:", "PPid:"]).contains(&process)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_killed_where_a_call_ends_leaves_its_place_to_others() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rules.json");
        std::fs::write(&path, r#"{"uname": {"release": "6.1.0"}}"#).unwrap();
        let rules = Rules::read(&path).unwrap();
        let (counters, nudge) = (Counters::new(Vec::new(), None), Nudge::default());
        let mut tracer = Tracer::new(&rules, &counters, &nudge).unwrap();
        let slot = tracer.window.take().unwrap();
        while tracer.window.take().is_some() {}
        // The greatest number, which no thread has.
        let gone = i32::MAX;
        #[rustfmt::skip]
        let registers = Registers {
            r15: 0, r14: 0, r13: 0, r12: 0, rbp: 0, rbx: 0, r11: 0, r10: 0, r9: 0, r8: 0, rax: 0, rcx: 0, rdx: 0, rsi: 0,
            rdi: 0, orig_rax: 0, rip: 0, cs: 0, eflags: 0, rsp: 0, ss: 0, fs_base: 0, gs_base: 0, ds: 0, es: 0, fs: 0, gs: 0,
        };
        let call = InCall { registers, then: Then::Restore(slot), begins: false };
        tracer.stops_twice = Some(false);
        tracer.thread(gone).phase = Phase::InCall(Box::new(call));
        assert_eq!(tracer.at_call(gone).unwrap_err().raw_os_error(), Some(libc::ESRCH));
        assert!(tracer.window.has_free());
    }
}
