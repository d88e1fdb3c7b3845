//! When a service that ended is started again: a state machine without clocks or processes of its own.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A service that ends so often without ever having been ready will not start.
const ATTEMPTS: u32 = 3;

/// The wait before it is started again: the first, doubled each time up to the second.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// One that ran for this long starts with the shortest wait again.
const SETTLED: Duration = Duration::from_secs(60);

/// So many ends within so long a time are a loop.
const LOOP: (usize, Duration) = (3, Duration::from_secs(600));

/// What to do about a service that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It was never ready, and will not be.
    GiveUp,
    /// Start it again.
    Again {
        /// How long to wait first.
        after: Duration,
        /// Whether it has just turned out to end again and again: told once, until it is calm.
        is_new_loop: bool,
    },
}

/// What is remembered of a service's ends.
#[derive(Debug)]
pub(crate) struct Policy {
    back_off: Duration,
    failed_starts: u32,
    was_ready: bool,
    ends: VecDeque<Instant>,
}

impl Policy {
    /// For a service that was ready already or not, under an earlier supervisor.
    pub(crate) fn new(was_ready: bool) -> Self {
        Self { back_off: BACK_OFF.0, failed_starts: 0, was_ready, ends: VecDeque::new() }
    }

    /// It became ready.
    pub(crate) fn is_ready(&mut self) {
        self.was_ready = true;
    }

    /// Whether it was ready at any time: its end does not fail the cluster then.
    pub(crate) fn was_ever_ready(&self) -> bool {
        self.was_ready
    }

    /// It ended `now` after it ran for so long, or could not be run at all.
    pub(crate) fn ended(&mut self, now: Instant, ran: Duration) -> Verdict {
        self.failed_starts += 1;
        if !self.was_ready && self.failed_starts >= ATTEMPTS {
            return Verdict::GiveUp;
        }
        if ran >= SETTLED {
            self.back_off = BACK_OFF.0;
        }
        let after = self.back_off;
        self.back_off = (self.back_off * 2).min(BACK_OFF.1);
        let was_loop = self.ends.len() >= LOOP.0;
        self.ends.push_back(now);
        self.ends.retain(|end| now.duration_since(*end) <= LOOP.1);
        Verdict::Again { after, is_new_loop: !was_loop && self.ends.len() >= LOOP.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(1);

    fn after(verdict: Verdict) -> Duration {
        match verdict {
            Verdict::Again { after, .. } => after,
            Verdict::GiveUp => panic!("it gives up"),
        }
    }

    #[test]
    fn one_that_was_never_ready_is_given_up_at_its_third_end() {
        let (mut policy, now) = (Policy::new(false), Instant::now());
        assert!(matches!(policy.ended(now, SOON), Verdict::Again { .. }));
        assert!(matches!(policy.ended(now, SOON), Verdict::Again { .. }));
        assert_eq!(policy.ended(now, SOON), Verdict::GiveUp);
    }

    #[test]
    fn one_that_was_ready_once_is_never_given_up_and_waits_longer_each_time() {
        let (mut policy, now) = (Policy::new(false), Instant::now());
        policy.is_ready();
        let waits: Vec<f64> = (0..9).map(|_| after(policy.ended(now, SOON)).as_secs_f64()).collect();
        assert_eq!(waits, [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]);
        assert_eq!(after(policy.ended(now, SETTLED)), BACK_OFF.0, "it had settled");
    }

    #[test]
    fn a_loop_is_told_once_until_it_is_calm() {
        let (mut policy, start) = (Policy::new(false), Instant::now());
        policy.is_ready();
        let mut is_new_loop_at = |minute: u64| {
            let verdict = policy.ended(start + Duration::from_secs(60 * minute), SETTLED);
            matches!(verdict, Verdict::Again { is_new_loop: true, .. })
        };
        assert_eq!([0, 1, 2, 3, 4].map(&mut is_new_loop_at), [false, false, true, false, false]);
        // Half an hour later it is none; and then one again.
        assert_eq!([40, 41, 42].map(&mut is_new_loop_at), [false, false, true]);
    }
}
