//! The configuration files of containerd, the kubelet and the CNI plugin, made from values.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnet::Ipv4Net;
use serde_json::{Value, json};
use terrarium_remedies::{LOOPBACK_SERVICE_RANGE, SERVICE_RANGE, Setting};

use crate::component::Spec;
use crate::dns::{self, Resolvers};
use crate::layout::write;
use crate::pki::{self, key_files};
use crate::{Error, Layout, OciRuntime, ingress, interception, kubeconfig, network, renewal};

/// containerd's state: a tmpfs of the cluster's own, where one can be mounted.
pub(crate) fn containerd_state(spec: &Spec<'_>) -> PathBuf {
    spec.without_mounts().map_or_else(|| "/run/containerd".into(), |state| state.join("containerd-state"))
}

/// Works on the tmpfs that containerd's root is.
pub(crate) const SNAPSHOTTER: &str = "overlayfs";

/// The image that holds a Pod's namespaces; imported at every start, never pulled.
const PAUSE_IMAGE: &str = concat!("localhost/terrarium/pause:", env!("CARGO_PKG_VERSION"));

/// The cluster's address ranges. One node has the whole range of the Pods.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    pub(crate) pods: Ipv4Net,
    pub(crate) services: Ipv4Net,
    /// Whether Pods have the node's network, and none of those addresses.
    pub(crate) is_host: bool,
}

impl Network {
    /// As the settings ask for it.
    pub(crate) fn of<'a>(settings: impl IntoIterator<Item = &'a Setting>) -> Self {
        let is_host = settings.into_iter().any(|setting| *setting == Setting::HostNetwork);
        let services = if is_host { LOOPBACK_SERVICE_RANGE } else { SERVICE_RANGE.trunc() };
        Self { pods: Ipv4Net::new_assert(Ipv4Addr::new(10, 42, 0, 0), 24), services, is_host }
    }

    /// The node's address on every Pod's link.
    pub(crate) fn gateway(&self) -> Ipv4Addr {
        nth(self.pods, 1)
    }

    /// The address of the cluster's DNS: the tenth of the Services, as everywhere.
    pub(crate) fn dns(&self) -> Ipv4Addr {
        nth(self.services, 10)
    }

    /// The address of the Service `kubernetes`: the API server always takes the range's first.
    pub(crate) fn api_service(&self) -> Ipv4Addr {
        nth(self.services, 1)
    }
}

fn nth(range: Ipv4Net, n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(range.network()) + n)
}

/// Writes every key, kubeconfig and configuration file of the cluster.
pub(crate) fn write_all(spec: &Spec<'_>, resolvers: &Resolvers, runtime: OciRuntime) -> Result<(), Error> {
    let layout = spec.layout;
    let (address, api_service) = (spec.address.into(), spec.network.api_service());
    pki::issue(layout, &pki::Names { node: spec.node.clone(), address, api_service }, renewal::lifetime())?;
    write_kubeconfigs(layout)?;
    let to_json = |value: &Value| serde_json::to_vec_pretty(value).expect("a value becomes JSON");
    write(&layout.config("kubelet.json"), &to_json(&kubelet(spec)))?;
    interception::write_rules(spec)?;
    write(&layout.config("containerd.toml"), containerd(spec, runtime)?.as_bytes())?;
    write(&layout.config("cni/net.d/10-terrarium.conflist"), &to_json(&network::config(spec)))?;
    write(&layout.config("netd.json"), &to_json(&network::netd(spec)))?;
    dns::write_config(spec, resolvers)?;
    ingress::write_config(layout, spec.address)?;
    network::link_plugins(layout)
}

/// Writes the kubeconfig of every client.
pub(crate) fn write_kubeconfigs(layout: &Layout) -> Result<(), Error> {
    let server = format!("https://127.0.0.1:{}", layout.api_port()?);
    for client in [
        pki::ADMIN,
        pki::CONTROLLER_MANAGER,
        pki::COREDNS,
        pki::INGRESS,
        pki::KUBELET,
        pki::METRICS,
        pki::NETD,
        pki::SCHEDULER,
    ] {
        kubeconfig::write_for(layout, client, &server)?;
    }
    Ok(())
}

/// KubeletConfiguration, kubelet.config.k8s.io/v1beta1.
fn kubelet(spec: &Spec<'_>) -> Value {
    let layout = spec.layout;
    let serving = key_files(layout, pki::KUBELET_SERVING);
    let mut config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        // Pods reach the node at their gateway, whatever address of the node they ask for.
        "address": "0.0.0.0",
        "healthzBindAddress": "127.0.0.1",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": key_files(layout, pki::CA).certificate},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": serving.certificate,
        "tlsPrivateKeyFile": serving.key,
        "containerRuntimeEndpoint": format!("unix://{}", layout.containerd_socket().display()),
        "cgroupDriver": "cgroupfs",
        "volumePluginDir": layout.volume_plugins(),
        "clusterDNS": [spec.network.dns()],
        "clusterDomain": "cluster.local",
        // Pods that do not ask for another get containerd's default profile.
        "seccompDefault": true,
        "resolvConf": dns::resolv_conf(layout),
        // A sandbox has no say in its host's swap.
        "failSwapOn": false,
    });
    for setting in &spec.settings {
        if let Setting::Kubelet { field, value } = setting {
            config[field] = value.clone();
        }
    }
    config
}

/// containerd's configuration, version 3.
fn containerd(spec: &Spec<'_>, oci_runtime: OciRuntime) -> Result<String, Error> {
    let layout = spec.layout;
    let mut runtime = json!({
        "containerd": {
            "default_runtime_name": oci_runtime.name(),
            "runtimes": {oci_runtime.name(): oci_runtime.config(layout)?},
        },
        "cni": {"bin_dirs": [layout.cni("bin")], "conf_dir": layout.config("cni/net.d"), "use_internal_loopback": true},
        // All that containerd makes lies below its root and its state directory, and goes with them.
        "netns_mounts_under_state_dir": true,
        // From this comes the rate that `crictl stats` has; the kubelet asks for it only where it has no figures of its own.
        // containerd's own default of a second, with a dozen files of each container, takes half a core for 50 Pods.
        "stats_collect_period": "1m",
    });
    for setting in &spec.settings {
        if let Setting::Containerd { field, value } = setting {
            runtime[field] = (*value).into();
        }
    }
    let root: PathBuf =
        spec.without_mounts().map_or_else(|| "/var/lib/containerd".into(), |state| state.join("containerd"));
    let config = json!({
        "version": 3,
        "root": root,
        "state": containerd_state(spec),
        "grpc": {"address": layout.containerd_socket()},
        "plugins": {
            "io.containerd.cri.v1.images": {
                "snapshotter": if spec.without_mounts().is_some() { "native" } else { SNAPSHOTTER },
                "pinned_images": {"sandbox": PAUSE_IMAGE},
                // containerd's own default is two directories, and since 2.1 it finds what is in neither (containerd#12808).
                "registry": {"config_path": "/etc/containerd/certs.d"},
            },
            "io.containerd.cri.v1.runtime": runtime,
            "io.containerd.internal.v1.opt": {"path": root.join("opt")},
            "io.containerd.nri.v1.nri": {"disable": true},
        },
    });
    Ok(toml::to_string(&config).expect("strings, numbers, lists and tables become TOML"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use tempfile::TempDir;
    use terrarium_remedies::Isolation;

    use super::*;
    use crate::component::{self, Runs};
    use crate::{Addon, Layout, Options};

    fn layout() -> (TempDir, Layout) {
        let (root, layout) = Layout::temporary();
        for (directory, file) in [
            ("components", "containerd"),
            ("components", "containerd-shim-terrarium-v2"),
            ("components", "coredns"),
            ("components", "ctr"),
            ("components", "host-local"),
            ("components", "kubernetes"),
            ("components", "metrics-server"),
            ("components", "runc"),
            ("components", "traefik"),
            ("images", "pause.tar"),
            ("data/images", "0123.tar"),
            ("data/images", "README.md"),
        ] {
            fs::create_dir_all(root.path().join(directory)).unwrap();
            fs::write(root.path().join(directory).join(file), "").unwrap();
        }
        (root, layout)
    }

    fn spec(layout: &Layout) -> Spec<'_> {
        let settings = vec![
            Setting::Kubelet { field: "failCgroupV1".to_owned(), value: json!(false) },
            Setting::Containerd { field: "enable_unprivileged_ports".to_owned(), value: false },
            Setting::ApiServer { flag: "--kubelet-preferred-address-types".to_owned(), value: "InternalIP".to_owned() },
        ];
        let (node, address) = ("node-1".to_owned(), Ipv4Addr::new(192, 0, 2, 7));
        Spec { layout, node, address, network: Network::of([]), isolation: Isolation::Mount, settings, api_port: 6443 }
    }

    fn resolvers() -> Resolvers {
        Resolvers::read("nameserver 192.0.2.53\n", &Network::of([]), false)
    }

    /// A text without the test's own directory.
    fn shown(root: &TempDir, text: &str) -> String {
        let program = std::env::current_exe().unwrap();
        text.replace(root.path().to_str().unwrap(), "[root]")
            .replace(program.to_str().unwrap(), "[program]")
            .replace(env!("CARGO_PKG_VERSION"), "[version]")
    }

    #[test]
    fn the_files_that_the_components_read() {
        let (root, layout) = layout();
        write_all(&spec(&layout), &resolvers(), OciRuntime::Runc).unwrap();
        for file in [
            "kubelet.json",
            "containerd.toml",
            "cni/net.d/10-terrarium.conflist",
            "netd.json",
            "Corefile",
            "resolv.conf",
        ] {
            let path = layout.config(file);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{file}");
            let name = path.file_name().unwrap().to_str().unwrap();
            insta::assert_snapshot!(name, shown(&root, &fs::read_to_string(&path).unwrap()));
        }
        assert_eq!(fs::read_link(layout.cni("bin/host-local")).unwrap(), layout.component("host-local").unwrap());
        assert_eq!(fs::read_link(layout.cni("bin/terrarium-cni")).unwrap(), std::env::current_exe().unwrap());
    }

    #[test]
    fn what_runs_with_which_arguments() {
        let (root, layout) = layout();
        let mut text = String::new();
        let addons = Addon::ALL.iter().map(|addon| (*addon, true)).collect();
        let options = Options { addons, ..Options::default() };
        for component in component::components(&spec(&layout), &options).unwrap() {
            text += &format!("{} ({}), needs {:?}\n", component.name, component.label, component.needs);
            for object in &component.objects {
                let (kind, name) = (object["kind"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap());
                text += &format!("  {kind} {name}\n");
            }
            let (commands, rest) = match component.runs {
                Runs::Service { command, mut env, ready } => {
                    // The value holds what the test's own environment says.
                    env.retain(|(key, _)| !key.eq_ignore_ascii_case("no_proxy"));
                    (vec![command], format!("  {env:?}\n  {ready:?}\n"))
                }
                Runs::Task(steps) => (steps.iter().map(|step| step.command.clone()).collect(), String::new()),
            };
            for command in commands {
                text += &format!("  {}\n", command.program.display());
                text.extend(command.args.iter().map(|arg| format!("    {arg}\n")));
            }
            text += &rest;
        }
        insta::assert_snapshot!(shown(&root, &text));
    }

    #[test]
    fn each_runtime_is_containerds_default() {
        let (_root, layout) = layout();
        let written = |runtime: OciRuntime| containerd(&spec(&layout), runtime).unwrap();
        let own = written(OciRuntime::Terrarium);
        let shim = layout.component("containerd-shim-terrarium-v2").unwrap();
        assert!(own.contains("default_runtime_name = \"terrarium\""), "{own}");
        assert!(own.contains("runtime_type = \"io.containerd.terrarium.v2\""), "{own}");
        assert!(own.contains(&format!("runtime_path = \"{}\"", shim.display())), "{own}");
        assert!(written(OciRuntime::Runc).contains("default_runtime_name = \"runc\""));
    }

    #[test]
    fn a_component_that_is_missing_is_named() {
        let (_root, layout) = layout();
        fs::remove_file(layout.component("runc").unwrap()).unwrap();
        let error = write_all(&spec(&layout), &resolvers(), OciRuntime::Runc).unwrap_err().to_string();
        assert!(error.contains("components/runc"), "{error}");
    }
}
