//! Standard streams and signals between this process and the program in the sandbox.
//!
//! gVisor writes to a regular file at an offset of its own, so the streams go through pipes and are copied here; only a
//! terminal is handed over as it is.

use std::{
    fs::File,
    io::{self, Read, Write},
    ops::ControlFlow,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::{CommandExt, ExitStatusExt},
    },
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use terrarium_testbed::Interrupt;

/// What ends or disturbs the wait for a program.
enum Event {
    Signal(i32),
    Exit(io::Result<ExitStatus>),
}

/// How the wait for a program ended.
enum End {
    Exited(u8),
    /// By this signal to us; the program still runs.
    Interrupted(i32),
}

/// What a signal does to the program that [`piped`] runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnSignal {
    /// The program gets it, and decides.
    PassOn,
    /// The wait ends; the caller ends the program with its sandbox.
    Abandon,
}

/// The signals that ask this process to end, caught so that it can clean up first.
pub(crate) struct Signals {
    interrupt: Interrupt,
    events: Receiver<Event>,
    sender: Sender<Event>,
}

impl Signals {
    pub(crate) fn catch() -> Result<Self> {
        let mut signals = signal_hook::iterator::Signals::new([SIGHUP, SIGINT, SIGQUIT, SIGTERM])?;
        let (sender, events) = channel();
        let interrupt = Interrupt::default();
        let (flag, signalled) = (interrupt.clone(), sender.clone());
        thread::spawn(move || {
            for signal in signals.forever() {
                flag.set(signal);
                let _ = signalled.send(Event::Signal(signal));
            }
        });
        Ok(Self { interrupt, events, sender })
    }

    /// Stops a start that is under way.
    pub(crate) fn interrupt(&self) -> Interrupt {
        self.interrupt.clone()
    }

    /// Waits for `child`. A signal is given to `on_signal`, which may end the wait.
    fn wait(&self, mut child: Child, on_signal: impl Fn(i32) -> ControlFlow<()>) -> Result<End> {
        let sender = self.sender.clone();
        thread::spawn(move || sender.send(Event::Exit(child.wait())));
        loop {
            match self.events.recv()? {
                Event::Exit(status) => return Ok(End::Exited(code(status?))),
                Event::Signal(signal) if on_signal(signal).is_break() => return Ok(End::Interrupted(signal)),
                Event::Signal(_) => {}
            }
        }
    }
}

/// Runs `command` on this process's own terminal.
pub(crate) fn attached(mut command: Command, signals: &Signals) -> Result<u8> {
    let child = command.spawn().context("cannot run runsc")?;
    let pid = Pid::from_raw(child.id().cast_signed());
    let end = signals.wait(child, |signal| {
        // The terminal has given Ctrl-C and Ctrl-\ to the whole group, runsc among it; the others come to us alone.
        if let SIGTERM | SIGHUP = signal {
            pass_on(pid, signal);
        }
        ControlFlow::Continue(())
    })?;
    Ok(end.code())
}

/// Runs `command` with its streams copied.
pub(crate) fn piped(mut command: Command, signals: &Signals, on_signal: OnSignal) -> Result<u8> {
    // A group of its own: a Ctrl-C must reach the program once, through us, and not by the terminal as well.
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().context("cannot run runsc")?;
    let pid = Pid::from_raw(child.id().cast_signed());
    if let Some(stdin) = child.stdin.take() {
        // Left behind at the end: nothing can wake it from a read of our stdin.
        thread::spawn(move || copy(io::stdin(), stdin, &Progress::default()));
    }
    let pumps = [
        child.stdout.take().map(|pipe| Pump::start(OwnedFd::from(pipe), io::stdout())),
        child.stderr.take().map(|pipe| Pump::start(OwnedFd::from(pipe), io::stderr())),
    ];
    let end = signals.wait(child, |signal| match on_signal {
        OnSignal::PassOn => {
            pass_on(pid, signal);
            ControlFlow::Continue(())
        }
        OnSignal::Abandon => ControlFlow::Break(()),
    })?;
    if let End::Exited(_) = end {
        pumps.into_iter().flatten().for_each(Pump::finish);
    }
    Ok(end.code())
}

impl End {
    fn code(self) -> u8 {
        match self {
            Self::Exited(code) => code,
            Self::Interrupted(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
        }
    }
}

fn pass_on(pid: Pid, signal: i32) {
    if let Ok(signal) = Signal::try_from(signal) {
        let _ = kill(pid, signal);
    }
}

fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

/// Copies one stream in a thread of its own.
struct Pump {
    thread: JoinHandle<()>,
    progress: Arc<Progress>,
    /// The thread's alone: once that has closed it, the program is to hear of it.
    pipe: Weak<File>,
}

#[derive(Default)]
struct Progress {
    copied: AtomicU64,
    /// True while waiting for input, false from before it is read until it is written.
    waiting: AtomicBool,
}

impl Pump {
    fn start(from: OwnedFd, to: impl Write + Send + 'static) -> Self {
        let progress = Arc::<Progress>::default();
        let (from, shared) = (Arc::new(File::from(from)), progress.clone());
        Self { pipe: Arc::downgrade(&from), thread: thread::spawn(move || copy(&*from, to, &shared)), progress }
    }

    /// Whether the pipe has neither bytes nor, for there is somebody who may write, its end.
    fn is_empty(&self) -> bool {
        self.pipe.upgrade().is_some_and(|pipe| {
            poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO).is_ok_and(|ready| ready == 0)
        })
    }

    /// Waits until everything that the program wrote is copied. Call after its end.
    ///
    /// That is the end of the stream. A process that the program left behind may still hold it; but what the program
    /// itself wrote is in the pipe by now, so an empty pipe, or as many bytes as the largest pipe holds, will do.
    fn finish(self) {
        let copied = || self.progress.copied.load(Ordering::SeqCst);
        // What was in the pipe is written by the time that the thread waits again.
        let waits = || self.progress.waiting.load(Ordering::SeqCst);
        let start = copied();
        while !self.thread.is_finished() && copied() - start <= LARGEST_PIPE {
            if waits() && self.is_empty() && waits() {
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// pipe(7): /proc/sys/fs/pipe-max-size.
const LARGEST_PIPE: u64 = 1 << 20;

fn copy(mut from: impl Read + AsFd, mut to: impl Write, progress: &Progress) {
    let mut buffer = [0; 64 * 1024];
    loop {
        progress.waiting.store(true, Ordering::SeqCst);
        while poll(&mut [PollFd::new(from.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE) == Err(Errno::EINTR) {}
        progress.waiting.store(false, Ordering::SeqCst);
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => {
                if to.write_all(&buffer[..length]).and_then(|()| to.flush()).is_err() {
                    return;
                }
                progress.copied.fetch_add(length as u64, Ordering::SeqCst);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}
