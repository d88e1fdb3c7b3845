//! The gate of a cluster with a network namespace of its own: a process that stays in the caller's and makes the connections
//! that lead outside ([`terrarium_netd::gate`]).

use std::path::PathBuf;
use std::process::Child;

use terrarium_remedies::{Isolation, Journal};

use crate::component::{CommandLine, GATE};
use crate::launch::{self, own_program};
use crate::{Error, Layout};

/// Its socket, where the cluster needs one.
pub(crate) fn socket(layout: &Layout, isolation: Isolation) -> Option<PathBuf> {
    isolation.has_network().then(|| layout.runtime().join("gate.sock"))
}

/// Starts the gate where one is needed and none is there. Call it in the caller's network namespace: nobody gets back there.
pub(crate) fn start(layout: &Layout, isolation: Isolation) -> Result<Option<Child>, Error> {
    let Some(socket) = socket(layout, isolation) else { return Ok(None) };
    let args = vec![GATE.to_owned(), socket.to_string_lossy().into_owned()];
    // One that runs already keeps its place.
    launch::service(layout, GATE, &CommandLine { program: own_program()?, args }, &[]).map(Some)
}

/// The same for the cluster that is here: one whose gate was killed has none until somebody outside calls.
pub(crate) fn start_again(layout: &Layout) -> Result<(), Error> {
    isolation(layout)?.map_or(Ok(None), |isolation| start(layout, isolation)).map(drop)
}

/// Whether the cluster that is here needs one.
pub(crate) fn is_needed(layout: &Layout) -> Result<bool, Error> {
    Ok(isolation(layout)?.is_some_and(|isolation| socket(layout, isolation).is_some()))
}

fn isolation(layout: &Layout) -> Result<Option<Isolation>, Error> {
    Ok(Journal::open(&layout.journal())?.map(|journal| journal.isolation()))
}
