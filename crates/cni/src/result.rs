//! The result of ADD (CNI specification 1.1, section 5), read from the IPAM plugin and written for the runtime.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// What ADD returns, and what CHECK and DEL get back as `prevResult`. An IPAM plugin leaves `interfaces` out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CniResult {
    /// The configuration's version.
    #[serde(default)]
    pub cni_version: String,
    /// Links that were made, on the node and in the Pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<Interface>,
    /// Addresses that were given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<IpConfig>,
    /// Routes inside the Pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<RouteConfig>,
    /// Name servers.
    #[serde(default, skip_serializing_if = "Dns::is_empty")]
    pub dns: Dns,
}

/// A link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its hardware address, as `02:42:…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Its largest packet in bytes; since 1.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The Pod's network namespace, `CNI_NETNS`; absent for links of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<String>,
}

/// An address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpConfig {
    /// The address with its prefix.
    pub address: IpNet,
    /// The next hop for what is not in the prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Index in [`CniResult::interfaces`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
}

/// A route inside the Pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteConfig {
    /// Where to.
    pub dst: IpNet,
    /// Through whom; the address's gateway if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
}

/// Name servers and how to ask them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Dns {
    /// Addresses, most wanted first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// Domain for short names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Domains to search, most wanted first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Options for the resolver.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl Dns {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A hardware address in its usual form.
pub(crate) fn mac_text(mac: &[u8]) -> String {
    mac.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipam_result_of_host_local_is_understood() {
        let printed =
            r#"{"cniVersion": "1.1.0", "ips": [{"address": "10.42.0.2/24", "gateway": "10.42.0.1"}], "dns": {}}"#;
        let result: CniResult = serde_json::from_str(printed).unwrap();
        assert_eq!(result.ips[0].address.addr().to_string(), "10.42.0.2");
        assert!(result.interfaces.is_empty() && result.dns.is_empty());
    }

    #[test]
    fn a_result_leaves_out_what_is_not_known() {
        let interface =
            Interface { name: "ter0".into(), mac: Some(mac_text(&[2, 0x42, 10])), mtu: None, sandbox: None };
        let address = IpConfig {
            address: "10.42.0.2/32".parse().unwrap(),
            gateway: Some([10, 42, 0, 1].into()),
            interface: Some(0),
        };
        let route = RouteConfig { dst: "0.0.0.0/0".parse().unwrap(), gw: None };
        let result = CniResult {
            cni_version: "1.0.0".into(),
            interfaces: vec![interface],
            ips: vec![address],
            routes: vec![route],
            dns: Dns::default(),
        };
        assert_eq!(
            serde_json::to_string(&result).unwrap(),
            r#"{"cniVersion":"1.0.0","interfaces":[{"name":"ter0","mac":"02:42:0a"}],"ips":[{"address":"10.42.0.2/32","gateway":"10.42.0.1","interface":0}],"routes":[{"dst":"0.0.0.0/0"}]}"#
        );
    }
}
