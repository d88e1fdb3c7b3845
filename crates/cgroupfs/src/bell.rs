//! How the guard is told that there may be something new.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Rings until it is heard.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bell(Arc<(Mutex<bool>, Condvar)>);

impl Bell {
    pub fn ring(&self) {
        let (rings, heard) = &*self.0;
        *rings.lock().unwrap_or_else(PoisonError::into_inner) = true;
        heard.notify_one();
    }

    /// Waits until it rings, or so long. Says whether it did, and stills it.
    pub fn wait(&self, most: Duration) -> bool {
        let (rings, heard) = &*self.0;
        let rings = rings.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = heard.wait_timeout_while(rings, most, |rings| !*rings);
        let (mut rings, _) = waited.unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *rings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_is_heard_once() {
        let bell = Bell::default();
        bell.clone().ring();
        assert!(bell.wait(Duration::from_secs(60)));
        assert!(!bell.wait(Duration::ZERO));
    }
}
