//! The network configuration: what the runtime hands to the plugin, and what terrarium writes for the runtime.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnet::Ipv4Net;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::attachment::Attachment;
use crate::egress::{self, Egress, EgressError};
use crate::error::Error;
use crate::host_ports::PortMapping;
use crate::result::{CniResult, Dns};

/// Versions of the CNI specification that the plugin speaks.
pub const VERSIONS: [&str; 2] = ["1.0.0", "1.1.0"];
/// The plugin's `type`, and thus the name of its program.
pub const PLUGIN: &str = "terrarium-cni";
/// Largest packet on Pod links, in bytes, if the configuration does not say: in gVisor, where each packet costs much
/// and no wire is involved, ten times the throughput of 1500.
pub const DEFAULT_MTU: u32 = 60_000;

/// The configuration of one plugin as the runtime hands it over on stdin (CNI specification 1.1, section 2).
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetConf {
    /// Version of the specification that the runtime speaks.
    pub cni_version: String,
    /// Name of the network.
    #[serde(default)]
    pub name: String,
    /// Largest packet on both ends of each Pod link, in bytes.
    #[serde(default = "default_mtu")]
    pub mtu: u32,
    /// Whether what Pods send out of the cluster gets the node's address as its source.
    #[serde(default)]
    pub ip_masq: bool,
    /// Whether the node is to route between Pods, and from Pods to the outside: `net.ipv4.ip_forward` is set to 1.
    #[serde(default = "default_ip_forward")]
    pub ip_forward: bool,
    /// Destinations that Pods reach under their own address; needed with `ipMasq`.
    #[serde(rename = "clusterCIDR")]
    pub cluster_cidr: Option<Ipv4Net>,
    /// The node's address; the source address of the default route if absent.
    #[serde(rename = "nodeIP")]
    pub node_ip: Option<Ipv4Addr>,
    /// Who gives out addresses, and which.
    pub ipam: Ipam,
    /// Name servers to report; those of the IPAM plugin come first.
    #[serde(default)]
    pub dns: Dns,
    /// Where the node's Service proxy keeps its leases of host ports; see [`host_ports`](crate::host_ports).
    pub host_ports: Option<PathBuf>,
    /// What the runtime says about this one Pod.
    #[serde(default)]
    pub runtime_config: RuntimeConfig,
    /// For CHECK and DEL: what ADD returned. For ADD: refused, since this plugin creates the interface.
    pub prev_result: Option<CniResult>,
    /// For GC: all attachments that are still in use.
    #[serde(rename = "cni.dev/valid-attachments")]
    pub valid_attachments: Option<Vec<Attachment>>,
}

/// What a runtime hands over by the capabilities that the configuration names.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuntimeConfig {
    /// Ports of the node that are to lead to the Pod.
    #[serde(default)]
    pub port_mappings: Vec<PortMapping>,
    /// Limits of the Pod's traffic, there only if it asks for some.
    pub bandwidth: Option<Value>,
}

/// The part that belongs to the IPAM plugin, as far as this plugin reads it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Ipam {
    /// Name of the IPAM plugin's program, such as `host-local`.
    #[serde(rename = "type")]
    pub plugin: String,
    /// Sets of ranges, one address from each set: host-local's key.
    #[serde(default)]
    pub ranges: Vec<Vec<AddressRange>>,
    /// Where host-local keeps its leases.
    #[serde(rename = "dataDir", default = "default_data_dir")]
    pub data_dir: PathBuf,
    /// host-local's older key for a single range.
    pub subnet: Option<Ipv4Net>,
}

/// A range that Pods get addresses from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct AddressRange {
    /// The network.
    pub subnet: Ipv4Net,
}

fn default_data_dir() -> PathBuf {
    "/var/lib/cni/networks".into()
}

fn default_mtu() -> u32 {
    DEFAULT_MTU
}

fn default_ip_forward() -> bool {
    true
}

impl NetConf {
    /// Reads a configuration and checks what can be checked without the system.
    pub fn parse(stdin: &[u8]) -> Result<Self, Error> {
        // The version first: another version may well have keys of another shape.
        let value: Value = serde_json::from_slice(stdin).map_err(Error::Decode)?;
        let version = value.get("cniVersion").and_then(Value::as_str).unwrap_or("0.1.0");
        if !VERSIONS.contains(&version) {
            return Err(Error::Version { found: version.to_owned() });
        }
        let conf: Self = serde_json::from_value(value).map_err(Error::Decode)?;
        conf.validate()?;
        Ok(conf)
    }

    fn validate(&self) -> Result<(), Error> {
        let invalid = |why: &str| Err(Error::Config(why.to_owned()));
        if !is_identifier(&self.name) {
            return invalid("`name` is missing or holds other characters than letters, digits and `._-`");
        }
        if !(68..=65_535).contains(&self.mtu) {
            return invalid("`mtu` must be between 68 and 65535 bytes");
        }
        if self.ipam.plugin.is_empty() || self.ipam.plugin.contains('/') {
            return invalid("`ipam.type` must be the name of a program, with no path");
        }
        if self.host_ports.is_none() && !self.runtime_config.port_mappings.is_empty() {
            return invalid("`runtimeConfig.portMappings` needs `hostPorts`, the leases of the node's Service proxy");
        }
        if self.ip_masq && self.cluster_cidr.is_none() {
            return invalid("`ipMasq` needs `clusterCIDR`, the destinations that keep the Pod's address");
        }
        if self.ip_masq && self.pod_cidrs().is_empty() {
            return invalid("`ipMasq` needs the Pods' ranges in `ipam.ranges`");
        }
        Ok(())
    }

    fn pod_cidrs(&self) -> Vec<Ipv4Net> {
        let ranges = self.ipam.ranges.iter().flatten().map(|range| range.subnet.trunc());
        self.ipam.subnet.iter().map(Ipv4Net::trunc).chain(ranges).collect()
    }

    /// The egress that this configuration wants, if any.
    pub fn egress(&self) -> Result<Option<Egress>, EgressError> {
        let (true, Some(cluster_cidr)) = (self.ip_masq, self.cluster_cidr) else { return Ok(None) };
        let node_ip = self.node_ip.map_or_else(egress::default_node_ip, Ok)?;
        Ok(Some(Egress { pod_cidrs: self.pod_cidrs(), cluster_cidr: cluster_cidr.trunc(), node_ip }))
    }

    /// Whether the runtime speaks 1.1.0, which brought GC, STATUS and the MTU in results.
    pub fn is_1_1(&self) -> bool {
        self.cni_version == "1.1.0"
    }
}

/// An identifier of CNI: a letter or digit, then those and `._-`.
pub(crate) fn is_identifier(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.chars().all(|char| char.is_ascii_alphanumeric() || "._-".contains(char))
}

/// What terrarium decides about a node's Pod network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkSettings {
    /// The node's Pods get their addresses from here.
    pub pod_cidr: Ipv4Net,
    /// All Pods of the cluster.
    pub cluster_cidr: Ipv4Net,
    /// The address of the node on every Pod link; host-local never gives it to a Pod if it is inside `pod_cidr`.
    pub gateway: Ipv4Addr,
    /// The address for egress, if not that of the default route.
    pub node_ip: Option<Ipv4Addr>,
    /// Largest packet, in bytes; see [`DEFAULT_MTU`].
    pub mtu: u32,
    /// Whether Pods reach the outside. `false` where there is no CAP_NET_RAW.
    pub ip_masq: bool,
    /// Whether the node routes. `false` where it cannot: gVisor's `ip_forward` belongs to the sandbox's first network
    /// namespace (its issue 1833), so in any other, as in user-namespace mode, Pods reach only the node itself.
    pub ip_forward: bool,
    /// Where host-local keeps its leases. They should not outlive the Pods: a folder below /run.
    pub ipam_data_dir: PathBuf,
    /// Where the node's Service proxy keeps its leases of host ports.
    pub host_ports: PathBuf,
}

/// The content of `10-terrarium.conflist`, a network of this one plugin.
pub fn network_config(settings: &NetworkSettings) -> Value {
    let mut plugin = Map::new();
    plugin.insert("type".into(), json!(PLUGIN));
    // `bandwidth` so as to refuse it: what is not asked for would be ignored in silence.
    plugin.insert("capabilities".into(), json!({ "portMappings": true, "bandwidth": true }));
    plugin.insert("hostPorts".into(), json!(settings.host_ports));
    plugin.insert("mtu".into(), json!(settings.mtu));
    plugin.insert("ipMasq".into(), json!(settings.ip_masq));
    if !settings.ip_forward {
        plugin.insert("ipForward".into(), json!(false));
    }
    plugin.insert("clusterCIDR".into(), json!(settings.cluster_cidr));
    if let Some(node_ip) = settings.node_ip {
        plugin.insert("nodeIP".into(), json!(node_ip));
    }
    plugin.insert(
        "ipam".into(),
        json!({
            "type": "host-local",
            "dataDir": settings.ipam_data_dir,
            "ranges": [[{ "subnet": settings.pod_cidr, "gateway": settings.gateway }]],
        }),
    );
    json!({ "cniVersion": "1.1.0", "name": "terrarium", "plugins": [plugin] })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> NetworkSettings {
        NetworkSettings {
            pod_cidr: "10.42.0.0/24".parse().unwrap(),
            cluster_cidr: "10.42.0.0/16".parse().unwrap(),
            gateway: Ipv4Addr::new(10, 42, 0, 1),
            node_ip: Some(Ipv4Addr::new(10, 201, 0, 2)),
            mtu: DEFAULT_MTU,
            ip_masq: true,
            ip_forward: true,
            ipam_data_dir: "/run/terrarium/ipam".into(),
            host_ports: "/run/terrarium/hostports".into(),
        }
    }

    /// What a runtime makes of a conflist: the plugin's object with the network's name and version.
    fn handed_over(settings: &NetworkSettings, change: impl FnOnce(&mut Value)) -> Vec<u8> {
        let list = network_config(settings);
        let mut plugin = list["plugins"][0].clone();
        plugin["name"] = list["name"].clone();
        plugin["cniVersion"] = list["cniVersion"].clone();
        change(&mut plugin);
        serde_json::to_vec(&plugin).unwrap()
    }

    #[test]
    fn what_is_written_is_understood() {
        let conf = NetConf::parse(&handed_over(&settings(), |_| ())).unwrap();
        assert_eq!((conf.mtu, conf.is_1_1(), conf.ipam.plugin.as_str()), (60_000, true, "host-local"));
        let egress = conf.egress().unwrap().unwrap();
        assert_eq!(egress.pod_cidrs, ["10.42.0.0/24".parse().unwrap()]);
        assert_eq!(egress.node_ip, Ipv4Addr::new(10, 201, 0, 2));
    }

    #[test]
    fn the_conflist_reads_as_the_documentation_says() {
        assert_eq!(
            network_config(&settings()).to_string(),
            r#"{"cniVersion":"1.1.0","name":"terrarium","plugins":[{"type":"terrarium-cni","capabilities":{"portMappings":true,"bandwidth":true},"hostPorts":"/run/terrarium/hostports","mtu":60000,"ipMasq":true,"clusterCIDR":"10.42.0.0/16","nodeIP":"10.201.0.2","ipam":{"type":"host-local","dataDir":"/run/terrarium/ipam","ranges":[[{"subnet":"10.42.0.0/24","gateway":"10.42.0.1"}]]}}]}"#
        );
    }

    #[test]
    fn a_node_that_cannot_route_says_so() {
        let conf = NetConf::parse(&handed_over(&NetworkSettings { ip_forward: false, ..settings() }, |_| ())).unwrap();
        assert!(!conf.ip_forward);
    }

    #[test]
    fn defaults_are_a_large_mtu_and_no_egress() {
        let conf = NetConf::parse(br#"{"cniVersion":"1.0.0","name":"n","ipam":{"type":"host-local"}}"#).unwrap();
        assert_eq!((conf.mtu, conf.ip_masq, conf.ip_forward, conf.is_1_1()), (60_000, false, true, false));
        assert_eq!(conf.egress().unwrap(), None);
    }

    #[test]
    fn each_wrong_key_is_named_under_its_code() {
        let cases: [(&str, Value, u32); 8] = [
            ("cniVersion", json!("0.4.0"), 1),
            ("cniVersion", Value::Null, 1),
            ("mtu", json!("big"), 6),
            ("mtu", json!(20), 7),
            ("name", json!("../up"), 7),
            ("clusterCIDR", Value::Null, 7),
            ("ipam", json!({"type": "bin/host-local"}), 7),
            ("ipam", json!({"type": "host-local"}), 7),
        ];
        for (key, value, code) in cases {
            let input = handed_over(&settings(), |plugin| plugin[key] = value.clone());
            let error = NetConf::parse(&input).unwrap_err();
            assert_eq!(error.code(), code, "{key}={value}: {error}");
        }
    }
}
