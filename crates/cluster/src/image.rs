//! Image archives of the user's: kept in the data directory, imported at once and again at every start, since
//! containerd's own store goes with the cluster.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest as _, Sha256};

use crate::component::{CONTAINERD, import_command};
use crate::{Error, Layout, process};

/// Keeps an archive (an OCI image layout or `docker save`, as a tar file, plain or compressed by gzip) and imports it
/// if the cluster runs. The same archive twice is kept once.
///
/// # Errors
/// It is not an image archive, or containerd refuses it; it is not kept then.
pub fn import(layout: &Layout, archive: &Path) -> Result<(), Error> {
    layout.prepare()?;
    let digest = check(archive)?;
    let kept = layout.imported_images().join(format!("{digest}.tar"));
    let is_new = !kept.exists();
    if is_new {
        keep(archive, &kept)?;
    }
    let imported = import_now(layout, &kept).map_err(|why| Error::Image { path: archive.to_owned(), why });
    if imported.is_err() && is_new {
        let _ = fs::remove_file(&kept);
    }
    imported
}

/// Makes sure that it is an image archive, and returns the SHA-256 of the file in hexadecimal.
fn check(archive: &Path) -> Result<String, Error> {
    let mut file = File::open(archive).map_err(Error::io("open", archive))?;
    let mut magic = [0; 2];
    let is_gzip = file.read_exact(&mut magic).is_ok() && magic == [0x1f, 0x8b];
    file.rewind().map_err(Error::io("read", archive))?;
    // Inside a compressed one containerd looks itself.
    if !is_gzip && !holds_an_index(&file) {
        let why = "it holds neither index.json (an OCI image layout) nor manifest.json (docker save)".to_owned();
        return Err(Error::Image { path: archive.to_owned(), why });
    }
    file.rewind().and_then(|()| digest(file)).map_err(Error::io("read", archive))
}

fn digest(file: File) -> io::Result<String> {
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut hasher = Sha256::new();
    loop {
        let chunk = reader.fill_buf()?;
        if chunk.is_empty() {
            return Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
        }
        hasher.update(chunk);
        let length = chunk.len();
        reader.consume(length);
    }
}

fn holds_an_index(file: &File) -> bool {
    let mut archive = tar::Archive::new(file);
    let Ok(mut entries) = archive.entries_with_seek() else { return false };
    entries.any(|entry| {
        entry.is_ok_and(|entry| {
            entry.path().is_ok_and(|path| {
                let path = path.strip_prefix("./").unwrap_or(&path);
                path == Path::new("index.json") || path == Path::new("manifest.json")
            })
        })
    })
}

fn keep(archive: &Path, kept: &PathBuf) -> Result<(), Error> {
    let temporary = kept.with_extension("new");
    let copy = || {
        fs::copy(archive, &temporary)?;
        File::open(&temporary)?.sync_all()?;
        fs::rename(&temporary, kept)
    };
    copy().map_err(|error| {
        let _ = fs::remove_file(&temporary);
        Error::io("write", kept)(error)
    })
}

/// Imports it into the containerd that runs, if one does; the error says why it was refused.
fn import_now(layout: &Layout, archive: &Path) -> Result<(), String> {
    if process::recorded(layout, CONTAINERD).is_none() {
        return Ok(());
    }
    let command = import_command(layout, archive.to_owned()).map_err(|error| error.to_string())?;
    let output = Command::new(&command.program).args(&command.args).output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().trim_start_matches("ctr: ").to_owned())
}
