//! One run of the scenarios: filters, the stages in turn, what is told at the end.

use std::any::Any;
use std::cell::RefCell;
use std::fmt::Write as _;
use std::fs;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use terrarium_testbed::{Error, Gvisor, check_host};

use crate::stage::Stages;
use crate::{Cluster, Stage, installation};

/// A story about a cluster.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Its path: `crate::theme::what_holds`.
    pub name: &'static str,
    /// Where it takes place.
    pub stage: Stage,
    /// Panics when something is not as it should be.
    pub story: fn(&Cluster),
}

thread_local! {
    static STAGES: RefCell<Stages> = RefCell::default();
    /// Where the last panic was.
    static PLACE: RefCell<String> = RefCell::default();
}

/// Runs the scenarios that the command line asks for, stage after stage.
pub fn main(mut scenarios: Vec<Scenario>) -> ExitCode {
    installation::point_at_runsc();
    // Told with the failure, rather than at once in the middle of a line.
    panic::set_hook(Box::new(|panic| {
        PLACE.set(panic.location().map(ToString::to_string).unwrap_or_default());
    }));
    let mut arguments = Arguments::from_args();
    // The stages belong to this thread, and one cluster is what two cores can carry.
    arguments.test_threads = Some(1);
    for scenario in &mut scenarios {
        scenario.name = scenario.name.split_once("::").map_or(scenario.name, |(_, name)| name);
    }
    scenarios.sort_by_key(|scenario| scenario.stage);
    let artefacts = artefacts();
    let obstacle = obstacle();
    let (told, durations) = mpsc::channel();
    let trials = scenarios
        .into_iter()
        .map(|scenario| {
            let (artefacts, obstacle, told) = (artefacts.clone(), obstacle.clone(), told.clone());
            Trial::ignorable_test(scenario.name, move || match obstacle {
                Some(Obstacle::Unfit(reason)) => Ok(Completion::ignored_with(reason)),
                Some(Obstacle::NotBuilt(reason)) => Err(Failed::from(reason)),
                None => {
                    let start = Instant::now();
                    let result = perform(&scenario, &artefacts);
                    // The receiver lives until the end of this function.
                    let _ = told.send((scenario.name, start.elapsed(), result.is_ok()));
                    result.map(|()| Completion::Completed).map_err(Failed::from)
                }
            })
        })
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    STAGES.with_borrow_mut(Stages::leave);
    drop(told);
    tell(&durations.into_iter().collect::<Vec<_>>(), &artefacts);
    conclusion.exit_code()
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

fn perform(scenario: &Scenario, artefacts: &Path) -> Result<(), String> {
    let cluster = STAGES.with_borrow_mut(|stages| stages.enter(scenario.stage, scenario.name, artefacts))?;
    let played = catch_unwind(AssertUnwindSafe(|| (scenario.story)(&cluster)));
    let result = played.map_err(|panic| {
        let failure = format!("{}: {}\n\n{}", PLACE.take(), message(&*panic), cluster.diagnosis());
        let path = cluster.artefacts().join(format!("{}.failure", scenario.name.replace("::", "-")));
        match fs::write(&path, &failure) {
            Ok(()) => format!("{failure}\nmore in {}", cluster.artefacts().display()),
            Err(_) => failure,
        }
    });
    drop(cluster);
    // After a failure, what was killed may not be up again.
    if scenario.stage == Stage::Own || scenario.stage == Stage::Harmed && result.is_err() {
        STAGES.with_borrow_mut(Stages::leave);
    }
    result
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it panicked".to_owned())
}

/// Says how long each took, also in the run's directory.
fn tell(durations: &[(&str, Duration, bool)], artefacts: &Path) {
    if durations.is_empty() {
        return;
    }
    let mut text = String::new();
    for (name, took, passed) in durations {
        let _ = writeln!(text, "{:>6.1} s  {}  {name}", took.as_secs_f64(), if *passed { "ok    " } else { "FAILED" });
    }
    let all: Duration = durations.iter().map(|(_, took, _)| *took).sum();
    let _ = writeln!(text, "{:>6.1} s  all; {}", all.as_secs_f64(), artefacts.display());
    eprint!("{text}");
    if let Err(error) = fs::write(artefacts.join("durations.txt"), text) {
        eprintln!("scenarios: cannot write to {}: {error}", artefacts.display());
    }
}

/// The directory of this run, to which `latest` leads once something is in it.
fn artefacts() -> PathBuf {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    installation::artefacts().join(format!("{}-{}", now.as_secs(), std::process::id()))
}
