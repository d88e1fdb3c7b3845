//! Posts notices as events of the objects in question.
//!
//! kube's `Recorder` takes notices of one reason for the same event, whatever they say; here each that says something else
//! is one of its own, and none is posted twice in an hour.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep_until};

use crate::access::{Access, Pause};
use crate::notice::Notice;

/// How many notices wait at most; what comes then is only logged.
const WAITING: usize = 256;
/// How many are remembered as posted, and for how long: so long does the API server keep them.
const REMEMBERED: usize = 1024;
const MEMORY: Duration = Duration::from_secs(3600);
/// How many are posted at once, and after that one in so long.
const BURST: u32 = 25;
const INTERVAL: Duration = Duration::from_secs(1);
/// How long a note may be, as the API has it.
const NOTE: usize = 1024;

/// Who says so.
const REPORTER: &str = "terrarium-netd";

/// Posts what is noticed, forever.
pub async fn run(mut noticed: UnboundedReceiver<Notice>, node: &str, access: &Access) {
    let queue = RefCell::new(Queue::default());
    let added = Notify::new();
    let take_in = async {
        while let Some(notice) = noticed.recv().await {
            queue.borrow_mut().add(notice, Instant::now());
            added.notify_one();
        }
    };
    let post = async {
        let mut rate = Rate::new(Instant::now());
        let mut pause = Pause::default();
        loop {
            let Some(notice) = queue.borrow_mut().waiting.pop_front() else {
                added.notified().await;
                continue;
            };
            sleep_until(rate.next()).await;
            while let Err(error) = post(&notice, node, access).await {
                tracing::debug!("cannot post an event: {error}");
                access.renew_after(&error).await;
                pause.after_error().await;
            }
            rate.spent(Instant::now());
        }
    };
    tokio::select! {
        () = take_in => (),
        () = post => (),
    }
}

/// # Errors
/// Trying again may help.
async fn post(notice: &Notice, node: &str, access: &Access) -> Result<(), kube::Error> {
    let event = event(notice, node, Timestamp::now());
    let namespace = event.metadata.namespace.as_deref().unwrap_or_default();
    let events = Api::<Event>::namespaced(access.client(), namespace);
    match events.create(&PostParams::default(), &event).await {
        // The namespace is going, or the event is not as the API wants it.
        Err(kube::Error::Api(status)) if matches!(status.code, 400..500) && !matches!(status.code, 401 | 429) => {
            tracing::warn!("cannot post an event: {}", status.message);
            Ok(())
        }
        posted => posted.map(drop),
    }
}

/// What is still to be posted, and what was.
#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Notice>,
    hasher: RandomState,
    seen: HashMap<u64, Instant>,
}

impl Queue {
    fn add(&mut self, notice: Notice, now: Instant) {
        let hash = self.hasher.hash_one(&notice);
        if self.seen.get(&hash).is_some_and(|seen| now - *seen < MEMORY) {
            return;
        }
        let about = &notice.about;
        tracing::warn!("{} {}/{}: {}", about.kind, about.namespace, about.name, notice.message);
        if self.waiting.len() == WAITING {
            return;
        }
        if self.seen.len() >= REMEMBERED {
            self.seen.retain(|_, seen| now - *seen < MEMORY);
        }
        if self.seen.len() >= REMEMBERED {
            self.seen.clear(); // saying something again is better than forgetting to say it
        }
        self.seen.insert(hash, now);
        self.waiting.push_back(notice);
    }
}

/// So many at once, then one in a while.
#[derive(Debug)]
struct Rate {
    /// When all of the burst will be there again.
    full: Instant,
}

impl Rate {
    fn new(now: Instant) -> Self {
        Self { full: now }
    }

    /// When the next one may be posted.
    fn next(&self) -> Instant {
        self.full.checked_sub(INTERVAL * (BURST - 1)).unwrap_or(self.full)
    }

    fn spent(&mut self, now: Instant) {
        self.full = self.full.max(now) + INTERVAL;
    }
}

fn event(notice: &Notice, node: &str, now: Timestamp) -> Event {
    let about = &notice.about;
    let namespace = if about.namespace.is_empty() { "default" } else { &about.namespace };
    let mut note = notice.message.clone();
    note.truncate(note.floor_char_boundary(NOTE));
    Event {
        metadata: ObjectMeta {
            // Names are 253 characters long at most, also those of events.
            name: Some(format!("{:.230}.{:x}", about.name, now.as_nanosecond())),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(now)),
        type_: Some("Warning".to_owned()),
        reason: Some(notice.reason.to_owned()),
        action: Some("Proxy".to_owned()),
        note: Some(note),
        regarding: Some(ObjectReference {
            api_version: Some(about.api_version.to_owned()),
            kind: Some(about.kind.to_owned()),
            namespace: (!about.namespace.is_empty()).then(|| about.namespace.clone()),
            name: Some(about.name.clone()),
            uid: Some(about.uid.clone()),
            ..ObjectReference::default()
        }),
        reporting_controller: Some(REPORTER.to_owned()),
        reporting_instance: Some(node.to_owned()),
        ..Event::default()
    }
}
