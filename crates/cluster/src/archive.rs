//! What an image archive must be before it is kept and handed to containerd: a whole tar file, plain or compressed by gzip,
//! with nothing in it that leads out of it, with blobs that are what their names say, and no larger than images are.
//!
//! The layout is that of the OCI image specification (image-layout.md), or of `docker save` (manifest.json). Layers are
//! not looked into: containerd applies them, and confines them itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _};
use std::path::{Component, Path, PathBuf};

use flate2::read::MultiGzDecoder;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tar::EntryType;

use crate::error::ImageFault;

/// An archive has a few entries for each layer.
const ENTRIES: usize = 20_000;

/// A document (a manifest, an index) or a long name is not larger, in bytes.
const DOCUMENT: u64 = 4 << 20;

/// What is compressed grows by not more than this. Programs and texts grow by 3 to 10; only what is all but empty grows
/// by more, and of that a little is fine.
const RATIO: u64 = 100;
const UNSUSPICIOUS: u64 = 64 << 20;

/// What is found out about an archive while it is read.
#[derive(Default)]
struct Found {
    entries: usize,
    files: BTreeSet<PathBuf>,
    /// The small files, which may be documents.
    documents: BTreeMap<PathBuf, Vec<u8>>,
}

/// Reads the archive to its end, which is told in bytes of the file on the way. `room` is how many bytes containerd can
/// take.
///
/// # Errors
/// What is wrong with it, or the file cannot be read.
pub(crate) fn check(file: &mut File, room: u64, on_progress: &mut dyn FnMut(u64)) -> Result<(), ImageFault> {
    let unread = |error: io::Error| ImageFault::Truncated(error.to_string());
    let length = file.metadata().map_err(unread)?.len();
    let mut magic = [0; 2];
    let is_gzip = file.read_exact(&mut magic).is_ok() && magic == [0x1f, 0x8b];
    file.rewind().map_err(unread)?;
    let plain = BufReader::with_capacity(1 << 20, Counted { reader: file, read: 0, on_progress });
    let limit = if is_gzip { UNSUSPICIOUS.max(length.saturating_mul(RATIO)) } else { u64::MAX };
    if is_gzip {
        check_tar(Limited { reader: MultiGzDecoder::new(plain), read: 0, limit, room })
    } else {
        check_tar(Limited { reader: plain, read: 0, limit, room })
    }
}

fn check_tar(reader: Limited<impl Read>) -> Result<(), ImageFault> {
    let mut archive = tar::Archive::new(reader);
    let mut found = Found::default();
    let read = read_entries(&mut archive, &mut found);
    let mut reader = archive.into_inner();
    // What follows the end mark belongs to the checksum of a compressed one.
    let read = read.and_then(|()| io::copy(&mut reader, &mut io::sink()).map(drop).map_err(Stop::from));
    // That it grew too large is why it could not be read.
    if let Some(why) = reader.exceeded() {
        return Err(ImageFault::TooLarge(why));
    }
    match read {
        Ok(()) => check_documents(&found),
        Err(Stop::Fault(fault)) => Err(fault),
        Err(Stop::Unread) if found.entries == 0 => Err(ImageFault::Format(NO_ARCHIVE.to_owned())),
        Err(Stop::Unread) => Err(ImageFault::Truncated("it is damaged, or not a whole tar file".to_owned())),
    }
}

const NO_ARCHIVE: &str = "it is no tar file with index.json (an OCI image layout) or manifest.json (docker save)";

/// Why reading stopped.
enum Stop {
    Fault(ImageFault),
    /// A file operation failed, or what was read makes no sense.
    Unread,
}

impl From<ImageFault> for Stop {
    fn from(fault: ImageFault) -> Self {
        Self::Fault(fault)
    }
}

impl From<io::Error> for Stop {
    // The error itself quotes what it could not read, whatever that is.
    fn from(_: io::Error) -> Self {
        Self::Unread
    }
}

/// Reads the entries one by one. The tar crate would read names of any length into memory, so they are read here.
fn read_entries(archive: &mut tar::Archive<impl Read>, found: &mut Found) -> Result<(), Stop> {
    let unsafe_entry = |path: &Path, what: &str| Stop::Fault(ImageFault::Unsafe(format!("{} {what}", path.display())));
    let (mut long_path, mut long_link) = (None, None);
    for entry in archive.entries()?.raw(true) {
        let mut entry = entry?;
        found.entries += 1;
        if found.entries > ENTRIES {
            return Err(ImageFault::TooLarge(format!("it has more than {ENTRIES} entries")).into());
        }
        let kind = entry.header().entry_type();
        match kind {
            EntryType::GNULongName => long_path = Some(path_of(document(&mut entry)?)),
            EntryType::GNULongLink => long_link = Some(path_of(document(&mut entry)?)),
            EntryType::XHeader => {
                for extension in tar::PaxExtensions::new(&document(&mut entry)?) {
                    let extension = extension?;
                    match extension.key().unwrap_or_default() {
                        "path" => long_path = Some(path_of(extension.value_bytes().to_vec())),
                        "linkpath" => long_link = Some(path_of(extension.value_bytes().to_vec())),
                        "size" => {
                            return Err(ImageFault::TooLarge("a file in it has more than 8 GiB".to_owned()).into());
                        }
                        _ => {}
                    }
                }
            }
            EntryType::XGlobalHeader => drop(document(&mut entry)?),
            _ => {
                let path = long_path.take().unwrap_or_else(|| path_of(entry.path_bytes().into_owned()));
                let link = long_link.take().or_else(|| entry.link_name_bytes().map(|name| path_of(name.into_owned())));
                let inside =
                    normal(Path::new(""), &path).ok_or_else(|| unsafe_entry(&path, "leads out of the archive"))?;
                match kind {
                    EntryType::Directory => {}
                    EntryType::Regular | EntryType::Continuous => read_file(&mut entry, inside, found)?,
                    EntryType::Symlink | EntryType::Link => {
                        // A hard link names its target from the top, a symbolic one from where it is.
                        let parent = inside.parent().unwrap_or(Path::new(""));
                        let from = if kind == EntryType::Link { Path::new("") } else { parent };
                        link.and_then(|link| normal(from, &link))
                            .ok_or_else(|| unsafe_entry(&path, "is a link that leads out of the archive"))?;
                        found.files.insert(inside);
                    }
                    _ => return Err(unsafe_entry(&path, "is no file, directory or link")),
                }
            }
        }
    }
    Ok(())
}

fn read_file(entry: &mut tar::Entry<'_, impl Read>, path: PathBuf, found: &mut Found) -> Result<(), Stop> {
    let size = entry.size();
    // Those of the blobs that are no layers are documents, and a document is small.
    let mut content = (size <= DOCUMENT).then(Vec::new);
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    let mut read = 0;
    loop {
        let length = entry.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        read += length as u64;
        hasher.update(&buffer[..length]);
        if let Some(content) = &mut content {
            content.extend_from_slice(&buffer[..length]);
        }
    }
    if read != size {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    if let Ok(name) = path.strip_prefix("blobs/sha256")
        && name.as_os_str() != hex(&hasher.finalize()).as_str()
    {
        return Err(ImageFault::Digest(path.display().to_string()).into());
    }
    // What is no JSON is not kept: an archive of many small files costs no memory.
    if let Some(content) = content.filter(|content| matches!(content.first(), Some(b'{' | b'['))) {
        let kept: usize = found.documents.values().map(Vec::len).sum();
        if (kept + content.len()) as u64 <= 4 * DOCUMENT {
            found.documents.insert(path.clone(), content);
        }
    }
    found.files.insert(path);
    Ok(())
}

/// Makes sure that what the index or the manifest names is there.
fn check_documents(found: &Found) -> Result<(), ImageFault> {
    let parsed = |name: &str| {
        let path = Path::new(name);
        found.files.contains(path).then(|| {
            let document = found.documents.get(path).map(Vec::as_slice).unwrap_or_default();
            serde_json::from_slice::<Value>(document).map_err(|_| ImageFault::Format(format!("its {name} is no JSON")))
        })
    };
    let (index, manifest) = (parsed("index.json").transpose()?, parsed("manifest.json").transpose()?);
    if index.is_none() && manifest.is_none() {
        return Err(ImageFault::Format(
            "it holds neither index.json (an OCI image layout) nor manifest.json (docker save)".to_owned(),
        ));
    }
    let list = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let is_there = |path: &Path, by: &str| match found.files.contains(path) {
        true => Ok(()),
        false => Err(ImageFault::Truncated(format!("{} is missing, which {by} names", path.display()))),
    };
    if let Some(index) = index {
        let images = list(&index, "manifests");
        if images.is_empty() {
            return Err(ImageFault::Format("its index.json names no image".to_owned()));
        }
        for image in images {
            let path = blob(&image)?;
            is_there(&path, "index.json")?;
            let image = found.documents.get(&path).and_then(|content| serde_json::from_slice::<Value>(content).ok());
            let Some(image) = image.filter(|image| image["layers"].is_array()) else { continue };
            for part in list(&image, "layers").iter().chain([&image["config"]]) {
                // A layer may lie elsewhere, by its own word.
                if part["urls"].is_null() {
                    is_there(&blob(part)?, "its manifest")?;
                }
            }
        }
        return Ok(());
    }
    let images = manifest.as_ref().and_then(Value::as_array).cloned().unwrap_or_default();
    if images.is_empty() {
        return Err(ImageFault::Format("its manifest.json names no image".to_owned()));
    }
    for image in images {
        for part in list(&image, "Layers").iter().chain([&image["Config"]]) {
            let path = part.as_str().and_then(|part| normal(Path::new(""), Path::new(part)));
            let path = path.ok_or_else(|| ImageFault::Format("its manifest.json names no files".to_owned()))?;
            is_there(&path, "manifest.json")?;
        }
    }
    Ok(())
}

/// Where the blob of a descriptor is.
fn blob(descriptor: &Value) -> Result<PathBuf, ImageFault> {
    let digest = descriptor["digest"].as_str().and_then(|digest| digest.split_once(':'));
    let (algorithm, hex) = digest.ok_or_else(|| ImageFault::Format("it names a blob without a digest".to_owned()))?;
    Ok(Path::new("blobs").join(algorithm).join(hex))
}

pub(crate) fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The content of an entry that must be small.
fn document(entry: &mut tar::Entry<'_, impl Read>) -> Result<Vec<u8>, Stop> {
    let mut content = Vec::new();
    entry.take(DOCUMENT).read_to_end(&mut content)?;
    if content.len() as u64 == DOCUMENT {
        return Err(ImageFault::TooLarge("a name in it is longer than a name can be".to_owned()).into());
    }
    Ok(content)
}

fn path_of(mut bytes: Vec<u8>) -> PathBuf {
    use std::os::unix::ffi::OsStringExt as _;
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    bytes.truncate(end);
    std::ffi::OsString::from_vec(bytes).into()
}

/// The path from the archive's top, seen from a directory in it; `None` if it leads out.
fn normal(from: &Path, path: &Path) -> Option<PathBuf> {
    let mut normal = from.to_owned();
    for component in path.components() {
        match component {
            Component::Normal(name) => normal.push(name),
            Component::CurDir => {}
            Component::ParentDir if normal.pop() => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(normal)
}

/// Tells how far the file was read.
struct Counted<'a> {
    reader: &'a mut File,
    read: u64,
    on_progress: &'a mut dyn FnMut(u64),
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.reader.read(buffer)?;
        self.read += length as u64;
        (self.on_progress)(self.read);
        Ok(length)
    }
}

/// Reads no more than what is fine.
struct Limited<R> {
    reader: R,
    read: u64,
    limit: u64,
    room: u64,
}

impl<R> Limited<R> {
    fn exceeded(&self) -> Option<String> {
        if self.read > self.limit {
            Some(format!("it unpacks to more than {} MiB, {RATIO} times its size", self.limit >> 20))
        } else if self.read > self.room {
            Some(format!("it unpacks to more than the {} MiB of memory that are free", self.room >> 20))
        } else {
            None
        }
    }
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.reader.read(buffer)?;
        self.read += length as u64;
        if self.exceeded().is_some() { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(length) }
    }
}

#[cfg(test)]
#[path = "archive_tests.rs"]
pub(crate) mod tests;
