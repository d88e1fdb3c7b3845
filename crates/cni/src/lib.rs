//! terrarium's CNI plugin: routed point-to-point veths, no bridge, egress by SNAT in legacy ip_tables.
//!
//! It speaks CNI 1.0.0 and 1.1.0 (ADD, DEL, CHECK, GC, STATUS, VERSION) and works in gVisor, where the stock plugins do
//! not: gVisor does not tell the kind of a link, has bridges that are slow, no MASQUERADE and no nftables. On Linux it
//! does the same. IPv4 only; one network per node.
//!
//! - [`main`] is the plugin; the `terrarium` program calls it when it is run as `terrarium-cni`.
//! - [`network_config`] makes the configuration that a container runtime reads.
//! - [`teardown`] removes what the plugin leaves on a node besides attachments.

mod attachment;
mod commands;
mod conf;
pub mod egress;
mod error;
mod forwarding;
pub mod host_ports;
mod invocation;
mod ipam;
pub mod iptables;
mod leases;
pub mod nat;
pub mod netlink;
mod netns;
mod node;
mod result;
mod teardown;

use std::io::{self, Read, Write};
use std::process::ExitCode;

pub use attachment::Attachment;
pub use conf::{AddressRange, DEFAULT_MTU, Ipam, NetConf, NetworkSettings, PLUGIN, VERSIONS, network_config};
pub use error::Error;
pub use ipam::IpamError;
pub use netlink::NetlinkError;
pub use netns::NetnsError;
pub use node::{address as node_address, local_ports};
pub use result::{CniResult, Dns, Interface, IpConfig, RouteConfig};
pub use teardown::{CHAINS, Teardown, teardown};

use invocation::Invocation;

/// Runs the plugin as a CNI runtime calls it: the command in the environment, the configuration on stdin, the result
/// or the error on stdout. Fails with exit status 1.
pub fn main() -> ExitCode {
    let mut stdin = Vec::new();
    let outcome = Invocation::read(|name| std::env::var(name).ok()).and_then(|invocation| {
        if invocation != Invocation::Version {
            io::stdin().read_to_end(&mut stdin).map_err(|source| Error::Io { action: "read stdin", source })?;
        }
        commands::run(&invocation, &stdin)
    });
    let (text, code) = match outcome {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(error) => (Some(error.to_json(&version_to_answer(&stdin)).to_string()), ExitCode::FAILURE),
    };
    match text.map_or(Ok(()), |text| writeln!(io::stdout(), "{text}")) {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE, // there is no one left to tell
    }
}

/// Errors are told in the configuration's version if we speak it, else in our newest.
fn version_to_answer(stdin: &[u8]) -> String {
    let newest = VERSIONS[VERSIONS.len() - 1];
    let asked = serde_json::from_slice::<serde_json::Value>(stdin).ok();
    let asked = asked.as_ref().and_then(|conf| conf["cniVersion"].as_str());
    asked.filter(|version| VERSIONS.contains(version)).unwrap_or(newest).to_owned()
}
