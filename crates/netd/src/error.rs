//! What ends the proxy.

use std::io;

/// Why the proxy cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused.
    #[error("cannot {action} {what}")]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// The nat table cannot be reached, though it is to be used.
    #[error("cannot lead Services' connections here")]
    Nat(#[source] terrarium_cni::nat::NatError),
    /// The API cannot be asked at all: address, CA or certificate cannot be read.
    #[error("cannot ask the API")]
    Api(#[from] Box<kube::Error>),
    /// Two metrics have the same name.
    #[error("cannot count")]
    Metrics(#[from] prometheus::Error),
}

impl Error {
    pub(crate) fn io(action: &'static str, what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, what: what.into(), source }
    }
}
