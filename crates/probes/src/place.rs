//! The two processes in which a report can be made, and what they say to each other.
//!
//! ```text
//! main                                          user-namespace
//!   start it ──────────────────────────────────▶ unshare(2)
//!   enter a mount namespace                      "unshared" or why not ─▶
//!   write its uid_map and gid_map ── "mapped" ─▶ mount a tmpfs
//!                                                "works" or why not ────▶
//!   where there is no mount namespace: rights ─▶ make the report ───────▶
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use nix::sched::CloneFlags;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use terrarium_gaps::{Place, Report, Rights, Tried};

use crate::failure::{Doing as _, Failure};
use crate::helper::{Helper, Part};
use crate::network;
use crate::report::Themes;
use crate::scratch::Scratch;

/// How many IDs containers expect to have.
const ALL_IDS: u32 = 65536;
const UNSHARED: &str = "unshared";
const MAPPED: &str = "mapped";
const WORKS: &str = "works";

/// The part that makes the report or has it made, and prints it.
pub(crate) fn main(data_dir: &Path, forced: Option<Place>) -> ExitCode {
    die_with_parent();
    let helper = Helper::start_with(Part::UserNamespace, data_dir);
    let scratch = match forced {
        None | Some(Place::MountNamespace) => Scratch::in_new_namespace(data_dir),
        Some(_) => Err(Failure::new("not asked for")),
    };
    let report = match scratch {
        Ok(scratch) => {
            let themes = Themes::start(scratch, data_dir);
            let user = UserNamespace::make(helper);
            themes.finish(rights(Tried::Works, &user, Place::MountNamespace))
        }
        Err(why) => {
            // Where the place is forced, whether the better one can be had is still told.
            let mount_namespace = match forced {
                None | Some(Place::MountNamespace) => why.tried(),
                Some(_) => Scratch::in_new_namespace(data_dir).into(),
            };
            let user = UserNamespace::make(helper);
            let wanted = forced.is_none_or(|place| place == Place::UserNamespace);
            elsewhere(mount_namespace, user, wanted, data_dir)
        }
    };
    print(&report)
}

/// The report from within the user namespace, or from where the caller is.
fn elsewhere(mount_namespace: Tried, mut user: UserNamespace, wanted: bool, data_dir: &Path) -> Report {
    if wanted && user.ready.is_ok() {
        match user.report(&rights(mount_namespace.clone(), &user, Place::UserNamespace)) {
            Ok(mut report) => {
                // A network namespace that gets no links is of no use to the cluster, which stays in the caller's.
                if !report.network.veth.works() {
                    report.network.address = network::address();
                }
                return report;
            }
            Err(why) => user.ready = Err(why),
        }
    }
    let why = "there is no mount namespace to try it in";
    let themes = Themes::start(Scratch::none(Failure::new(why)), data_dir);
    themes.finish(rights(mount_namespace, &user, Place::Nowhere))
}

fn rights(mount_namespace: Tried, user: &UserNamespace, place: Place) -> Rights {
    Rights {
        uid: nix::unistd::geteuid().as_raw(),
        gid: nix::unistd::getegid().as_raw(),
        capabilities: capabilities(),
        mount_namespace,
        user_namespace: user.ready.as_ref().map(drop).map_err(Clone::clone).into(),
        mappable_ids: user.mappable_ids,
        place,
    }
}

fn capabilities() -> BTreeSet<String> {
    let Ok(sets) = rustix::thread::capabilities(None) else { return BTreeSet::new() };
    sets.effective.iter_names().map(|(name, _)| format!("CAP_{name}")).collect()
}

/// The other process, as `main` sees it.
struct UserNamespace {
    /// The process, in its namespaces; or why it is not.
    ready: Result<Helper, Failure>,
    mappable_ids: u32,
}

impl UserNamespace {
    /// Waits until it has its namespaces and maps its IDs.
    fn make(helper: Result<Helper, Failure>) -> Self {
        let mut mappable_ids = 1;
        let ready = helper.and_then(|mut helper| {
            expect(&mut helper, UNSHARED)?;
            mappable_ids = map_ids(helper.pid())?;
            helper.say(MAPPED)?;
            expect(&mut helper, WORKS)?;
            Ok(helper)
        });
        Self { ready, mappable_ids }
    }

    fn report(&mut self, rights: &Rights) -> Result<Report, Failure> {
        let helper = self.ready.as_mut().map_err(|why| why.clone())?;
        helper.say(&serde_json::to_string(rights).map_err(|error| Failure::new(error.to_string()))?)?;
        serde_json::from_str(&helper.hear()?).map_err(|error| Failure::new(error.to_string()))
    }
}

fn expect(helper: &mut Helper, word: &str) -> Result<(), Failure> {
    let said = helper.hear()?;
    if said == word { Ok(()) } else { Err(Failure::new(said)) }
}

/// Maps the IDs of a process that has made a user namespace, as user_namespaces(7) has it: all that containers expect
/// where the rights allow, else the caller's own to 0. Each map can be written once.
fn map_ids(pid: Pid) -> Result<u32, Failure> {
    let file = |name: &str| Path::new("/proc").join(pid.to_string()).join(name);
    let all = format!("0 0 {ALL_IDS}");
    let users = fs::write(file("uid_map"), &all);
    let groups = fs::write(file("gid_map"), &all);
    if users.is_ok() && groups.is_ok() {
        return Ok(ALL_IDS);
    }
    if users.is_err() {
        fs::write(file("uid_map"), format!("0 {} 1", nix::unistd::geteuid())).doing("map the user ID")?;
    }
    if groups.is_err() {
        // Linux wants it ahead of a map that its own rights do not cover; gVisor before 2026 has no such file.
        let _ = fs::write(file("setgroups"), "deny");
        fs::write(file("gid_map"), format!("0 {} 1", nix::unistd::getegid())).doing("map the group ID")?;
    }
    Ok(1)
}

/// The part that makes a user namespace.
pub(crate) fn user_namespace(data_dir: &Path) -> ExitCode {
    die_with_parent();
    let flags = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET;
    let unshared = nix::sched::unshare(flags).doing("make user, mount and network namespaces");
    if !answer(UNSHARED, &unshared) || hear().as_deref() != Some(MAPPED) {
        return ExitCode::FAILURE;
    }
    let (scratch, ready) = match Scratch::in_this_namespace(data_dir) {
        Ok(scratch) => (scratch, Ok(())),
        Err(why) => (Scratch::none(why.clone()), Err(why)),
    };
    if !answer(WORKS, &ready) {
        return ExitCode::FAILURE;
    }
    match hear().and_then(|line| serde_json::from_str(&line).ok()) {
        Some(rights) => print(&Themes::start(scratch, data_dir).finish(rights)),
        None => ExitCode::SUCCESS,
    }
}

/// Says the word or why not, and whether to go on.
fn answer(word: &str, result: &Result<(), Failure>) -> bool {
    let said = match result {
        Ok(()) => writeln!(io::stdout(), "{word}"),
        Err(why) => writeln!(io::stdout(), "{why}"),
    };
    said.is_ok() && result.is_ok()
}

fn hear() -> Option<String> {
    let mut line = String::new();
    let length = io::stdin().read_line(&mut line).ok()?;
    (length > 0).then(|| line.trim_end().to_owned())
}

fn print(report: &Report) -> ExitCode {
    let printed = serde_json::to_string(report).map_err(io::Error::from);
    match printed.and_then(|report| writeln!(io::stdout(), "{report}")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cannot print the report: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Nobody waits for what a part without its parent would say.
fn die_with_parent() {
    let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
}
