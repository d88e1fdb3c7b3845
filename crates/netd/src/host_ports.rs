//! Host ports of Pods: what the CNI plugin asks for when it attaches one becomes a frontend like any other.
//!
//! The plugin waits for the answer, so that a Pod whose port is taken does not start in silence without it. What was
//! granted is a file per Pod's link ([`Lease`]) and outlasts this process. A lease whose link is gone belongs to nobody any
//! more, and is dropped when this process starts and when somebody else wants its port. Both ends of the conversation, and
//! who removes which file when, are told in [`terrarium_cni::host_ports`].

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use terrarium_cni::host_ports::{self, Answer, HostPort, Lease, Request};
use terrarium_cni::netlink::Netlink;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::spawn_local;
use tokio::time::{Duration, sleep};

use crate::relay::addresses_of;
use crate::table::{Frontend, Otherwise, Owner, Protocol, Route, Way};
use crate::{Error, Shared};

/// The longest request, in bytes: a Pod with hundreds of ports, or the links of thousands of Pods.
const LONGEST: u64 = 256 * 1024;
/// What is granted, in a directory of this name.
pub const DIRECTORY: &str = "hostports";
/// How often a port that is in use is tried, and how long between: half a second.
const ATTEMPTS: u32 = 6;
const PAUSE: Duration = Duration::from_millis(100);

/// Serves the plugin's requests until the process ends.
///
/// # Errors
/// The leases cannot be read, or the socket cannot be listened on.
pub async fn run(shared: Shared) -> Result<(), Error> {
    let host_ports = HostPorts::new(shared, has_link);
    fs::create_dir_all(&host_ports.directory)
        .map_err(Error::io("make the directory", host_ports.directory.to_string_lossy()))?;
    // First the socket, then the leases: the plugin removes files without us only while nobody listens.
    let path = host_ports::socket(&host_ports.directory);
    let listen = || {
        let _ = fs::remove_file(&path); // an earlier process's
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    let listener = listen().map_err(Error::io("listen on", path.to_string_lossy()))?;
    host_ports.load().map_err(Error::io("read", host_ports.directory.to_string_lossy()))?;
    let host_ports = Rc::new(host_ports);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(spawn_local(converse(host_ports.clone(), stream))),
            Err(source) => return Err(Error::io("listen on", path.to_string_lossy())(source)),
        }
    }
}

/// One request, one answer. A plugin that ended meanwhile is none to tell.
async fn converse(host_ports: Rc<HostPorts>, mut stream: UnixStream) {
    let mut line = Vec::new();
    let (reading, mut writing) = stream.split();
    if BufReader::new(reading.take(LONGEST)).read_until(b'\n', &mut line).await.is_err() {
        return;
    }
    let answer = match serde_json::from_slice(&line) {
        Ok(request) => host_ports.answer(request).await,
        Err(error) => Err(format!("the request cannot be understood: {error}")),
    };
    let mut line = serde_json::to_vec(&answer).expect("text becomes JSON");
    line.push(b'\n');
    let _ = writing.write_all(&line).await;
}

/// Whether the node has a link of that name. Where links cannot be asked for, nothing is given up.
fn has_link(name: &str) -> bool {
    Netlink::open().and_then(|mut netlink| netlink.link(name)).map_or(true, |link| link.is_some())
}

struct HostPorts {
    shared: Shared,
    directory: PathBuf,
    /// By link.
    leases: RefCell<HashMap<String, Lease>>,
    has_link: fn(&str) -> bool,
}

impl HostPorts {
    fn new(shared: Shared, has_link: fn(&str) -> bool) -> Self {
        let directory = shared.config.runtime_dir.join(DIRECTORY);
        Self { shared, directory, leases: RefCell::default(), has_link }
    }

    /// Takes up what an earlier process granted. What cannot be understood is of no use to anybody.
    fn load(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            match self.load_one(&path) {
                // The plugin may remove it meanwhile.
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn load_one(&self, path: &Path) -> io::Result<()> {
        let lease = serde_json::from_slice(&fs::read(path)?).ok();
        match lease.filter(|lease: &Lease| path.ends_with(&lease.link) && (self.has_link)(&lease.link)) {
            Some(lease) => {
                self.carry(lease);
                Ok(())
            }
            None => {
                tracing::info!("{} is stale", path.display());
                fs::remove_file(path)
            }
        }
    }

    async fn answer(&self, request: Request) -> Answer {
        match request {
            Request::Add(lease) => {
                if !lease.ports.is_empty() {
                    self.add(lease.clone()).await?;
                }
                self.shared.policy.attach(&lease.namespace, &lease.name, lease.address).await;
                Ok(())
            }
            Request::Del(link) => {
                self.forget(&link);
                Ok(())
            }
            Request::Gc(keep) => {
                let links: Vec<String> = self.leases.borrow().keys().cloned().collect();
                links.iter().filter(|link| !keep.contains(link)).for_each(|link| self.forget(link));
                Ok(())
            }
            Request::Check(lease) => match self.leases.borrow().get(&lease.link) {
                Some(found) if *found == lease => Ok(()),
                Some(_) => Err("the host ports lead elsewhere".into()),
                None => Err("the host ports are not there".into()),
            },
        }
    }

    async fn add(&self, lease: Lease) -> Answer {
        self.forget(&lease.link); // the link is new, so what was there is stale
        let refused = |port: &HostPort, why: String| format!("host port {} cannot be had: {why}", frontend(port));
        for port in &lease.ports {
            self.unclaimed(port).map_err(|why| refused(port, why))?;
            self.bindable(port).await.map_err(|why| refused(port, why))?;
        }
        // Once more, without a pause from here on: another request may have been granted meanwhile.
        for port in &lease.ports {
            self.unclaimed(port).map_err(|why| refused(port, why))?;
        }
        self.write(&lease).map_err(|error| format!("the host ports cannot be put on record: {error}"))?;
        self.carry(lease);
        Ok(())
    }

    /// Whether nobody else has a port by way of this process; says who has it. A stale lease gives way.
    fn unclaimed(&self, port: &HostPort) -> Answer {
        let (config, wanted) = (&self.shared.config, frontend(port));
        // All of them are addresses of the loopback device, and could be bound.
        if config.services.contains(&wanted.address) {
            return Err("the address is one of Services".into());
        }
        let others = self.shared.table.all().into_iter();
        for (other, route) in others.filter(|(other, _)| overlap(wanted, *other)) {
            if config.services.contains(&other.address) {
                continue;
            }
            match self.link_of(other).filter(|link| !(self.has_link)(link)) {
                Some(stale) => self.forget(&stale),
                None => return Err(format!("{} {} has {other}", route.owner.kind, route.owner)),
            }
        }
        Ok(())
    }

    /// The link whose lease a frontend is of.
    fn link_of(&self, searched: Frontend) -> Option<String> {
        let leases = self.leases.borrow();
        leases
            .values()
            .find(|lease| lease.ports.iter().any(|port| frontend(port) == searched))
            .map(|lease| lease.link.clone())
    }

    /// Whether the relay will be able to listen; says why not.
    async fn bindable(&self, port: &HostPort) -> Answer {
        let wanted = frontend(port);
        let config = &self.shared.config;
        // gVisor lets one program listen on all addresses, and another one on a single one of them.
        // For UDP the relay binds each by itself.
        let own = config
            .own()
            .chain([Ipv4Addr::LOCALHOST])
            .filter(|_| wanted.address.is_unspecified() && wanted.protocol == Protocol::Tcp);
        for address in addresses_of(config, &wanted).into_iter().chain(own) {
            let address = SocketAddrV4::new(address, wanted.port);
            let mut attempts = 1..ATTEMPTS;
            loop {
                match try_bind(wanted.protocol, address) {
                    Ok(()) => break,
                    // The relay may be about to close what the last Pod had.
                    Err(error) if error.kind() == io::ErrorKind::AddrInUse && attempts.next().is_some() => {
                        sleep(PAUSE).await;
                    }
                    Err(error) => {
                        return Err(match error.kind() {
                            io::ErrorKind::AddrInUse => format!("a program on the node has {address}"),
                            io::ErrorKind::AddrNotAvailable => format!("{} is no address of the node", address.ip()),
                            _ => error.to_string(),
                        });
                    }
                }
            }
        }
        Ok(())
    }

    /// Puts a lease on record, whole or not at all.
    fn write(&self, lease: &Lease) -> io::Result<()> {
        let path = self.directory.join(&lease.link);
        let new = path.with_extension("new");
        fs::write(&new, serde_json::to_vec(lease)?)?;
        fs::rename(new, path)
    }

    fn carry(&self, lease: Lease) {
        for port in &lease.ports {
            let owner = Owner {
                kind: "Pod",
                namespace: lease.namespace.clone(),
                name: lease.name.clone(),
                uid: lease.uid.clone(),
                port: port.container_port.to_string(),
            };
            let route = Route {
                owner: Rc::new(owner),
                endpoints: [SocketAddrV4::new(lease.address, port.container_port)].into(),
                otherwise: Otherwise::Reject,
                affinity: None,
                sources: [].into(),
                way: Way::Relay,
                traffic: Rc::default(),
            };
            self.shared.table.set(frontend(port), route);
        }
        self.leases.borrow_mut().insert(lease.link.clone(), lease);
    }

    fn forget(&self, link: &str) {
        let Some(lease) = self.leases.borrow_mut().remove(link) else { return };
        for port in &lease.ports {
            self.shared.table.remove(&frontend(port));
        }
        let _ = fs::remove_file(self.directory.join(link)); // the plugin's DEL was first, mostly
    }
}

fn frontend(port: &HostPort) -> Frontend {
    Frontend { protocol: port.protocol, address: port.host_ip, port: port.host_port }
}

fn overlap(one: Frontend, other: Frontend) -> bool {
    let addresses = [one.address, other.address];
    one.protocol == other.protocol
        && one.port == other.port
        && (addresses[0] == addresses[1] || addresses.iter().any(Ipv4Addr::is_unspecified))
}

fn try_bind(protocol: Protocol, address: SocketAddrV4) -> io::Result<()> {
    match protocol {
        Protocol::Tcp => TcpListener::bind(address).map(drop),
        Protocol::Udp => UdpSocket::bind(address).map(drop),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, Write as _};
    use std::os::unix::net::UnixStream as Plugin;
    use std::thread;

    use tokio::task::LocalSet;

    use super::*;
    use crate::fixtures::unused_port;
    use crate::table::Table;
    use crate::{Config, fixtures, notice};

    /// What the node has: links whose names end in an even digit.
    fn even(link: &str) -> bool {
        link.ends_with(['0', '2', '4', '6', '8'])
    }

    fn shared(runtime_dir: &Path) -> Shared {
        let localhost = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
        let config = Config {
            node_address: Ipv4Addr::new(127, 0, 0, 2),
            gateway: Ipv4Addr::new(127, 0, 0, 3),
            services: "127.43.0.0/16".parse().unwrap(),
            dns: Ipv4Addr::new(127, 43, 0, 10),
            runtime_dir: runtime_dir.to_owned(),
            metrics: localhost,
            healthz: localhost,
            ..fixtures::config()
        };
        let (notices, _) = notice::channel();
        Shared {
            config: Rc::new(config),
            table: Rc::new(Table::default()),
            policy: Rc::new(crate::policy::Policy::none()),
            counters: Rc::default(),
            notices,
        }
    }

    fn lease(link: &str, protocol: Protocol, host_ip: [u8; 4], host_port: u16) -> Lease {
        let port = HostPort { protocol, host_ip: host_ip.into(), host_port, container_port: 80 };
        Lease {
            link: link.into(),
            namespace: "default".into(),
            name: format!("of-{link}"),
            uid: "1".into(),
            address: Ipv4Addr::new(10, 42, 0, 2),
            ports: vec![port],
        }
    }

    fn with_host_ports(test: impl AsyncFnOnce(HostPorts)) {
        let root = tempfile::tempdir().unwrap();
        let host_ports = HostPorts::new(shared(root.path()), even);
        fs::create_dir(&host_ports.directory).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test(host_ports));
    }

    use Protocol::{Tcp, Udp};

    #[test]
    fn a_lease_becomes_a_frontend_until_it_is_given_back() {
        with_host_ports(async |host_ports| {
            let granted = lease("ter2", Tcp, [127, 0, 0, 1], unused_port());
            let frontend = frontend(&granted.ports[0]);
            host_ports.answer(Request::Add(granted.clone())).await.unwrap();
            let route = host_ports.shared.table.get(&frontend).unwrap();
            assert_eq!(*route.endpoints, [SocketAddrV4::new(granted.address, 80)]);
            assert_eq!((route.owner.kind, route.owner.to_string().as_str()), ("Pod", "default/of-ter2:80"));
            host_ports.answer(Request::Check(granted.clone())).await.unwrap();
            host_ports.answer(Request::Check(Lease { uid: "2".into(), ..granted.clone() })).await.unwrap_err();

            host_ports.answer(Request::Gc(vec!["ter2".into()])).await.unwrap();
            assert!(host_ports.shared.table.get(&frontend).is_some());
            host_ports.answer(Request::Del("ter2".into())).await.unwrap();
            assert!(host_ports.shared.table.get(&frontend).is_none());
            assert_eq!(fs::read_dir(&host_ports.directory).unwrap().count(), 0);
            host_ports.answer(Request::Check(granted)).await.unwrap_err();
        });
    }

    #[test]
    fn a_port_is_had_once_whatever_the_address() {
        with_host_ports(async |host_ports| {
            let port = unused_port();
            let add = |link, protocol, address| host_ports.answer(Request::Add(lease(link, protocol, address, port)));
            add("ter2", Tcp, [127, 0, 0, 1]).await.unwrap();
            add("ter4", Udp, [127, 0, 0, 1]).await.unwrap();
            add("ter6", Tcp, [127, 0, 0, 2]).await.unwrap();
            for address in [[127, 0, 0, 1], [0, 0, 0, 0]] {
                let error = add("ter8", Tcp, address).await.unwrap_err();
                assert!(error.contains("Pod default/of-ter") && error.contains(&port.to_string()), "{error}");
            }
            add("ter8", Tcp, [127, 43, 0, 1]).await.unwrap_err();
            assert_eq!(host_ports.shared.table.all().len(), 3);
        });
    }

    #[test]
    fn a_port_that_a_program_has_is_refused() {
        with_host_ports(async |host_ports| {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            let add = |address| host_ports.answer(Request::Add(lease("ter2", Tcp, address, port)));
            let error = add([127, 0, 0, 1]).await.unwrap_err();
            assert!(error.ends_with(&format!("a program on the node has 127.0.0.1:{port}")), "{error}");
            add([0, 0, 0, 0]).await.unwrap_err();
            let error = add([192, 0, 2, 1]).await.unwrap_err();
            assert!(error.ends_with("192.0.2.1 is no address of the node"), "{error}");
        });
    }

    #[test]
    fn a_stale_lease_gives_way() {
        with_host_ports(async |host_ports| {
            let port = unused_port();
            host_ports.answer(Request::Add(lease("ter1", Tcp, [127, 0, 0, 1], port))).await.unwrap();
            host_ports.answer(Request::Add(lease("ter2", Tcp, [127, 0, 0, 1], port))).await.unwrap();
            let all = host_ports.shared.table.all();
            assert_eq!((all.len(), all[0].1.owner.name.as_str()), (1, "of-ter2"));
            assert!(!host_ports.directory.join("ter1").exists());
        });
    }

    #[test]
    fn leases_outlast_the_process_but_not_their_links() {
        with_host_ports(async |host_ports| {
            let port = unused_port();
            for (link, protocol) in [("ter1", Tcp), ("ter2", Udp)] {
                host_ports.answer(Request::Add(lease(link, protocol, [127, 0, 0, 1], port))).await.unwrap();
            }
            for torn in ["ter4", "ter5.new"] {
                fs::write(host_ports.directory.join(torn), "{").unwrap();
            }
            let next = HostPorts::new(shared(&host_ports.shared.config.runtime_dir), even);
            next.load().unwrap();
            assert_eq!(next.shared.table.all().len(), 1);
            let left: Vec<_> = fs::read_dir(&next.directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(left, ["ter2"]);
        });
    }

    #[test]
    fn the_plugin_is_answered_in_a_line() {
        let root = tempfile::tempdir().unwrap();
        let shared = shared(root.path());
        let socket = root.path().join("hostports.sock");
        let ask = move |line: &str| {
            let plugin = (0..).find_map(|_| Plugin::connect(&socket).ok()).unwrap();
            writeln!(&plugin, "{line}").unwrap();
            let mut answer = String::new();
            io::BufReader::new(&plugin).read_line(&mut answer).unwrap();
            answer
        };
        let plugin = thread::spawn(move || [ask(r#"{"del":"ter2"}"#), ask("{}")]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let [done, garbage] = LocalSet::new().block_on(&runtime, async {
            let plugin = tokio::task::spawn_blocking(move || plugin.join().unwrap());
            tokio::select! {
                _ = run(shared) => unreachable!("it serves for good"),
                answers = plugin => answers.unwrap(),
            }
        });
        assert_eq!(done, "{\"Ok\":null}\n");
        assert!(garbage.contains("cannot be understood"), "{garbage}");
    }
}
