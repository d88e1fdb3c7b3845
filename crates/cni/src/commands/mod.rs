//! The commands of CNI, one file each.

mod add;
mod check;
mod del;
mod gc;
mod status;

pub(crate) use add::add;
pub(crate) use check::check;
pub(crate) use del::{del, delete_link};
pub(crate) use gc::{delete_host_links, gc};
pub(crate) use status::status;

use crate::conf::{NetConf, VERSIONS};
use crate::error::Error;
use crate::invocation::Invocation;
use crate::ipam::IpamPlugin;

/// The configuration in both its forms: understood, and as it came.
pub(crate) struct Input<'a> {
    pub conf: NetConf,
    pub stdin: &'a [u8],
}

impl<'a> Input<'a> {
    fn ipam(&'a self, path: &'a str) -> IpamPlugin<'a> {
        IpamPlugin { plugin: &self.conf.ipam.plugin, path, stdin: self.stdin }
    }
}

/// Runs one command; returns what goes to stdout, if anything does.
pub(crate) fn run(invocation: &Invocation, stdin: &[u8]) -> Result<Option<String>, Error> {
    if *invocation == Invocation::Version {
        return Ok(Some(serde_json::json!({ "cniVersion": "1.1.0", "supportedVersions": VERSIONS }).to_string()));
    }
    let input = Input { conf: NetConf::parse(stdin)?, stdin };
    match invocation {
        Invocation::Add(to, netns) => {
            let result = add(&input, to, netns)?;
            return Ok(Some(serde_json::to_string(&result).expect("a result is plain text, numbers and lists")));
        }
        Invocation::Del(to, netns) => del(&input, to, netns.as_deref())?,
        Invocation::Check(to, netns) => check(&input, to, netns)?,
        Invocation::Gc { path } => since_1_1("GC", &input, || gc(&input, path))?,
        Invocation::Status { path } => since_1_1("STATUS", &input, || status(&input, path))?,
        Invocation::Version => {}
    }
    Ok(None)
}

fn since_1_1(command: &'static str, input: &Input<'_>, work: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
    if input.conf.is_1_1() {
        work()
    } else {
        Err(Error::CommandVersion { command, found: input.conf.cni_version.clone() })
    }
}
