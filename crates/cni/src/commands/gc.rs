//! GC: links of attachments that the runtime no longer knows are deleted; their addresses are the IPAM plugin's matter.

use super::Input;
use crate::attachment::{Attachment, is_host_link};
use crate::error::{Error, gather};
use crate::host_ports;
use crate::leases::Leases;
use crate::netlink::Netlink;

/// Deletes leftovers. Goes on after an error and returns all of them.
pub(crate) fn gc(input: &Input<'_>, path: &str) -> Result<(), Error> {
    let Some(valid) = &input.conf.valid_attachments else {
        return Err(Error::Config("GC needs `cni.dev/valid-attachments`".into()));
    };
    let keep: Vec<String> = valid.iter().map(Attachment::host_link).collect();
    let (_, mut errors) = delete_host_links(|name| !keep.iter().any(|kept| kept == name));
    let host_ports = input.conf.host_ports.as_deref();
    errors.extend(host_ports.and_then(|leases| host_ports::release_others(leases, &keep).err()).map(Error::from));
    errors.extend(Leases::of(&input.conf).release(&input.ipam(path), |attachment| !valid.contains(attachment)).1);
    errors.extend(input.ipam(path).command("GC").err().map(Error::from));
    gather(errors)
}

/// Deletes those links of ours on the node that `unwanted` names; tells which are gone and what went wrong.
pub(crate) fn delete_host_links(unwanted: impl Fn(&str) -> bool) -> (Vec<String>, Vec<Error>) {
    let (mut deleted, mut errors) = (Vec::new(), Vec::new());
    let found = Netlink::open().and_then(|mut netlink| netlink.links().map(|links| (netlink, links)));
    match found {
        Ok((mut netlink, links)) => {
            for link in links.into_iter().filter(|link| is_host_link(&link.name) && unwanted(&link.name)) {
                match netlink.delete_link(link.index) {
                    Ok(()) => deleted.push(link.name),
                    Err(error) => errors.push(error.into()),
                }
            }
        }
        Err(error) => errors.push(error.into()),
    }
    (deleted, errors)
}
