//! A container's init, or a process that was executed in it.

use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use containerd_shim::api::Status;
use containerd_shim::protos::protobuf::MessageField;
use containerd_shim::protos::protobuf::well_known_types::timestamp::Timestamp;

use crate::error::Error;
use crate::relay::Key;
use crate::service::Waiter;
use crate::stdio::Stdio;

/// One process.
pub struct Process {
    /// The exec's ID; empty for init.
    pub exec_id: String,
    /// The files that containerd gave for its standard streams.
    pub stdio: Stdio,
    /// What an exec runs, as runtime-spec's JSON.
    pub spec: Vec<u8>,
    /// What the relay knows its streams by.
    pub key: Key,
    /// Held while the process is started, deleted or sent a signal, so that these come one after another.
    pub operation: Mutex<()>,
    state: Mutex<State>,
}

/// What changes of a process.
pub struct State {
    /// As containerd names it.
    pub status: Status,
    /// 0 until it is started (init: created).
    pub pid: i32,
    /// Of a process that has ended.
    pub exit: Option<Exit>,
    /// The master of its terminal.
    pub console: Option<OwnedFd>,
    /// Requests that are answered when it ends.
    pub waiters: Vec<Waiter>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exit {
    /// Its exit code, or 128 and the signal.
    pub status: u32,
    /// When the shim reaped it.
    pub at: SystemTime,
}

impl Process {
    /// A process that has not run yet.
    pub fn new(exec_id: &str, stdio: Stdio, spec: Vec<u8>) -> Self {
        Self {
            exec_id: exec_id.to_owned(),
            stdio,
            spec,
            key: Key::new(),
            operation: Mutex::new(()),
            state: Mutex::new(State {
                status: Status::CREATED,
                pid: 0,
                exit: None,
                console: None,
                waiters: Vec::new(),
            }),
        }
    }

    /// What changes of it, for a moment.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for its other operations to end.
    pub fn operate(&self) -> MutexGuard<'_, ()> {
        self.operation.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this is the container's first process.
    pub fn is_init(&self) -> bool {
        self.exec_id.is_empty()
    }

    /// Notes its end, and answers who has waited for it.
    pub fn end(&self, exit: Exit) {
        let waiters = {
            let mut state = self.state();
            state.status = Status::STOPPED;
            state.exit = Some(exit);
            std::mem::take(&mut state.waiters)
        };
        for waiter in waiters {
            waiter.answer(exit);
        }
    }
}

impl State {
    /// Refuses what cannot be done in another state.
    pub fn require(&self, wanted: Status, what: &str) -> Result<(), Error> {
        if self.status == wanted {
            return Ok(());
        }
        let name = match self.status {
            Status::CREATED => "created",
            Status::RUNNING => "running",
            Status::PAUSED | Status::PAUSING => "paused",
            Status::STOPPED => "stopped",
            Status::UNKNOWN => "unknown",
        };
        Err(Error::FailedPrecondition(format!("cannot {what} a {name} process")))
    }
}

impl Exit {
    /// An end that was seen just now.
    pub fn now(status: u32) -> Self {
        Self { status, at: SystemTime::now() }
    }

    /// When it was, as containerd has it.
    pub fn timestamp(&self) -> MessageField<Timestamp> {
        MessageField::some(self.at.into())
    }
}
