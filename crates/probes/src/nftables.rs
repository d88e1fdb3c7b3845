//! nftables: one transaction of nf_tables over netlink, that adds a table with a chain of the nat hook
//! (`include/uapi/linux/netfilter/nf_tables.h`).

use std::time::Duration;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::errno::Errno;

use crate::failure::{Doing as _, Failure};
use crate::network::wait_for;

const BATCH_BEGIN: u16 = 0x10; // NFNL_MSG_BATCH_BEGIN
const BATCH_END: u16 = 0x11; // NFNL_MSG_BATCH_END
const SUBSYSTEM: u16 = 10; // NFNL_SUBSYS_NFTABLES
const NEW_TABLE: u16 = SUBSYSTEM << 8; // NFT_MSG_NEWTABLE
const NEW_CHAIN: u16 = SUBSYSTEM << 8 | 3; // NFT_MSG_NEWCHAIN
const REQUEST: u16 = 1; // NLM_F_REQUEST
const ACK: u16 = 4; // NLM_F_ACK
const CREATE: u16 = 0x400; // NLM_F_CREATE
const ERROR: u16 = 2; // NLMSG_ERROR
const NESTED: u16 = 0x8000; // NLA_F_NESTED
const IPV4: u8 = 2; // NFPROTO_IPV4
const HEADER: usize = 16;
/// The sequence number of the last request: once it is answered, all are.
const LAST: u32 = 3;

/// Adds the table and the chain in this thread's network namespace.
pub(crate) fn works() -> Result<(), Failure> {
    let mut socket = Socket::new(NETLINK_NETFILTER).doing("open a netfilter netlink socket")?;
    socket.bind_auto().doing("bind a netfilter netlink socket")?;
    socket.send_to(&transaction(), &SocketAddr::new(0, 0), 0).doing("send a transaction to nf_tables")?;
    while wait_for(&socket, Duration::from_millis(200)).doing("wait for nf_tables")? {
        let (datagram, _) = socket.recv_from_full().doing("read the answer of nf_tables")?;
        for (sequence, errno) in errors(&datagram) {
            if errno != 0 {
                let refused: nix::Result<()> = Err(Errno::from_raw(errno));
                return refused.doing("add an nf_tables table with a nat chain");
            }
            if sequence == LAST {
                return Ok(());
            }
        }
    }
    Err(Failure::new("nf_tables does not answer"))
}

fn transaction() -> Vec<u8> {
    let name = |attribute, name: &str| attribute_of(attribute, format!("{name}\0").as_bytes());
    let hook = [attribute_of(1, &0_u32.to_be_bytes()), attribute_of(2, &0_u32.to_be_bytes())].concat();
    let chain = [
        name(1, "terrarium-probe"),      // NFTA_CHAIN_TABLE
        name(3, "probe"),                // NFTA_CHAIN_NAME
        attribute_of(4 | NESTED, &hook), // NFTA_CHAIN_HOOK: prerouting, priority 0
        name(7, "nat"),                  // NFTA_CHAIN_TYPE
    ];
    [
        message(BATCH_BEGIN, REQUEST, 1, 0, SUBSYSTEM, &[]),
        message(NEW_TABLE, REQUEST | ACK | CREATE, 2, IPV4, 0, &name(1, "terrarium-probe")), // NFTA_TABLE_NAME
        message(NEW_CHAIN, REQUEST | ACK | CREATE, LAST, IPV4, 0, &chain.concat()),
        message(BATCH_END, REQUEST, 4, 0, SUBSYSTEM, &[]),
    ]
    .concat()
}

/// `struct nlmsghdr`, `struct nfgenmsg` and attributes.
fn message(kind: u16, flags: u16, sequence: u32, family: u8, resource: u16, attributes: &[u8]) -> Vec<u8> {
    let length = (HEADER + 4 + attributes.len()) as u32;
    let mut message = Vec::with_capacity(length as usize);
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    message.extend(0_u32.to_ne_bytes());
    message.extend([family, 0]);
    message.extend(resource.to_be_bytes());
    message.extend(attributes);
    message
}

/// `struct nlattr` and its value, padded.
fn attribute_of(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = 4 + value.len();
    let mut attribute = Vec::with_capacity(length.next_multiple_of(4));
    attribute.extend((length as u16).to_ne_bytes());
    attribute.extend(kind.to_ne_bytes());
    attribute.extend(value);
    attribute.resize(length.next_multiple_of(4), 0);
    attribute
}

/// The acknowledgements in a datagram: whose, and the error's number or 0.
fn errors(mut datagram: &[u8]) -> Vec<(u32, i32)> {
    let mut errors = Vec::new();
    let word = |bytes: &[u8], at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    while let (Some(length), Some(sequence)) = (word(datagram, 0), word(datagram, 8)) {
        let length = length as usize;
        if length < HEADER || length > datagram.len() {
            break;
        }
        if datagram[4..6] == ERROR.to_ne_bytes()
            && let Some(code) = word(datagram, HEADER)
        {
            errors.push((sequence, code.cast_signed().saturating_neg()));
        }
        datagram = &datagram[length.next_multiple_of(4).min(datagram.len())..];
    }
    errors
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_transaction_is_four_aligned_messages() {
        let all = transaction();
        let (mut at, mut kinds) = (0, Vec::new());
        while at < all.len() {
            kinds.push(u16::from_ne_bytes([all[at + 4], all[at + 5]]));
            at += u32::from_ne_bytes(all[at..at + 4].try_into().unwrap()) as usize;
            assert_eq!(at % 4, 0);
        }
        assert_eq!(kinds, [BATCH_BEGIN, NEW_TABLE, NEW_CHAIN, BATCH_END]);
    }

    #[test]
    fn acknowledgements_are_found() {
        let acknowledgement = |sequence, errno: i32| {
            let mut message = message(ERROR, 0, sequence, 0, 0, &[0; 16]);
            message[HEADER..HEADER + 4].copy_from_slice(&(-errno).to_ne_bytes());
            message
        };
        let datagram = [acknowledgement(2, 0), message(NEW_TABLE, 0, 9, 0, 0, &[]), acknowledgement(3, 22)].concat();
        assert_eq!(errors(&datagram), [(2, 0), (3, 22)]);
    }

    proptest! {
        #[test]
        fn no_datagram_is_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = errors(&bytes);
        }
    }
}
