//! The components of a cluster, as data: what runs, what it needs first, and how to tell that it is ready.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};

use serde_json::Value;
use terrarium_remedies::{Isolation, Journal, Setting};

use crate::config::{self, Network};
use crate::pki::{self, key_files};
use crate::{Error, Layout, Options, cgroup_files, dns, egress, interception, network, node, objects};

/// Names a component: in logs, records, `status` and dependencies.
pub(crate) type Name = &'static str;

/// Adds cgroup files to those of the kernel, where these do not suffice.
pub(crate) const CGROUPFS: Name = "cgroupfs";
pub(crate) const CONTAINERD: Name = "containerd";
pub(crate) const COREDNS: Name = "coredns";
/// What makes connections to the outside for a cluster with a network namespace of its own; no component, as it stays
/// outside.
pub(crate) const GATE: Name = "gate";
pub(crate) const GUARDIAN: Name = "guardian";
pub(crate) const IMAGES: Name = "images";
pub(crate) const KUBELET: Name = "kubelet";
pub(crate) const NETD: Name = "netd";
pub(crate) const SERVER: Name = "kube-server";
pub(crate) const SUPERVISOR: Name = "supervisor";

/// The components that are processes which go on, in the order in which they start. Not every cluster has the first.
pub(crate) const SERVICES: &[Name] = &[CGROUPFS, CONTAINERD, SERVER, COREDNS, NETD, KUBELET];

/// The settings of the cluster that is here.
pub(crate) fn settings_here(layout: &Layout) -> Result<Vec<Setting>, Error> {
    let journal = Journal::open(&layout.journal())?;
    Ok(journal.iter().flat_map(Journal::settings).cloned().collect())
}

/// Whether a component, or an add-on, is a part of a cluster with these settings.
pub(crate) fn is_part(name: Name, settings: &[Setting]) -> bool {
    match name {
        CONTAINERD | SERVER | KUBELET => true,
        CGROUPFS => settings.iter().any(|setting| matches!(setting, Setting::CgroupFiles { .. })),
        // The others are for Pods.
        _ => without_mounts(settings).is_none(),
    }
}

/// Where a node that nothing can be mounted for keeps what dies with it.
fn without_mounts(settings: &[Setting]) -> Option<&Path> {
    settings.iter().find_map(|setting| match setting {
        Setting::WithoutMounts { state } => Some(state.as_path()),
        _ => None,
    })
}

/// The variable by which the kubelet's main of ours takes cgroup files that are not the kernel's
/// (components/kubernetes/main.go).
const UNCHECKED_CGROUP_FILES: &str = "TERRARIUM_UNCHECKED_CGROUP_FILES";

/// A program and its arguments.
#[derive(Clone, Debug)]
pub(crate) struct CommandLine {
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
}

/// One component.
#[derive(Debug)]
pub(crate) struct Component {
    pub(crate) name: Name,
    /// What it is to a person who waits.
    pub(crate) label: &'static str,
    /// The components that must be ready before it starts.
    pub(crate) needs: &'static [Name],
    /// What must be in the API before it starts.
    pub(crate) objects: Vec<Value>,
    pub(crate) runs: Runs,
}

/// How a component runs.
#[derive(Debug)]
pub(crate) enum Runs {
    /// A process that goes on, and is started again when it ends.
    Service { command: CommandLine, env: Vec<(&'static str, String)>, ready: Readiness },
    /// Commands run to their end one after another, once per start of the cluster. Ready when all succeeded.
    Task(Vec<Step>),
}

/// One command of a task.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) command: CommandLine,
    /// Whether the cluster cannot do without it.
    pub(crate) essential: bool,
}

/// How to tell that a service is ready.
#[derive(Clone, Debug)]
pub(crate) enum Readiness {
    /// Someone listens on this unix socket.
    Socket(PathBuf),
    /// Who listens on this unix socket says something.
    Greeting(PathBuf),
    /// The API server says so.
    Api,
    /// The node of this name is Ready, by its kubelet's word since that started.
    Node(String),
    /// A GET of this path on this port of loopback is answered with 200.
    Http { port: u16, path: &'static str },
    /// The same over TLS, by a server with a certificate of this CA for its address.
    Https { address: SocketAddrV4, path: &'static str, authority: PathBuf },
}

/// What differs from cluster to cluster.
#[derive(Debug)]
pub(crate) struct Spec<'a> {
    pub(crate) layout: &'a Layout,
    pub(crate) node: String,
    pub(crate) address: Ipv4Addr,
    pub(crate) network: Network,
    /// The namespaces of the cluster's own.
    pub(crate) isolation: Isolation,
    pub(crate) settings: Vec<Setting>,
    pub(crate) api_port: u16,
}

impl<'a> Spec<'a> {
    pub(crate) fn new(
        layout: &'a Layout,
        address: Ipv4Addr,
        isolation: Isolation,
        settings: Vec<Setting>,
    ) -> Result<Self, Error> {
        let (node, api_port) = (layout.node_name(node::name)?, layout.api_port()?);
        let network = Network::of(&settings);
        Ok(Self { layout, node, address, network, isolation, settings, api_port })
    }

    /// See [`without_mounts`].
    pub(crate) fn without_mounts(&self) -> Option<&Path> {
        without_mounts(&self.settings)
    }
}

impl CommandLine {
    pub(crate) fn words(&self) -> Vec<String> {
        std::iter::once(self.program.to_string_lossy().into_owned()).chain(self.args.iter().cloned()).collect()
    }
}

impl Component {
    /// The command of a service, or those of a task.
    pub(crate) fn command_lines(&self) -> impl Iterator<Item = &CommandLine> {
        let (service, task) = match &self.runs {
            Runs::Service { command, .. } => (Some(command), [].as_slice()),
            Runs::Task(steps) => (None, steps.as_slice()),
        };
        service.into_iter().chain(task.iter().map(|step| &step.command))
    }
}

/// The components of a cluster.
///
/// # Errors
/// A program is missing, or the image archives cannot be listed.
pub(crate) fn components(spec: &Spec<'_>, options: &Options) -> Result<Vec<Component>, Error> {
    let server = server(spec)?;
    if options.control_plane_only {
        return Ok(vec![server]);
    }
    let layout = spec.layout;
    let without_mounts = spec.without_mounts();
    let kubernetes = layout.component("kubernetes")?;
    let path = |path: PathBuf| path.to_string_lossy().into_owned();
    let socket = layout.containerd_socket();
    // What containerd and its shims start by name is found beside them.
    let beside = kubernetes.parent().map(|directory| directory.to_path_buf()).unwrap_or_default();
    let search_path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", beside.display());

    let env: Vec<_> = environment(spec).into_iter().chain([("PATH", search_path)]).collect();
    let unchecked = spec.settings.contains(&Setting::UncheckedCgroupFiles);
    let unchecked = unchecked.then(|| (UNCHECKED_CGROUP_FILES, "1".to_owned()));
    let needs_of_kubelet: &[_] = match [CGROUPFS, IMAGES].map(|name| is_part(name, &spec.settings)) {
        [true, _] => &[CGROUPFS, CONTAINERD, IMAGES, SERVER],
        [false, true] => &[CONTAINERD, IMAGES, SERVER],
        [false, false] => &[CONTAINERD, SERVER],
    };
    let imports = layout.image_archives()?.into_iter().map(|archive| {
        // Every Pod needs this one. Any other that containerd refuses must not keep the cluster from starting: where one ID
        // is mapped it unpacks none that has files of another user's.
        let essential = archive.file_stem().is_some_and(|name| name == "pause");
        Ok(Step { command: import_command(layout, archive)?, essential })
    });
    let mut kubelet = CommandLine {
        program: kubernetes,
        args: vec![
            "kubelet".to_owned(),
            format!("--config={}", path(layout.config("kubelet.json"))),
            format!("--kubeconfig={}", path(layout.config("kubelet.kubeconfig"))),
            format!("--hostname-override={}", spec.node),
            format!("--node-ip={}", spec.address),
            // cAdvisor asks it for the names of containers, and takes its address from this flag alone.
            format!("--containerd={}", path(socket.clone())),
        ],
    };
    if let Some(state) = without_mounts {
        let root = state.join("kubelet");
        kubelet.args.push(format!("--root-dir={}", root.display()));
        kubelet.args.push(format!("--cert-dir={}", root.join("pki").display()));
    }
    let policy = spec.network.is_host.then(network::host_network_policy);
    let mut components = vec![
        Component {
            name: CONTAINERD,
            label: "container runtime",
            needs: &[],
            objects: Vec::new(),
            runs: Runs::Service {
                command: CommandLine {
                    program: layout.component("containerd")?,
                    args: vec!["--config".to_owned(), path(layout.config("containerd.toml"))],
                },
                // It tries file systems in a temporary directory, which one that is stopped meanwhile leaves there.
                env: env.iter().cloned().chain([("TMPDIR", path(config::containerd_state(spec)))]).collect(),
                ready: Readiness::Socket(socket.clone()),
            },
        },
        server,
        dns::component(spec)?,
        network::component(spec)?,
        Component {
            name: IMAGES,
            label: "images",
            needs: &[CONTAINERD],
            objects: Vec::new(),
            runs: Runs::Task(imports.collect::<Result<_, Error>>()?),
        },
        Component {
            name: KUBELET,
            label: "node",
            // A Pod that finds its image missing backs off for ten seconds.
            needs: needs_of_kubelet,
            // What the API server's own client may ask of kubelets: the one right that upstream leaves to whoever sets a
            // cluster up. A kubelet that is there before would remember a refusal for half a minute.
            objects: [
                objects::binding(
                    "terrarium:kubelet-api-admin",
                    "system:kubelet-api-admin",
                    pki::API_SERVER_KUBELET_CLIENT,
                ),
                egress::config_map(&no_proxy(spec)),
                objects::taint(&spec.node, without_mounts.is_none()),
            ]
            .into_iter()
            .chain(policy.into_iter().flatten())
            .collect(),
            runs: Runs::Service {
                command: interception::wrap(spec, KUBELET, kubelet)?,
                // It tries to unmount a temporary directory, which one that is killed meanwhile leaves there.
                env: env.into_iter().chain(unchecked).chain([("TMPDIR", path(layout.runtime().to_owned()))]).collect(),
                ready: Readiness::Node(spec.node.clone()),
            },
        },
    ];
    if let Some(component) = cgroup_files::component(spec)? {
        components.insert(0, component);
    }
    for addon in options.addons() {
        components.push(addon.component(spec)?);
    }
    components.retain(|component| is_part(component.name, &spec.settings));
    Ok(components)
}

/// The control plane and its store.
fn server(spec: &Spec<'_>) -> Result<Component, Error> {
    let command = CommandLine { program: spec.layout.component("kubernetes")?, args: server_args(spec) };
    let runs = Runs::Service { command, env: environment(spec), ready: Readiness::Api };
    Ok(Component { name: SERVER, label: "API", needs: &[], objects: Vec::new(), runs })
}

pub(crate) fn environment(spec: &Spec<'_>) -> Vec<(&'static str, String)> {
    let no_proxy = no_proxy(spec);
    ["NO_PROXY", "no_proxy"].map(|name| (name, no_proxy.clone())).to_vec()
}

/// What the components must not look for behind the proxy that the environment may name: the cluster's own addresses. The
/// API server asks the kubelet for logs, for one.
fn no_proxy(spec: &Spec<'_>) -> String {
    no_proxy_beside(spec, std::env::var("NO_PROXY").or_else(|_| std::env::var("no_proxy")).ok())
}

fn no_proxy_beside(spec: &Spec<'_>, given: Option<String>) -> String {
    let Network { pods, services, .. } = &spec.network;
    let own = format!("localhost,127.0.0.0/8,{},{pods},{services},.svc,.cluster.local", spec.address);
    match given.filter(|given| !given.is_empty()) {
        Some(given) => format!("{given},{own}"),
        None => own,
    }
}

/// The command that imports an image archive into containerd, where the kubelet finds it.
pub(crate) fn import_command(layout: &Layout, archive: PathBuf) -> Result<CommandLine, Error> {
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let mut args = vec!["--address".to_owned(), text(layout.containerd_socket())];
    args.extend(["--namespace", "k8s.io", "images", "import", "--snapshotter", config::SNAPSHOTTER].map(str::to_owned));
    args.push(text(archive));
    Ok(CommandLine { program: layout.component("ctr")?, args })
}

/// The whole control plane and its store in one process: each part with its own arguments, parted by "--".
fn server_args(spec: &Spec<'_>) -> Vec<String> {
    let layout = spec.layout;
    let kubeconfig = |client: &str| layout.config(&format!("{client}.kubeconfig")).display().to_string();
    let key = |name: &str| key_files(layout, name).key.display().to_string();
    let certificate = |name: &str| key_files(layout, name).certificate.display().to_string();
    let store = layout.store().display().to_string();
    let kine_socket = format!("unix://{}", layout.kine_socket().display());
    let network = &spec.network;

    let mut args: Vec<String> = vec![
        "kube-server".into(),
        "kine".into(),
        // WAL with a sync at every commit: what the API acknowledged is on the disk.
        format!("--endpoint=sqlite://{store}?_journal=WAL&cache=shared&_busy_timeout=30000&_synchronous=FULL"),
        format!("--listen-address={kine_socket}"),
        "--".into(),
        "kube-apiserver".into(),
        format!("--etcd-servers={kine_socket}"),
        format!("--advertise-address={}", spec.address),
        format!("--secure-port={}", spec.api_port),
        format!("--tls-cert-file={}", certificate(pki::API_SERVER)),
        format!("--tls-private-key-file={}", key(pki::API_SERVER)),
        format!("--client-ca-file={}", certificate(pki::CA)),
        "--anonymous-auth=false".into(),
        "--authorization-mode=Node,RBAC".into(),
        "--enable-admission-plugins=NodeRestriction".into(),
        "--allow-privileged=true".into(),
        "--profiling=false".into(),
        format!("--proxy-client-cert-file={}", certificate(pki::FRONT_PROXY_CLIENT)),
        format!("--proxy-client-key-file={}", key(pki::FRONT_PROXY_CLIENT)),
        format!("--kubelet-certificate-authority={}", certificate(pki::CA)),
        format!("--kubelet-client-certificate={}", certificate(pki::API_SERVER_KUBELET_CLIENT)),
        format!("--kubelet-client-key={}", key(pki::API_SERVER_KUBELET_CLIENT)),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
        format!("--service-account-key-file={}", layout.pki(pki::SERVICE_ACCOUNT_PUBLIC).display()),
        format!("--service-account-signing-key-file={}", key(pki::SERVICE_ACCOUNT)),
        format!("--service-cluster-ip-range={}", network.services),
    ];
    args.extend(front_proxy_args(layout));
    args.extend(spec.settings.iter().filter_map(|setting| match setting {
        Setting::ApiServer { flag, value } => Some(format!("{flag}={value}")),
        _ => None,
    }));
    let serving = [
        "--bind-address=127.0.0.1".to_owned(),
        format!("--tls-cert-file={}", certificate(pki::LOOPBACK_SERVING)),
        format!("--tls-private-key-file={}", key(pki::LOOPBACK_SERVING)),
        "--profiling=false".into(),
        "--leader-elect=false".into(),
    ];
    args.extend([
        "--".into(),
        "kube-controller-manager".into(),
        format!("--kubeconfig={}", kubeconfig(pki::CONTROLLER_MANAGER)),
        format!("--authentication-kubeconfig={}", kubeconfig(pki::CONTROLLER_MANAGER)),
        format!("--authorization-kubeconfig={}", kubeconfig(pki::CONTROLLER_MANAGER)),
        "--use-service-account-credentials=true".into(),
        // It asks for an account and a token for each of its controllers, one after the other, before any of them works:
        // at upstream's 20 requests a second, which spare an API server far away, that is four seconds.
        "--kube-api-qps=500".into(),
        "--kube-api-burst=500".into(),
        format!("--service-account-private-key-file={}", key(pki::SERVICE_ACCOUNT)),
        format!("--root-ca-file={}", certificate(pki::CA)),
        format!("--cluster-signing-cert-file={}", certificate(pki::CA)),
        format!("--cluster-signing-key-file={}", key(pki::CA)),
        format!("--flex-volume-plugin-dir={}", layout.volume_plugins().display()),
        format!("--service-cluster-ip-range={}", network.services),
    ]);
    args.extend(serving.clone());
    args.extend([
        "--".into(),
        "kube-scheduler".into(),
        format!("--kubeconfig={}", kubeconfig(pki::SCHEDULER)),
        format!("--authentication-kubeconfig={}", kubeconfig(pki::SCHEDULER)),
        format!("--authorization-kubeconfig={}", kubeconfig(pki::SCHEDULER)),
    ]);
    args.extend(serving);
    args
}

/// By whose certificate a server knows the API server, and where that says on whose behalf it asks: the same for the servers
/// of aggregated APIs and for itself, which tells others of it.
pub(crate) fn front_proxy_args(layout: &Layout) -> [String; 5] {
    [
        format!("--requestheader-client-ca-file={}", key_files(layout, pki::FRONT_PROXY_CA).certificate.display()),
        format!("--requestheader-allowed-names={}", pki::FRONT_PROXY_CLIENT),
        "--requestheader-username-headers=X-Remote-User".to_owned(),
        "--requestheader-group-headers=X-Remote-Group".to_owned(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_clusters_own_addresses_are_never_behind_a_proxy() {
        let layout = Layout::at(Path::new("/t"));
        let address = Ipv4Addr::new(192, 0, 2, 7);
        let spec = Spec {
            layout: &layout,
            node: String::new(),
            address,
            network: Network::of([]),
            isolation: Isolation::Mount,
            settings: vec![],
            api_port: 6443,
        };
        let own = "localhost,127.0.0.0/8,192.0.2.7,10.42.0.0/24,10.43.0.0/16,.svc,.cluster.local";
        assert_eq!(no_proxy_beside(&spec, None), own);
        assert_eq!(no_proxy_beside(&spec, Some(String::new())), own);
        assert_eq!(no_proxy_beside(&spec, Some(".example.org".to_owned())), format!(".example.org,{own}"));
    }
}
