//! Starting the tracer, with a limit to how long anything may take.

use std::fs;
use std::io::{ErrorKind, Read as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use terrarium_intercept::{Error, Rules, Stats, run};

pub const TRACER: &str = "--tracer";
pub const INSIDE: &str = "--inside";
/// How long one program may take until it is taken to hang.
const PATIENCE: Duration = Duration::from_secs(300);

/// As a program: `RULES STATS PROGRAM ARGUMENT…`.
pub fn tracer(words: &[String]) -> ExitCode {
    let arguments: Vec<_> = words[3..].iter().map(Into::into).collect();
    let result = Rules::read(Path::new(&words[0]))
        .and_then(|rules| run(&rules, words[2].as_ref(), &arguments, Some(Path::new(&words[1]))));
    match result {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("error: {error}");
            // As a shell says it.
            ExitCode::from(match error {
                Error::Program { source, .. } if source.kind() == ErrorKind::NotFound => 127,
                Error::Program { .. } => 126,
                _ => 1,
            })
        }
    }
}

/// Rules, a place for files, and a tracer.
pub struct Setup {
    directory: TempDir,
}

/// What came of a program.
#[derive(Debug)]
pub struct Outcome {
    pub status: ExitStatus,
    pub out: String,
    pub err: String,
}

impl Setup {
    /// In the rules `DIR` is [`Setup::path`].
    pub fn new(rules: &str) -> Self {
        let setup = Self { directory: tempfile::tempdir().expect("a directory") };
        fs::create_dir(setup.path("to")).expect("a directory");
        fs::write(setup.path("to/file"), "redirected\n").expect("it is written");
        setup.rules(rules);
        setup
    }

    pub fn rules(&self, rules: &str) {
        let rules = rules.replace("DIR", &self.path("").display().to_string());
        fs::write(self.path("rules.json"), rules).expect("they are written");
    }

    /// A path in its directory, without links.
    pub fn path(&self, name: &str) -> PathBuf {
        let directory = fs::canonicalize(self.directory.path()).expect("it is there");
        if name.is_empty() { directory } else { directory.join(name) }
    }

    /// Traces this program.
    pub fn trace<S: AsRef<std::ffi::OsStr>>(&self, words: &[S]) -> Command {
        let mut command = Command::new(own_path());
        command.arg(TRACER).arg(self.path("rules.json")).arg(self.path("stats.json")).args(words);
        command
    }

    /// Traces what is [`super::inside`].
    pub fn inside(&self, words: &[&str]) -> Command {
        let own = own_path().display().to_string();
        let words: Vec<&str> = [own.as_str(), INSIDE].into_iter().chain(words.iter().copied()).collect();
        self.trace(&words)
    }

    /// Has what a shell says.
    pub fn sh(&self, script: &str) -> Outcome {
        outcome(&mut self.trace(&["/bin/sh", "-c", &script.replace("DIR", &self.path("").display().to_string())]))
    }

    pub fn stats(&self) -> Stats {
        Stats::read(&self.path("stats.json")).expect("there are figures")
    }

    pub fn hits(&self, rule: &str) -> u64 {
        self.stats().rules.iter().find(|stats| stats.rule.starts_with(rule)).expect("there is the rule").hits
    }
}

impl Outcome {
    pub fn says(self, out: &str) -> Self {
        assert_eq!(self.out, out, "{self:?}");
        self.succeeds()
    }

    pub fn succeeds(self) -> Self {
        assert!(self.status.success(), "{self:?}");
        self
    }
}

pub fn own_path() -> PathBuf {
    std::env::current_exe().expect("this program is there")
}

/// Runs it, with an end to patience.
pub fn outcome(command: &mut Command) -> Outcome {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let read = |mut from: Box<dyn std::io::Read + Send>| {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            from.read_to_end(&mut text).expect("it is read");
            String::from_utf8_lossy(&text).into_owned()
        })
    };
    let out = read(Box::new(child.stdout.take().expect("it is piped")));
    let err = read(Box::new(child.stderr.take().expect("it is piped")));
    let status = ends(&mut child);
    Outcome { status, out: out.join().expect("it is read"), err: err.join().expect("it is read") }
}

/// Waits for its end.
pub fn ends(child: &mut Child) -> ExitStatus {
    let mut status = None;
    let ended = eventually(|| {
        status = child.try_wait().expect("it is a child");
        status.is_some()
    });
    if !ended {
        let _ = child.kill();
        panic!("it hangs: {}", processes());
    }
    status.expect("it has ended")
}

/// Waits until this holds; says whether it ever did.
pub fn eventually(mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

/// The state of a process, as a letter, if it is there.
pub fn state(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Whether it has ended, waited for or not.
pub fn is_gone(pid: i32) -> bool {
    matches!(state(pid), None | Some('Z' | 'X'))
}

/// Reads a line that it says.
pub fn line(child: &mut Child) -> String {
    let mut out = child.stdout.take().expect("it is piped");
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let mut line = Vec::new();
        let mut byte = [0];
        while out.read(&mut byte).expect("it is read") == 1 && byte[0] != b'\n' {
            line.push(byte[0]);
        }
        // Whoever waited may have lost patience.
        let _ = tell.send((line, out));
    });
    let Ok((line, out)) = told.recv_timeout(PATIENCE) else {
        let _ = child.kill();
        panic!("it says nothing: {}", processes());
    };
    child.stdout = Some(out);
    String::from_utf8(line).expect("it is text")
}

fn processes() -> String {
    let mut text = String::new();
    for entry in fs::read_dir("/proc").expect("it is there").flatten() {
        if let Ok(stat) = fs::read_to_string(entry.path().join("stat")) {
            text.push_str(&stat);
        }
    }
    text
}

/// As a shell has it.
pub fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().expect("a signal ended it"))
}
