//! Waiting for what must come true.

use std::thread::sleep;
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_millis(50);

/// Tries until it succeeds, and returns what came of it; panics with the last failure when the time is up.
#[track_caller]
pub fn eventually<T>(limit: Duration, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(failure) if start.elapsed() >= limit => panic!("not within {limit:?}: {failure}"),
            Err(_) => sleep(INTERVAL),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_returns_what_came_of_it() {
        let mut attempts = 0;
        let value = eventually(Duration::from_secs(5), || {
            attempts += 1;
            if attempts < 3 { Err("not yet".to_owned()) } else { Ok(attempts) }
        });
        assert_eq!(value, 3);
    }

    #[test]
    #[should_panic(expected = "not within 1ms: the last failure")]
    fn it_tells_the_last_failure() {
        eventually(Duration::from_millis(1), || Err::<(), _>("the last failure".to_owned()));
    }
}
