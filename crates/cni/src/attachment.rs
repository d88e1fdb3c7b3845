//! An attachment: one interface of one container, and the names that follow from it.

use serde::{Deserialize, Serialize};

/// Names of host-side veths begin so.
const HOST_PREFIX: &str = "ter";
/// Names of Pod-side veths begin so until they are moved and renamed.
const PEER_PREFIX: &str = "tep";
const DIGITS: usize = 12;

/// One interface of one container, as CNI counts attachments (and lists them for GC).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// `CNI_CONTAINERID`
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// `CNI_IFNAME`
    #[serde(rename = "ifname")]
    pub if_name: String,
}

impl Attachment {
    /// The name of the host-side veth. It follows from the attachment alone, so that DEL needs no namespace and no
    /// record; 15 bytes, the most that a link's name may have.
    pub fn host_link(&self) -> String {
        format!("{HOST_PREFIX}{}", self.digits())
    }

    /// The name of the Pod-side veth before it reaches the Pod.
    pub fn peer_link(&self) -> String {
        format!("{PEER_PREFIX}{}", self.digits())
    }

    /// 48 bits of FNV-1a, which must never change: a newer build deletes what an older one made.
    fn digits(&self) -> String {
        let bytes = self.container_id.bytes().chain([0]).chain(self.if_name.bytes());
        let hash =
            bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        format!("{:0DIGITS$x}", (hash ^ (hash >> 48)) & 0xffff_ffff_ffff)
    }
}

/// Whether a link's name is one that [`Attachment::host_link`] gives.
pub fn is_host_link(name: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    name.strip_prefix(HOST_PREFIX).is_some_and(|digits| digits.len() == DIGITS && digits.bytes().all(is_digit))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_stay_what_they_were() {
        let attachment = Attachment { container_id: "cnitool-1".into(), if_name: "eth0".into() };
        assert_eq!(attachment.host_link(), "tera50785003db0");
        assert_eq!(attachment.peer_link(), "tepa50785003db0");
    }

    #[test]
    fn other_links_are_not_ours() {
        for name in ["eth0", "lo", "terra0", "ter", "ter0123456789", "ter0123456789AB", "tep0123456789ab"] {
            assert!(!is_host_link(name), "{name}");
        }
    }

    proptest! {
        #[test]
        fn names_are_known_again_and_fit(container_id in "[a-z0-9][a-zA-Z0-9_.-]{0,80}", if_name in "[a-z0-9]{1,15}") {
            let attachment = Attachment { container_id, if_name };
            prop_assert!(attachment.host_link().len() <= 15);
            prop_assert!(is_host_link(&attachment.host_link()));
            prop_assert!(attachment.peer_link().len() <= 15);
            prop_assert!(!is_host_link(&attachment.peer_link()));
        }
    }
}
