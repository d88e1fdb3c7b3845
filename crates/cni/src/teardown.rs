//! The end of a node: what the plugin left there besides attachments.

use crate::commands::delete_host_links;
use crate::egress::{self, EgressError};
use crate::error::Error;
use crate::nat::Nat;

/// All chains of ours in the nat table, whoever made them: the plugin, or the node's Service proxy.
pub const CHAINS: [&str; 5] =
    [egress::CHAIN, "TERRARIUM-SERVICES", "TERRARIUM-POLICY-OUT", "TERRARIUM-POLICY-IN", "TERRARIUM-POLICY-TCP"];

/// What [`teardown`] did, and what it could not do.
#[derive(Debug, Default)]
pub struct Teardown {
    /// Whether there were nat rules of ours, which are gone now.
    pub rules_removed: bool,
    /// Links that were deleted, by name.
    pub links_deleted: Vec<String>,
    /// What failed. Everything else was done nevertheless.
    pub errors: Vec<Error>,
}

/// Removes our nat rules and all host-side links of ours, from the network namespace of the caller. To be called when
/// the Pods are gone; may be called any number of times. `net.ipv4.ip_forward` stays as it is, and so do the leases of
/// the IPAM plugin, which are files in its `dataDir`.
pub fn teardown() -> Teardown {
    let (links_deleted, mut errors) = delete_host_links(|_| true);
    let removed = Nat::open().and_then(|nat| nat.remove_chains(&CHAINS));
    let rules_removed = removed.unwrap_or_else(|error| {
        if !error.out_of_reach() {
            errors.push(EgressError::Nat(error).into());
        }
        false
    });
    Teardown { rules_removed, links_deleted, errors }
}
