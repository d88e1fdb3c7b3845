//! Plays this program in sandboxes.

use libtest_mimic::{Completion, Failed, Trial};
use terrarium_testbed::{Gvisor, Sandbox, check_host};

/// Says to this program that it is inside.
pub const INSIDE: &str = "TERRARIUM_CGROUPFS_INSIDE";

const PROGRAM: &str = "/opt/sandbox";
const BUILDS: [(&str, Gvisor); 3] =
    [("2024-07", Gvisor::V2024_07), ("2026-02", Gvisor::V2026_02), ("2026-07", Gvisor::V2026_07)];

/// Each build, by root and by root of a user namespace.
pub fn trials() -> Vec<Trial> {
    let with = |(name, gvisor): (&str, Gvisor)| {
        [("root", &[PROGRAM][..]), ("user namespace", &["unshare", "-Urm", PROGRAM][..])].map(|(who, command)| {
            Trial::ignorable_test(format!("{name}, {who}"), move || match check_host(gvisor) {
                Err(why) => Ok(Completion::ignored_with(why.to_string().replace('\n', "; "))),
                Ok(()) => play(gvisor, command).map(|()| Completion::Completed),
            })
        })
    };
    BUILDS.into_iter().flat_map(with).collect()
}

fn play(gvisor: Gvisor, command: &[&str]) -> Result<(), Failed> {
    let program = std::env::current_exe()?;
    let sandbox = Sandbox::builder().gvisor(gvisor).bind_read_only(program, PROGRAM).env(INSIDE, "1").start()?;
    let output = sandbox.exec(command)?;
    sandbox.stop()?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    Err(said.join("\n").into())
}
