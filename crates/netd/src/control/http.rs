//! A small HTTP server, for those who ask after health and metrics.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// How many clients are served at once, and how long one may say nothing.
const CLIENTS: usize = 32;
const SILENCE: Duration = Duration::from_secs(30);

/// What is answered.
pub type Answer = Response<String>;

/// Answers GET by path, until dropped; connections end then, too.
pub async fn serve(listener: TcpListener, answer: impl Fn(&str) -> Answer + Clone + 'static) {
    let mut clients = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept(), if clients.len() < CLIENTS => accepted,
            Some(_) = clients.join_next() => continue,
        };
        match accepted {
            Ok((client, _)) => {
                clients.spawn_local(serve_one(client, answer.clone()));
            }
            Err(error) => pause(&error).await,
        }
    }
}

async fn serve_one(client: TcpStream, answer: impl Fn(&str) -> Answer + 'static) {
    let respond = service_fn(move |request: Request<Incoming>| {
        let known = [Method::GET, Method::HEAD].contains(request.method());
        let answer =
            if known { answer(request.uri().path()) } else { plain(StatusCode::METHOD_NOT_ALLOWED, String::new()) };
        std::future::ready(Ok::<_, Infallible>(answer))
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(SILENCE).max_buf_size(16 << 10);
    let _ = server.serve_connection(TokioIo::new(client), respond).await; // the client's concern
}

/// Too many open files, mostly: others may be closed meanwhile.
async fn pause(error: &io::Error) {
    tracing::debug!("cannot accept a client: {error}");
    sleep(Duration::from_millis(100)).await;
}

/// An answer in plain text.
pub fn plain(status: StatusCode, body: String) -> Answer {
    answer(status, "text/plain; charset=utf-8", body)
}

/// An answer in JSON.
pub fn json(status: StatusCode, body: String) -> Answer {
    answer(status, "application/json", body)
}

/// An answer of some type of content.
pub fn answer(status: StatusCode, content: &'static str, body: String) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content));
    headers.insert(HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));
    answer
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::task::LocalSet;

    use super::*;

    #[tokio::test]
    async fn answers_get_by_path_and_refuses_the_rest() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let ask = async |line: &str| {
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(format!("{line}\r\nhost: a\r\nconnection: close\r\n\r\n").as_bytes()).await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let asking = async {
            let answer = ask("GET /a?b=c HTTP/1.1").await;
            assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("path /a"), "{answer}");
            let answer = ask("HEAD /a HTTP/1.1").await;
            assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\n"), "{answer}");
            assert!(ask("POST /a HTTP/1.1").await.starts_with("HTTP/1.1 405"));
            assert!(ask("nonsense").await.starts_with("HTTP/1.1 400"));
            // More at once than are served at once: the rest waits.
            let idle: Vec<_> = futures::future::join_all((0..CLIENTS).map(|_| TcpStream::connect(address))).await;
            let waits = ask("GET /b HTTP/1.1");
            let (answer, ()) = tokio::join!(waits, async { drop(idle) });
            assert!(answer.ends_with("path /b"), "{answer}");
        };
        let serving = serve(listener, |path: &str| plain(StatusCode::OK, format!("path {path}")));
        LocalSet::new()
            .run_until(async {
                tokio::select! {
                    () = serving => (),
                    () = asking => (),
                }
            })
            .await;
    }
}
