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

    /// What `/readyz` answers, which kube-proxy does not have: whether Services lead anywhere, which they do once it is known
    /// who may go there. That they are not changed any more is no reason to start this process again, after which they would
    /// lead nowhere.
    pub fn readyz(&self, policies_are_known: bool) -> Answer {
        self.answer(self.complete.get() && policies_are_known, None)
    }

    /// What `/livez` answers: that this process answers.
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

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use tokio::time::advance;

    use super::*;

    fn body(answer: &Answer) -> Value {
        serde_json::from_str(answer.body()).unwrap()
    }

    #[test]
    fn health_is_told_in_the_words_of_kube_proxy() {
        let health = Health::default();
        assert_eq!(health.healthz().status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(
            (health.readyz(true).status(), health.livez().status()),
            (StatusCode::SERVICE_UNAVAILABLE, StatusCode::OK)
        );
        health.applied();
        let healthz = health.healthz();
        assert_eq!((healthz.status(), health.readyz(true).status()), (StatusCode::OK, StatusCode::OK));
        assert_eq!(health.readyz(false).status(), StatusCode::SERVICE_UNAVAILABLE);
        let healthz = body(&healthz);
        for time in [&healthz["lastUpdated"], &healthz["currentTime"], &healthz["status"]["IPv4"]["lastUpdated"]] {
            time.as_str().unwrap().parse::<Timestamp>().unwrap();
        }
        assert_eq!((&healthz["healthy"], &healthz["nodeEligible"]), (&json!(true), &json!(true)));
        assert_eq!(body(&health.livez())["nodeEligible"], json!(null));
    }

    #[test]
    fn a_node_without_object_gets_no_more_work() {
        let health = Health::default();
        health.applied();
        health.node(true);
        let healthz = health.healthz();
        assert_eq!((healthz.status(), health.livez().status()), (StatusCode::SERVICE_UNAVAILABLE, StatusCode::OK));
        assert_eq!((&body(&healthz)["healthy"], &body(&healthz)["nodeEligible"]), (&json!(true), &json!(false)));
        health.node(false);
        assert_eq!(health.healthz().status(), StatusCode::OK);
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_out_of_reach_is_unhealthy_after_two_minutes() {
        let health = Health::default();
        health.applied();
        for seconds in (0..120).step_by(5) {
            assert!(health.is_healthy(), "after {seconds} s");
            health.slices.lost();
            advance(Duration::from_secs(5)).await;
        }
        health.slices.lost();
        assert!(!health.is_healthy());
        // It stays ready: starting this process again would take all routes away.
        assert_eq!((health.readyz(true).status(), health.livez().status()), (StatusCode::OK, StatusCode::OK));
        health.slices.heard();
        assert!(health.is_healthy());
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_is_there_again_need_not_say_so() {
        let health = Health::default();
        health.applied();
        for _ in 0..30 {
            health.services.lost();
            advance(Duration::from_secs(5)).await;
        }
        assert!(!health.is_healthy());
        advance(ERRORS_END).await;
        assert!(health.is_healthy());
        health.services.lost();
        assert!(health.is_healthy());
    }
}
