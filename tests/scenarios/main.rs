//! Stories about real clusters in real gVisor sandboxes: what must hold for those who use terrarium.
//!
//! `cargo test -p scenarios -- NAME` plays those whose name contains NAME.

mod api;
mod bad_input;
mod certificates;
mod chaos;
mod commands;
mod crashes;
mod deployments;
mod down;
mod durable;
mod pods;
mod security;
mod starts;
mod support;
mod volumes;

use std::process::ExitCode;

/// The names and stages of a module's stories.
macro_rules! stories {
    ($($stage:ident: $($story:ident)*;)*) => {
        pub const STORIES: &[harness::Scenario] = &[$($(harness::Scenario {
            name: concat!(module_path!(), "::", stringify!($story)),
            stage: harness::Stage::$stage,
            story: $story,
        },)*)*];
    };
}
use stories;

fn main() -> ExitCode {
    let themes = [
        pods::STORIES,
        deployments::STORIES,
        volumes::STORIES,
        api::STORIES,
        security::STORIES,
        commands::STORIES,
        support::STORIES,
        bad_input::STORIES,
        starts::STORIES,
        down::STORIES,
        durable::STORIES,
        crashes::STORIES,
        certificates::STORIES,
        chaos::STORIES,
    ];
    harness::main(themes.concat())
}
