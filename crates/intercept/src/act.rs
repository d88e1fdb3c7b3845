//! What is done at a chosen call, before it and after it.

use std::cell::LazyCell;
use std::ffi::CString;
use std::io;
use std::path::PathBuf;

use nix::libc;
use terrarium_sys::statfs::statfs;
use terrarium_sys::trace::{self, Registers, Resume};

use crate::calls::{self, Flags, Kind, PathCall, argument, set_argument};
use crate::decide::{Change, Decision, read_link};
use crate::memory;
use crate::rules::Magic;
use crate::thread::{Opening, Then, Thread, View};
use crate::tracer::{INSTRUCTION, Tracer};
use crate::window::{Slot, Window};

/// What may be over by the next call.
const SHORTAGES: [i32; 4] = [libc::EAGAIN, libc::EMFILE, libc::ENFILE, libc::ENOMEM];
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
            Kind::Statfs => {
                self.counters.trap();
                return self.run_to_end(pid, registers, None, Then::Magic(index));
            }
            Kind::Fstatfs => self.answer(pid, &registers)?,
            Kind::Uname => {
                self.counters.trap();
                return self.run_to_end(pid, registers, None, Then::Names);
            }
            Kind::Root => {
                self.has_roots = true;
                self.thread(pid).process.has_root.set(true);
            }
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
            Decision::Change { .. } if self.thread(pid).process.is_blocked.get() => self.miss(pid),
            Decision::Change { rule, change } => match self.thread(pid).process.view.get() {
                View::Closed if self.thread(pid).is_short => {
                    self.thread(pid).is_short = false;
                    self.counters.miss();
                }
                View::Closed => return self.open(pid, registers, Opening::Page),
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
        self.counters.miss();
        if !std::mem::replace(&mut self.told, true) {
            let window = self.window.path();
            eprintln!("terrarium: process {pid} sees no changed paths, since it cannot open {window}");
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
        let error = i32::try_from(result.wrapping_neg()).ok().filter(|_| done.is_none());
        if error.is_some_and(|error| SHORTAGES.contains(&error)) {
            self.thread(pid).is_short = true;
        }
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
            let thread = self.thread(pid);
            if is_ours {
                thread.process.view.set(View::Open(window));
            } else if !thread.is_short {
                thread.process.is_blocked.set(true);
            }
        }
        self.thread(pid).opening = next;
        let again = Registers { rip: before.rip - INSTRUCTION, rax: before.orig_rax, ..*before };
        trace::set_registers(pid, &again)
    }

    /// The call would tell of a descriptor's file system. What a rule changes is told here, in the place of the call, which
    /// spares the thread the stops to the call's end; anything else is the kernel's to tell.
    fn answer(&mut self, pid: i32, registers: &Registers) -> io::Result<()> {
        let link = format!("fd/{}", argument(registers, 0) as i32);
        let place = read_link(pid, &link);
        // Whoever serves a file system may let the tracer wait: others are not asked.
        if !self.rules.magic.iter().any(|magic| magic.is_at(place.as_deref())) {
            return Ok(());
        }
        let Ok(mut told) =
            CString::new(format!("/proc/{pid}/{link}")).map_err(io::Error::from).and_then(|path| statfs(&path))
        else {
            return Ok(());
        };
        let Some(magic) = self.magic(told[0], || place) else { return Ok(()) };
        told[0] = magic.to;
        if memory::write(pid, argument(registers, 1), told.map(u64::to_ne_bytes).as_flattened()) {
            self.counters.hit(magic.rule);
            trace::set_registers(pid, &Registers { orig_rax: u64::MAX, rax: 0, ..*registers })?;
        }
        Ok(())
    }

    /// The kernel has told a type of file system; or it has failed, and what is in the buffer is nobody's.
    pub(crate) fn change_magic(&mut self, pid: i32, index: usize, registers: &Registers) {
        let Ok(buffer) = usize::try_from(argument(registers, 1)) else { return };
        let Ok(told) = trace::peek(pid, buffer) else { return };
        let place = || {
            let path = memory::read_string(pid, argument(registers, 0))?;
            Some(self.lead(pid, libc::AT_FDCWD, &path, true, index, true)?.path)
        };
        if let Some(magic) = self.magic(told, place)
            && trace::poke(pid, buffer, magic.to).is_ok()
        {
            self.counters.hit(magic.rule);
        }
    }

    /// The rule that changes this type at this place.
    fn magic(&self, told: u64, place: impl FnOnce() -> Option<PathBuf>) -> Option<&Magic> {
        let place = LazyCell::new(place);
        let holds = |magic: &&Magic| magic.below.is_empty() || magic.is_at(place.as_deref());
        self.rules.magic.iter().filter(|magic| magic.from == told).find(holds)
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
