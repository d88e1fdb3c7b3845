//! Programs of the host that do the work: `ip`, `cp`, debootstrap, runsc.
//!
//! They run in a process group of their own, so that a Ctrl-C reaches testbed alone, which then stops them; and they die
//! with the thread that waits for them, so that a killed testbed leaves none behind.

use std::{
    ffi::OsStr,
    io::{self, Read},
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

use crate::error::{Error, Result};

/// Lets a signal handler stop a start that is under way.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicI32>);

impl Interrupt {
    /// Asks the start to stop and to clean up, because of `signal`.
    pub fn set(&self, signal: i32) {
        self.0.store(signal, Ordering::SeqCst);
    }

    /// Fails with [`Error::Interrupted`] once [`set`](Self::set) was called.
    pub fn check(&self) -> Result<()> {
        match self.0.load(Ordering::SeqCst) {
            0 => Ok(()),
            signal => Err(Error::Interrupted { signal }),
        }
    }
}

/// A host program that testbed depends on, and the Debian package that has it.
#[derive(Clone, Copy)]
pub(crate) struct Tool(pub &'static str, pub &'static str);

pub(crate) const IP: Tool = Tool("ip", "iproute2");
pub(crate) const CP: Tool = Tool("cp", "coreutils");
pub(crate) const UNSHARE: Tool = Tool("unshare", "util-linux");

/// What [`mortal`] puts between the name of a program that sets the signal and the number of this process. Who is killed
/// before that signal is set has left the program to another parent, and then it does not run.
const MORTAL: [&str; 6] = ["--pdeathsig", "KILL", "--", "sh", "-c", r#"[ "$PPID" = "$0" ] || exit; exec "$@""#];

/// A command that is killed when the calling thread ends.
pub(crate) fn mortal(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(MORTAL).arg(std::process::id().to_string()).arg(program);
    command
}

/// Fails with the package to install when `program` is in none of the directories of PATH or `/usr/sbin`, `/sbin`.
pub(crate) fn require(program: &'static str, package: &'static str) -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|directory| directory.join(program).is_file());
    if found { Ok(()) } else { Err(Error::NoTool { program, package }) }
}

impl Tool {
    /// Runs the program to its end and returns what it printed on stdout.
    pub(crate) fn run(self, args: &[&str], interrupt: &Interrupt) -> Result<Vec<u8>> {
        require(self.0, self.1)?;
        let mut command = mortal(self.0);
        command.args(args);
        succeed(&mut command, interrupt)
    }
}

/// Runs `command` to its end, both outputs captured, and fails unless it succeeds.
pub(crate) fn succeed(command: &mut Command, interrupt: &Interrupt) -> Result<Vec<u8>> {
    let (mut child, describe) = spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()))?;
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let status = wait(&mut child, interrupt)?;
    let collect = |reader: thread::JoinHandle<Vec<u8>>| reader.join().unwrap_or_default();
    let output = Output { status, stdout: collect(stdout), stderr: collect(stderr) };
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = [output.stdout, output.stderr].concat();
    Err(Error::Tool { command: describe, status, output: tail(&String::from_utf8_lossy(&said), 20) })
}

/// Starts `command` without input and in a process group of its own, for [`wait`]; also returns its description.
pub(crate) fn spawn(command: &mut Command) -> Result<(Child, String)> {
    let describe = describe(command);
    let child = command.stdin(Stdio::null()).process_group(0).spawn();
    child.map(|child| (child, describe.clone())).map_err(|source| spawn_failed(&describe, source))
}

/// Waits for `child`, and kills its process group when interrupted.
pub(crate) fn wait(child: &mut Child, interrupt: &Interrupt) -> Result<ExitStatus> {
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait().map_err(|source| spawn_failed("wait", source))? {
            return Ok(status);
        }
        if let Err(interrupted) = interrupt.check() {
            // The child is not reaped yet, so its number still names its group.
            let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
            let _ = child.wait();
            return Err(interrupted);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    })
}

/// The last `lines` lines of `text`.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.trim_end().lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// The command line as the user would type it, without the wrapper that ties its life to ours.
pub(crate) fn describe(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let skip = if words[0] == "setpriv" { MORTAL.len() + 2 } else { 0 };
    words[skip..].join(" ")
}

pub(crate) fn spawn_failed(command: &str, source: io::Error) -> Error {
    Error::Io { action: "run", path: command.into(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_and_what_it_said() {
        let error = succeed(mortal("sh").args(["-c", "echo out; echo err >&2; exit 3"]), &Interrupt::default());
        let text = error.expect_err("exit 3").to_string();
        assert_eq!(text, "`sh -c echo out; echo err >&2; exit 3` failed: exit status: 3\nout\nerr");
    }

    #[test]
    fn an_interrupt_stops_the_whole_group() {
        let interrupt = Interrupt::default();
        interrupt.set(2);
        let started = std::time::Instant::now();
        let result = succeed(mortal("sh").args(["-c", "sleep 30 & wait"]), &interrupt);
        assert!(matches!(result, Err(Error::Interrupted { signal: 2 })));
        assert!(started.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn who_has_lost_us_already_does_not_run() {
        let orphan = mortal("echo");
        let mut stranger = Command::new("sh");
        stranger.args(["-c", r#""$@" ran; true"#, "sh"]).arg(orphan.get_program()).args(orphan.get_args());
        let ours = succeed(mortal("echo").arg("ran"), &Interrupt::default());
        assert_eq!(ours.expect("echo"), b"ran\n");
        assert_eq!(stranger.output().expect("sh").stdout, b"");
    }

    #[test]
    fn tail_keeps_the_end() {
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail("a", 2), "a");
    }
}
