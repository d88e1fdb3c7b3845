//! What the API says, as it says it.
//!
//! A watch goes on forever. Whatever ends it (the API server starts again, the watch expires), what is known stays in force
//! until a whole new list is there; that list is then compared with what is known.

use std::collections::HashMap;
use std::fmt::Debug;
use std::path::Path;
use std::time::Duration;

use futures::TryStreamExt;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher;
use kube::{Api, Client, Config, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::Sender;
use tokio::time::{Instant, sleep};

use super::service::Name;

/// The first pause after an error, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// What a watch tells.
#[derive(Debug)]
pub enum Event<T> {
    /// An object is there, or has changed.
    Apply(Name, T),
    /// An object is gone, or is none of ours any more.
    Delete(Name),
    /// These are all objects there are.
    All(HashMap<Name, T>),
    /// The API cannot be followed right now.
    Lost,
}

/// A client by a kubeconfig, and the port of the API.
///
/// # Errors
/// The kubeconfig, or a certificate in it, cannot be read.
pub async fn client(kubeconfig: &Path) -> Result<(Client, Option<u16>), kube::Error> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    // kube takes the environment's HTTPS_PROXY for every server but does not look at NO_PROXY; this one is on the node.
    config.proxy_url = None;
    let port = config.cluster_url.port_u16();
    Ok((Client::try_from(config)?, port))
}

/// What is watched, and what is kept of it.
pub struct Watch<K, T, U> {
    /// Which objects.
    pub config: watcher::Config,
    /// What is kept of an object; `None` where it is none of ours.
    pub keep: fn(K, &str) -> Option<T>,
    /// The node's name.
    pub node: String,
    /// What becomes of an event.
    pub tell: fn(Event<T>) -> U,
}

impl<K, T, U> Watch<K, T, U>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    /// Follows the API until nobody listens.
    pub async fn run(mut self, kubeconfig: &Path, mut client: Client, sender: Sender<U>) {
        let mut pause = Pause::default();
        self.config = self.config.streaming_lists();
        loop {
            let error = match self.follow(&client, &sender, &mut pause).await {
                Ok(()) => return,
                Err(error) => error,
            };
            match code(&error) {
                // The certificate was issued anew, and the old one is past its end.
                Some(401) => match self::client(kubeconfig).await {
                    Ok((new, _)) => client = new,
                    Err(error) => tracing::warn!("cannot read {}: {error}", kubeconfig.display()),
                },
                // A server that does not stream lists refuses to.
                _ => self.config.initial_list_strategy = watcher::InitialListStrategy::ListWatch,
            }
        }
    }

    /// Follows the API until that needs another client or another kind of list; `Ok` when nobody listens any more.
    async fn follow(&self, client: &Client, sender: &Sender<U>, pause: &mut Pause) -> Result<(), watcher::Error> {
        let mut stream = std::pin::pin!(watcher(Api::<K>::all(client.clone()), self.config.clone()));
        let mut list = None;
        loop {
            let event = match stream.try_next().await {
                Ok(Some(event)) => self.event(event, &mut list),
                Ok(None) => return Ok(()),
                Err(error) => {
                    tracing::debug!("cannot follow {}: {error}", K::plural(&()));
                    let told = sender.send((self.tell)(Event::Lost)).await;
                    pause.after_error().await;
                    let streams = self.config.initial_list_strategy == watcher::InitialListStrategy::StreamingList;
                    match code(&error) {
                        _ if told.is_err() => return Ok(()),
                        Some(401) => return Err(error),
                        Some(400 | 422) if streams => return Err(error),
                        _ => continue,
                    }
                }
            };
            if let Some(event) = event
                && sender.send((self.tell)(event)).await.is_err()
            {
                return Ok(());
            }
        }
    }

    fn event(&self, event: watcher::Event<K>, list: &mut Option<HashMap<Name, T>>) -> Option<Event<T>> {
        match event {
            watcher::Event::Init => {
                *list = Some(HashMap::new());
                None
            }
            watcher::Event::InitApply(object) => {
                let name = Name::of(object.meta());
                if let Some((list, kept)) = list.as_mut().zip((self.keep)(object, &self.node)) {
                    list.insert(name, kept);
                }
                None
            }
            watcher::Event::InitDone => list.take().map(Event::All),
            watcher::Event::Apply(object) => {
                let name = Name::of(object.meta());
                Some(match (self.keep)(object, &self.node) {
                    Some(kept) => Event::Apply(name, kept),
                    None => Event::Delete(name),
                })
            }
            watcher::Event::Delete(object) => Some(Event::Delete(Name::of(object.meta()))),
        }
    }
}

fn code(error: &watcher::Error) -> Option<u16> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => Some(status.code),
        _ => None,
    }
}

/// How long to wait after an error: twice as long each time, as long as they come one after another.
#[derive(Debug, Default)]
struct Pause(Option<(Instant, Duration)>);

impl Pause {
    async fn after_error(&mut self) {
        let (first, longest) = BACKOFF;
        let next = match self.0 {
            Some((last, pause)) if last.elapsed() < longest => (pause * 2).min(longest),
            _ => first,
        };
        sleep(next).await;
        self.0 = Some((Instant::now(), next));
    }
}
