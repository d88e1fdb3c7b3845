//! What a command did.

use std::fmt;
use std::time::Duration;

/// A command that ended.
#[derive(Clone, Debug)]
pub struct Ran {
    /// The words of the command.
    pub command: String,
    /// Its exit code; 124 when it was stopped because it took too long.
    pub code: i32,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
    /// How long it took, with some 0.1 s for getting into the sandbox.
    pub took: Duration,
}

impl Ran {
    /// Its stdout if it exited with 0, else all about it; for [`eventually`](crate::eventually).
    ///
    /// # Errors
    /// It exited with another code.
    pub fn ok(self) -> Result<String, String> {
        if self.code == 0 { Ok(self.stdout) } else { Err(self.to_string()) }
    }

    /// Panics unless it exited with 0; returns itself.
    #[track_caller]
    pub fn succeeds(self) -> Self {
        self.exits(0)
    }

    /// Panics unless it exited with this code; returns itself.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert!(self.code == code, "expected exit code {code}: {self}");
        self
    }

    /// Panics unless its stderr has these words; returns itself.
    #[track_caller]
    pub fn complains(self, words: &str) -> Self {
        assert!(self.stderr.contains(words), "expected {words:?} on stderr: {self}");
        self
    }

    /// Panics unless its stdout has these words; returns itself.
    #[track_caller]
    pub fn prints(self, words: &str) -> Self {
        assert!(self.stdout.contains(words), "expected {words:?} on stdout: {self}");
        self
    }

    /// Panics if it took longer; returns itself.
    #[track_caller]
    pub fn within(self, limit: Duration) -> Self {
        assert!(self.took <= limit, "expected it to take at most {limit:?}: {self}");
        self
    }
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` exited with {} after {:.1} s", self.command, self.code, self.took.as_secs_f64())?;
        for (name, text) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !text.trim().is_empty() {
                write!(f, "\n{name}: {}", text.trim_end())?;
            }
        }
        Ok(())
    }
}
