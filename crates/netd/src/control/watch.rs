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
                    if pause.is_over() {
                        tracing::warn!("{} cannot be followed: {error}", K::plural(&()));
                    }
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};

    use futures::future::join;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::client::Body;
    use tokio::sync::mpsc;

    use super::*;

    /// What the API is asked, in short, and what it answers: status and body.
    type Answers = Vec<(&'static str, u16, String)>;

    fn map(name: &str, version: u32) -> String {
        format!(
            r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}","namespace":"ns","resourceVersion":"{version}"}}}}"#
        )
    }

    fn change(kind: &str, object: &str) -> String {
        format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
    }

    const END: &str = r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"resourceVersion":"7","annotations":{"k8s.io/initial-events-end":"true"}}}"#;

    fn status(code: u16) -> String {
        format!(r#"{{"kind":"Status","apiVersion":"v1","status":"Failure","code":{code},"reason":"x","message":"x"}}"#)
    }

    /// What a watch tells when the API answers so, one after another.
    async fn told(answers: Answers) -> Vec<String> {
        let answers = Arc::new(Mutex::new(answers.into_iter()));
        let service = tower::service_fn(move |request: hyper::Request<Body>| {
            let query = request.uri().query().unwrap_or_default().to_owned();
            let asked = match query {
                _ if query.contains("sendInitialEvents=true") => "stream",
                _ if query.contains("watch=true") => "watch",
                _ => "list",
            };
            let next = answers.lock().unwrap().next();
            async move {
                let Some((expected, status, body)) = next else { return std::future::pending().await };
                assert_eq!(asked, expected, "{query}");
                Ok::<_, Infallible>(
                    hyper::Response::builder().status(status).body(Body::from(body.into_bytes())).unwrap(),
                )
            }
        });
        let access = Access::with(Client::new(service, "default"));
        let watch = Watch {
            config: watcher::Config::default(),
            keep: |map: ConfigMap, _: &str| map.metadata.name.filter(|name| name != "other"),
            node: "node".into(),
            tell: |event: Event<String>| match event {
                Event::Apply(name, _) => format!("apply {name}"),
                Event::Delete(name) => format!("delete {name}"),
                Event::All(all) => format!("all {}", all.len()),
                Event::Lost => "lost".to_owned(),
            },
        };
        let (sender, mut receiver) = mpsc::channel(1);
        let told = async {
            let mut told = Vec::new();
            while let Some(event) = receiver.recv().await {
                let done = event == "apply ns/last";
                told.push(event);
                if done {
                    receiver.close();
                }
            }
            told
        };
        let stopped = tokio::time::timeout(std::time::Duration::from_secs(600), watch.run(&access, sender));
        join(told, stopped).await.0
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_is_streamed_and_changes_follow() {
        let stream = change("ADDED", &map("a", 1))
            + &change("ADDED", &map("other", 2))
            + &change("BOOKMARK", END)
            + &change("MODIFIED", &map("a", 8))
            + &change("MODIFIED", &map("other", 9))
            + &change("DELETED", &map("a", 10))
            + &change("ADDED", &map("last", 11));
        let told = told(vec![("stream", 200, stream)]).await;
        // What is none of ours any more is as good as gone.
        assert_eq!(told, ["all 1", "apply ns/a", "delete ns/other", "delete ns/a", "apply ns/last"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_does_not_stream_is_asked_for_a_list() {
        let list = format!(
            r#"{{"kind":"ConfigMapList","apiVersion":"v1","metadata":{{"resourceVersion":"5"}},"items":[{}]}}"#,
            map("a", 1)
        );
        let answers =
            vec![("stream", 422, status(422)), ("list", 200, list), ("watch", 200, change("ADDED", &map("last", 6)))];
        assert_eq!(told(answers).await, ["lost", "all 1", "apply ns/last"]);
    }

    #[tokio::test(start_paused = true)]
    async fn it_goes_on_forever_and_a_new_list_is_whole_or_not_told_at_all() {
        let answers = vec![
            ("stream", 500, status(500)),
            ("stream", 403, status(403)),
            ("stream", 200, change("ADDED", &map("a", 1))), // ends before the list does
            ("stream", 200, change("ADDED", &map("a", 1)) + &change("BOOKMARK", END)),
            ("watch", 200, change("ERROR", &status(410))),
            ("stream", 200, change("ADDED", &map("b", 1)) + &change("BOOKMARK", END)),
            ("watch", 200, String::new()),
            ("watch", 200, change("ADDED", &map("last", 9))),
        ];
        assert_eq!(told(answers).await, ["lost", "lost", "all 1", "lost", "all 1", "apply ns/last"]);
    }
}
