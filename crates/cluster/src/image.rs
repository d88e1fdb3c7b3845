//! Image archives of the user's: kept in the data directory, imported at once and again at every start, since
//! containerd's own store goes with the cluster.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read, Seek as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::read::MultiGzDecoder;
use sha2::{Digest as _, Sha256};

use crate::component::{CONTAINERD, import_command};
use crate::{Error, ImageFault, Layout, process};

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
    let imported = import_now(layout, &kept)
        .map_err(|why| Error::Image { path: archive.to_owned(), fault: ImageFault::Refused(why) });
    if imported.is_err() && is_new {
        let _ = fs::remove_file(&kept);
    }
    imported
}

/// Makes sure that it is a whole image archive, and returns the SHA-256 of the file in hexadecimal. One that is not would
/// fail at the next start, when nobody remembers it.
fn check(archive: &Path) -> Result<String, Error> {
    let mut file = File::open(archive).map_err(Error::io("open", archive))?;
    let mut magic = [0; 2];
    let is_gzip = file.read_exact(&mut magic).is_ok() && magic == [0x1f, 0x8b];
    file.rewind().map_err(Error::io("read", archive))?;
    let plain = BufReader::new(&file);
    let holds = if is_gzip { holds_an_index(MultiGzDecoder::new(plain)) } else { holds_an_index(plain) };
    let why = match holds {
        Ok(true) => return file.rewind().and_then(|()| digest(file)).map_err(Error::io("read", archive)),
        Ok(false) => "it holds neither index.json (an OCI image layout) nor manifest.json (docker save)",
        // The error itself quotes what it could not read, whatever that is.
        Err(_) => "it is not a whole tar file with index.json (an OCI image layout) or manifest.json (docker save)",
    };
    Err(Error::Image { path: archive.to_owned(), fault: ImageFault::Format(why.to_owned()) })
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

/// Reads the archive to its end.
fn holds_an_index(reader: impl Read) -> io::Result<bool> {
    let mut archive = tar::Archive::new(reader);
    let mut found = false;
    for entry in archive.entries()? {
        let entry = entry?;
        let path = entry.path()?;
        let path = path.strip_prefix("./").unwrap_or(&path);
        found |= path == Path::new("index.json") || path == Path::new("manifest.json");
    }
    // What follows the end mark belongs to the checksum of a compressed one.
    io::copy(&mut archive.into_inner(), &mut io::sink())?;
    Ok(found)
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

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn tar_of(names: &[&str]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for name in names {
            let mut header = tar::Header::new_gnu();
            header.set_size(3000);
            archive.append_data(&mut header, name, io::repeat(b'x').take(3000)).unwrap();
        }
        archive.into_inner().unwrap()
    }

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    /// Imports it where no cluster runs; returns the error, and what is kept.
    fn imported(content: &[u8]) -> (Option<String>, Vec<Vec<u8>>) {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::at(root.path());
        let archive = root.path().join("archive");
        fs::write(&archive, content).unwrap();
        let errors = [import(&layout, &archive), import(&layout, &archive)].map(Result::err);
        let kept =
            fs::read_dir(layout.imported_images()).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap());
        let [first, again] = errors.map(|error| error.map(|error| error.to_string()));
        assert_eq!(first, again);
        (first, kept.collect())
    }

    #[test]
    fn image_archives_are_kept_once_as_they_are() {
        let oci = tar_of(&["oci-layout", "index.json", "blobs/sha256/aa"]);
        for archive in [tar_of(&["./aa/layer.tar", "./manifest.json"]), gzip(&oci), oci] {
            assert_eq!(imported(&archive), (None, vec![archive]));
        }
    }

    #[test]
    fn what_is_no_whole_image_archive_is_refused_and_not_kept() {
        let whole = tar_of(&["index.json", "blobs/sha256/aa"]);
        let compressed = gzip(&whole);
        for (archive, why) in [
            (Vec::new(), "neither index.json"),
            (tar_of(&["etc/passwd", "sub/index.json"]), "neither index.json"),
            (b"FROM scratch\n".to_vec(), "not a whole tar file"),
            (vec![b'a'; 4096], "not a whole tar file"),
            (whole[..whole.len() - 4096].to_vec(), "not a whole tar file"),
            (compressed[..compressed.len() / 2].to_vec(), "not a whole tar file"),
            (gzip(b"no tar"), "not a whole tar file"),
        ] {
            let (error, kept) = imported(&archive);
            let error = error.unwrap_or_else(|| panic!("taken for an archive: {why}"));
            assert!(error.contains(why) && error.contains("manifest.json"), "{why}: {error}");
            assert!(!error.contains("scratch"), "what is in a file is nobody's business: {error}");
            assert!(kept.is_empty(), "{why}");
        }
    }
}
