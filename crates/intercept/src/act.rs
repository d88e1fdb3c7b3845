//! What is done at a chosen call, before it and after it.

use std::io;
use std::path::PathBuf;

use nix::libc;
use terrarium_sys::trace::{self, Registers, Resume};

use crate::calls::{self, CALLS, Flags, Kind, PathCall, argument, set_argument};
use crate::decide::{Change, Decision, read_link};
use crate::memory;
use crate::rules::Magic;
use crate::thread::{Opening, Then, Thread, View};
use crate::tracer::Tracer;
use crate::window::{Slot, Window};

/// As long as the machine instruction by which a call is made.
const INSTRUCTION: u64 = 2;
/// Where the fields of `struct utsname` are.
const RELEASE: u64 = 2 * 65;
const VERSION: u64 = 3 * 65;

impl Tracer<'_> {
    /// A thread has stopped before a chosen call.
    pub(crate) fn stopped(&mut self, pid: i32, registers: Registers) -> io::Result<()> {
        if let Some(opening) = self.thread(pid).opening {
            return self.open(pid, registers, opening);
        }
        let Some((index, call)) = calls::by_number(registers.orig_rax.cast_signed()) else {
            return self.resume(pid, Resume::Freely, 0);
        };
        match &call.kind {
            Kind::Path(call) => return self.at_path(pid, registers, index, call),
            Kind::Statfs | Kind::Fstatfs => {
                self.counters.trap();
                return self.run_to_end(pid, registers, None, Then::Magic(index));
            }
            Kind::Uname => {
                self.counters.trap();
                return self.run_to_end(pid, registers, None, Then::Names);
            }
            Kind::Root => self.thread(pid).process.has_root.set(true),
        }
        self.counters.trap();
        self.resume(pid, Resume::Freely, 0)
    }

    fn at_path(&mut self, pid: i32, registers: Registers, index: usize, call: &PathCall) -> io::Result<()> {
        match self.decide(pid, &registers, index, call) {
            Decision::Untouched => {}
            Decision::Fail { rule, errno } => {
                self.counters.hit(rule);
                let failed = Registers { orig_rax: u64::MAX, rax: i64::from(-errno).cast_unsigned(), ..registers };
                trace::set_registers(pid, &failed)?;
            }
            Decision::Change { rule, change } => match self.thread(pid).process.view.get() {
                View::Closed => return self.open(pid, registers, Opening::Page),
                View::Blocked => self.miss(pid),
                View::Open(window) => {
                    let Some(slot) = self.window.take() else {
                        self.wait_for_slot(pid);
                        return Ok(());
                    };
                    self.counters.trap();
                    self.counters.hit(rule);
                    return self.change(pid, registers, call, window, slot, &change);
                }
            },
        }
        self.counters.trap();
        self.resume(pid, Resume::Freely, 0)
    }

    fn change(
        &mut self,
        pid: i32,
        registers: Registers,
        call: &PathCall,
        window: u64,
        slot: Slot,
        change: &Change,
    ) -> io::Result<()> {
        self.window.fill(&slot, &change.path, change.how.as_ref())?;
        let mut changed = registers;
        set_argument(&mut changed, call.path, window + slot.path());
        match call.flags {
            Flags::Argument(index) => {
                if let Some(flags) = change.flags {
                    set_argument(&mut changed, index, flags);
                }
            }
            Flags::How(index) if change.how.is_some() => set_argument(&mut changed, index, window + slot.how()),
            Flags::How(_) | Flags::Always(_) => {}
        }
        if let Some(number) = change.number {
            changed.orig_rax = number.cast_unsigned();
        }
        self.run_to_end(pid, registers, Some(&changed), Then::Restore(slot))
    }

    fn miss(&mut self, pid: i32) {
        if self.counters.miss() {
            eprintln!(
                "terrarium: process {pid} sees no changed paths, since it cannot open {}; rules of paths do not hold for it",
                self.window.path()
            );
        }
    }

    /// Has the thread make one of the calls by which it opens the window, in the place of its own, which it makes again
    /// after each: that stops again, for the next one, at last for itself.
    fn open(&mut self, pid: i32, registers: Registers, opening: Opening) -> io::Result<()> {
        let path = self.window.path() + "\0";
        let (number, arguments) = match opening {
            Opening::Page => {
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
                (
                    libc::SYS_mmap,
                    [0, path.len() as u64, bits(libc::PROT_READ | libc::PROT_WRITE), bits(flags), u64::MAX],
                )
            }
            Opening::File { page } => {
                memory::write(pid, page, path.as_bytes());
                (libc::SYS_open, [page, bits(libc::O_RDONLY | libc::O_CLOEXEC), 0, 0, 0])
            }
            Opening::Map { fd, .. } => {
                (libc::SYS_mmap, [0, Window::SIZE, bits(libc::PROT_READ), bits(libc::MAP_SHARED), fd])
            }
            Opening::Close { fd, .. } => (libc::SYS_close, [fd, 0, 0, 0, 0]),
            Opening::Unmap { page, .. } => (libc::SYS_munmap, [page, path.len() as u64, 0, 0, 0]),
        };
        let mut changed = registers;
        changed.orig_rax = number.cast_unsigned();
        for (index, value) in arguments.into_iter().chain([0]).enumerate() {
            set_argument(&mut changed, index, value);
        }
        self.thread(pid).opening = Some(opening);
        self.run_to_end(pid, registers, Some(&changed), Then::Open)
    }

    /// One of those calls has ended.
    pub(crate) fn opened(&mut self, pid: i32, before: &Registers, result: u64) -> io::Result<()> {
        // Errors are the last page of numbers.
        let done = (result < u64::MAX - 4095).then_some(result);
        let Some(opening) = self.thread(pid).opening.take() else { return Ok(()) };
        let next = match (opening, done) {
            (Opening::Page, Some(page)) => Some(Opening::File { page }),
            (Opening::File { page }, Some(fd)) => Some(Opening::Map { page, fd }),
            (Opening::File { page }, None) => Some(Opening::Unmap { page, window: 0 }),
            (Opening::Map { page, fd }, window) => Some(Opening::Close { page, fd, window: window.unwrap_or(0) }),
            (Opening::Close { page, window, .. }, _) => Some(Opening::Unmap { page, window }),
            (Opening::Page, None) | (Opening::Unmap { .. }, _) => None,
        };
        if next.is_none() {
            let window = if let Opening::Unmap { window, .. } = opening { window } else { 0 };
            let mark = memory::read::<{ Window::MARK }>(pid, window);
            let is_ours = window != 0 && mark.is_some_and(|mark| self.window.is_marked(&mark));
            let view = if is_ours { View::Open(window) } else { View::Blocked };
            self.thread(pid).process.view.set(view);
        }
        self.thread(pid).opening = next;
        let again = Registers { rip: before.rip - INSTRUCTION, rax: before.orig_rax, ..*before };
        trace::set_registers(pid, &again)
    }

    /// The kernel has told a type of file system; or it has failed, and what is in the buffer is nobody's.
    pub(crate) fn change_magic(&mut self, pid: i32, index: usize, registers: &Registers) {
        let Ok(buffer) = usize::try_from(argument(registers, 1)) else { return };
        let Ok(told) = trace::peek(pid, buffer) else { return };
        let mut candidates = self.rules.magic.iter().filter(|magic| magic.from == told).peekable();
        if candidates.peek().is_none() {
            return;
        }
        let place = std::cell::OnceCell::new();
        let holds = |magic: &&Magic| {
            magic.below.is_empty() || {
                let place = place.get_or_init(|| self.place_of(pid, index, registers));
                place.as_ref().is_some_and(|place| magic.below.iter().any(|below| place.starts_with(below)))
            }
        };
        if let Some(magic) = candidates.find(holds)
            && trace::poke(pid, buffer, magic.to).is_ok()
        {
            self.counters.hit(magic.rule);
        }
    }

    fn place_of(&self, pid: i32, index: usize, registers: &Registers) -> Option<PathBuf> {
        if CALLS[index].kind == Kind::Fstatfs {
            return read_link(pid, &format!("fd/{}", argument(registers, 0) as i32));
        }
        let path = memory::read_string(pid, argument(registers, 0))?;
        Some(self.lead(pid, libc::AT_FDCWD, &path, true, index, true)?.path)
    }

    /// The kernel has told its names.
    pub(crate) fn change_names(&mut self, pid: i32, registers: &Registers) {
        let Some(names) = &self.rules.names else { return };
        let mut changed = false;
        for (field, name) in [(RELEASE, &names.release), (VERSION, &names.version)] {
            let Some(name) = name else { continue };
            let mut bytes = name.clone().into_bytes();
            bytes.push(0);
            changed |= memory::write(pid, argument(registers, 0) + field, &bytes);
        }
        if changed {
            self.counters.hit(names.rule);
        }
    }

    pub(crate) fn known(&self, pid: i32) -> Option<&Thread> {
        self.threads.get(&pid)
    }
}

fn bits(flags: i32) -> u64 {
    u64::from(flags.cast_unsigned())
}
