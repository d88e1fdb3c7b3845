//! `terrarium.json` in the data directory: it says that the directory is ours, and keeps what a cluster is from its first
//! start on, whatever the machine that it is started on later.

use std::fs;
use std::io;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config::Network;
use crate::error::DataDirFault;
use crate::layout::write_durably;
use crate::{Error, Layout};

/// The layout of the data directory that this program reads and writes.
pub(crate) const FORMAT: u32 = 1;

/// The API server's port unless the user names another.
pub const DEFAULT_API_PORT: u16 = 6443;

/// What the file holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Marker {
    format: u32,
    /// The node's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    /// The API server's port, where it is not the usual one.
    #[serde(skip_serializing_if = "Option::is_none")]
    api_port: Option<u16>,
    /// The range of the Services' addresses, where it is not the usual one.
    #[serde(skip_serializing_if = "Option::is_none")]
    services: Option<Ipv4Net>,
    /// Whether a cluster was up: its store must be there since.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    was_up: bool,
    /// What a later version of the same format put in.
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl Marker {
    pub(crate) fn new() -> Self {
        Self { format: FORMAT, ..Self::default() }
    }
}

impl Layout {
    /// The marker; `None` if nothing says that the directory is ours.
    ///
    /// # Errors
    /// It is of a newer version, or cannot be read or understood.
    pub(crate) fn marker(&self) -> Result<Option<Marker>, Error> {
        let path = self.marker_path();
        let content = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(Error::io("read", &path))?,
        };
        let refused = |why| Err(Error::DataDir { path: self.data().to_owned(), why });
        // The format first: of another one nothing else is known.
        let format = serde_json::from_slice::<Value>(&content).ok().and_then(|value| value["format"].as_u64());
        match (format.map(u32::try_from), serde_json::from_slice(&content)) {
            (Some(Ok(FORMAT)), Ok(marker)) => Ok(Some(marker)),
            (Some(Ok(newer)), _) if newer > FORMAT => refused(DataDirFault::Newer(newer, FORMAT)),
            _ => refused(DataDirFault::Unreadable),
        }
    }

    fn change_marker(&self, change: impl FnOnce(&mut Marker)) -> Result<Marker, Error> {
        let before = self.marker()?.unwrap_or_else(Marker::new);
        let mut marker = before.clone();
        change(&mut marker);
        if marker != before {
            self.write_marker(&marker)?;
        }
        Ok(marker)
    }

    pub(crate) fn write_marker(&self, marker: &Marker) -> Result<(), Error> {
        write_durably(&self.marker_path(), &serde_json::to_vec(marker).expect("a marker becomes JSON"))
    }

    /// The name that the node has had since the first start with this data directory; `default` if there was none.
    pub(crate) fn node_name(&self, default: impl FnOnce() -> String) -> Result<String, Error> {
        Ok(self.marker()?.and_then(|marker| marker.node).unwrap_or_else(default))
    }

    /// Notes the node's name, which stays from the first time on. Call it with the lock held.
    pub(crate) fn keep_node_name(&self, name: &str) -> Result<(), Error> {
        let change = |marker: &mut Marker| {
            marker.node.get_or_insert_with(|| name.to_owned());
        };
        self.change_marker(change).map(drop)
    }

    /// The range of the Services' addresses.
    pub(crate) fn services(&self) -> Result<Ipv4Net, Error> {
        let services = self.marker()?.and_then(|marker| marker.services);
        Ok(services.unwrap_or_else(|| Network::of([]).services))
    }

    /// Notes that range, which stays with the store: each Service keeps its own address. Call it with the lock held.
    pub(crate) fn keep_services(&self, range: Ipv4Net) -> Result<(), Error> {
        let (usual, kept) = (Network::of([]).services, self.services()?);
        if self.was_up()? && kept != range {
            return Err(Error::ServiceRange { kept, possible: range });
        }
        self.change_marker(|marker| marker.services = (range != usual).then_some(range)).map(drop)
    }

    /// The API server's port.
    ///
    /// # Errors
    /// The data directory is not usable.
    pub fn api_port(&self) -> Result<u16, Error> {
        Ok(self.marker()?.and_then(|marker| marker.api_port).unwrap_or(DEFAULT_API_PORT))
    }

    /// Changes the API server's port from the next start on.
    pub(crate) fn set_api_port(&self, port: u16) -> Result<(), Error> {
        self.change_marker(|marker| marker.api_port = (port != DEFAULT_API_PORT).then_some(port)).map(drop)
    }

    /// Whether a cluster with this data directory was up once.
    pub(crate) fn was_up(&self) -> Result<bool, Error> {
        Ok(self.marker()?.is_some_and(|marker| marker.was_up))
    }

    /// Notes that the store is in use from now on, or not any more.
    pub(crate) fn set_was_up(&self, was_up: bool) -> Result<(), Error> {
        self.change_marker(|marker| marker.was_up = was_up).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use terrarium_remedies::Setting;

    use super::*;
    use crate::ErrorId;

    #[test]
    fn what_a_cluster_is_stays_with_its_data() {
        let (_root, layout) = Layout::temporary();
        assert_eq!((layout.api_port().unwrap(), layout.was_up().unwrap()), (DEFAULT_API_PORT, false));
        assert_eq!(layout.node_name(|| "first".to_owned()).unwrap(), "first");
        assert_eq!(layout.node_name(|| "asked again".to_owned()).unwrap(), "asked again", "asking changes nothing");
        layout.keep_node_name("first").unwrap();
        layout.keep_node_name("second").unwrap();
        layout.set_api_port(7443).unwrap();
        layout.set_was_up(true).unwrap();
        layout.prepare().unwrap();
        assert_eq!(layout.node_name(|| "moved".to_owned()).unwrap(), "first");
        assert_eq!((layout.api_port().unwrap(), layout.was_up().unwrap()), (7443, true));
    }

    #[test]
    fn services_keep_their_addresses_as_long_as_their_store() {
        let (_root, layout) = Layout::temporary();
        let [usual, shared] = [Network::of([]), Network::of([&Setting::HostNetwork])].map(|network| network.services);
        layout.keep_services(shared).unwrap();
        layout.keep_services(usual).unwrap();
        layout.set_was_up(true).unwrap();
        assert_eq!(layout.keep_services(shared).unwrap_err().id(), ErrorId::ServiceRange);
        layout.keep_services(usual).unwrap();
        layout.set_was_up(false).unwrap();
        layout.keep_services(shared).unwrap();
        layout.set_was_up(true).unwrap();
        assert_eq!(layout.keep_services(usual).unwrap_err().id(), ErrorId::ServiceRange);
    }

    #[test]
    fn what_a_later_version_notes_is_kept() {
        let (_root, layout) = Layout::temporary();
        fs::write(layout.marker_path(), r#"{"format":1,"colour":"moss"}"#).unwrap();
        layout.set_api_port(7443).unwrap();
        assert_eq!(fs::read_to_string(layout.marker_path()).unwrap(), r#"{"format":1,"apiPort":7443,"colour":"moss"}"#);
    }

    #[test]
    fn a_marker_is_newer_or_ours_or_damaged() {
        let (_root, layout) = Layout::temporary();
        for (text, id) in [
            (r#"{"format":2,"node":["of","another","kind"]}"#, ErrorId::DataDirNewer),
            (r#"{"format":1,"node":["x"]}"#, ErrorId::DataDirUnreadable),
            (r#"{"format":"#, ErrorId::DataDirUnreadable),
            (r#"{"format":0}"#, ErrorId::DataDirUnreadable),
            ("", ErrorId::DataDirUnreadable),
        ] {
            fs::write(layout.marker_path(), text).unwrap();
            assert_eq!(layout.prepare().unwrap_err().id(), id, "{text}");
            assert_eq!(fs::read_to_string(layout.marker_path()).unwrap(), text);
        }
    }
}
