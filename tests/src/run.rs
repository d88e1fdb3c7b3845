//! One run of the scenarios: what of the matrix is played, in which lanes and how often, what is told at the end.

use std::any::Any;
use std::cell::RefCell;
use std::fmt::Write as _;
use std::fs;
use std::num::NonZero;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::available_parallelism;
use std::time::{Duration, Instant, SystemTime};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use terrarium_testbed::{Error, Gvisor, check_host};

use crate::lanes::Lanes;
use crate::matrix::{Extent, Play, describe_left_out, select};
use crate::results::{self, Outcome, Result as Played};
use crate::stage::Stages;
use crate::{Cluster, Kind, Scope, Stage, installation};

/// A lane takes a core and two GiB of memory.
const MOST_LANES: usize = 4;

/// A story about a cluster.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Its path: `crate::theme::what_holds`.
    pub name: &'static str,
    /// Where it takes place.
    pub stage: Stage,
    /// Panics when something is not as it should be.
    pub story: fn(&Cluster),
    /// The kinds of sandboxes in which it is played.
    pub scope: Scope,
    /// Whether it is never played a second time: it goes by chance, or over what others left.
    pub is_final: bool,
}

/// What a story panics with when what it is about is known not to work in this kind of sandbox.
pub(crate) struct Lacking(pub(crate) String);

thread_local! {
    /// Where the last panic was.
    static PLACE: RefCell<String> = RefCell::default();
}

/// Runs the scenarios that the command line asks for; in a lane, one kind of sandbox after the other and stage after stage.
pub fn main(mut scenarios: Vec<Scenario>) -> ExitCode {
    installation::point_at_runsc();
    let asked_for = Extent::asked_for().and_then(|extent| Ok((extent, second_tries()?)));
    let (extent, second_tries) = match asked_for {
        Ok(asked_for) => asked_for,
        Err(error) => {
            eprintln!("scenarios: {error}");
            return ExitCode::FAILURE;
        }
    };
    // Told with the failure, rather than at once in the middle of a line.
    panic::set_hook(Box::new(|panic| {
        PLACE.set(panic.location().map(ToString::to_string).unwrap_or_default());
    }));
    let mut arguments = Arguments::from_args();
    // Each scenario has a thread, and waits there for its turn.
    let count =
        arguments.test_threads.unwrap_or_else(|| available_parallelism().map_or(1, NonZero::get).min(MOST_LANES));
    let lanes = Arc::new(Lanes::new(count.max(1)));
    for scenario in &mut scenarios {
        scenario.name = scenario.name.split_once("::").map_or(scenario.name, |(_, name)| name);
    }
    let second_tries = Arc::new(AtomicUsize::new(second_tries));
    let artefacts = artefacts();
    let obstacle = obstacle();
    let (told, played) = mpsc::channel();
    let (plays, left_out) = select(&scenarios, &Kind::all(), extent);
    arguments.test_threads = Some(plays.len());
    let trial = |(number, play): (usize, &Play)| {
        let (play, artefacts, obstacle, told) = (*play, artefacts.clone(), obstacle.clone(), told.clone());
        let (lanes, second_tries) = (Arc::clone(&lanes), Arc::clone(&second_tries));
        let trial = Trial::ignorable_test(play.scenario.name, move || match obstacle {
            Some(Obstacle::Unfit(reason)) => Ok(Completion::ignored_with(reason)),
            Some(Obstacle::NotBuilt(reason)) => Err(Failed::from(reason)),
            None => lanes.in_turn(number, play.place(), |stages| {
                let start = Instant::now();
                let none = AtomicUsize::new(0);
                let second_tries = if play.scenario.is_final { &none } else { &*second_tries };
                let (outcome, completion) = outcome(second_tries, |is_again| {
                    if is_again {
                        stages.leave();
                    }
                    perform(&play, stages, &artefacts)
                });
                let (kind, scenario, took) = (play.kind, play.scenario.name, start.elapsed());
                // The receiver lives until the end of this function.
                let _ = told.send(Played { kind, scenario, outcome, took });
                completion
            }),
        });
        if play.kind == Kind::ORDINARY { trial } else { trial.with_kind(play.kind.to_string()) }
    };
    let trials = plays.iter().enumerate().map(trial).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    lanes.leave();
    drop(told);
    let played: Vec<Played> = played.into_iter().collect();
    if !played.is_empty() {
        eprint!("{}", describe_left_out(&left_out));
        tell(&played, &artefacts);
        write_results(played, plays.iter().chain(&left_out));
    }
    conclusion.exit_code()
}

/// Leaves the results of all that could be played, also of what was left out.
fn write_results<'a>(mut results: Vec<Played>, all: impl Iterator<Item = &'a Play>) {
    for Play { scenario, kind } in all {
        if !results.iter().any(|result| result.kind == *kind && result.scenario == scenario.name) {
            let (outcome, took) = (Outcome::LeftOut, Duration::ZERO);
            results.push(Played { kind: *kind, scenario: scenario.name, outcome, took });
        }
    }
    let path = installation::artefacts().join("results.json");
    if let Err(error) = fs::write(&path, format!("{:#}\n", results::json(&results))) {
        eprintln!("scenarios: cannot write {}: {error}", path.display());
    }
    results::update_docs(&results, &installation::support_matrix());
}

/// Why no scenario can run here.
#[derive(Clone)]
enum Obstacle {
    /// This machine or user cannot: no failure.
    Unfit(String),
    /// `make build` was not run.
    NotBuilt(String),
}

fn obstacle() -> Option<Obstacle> {
    if let Some(missing) = installation::missing() {
        return Some(Obstacle::NotBuilt(missing));
    }
    match check_host(Gvisor::default()) {
        Ok(()) => None,
        Err(error @ Error::NoRunsc { .. }) => Some(Obstacle::NotBuilt(error.to_string())),
        Err(error) => Some(Obstacle::Unfit(error.to_string().replace('\n', "; "))),
    }
}

/// Why a scenario did not pass.
enum Unplayed {
    Lacking(String),
    Failed(String),
}

/// What comes of a play, which is played again if it fails and one of the second tries is left.
fn outcome(
    second_tries: &AtomicUsize,
    mut play: impl FnMut(bool) -> Result<(), Unplayed>,
) -> (Outcome, Result<Completion, Failed>) {
    let (mut result, mut passed) = (play(false), Outcome::Passed);
    if let Err(Unplayed::Failed(failure)) = &result
        && second_tries.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    {
        eprintln!("scenarios: this one failed and is played again: {failure}");
        passed = Outcome::Unsteady(first_line(failure).to_owned());
        result = play(true);
    }
    match result {
        Ok(()) => (passed, Ok(Completion::Completed)),
        Err(Unplayed::Lacking(_)) if let Outcome::Unsteady(why) = passed => {
            (Outcome::Failed(why.clone()), Err(why.into()))
        }
        Err(Unplayed::Lacking(why)) => (Outcome::Lacking(why.clone()), Ok(Completion::ignored_with(why))),
        Err(Unplayed::Failed(failure)) => {
            (Outcome::Failed(first_line(&failure).to_owned()), Err(Failed::from(failure)))
        }
    }
}

fn perform(play: &Play, stages: &mut Stages, artefacts: &Path) -> Result<(), Unplayed> {
    let scenario = &play.scenario;
    let cluster = stages.enter(play.place(), scenario.name, artefacts).map_err(Unplayed::Failed)?;
    let played = catch_unwind(AssertUnwindSafe(|| (scenario.story)(cluster)));
    let result = played.map_err(|panic| match panic.downcast::<Lacking>() {
        Ok(lacking) => Unplayed::Lacking(lacking.0),
        Err(panic) => Unplayed::Failed(failure(scenario, cluster, &*panic)),
    });
    // After a failure, what was killed may not be up again.
    if scenario.stage == Stage::Own || matches!(scenario.stage, Stage::Harmed | Stage::Idle) && result.is_err() {
        stages.leave();
    }
    result
}

/// What there is to say about it, also in the run's directory.
fn failure(scenario: &Scenario, cluster: &Cluster, panic: &(dyn Any + Send)) -> String {
    let failure = format!("{}: {}\n\n{}", PLACE.take(), message(panic), cluster.diagnosis());
    let path = cluster.artefacts().join(format!("{}.failure", scenario.name.replace("::", "-")));
    match fs::write(&path, &failure) {
        Ok(()) => format!("{failure}\nmore in {}", cluster.artefacts().display()),
        Err(_) => failure,
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it panicked".to_owned())
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// Says how long each took and, last, why some failed; also in the run's directory.
fn tell(played: &[Played], artefacts: &Path) {
    let mut text = String::new();
    let mut failures = String::new();
    for Played { kind, scenario, outcome, took } in played {
        let kind = if *kind == Kind::ORDINARY { String::new() } else { format!("[{kind}] ") };
        let outcome = match outcome {
            Outcome::Passed => "ok      ",
            Outcome::Unsteady(why) => {
                let _ = writeln!(failures, "unsteady: {kind}{scenario}: at first {why}");
                "unsteady"
            }
            Outcome::Failed(why) => {
                let _ = writeln!(failures, "failed: {kind}{scenario}: {why}");
                "FAILED  "
            }
            Outcome::Lacking(_) => "lacking ",
            Outcome::LeftOut => continue,
        };
        let _ = writeln!(text, "{:>6.1} s  {outcome}  {kind}{scenario}", took.as_secs_f64());
    }
    let all: Duration = played.iter().map(|result| result.took).sum();
    let _ = writeln!(text, "{:>6.1} s  in all lanes; {}", all.as_secs_f64(), artefacts.display());
    text += &failures;
    eprint!("{text}");
    if let Err(error) = fs::write(artefacts.join("durations.txt"), text) {
        eprintln!("scenarios: cannot write to {}: {error}", artefacts.display());
    }
}

/// How many scenarios that fail may be played a second time, by the variable `SECOND_TRIES`. More that fail are no accidents.
fn second_tries() -> Result<usize, String> {
    match std::env::var("SECOND_TRIES").as_deref() {
        Ok("") | Err(_) => Ok(0),
        Ok(count) => count.parse().map_err(|error| format!("SECOND_TRIES={count}: {error}")),
    }
}

/// The directory of this run, to which `latest` leads once something is in it.
fn artefacts() -> PathBuf {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    installation::artefacts().join(format!("{}-{}", now.as_secs(), std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of plays with these failures, and how many there were.
    fn played(tries: usize, failures: &[&str]) -> (Outcome, bool, usize) {
        let mut plays = Vec::new();
        let (outcome, completion) = outcome(&AtomicUsize::new(tries), |is_again| {
            plays.push(is_again);
            failures.get(plays.len() - 1).map_or(Ok(()), |why| Err(Unplayed::Failed(format!("{why}\nand more"))))
        });
        assert!(plays == [false] || plays == [false, true], "{plays:?}");
        (outcome, completion.is_ok(), plays.len())
    }

    #[test]
    fn what_fails_is_played_once_more_while_second_tries_are_left() {
        assert_eq!(played(2, &[]), (Outcome::Passed, true, 1));
        assert_eq!(played(1, &["a"]), (Outcome::Unsteady("a".to_owned()), true, 2));
        assert_eq!(played(1, &["a", "b"]), (Outcome::Failed("b".to_owned()), false, 2));
        assert_eq!(played(0, &["a"]), (Outcome::Failed("a".to_owned()), false, 1));
    }

    #[test]
    fn all_have_the_second_tries_together() {
        let tries = AtomicUsize::new(1);
        let fail = |_| Err(Unplayed::Failed("so".to_owned()));
        assert_eq!(outcome(&tries, |is_again| if is_again { Ok(()) } else { fail(()) }).0.name(), "unsteady");
        assert_eq!(outcome(&tries, |_| fail(())).0.name(), "failed");
    }

    #[test]
    fn what_failed_is_not_lacking_at_last() {
        let lack = || Err(Unplayed::Lacking("so it is".to_owned()));
        assert_eq!(outcome(&AtomicUsize::new(1), |_| lack()).0.name(), "lacking");
        let fail = |is_again| if is_again { lack() } else { Err(Unplayed::Failed("so it was".to_owned())) };
        assert_eq!(outcome(&AtomicUsize::new(1), fail).0, Outcome::Failed("so it was".to_owned()));
    }
}
