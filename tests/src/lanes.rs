//! Which scenarios are played at a time: one in each lane, in a stage that no other lane has.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::stage::{Place, Stages};

/// The lanes, and the scenarios that wait for one.
pub(crate) struct Lanes {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// By their places in the order of the run.
    waiting: BTreeMap<usize, Place>,
    free: Vec<Lane>,
    /// Where the other lanes are.
    taken: Vec<Place>,
}

#[derive(Default)]
struct Lane {
    /// Where its last scenario was played.
    place: Option<Place>,
    stages: Stages,
}

impl Lanes {
    pub(crate) fn new(count: usize) -> Self {
        let free = (0..count).map(|_| Lane::default()).collect();
        Self { state: Mutex::new(State { free, ..State::default() }), changed: Condvar::new() }
    }

    /// Waits until it is this scenario's turn in one of the lanes, and plays it there.
    pub(crate) fn in_turn<T>(&self, number: usize, place: Place, play: impl FnOnce(&mut Stages) -> T) -> T {
        let mut state = self.state();
        state.waiting.insert(number, place);
        let mut lane = loop {
            if let Some(lane) = state.take_lane(number, place) {
                break lane;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        drop(state);
        // Another one may now be next.
        self.changed.notify_all();
        let played = catch_unwind(AssertUnwindSafe(|| play(&mut lane.stages)));
        self.state().give_back(lane);
        self.changed.notify_all();
        played.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Ends what the lanes have set up.
    pub(crate) fn leave(&self) {
        self.state().free.iter_mut().for_each(|lane| lane.stages.leave());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The lane that this scenario is next for, if one is free: the one that was there last; else one whose last place nobody
    /// waits for.
    fn take_lane(&mut self, number: usize, place: Place) -> Option<Lane> {
        let mut same = self.waiting.iter().filter(|(_, other)| place.is_shared() && **other == place);
        let is_first = same.next().is_none_or(|(first, _)| *first == number);
        let is_elsewhere = place.is_shared() && self.taken.contains(&place);
        if !is_first || is_elsewhere {
            return None;
        }
        let lane = self.free.iter().position(|lane| lane.keeps(place)).or_else(|| {
            let is_kept = |place: Place| self.free.iter().any(|lane| lane.keeps(place)) || self.taken.contains(&place);
            let unkept = |(_, place): &(&usize, &Place)| !place.is_shared() || !is_kept(**place);
            let is_next = self.waiting.iter().find(unkept).is_some_and(|(first, _)| *first == number);
            let is_left = |lane: &Lane| !self.waiting.values().any(|place| lane.keeps(*place));
            self.free.iter().position(is_left).filter(|_| is_next)
        })?;
        self.waiting.remove(&number);
        self.taken.push(place);
        Some(Lane { place: Some(place), ..self.free.swap_remove(lane) })
    }

    fn give_back(&mut self, lane: Lane) {
        if let Some(taken) = self.taken.iter().position(|taken| Some(*taken) == lane.place) {
            self.taken.swap_remove(taken);
        }
        self.free.push(lane);
    }
}

impl Lane {
    /// Whether it has set up the stage for a scenario at this place.
    fn keeps(&self, place: Place) -> bool {
        place.is_shared() && self.place == Some(place)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::{Kind, Stage};

    #[test]
    fn a_stage_has_one_lane_at_a_time_and_each_lane_stays_where_it_is() {
        let place = |stage| Place { kind: Kind::ORDINARY, stage };
        let stages = [Stage::Shared, Stage::Bare, Stage::Own, Stage::Shared, Stage::Own, Stage::Bare, Stage::Shared];
        let (lanes, busy) = (Lanes::new(2), Mutex::new(Vec::new()));
        let most = Mutex::new(0);
        thread::scope(|scope| {
            for (number, stage) in stages.into_iter().cycle().take(70).enumerate() {
                let (lanes, busy, most) = (&lanes, &busy, &most);
                scope.spawn(move || {
                    lanes.in_turn(number, place(stage), |_| {
                        let mut at = busy.lock().unwrap();
                        assert!(stage == Stage::Own || !at.contains(&stage), "{stage:?} is played in twice: {at:?}");
                        at.push(stage);
                        let count = at.len();
                        drop(at);
                        let mut highest = most.lock().unwrap();
                        *highest = count.max(*highest);
                        drop(highest);
                        thread::sleep(Duration::from_millis(1));
                        let mut at = busy.lock().unwrap();
                        let own = at.iter().position(|other| *other == stage).unwrap();
                        at.swap_remove(own);
                    });
                });
            }
        });
        assert_eq!(*most.lock().unwrap(), 2);
        assert_eq!(lanes.state().free.len(), 2);
    }

    #[test]
    fn who_panics_leaves_the_lane_to_others() {
        let (lanes, place) = (Lanes::new(1), Place { kind: Kind::ORDINARY, stage: Stage::Shared });
        assert!(catch_unwind(AssertUnwindSafe(|| lanes.in_turn(0, place, |_| panic!("as it should")))).is_err());
        assert_eq!(lanes.in_turn(1, place, |_| 7), 7);
    }

    #[test]
    fn who_is_next_depends_on_where_the_lanes_are() {
        let place = |stage| Place { kind: Kind::ORDINARY, stage };
        let lane = |stage| Lane { place: Some(place(stage)), ..Lane::default() };
        let waiting =
            [(3, place(Stage::Shared)), (4, place(Stage::Shared)), (5, place(Stage::Bare)), (6, place(Stage::Own))];
        let next = |free: Vec<Lane>, taken: &[Stage]| {
            let taken: Vec<Place> = taken.iter().map(|stage| place(*stage)).collect();
            waiting
                .into_iter()
                .filter_map(|(number, at)| {
                    let free = free.iter().map(|lane| Lane { place: lane.place, ..Lane::default() }).collect();
                    let mut state = State { waiting: waiting.into(), free, taken: taken.clone() };
                    state.take_lane(number, at).map(|_| number)
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(next(vec![Lane::default()], &[]), [3], "in the order of the run");
        assert_eq!(
            next(vec![lane(Stage::Shared), lane(Stage::Harmed)], &[]),
            [3, 5],
            "the first goes on; the other goes to what nobody has"
        );
        assert_eq!(next(vec![Lane::default()], &[Stage::Shared]), [5]);
        assert_eq!(next(vec![lane(Stage::Bare)], &[Stage::Shared]), [5]);
        assert_eq!(next(vec![Lane::default()], &[Stage::Shared, Stage::Bare]), [6]);
        assert_eq!(
            next(vec![lane(Stage::Shared)], &[Stage::Bare]),
            [3],
            "a stage is not given up while someone waits for it"
        );
    }
}
