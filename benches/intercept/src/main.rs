//! What interception costs: a few calls, timed with nothing, under the filter alone, under a tracer that stops nothing, under
//! ours, and under one that stops every call. Prints lines of MODE WHAT MICROSECONDS.
//!
//! Called with the number of passes it measures all; it calls itself for each mode, in turn, so that all see the same machine.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::statfs::fstatfs;
use terrarium_intercept::filter::{self, Action};
use terrarium_intercept::{Rules, run};
use terrarium_sys::process::{self, Fork};
use terrarium_sys::trace::{self, Change, Options, Resume};
use terrarium_sys::{process::kill, seccomp};

const MODES: [&str; 6] = ["nothing", "filter", "watched", "traced", "redirected", "all"];
/// What does not stop is made so often, and what does.
const MANY: u32 = 20_000;
const FEW: u32 = 2_000;
const FROM: &str = "/proc/sys/terrarium";
const SIGCONT: i32 = 18;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        [passes] => all_modes(passes.parse().context("the number of passes")?),
        ["as", mode, directory] => measure_as(mode, Path::new(directory)),
        ["measure", mode, file] => measure(mode, Path::new(file)),
        _ => bail!("usage: bench-intercept PASSES"),
    }
}

fn all_modes(passes: u32) -> Result<()> {
    let place = if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" };
    let directory = Path::new(place).join(format!("bench-intercept-{}", std::process::id()));
    fs::create_dir(&directory)?;
    fs::write(directory.join("file"), "text")?;
    let rules = format!(
        r#"{{"statfs": [{{"from": "0x9fa0", "to": "0x27e0eb"}}], "redirect": [{{"from": "{FROM}", "to": "{}"}}]}}"#,
        directory.display()
    );
    fs::write(directory.join("rules"), rules)?;
    let own = std::env::current_exe()?;
    for _ in 0..passes {
        for mode in MODES {
            let status = Command::new(&own).args(["as", mode]).arg(&directory).status()?;
            ensure!(status.success(), "{mode}: {status}");
        }
    }
    Ok(fs::remove_dir_all(&directory)?)
}

fn measure_as(mode: &str, directory: &Path) -> Result<()> {
    let file = directory.join("file");
    let rules = Rules::read(&directory.join("rules"))?;
    match mode {
        "nothing" => measure(mode, &file),
        "filter" => {
            nix::sys::prctl::set_no_new_privs()?;
            seccomp::install(&filter::program(rules.numbers(), Action::Nothing), 0)?;
            measure(mode, &file)
        }
        "all" => trace_with(Resume::ToCall, || measure(mode, &file)),
        "watched" => trace_with(Resume::Freely, || measure(mode, &file)),
        _ => {
            let file = if mode == "redirected" { Path::new(FROM).join("file") } else { file };
            let arguments = [OsString::from("measure"), mode.into(), file.into()];
            let status = run(&rules, std::env::current_exe()?.as_os_str(), &arguments, None)?;
            ensure!(status == 0, "status {status}");
            Ok(())
        }
    }
}

fn measure(mode: &str, file: &Path) -> Result<()> {
    let time = |what: &str, times: u32, call: &mut dyn FnMut() -> Result<()>| -> Result<()> {
        for _ in 0..times / 10 {
            call()?;
        }
        let start = Instant::now();
        for _ in 0..times {
            call()?;
        }
        println!("{mode} {what} {:.2}", start.elapsed().as_secs_f64() * 1e6 / f64::from(times));
        Ok(())
    };
    let proc = File::open("/proc")?;
    time("getppid", MANY, &mut || {
        nix::unistd::getppid();
        Ok(())
    })?;
    time("fstatfs", FEW, &mut || Ok(fstatfs(&proc).map(drop)?))?;
    time("open+close", FEW, &mut || Ok(File::open(file).map(drop)?))
}

/// As tracers do that know no filter: they stop every call, or none.
fn trace_with(resume: Resume, body: impl FnOnce() -> Result<()>) -> Result<()> {
    let (go, going) = nix::unistd::pipe()?;
    let child = match process::fork()? {
        Fork::Child => {
            drop(going);
            File::from(go).read_exact(&mut [0])?;
            // The first stop.
            kill(std::process::id().cast_signed(), SIGCONT)?;
            return body();
        }
        Fork::Parent(child) => child,
    };
    trace::seize(child, Options::TREE)?;
    File::from(going).write_all(b"!")?;
    while let Some((pid, change)) = trace::wait()? {
        match change {
            Change::Exited(0) => return Ok(()),
            Change::Exited(_) | Change::Killed(_) => bail!("it ended: {change:?}"),
            Change::Signalled(signal) => trace::resume(pid, resume, signal)?,
            Change::AtCall | Change::Event(..) => trace::resume(pid, resume, 0)?,
        }
    }
    bail!("it was not heard of")
}
