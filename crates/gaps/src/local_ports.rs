//! net.ipv4.ip_local_port_range: the ports that outgoing connections take (ip(7)).

/// Its file.
pub const IP_LOCAL_PORT_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Linux's own range.
pub const LINUX_PORT_RANGE: &str = "32768 60999";

/// The ports of Services of type NodePort (kube-apiserver's `--service-node-port-range`).
const NODE_PORTS: (u16, u16) = (30_000, 32_767);

/// Whether connections of this range, as the file says it, take ports of Services. One that cannot be understood may.
#[must_use]
pub fn takes_node_ports(range: &str) -> bool {
    let mut numbers = range.split_whitespace().map(str::parse::<u16>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(last))) => first <= NODE_PORTS.1 && NODE_PORTS.0 <= last,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_reach_into_the_ports_of_services_are_known() {
        for range in ["16000 65535", "1024\t30000\n", "32767 65535", "31000 31001", "", "one two"] {
            assert!(takes_node_ports(range), "{range}");
        }
        // The last is what gVisor says of its host's network.
        for range in [LINUX_PORT_RANGE, "1024 29999", "32768 65535\n", "32768 28232"] {
            assert!(!takes_node_ports(range), "{range}");
        }
    }
}
