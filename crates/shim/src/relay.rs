//! Copies between containers' pipes and terminals and containerd's fifos, all in one thread, whatever the number of
//! containers.
//!
//! Neither side ever blocks the shim: what a fifo has no room for stays in its pipe, and so holds up only the process that
//! wrote it.

use std::collections::HashMap;
use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// As much as a pipe takes at once.
const CHUNK: usize = 16 * 1024;
/// How much is copied for one process before the others have their turn.
const TURNS: usize = 16;
/// How soon it is seen that containerd has come back for the rest of an output.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// What a process's streams are known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key(u64);

impl Key {
    /// One that no other process has.
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// The streams of one process.
#[derive(Default)]
pub struct Streams {
    /// What it reads.
    pub input: Option<Input>,
    /// What it writes.
    pub outputs: Vec<Output>,
}

/// From a fifo to a process.
pub struct Input {
    copy: Copy,
    /// Keeps the fifo from being at its end; dropped when containerd says that nothing more comes.
    keeper: Option<OwnedFd>,
}

/// From a process to a fifo or file.
pub struct Output {
    copy: Copy,
    /// Keeps the fifo open to a reader; none for a file.
    keeper: Option<OwnedFd>,
}

struct Copy {
    from: OwnedFd,
    to: OwnedFd,
    /// What was read and not yet written.
    pending: Vec<u8>,
    ended: bool,
}

impl Input {
    /// `keeper` is a writer of the fifo `from`.
    pub fn new(from: OwnedFd, to: OwnedFd, keeper: OwnedFd) -> Self {
        Self { copy: Copy::new(from, to), keeper: Some(keeper) }
    }
}

impl Output {
    /// `keeper` is a reader of `to` if that is a fifo.
    pub fn new(from: OwnedFd, to: OwnedFd, keeper: Option<OwnedFd>) -> Self {
        Self { copy: Copy::new(from, to), keeper }
    }

    /// Whether it can be closed without the loss of anything: its process's end has been copied, and somebody reads the
    /// fifo. What is in a fifo stays there for its readers when all writers have gone, but not when nobody has it open.
    fn is_done(&mut self) -> bool {
        if !self.copy.ended {
            return false;
        }
        self.keeper = None;
        let mut look = [PollFd::new(&self.copy.to, PollFlags::OUT)];
        let looked = poll(&mut look, Some(&Timespec::default()));
        looked.is_err() || !look[0].revents().contains(PollFlags::ERR)
    }
}

impl Copy {
    fn new(from: OwnedFd, to: OwnedFd) -> Self {
        Self { from, to, pending: Vec::new(), ended: false }
    }

    /// What has to happen before something can be copied.
    fn interest(&self) -> Option<PollFd<'_>> {
        match (self.ended, self.pending.is_empty()) {
            (true, _) => None,
            (false, true) => Some(PollFd::new(&self.from, PollFlags::IN)),
            (false, false) => Some(PollFd::new(&self.to, PollFlags::OUT)),
        }
    }

    /// Copies what can be copied now.
    fn pump(&mut self, buffer: &mut [u8]) {
        for _ in 0..TURNS {
            if self.ended || !self.flush() {
                return;
            }
            match rustix::io::read(&self.from, &mut *buffer) {
                // A terminal says EIO when nobody has its other side open.
                Ok(0) | Err(Errno::IO) => self.ended = true,
                Ok(count) => self.pending.extend_from_slice(&buffer[..count]),
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                Err(_) => self.ended = true,
            }
        }
    }

    /// Writes what is pending, and says whether it has all gone.
    fn flush(&mut self) -> bool {
        while !self.pending.is_empty() {
            match rustix::io::write(&self.to, &self.pending) {
                Ok(count) => drop(self.pending.drain(..count)),
                Err(Errno::AGAIN) => return false,
                Err(Errno::INTR) => {}
                Err(_) => {
                    self.pending.clear();
                    self.ended = true;
                }
            }
        }
        // A burst's buffer is not kept for the life of the container.
        self.pending = Vec::new();
        true
    }
}

/// The streams of all processes.
pub struct Relays {
    streams: HashMap<Key, Streams>,
    /// Who waits until a process's output is out.
    finishing: HashMap<Key, Sender<()>>,
    buffer: Vec<u8>,
}

/// Which direction of a process's streams.
#[derive(Clone, Copy)]
enum Side {
    Input,
    Output(usize),
}

impl Relays {
    /// None yet.
    pub fn new() -> Self {
        Self { streams: HashMap::new(), finishing: HashMap::new(), buffer: vec![0; CHUNK] }
    }

    /// Begins to copy a process's streams.
    pub fn attach(&mut self, key: Key, streams: Streams) {
        self.streams.insert(key, streams);
    }

    /// Lets a process's input end when its last writer has gone.
    pub fn close_input(&mut self, key: Key) {
        if let Some(input) = self.streams.get_mut(&key).and_then(|streams| streams.input.as_mut()) {
            input.keeper = None;
        }
    }

    /// Copies what an ended process has left.
    pub fn drain(&mut self, key: Key) {
        if let Some(streams) = self.streams.get_mut(&key) {
            streams.input = None;
            for output in &mut streams.outputs {
                output.copy.pump(&mut self.buffer);
            }
        }
        self.settle(key);
    }

    /// Says on `done` when a process's output has all been copied.
    pub fn finish(&mut self, key: Key, done: Sender<()>) {
        self.finishing.insert(key, done);
        self.settle(key);
    }

    /// Closes all of a process's streams.
    pub fn detach(&mut self, key: Key) {
        self.streams.remove(&key);
        self.finishing.remove(&key);
    }

    /// Waits until one of `others` can be read or a stream can be copied, and copies. Answers which of the others can.
    pub fn wait(&mut self, others: [BorrowedFd<'_>; 2]) -> [bool; 2] {
        let mut polled: Vec<PollFd<'_>> = others.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        let mut sides = Vec::new();
        let mut lingering = false;
        for (&key, streams) in &self.streams {
            let input = streams.input.iter().map(|input| (Side::Input, &input.copy));
            let outputs = streams.outputs.iter().enumerate().map(|(index, output)| (Side::Output(index), &output.copy));
            for (side, copy) in input.chain(outputs) {
                match copy.interest() {
                    Some(interest) => {
                        sides.push((key, side));
                        polled.push(interest);
                    }
                    None => lingering = true,
                }
            }
        }
        let timeout = lingering.then(|| Timespec::try_from(LOOK_AGAIN).expect("half a second fits"));
        if poll(&mut polled, timeout.as_ref()).is_err() {
            return [false; 2];
        }
        let ready: Vec<bool> = polled.iter().map(|fd| !fd.revents().is_empty()).collect();
        let (first, rest) = ready.split_at(2);
        for (&(key, side), _) in sides.iter().zip(rest).filter(|(_, ready)| **ready) {
            self.pump(key, side);
        }
        // Only now: through the whole round the outputs keep their places.
        let keys: Vec<Key> = self.streams.keys().copied().collect();
        keys.into_iter().for_each(|key| self.settle(key));
        [first[0], first[1]]
    }

    fn pump(&mut self, key: Key, side: Side) {
        let Some(streams) = self.streams.get_mut(&key) else { return };
        match side {
            Side::Input => {
                if let Some(input) = &mut streams.input {
                    input.copy.pump(&mut self.buffer);
                    if input.copy.ended {
                        streams.input = None;
                    }
                }
            }
            Side::Output(index) => streams.outputs[index].copy.pump(&mut self.buffer),
        }
    }

    /// Closes a process's outputs that are done, and says so when all are copied.
    fn settle(&mut self, key: Key) {
        if let Some(streams) = self.streams.get_mut(&key) {
            streams.outputs.retain_mut(|output| !output.is_done());
            if !streams.outputs.iter().all(|output| output.copy.ended) {
                return;
            }
        }
        if let Some(done) = self.finishing.remove(&key) {
            // Whoever waited may have given up.
            let _ = done.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File, OpenOptions};
    use std::io::{Read as _, Write as _};
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    use std::path::Path;
    use std::sync::mpsc::{TryRecvError, channel};

    use nix::libc::O_NONBLOCK;
    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;
    use rustix::pipe::{PipeFlags, pipe_with};
    use tempfile::TempDir;

    use super::*;
    use crate::stdio::{Owner, Stdio};

    /// A process's fifos, as containerd makes them.
    fn fifos() -> (TempDir, Stdio) {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| {
            let path = directory.path().join(name);
            mkfifo(&path, Mode::S_IRWXU).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let stdio = Stdio { stdin: path("in"), stdout: path("out"), stderr: String::new(), terminal: false };
        (directory, stdio)
    }

    fn reader(path: &str) -> File {
        OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path).unwrap()
    }

    /// One round of the relay, which is due at once.
    fn round(relays: &mut Relays) {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        rustix::io::write(&write, b"x").unwrap();
        relays.wait([read.as_fd(), read.as_fd()]);
    }

    /// A process that says `text` and ends.
    fn said(relays: &mut Relays, stdio: &Stdio, text: &[u8]) -> Key {
        let (theirs, ours) = pipe_with(PipeFlags::NONBLOCK).unwrap();
        let mut streams = stdio.terminal(theirs).unwrap();
        streams.input = None;
        rustix::io::write(&ours, text).unwrap();
        let key = Key::new();
        relays.attach(key, streams);
        key
    }

    #[test]
    fn an_output_is_whole_and_ends() {
        let (_directory, stdio) = fifos();
        let mut relays = Relays::new();
        let mut from = reader(&stdio.stdout);
        let key = said(&mut relays, &stdio, b"all of it");
        round(&mut relays);
        round(&mut relays);
        let mut text = String::new();
        from.read_to_string(&mut text).unwrap();
        assert_eq!(text, "all of it");
        assert!(relays.streams[&key].outputs.is_empty());
    }

    #[test]
    fn an_output_outlasts_a_time_without_a_reader() {
        let (_directory, stdio) = fifos();
        let mut relays = Relays::new();
        drop(reader(&stdio.stdout));
        let key = said(&mut relays, &stdio, b"said meanwhile");
        let (done, finished) = channel();
        relays.finish(key, done);
        round(&mut relays);
        round(&mut relays);
        assert_eq!(finished.try_recv(), Ok(()), "all is copied");
        let mut from = reader(&stdio.stdout);
        round(&mut relays);
        let mut text = String::new();
        from.read_to_string(&mut text).unwrap();
        assert_eq!(text, "said meanwhile");
    }

    #[test]
    fn a_full_fifo_holds_up_its_process_alone() {
        let (_directory, stdio) = fifos();
        let mut relays = Relays::new();
        let mut from = reader(&stdio.stdout);
        let (theirs, ours) = pipe_with(PipeFlags::NONBLOCK).unwrap();
        let mut streams = stdio.terminal(theirs).unwrap();
        streams.input = None;
        let key = Key::new();
        relays.attach(key, streams);
        let mut sent = 0;
        for _ in 0..40 {
            sent += rustix::io::write(&ours, &[7; CHUNK]).unwrap_or(0);
            round(&mut relays);
        }
        assert!(sent < 40 * CHUNK, "somewhere it stops");
        drop(ours);
        let (done, finished) = channel();
        relays.finish(key, done);
        assert_eq!(finished.try_recv(), Err(TryRecvError::Empty), "some of it is not out");
        let mut received = 0;
        let mut buffer = vec![0; CHUNK];
        while received < sent {
            round(&mut relays);
            received += from.read(&mut buffer).unwrap_or(0);
        }
        round(&mut relays);
        assert_eq!((received, finished.try_recv()), (sent, Ok(())));
    }

    #[test]
    fn an_input_ends_only_when_containerd_says_so() {
        let (_directory, stdio) = fifos();
        let mut relays = Relays::new();
        let (ours, theirs) = pipe_with(PipeFlags::NONBLOCK).unwrap();
        let mut streams = stdio.terminal(theirs).unwrap();
        streams.outputs.clear();
        let key = Key::new();
        relays.attach(key, streams);
        for word in ["one ", "two"] {
            OpenOptions::new().write(true).open(&stdio.stdin).unwrap().write_all(word.as_bytes()).unwrap();
            round(&mut relays);
        }
        let mut buffer = [0; 16];
        let count = rustix::io::read(&ours, &mut buffer).unwrap();
        assert_eq!(&buffer[..count], b"one two");
        assert_eq!(rustix::io::read(&ours, &mut buffer), Err(Errno::AGAIN), "the writers went, and others may come");
        relays.close_input(key);
        round(&mut relays);
        assert_eq!(rustix::io::read(&ours, &mut buffer), Ok(0));
    }

    #[test]
    fn a_file_may_take_the_output() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("logs/one.log");
        let mut relays = Relays::new();
        let stdio = Stdio { stdout: format!("file://{}", log.display()), ..Stdio::default() };
        let key = said(&mut relays, &stdio, b"a line\n");
        relays.drain(key);
        relays.drain(key);
        assert_eq!(fs::read_to_string(&log).unwrap(), "a line\n");
        let program = Stdio { stdout: "binary:///bin/logger".to_owned(), ..Stdio::default() };
        assert!(program.pipes(Owner::default()).is_err());
        assert!(Stdio { stdout: "/nowhere".to_owned(), ..Stdio::default() }.pipes(Owner::default()).is_err());
        assert!(Path::new("/nowhere").symlink_metadata().is_err());
    }
}
