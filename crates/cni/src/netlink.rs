//! Links, addresses and routes over rtnetlink: one blocking socket, one request at a time.
//!
//! Only what gVisor understands is sent (`pkg/sentry/socket/netlink/route`): no strict checks, no filters in dumps, no
//! link kind in answers, links changed by index, and every route with its device. Linux takes the same.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnet::Ipv4Net;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::errno::Errno;

/// Room for one datagram: Linux sends dumps in pieces of 32 KiB at most.
const DATAGRAM: usize = 64 * 1024;

/// A request that the kernel refused, or an answer that makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action}")]
pub struct NetlinkError {
    /// What was asked for, such as `add address 10.42.0.2 to link 3`.
    pub action: String,
    /// What the kernel said.
    pub source: io::Error,
}

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The number that requests name it by; a link gets a new one when it moves to another namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address, if it has one.
    pub mac: Option<Vec<u8>>,
    /// Bytes of the largest packet.
    pub mtu: u32,
    /// Its kind, such as `veth`: gVisor does not tell it.
    pub kind: Option<String>,
}

/// An IPv4 route with a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub destination: Ipv4Net,
    /// Through whom, if not directly.
    pub gateway: Option<Ipv4Addr>,
    /// Index of the link.
    pub link: u32,
}

/// A socket into the network namespace that it was opened in.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket in the namespace of the calling thread.
    pub fn open() -> Result<Self, NetlinkError> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            Ok(Self { socket, sequence: 0 })
        };
        open().map_err(|source| NetlinkError { action: "open a netlink socket".into(), source })
    }

    /// All links.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let answers = self.dump("list links", RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        Ok(answers.into_iter().filter_map(link_in).collect())
    }

    /// The link of that name. It is asked for by its name: a dump of all links takes longer with every Pod.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let mut request = LinkMessage::default();
        request.attributes.push(LinkAttribute::IfName(name.into()));
        match self.exchange(RouteNetlinkMessage::GetLink(request), NLM_F_ACK) {
            Ok(answers) => Ok(answers.into_iter().find_map(link_in)),
            Err(error) if error.raw_os_error() == Some(Errno::ENODEV as i32) => Ok(None),
            Err(source) => Err(NetlinkError { action: format!("look for link {name}"), source }),
        }
    }

    /// The link of that name, which must exist.
    pub fn expect_link(&mut self, name: &str) -> Result<Link, NetlinkError> {
        let missing = || NetlinkError { action: format!("find link {name}"), source: Errno::ENODEV.into() };
        self.link(name)?.ok_or_else(missing)
    }

    /// Creates a pair of virtual Ethernet devices.
    pub fn create_veth(&mut self, name: &str, peer: &str) -> Result<(), NetlinkError> {
        let mut peer_message = LinkMessage::default();
        peer_message.attributes.push(LinkAttribute::IfName(peer.into()));
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.into()));
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer_message))),
        ]));
        self.create(format!("create veth {name}"), RouteNetlinkMessage::NewLink(message))
    }

    /// Moves a link to another namespace.
    pub fn move_link(&mut self, link: u32, netns: BorrowedFd<'_>) -> Result<(), NetlinkError> {
        let attribute = LinkAttribute::NetNsFd(netns.as_raw_fd());
        self.change_link(format!("move link {link} to the Pod's namespace"), link, attribute)
    }

    /// Gives a link another name. Linux wants it to be down.
    pub fn rename_link(&mut self, link: u32, name: &str) -> Result<(), NetlinkError> {
        self.change_link(format!("rename link {link} to {name}"), link, LinkAttribute::IfName(name.into()))
    }

    /// Sets the largest packet, in bytes.
    pub fn set_mtu(&mut self, link: u32, mtu: u32) -> Result<(), NetlinkError> {
        self.change_link(format!("set the MTU of link {link} to {mtu}"), link, LinkAttribute::Mtu(mtu))
    }

    /// Sets a link up.
    pub fn set_up(&mut self, link: u32) -> Result<(), NetlinkError> {
        let mut message = link_message(link);
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.request(format!("set link {link} up"), RouteNetlinkMessage::NewLink(message), NLM_F_ACK)?;
        Ok(())
    }

    /// Deletes a link; the other end of a veth goes with it.
    pub fn delete_link(&mut self, link: u32) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::DelLink(link_message(link));
        self.request(format!("delete link {link}"), message, NLM_F_ACK)?;
        Ok(())
    }

    /// The IPv4 addresses of a link.
    pub fn addresses(&mut self, link: u32) -> Result<Vec<Ipv4Addr>, NetlinkError> {
        let mut request = AddressMessage::default();
        request.header.family = AddressFamily::Inet;
        let answers = self.dump("list addresses", RouteNetlinkMessage::GetAddress(request))?;
        let address = |answer| match answer {
            RouteNetlinkMessage::NewAddress(message) if message.header.index == link => address_of(&message),
            _ => None,
        };
        Ok(answers.into_iter().filter_map(address).collect())
    }

    /// Gives a link an address, by itself (/32) or with its network.
    pub fn add_address(&mut self, link: u32, address: impl Into<Ipv4Net>) -> Result<(), NetlinkError> {
        let address = address.into();
        let message = RouteNetlinkMessage::NewAddress(own_address(link, address));
        self.create(format!("add address {address} to link {link}"), message)
    }

    /// Takes such an address away again.
    pub fn delete_address(&mut self, link: u32, address: impl Into<Ipv4Net>) -> Result<(), NetlinkError> {
        let address = address.into();
        let message = RouteNetlinkMessage::DelAddress(own_address(link, address));
        self.request(format!("delete address {address} of link {link}"), message, NLM_F_ACK)?;
        Ok(())
    }

    /// The IPv4 routes of the main table that name a device.
    pub fn routes(&mut self) -> Result<Vec<Route>, NetlinkError> {
        let mut request = RouteMessage::default();
        request.header.address_family = AddressFamily::Inet;
        let answers = self.dump("list routes", RouteNetlinkMessage::GetRoute(request))?;
        let route = |answer| match answer {
            RouteNetlinkMessage::NewRoute(message) => route_of(&message),
            _ => None,
        };
        Ok(answers.into_iter().filter_map(route).collect())
    }

    /// Adds a route to the main table.
    pub fn add_route(&mut self, route: Route) -> Result<(), NetlinkError> {
        let Route { destination, gateway, link } = route;
        self.add_route_over(destination, gateway, Some(link))
    }

    /// Adds a route through a gateway without saying over which device, as `ip route add default via GATEWAY` does.
    /// gVisor takes it, and it leads nowhere.
    pub fn add_deviceless_route(&mut self, destination: Ipv4Net, gateway: Ipv4Addr) -> Result<(), NetlinkError> {
        self.add_route_over(destination, Some(gateway), None)
    }

    fn add_route_over(
        &mut self,
        destination: Ipv4Net,
        gateway: Option<Ipv4Addr>,
        link: Option<u32>,
    ) -> Result<(), NetlinkError> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.destination_prefix_length = destination.prefix_len();
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Boot;
        message.header.scope = if gateway.is_some() { RouteScope::Universe } else { RouteScope::Link };
        message.header.kind = RouteType::Unicast;
        if destination.prefix_len() > 0 {
            message.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(destination.addr())));
        }
        if let Some(gateway) = gateway {
            message.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet(gateway)));
        }
        message.attributes.extend(link.map(RouteAttribute::Oif));
        let over = link.map_or_else(|| "no link".to_owned(), |link| format!("link {link}"));
        let action = format!("add a route to {destination} over {over}");
        self.create(action, RouteNetlinkMessage::NewRoute(message))
    }

    fn change_link(&mut self, action: String, link: u32, attribute: LinkAttribute) -> Result<(), NetlinkError> {
        let mut message = link_message(link);
        message.attributes.push(attribute);
        self.request(action, RouteNetlinkMessage::NewLink(message), NLM_F_ACK)?;
        Ok(())
    }

    fn create(&mut self, action: String, message: RouteNetlinkMessage) -> Result<(), NetlinkError> {
        self.request(action, message, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL)?;
        Ok(())
    }

    fn dump(&mut self, action: &str, message: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        self.request(action.into(), message, NLM_F_DUMP)
    }

    /// Sends one request and gathers the answers until the kernel says that there are no more.
    fn request(
        &mut self,
        action: String,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        self.exchange(message, flags).map_err(|source| NetlinkError { action, source })
    }

    fn exchange(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut buffer = vec![0; packet.buffer_len()];
        packet.serialize(&mut buffer);
        self.socket.send_to(&buffer, &SocketAddr::new(0, 0), 0)?;

        let mut answers = Vec::new();
        loop {
            let mut datagram = Vec::with_capacity(DATAGRAM);
            self.socket.recv(&mut datagram, 0)?;
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
                let length = (answer.header.length as usize).next_multiple_of(4).clamp(1, rest.len());
                rest = &rest[length..];
                if answer.header.sequence_number != self.sequence {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::InnerMessage(message) => answers.push(message),
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                    NetlinkPayload::Error(_) => return Ok(answers),
                    _ => {}
                }
            }
        }
    }
}

fn own_address(link: u32, address: Ipv4Net) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = address.prefix_len();
    message.header.index = link;
    message.attributes.push(AddressAttribute::Local(IpAddr::V4(address.addr())));
    message.attributes.push(AddressAttribute::Address(IpAddr::V4(address.addr())));
    message
}

fn link_message(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

fn link_in(answer: RouteNetlinkMessage) -> Option<Link> {
    match answer {
        RouteNetlinkMessage::NewLink(message) => Some(link_of(message)),
        _ => None,
    }
}

fn link_of(message: LinkMessage) -> Link {
    let mut link = Link { index: message.header.index, name: String::new(), mac: None, mtu: 0, kind: None };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(mac) => link.mac = Some(mac),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::LinkInfo(infos) => link.kind = infos.iter().find_map(kind_of),
            _ => {}
        }
    }
    link
}

fn kind_of(info: &LinkInfo) -> Option<String> {
    match info {
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    }
}

fn address_of(message: &AddressMessage) -> Option<Ipv4Addr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
        _ => None,
    })
}

fn route_of(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    if header.address_family != AddressFamily::Inet || header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    let (mut destination, mut gateway, mut link) = (Ipv4Addr::UNSPECIFIED, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = *address,
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => gateway = Some(*address),
            RouteAttribute::Oif(index) => link = Some(*index),
            _ => {}
        }
    }
    let destination = Ipv4Net::new(destination, header.destination_prefix_length).ok()?;
    Some(Route { destination, gateway, link: link? })
}
