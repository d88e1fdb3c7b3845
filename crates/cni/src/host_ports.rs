//! Host ports: ports of the node that lead to a Pod, carried by the node's Service proxy (`terrarium-netd`).
//!
//! The stock plugin `portmap` writes rules that gVisor does not take, and says nothing where somebody else has the port.
//! The proxy binds it instead, so ADD asks first and fails where that is not possible. What is granted is a [`Lease`], a
//! file of the proxy's in a directory that the configuration names (`hostPorts`); beside it is the socket, of the same
//! name with `.sock`. One request and one answer per connection, each a line of JSON.
//!
//! DEL must work while there is no proxy. So the plugin itself removes the file, and then tells the proxy if there is
//! one: it listens before it reads the leases, hence one that does not listen yet will not see this one.

use std::collections::HashMap;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::attachment::is_host_link;
use crate::invocation::AddressedTo;
use crate::iptables::Protocol;

/// How long the proxy may take to answer: it binds a few sockets, and waits for policies for three seconds at most.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long one that is started again after its end takes to answer, mostly, and how often to try.
const BEGIN: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(50);

/// Why host ports cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum HostPortError {
    /// What is asked for is not to be had on any node.
    #[error("host port {port}: {why}")]
    Unsupported {
        /// The port with its protocol.
        port: String,
        /// What is wrong.
        why: String,
    },
    /// The proxy says no.
    #[error("{0}")]
    Refused(String),
    /// There is no proxy at present.
    #[error("host ports take the node's Service proxy, and it does not answer at {}", socket.display())]
    NoProxy {
        /// Where it should listen.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A lease's file.
    #[error("cannot {action} {}", path.display())]
    File {
        /// `read` or `remove`.
        action: &'static str,
        /// The file or its directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A mapping as runtimes hand it over (`runtimeConfig.portMappings`); containerd writes the keys in capitals.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    #[serde(alias = "HostPort")]
    host_port: u16,
    #[serde(alias = "ContainerPort")]
    container_port: u16,
    #[serde(alias = "Protocol")]
    protocol: String,
    #[serde(default, rename = "hostIP", alias = "HostIP")]
    host_ip: String,
}

/// A port of the node that leads to one of a Pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostPort {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The node's address; 0.0.0.0 for all of them.
    pub host_ip: Ipv4Addr,
    /// The node's port.
    pub host_port: u16,
    /// The Pod's port.
    pub container_port: u16,
}

/// The host ports of one attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lease {
    /// The link on the node ([`Attachment::host_link`](crate::Attachment::host_link)), which names the lease and lives as
    /// long as the Pod's network namespace.
    pub link: String,
    /// The Pod's namespace.
    pub namespace: String,
    /// The Pod's name.
    pub name: String,
    /// The Pod's UID.
    pub uid: String,
    /// The Pod's address.
    pub address: Ipv4Addr,
    /// Its ports.
    pub ports: Vec<HostPort>,
}

/// What the plugin asks of the proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Request {
    /// Carry these ports from now on, if there are any, and have policies hold for the Pod, which is about to start.
    Add(Lease),
    /// The lease of that link is gone.
    Del(String),
    /// The leases of all other links than these are gone.
    Gc(Vec<String>),
    /// Are these ports carried as ADD had it?
    Check(Lease),
}

/// The proxy's answer; an error is for the user to read.
pub type Answer = Result<(), String>;

/// Where the proxy listens that keeps its leases in that directory.
pub fn socket(directory: &Path) -> PathBuf {
    directory.with_extension("sock")
}

/// The mappings that name a port of the node, understood.
pub(crate) fn requested(mappings: &[PortMapping]) -> Result<Vec<HostPort>, HostPortError> {
    mappings.iter().filter(|mapping| mapping.host_port != 0).map(understood).collect()
}

fn understood(mapping: &PortMapping) -> Result<HostPort, HostPortError> {
    let unsupported = |why: String| HostPortError::Unsupported {
        port: format!("{}/{}", mapping.host_port, mapping.protocol.to_uppercase()),
        why,
    };
    let protocol = match mapping.protocol.to_lowercase().as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return Err(unsupported("only TCP and UDP are carried; gVisor has no other protocol".into())),
    };
    let host_ip = match mapping.host_ip.as_str() {
        "" => Ipv4Addr::UNSPECIFIED,
        text => text
            .parse()
            .map_err(|_| unsupported(format!("hostIP {text} is no IPv4 address, and Pods have IPv4 addresses only")))?,
    };
    Ok(HostPort { protocol, host_ip, host_port: mapping.host_port, container_port: mapping.container_port })
}

/// The lease that an attachment is to have.
pub(crate) fn lease(to: &AddressedTo, address: Ipv4Addr, ports: Vec<HostPort>) -> Lease {
    let [namespace, name, uid] = pod_of(&to.args);
    Lease { link: to.attachment.host_link(), namespace, name, uid, address, ports }
}

/// The Pod that an attachment is for: its namespace, name and UID, from `CNI_ARGS`; empty where they are not said.
fn pod_of(args: &str) -> [String; 3] {
    let pairs: HashMap<&str, &str> = args.split(';').filter_map(|pair| pair.split_once('=')).collect();
    ["K8S_POD_NAMESPACE", "K8S_POD_NAME", "K8S_POD_UID"]
        .map(|name| pairs.get(name).copied().unwrap_or_default().to_owned())
}

/// Asks the proxy and waits for its answer; for a proxy that is not there, until one that begins would be.
pub(crate) fn ask(directory: &Path, request: &Request) -> Result<(), HostPortError> {
    let start = Instant::now();
    loop {
        match ask_once(directory, request) {
            Err(HostPortError::NoProxy { .. }) if start.elapsed() < BEGIN => sleep(PAUSE),
            answered => return answered,
        }
    }
}

fn ask_once(directory: &Path, request: &Request) -> Result<(), HostPortError> {
    let socket = socket(directory);
    let exchange = || {
        let stream = UnixStream::connect(&socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        (&stream).write_all(&line)?;
        let mut answer = String::new();
        BufReader::new(&stream).read_line(&mut answer)?;
        Ok(serde_json::from_str::<Answer>(&answer)?)
    };
    match exchange() {
        Ok(answer) => answer.map_err(HostPortError::Refused),
        Err(source) => Err(HostPortError::NoProxy { socket, source }),
    }
}

/// Gives back what the link has, whether the proxy runs or not.
pub(crate) fn release(directory: &Path, link: &str) -> Result<(), HostPortError> {
    if remove(&directory.join(link))? { tell(directory, &Request::Del(link.to_owned())) } else { Ok(()) }
}

/// Gives back what all other links have.
pub(crate) fn release_others(directory: &Path, keep: &[String]) -> Result<(), HostPortError> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => {
            entries.map_err(|source| HostPortError::File { action: "read", path: directory.to_owned(), source })?
        }
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    for name in names.filter(|name| is_host_link(name) && !keep.contains(name)) {
        remove(&directory.join(name))?;
    }
    tell(directory, &Request::Gc(keep.to_vec()))
}

/// Whether the file was there.
fn remove(file: &Path) -> Result<bool, HostPortError> {
    match fs::remove_file(file) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(HostPortError::File { action: "remove", path: file.to_owned(), source }),
    }
}

/// Tells a proxy that listens. One that does not, or that ended before it answered, will read the leases when it starts.
fn tell(directory: &Path, request: &Request) -> Result<(), HostPortError> {
    use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, NotFound, UnexpectedEof};
    let absent = |error: &io::Error| {
        matches!(error.kind(), NotFound | ConnectionRefused | ConnectionReset | BrokenPipe | UnexpectedEof)
    };
    match ask_once(directory, request) {
        Err(HostPortError::NoProxy { source, .. }) if absent(&source) => Ok(()),
        told => told,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use serde_json::json;

    use super::*;

    fn mappings(value: serde_json::Value) -> Result<Vec<HostPort>, HostPortError> {
        requested(&serde_json::from_value::<Vec<PortMapping>>(value).unwrap())
    }

    #[test]
    fn mappings_of_containerd_and_of_the_convention_are_understood() {
        let containerd = json!([{"HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": ""}]);
        let convention = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
        let expected =
            HostPort { protocol: Protocol::Tcp, host_ip: Ipv4Addr::UNSPECIFIED, host_port: 8080, container_port: 80 };
        assert_eq!(mappings(containerd).unwrap(), [expected]);
        assert_eq!(mappings(convention).unwrap(), [expected]);
        let none = json!([{"hostPort": 0, "containerPort": 80, "protocol": "sctp"}]);
        assert_eq!(mappings(none).unwrap(), []);
    }

    #[test]
    fn what_cannot_be_carried_is_refused_by_name() {
        for (key, value, word) in [("protocol", "sctp", "53/SCTP: only TCP and UDP"), ("hostIP", "::1", "hostIP ::1")] {
            let mut mapping = json!({"hostPort": 53, "containerPort": 53, "protocol": "udp"});
            mapping[key] = json!(value);
            let error = mappings(json!([mapping])).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn the_pod_is_read_from_the_arguments() {
        let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web;K8S_POD_UID=1-2";
        assert_eq!(pod_of(args), ["ns", "web", "1-2"]);
        assert_eq!(pod_of(""), ["", "", ""]);
    }

    #[test]
    fn without_a_proxy_leases_are_given_back_and_none_is_got() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("hostports");
        fs::create_dir(&directory).unwrap();
        for name in ["ter000000000001", "ter000000000002", "README"] {
            fs::write(directory.join(name), "{}").unwrap();
        }
        let error = ask_once(&directory, &Request::Gc(Vec::new())).unwrap_err();
        assert!(matches!(error, HostPortError::NoProxy { .. }), "{error}");
        release(&directory, "ter000000000001").unwrap();
        release(&directory, "ter000000000001").unwrap();
        release_others(&directory, &["ter000000000003".into()]).unwrap();
        let left: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["README"]);
        release_others(&root.path().join("nowhere"), &[]).unwrap();
    }

    #[test]
    fn a_proxy_is_told_of_what_is_given_back() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("hostports");
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("ter000000000001"), "{}").unwrap();
        let listener = UnixListener::bind(socket(&directory)).unwrap();
        let proxy = thread::spawn(move || {
            let mut requests = Vec::new();
            for answer in [r#"{"Ok":null}"#, r#"{"Err":"in use"}"#, ""] {
                let (stream, _) = listener.accept().unwrap();
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).unwrap();
                requests.push(serde_json::from_str::<Request>(&line).unwrap());
                writeln!(&stream, "{answer}").unwrap();
            }
            requests
        });
        release(&directory, "ter000000000001").unwrap();
        release(&directory, "ter000000000001").unwrap(); // nothing to tell of
        let refused = ask(&directory, &Request::Gc(Vec::new())).unwrap_err();
        assert_eq!(refused.to_string(), "in use");
        // One that ends without an answer reads what there is when it begins.
        release_others(&directory, &[]).unwrap();
        let gc = Request::Gc(Vec::new());
        assert_eq!(proxy.join().unwrap(), [Request::Del("ter000000000001".into()), gc.clone(), gc]);
    }

    #[test]
    fn a_proxy_that_begins_is_waited_for() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("hostports");
        drop(UnixListener::bind(socket(&directory)).unwrap()); // as one that was killed leaves it
        let again = directory.clone();
        let proxy = thread::spawn(move || {
            sleep(Duration::from_millis(200));
            fs::remove_file(socket(&again)).unwrap();
            let listener = UnixListener::bind(socket(&again)).unwrap();
            let (stream, _) = listener.accept().unwrap();
            BufReader::new(&stream).read_line(&mut String::new()).unwrap();
            writeln!(&stream, r#"{{"Ok":null}}"#).unwrap();
        });
        ask(&directory, &Request::Gc(Vec::new())).unwrap();
        proxy.join().unwrap();
    }
}
