//! The Pods' network: the configuration of the CNI plugin, and its end.

use std::os::unix::fs::symlink;

use serde_json::Value;
use terrarium_cni::{DEFAULT_MTU, NetworkSettings, network_config};
use terrarium_remedies::Setting;

use crate::component::Spec;
use crate::{Error, Layout};

/// The list of CNI plugins: ours alone.
pub(crate) fn config(spec: &Spec<'_>) -> Value {
    let network = &spec.network;
    let allowed = spec.settings.iter().find_map(|setting| match setting {
        Setting::PodNetwork { ip_forward, ip_masq } => Some((*ip_forward, *ip_masq)),
        _ => None,
    });
    let (ip_forward, ip_masq) = allowed.unwrap_or((true, true));
    network_config(&NetworkSettings {
        pod_cidr: network.pods,
        cluster_cidr: network.pods,
        gateway: network.gateway(),
        node_ip: Some(spec.address),
        mtu: DEFAULT_MTU,
        ip_masq,
        ip_forward,
        ipam_data_dir: spec.layout.cni("leases"),
        host_ports: spec.layout.cni("hostports"),
    })
}

/// Puts the CNI plugins where containerd looks for them: this program, which knows its part by its name, and the IPAM.
pub(crate) fn link_plugins(layout: &Layout) -> Result<(), Error> {
    let program = std::env::current_exe().map_err(Error::io("find this program's path", "/proc/self/exe"))?;
    for (name, target) in [(terrarium_cni::PLUGIN, program), ("host-local", layout.component("host-local")?)] {
        let link = layout.cni("bin").join(name);
        symlink(target, &link).map_err(Error::io("make the link", &link))?;
    }
    Ok(())
}

/// Removes the links and the rules that the plugin left, once the Pods are gone.
pub(crate) fn teardown() -> Result<(), Error> {
    terrarium_cni::teardown().errors.into_iter().next().map_or(Ok(()), |error| Err(Error::Network(error)))
}
