//! `terrarium support bundle`: all that helps somebody else to find out what is wrong, in one archive without secrets.
//!
//! What cannot be had, because there is no cluster or no right to read it, is listed in the archive instead.

mod redact;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use flate2::Compression;
use flate2::write::GzEncoder;
use procfs::process::all_processes;
use serde_json::Value;

use self::redact::Redactor;
use crate::component::SUPERVISOR;
use crate::launch::own_program;
use crate::process::{self, wait_until};
use crate::{Error, Layout, known, status};

/// How much of the end of each log is taken, in bytes.
const LOG_LIMIT: u64 = 2 << 20;

/// How long a program may take that tells something.
const PROGRAM_LIMIT: Duration = Duration::from_secs(60);

/// The directory in the archive.
const TOP: &str = "terrarium-support";

/// Writes the archive, a gzipped tar file that only its owner may read, to a file that must not exist yet.
///
/// # Errors
/// The file is there already, or cannot be written.
pub fn bundle(layout: &Layout, path: &Path) -> Result<(), Error> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let file = file.map_err(Error::io("write", path))?;
    let mut bundle = Bundle {
        archive: tar::Builder::new(GzEncoder::new(file, Compression::default())),
        redactor: Redactor::new(layout),
        missing: String::new(),
    };
    let written = collect(layout, &mut bundle).and_then(|()| bundle.finish());
    written.map_err(|error| {
        let _ = fs::remove_file(path);
        Error::io("write", path)(error)
    })
}

struct Bundle {
    archive: tar::Builder<GzEncoder<File>>,
    redactor: Redactor,
    missing: String,
}

impl Bundle {
    /// Adds a text without its secrets, or notes why there is none.
    fn add(&mut self, name: &str, text: Result<String, String>) -> io::Result<()> {
        match text {
            Ok(text) => self.append(name, &self.redactor.text(&text)),
            Err(why) => {
                self.missing += &format!("{name}: {why}\n");
                Ok(())
            }
        }
    }

    fn append(&mut self, name: &str, text: &str) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o600);
        header.set_size(text.len() as u64);
        header.set_mtime(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs());
        self.archive.append_data(&mut header, format!("{TOP}/{name}"), text.as_bytes())
    }

    fn finish(mut self) -> io::Result<()> {
        let missing = std::mem::take(&mut self.missing);
        self.append("missing.txt", &self.redactor.text(&missing))?;
        let mut file = self.archive.into_inner()?.finish()?;
        file.flush()
    }
}

fn collect(layout: &Layout, bundle: &mut Bundle) -> io::Result<()> {
    for (name, args) in [("version.txt", &["version"][..]), ("doctor.json", &["doctor", "-o", "json"])] {
        bundle
            .add(name, own_program().map_err(|error| error.to_string()).and_then(|own| output(&own, args, layout)))?;
    }
    let status = status::look(layout).map_err(|error| crate::error::chain(&error));
    let to_json = |status: status::Status| serde_json::to_string_pretty(&status).map_err(|error| error.to_string());
    bundle.add("status.json", status.and_then(to_json))?;
    add_directory(bundle, "run", layout.runtime())?;
    add_directory(bundle, "etc", &layout.config(""))?;
    add_logs(bundle, layout)?;
    bundle.add("pki.txt", listing(&layout.pki("")))?;
    for kind in ["nodes", "pods", "events"] {
        bundle.add(&format!("cluster/{kind}.json"), objects(layout, kind))?;
    }
    let read = |path: &str| fs::read_to_string(path).map_err(|error| error.to_string());
    bundle.add("system/mountinfo", read("/proc/self/mountinfo"))?;
    let inside = process::recorded(layout, SUPERVISOR).ok_or("the supervisor does not run".to_owned());
    let inside = inside.and_then(|supervisor| read(&format!("/proc/{}/mountinfo", supervisor.pid)));
    bundle.add("system/mountinfo-of-the-cluster", inside)?;
    for (name, path) in [("version", "/proc/version"), ("meminfo", "/proc/meminfo"), ("route", "/proc/net/route")] {
        bundle.add(&format!("system/{name}"), read(path))?;
    }
    bundle.add("system/addresses", addresses())?;
    bundle.add("system/processes", processes())
}

/// The text files right below the runtime directory and in its records, or below the configuration.
fn add_directory(bundle: &mut Bundle, name: &str, directory: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => return bundle.add(name, Err(error.to_string())),
    };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    paths.sort();
    for path in paths {
        let name = format!("{name}/{}", path.file_name().unwrap_or_default().to_string_lossy());
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if metadata.is_dir() {
            add_directory(bundle, &name, &path)?;
        } else if metadata.is_file() {
            bundle.add(&name, end_of(&path))?;
        }
    }
    Ok(())
}

fn add_logs(bundle: &mut Bundle, layout: &Layout) -> io::Result<()> {
    let entries = match fs::read_dir(layout.logs()) {
        Ok(entries) => entries,
        Err(error) => return bundle.add("logs", Err(error.to_string())),
    };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    paths.sort();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let component = name.split('.').next().unwrap_or_default().to_owned();
        bundle.add(&format!("logs/{name}"), end_of(&path).map(|log| known::annotated(&component, &log)))?;
    }
    Ok(())
}

/// The end of a file, from the beginning of a line.
fn end_of(path: &Path) -> Result<String, String> {
    let read = || {
        let mut file = File::open(path)?;
        let start = file.metadata()?.len().saturating_sub(LOG_LIMIT);
        file.seek(SeekFrom::Start(start))?;
        let mut content = Vec::new();
        file.take(LOG_LIMIT).read_to_end(&mut content)?;
        let text = String::from_utf8_lossy(&content).into_owned();
        // Half a line may be half a secret.
        io::Result::Ok(if start == 0 {
            text
        } else {
            text.split_once('\n').map_or(String::new(), |(_, rest)| rest.to_owned())
        })
    };
    read().map_err(|error| error.to_string())
}

/// What is in a directory, without the contents.
fn listing(directory: &Path) -> Result<String, String> {
    let entries = fs::read_dir(directory).map_err(|error| error.to_string())?;
    let mut lines: Vec<String> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let metadata = entry.metadata().ok()?;
            let age = metadata.modified().ok()?.elapsed().unwrap_or_default().as_secs();
            Some(format!("{}  {} bytes  {age} s old\n", entry.file_name().to_string_lossy(), metadata.len()))
        })
        .collect();
    lines.sort();
    Ok(lines.concat())
}

/// Objects of the cluster as JSON, without what may be secret in them.
fn objects(layout: &Layout, kind: &str) -> Result<String, String> {
    if !status::server_runs(layout) {
        return Err("the API server does not run".to_owned());
    }
    let own = own_program().map_err(|error| error.to_string())?;
    let args = ["kubectl", "get", kind, "--all-namespaces", "--request-timeout=10s", "-o", "json"];
    let mut objects: Value = serde_json::from_str(&output(&own, &args, layout)?).map_err(|error| error.to_string())?;
    redact::strip(&mut objects);
    serde_json::to_string_pretty(&objects).map_err(|error| error.to_string())
}

fn addresses() -> Result<String, String> {
    let interfaces = nix::ifaddrs::getifaddrs().map_err(|error| error.to_string())?;
    Ok(interfaces
        .filter_map(|interface| Some(format!("{}  {}\n", interface.interface_name, interface.address?)))
        .collect())
}

/// Every process by its program's name: arguments may be secret.
fn processes() -> Result<String, String> {
    let processes = all_processes().map_err(|error| error.to_string())?;
    let stats = processes.filter_map(|process| process.ok()?.stat().ok());
    let line = |stat: procfs::process::Stat| {
        let rss = (stat.rss * procfs::page_size()) >> 20;
        format!("pid {}  parent {}  {}  {rss} MiB  {}\n", stat.pid, stat.ppid, stat.state, stat.comm)
    };
    Ok(stats.map(line).collect())
}

/// What a command of terrarium's own prints.
fn output(program: &Path, args: &[&str], layout: &Layout) -> Result<String, String> {
    let mut command = Command::new(program);
    command.env("TERRARIUM_DATA_DIR", layout.data()).args(args);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| error.to_string())?;
    let mut stdout = child.stdout.take().expect("it is piped");
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        stdout.read_to_end(&mut text).map(|_| text)
    });
    if !wait_until(PROGRAM_LIMIT, || !matches!(child.try_wait(), Ok(None))) {
        let _ = child.kill();
    }
    let status = child.wait().map_err(|error| error.to_string())?;
    let text = reader.join().expect("reading does not panic").map_err(|error| error.to_string())?;
    // `doctor` may end with another status because of what it found.
    if text.is_empty() { Err(format!("{status}")) } else { Ok(String::from_utf8_lossy(&text).into_owned()) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt as _;

    use flate2::read::GzDecoder;

    use super::*;

    fn read(path: &Path) -> BTreeMap<String, String> {
        let mut archive = tar::Archive::new(GzDecoder::new(File::open(path).unwrap()));
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().strip_prefix(TOP).unwrap().display().to_string();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            (name, text)
        });
        entries.collect()
    }

    #[test]
    fn a_directory_of_files_becomes_entries_without_secrets() {
        let (root, layout) = Layout::temporary();
        fs::write(layout.config("admin.kubeconfig"), "user:\n  client-key-data: c2VjcmV0\n").unwrap();
        fs::write(layout.log("kubelet"), "W1 oomparser.go:151] x\nBearer abcdefgh12345678\n").unwrap();
        let path = root.path().join("bundle.tar.gz");
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).unwrap();
        let archive = tar::Builder::new(GzEncoder::new(file, Compression::fast()));
        let mut bundle = Bundle { archive, redactor: Redactor::new(&layout), missing: String::new() };
        add_directory(&mut bundle, "etc", &layout.config("")).unwrap();
        add_directory(&mut bundle, "gone", &root.path().join("gone")).unwrap();
        add_logs(&mut bundle, &layout).unwrap();
        bundle.finish().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let entries = read(&path);
        assert_eq!(entries["etc/admin.kubeconfig"], "user:\n  client-key-data: [removed]\n");
        assert!(
            entries["logs/kubelet.log"].contains("# harmless: ")
                && entries["logs/kubelet.log"].contains("Bearer [removed]")
        );
        assert!(entries["missing.txt"].starts_with("gone: "), "{entries:?}");
    }

    #[test]
    fn the_end_of_a_long_file_begins_with_a_whole_line() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("long");
        fs::write(&path, "a secret of many letters\n".repeat(100_000)).unwrap();
        let end = end_of(&path).unwrap();
        assert!(end.starts_with("a secret") && end.len() as u64 <= LOG_LIMIT);
    }
}
