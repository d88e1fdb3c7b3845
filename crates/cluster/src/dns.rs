//! The cluster's DNS: CoreDNS as a component, which listens on the address of its Service itself.
//!
//! That address is local, as all of the Services' range is, so DNS needs no proxy and works from its first moment. Health
//! and readiness are asked on loopback.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use nix::mount::{MsFlags, mount};
use serde_json::{Value, json};
use terrarium_probes::Resolver;

use crate::component::{COREDNS, CommandLine, Component, Readiness, Runs, SERVER, Spec, environment};
use crate::config::Network;
use crate::layout::{make_private, write};
use crate::{Error, Layout, network, objects, pki};

/// The user that its certificate names.
pub(crate) const USER: &str = "system:coredns";

/// Where it says on loopback whether it is ready: a port that nothing well-known has. CoreDNS' own choice, 8181 on every
/// address, would be in the way of what users run; its `health` plugin, which asks itself every second, is left out.
const READY_PORT: u16 = 10253;

pub(crate) const PORT: u16 = 53;

const METRICS_PORT: u16 = 9153;

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The component.
pub(crate) fn component(spec: &Spec<'_>) -> Result<Component, Error> {
    let corefile = spec.layout.config("Corefile").display().to_string();
    Ok(Component {
        name: COREDNS,
        label: "cluster DNS",
        needs: &[SERVER],
        objects: objects(&spec.network),
        runs: Runs::Service {
            command: CommandLine { program: spec.layout.component(COREDNS)?, args: vec!["-conf".to_owned(), corefile] },
            env: environment(spec),
            ready: Readiness::Http { port: READY_PORT, path: "/ready" },
        },
    })
}

/// Its rights, which are less than those of upstream's manifest: with `pods insecure` it never looks at Pods, and Endpoints
/// it no longer reads. And the Service by which others find it, with itself as the endpoint.
fn objects(network: &Network) -> Vec<Value> {
    let address = network.dns();
    let watch = ["list", "watch"];
    let rules = json!([
        {"apiGroups": [""], "resources": ["namespaces", "services"], "verbs": watch},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": watch},
    ]);
    let ports = json!([
        {"name": "dns", "port": PORT, "protocol": "UDP"},
        {"name": "dns-tcp", "port": PORT, "protocol": "TCP"},
        {"name": "metrics", "port": METRICS_PORT, "protocol": "TCP"},
    ]);
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "namespace": "kube-system",
            "name": "kube-dns",
            "labels": {"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"},
            "annotations": {"prometheus.io/port": METRICS_PORT.to_string(), "prometheus.io/scrape": "true"},
        },
        "spec": {"clusterIP": address, "clusterIPs": [address], "ports": ports},
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": "kube-system",
            "name": "kube-dns",
            "labels": {
                "endpointslice.kubernetes.io/managed-by": "terrarium",
                "kubernetes.io/service-name": "kube-dns",
            },
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
        "ports": ports,
    });
    // No endpoint may have an address of the loopback device.
    let slice = (!network.is_host).then_some(slice);
    objects::role_of_user(USER, rules).into_iter().chain([service]).chain(slice).collect()
}

/// The sandbox's resolvers, as far as the cluster can ask them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Resolvers {
    servers: Vec<IpAddr>,
    /// Whether the cluster has a network namespace of its own, out of which only TCP leads, by the gate.
    is_apart: bool,
    /// What else resolv.conf(5) says: search domains and options.
    rest: String,
}

impl Resolvers {
    /// Those that the sandbox has now.
    pub(crate) fn of_sandbox(spec: &Spec<'_>) -> Self {
        let conf = fs::read_to_string(RESOLV_CONF).unwrap_or_default();
        Self::read(&conf, &spec.network, spec.isolation.has_network())
    }

    pub(crate) fn read(conf: &str, network: &Network, is_apart: bool) -> Self {
        // The cluster's own DNS, which somebody gave the sandbox, would be asked by itself.
        let is_own = |server: &IpAddr| matches!(server, IpAddr::V4(address) if network.services.contains(address));
        // The gate leads to no loopback device.
        let is_reached = |server: &IpAddr| !(is_own(server) || is_apart && server.is_loopback());
        let servers = Resolver::read(conf).servers.into_iter().filter(is_reached).collect();
        let rest = conf.lines().filter(|line| !line.trim_start().starts_with("nameserver"));
        Self { servers, is_apart, rest: rest.map(|line| format!("{line}\n")).collect() }
    }

    /// The resolv.conf of Pods that want the sandbox's resolvers. On loopback a Pod would find only itself: the cluster's
    /// DNS asks those for it, and answers at once where there is none.
    fn resolv_conf(&self, network: &Network) -> String {
        let mut servers: Vec<_> = self.servers.iter().copied().filter(|server| !server.is_loopback()).collect();
        if servers.is_empty() {
            servers.push(network.dns().into());
        }
        let lines: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
        lines + &self.rest
    }

    /// CoreDNS' configuration: kubeadm's, but for what is said below.
    fn corefile(&self, layout: &Layout, network: &Network, is_routed: bool) -> String {
        const CLUSTER: &str = "cluster.local in-addr.arpa ip6.arpa";
        let address = listened_on(network, is_routed);
        let kubeconfig = layout.config(&format!("{}.kubeconfig", pki::COREDNS));
        let (kubeconfig, user) = (kubeconfig.display(), user_directory(layout));
        let user = user.display();
        let common = format!(
            "
    bind {address}
    errors
    ready 127.0.0.1:{READY_PORT}
    prometheus {address}:{METRICS_PORT}
    import \"{user}/*.override\""
        );
        let kubernetes = |and: &str| {
            format!(
                "
    kubernetes {CLUSTER} {{
        kubeconfig \"{kubeconfig}\"
        pods insecure
        ttl 30{and}
    }}
    loadbalance
    reload"
            )
        };
        let servers: Vec<_> = self.servers.iter().map(ToString::to_string).collect();
        let zones = if servers.is_empty() {
            // "No such name" ends a search; of a refusal some C libraries wait for another server's answer. In a zone of its
            // own, since CoreDNS asks `template` before `kubernetes`.
            let nothing = "
    template ANY ANY {
        rcode NXDOMAIN
    }";
            format!("{CLUSTER} {{{common}{}\n}}\n. {{{common}{nothing}\n}}\n", kubernetes(""))
        } else {
            // No `loop`, which ends the process, and with it the cluster's own names, where a resolver asks back: such a loop
            // is bounded by max_concurrent. Names of the cluster are not cached, as nobody is asked for them, and a new one is
            // to be seen at once.
            let outside = format!(
                "
    forward . {} {{
        max_concurrent 1000{}
    }}
    cache 30 {{
        disable success cluster.local
        disable denial cluster.local
    }}",
                servers.join(" "),
                if self.is_apart { "\n        force_tcp" } else { "" }
            );
            let others = "
        fallthrough in-addr.arpa ip6.arpa";
            format!(". {{{common}{}{outside}\n}}\n", kubernetes(others))
        };
        format!("{zones}import \"{user}/*.server\"\n")
    }
}

/// The addresses that it listens on. Where nothing is routed, Pods reach it by that of their links, which come and go
/// (netd's rules).
fn listened_on(network: &Network, is_routed: bool) -> Ipv4Addr {
    if is_routed { network.dns() } else { Ipv4Addr::UNSPECIFIED }
}

/// Where users put settings of their own. CoreDNS looks there again every half minute.
fn user_directory(layout: &Layout) -> PathBuf {
    layout.data().join("coredns")
}

/// The Pods' resolv.conf where they want the sandbox's.
pub(crate) fn resolv_conf(layout: &Layout) -> PathBuf {
    layout.config("resolv.conf")
}

/// Writes the configuration.
pub(crate) fn write_config(spec: &Spec<'_>, resolvers: &Resolvers) -> Result<(), Error> {
    let layout = spec.layout;
    let user = user_directory(layout);
    make_private(&user)?;
    let is_routed = network::is_routed(spec);
    let address = listened_on(&spec.network, is_routed);
    let server_blocks = SERVER_BLOCKS.replace("ADDRESS", &address.to_string());
    // They explain, and are there for their own sake: CoreDNS logs every time that a pattern matches no file.
    for (name, content) in [("README.override", OVERRIDE), ("README.server", &server_blocks)] {
        write(&user.join(name), content.as_bytes())?;
    }
    let corefile = resolvers.corefile(layout, &spec.network, is_routed);
    write(&resolv_conf(layout), resolvers.resolv_conf(&spec.network).as_bytes())?;
    write(&layout.config("Corefile"), corefile.as_bytes())
}

/// From a network namespace of the cluster's own only TCP leads to the sandbox's resolvers: has the components, which pull
/// images by name, ask them so. Call it in the cluster's mount namespace.
pub(crate) fn have_resolvers_asked_by_tcp(spec: &Spec<'_>) -> Result<(), Error> {
    let Ok(conf) = fs::read_to_string(RESOLV_CONF) else { return Ok(()) };
    if !spec.isolation.has_network() {
        return Ok(());
    }
    let path = spec.layout.config("resolv.conf.components");
    write(&path, format!("{conf}\noptions use-vc\n").as_bytes())?;
    mount(Some(&path), RESOLV_CONF, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(|errno| Error::io("mount a file over", RESOLV_CONF)(errno.into()))
}

const OVERRIDE: &str = "\
# What files here named *.override hold is taken into the zones of the cluster's DNS, such as:
#   log
#   hosts {
#       192.0.2.7 printer.example.org
#       fallthrough
#   }
# CoreDNS reads them again within a minute. This file is written anew at each start.
";

const SERVER_BLOCKS: &str = "\
# What files here named *.server hold are zones beside those of the cluster's DNS, such as:
#   example.org {
#       bind ADDRESS
#       forward . 192.0.2.53
#   }
# CoreDNS reads them again within a minute. This file is written anew at each start.
";

#[cfg(test)]
mod tests {
    use super::*;

    const CONF: &str = "# made by hand\nsearch corp.example\nnameserver 127.0.0.53\nnameserver 10.43.0.10\n\
                        nameserver 192.0.2.53\noptions ndots:2\n";

    fn resolvers(conf: &str, is_apart: bool) -> Resolvers {
        Resolvers::read(conf, &Network::of([]), is_apart)
    }

    #[test]
    fn the_clusters_dns_never_asks_itself() {
        let all = resolvers(CONF, false);
        assert_eq!(all.servers, ["127.0.0.53", "192.0.2.53"].map(|server| server.parse::<IpAddr>().unwrap()));
        let only_itself = resolvers("nameserver 10.43.0.10\n", false);
        assert!(only_itself.servers.is_empty());
    }

    #[test]
    fn pods_are_given_no_resolver_that_they_cannot_reach() {
        let network = Network::of([]);
        let rest = "# made by hand\nsearch corp.example\noptions ndots:2\n";
        assert_eq!(resolvers(CONF, false).resolv_conf(&network), format!("nameserver 192.0.2.53\n{rest}"));
        assert_eq!(resolvers("nameserver 127.0.0.53", false).resolv_conf(&network), "nameserver 10.43.0.10\n");
        assert_eq!(resolvers("", false).resolv_conf(&network), "nameserver 10.43.0.10\n");
    }

    #[test]
    fn from_a_network_namespace_of_its_own_it_asks_by_tcp_and_nobody_on_loopback() {
        let layout = Layout::at(std::path::Path::new("/t"));
        let corefile = resolvers(CONF, true).corefile(&layout, &Network::of([]), false);
        let forward = "    forward . 192.0.2.53 {\n        max_concurrent 1000\n        force_tcp\n    }\n";
        assert!(corefile.contains(forward), "{corefile}");
        let corefile = resolvers(CONF, false).corefile(&layout, &Network::of([]), true);
        assert!(corefile.contains("127.0.0.53 192.0.2.53") && !corefile.contains("force_tcp"), "{corefile}");
    }

    #[test]
    fn without_a_resolver_other_names_do_not_exist() {
        let layout = Layout::at(std::path::Path::new("/t"));
        insta::assert_snapshot!(resolvers("", false).corefile(&layout, &Network::of([]), false));
    }
}
