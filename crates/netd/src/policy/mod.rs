//! Which Pod may talk to which.

use std::net::{Ipv4Addr, SocketAddrV4};

use crate::table::Protocol;
use crate::{Error, Shared};

/// The policies that are in force.
#[derive(Debug, Default)]
pub struct Policy {}

impl Policy {
    /// Whether a new connection or flow may be carried. Asked by the relay for each, with the endpoint as destination.
    pub fn allows(&self, _source: Ipv4Addr, _destination: SocketAddrV4, _protocol: Protocol) -> bool {
        true
    }
}

/// Follows the API's policies.
pub async fn run(_shared: Shared) -> Result<(), Error> {
    std::future::pending().await
}
