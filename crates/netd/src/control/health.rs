//! Whether the proxy follows the API, in kube-proxy's words.

use std::cell::Cell;
use std::time::Duration;

use hyper::StatusCode;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;
use tokio::time::Instant;

use super::http::{self, Answer};

/// How long the API may be out of reach.
const PATIENCE: Duration = Duration::from_secs(120);
/// After so long without another error a watch is there again: trying takes less, and is repeated sooner.
const ERRORS_END: Duration = Duration::from_secs(45);

/// What is known of the proxy's own health.
#[derive(Debug, Default)]
pub struct Health {
    /// Watches of Services and slices.
    pub services: Link,
    /// See there.
    pub slices: Link,
    complete: Cell<bool>,
    updated: Cell<Option<Timestamp>>,
    node_gone: Cell<bool>,
}

/// What has become of a watch. Nothing is said when it is there again, unless something happens in it.
#[derive(Debug, Default)]
pub struct Link {
    /// The first and the last of the errors that came one after another.
    errors: Cell<Option<(Instant, Instant)>>,
}

impl Link {
    /// It has said something.
    pub fn heard(&self) {
        self.errors.set(None);
    }

    /// It could not be had.
    pub fn lost(&self) {
        let now = Instant::now();
        let since = self.errors.get().filter(|(_, last)| now - *last < ERRORS_END).map_or(now, |(first, _)| first);
        self.errors.set(Some((since, now)));
    }

    fn is_lost(&self) -> bool {
        let now = Instant::now();
        self.errors.get().is_some_and(|(first, last)| now - first >= PATIENCE && now - last < ERRORS_END)
    }
}

impl Health {
    /// All that is known is applied.
    pub fn applied(&self) {
        self.complete.set(true);
        self.updated.set(Some(Timestamp::now()));
    }

    /// Whether the node's object was deleted.
    pub fn node(&self, gone: bool) {
        self.node_gone.set(gone);
    }

    /// Whether Services lead where the API says: it has been listed, and was not out of reach for two minutes since.
    pub fn is_healthy(&self) -> bool {
        self.complete.get() && !self.services.is_lost() && !self.slices.is_lost()
    }

    /// What `/healthz` answers.
    pub fn healthz(&self) -> Answer {
        let eligible = !self.node_gone.get();
        self.answer(self.is_healthy() && eligible, Some(eligible))
    }

    /// What `/livez` answers: who starts this process again when it fails should not because of the API.
    pub fn livez(&self) -> Answer {
        self.answer(true, None)
    }

    fn answer(&self, well: bool, eligible: Option<bool>) -> Answer {
        let now = Timestamp::now();
        let updated = self.updated.get().unwrap_or(Timestamp::UNIX_EPOCH);
        let healthy = self.is_healthy();
        let mut body = json!({
            // As kube-proxy does it: recent while all is well, though nothing changed.
            "lastUpdated": if well { now } else { updated }.to_string(),
            "currentTime": now.to_string(),
        });
        if let Some(eligible) = eligible {
            body["nodeEligible"] = eligible.into();
        }
        body["healthy"] = healthy.into();
        body["status"] = json!({ "IPv4": { "lastUpdated": updated.to_string(), "healthy": healthy } });
        http::json(if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, body.to_string())
    }
}
