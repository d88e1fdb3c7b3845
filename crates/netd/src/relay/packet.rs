//! UDP packets over IPv4 as raw sockets have them, by RFC 791 and RFC 768.

use std::net::{Ipv4Addr, SocketAddrV4};

const IP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
const UDP: u8 = 17;

/// How many hops a packet that we send may go: to whom it is for. One that comes back had nobody there.
const TTL: u8 = 1;

/// The most that a datagram can carry.
pub(super) const MOST: usize = 65_535 - IP_HEADER - UDP_HEADER;

/// A datagram that somebody sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Datagram<'a> {
    pub(super) source: SocketAddrV4,
    pub(super) destination: SocketAddrV4,
    pub(super) data: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// Reads a packet that goes on. None where it is none, or a fragment: links of Pods take nearly every datagram in one
    /// piece.
    pub(super) fn parse(packet: &'a [u8]) -> Option<Self> {
        let (ip, _) = packet.split_first_chunk::<IP_HEADER>()?;
        let header = usize::from(ip[0] & 0xf) * 4;
        let fragment = u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff != 0; // more of them, or an offset
        if ip[0] >> 4 != 4 || header < IP_HEADER || ip[8] <= TTL || ip[9] != UDP || fragment {
            return None;
        }
        let (udp, data) = packet.get(header..)?.split_first_chunk::<UDP_HEADER>()?;
        let word = |at: usize| u16::from_be_bytes([udp[at], udp[at + 1]]);
        let length = usize::from(word(4)).checked_sub(UDP_HEADER)?;
        let address = |at: usize| Ipv4Addr::new(ip[at], ip[at + 1], ip[at + 2], ip[at + 3]);
        Some(Self {
            source: SocketAddrV4::new(address(12), word(0)),
            destination: SocketAddrV4::new(address(16), word(2)),
            data: data.get(..length)?,
        })
    }

    /// The packet. Without checksum of the data, which is optional over IPv4: it never leaves the machine. The header's is the
    /// kernel's, as is the length where it is told in its own way (raw(7)).
    pub(super) fn to_packet(self) -> Option<Vec<u8>> {
        let length = u16::try_from(IP_HEADER + UDP_HEADER + self.data.len()).ok()?;
        let mut packet = Vec::with_capacity(usize::from(length));
        packet.extend([0x45, 0]);
        packet.extend(length.to_be_bytes());
        packet.extend([0, 0, 0, 0, TTL, UDP, 0, 0]);
        packet.extend(self.source.ip().octets());
        packet.extend(self.destination.ip().octets());
        let checksum = checksum(&packet);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        packet.extend(self.source.port().to_be_bytes());
        packet.extend(self.destination.port().to_be_bytes());
        packet.extend((length - IP_HEADER as u16).to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(self.data);
        Some(packet)
    }
}

/// The Internet checksum (RFC 1071) of an even number of bytes.
fn checksum(header: &[u8]) -> u16 {
    let sum: u32 = header.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn packets_survive(source: (u32, u16), destination: (u32, u16), data: Vec<u8>) {
            let address = |(address, port): (u32, u16)| SocketAddrV4::new(address.into(), port);
            let datagram = Datagram { source: address(source), destination: address(destination), data: &data };
            let mut packet = datagram.to_packet().unwrap();
            prop_assert_eq!(checksum(&packet[..IP_HEADER]), 0, "a header sums up to nothing");
            prop_assert_eq!(Datagram::parse(&packet), None, "it goes no further");
            packet[8] = 64;
            prop_assert_eq!(Datagram::parse(&packet), Some(datagram));
        }

        #[test]
        fn nothing_harms(packet: Vec<u8>) {
            Datagram::parse(&packet);
        }
    }

    #[test]
    fn fragments_and_others_are_left_alone() {
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 53);
        let mut packet = Datagram { source: address, destination: address, data: b"x" }.to_packet().unwrap();
        packet[8] = 64;
        assert!(Datagram::parse(&packet).is_some());
        for (at, value) in [(6, 0x20), (7, 1), (9, 6), (0, 0x65), (0, 0x44), (25, 10)] {
            let mut other = packet.clone();
            other[at] = value;
            assert_eq!(Datagram::parse(&other), None, "byte {at}");
        }
        assert_eq!(Datagram { data: &[0; MOST + 1], source: address, destination: address }.to_packet(), None);
    }
}
