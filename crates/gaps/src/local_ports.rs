//! Ports of outgoing connections (ip(7)) beside those of Services.

use std::ops::RangeInclusive;

/// The ports of Services of type NodePort (kube-apiserver's `--service-node-port-range`).
pub const NODE_PORTS: RangeInclusive<u16> = 30_000..=32_767;

/// The file with the range of ports for outgoing connections.
pub const IP_LOCAL_PORT_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Linux's own range, in which no Service has a port.
pub const LINUX_PORT_RANGE: &str = "32768 60999";
