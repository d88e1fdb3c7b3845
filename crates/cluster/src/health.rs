//! Whether a service that was ready still answers: a process may live and do nothing.

use std::fs;
use std::net::SocketAddrV4;
use std::path::Path;
use std::time::Duration;

use kube::Client;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use x509_parser::pem::parse_x509_pem;

use crate::component::Readiness;

/// How often is asked.
pub(crate) const INTERVAL: Duration = Duration::from_secs(10);

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(5);

/// So many questions without an answer make a service unhealthy: a minute.
const UNHEALTHY: u32 = 6;

/// So many make it be started again: five minutes. Counted in questions, not by the clock: a sandbox that was paused
/// for an hour has nothing to make up for.
const HOPELESS: u32 = 30;

/// The kubelet's own health port, on loopback: upstream's default.
const KUBELET_HEALTH: u16 = 10248;

/// What an answer, or none, means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    Unhealthy,
    Recovered,
    Hopeless,
}

/// How many questions had no answer.
#[derive(Debug, Default)]
pub(crate) struct Health {
    unanswered: u32,
}

impl Health {
    pub(crate) fn asked(&mut self, answered: bool) -> Change {
        if answered {
            let was_unhealthy = self.unanswered >= UNHEALTHY;
            self.unanswered = 0;
            return if was_unhealthy { Change::Recovered } else { Change::None };
        }
        self.unanswered += 1;
        match self.unanswered {
            UNHEALTHY => Change::Unhealthy,
            HOPELESS => Change::Hopeless,
            _ => Change::None,
        }
    }

    /// For how long there was no answer, about.
    pub(crate) fn silence(&self) -> Duration {
        INTERVAL * self.unanswered
    }
}

/// Whether the service answers, by the means that its readiness names.
pub(crate) async fn answers(readiness: &Readiness, client: &Client) -> bool {
    let answer = async {
        match readiness {
            Readiness::Socket(path) => match UnixStream::connect(path).await {
                Ok(stream) => speaks_http2(stream).await,
                Err(_) => false,
            },
            Readiness::Greeting(path) => greets(path).await,
            Readiness::Api => serves(client, "/livez").await,
            Readiness::Node(_) => says_ok(KUBELET_HEALTH, "/healthz").await,
            Readiness::Http { port, path } => says_ok(*port, path).await,
            Readiness::Https { address, path, authority } => match anonymous(*address, authority) {
                Some(client) => serves(&client, path).await,
                None => false,
            },
        }
    };
    timeout(LIMIT, answer).await.unwrap_or(false)
}

/// Whether a gRPC server answers: it greets with its settings (RFC 9113, section 3.4), which the kernel does not do for it
/// as it takes connections.
async fn speaks_http2(mut stream: UnixStream) -> bool {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    const SETTINGS: u8 = 4;
    let mut frame = [0; 9];
    stream.write_all(PREFACE).await.is_ok() && stream.read_exact(&mut frame).await.is_ok() && frame[3] == SETTINGS
}

/// Whether the client's server answers for this path with success.
async fn serves(client: &Client, path: &str) -> bool {
    let request = http::Request::get(path).body(Vec::new()).expect("a constant request is valid");
    client.request_text(request).await.is_ok()
}

/// A client without credentials, of a server with a certificate of the CA for its address; `None` while there is no CA. No
/// proxy of the environment leads to it.
fn anonymous(address: SocketAddrV4, authority: &Path) -> Option<Client> {
    let pem = fs::read(authority).ok()?;
    let (_, pem) = parse_x509_pem(&pem).ok()?;
    let server = format!("https://{address}").parse().expect("an address and a port are an authority");
    let mut config = kube::Config::new(server);
    config.root_cert = Some(vec![pem.contents]);
    Client::try_from(config).ok()
}

/// Whether a server on a unix socket says anything.
pub(crate) async fn greets(path: &Path) -> bool {
    let Ok(mut stream) = UnixStream::connect(path).await else { return false };
    stream.read_u8().await.is_ok()
}

/// Whether a server on loopback answers for this path with status 200.
async fn says_ok(port: u16, path: &str) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await else { return false };
    let mut answer = [0; 12];
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.is_ok()
        && stream.read_exact(&mut answer).await.is_ok()
        && answer.ends_with(b" 200")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_unhealthy_after_a_minute_and_given_up_after_five() {
        let mut health = Health::default();
        let changes: Vec<_> = (1..=30).map(|_| health.asked(false)).collect();
        assert_eq!(changes.iter().position(|change| *change == Change::Unhealthy), Some(5));
        assert_eq!(changes.iter().position(|change| *change == Change::Hopeless), Some(29));
        assert_eq!(changes.iter().filter(|change| **change != Change::None).count(), 2, "each is told once");
        assert_eq!(health.silence(), Duration::from_secs(300));
        assert_eq!((health.asked(true), health.asked(true)), (Change::Recovered, Change::None));
        assert_eq!((health.asked(false), health.asked(true)), (Change::None, Change::None), "a hiccup is no news");
    }

    #[tokio::test]
    async fn a_server_is_well_if_it_answers_with_200() {
        for (answer, is_well) in [("HTTP/1.0 200 OK\r\n\r\nOK", true), ("HTTP/1.0 503 no\r\n\r\n", false), ("", false)]
        {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let serve = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 19];
                stream.read_exact(&mut request).await.unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
                String::from_utf8_lossy(&request).into_owned()
            };
            let (said, request) = tokio::join!(says_ok(port, "/ping"), serve);
            assert_eq!((said, request.as_str()), (is_well, "GET /ping HTTP/1.0\r"), "{answer}");
        }
    }

    #[tokio::test]
    async fn a_server_that_takes_connections_and_says_nothing_does_not_answer() {
        let (near, _far) = UnixStream::pair().unwrap();
        assert!(timeout(Duration::from_millis(50), speaks_http2(near)).await.is_err());
        let (near, mut far) = UnixStream::pair().unwrap();
        far.write_all(b"\0\0\x06\x04\0\0\0\0\0\0\x05\0\0\x40\0").await.unwrap();
        assert!(speaks_http2(near).await);
        let (near, mut far) = UnixStream::pair().unwrap();
        far.write_all(b"HTTP/1.1 400 Bad Request\r\n").await.unwrap();
        assert!(!speaks_http2(near).await);
    }
}
