//! How the API is reached.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::time::{Instant, sleep};

/// The first pause after an error, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A client of the API that is made anew when its certificate is.
pub struct Access {
    kubeconfig: PathBuf,
    client: RefCell<Client>,
    port: Option<u16>,
}

impl Access {
    /// By a kubeconfig. Nobody has to listen yet.
    ///
    /// # Errors
    /// The kubeconfig, or a certificate in it, cannot be read.
    pub async fn new(kubeconfig: &Path) -> Result<Self, kube::Error> {
        let (client, port) = client(kubeconfig).await?;
        Ok(Self { kubeconfig: kubeconfig.to_owned(), client: RefCell::new(client), port })
    }

    /// The client.
    pub fn client(&self) -> Client {
        self.client.borrow().clone()
    }

    /// The API's port.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// Reads the certificate again where the API does not know it any more: it has been issued anew, and the old one is past
    /// its end.
    pub async fn renew_after(&self, error: &kube::Error) {
        if !matches!(error, kube::Error::Api(status) if status.code == 401) {
            return;
        }
        match client(&self.kubeconfig).await {
            Ok((client, _)) => drop(self.client.replace(client)),
            Err(error) => tracing::warn!("cannot read {}: {error}", self.kubeconfig.display()),
        }
    }
}

async fn client(kubeconfig: &Path) -> Result<(Client, Option<u16>), kube::Error> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    // kube takes the environment's HTTPS_PROXY for every server but does not look at NO_PROXY; this one is on the node.
    config.proxy_url = None;
    let port = config.cluster_url.port_u16();
    Ok((Client::try_from(config)?, port))
}

/// How long to wait after an error: twice as long each time, as long as they come one after another.
#[derive(Debug, Default)]
pub struct Pause(Option<(Instant, Duration)>);

impl Pause {
    /// Waits.
    pub async fn after_error(&mut self) {
        let (first, longest) = BACKOFF;
        let next = match self.0 {
            Some((last, pause)) if last.elapsed() < longest => (pause * 2).min(longest),
            _ => first,
        };
        sleep(next).await;
        self.0 = Some((Instant::now(), next));
    }
}
