//! The components' logs. A component writes to its log file itself, so that it needs nobody alive for it; the file is
//! rotated by copying and truncating, which its append-only descriptor survives.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::{Error, Layout};

/// A log is rotated when it is larger than this, in bytes.
const LIMIT: u64 = 8 << 20;

/// How many rotated files are kept: NAME.log.1 is the newest.
const KEPT: u32 = 3;

/// Opens a component's log for appending.
pub(crate) fn open(layout: &Layout, name: &str) -> Result<File, Error> {
    append_to(&layout.log(name))
}

/// Opens a log for appending.
pub(crate) fn append_to(path: &Path) -> Result<File, Error> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path).map_err(Error::io("open", path))
}

/// Rotates every log that is too large.
pub(crate) fn rotate_all(layout: &Layout) -> Result<(), Error> {
    let directory = layout.logs();
    for entry in fs::read_dir(&directory).map_err(Error::io("read", &directory))? {
        let path = entry.map_err(Error::io("read", &directory))?.path();
        let is_log = path.extension().is_some_and(|extension| extension == "log");
        if is_log && fs::metadata(&path).is_ok_and(|metadata| metadata.len() > LIMIT) {
            rotate(&path).map_err(Error::io("rotate", &path))?;
        }
    }
    Ok(())
}

fn rotate(path: &Path) -> io::Result<()> {
    // The copy first: where the disk is full, the older ones stay.
    let copy = path.with_added_extension("new");
    if let Err(error) = fs::copy(path, &copy) {
        let _ = fs::remove_file(&copy);
        return Err(error);
    }
    for number in (1..KEPT).rev() {
        match fs::rename(numbered(path, number), numbered(path, number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::rename(copy, numbered(path, 1))?;
    OpenOptions::new().write(true).open(path)?.set_len(0)
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    path.with_added_extension(number.to_string())
}

/// How much of a log is read for a message, in bytes.
const READ: u64 = 64 << 10;

/// How long a component's log is, in bytes.
pub(crate) fn length(layout: &Layout, name: &str) -> u64 {
    fs::metadata(layout.log(name)).map_or(0, |metadata| metadata.len())
}

/// What a component's log says from this position on; its last part, if that is long. All of it if the log was rotated.
pub(crate) fn since(layout: &Layout, name: &str, position: u64) -> String {
    let end = length(layout, name);
    let position = if position <= end { position } else { 0 };
    let read = || {
        let mut log = File::open(layout.log(name))?;
        log.seek(SeekFrom::Start(position.max(end.saturating_sub(READ))))?;
        let mut content = Vec::new();
        log.read_to_end(&mut content)?;
        io::Result::Ok(content)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

/// The last lines of a component's log.
pub(crate) fn last_lines(layout: &Layout, name: &str, count: usize) -> Vec<String> {
    let text = since(layout, name, 0);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(count)..].iter().map(ToString::to_string).collect()
}

/// The last lines of a component's log, for a message.
pub(crate) fn tail(layout: &Layout, name: &str, lines: usize) -> String {
    last_lines(layout, name, lines).iter().map(|line| format!("  {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_rotated_log_goes_on_through_the_descriptor_that_wrote_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("part.log");
        let mut log = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        for round in 0..5 {
            log.write_all(format!("round {round}\n").as_bytes()).unwrap();
            rotate(&path).unwrap();
        }
        log.write_all(b"after\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "after\n");
        assert_eq!(fs::read_to_string(numbered(&path, 1)).unwrap(), "round 4\n");
        assert_eq!(fs::read_to_string(numbered(&path, KEPT)).unwrap(), "round 2\n");
        assert!(!numbered(&path, KEPT + 1).exists());
    }

    #[test]
    fn a_log_that_cannot_be_copied_costs_no_older_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("part.log");
        fs::write(&path, "now").unwrap();
        fs::write(numbered(&path, 1), "before").unwrap();
        // The copy fails, as on a full disk.
        fs::create_dir(path.with_added_extension("new")).unwrap();
        rotate(&path).unwrap_err();
        assert_eq!(fs::read_to_string(&path).unwrap(), "now");
        assert_eq!(fs::read_to_string(numbered(&path, 1)).unwrap(), "before");
    }

    #[test]
    fn the_tail_of_a_log_is_its_last_lines_even_if_it_is_no_text() {
        let (_root, layout) = Layout::temporary();
        assert_eq!(tail(&layout, "part", 2), "");
        fs::write(layout.log("part"), b"one\ntwo\n\xff\xfe three").unwrap();
        assert_eq!(tail(&layout, "part", 2), "  two\n  \u{fffd}\u{fffd} three\n");
    }

    #[test]
    fn what_was_said_since_is_told_from_what_was_said_before() {
        let (_root, layout) = Layout::temporary();
        fs::write(layout.log("part"), "before\n").unwrap();
        let position = length(&layout, "part");
        OpenOptions::new().append(true).open(layout.log("part")).unwrap().write_all(b"after\n").unwrap();
        assert_eq!(since(&layout, "part", position), "after\n");
        fs::write(layout.log("part"), "new\n").unwrap();
        assert_eq!(since(&layout, "part", position), "new\n", "it was rotated");
    }
}
