//! Probes: what the sandbox at hand does, told by trying it. The result is a [`Report`], from which the planner plans.
//!
//! Everything that changes something happens in throw-away child processes and namespaces of theirs, so that nothing is
//! left behind, and a kernel that hangs or kills does so to a child:
//!
//! ```text
//! caller ── probe() ──▶ main: mount namespace ──▶ holder: holds memory in a cgroup
//!           20 s          │                    ├▶ pid-namespace: makes and joins one
//!                         │                    └▶ traced: stopped at one system call
//!                         └▶ user-namespace: user, mount and network namespaces; with the same children
//! ```
//!
//! `main` makes the report in its mount namespace if it gets one, else `user-namespace` makes it in its own, else `main`
//! does where the caller is. All of them are the calling program, under the hidden subcommand [`COMMAND`]: so the calling
//! program must hand that subcommand's `--part` to [`run_part`].

mod cgroups;
mod devices;
mod dns;
mod failure;
mod guard;
mod helper;
mod host;
mod intercept;
mod network;
mod nftables;
mod oci;
mod overlay;
mod place;
mod report;
mod scratch;
mod sysctl;

use std::path::Path;
use std::process::ExitCode;

use terrarium_gaps::{Place, Report};

pub use dns::Resolver;
pub use guard::Error;
use helper::Part;

/// The subcommand by which the program is called again.
pub const COMMAND: &str = "probe";

/// Tries what this sandbox does, in the best place that a cluster could have in it. The data directory need not exist,
/// and is not made.
///
/// # Errors
/// The child cannot be started, does not end in time, or gives no report.
pub fn probe(data_dir: &Path) -> Result<Report, Error> {
    guard::probe(data_dir, None)
}

/// The same in a certain place, although there may be a better one. The report names the place that it was made in,
/// which is [`Place::Nowhere`] where that one cannot be had.
///
/// # Errors
/// As of [`probe`].
pub fn probe_in(data_dir: &Path, place: Place) -> Result<Report, Error> {
    guard::probe(data_dir, Some(place))
}

/// Runs a part of the probe in this process, which must have one thread and no other purpose.
#[must_use]
pub fn run_part(name: &str, data_dir: &Path, place: Option<Place>) -> ExitCode {
    match Part::named(name) {
        Some(Part::Main) => place::main(data_dir, place),
        Some(Part::UserNamespace) => place::user_namespace(data_dir),
        Some(Part::Holder) => helper::hold(),
        Some(Part::PidNamespace) => oci::join_pid_namespace(),
        Some(Part::Traced) => intercept::traced(),
        None => ExitCode::FAILURE,
    }
}
