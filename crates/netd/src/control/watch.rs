//! What the API says, as it says it.
//!
//! A watch goes on forever. Whatever ends it (the API server starts again, the watch expires), what is known stays in force
//! until a whole new list is there; that list is then compared with what is known.

use std::collections::HashMap;
use std::fmt::Debug;
use std::pin::pin;

use futures::TryStreamExt;
use kube::runtime::watcher::{self, InitialListStrategy, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::Sender;

use super::service::Name;
use crate::access::{Access, Pause};

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

/// What is watched, and what is kept of it.
pub struct Watch<K, T, U> {
    /// Which objects.
    pub config: watcher::Config,
    /// What is kept of an object; `None` where it is none of ours.
    pub keep: fn(K, &str) -> Option<T>,
    /// The node's name.
    pub node: Box<str>,
    /// What becomes of an event.
    pub tell: fn(Event<T>) -> U,
}

impl<K, T, U> Watch<K, T, U>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    /// Follows the API until nobody listens.
    pub async fn run(mut self, access: &Access, sender: Sender<U>) {
        let mut pause = Pause::default();
        self.config = self.config.streaming_lists();
        while let Err(error) = self.follow(access.client(), &sender, &mut pause).await {
            match code(&error) {
                Some(401) => access.renew_after(&error).await,
                _ => self.config.initial_list_strategy = InitialListStrategy::ListWatch,
            }
        }
    }

    /// Follows the API, `Ok` until nobody listens any more.
    ///
    /// # Errors
    /// It takes another client (401), or a list that is not streamed, which servers may refuse.
    async fn follow(&self, client: Client, sender: &Sender<U>, pause: &mut Pause) -> Result<(), kube::Error> {
        let mut stream = pin!(watcher(Api::<K>::all(client), self.config.clone()));
        let streams = self.config.initial_list_strategy == InitialListStrategy::StreamingList;
        let mut list = None;
        loop {
            let event = match stream.try_next().await {
                Ok(None) => return Ok(()),
                Ok(Some(event)) => self.event(event, &mut list),
                Err(error) => {
                    tracing::debug!("cannot follow {}: {error}", K::plural(&()));
                    if sender.send((self.tell)(Event::Lost)).await.is_err() {
                        return Ok(());
                    }
                    pause.after_error().await;
                    match error {
                        watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error)
                            if code(&error) == Some(401) || (streams && matches!(code(&error), Some(400 | 422))) =>
                        {
                            return Err(error);
                        }
                        _ => None,
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

fn code(error: &kube::Error) -> Option<u16> {
    if let kube::Error::Api(status) = error { Some(status.code) } else { None }
}
