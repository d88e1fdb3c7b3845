//! What the caller of `up` reaches by a proxy, and trusts, so do pulls; and Pods, if they ask for it.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use harness::Cluster;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use crate::dns::{Ends, ended};

crate::stories! {
    Idle in PODS:
        images_and_pods_go_by_the_callers_proxy_and_certificates;
}

/// A name that only the proxy knows.
const REGISTRY: &str = "registry.corp.test";
const TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

fn images_and_pods_go_by_the_callers_proxy_and_certificates(cluster: &Cluster) {
    let registry = Registry::at(TcpListener::bind((cluster.outside(), 0)).expect("a port on the sandbox's gateway"));
    let proxy = registry.address();
    cluster.run_with_input(["tee", "/tmp/ca.pem"], registry.certificate.as_bytes()).succeeds();
    let asked = registry.serve_while(|| {
        cluster.sh(&format!("HTTPS_PROXY=http://{proxy} SSL_CERT_FILE=/tmp/ca.pem terrarium up")).succeeds();
        let namespace = cluster.namespace("egress");
        // As the README says.
        let copy = "terrarium kubectl -n kube-public get configmap terrarium-egress -o yaml |
            sed '/^  \\(namespace\\|uid\\|resourceVersion\\|creationTimestamp\\):/d' | terrarium kubectl -n egress apply -f -";
        cluster.sh(copy).succeeds();
        namespace.apply(&pulled("shows", &["env"]));
        namespace.apply(&pulled("trusts", &["cat", "/egress/ca.crt"]));
        let environment = ended(&namespace, "shows");
        for line in [format!("HTTPS_PROXY=http://{proxy}"), format!("https_proxy=http://{proxy}")] {
            assert!(environment.lines().any(|other| other == line), "{environment}");
        }
        assert_eq!(ended(&namespace, "trusts"), registry.certificate);
        cluster.terrarium("down").succeeds();
    });
    assert_eq!(asked, BTreeSet::from([format!("{REGISTRY}:443")]));
}

/// A Pod of an image that is nowhere but in the registry.
fn pulled(name: &str, args: &[&str]) -> String {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "containers": [{
                "name": "sample", "image": format!("{REGISTRY}/app:1"), "args": args,
                "envFrom": [{"configMapRef": {"name": "terrarium-egress"}}],
                "volumeMounts": [{"name": "egress", "mountPath": "/egress"}],
            }],
            "volumes": [{"name": "egress", "configMap": {"name": "terrarium-egress"}}],
        },
    })
    .to_string()
}

/// An HTTP proxy, and behind it a registry that speaks TLS with a certificate of its own and has one image: the sample.
struct Registry {
    listener: TcpListener,
    certificate: String,
    tls: Arc<ServerConfig>,
    /// By what follows `/v2/app/` in a URL.
    content: HashMap<String, Vec<u8>>,
}

impl Registry {
    fn at(listener: TcpListener) -> Self {
        listener.set_nonblocking(true).expect("a mode");
        let made = rcgen::generate_simple_self_signed([REGISTRY.to_owned()]).expect("a certificate");
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
        let tls = ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("a server");
        Self { listener, certificate: made.cert.pem(), tls: tls.into(), content: sample() }
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("an address")
    }

    /// Serves for as long as `story` runs; returns where the proxy was asked to connect to.
    fn serve_while(&self, story: impl FnOnce()) -> BTreeSet<String> {
        let (is_over, asked) = (AtomicBool::new(false), Mutex::new(BTreeSet::new()));
        thread::scope(|scope| {
            // Also where the story panics: the scope waits for the server.
            let _end = Ends(&is_over);
            let (is_over, asked) = (&is_over, &asked);
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    match self.listener.accept() {
                        // Who goes away in the midst of it is no harm.
                        Ok((stream, _)) => drop(scope.spawn(move || self.converse(stream, is_over, asked))),
                        Err(_) => thread::sleep(Duration::from_millis(20)),
                    }
                }
            });
            story();
        });
        asked.into_inner().expect("nobody panicked")
    }

    fn converse(&self, mut stream: TcpStream, is_over: &AtomicBool, asked: &Mutex<BTreeSet<String>>) -> io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        let Some([method, target]) = request(&mut stream, is_over)? else { return Ok(()) };
        if method != "CONNECT" {
            return stream.write_all(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n");
        }
        asked.lock().expect("nobody panicked").insert(target);
        stream.write_all(b"HTTP/1.1 200 Connection Established\r\n\r\n")?;
        let session = ServerConnection::new(self.tls.clone()).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(session, stream);
        while let Some([method, target]) = request(&mut stream, is_over)? {
            let found = target.strip_prefix("/v2/app/").and_then(|path| self.content.get(path));
            let (status, body) = match found {
                Some(body) => ("200 OK", body.as_slice()),
                None if target == "/v2/" => ("200 OK", &b"{}"[..]),
                None => ("404 Not Found", &b""[..]),
            };
            write!(stream, "HTTP/1.1 {status}\r\nContent-Type: {TYPE}\r\nContent-Length: {}\r\n\r\n", body.len())?;
            if method != "HEAD" {
                stream.write_all(body)?;
            }
            stream.flush()?;
        }
        Ok(())
    }
}

/// The method and the target of the next request, if one comes.
fn request(stream: &mut impl Read, is_over: &AtomicBool) -> io::Result<Option<[String; 2]>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(0) => return Ok(None),
            Ok(_) => head.push(byte[0]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !is_over.load(Ordering::Relaxed) => {}
            Err(error) => return Err(error),
        }
    }
    let head = String::from_utf8_lossy(&head);
    let mut words = head.split(' ').map(str::to_owned);
    Ok(words.next().zip(words.next()).map(Into::into))
}

/// What a registry says of the shipped image.
fn sample() -> HashMap<String, Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../out/share/terrarium/images/sample.tar");
    let mut content = HashMap::new();
    let mut index = Value::Null;
    for entry in tar::Archive::new(File::open(path).expect("the shipped image")).entries().expect("it is a tar file") {
        let mut entry = entry.expect("a whole archive");
        let name = entry.path().expect("a name").display().to_string();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("a whole archive");
        if let Some(digest) = name.strip_prefix("blobs/sha256/") {
            content.insert(format!("blobs/sha256:{digest}"), bytes);
        } else if name == "index.json" {
            index = serde_json::from_slice(&bytes).expect("JSON");
        }
    }
    let digest = index["manifests"][0]["digest"].as_str().expect("a manifest").to_owned();
    let manifest = content[&format!("blobs/{digest}")].clone();
    content.insert(format!("manifests/{digest}"), manifest.clone());
    content.insert("manifests/1".to_owned(), manifest);
    content
}
