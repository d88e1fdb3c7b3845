//! What the runtime and the processes that it forks say to each other while a container or a process is made.
//!
//! ```text
//! runtime ◀── MapIds ── stage                 it is in a new user namespace
//! runtime ◀── Forked ── stage                 the process that becomes the program, in the runtime's pid namespace
//! runtime ── Go ──▶ process                   it is in its cgroups
//! runtime ◀── Open ── process                 the source of a mount, which it may not reach in its user namespace
//! runtime ◀── Mounted ── process              for the hooks that run before the root changes
//! runtime ◀── Ready ── process                nothing is left but what takes rights away
//! runtime ◀── end of the channel ── process   it waits for the start, or has become the program
//! ```
//!
//! Each of the process's messages but `Forked` is answered by `Go`, `Open` with the file. `Failed` may come instead of any.

use std::cell::Cell;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};

use crate::error::Doing as _;
use crate::{Error, Result};

/// The longest message.
const LIMIT: usize = 64 << 10;
/// How many file descriptors come with one message at most: standard streams, console, channel and preserved ones.
const DESCRIPTORS: usize = 64;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Message {
    /// Map my user and group IDs: I am in a new user namespace.
    MapIds,
    /// This process becomes the program; whether the sender stays to look after the pid namespace.
    Forked { pid: i32, keeper: bool },
    /// Open the source of this bind mount, by its place in the configuration, in my mount namespace, and give it to me.
    Open(usize),
    /// The mounts are made, the root is still the old one.
    Mounted,
    /// Only the program is left to be executed.
    Ready,
    /// Go on.
    Go,
    /// What failed, and why.
    Failed(String),
    /// The process has ended.
    Ended(Ended),
}

/// How a process has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Ended {
    /// By itself, with this status.
    Exited(i32),
    /// By this signal.
    Killed(i32),
}

/// One end of a channel of whole messages, until it is closed.
#[derive(Debug)]
pub(crate) struct Channel(Option<OwnedFd>);

impl Channel {
    /// Two ends of a new one.
    pub fn pair() -> Result<(Self, Self)> {
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .doing("make a pair of sockets")?;
        Ok((one.into(), other.into()))
    }

    /// Two ends, of which the first is to be taken away by whoever is forked with a copy of it: as long as that is open the
    /// other end does not learn that the runtime has ended.
    pub fn pair_for_fork() -> Result<(Cell<Option<Self>>, Self)> {
        let (ours, theirs) = Self::pair()?;
        Ok((Cell::new(Some(ours)), theirs))
    }

    pub fn send(&self, message: &Message) -> Result<()> {
        send(self.fd()?, message, &[])
    }

    /// The next message; none when the other end is closed.
    pub fn receive(&self) -> Result<Option<Message>> {
        Ok(receive(self.fd()?)?.map(|(message, _)| message))
    }

    /// Says something and waits until the other side says that it may go on.
    pub fn ask(&self, message: &Message) -> Result<()> {
        self.send(message)?;
        self.wait_for_go()
    }

    /// Has the source of a bind mount opened, by somebody with more rights in the same mount namespace.
    pub fn open(&self, mount: usize) -> Result<OwnedFd> {
        self.send(&Message::Open(mount))?;
        let file = match receive(self.fd()?)? {
            Some((Message::Go, descriptors)) => descriptors.into_iter().next(),
            _ => None,
        };
        file.ok_or_else(|| {
            Error::other(format!("have the source of mounts[{mount}] opened"), "the runtime has given up")
        })
    }

    /// Says that nothing more comes. A filter that is in force already may forbid whatever else would say so, but hardly
    /// close(2).
    pub fn close(&mut self) {
        self.0 = None;
    }

    pub fn fd(&self) -> Result<BorrowedFd<'_>> {
        let socket = self.0.as_ref().map(AsFd::as_fd);
        socket.ok_or_else(|| Error::other("use the channel", "it is closed"))
    }

    /// Waits until the other side says that it may go on.
    pub fn wait_for_go(&self) -> Result<()> {
        match self.receive()? {
            Some(Message::Go) => Ok(()),
            _ => Err(Error::other("wait for the runtime", "it has given up")),
        }
    }
}

impl From<OwnedFd> for Channel {
    fn from(socket: OwnedFd) -> Self {
        Self(Some(socket))
    }
}

/// Sends a message, with file descriptors.
pub(crate) fn send(socket: BorrowedFd<'_>, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> Result<()> {
    let text = serde_json::to_vec(message).map_err(std::io::Error::from).doing("write a message")?;
    if text.len() > LIMIT || descriptors.len() > DESCRIPTORS {
        return Err(Error::other("send a message", "it is too long"));
    }
    send_bytes(socket, &text, descriptors)
}

/// Sends bytes, with file descriptors.
pub(crate) fn send_bytes(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Error::other("send a message", "it has too many file descriptors"));
    }
    rustix::io::retry_on_intr(|| sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL))
        .doing("send a message")?;
    Ok(())
}

/// Receives a message and the file descriptors that came with it; none when the other end is closed.
pub(crate) fn receive<T: for<'a> Deserialize<'a>>(socket: BorrowedFd<'_>) -> Result<Option<(T, Vec<OwnedFd>)>> {
    let mut text = vec![0; LIMIT];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        recvmsg(socket, &mut [IoSliceMut::new(&mut text)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    });
    let length = match received {
        // A process that was killed with something unread leaves no message.
        Err(rustix::io::Errno::CONNRESET) => 0,
        other => other.doing("receive a message")?.bytes,
    };
    let descriptors: Vec<OwnedFd> = ancillary
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .collect();
    if length == 0 {
        return Ok(None);
    }
    let message = serde_json::from_slice(&text[..length]).map_err(std::io::Error::from).doing("read a message")?;
    Ok(Some((message, descriptors)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_whole_and_in_order() {
        let (one, other) = Channel::pair().expect("a pair");
        for message in [
            Message::Forked { pid: 7, keeper: true },
            Message::Failed("no\n".repeat(99)),
            Message::Ended(Ended::Killed(9)),
        ] {
            one.send(&message).expect("send");
            assert_eq!(other.receive().expect("receive"), Some(message));
        }
        drop(one);
        assert_eq!(other.receive().expect("receive"), None);
        assert!(other.wait_for_go().is_err());
    }

    #[test]
    fn whoever_closes_it_ends_it() {
        let (mut one, other) = Channel::pair().expect("a pair");
        one.close();
        assert_eq!(other.receive().expect("receive"), None);
        assert!(one.send(&Message::Go).is_err());
    }

    #[test]
    fn file_descriptors_come_along() {
        let (one, other) = Channel::pair().expect("a pair");
        let (reader, writer) = std::io::pipe().expect("a pipe");
        send(one.fd().expect("open"), &"here", &[writer.as_fd()]).expect("send");
        drop(writer);
        let (text, descriptors) = receive::<String>(other.fd().expect("open")).expect("receive").expect("a message");
        assert_eq!((text.as_str(), descriptors.len()), ("here", 1));
        drop(descriptors);
        assert_eq!(std::io::read_to_string(reader).expect("all writers are closed"), "");
    }
}
