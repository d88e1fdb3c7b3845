//! What users are to be told of: it becomes events of the objects in question.

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// The object that a notice is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct About {
    /// Its API group and version, such as `v1` or `networking.k8s.io/v1`.
    pub api_version: &'static str,
    /// Its kind.
    pub kind: &'static str,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// Something that a user asked for and does not get, or not as asked: a warning event.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Notice {
    /// The object.
    pub about: About,
    /// The reason, in CamelCase.
    pub reason: &'static str,
    /// What happened, and what to do.
    pub message: String,
}

/// Where the parts say so.
#[derive(Clone, Debug)]
pub struct Notices(UnboundedSender<Notice>);

impl Notices {
    /// Has a notice posted; the same one is not posted again and again.
    pub fn post(&self, notice: Notice) {
        let _ = self.0.send(notice); // the receiver lives as long as the proxy
    }
}

/// The two ends.
pub fn channel() -> (Notices, UnboundedReceiver<Notice>) {
    let (sender, receiver) = unbounded_channel();
    (Notices(sender), receiver)
}
