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
