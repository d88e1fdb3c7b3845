//! STATUS: would ADD succeed?

use super::Input;
use crate::error::Error;
use crate::netlink::Netlink;

/// Tries whatever ADD needs and does not change anything. Everything that is missing is code 50.
pub(crate) fn status(input: &Input<'_>, path: &str) -> Result<(), Error> {
    let ready = || {
        input.ipam(path).command("STATUS")?;
        Netlink::open()?.links()?;
        if let Some(egress) = input.conf.egress()? {
            egress.is_installed()?;
        }
        Ok(())
    };
    ready().map_err(|error| Error::NotReady(Box::new(error)))
}
