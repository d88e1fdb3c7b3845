//! What `make build` leaves in `out/`, and where a run keeps what it leaves itself.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the sandbox sees `out/`.
pub(crate) const PREFIX: &str = "/opt/terrarium";

const RUNSC_DIR: &str = "TERRARIUM_RUNSC_DIR";

/// What a sandbox needs of `out/`.
const NEEDED: &[&str] = &[
    "bin/terrarium",
    "libexec/terrarium/containerd",
    "libexec/terrarium/kubernetes",
    "libexec/terrarium/containerd-shim-terrarium-v2",
    "libexec/terrarium/runc",
    "libexec/terrarium/terrarium-oci",
    "share/terrarium/images/sample.tar",
    "testbed/runsc-2024-07",
    "testbed/runsc-2026-02",
    "testbed/runsc-2026-07",
    "testbed/stock-bridge",
    "testbed/stock-runc",
];

fn workspace() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_owned()
}

/// The directory of the built programs.
pub(crate) fn out() -> PathBuf {
    workspace().join("out")
}

/// The directory in which every run has its own.
pub(crate) fn artefacts() -> PathBuf {
    workspace().join("target/scenarios")
}

/// The page that the results are rendered to.
pub(crate) fn support_matrix() -> PathBuf {
    workspace().join("docs/support-matrix.md")
}

/// What is missing, with the command that makes it.
pub(crate) fn missing() -> Option<String> {
    let missing = NEEDED.iter().map(|path| out().join(path)).find(|path| !path.is_file())?;
    Some(format!("{} is missing\nhint: make -C {} build", missing.display(), workspace().display()))
}

/// Starts this program again with the variable by which the testbed finds runsc, unless it is set.
pub(crate) fn point_at_runsc() {
    if std::env::var_os(RUNSC_DIR).is_none()
        && let Ok(program) = std::env::current_exe()
    {
        let error =
            Command::new(program).args(std::env::args_os().skip(1)).env(RUNSC_DIR, out().join("testbed")).exec();
        eprintln!("scenarios: cannot start again with {RUNSC_DIR}: {error}");
    }
}
