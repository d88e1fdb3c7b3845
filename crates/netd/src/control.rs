//! To come: so far only that the process lives.

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::notice::Notice;
use crate::{Error, Shared};

/// Runs.
pub async fn run(shared: Shared, _noticed: UnboundedReceiver<Notice>) -> Result<(), Error> {
    let healthz = shared.config.healthz;
    let listen = || Error::io("listen on", healthz.to_string());
    let listener = TcpListener::bind(healthz).await.map_err(listen())?;
    loop {
        let (mut client, _) = listener.accept().await.map_err(listen())?;
        let _ = client.write_all(b"HTTP/1.0 200 OK\r\n\r\n").await;
    }
}
