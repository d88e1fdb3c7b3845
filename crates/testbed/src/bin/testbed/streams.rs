//! Standard streams and signals between this process and the program in the sandbox.
//!
//! gVisor writes to a regular file at an offset of its own, so the streams go through pipes and are copied here; only a
//! terminal is handed over as it is.

use std::{
    io::{self, Read, Write},
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{
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

    /// Waits for `child`. A signal is given to `on_signal`, which may end the wait with an exit code.
    fn wait(&self, mut child: Child, on_signal: impl Fn(i32) -> Option<u8>) -> Result<u8> {
        let sender = self.sender.clone();
        thread::spawn(move || sender.send(Event::Exit(child.wait())));
        loop {
            match self.events.recv()? {
                Event::Exit(status) => return Ok(code(status?)),
                Event::Signal(signal) => {
                    if let Some(code) = on_signal(signal) {
                        return Ok(code);
                    }
                }
            }
        }
    }
}

/// Runs `command` on this process's own terminal.
pub(crate) fn attached(mut command: Command, signals: &Signals) -> Result<u8> {
    let child = command.spawn().context("cannot run runsc")?;
    let pid = Pid::from_raw(child.id().cast_signed());
    signals.wait(child, |signal| {
        // The terminal has given Ctrl-C and Ctrl-\ to the whole group, runsc among it; the others come to us alone.
        if let SIGTERM | SIGHUP = signal {
            pass_on(pid, signal);
        }
        None
    })
}

/// Runs `command` with its streams copied. A signal is passed on to it when `forward`, else ends the wait.
pub(crate) fn piped(mut command: Command, signals: &Signals, forward: bool) -> Result<u8> {
    // A group of its own: a Ctrl-C must reach the program once, through us, and not by the terminal as well.
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().context("cannot run runsc")?;
    let pid = Pid::from_raw(child.id().cast_signed());
    if let Some(stdin) = child.stdin.take() {
        // Left behind at the end: nothing can wake it from a read of our stdin.
        thread::spawn(move || copy(io::stdin(), stdin, &AtomicU64::new(0)));
    }
    let pumps = [
        child.stdout.take().map(|pipe| Pump::start(pipe, io::stdout())),
        child.stderr.take().map(|pipe| Pump::start(pipe, io::stderr())),
    ];
    let code = signals.wait(child, |signal| {
        if forward {
            pass_on(pid, signal);
            return None;
        }
        u8::try_from(128 + signal).ok()
    })?;
    pumps.into_iter().flatten().for_each(Pump::finish);
    Ok(code)
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
    /// Odd while waiting for input; changes with every piece.
    turns: Arc<AtomicU64>,
}

impl Pump {
    fn start(from: impl Read + Send + 'static, to: impl Write + Send + 'static) -> Self {
        let turns = Arc::new(AtomicU64::new(0));
        let counter = turns.clone();
        Self { thread: thread::spawn(move || copy(from, to, &counter)), turns }
    }

    /// Waits until everything that the program wrote is copied.
    ///
    /// That is the end of the stream, or, when a process that the program left behind still holds it, an empty pipe:
    /// the program has ended, so what it wrote is in the pipe already.
    fn finish(self) {
        let mut before = 0;
        while !self.thread.is_finished() {
            let now = self.turns.load(Ordering::SeqCst);
            if now % 2 == 1 && now == before {
                return;
            }
            before = now;
            thread::sleep(Duration::from_millis(if now == 0 { 1 } else { 20 }));
        }
    }
}

fn copy(mut from: impl Read, mut to: impl Write, turns: &AtomicU64) {
    let mut buffer = [0; 64 * 1024];
    loop {
        turns.fetch_add(1, Ordering::SeqCst);
        let read = from.read(&mut buffer);
        turns.fetch_add(1, Ordering::SeqCst);
        match read {
            Ok(0) => return,
            Ok(length) => {
                if to.write_all(&buffer[..length]).and_then(|()| to.flush()).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}
