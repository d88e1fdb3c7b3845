//! `terrarium logs`

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use terrarium_cluster::{Error, Layout};

/// Print the log of a component
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The component, such as kubelet; all names are listed if there is no such one
    component: String,

    /// Go on printing what is written
    #[arg(short, long)]
    follow: bool,

    /// Print only the last lines
    #[arg(long, value_name = "LINES")]
    tail: Option<usize>,
}

pub fn run(layout: &Layout, args: &Args) -> Result<ExitCode> {
    let path = layout.log(&args.component);
    let names = names(layout);
    if !names.contains(&args.component) {
        let error = match names.as_slice() {
            [] => Error::NoLogs { directory: layout.logs() },
            _ => Error::NoLog { component: args.component.clone(), known: names },
        };
        return Err(error.into());
    }
    let mut log = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut text = Vec::new();
    log.read_to_end(&mut text).with_context(|| format!("cannot read {}", path.display()))?;
    let mut out = io::stdout().lock();
    out.write_all(last_lines(&text, args.tail))?;
    if !args.follow {
        return Ok(ExitCode::SUCCESS);
    }
    let mut position = text.len() as u64;
    loop {
        out.flush()?;
        std::thread::sleep(Duration::from_millis(200));
        if log.metadata()?.len() < position {
            // It was rotated: truncated in its place.
            position = 0;
        }
        log.seek(SeekFrom::Start(position))?;
        position += io::copy(&mut log, &mut out)?;
    }
}

fn names(layout: &Layout) -> Vec<String> {
    let entries = layout.logs().read_dir().into_iter().flatten().filter_map(Result::ok);
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".log").map(str::to_owned)).collect();
    names.sort();
    names
}

fn last_lines(text: &[u8], count: Option<usize>) -> &[u8] {
    let Some(count) = count else { return text };
    let ended = text.strip_suffix(b"\n").unwrap_or(text);
    let mut breaks = ended.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
    match count.checked_sub(1) {
        None => &[],
        Some(skipped) => &text[breaks.nth(skipped).unwrap_or(0)..],
    }
}

#[cfg(test)]
mod tests {
    use super::last_lines;

    #[test]
    fn the_tail_is_whole_lines() {
        let text = b"one\ntwo\nthree\n";
        assert_eq!(last_lines(text, None), text);
        assert_eq!(last_lines(text, Some(0)), b"");
        assert_eq!(last_lines(text, Some(1)), b"three\n");
        assert_eq!(last_lines(text, Some(2)), b"two\nthree\n");
        assert_eq!(last_lines(text, Some(9)), text);
        assert_eq!(last_lines(b"one\ntorn", Some(1)), b"torn");
        assert_eq!(last_lines(b"", Some(1)), b"");
    }
}
