//! Errors and warnings: to stderr, and to a log in runc's form, which containerd reads.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::time::SystemTime;

use clap::ValueEnum;

/// The form of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people.
    Text,
    /// One object per line.
    Json,
}

/// Where to tell what went wrong.
pub(super) struct Log {
    file: Option<File>,
    format: Format,
}

impl Log {
    /// A log that cannot be opened is told of and done without: what is to be done is more than to tell of it.
    pub fn new(path: Option<PathBuf>, format: Format) -> Self {
        let file = path.and_then(|path| {
            let opened = OpenOptions::new().append(true).create(true).mode(0o644).open(&path);
            opened.inspect_err(|error| eprintln!("warning: open the log {}: {error}", path.display())).ok()
        });
        Self { file, format }
    }

    pub fn error(&self, text: &str) {
        eprintln!("error: {text}");
        self.write("error", text);
    }

    /// An error that is told on stderr already; the log has its first paragraph.
    pub fn refused(&self, text: &str) {
        let text = text.strip_prefix("error: ").unwrap_or(text);
        self.write("error", text.split("\n\n").next().unwrap_or(text).trim_end());
    }

    pub fn warnings(&self, texts: &[String]) {
        for text in texts {
            // Whoever reads the program's stderr does not want them there.
            self.write("warning", text);
        }
    }

    fn write(&self, level: &str, text: &str) {
        let Some(mut file) = self.file.as_ref() else { return };
        let line = line(self.format, level, text, &humantime::format_rfc3339_seconds(SystemTime::now()).to_string());
        // There is nowhere left to tell it.
        let _ = file.write_all(line.as_bytes());
    }
}

fn line(format: Format, level: &str, text: &str, time: &str) -> String {
    match format {
        Format::Text => format!("time={time:?} level={level} msg={text:?}\n"),
        Format::Json => format!("{}\n", serde_json::json!({"level": level, "msg": text, "time": time})),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_runcs() {
        let json = line(Format::Json, "error", "no \"such\"\nfile", "T");
        assert_eq!(json, "{\"level\":\"error\",\"msg\":\"no \\\"such\\\"\\nfile\",\"time\":\"T\"}\n");
        assert_eq!(line(Format::Text, "warning", "a", "T"), "time=\"T\" level=warning msg=\"a\"\n");
    }
}
