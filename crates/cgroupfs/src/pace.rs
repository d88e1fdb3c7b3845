//! When to look at a cgroup again.

use std::time::Duration;

/// How much a cgroup may take in a second, in bytes: processes fill memory in gVisor about that fast.
const GROWTH: u64 = 1 << 30;
const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);
/// How long calm is believed.
const BELIEVED: Duration = Duration::from_secs(1);
/// How often the time is doubled, at most, while hardly anything changes.
const CALM: u32 = 2;

/// Follows what one cgroup holds.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    last: u64,
    calm: u32,
}

impl Pace {
    /// How long the cgroup may go on unseen, with what it holds now and its limit, in bytes: until it could be at its
    /// limit, and up to four times as long, but no longer than a second, if it has not grown.
    pub fn next(&mut self, usage: u64, limit: u64) -> Duration {
        let left = limit.saturating_sub(usage);
        let grown = usage.saturating_sub(self.last);
        self.last = usage;
        self.calm = if grown <= left / 32 { (self.calm + 1).min(CALM) } else { 0 };
        let time = Duration::from_secs_f64(left as f64 / GROWTH as f64).clamp(SHORTEST, LONGEST);
        (time * (1 << self.calm)).min(BELIEVED).max(time)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_less_is_left_the_sooner() {
        const LIMIT: u64 = 256 << 20;
        let mut pace = Pace::default();
        pace.next(100 << 20, LIMIT);
        let calm: Vec<u128> = (0..3).map(|_| pace.next(100 << 20, LIMIT).as_millis()).collect();
        assert_eq!(calm, [304, 609, 609]);
        let mut pace = Pace::default();
        let long: Vec<u128> = (0..3).map(|_| pace.next(0, 4 << 30).as_millis()).collect();
        assert_eq!(long, [2000, 2000, 2000]);
        assert_eq!(pace.next(200 << 20, LIMIT).as_millis(), 54, "it grows");
        assert_eq!(pace.next(LIMIT + 1, LIMIT), SHORTEST);
        assert_eq!(pace.next(0, 64 << 30), LONGEST);
    }

    proptest! {
        #[test]
        fn it_is_never_too_soon_nor_too_late(seen: Vec<(u64, u64)>) {
            let mut pace = Pace::default();
            for (usage, limit) in seen {
                let time = pace.next(usage, limit);
                prop_assert!((SHORTEST..=LONGEST).contains(&time));
            }
        }
    }
}
