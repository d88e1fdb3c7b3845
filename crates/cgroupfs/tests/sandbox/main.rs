//! Real hierarchies of cgroups, in real sandboxes: this program plays itself there ([`outside`]).
//!
//! This one program is the test, the server, and the processes that hold memory and burn time.

#![allow(clippy::unwrap_used)] // A test.

mod changes;
mod crashes;
mod figures;
mod limits;
mod load;
mod outside;
mod stage;

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
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
        Some("serve") => {
            stage::serve(args.next().is_none());
            return ExitCode::SUCCESS;
        }
        Some(role @ ("hold" | "write" | "grow" | "burn")) => {
            stage::work(role, args.next().as_deref());
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    let trials = trials! {
        figures:
            what_is_missing_is_there
            what_a_process_burns_is_counted
            the_time_of_a_removed_cgroup_goes_on_counting
            what_a_process_holds_is_counted
            what_is_in_tmpfs_is_counted
            a_parent_has_what_its_children_have
            the_root_has_what_the_sandbox_has;
        changes:
            cgroups_come_and_go
            refusals_are_those_of_the_kernel
            modes_and_owners_pass
            whoever_writes_0_is_moved
            limits_are_not_inherited
            names_are_listed_once;
        load:
            what_many_read_is_whole
            many_read_while_cgroups_come_and_go
            nothing_is_kept_of_what_is_gone;
        crashes:
            readers_of_a_killed_server_are_told_and_a_new_one_heals
            a_server_leaves_nothing_mounted
            a_mount_that_somebody_takes_off_is_noticed;
        limits:
            who_takes_too_much_is_killed_and_nobody_else
            the_sum_of_containers_is_limited
            nobody_is_killed_without_a_guard;
    };
    let mut arguments = Arguments::from_args();
    if std::env::var_os(outside::INSIDE).is_none() {
        return libtest_mimic::run(&arguments, outside::trials()).exit_code();
    }
    // The hierarchies are the whole sandbox's.
    arguments.test_threads = Some(1);
    stage::set().unwrap();
    libtest_mimic::run(&arguments, trials).exit_code()
}
