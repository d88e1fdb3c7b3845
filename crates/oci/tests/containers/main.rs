//! Real containers: on Linux and, run in a sandbox, in gVisor. Needs root.
//!
//! This one program is the test, the runtime (called as `terrarium-oci`, in processes of its own) and what runs in the
//! containers ([`inside`]).

mod bundle;
mod devices;
mod escapes;
mod hooks;
mod inside;
mod lifecycle;
mod mounts;
mod namespaces;
mod processes;
mod shared;

use std::path::Path;
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
    let name = std::env::args_os().next().unwrap_or_default();
    match Path::new(&name).file_name().and_then(|name| name.to_str()) {
        Some(terrarium_oci::command::NAME) => return terrarium_oci::command::main(std::env::args_os()),
        Some("inside" | "exe") => {
            inside::main();
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    let trials = trials! {
        escapes:
            mounts_stay_in_the_root
            a_root_that_changes_meanwhile_is_not_left
            masked_links_lead_nowhere_outside
            another_null_device_is_refused
            the_runtime_cannot_be_overwritten
            no_open_files_are_passed_on
            a_working_directory_is_made_inside
            a_working_directory_outside_is_refused;
        devices:
            a_disk_cannot_be_opened_on_version_2
            nothing_restricts_devices_without_cgroups;
        hooks:
            poststart_hooks_run_when_the_program_is_executed
            a_hook_that_fails_before_the_program_fails_the_start
            a_start_that_waits_for_a_hook_ends_by_a_forced_delete;
        lifecycle:
            the_state_of_a_container_in_creation_is_told
            without_a_process_it_is_created_and_not_started
            a_paused_container_can_be_killed
            an_update_of_nothing_changes_nothing;
        mounts:
            only_the_own_cgroup_is_shown
            only_the_own_cgroup_is_shown_to_other_users
            what_is_mounted_outside_later_comes_to_slaves;
        namespaces:
            a_joined_user_namespace_is_entered_as_root
            volumes_of_others_come_into_a_user_namespace
            a_pid_namespace_is_joined_by_whom_its_shim_waits_for
            the_callers_own_namespace_need_not_be_joined;
        processes:
            a_filter_forbids_the_program_and_not_the_runtime
            an_environment_may_be_long
            a_silent_client_holds_up_nobody
            everybody_finds_the_terminals
            what_the_first_one_leaves_ends_with_it;
        shared:
            the_callers_mounts_are_shared_and_nothing_is_left_there
            what_cannot_be_created_in_the_callers_mounts_leaves_nothing_there
            a_creation_that_is_cut_off_is_taken_off_the_callers_mounts_and_no_more
            a_mount_namespace_that_is_joined_keeps_its_root
            the_root_propagates_as_it_was_asked_to;
    };
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return ExitCode::SUCCESS;
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
