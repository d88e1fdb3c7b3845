//! DEL: the link goes, then the address. Nothing of it needs the Pod's namespace, and what is gone already is fine.

use std::path::Path;

use super::Input;
use crate::error::{Error, gather};
use crate::host_ports;
use crate::invocation::AddressedTo;
use crate::netlink::Netlink;
use crate::netns::Netns;

/// Detaches a Pod. Goes on after an error and returns all of them.
pub(crate) fn del(input: &Input<'_>, to: &AddressedTo, netns: Option<&Path>) -> Result<(), Error> {
    let link = to.attachment.host_link();
    let host_ports = input.conf.host_ports.as_deref();
    let steps = [
        delete_link(&link),
        netns.map_or(Ok(()), |netns| delete_in_pod(netns, &to.attachment.if_name)),
        host_ports.map_or(Ok(()), |leases| host_ports::release(leases, &link).map_err(Error::from)),
        input.ipam(&to.path).command("DEL").map_err(Error::from),
    ];
    gather(steps.into_iter().filter_map(Result::err).collect())
}

/// What is left if the node's end was deleted alone, or if ADD died between moving and renaming.
fn delete_in_pod(netns: &Path, if_name: &str) -> Result<(), Error> {
    match Netns::open_if_there(netns)? {
        // With the node's own namespace this would be the node's interface.
        Some(netns) if !netns.is_current() => netns.run(|| delete_link(if_name))?,
        _ => Ok(()),
    }
}

pub(crate) fn delete_link(name: &str) -> Result<(), Error> {
    let mut netlink = Netlink::open()?;
    if let Some(link) = netlink.link(name)?
        && let Err(error) = netlink.delete_link(link.index)
        // The other end was deleted in between, and took this one with it.
        && netlink.link(name)?.is_some()
    {
        return Err(error.into());
    }
    Ok(())
}
