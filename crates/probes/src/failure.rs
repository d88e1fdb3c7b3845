//! What a probe ran into, in words that say the same at every run: no process IDs, no temporary paths.

use std::io;

use nix::errno::Errno;
use terrarium_gaps::Tried;

/// What was tried, and what the system said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Failure(String);

impl Failure {
    pub fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }

    pub fn tried(&self) -> Tried {
        Tried::Fails(self.0.clone())
    }
}

/// Says what was being done when a call failed.
pub(crate) trait Doing<T> {
    fn doing(self, what: &str) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, what: &str) -> Result<T, Failure> {
        self.map_err(|error| Failure(format!("{what}: {}", words(&error.into()))))
    }
}

/// The system's own words for an error, without its number.
fn words(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), |number| Errno::from_raw(number).desc().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_was_tried_and_why_not() {
        let refused: Result<(), _> = Err(Errno::EPERM);
        assert_eq!(Tried::from(refused.doing("mount a tmpfs")).why(), Some("mount a tmpfs: Operation not permitted"));
        let strange: Result<(), _> = Err(io::Error::other("no sense"));
        assert_eq!(strange.doing("read").unwrap_err(), Failure::new("read: no sense"));
    }
}
