//! The rules that lead Services' connections to the relay, whatever Services there are.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use terrarium_cni::iptables::{Match, Protocol, Rule, Target};

use crate::config::Config;
use crate::relay;

const LOOPBACK: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);

/// What stands before everything else: the name server answers by itself. Where nothing is routed, Pods reach no address
/// of the loopback device, and the name server listens on that of their links, too; but it is not asked there, past the
/// policies for names.
pub fn before(config: &Config) -> Vec<Rule> {
    let to_dns = |protocol| Match::protocol(protocol).to(config.dns);
    let of_pods = |protocol| to_dns(protocol).from(config.pods).then(Target::Dnat(config.gateway, None));
    let mut rules = Vec::new();
    if !config.routed {
        let past = |protocol| Match::protocol(protocol).from(config.pods).to(config.gateway).to_ports(53..=53);
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            rules.extend([of_pods(protocol), past(protocol).then(Target::Drop)]);
        }
    }
    rules.push(to_dns(Protocol::Tcp).then(Target::Return));
    rules
}

/// What is left when no other rule took a connection: it goes to the relay, or to an address where the node hears it.
pub fn after(config: &Config) -> Vec<Rule> {
    let tcp = || Match::protocol(Protocol::Tcp);
    let relay = Target::Redirect(relay::PORT);
    let mut rules = vec![tcp().to(config.services).then(relay)];
    if config.routed {
        // What Pods send to the node's own address gets no answer in gVisor, unless it comes by their gateway.
        let to_node = |protocol| Match::protocol(protocol).from(config.pods).to(config.node_address);
        if config.node_address != config.gateway {
            let to_gateway = Target::Dnat(config.gateway, None);
            rules.extend([Protocol::Tcp, Protocol::Udp].map(|protocol| to_node(protocol).then(to_gateway)));
        }
    } else {
        // The node's own, which talks to Pods from the address on their links.
        rules.push(tcp().from(config.gateway).then(Target::Return));
        rules.push(tcp().from(config.pods).not_to(Ipv4Net::from(config.gateway)).then(relay));
        if config.gate.is_some() {
            // What the node's own programs send outside, such as those that pull images. Not what is for a Pod that is gone:
            // the relay would meet its own connection to it here.
            let own = [LOOPBACK, config.node_address.into(), config.pods];
            rules.extend(own.map(|own| tcp().to(own).then(Target::Return)));
            rules.push(tcp().then(relay));
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::config;

    fn text(rules: Vec<Rule>) -> Vec<String> {
        rules.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn services_go_to_the_relay_and_the_name_server_is_left_alone() {
        assert_eq!(text(before(&config())), ["-d 10.43.0.10/32 -p tcp -j RETURN"]);
        assert_eq!(
            text(after(&config())),
            [
                "-d 10.43.0.0/16 -p tcp -j REDIRECT --to-ports 10260",
                "-s 10.42.0.0/24 -d 10.201.0.2/32 -p tcp -j DNAT --to-destination 10.42.0.1",
                "-s 10.42.0.0/24 -d 10.201.0.2/32 -p udp -j DNAT --to-destination 10.42.0.1",
            ]
        );
    }

    #[test]
    fn by_the_gate_the_node_has_a_way_out_too() {
        let rules = text(after(&Config { routed: false, gate: Some("/gate".into()), ..config() }));
        assert_eq!(
            rules[3..],
            [
                "-d 127.0.0.0/8 -p tcp -j RETURN",
                "-d 10.201.0.2/32 -p tcp -j RETURN",
                "-d 10.42.0.0/24 -p tcp -j RETURN",
                "-p tcp -j REDIRECT --to-ports 10260",
            ]
        );
    }

    #[test]
    fn where_nothing_is_routed_all_that_pods_send_goes_to_the_relay() {
        assert_eq!(
            text(before(&Config { routed: false, ..config() })),
            [
                "-s 10.42.0.0/24 -d 10.43.0.10/32 -p tcp -j DNAT --to-destination 10.42.0.1",
                "-s 10.42.0.0/24 -d 10.42.0.1/32 -p tcp -m tcp --dport 53 -j DROP",
                "-s 10.42.0.0/24 -d 10.43.0.10/32 -p udp -j DNAT --to-destination 10.42.0.1",
                "-s 10.42.0.0/24 -d 10.42.0.1/32 -p udp -m udp --dport 53 -j DROP",
                "-d 10.43.0.10/32 -p tcp -j RETURN",
            ]
        );
        assert_eq!(
            text(after(&Config { routed: false, ..config() })),
            [
                "-d 10.43.0.0/16 -p tcp -j REDIRECT --to-ports 10260",
                "-s 10.42.0.1/32 -p tcp -j RETURN",
                "-s 10.42.0.0/24 ! -d 10.42.0.1/32 -p tcp -j REDIRECT --to-ports 10260",
            ]
        );
    }
}
