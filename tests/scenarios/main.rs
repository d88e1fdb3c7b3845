//! Stories about real clusters in real gVisor sandboxes: what must hold for those who use terrarium.
//!
//! `cargo test -p scenarios -- NAME` plays those whose name contains NAME.

mod api;
mod bad_input;
mod certificates;
mod chaos;
mod commands;
mod containers;
mod crashes;
mod deployments;
mod dns;
mod down;
mod durable;
mod egress;
mod endings;
mod experiments;
mod gaps;
mod host_network;
mod host_ports;
mod ingress;
mod intercept;
mod kubectl;
mod matrix;
mod metrics;
mod network;
mod pods;
mod policies;
mod resources;
mod security;
mod services;
mod shells;
mod shim;
mod soak;
mod starts;
mod support;
mod volumes;

use std::process::ExitCode;

/// The names, stages and scopes of a module's stories: `Stage: story story;`, or `Stage in SCOPE: story;`. After `once` they are
/// played no second time.
macro_rules! stories {
    (once $($groups:tt)*) => { $crate::stories! { @groups true $($groups)* } };
    ($stage:ident $($groups:tt)*) => { $crate::stories! { @groups false $stage $($groups)* } };
    (@groups $is_final:literal $($stage:ident $(in $scope:ident)?: $($story:ident)*;)*) => {
        pub const STORIES: &[&[harness::Scenario]] =
            &[$($crate::stories! { @group $is_final $stage [$($scope)?] $($story)* }),*];
    };
    (@group $is_final:literal $stage:ident [] $($story:ident)*) => {
        $crate::stories! { @group $is_final $stage [ALL_RIGHTS] $($story)* }
    };
    (@group $is_final:literal $stage:ident [$scope:ident] $($story:ident)*) => {
        &[$(harness::Scenario {
            name: concat!(module_path!(), "::", stringify!($story)),
            stage: harness::Stage::$stage,
            story: $story,
            scope: harness::Scope::$scope,
            is_final: $is_final,
        },)*]
    };
}
use stories;

fn main() -> ExitCode {
    let themes = [
        pods::STORIES,
        kubectl::STORIES,
        containers::STORIES,
        endings::STORIES,
        deployments::STORIES,
        services::STORIES,
        policies::STORIES,
        dns::STORIES,
        host_ports::STORIES,
        host_network::STORIES,
        network::STORIES,
        egress::STORIES,
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
        matrix::STORIES,
        gaps::STORIES,
        experiments::STORIES,
        intercept::STORIES,
        shim::STORIES,
        ingress::STORIES,
        metrics::STORIES,
        resources::STORIES,
        certificates::STORIES,
        chaos::STORIES,
        soak::STORIES,
    ];
    harness::main(themes.concat().concat())
}
