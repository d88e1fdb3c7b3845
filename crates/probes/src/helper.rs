//! Child processes of the probe: this program again, under a hidden name of a part.

use std::ffi::OsString;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};

use nix::unistd::Pid;

use crate::failure::{Doing as _, Failure};

/// What a process of the probe does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Makes the report.
    Main,
    /// Makes a user namespace and, when told so, the report in it.
    UserNamespace,
    /// Holds memory when told so.
    Holder,
    /// Makes a pid namespace and joins it.
    PidNamespace,
    /// Is traced.
    Traced,
}

/// The parts and their names on the command line.
const PARTS: &[(Part, &str)] = &[
    (Part::Main, "main"),
    (Part::UserNamespace, "user-namespace"),
    (Part::Holder, "holder"),
    (Part::PidNamespace, "pid-namespace"),
    (Part::Traced, "traced"),
];

impl Part {
    pub fn named(name: &str) -> Option<Self> {
        PARTS.iter().find(|(_, of)| *of == name).map(|(part, _)| *part)
    }

    fn name(self) -> &'static str {
        PARTS.iter().find(|(part, _)| *part == self).map_or("", |(_, name)| name)
    }

    /// This program again, as this part.
    pub fn command(self, data_dir: &Path) -> Command {
        let mut command = Command::new("/proc/self/exe");
        let arguments: [OsString; 5] = [
            crate::COMMAND.into(),
            "--part".into(),
            self.name().into(),
            "--data-dir".into(),
            data_dir.as_os_str().to_owned(),
        ];
        command.arg0("terrarium").args(arguments);
        command
    }
}

/// A child that is told what to do line by line, and is killed when it goes out of scope.
pub(crate) struct Helper {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Helper {
    /// Starts one that needs no data directory.
    pub fn start(part: Part) -> Result<Self, Failure> {
        Self::start_with(part, Path::new("/"))
    }

    pub fn start_with(part: Part, data_dir: &Path) -> Result<Self, Failure> {
        let mut child = part
            .command(data_dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .doing("start a child")?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Failure::new("a child has no pipes"));
        };
        Ok(Self { child, stdin, stdout: BufReader::new(stdout) })
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Tells it a line.
    pub fn say(&mut self, line: &str) -> Result<(), Failure> {
        writeln!(self.stdin, "{line}").doing("speak to a child")
    }

    /// Waits for its next line.
    pub fn hear(&mut self) -> Result<String, Failure> {
        let mut line = String::new();
        match self.stdout.read_line(&mut line).doing("listen to a child")? {
            0 => Err(Failure::new("a child ended without an answer")),
            _ => Ok(line.trim_end().to_owned()),
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How much the holder holds, in bytes.
pub(crate) const HELD: usize = 4 << 20;

/// The part that holds memory: from the first line that it is told until its standard input ends.
pub(crate) fn hold() -> ExitCode {
    let mut held = Vec::new();
    for _ in io::stdin().lock().lines().map_while(Result::ok) {
        held.resize(HELD, 1_u8);
        std::hint::black_box(&held);
        if writeln!(io::stdout(), "held").is_err() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_known_by_their_names() {
        for (part, name) in PARTS {
            assert_eq!(Part::named(name), Some(*part));
            assert_eq!(part.name(), *name);
        }
        assert_eq!(Part::named("all"), None);
    }
}
