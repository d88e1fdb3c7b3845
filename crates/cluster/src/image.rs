//! Image archives of the user's: kept in the data directory, imported at once and again at every start, since
//! containerd's own store goes with the cluster.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use procfs::Current as _;
use sha2::{Digest as _, Sha256};

use crate::component::{CONTAINERD, IMAGES, import_command, is_part, settings_here};
use crate::layout::{TEMPORARY, sync_directory_of};
use crate::preflight::check_space;
use crate::{Error, ImageFault, Layout, archive, process};

/// What stays free on the disk beside an archive.
const MARGIN_MIB: u64 = 32;

/// What is being done with an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is copied to the data directory.
    Copying,
    /// It is read to its end.
    Checking,
    /// containerd takes it.
    Importing,
}

/// Keeps an archive (an OCI image layout or `docker save`, as a tar file, plain or compressed by gzip) and imports it
/// if the cluster runs. The same archive twice is kept once. How far a step has come is told as a part of 1.
///
/// # Errors
/// It is not an image archive, or containerd refuses it; it is not kept then.
pub fn import(layout: &Layout, archive: &Path, mut on_progress: impl FnMut(Step, f64)) -> Result<(), Error> {
    layout.prepare()?;
    sweep(&layout.imported_images())?;
    let refused = |fault| Error::Image { path: archive.to_owned(), fault };
    let mut source = File::open(archive).map_err(Error::io("open", archive))?;
    let metadata = source.metadata().map_err(Error::io("read", archive))?;
    if !metadata.is_file() {
        return Err(refused(ImageFault::Format("it is not a file".to_owned())));
    }
    let length = metadata.len();
    check_space(&layout.imported_images(), (length >> 20) + MARGIN_MIB)?;
    // The copy is what is looked at: the file of the user's may change meanwhile.
    let part = |read: u64| read as f64 / length.max(1) as f64;
    let mut copy = Incoming::begin(layout)?;
    let digest =
        copy.fill(&mut source, |read| on_progress(Step::Copying, part(read))).map_err(Error::io("copy", archive))?;
    archive::check(&mut copy.file, room(), &mut |read| on_progress(Step::Checking, part(read))).map_err(refused)?;
    on_progress(Step::Importing, 0.0);
    import_now(layout, &copy.path).map_err(|why| refused(ImageFault::Refused(why)))?;
    copy.keep(&layout.imported_images().join(format!("{digest}.tar")))
}

/// What containerd can take, in bytes: it keeps images in memory.
fn room() -> u64 {
    procfs::Meminfo::current().ok().and_then(|memory| memory.mem_available).unwrap_or(u64::MAX)
}

/// An archive on its way into the data directory; gone with the value unless it is kept.
struct Incoming {
    path: PathBuf,
    file: File,
}

impl Incoming {
    fn begin(layout: &Layout) -> Result<Self, Error> {
        let path = layout.imported_images().join(format!("{TEMPORARY}{}-image", std::process::id()));
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&path);
        let file = open.map_err(Error::io("write", &path))?;
        Ok(Self { path, file })
    }

    /// Returns the SHA-256 of all that was read, in hexadecimal.
    fn fill(&mut self, source: &mut File, mut on_progress: impl FnMut(u64)) -> io::Result<String> {
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        let mut copied = 0;
        loop {
            let length = source.read(&mut buffer)?;
            if length == 0 {
                self.file.sync_data()?;
                self.file.rewind()?;
                return Ok(archive::hex(&hasher.finalize()));
            }
            hasher.update(&buffer[..length]);
            self.file.write_all(&buffer[..length])?;
            copied += length as u64;
            on_progress(copied);
        }
    }

    fn keep(self, kept: &Path) -> Result<(), Error> {
        let rename = || {
            fs::rename(&self.path, kept)?;
            sync_directory_of(kept)
        };
        rename().map_err(Error::io("write", kept))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // It is gone from there when it was kept.
        let _ = fs::remove_file(&self.path);
    }
}

/// Removes what was being copied when an import was interrupted.
fn sweep(directory: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(directory).map_err(Error::io("read", directory))? {
        let path = entry.map_err(Error::io("read", directory))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let owner = name.strip_prefix(TEMPORARY).and_then(|rest| rest.split('-').next()?.parse().ok());
        if owner.is_some_and(|pid| process::ProcessRef::of(pid).is_none()) {
            let _ = fs::remove_file(&path);
        }
    }
    Ok(())
}

/// Imports it into the containerd that runs, if one does; the error says why it was refused.
fn import_now(layout: &Layout, archive: &Path) -> Result<(), String> {
    // A node without Pods has no images.
    let settings = settings_here(layout).map_err(|error| error.to_string())?;
    if process::recorded(layout, CONTAINERD).is_none() || !is_part(IMAGES, &settings) {
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
    use super::*;
    use crate::ErrorId;
    use crate::archive::tests::{gzip, image, tar_of};

    /// Imports it twice where no cluster runs; returns the error, and what is kept.
    fn imported(content: &[u8]) -> (Option<ErrorId>, Vec<Vec<u8>>) {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::at(root.path());
        let archive = root.path().join("archive");
        fs::write(&archive, content).unwrap();
        let [first, again] = [(), ()].map(|()| import(&layout, &archive, |_, _| {}).err().map(|error| error.id()));
        assert_eq!(first, again);
        let kept =
            fs::read_dir(layout.imported_images()).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap());
        (first, kept.collect())
    }

    #[test]
    fn image_archives_are_kept_once_as_they_are() {
        let oci = image();
        for archive in [gzip(&oci), oci] {
            assert_eq!(imported(&archive), (None, vec![archive]));
        }
    }

    #[test]
    fn what_is_refused_is_not_kept() {
        assert_eq!(imported(b"FROM scratch\n"), (Some(ErrorId::ImageFormat), vec![]));
        assert_eq!(imported(&tar_of(&[("../x", b"")])), (Some(ErrorId::ImageUnsafe), vec![]));
        let whole = image();
        assert_eq!(imported(&whole[..whole.len() / 2]), (Some(ErrorId::ImageTruncated), vec![]));
    }

    #[test]
    fn what_is_no_file_is_not_read() {
        let (root, layout) = Layout::temporary();
        for path in [root.path(), Path::new("/dev/zero")] {
            assert_eq!(import(&layout, path, |_, _| {}).unwrap_err().id(), ErrorId::ImageFormat, "{path:?}");
        }
    }

    #[test]
    fn what_an_interrupted_import_left_goes_with_the_next() {
        let (root, layout) = Layout::temporary();
        let mut ended = Command::new("true").spawn().unwrap();
        ended.wait().unwrap();
        let name = |pid: u32| layout.imported_images().join(format!("{TEMPORARY}{pid}-image"));
        let (left, another) = (name(ended.id()), name(1));
        fs::write(&left, "half").unwrap();
        fs::write(&another, "of one that runs").unwrap();
        let archive = root.path().join("archive");
        fs::write(&archive, image()).unwrap();
        let mut steps = Vec::new();
        import(&layout, &archive, |step, part| steps.push((step, part))).unwrap();
        assert!(!left.exists() && another.exists());
        assert_eq!(steps.first().map(|step| step.0), Some(Step::Copying));
        assert!(steps.contains(&(Step::Checking, 1.0)), "{steps:?}");
    }
}
