//! What cannot be run.

use std::fs;
use std::process::Command;

use crate::support::{Setup, outcome, own_path};

const RULES: &str = r#"{"uname": {"release": "9.9.9"}}"#;

pub fn a_program_that_is_not_there_is_127() {
    let outcome = outcome(&mut Setup::new(RULES).trace(&["/no/such/program"]));
    assert_eq!((outcome.status.code(), &*outcome.err), (Some(127), "error: cannot run /no/such/program\n"));
}

pub fn a_program_that_cannot_be_executed_is_126() {
    let setup = Setup::new(RULES);
    fs::write(setup.path("text"), "text").expect("it is written");
    let outcome = outcome(&mut setup.trace(&[setup.path("text")]));
    assert_eq!(outcome.status.code(), Some(126), "{outcome:?}");
    assert!(outcome.err.starts_with("error: cannot run /"), "{outcome:?}");
}

pub fn a_traced_caller_is_told_who_traces_it() {
    let setup = Setup::new(RULES);
    let (rules, stats) = (setup.path("rules.json"), setup.path("inner.json"));
    let mut inner = Command::new(own_path());
    inner.arg("--tracer").arg(rules).arg(stats).arg("/bin/true");
    let words: Vec<_> = std::iter::once(inner.get_program()).chain(inner.get_args()).collect();
    let outcome = outcome(&mut setup.trace(&words));
    assert_eq!(outcome.status.code(), Some(1), "{outcome:?}");
    assert!(outcome.err.contains("traces this one already, and a process has one tracer"), "{outcome:?}");
}

pub fn unwritable_figures_are_told() {
    let setup = Setup::new(RULES);
    let mut command = Command::new(own_path());
    command.arg("--tracer").arg(setup.path("rules.json")).arg("/no/such/place").arg("/bin/true");
    let outcome = outcome(&mut command);
    assert_eq!((outcome.status.code(), &*outcome.err), (Some(1), "error: cannot write the figures /no/such/place\n"));
}
