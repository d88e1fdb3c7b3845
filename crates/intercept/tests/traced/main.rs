//! Real programs that are traced: on Linux and, run in a sandbox, in gVisor.
//!
//! This one program is the test, the tracer (called with `--tracer`, in processes of its own) and what is traced (called with
//! `--inside`, see [`inside`]). `CALLS` says how many calls each thread of the stress makes, instead of 10,000.

mod errors;
mod inside;
mod kills;
mod paths;
mod processes;
mod signals;
mod stress;
mod support;
mod values;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

/// Names the tests of a module.
macro_rules! trials {
    ($($module:ident: $($name:ident)*;)*) => {
        vec![$($(Trial::test(concat!(stringify!($module), "::", stringify!($name)), || {
            $module::$name();
            Ok(())
        }),)*)*]
    };
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    match words.get(1).map(String::as_str) {
        Some(support::TRACER) => return support::tracer(&words[2..]),
        Some(support::INSIDE) => {
            inside::main(&words[2..]);
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    let trials = trials! {
        errors:
            a_program_that_is_not_there_is_127
            a_program_that_cannot_be_executed_is_126
            a_traced_caller_is_told_who_traces_it
            unwritable_figures_are_told;
        values:
            types_of_file_systems_are_changed
            types_are_changed_below_a_path_alone
            the_kernels_names_are_changed
            figures_say_how_often_each_rule_was_used;
        paths:
            reads_and_writes_are_redirected
            each_call_is_redirected
            rules_may_be_written_with_more_slashes
            other_calls_find_what_is_there
            children_in_the_same_memory_open_the_window_once
            old_calls_are_redirected
            paths_are_walked
            links_at_the_end_are_links
            descriptors_of_a_redirected_directory_stay_there
            a_readers_own_directory_is_its_own
            a_redirect_of_named_calls_leaves_others
            who_has_no_descriptor_left_is_redirected_later
            files_are_made
            a_root_of_its_own_is_respected;
        processes:
            statuses_are_those_of_a_shell
            programs_that_are_executed_are_traced
            another_thread_may_execute_a_program
            what_the_program_leaves_ends_with_it
            processes_of_others_stay
            thousands_of_threads_come_and_go
            the_environment_and_descriptors_are_the_callers;
        signals:
            signals_to_the_tracer_reach_the_program
            realtime_signals_are_delivered
            a_stopped_program_stops_and_goes_on
            interrupted_calls_are_made_again;
        stress:
            no_call_of_many_threads_is_lost_or_wrong;
        kills:
            nothing_outlives_its_tracer
            a_program_may_be_killed_at_any_time
            parts_of_a_program_may_be_killed_at_any_time;
    };
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
