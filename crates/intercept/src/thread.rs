//! What the tracer knows of each thread.

use std::cell::Cell;
use std::rc::Rc;

use terrarium_sys::trace::Registers;

use crate::window::Slot;

/// Whether the window is in a process's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    /// Not yet.
    Closed,
    /// From this address on.
    Open(u64),
}

/// What threads of one process share.
#[derive(Debug)]
pub(crate) struct Process {
    /// Shared by all processes in one memory.
    pub(crate) view: Rc<Cell<View>>,
    /// It cannot open the window.
    pub(crate) is_blocked: Cell<bool>,
    /// It may have a root of its own.
    pub(crate) has_root: Cell<bool>,
}

impl Process {
    pub(crate) fn new(has_root: bool) -> Rc<Self> {
        let view = Rc::new(Cell::new(View::Closed));
        Rc::new(Self { view, is_blocked: Cell::new(false), has_root: Cell::new(has_root) })
    }

    /// A child, in the same memory or a copy.
    pub(crate) fn child(&self, shares_memory: bool) -> Rc<Self> {
        let view = if shares_memory { Rc::clone(&self.view) } else { Rc::new(Cell::clone(&self.view)) };
        Rc::new(Self { view, is_blocked: self.is_blocked.clone(), has_root: self.has_root.clone() })
    }
}

#[derive(Debug)]
pub(crate) struct Thread {
    pub(crate) process: Rc<Process>,
    pub(crate) phase: Phase,
    /// It is opening the window.
    pub(crate) opening: Option<Opening>,
    /// It could not just now, and may at its next call: this one goes on without.
    pub(crate) is_short: bool,
}

impl Thread {
    pub(crate) fn new(process: Rc<Process>) -> Self {
        Self { process, phase: Phase::Free, opening: None, is_short: false }
    }
}

/// Where a thread is between two stops.
#[derive(Debug)]
pub(crate) enum Phase {
    /// Anywhere: it next stops at a chosen call.
    Free,
    /// In a call whose end the tracer wants to see.
    InCall(Box<InCall>),
}

#[derive(Debug)]
pub(crate) struct InCall {
    /// Before the tracer changed them.
    pub(crate) registers: Registers,
    pub(crate) then: Then,
    /// Another stop comes before the one at the end: where the call begins.
    pub(crate) begins: bool,
}

/// What is done at the end of a call.
#[derive(Debug)]
pub(crate) enum Then {
    /// The program hears that it has a tracer.
    Answer,
    /// The next step of opening the window.
    Open,
    /// The arguments are as before.
    Restore(Slot),
    /// The type of the file system is changed, for which call.
    Magic(usize),
    /// The kernel's names are changed.
    Names,
}

/// How far the opening of the window is: which call the process is made to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opening {
    /// mmap(2) of a page for the path of the window.
    Page,
    /// open(2) of that path.
    File { page: u64 },
    /// mmap(2) of the window.
    Map { page: u64, fd: u64 },
    /// close(2) of its descriptor.
    Close { page: u64, fd: u64, window: u64 },
    /// munmap(2) of the page; 0: the window was not opened.
    Unmap { page: u64, window: u64 },
}
