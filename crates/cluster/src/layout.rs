//! Where everything is: what lasts in the data directory, what goes with the cluster in the runtime directory, and the
//! components beside the program.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::Error;
use crate::error::DataDirFault;
use crate::marker::Marker;

/// The data directory unless the user names another: root's, or in the user's home (XDG Base Directory Specification).
#[must_use]
pub fn default_data_dir() -> PathBuf {
    if nix::unistd::geteuid().is_root() {
        return "/var/lib/terrarium".into();
    }
    xdg("XDG_DATA_HOME", ".local/share").join("terrarium")
}

/// Where the runtime files are, for programs that the supervisor starts: in a user namespace they seem to be root's.
pub(crate) const RUNTIME_DIR: &str = "TERRARIUM_RUNTIME_DIR";

/// Runtime files. One cluster of a user's runs in a sandbox, so there is one such place.
fn runtime_dir() -> PathBuf {
    if let Some(directory) = std::env::var_os(RUNTIME_DIR) {
        return directory.into();
    }
    if nix::unistd::geteuid().is_root() {
        return "/run/terrarium".into();
    }
    // Not XDG_RUNTIME_DIR: that may not exist, and goes when its user logs out, and a cluster stays.
    xdg("XDG_STATE_HOME", ".local/state").join("terrarium")
}

/// A directory of the user's: the variable's, if it is absolute as the specification wants it, else one in their home.
fn xdg(variable: &str, fallback: &str) -> PathBuf {
    let named = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    named.unwrap_or_else(|| std::env::home_dir().unwrap_or_else(|| "/".into()).join(fallback))
}

/// The paths of one cluster.
#[derive(Clone, Debug)]
pub struct Layout {
    data: PathBuf,
    runtime: PathBuf,
    components: PathBuf,
    images: PathBuf,
}

impl Layout {
    /// The layout for a data directory, with the components where they are installed: `$TERRARIUM_COMPONENTS`, or
    /// `../libexec/terrarium` beside the directory of this program, and their images in `../share/terrarium/images`.
    ///
    /// # Errors
    /// This program's own path cannot be told.
    pub fn new(data: impl Into<PathBuf>) -> Result<Self, Error> {
        let program = std::env::current_exe().map_err(Error::io("find this program's path", "/proc/self/exe"))?;
        let prefix = program.ancestors().nth(2).unwrap_or(Path::new("/")).to_owned();
        Ok(Self {
            data: data.into(),
            runtime: runtime_dir(),
            components: std::env::var_os("TERRARIUM_COMPONENTS")
                .map_or_else(|| prefix.join("libexec/terrarium"), PathBuf::from),
            images: prefix.join("share/terrarium/images"),
        })
    }

    /// A layout below a directory of a test's.
    #[cfg(test)]
    pub(crate) fn at(prefix: &Path) -> Self {
        let [data, runtime, components, images] = ["data", "run", "components", "images"].map(|name| prefix.join(name));
        Self { data, runtime, components, images }
    }

    /// A prepared layout for a test, and the directory that holds it and goes with the value.
    #[cfg(test)]
    pub(crate) fn temporary() -> (tempfile::TempDir, Self) {
        let root = tempfile::tempdir().expect("tests can make files");
        let layout = Self::at(root.path());
        layout.prepare().expect("an empty directory can be prepared");
        (root, layout)
    }

    /// The data directory.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The runtime directory.
    #[must_use]
    pub fn runtime(&self) -> &Path {
        &self.runtime
    }

    /// Makes the directories, and makes sure that the data directory is empty or ours.
    ///
    /// # Errors
    /// It holds something else, is of a newer terrarium, or cannot be written.
    pub fn prepare(&self) -> Result<(), Error> {
        if let Some(parent) = self.data.parent() {
            // What lies above, such as /var/lib, is everybody's.
            fs::create_dir_all(parent).map_err(Error::io("make the directory", parent))?;
        }
        make_private(&self.data)?;
        // Looked for again: another `up` may have marked it in between.
        if self.marker()?.is_none() && self.holds_anything()? && self.marker()?.is_none() {
            return Err(self.foreign());
        }
        if self.marker()?.is_none() {
            self.write_marker(&Marker::new())?;
        }
        for directory in ["etc", "etc/cni", "etc/cni/net.d", "images", "logs", "pki", "store"] {
            make_private(&self.data.join(directory))?;
        }
        self.make_runtime()?;
        for directory in ["cni", "cni/bin", "records"] {
            make_private(&self.runtime.join(directory))?;
        }
        Ok(())
    }

    pub(crate) fn marker_path(&self) -> PathBuf {
        self.data.join("terrarium.json")
    }

    fn foreign(&self) -> Error {
        Error::DataDir { path: self.data.clone(), why: DataDirFault::Foreign }
    }

    /// Whether the data directory holds anything but files that are being written.
    fn holds_anything(&self) -> Result<bool, Error> {
        let mut entries = fs::read_dir(&self.data).map_err(Error::io("read", &self.data))?;
        Ok(entries
            .any(|entry| !entry.is_ok_and(|entry| entry.file_name().as_bytes().starts_with(TEMPORARY.as_bytes()))))
    }

    /// Makes the runtime directory.
    pub(crate) fn make_runtime(&self) -> Result<(), Error> {
        if let Some(parent) = self.runtime.parent() {
            fs::create_dir_all(parent).map_err(Error::io("make the directory", parent))?;
        }
        make_private(&self.runtime)
    }

    /// Removes the runtime directory; call it with the lock held. The lock goes last: up to then it keeps a new supervisor
    /// out, and what one that has a new lock puts there stays, as does what an `up` makes ready meanwhile.
    pub(crate) fn remove_runtime(&self) -> Result<(), Error> {
        let lock = self.lock();
        for entry in fs::read_dir(&self.runtime).map_err(Error::io("read", &self.runtime))? {
            let entry = entry.map_err(Error::io("read", &self.runtime))?;
            let path = entry.path();
            if path == lock {
                continue;
            }
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            unless_in_use(&path, if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) })?;
        }
        fs::remove_file(&lock).map_err(Error::io("remove", &lock))?;
        unless_in_use(&self.runtime, fs::remove_dir(&self.runtime))
    }

    /// Removes the data directory, if it is ours. What says so goes last, so that it can be done again after an
    /// interruption.
    pub(crate) fn purge(&self) -> Result<(), Error> {
        if !self.data.exists() {
            return Ok(());
        }
        let marker = self.marker_path();
        if !marker.is_file() && self.holds_anything()? {
            return Err(self.foreign());
        }
        for entry in fs::read_dir(&self.data).map_err(Error::io("read", &self.data))? {
            let path = entry.map_err(Error::io("read", &self.data))?.path();
            if path != marker {
                remove(&path)?;
            }
        }
        remove(&marker)?;
        match fs::remove_dir(&self.data) {
            // Something is mounted there: the place is not ours to remove.
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(()),
            other => other.map_err(Error::io("remove", &self.data)),
        }
    }

    /// A component's program.
    ///
    /// # Errors
    /// It is not installed.
    pub fn component(&self, name: &str) -> Result<PathBuf, Error> {
        let path = self.components.join(name);
        if path.is_file() { Ok(path) } else { Err(Error::NoComponent { path }) }
    }

    /// The image archives to import at every start, the shipped ones first.
    ///
    /// # Errors
    /// A directory cannot be read.
    pub fn image_archives(&self) -> Result<Vec<PathBuf>, Error> {
        let mut archives = Vec::new();
        for directory in [&self.images, &self.imported_images()] {
            let entries = match fs::read_dir(directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(Error::io("read", directory))?,
            };
            let mut found: Vec<PathBuf> = entries
                .filter_map(|entry| entry.ok().map(|entry| entry.path()))
                .filter(|path| path.extension().is_some_and(|extension| extension == "tar"))
                .collect();
            found.sort();
            archives.extend(found);
        }
        Ok(archives)
    }

    /// Where the archives that the user imported are kept.
    #[must_use]
    pub fn imported_images(&self) -> PathBuf {
        self.data.join("images")
    }

    pub(crate) fn pki(&self, file: &str) -> PathBuf {
        self.data.join("pki").join(file)
    }

    pub(crate) fn config(&self, file: &str) -> PathBuf {
        self.data.join("etc").join(file)
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.data.join("store/state.db")
    }

    /// The administrator's kubeconfig.
    #[must_use]
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.config("admin.kubeconfig")
    }

    /// The directory of the components' logs.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.data.join("logs")
    }

    /// A component's log.
    #[must_use]
    pub fn log(&self, component: &str) -> PathBuf {
        self.logs().join(format!("{component}.log"))
    }

    pub(crate) fn record(&self, component: &str) -> PathBuf {
        self.runtime.join("records").join(format!("{component}.json"))
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.runtime.join("lock")
    }

    /// The file that names the data directory of the cluster that runs.
    pub(crate) fn data_dir_note(&self) -> PathBuf {
        self.runtime.join("data-dir")
    }

    /// Made by the kubelet and the controller manager. Not the default, which stays when the cluster goes, nor below
    /// /var/lib/kubelet, which without a node is no file system of the cluster's own.
    pub(crate) fn volume_plugins(&self) -> PathBuf {
        self.runtime.join("volume-plugins")
    }

    pub(crate) fn progress(&self) -> PathBuf {
        self.runtime.join("progress")
    }

    pub(crate) fn options(&self) -> PathBuf {
        self.runtime.join("options.json")
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.runtime.join("journal")
    }

    pub(crate) fn containerd_socket(&self) -> PathBuf {
        self.runtime.join("containerd.sock")
    }

    pub(crate) fn kine_socket(&self) -> PathBuf {
        self.runtime.join("kine.sock")
    }

    pub(crate) fn cni(&self, path: &str) -> PathBuf {
        self.runtime.join("cni").join(path)
    }
}

/// Makes a directory that only its owner may look into.
pub(crate) fn make_private(path: &Path) -> Result<(), Error> {
    let make = DirBuilder::new().recursive(true).mode(0o700).create(path);
    make.map_err(Error::io("make the directory", path))
}

/// What came of a removal, but for another who was quicker or is putting new files there.
fn unless_in_use(path: &Path, removed: io::Result<()>) -> Result<(), Error> {
    match removed {
        Err(error) if !matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotFound) => {
            Err(Error::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Removes a file, or a directory with all that is in it; that it is gone already is fine.
fn remove(path: &Path) -> Result<(), Error> {
    let is_dir = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir());
    match if is_dir { fs::remove_dir_all(path) } else { fs::remove_file(path) } {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// The path without links in as much of it as is there: two names of one directory are the same.
///
/// # Errors
/// It is relative and the working directory is gone.
pub fn resolved(path: &Path) -> Result<PathBuf, Error> {
    let path = std::path::absolute(path).map_err(Error::io("find", path))?;
    let there = path.ancestors().find_map(|ancestor| Some((ancestor, fs::canonicalize(ancestor).ok()?)));
    Ok(there.map_or_else(
        || path.clone(),
        |(ancestor, real)| match path.strip_prefix(ancestor) {
            Ok(rest) if !rest.as_os_str().is_empty() => real.join(rest),
            _ => real,
        },
    ))
}

/// How the names begin of files that are being written.
pub(crate) const TEMPORARY: &str = ".terrarium-";

/// Writes a file that only its owner may read, so that a reader finds all of it or what was there before.
pub(crate) fn write(path: &Path, content: &[u8]) -> Result<(), Error> {
    write_as(path, content, |_| Ok(()))
}

/// As [`write`], for what cannot be made again: it is still there after the machine lost its power.
pub(crate) fn write_durably(path: &Path, content: &[u8]) -> Result<(), Error> {
    write(path, content)?;
    sync_directory_of(path).map_err(Error::io("write", path))
}

/// Makes sure that a file's name is on the disk.
pub(crate) fn sync_directory_of(path: &Path) -> io::Result<()> {
    match fs::File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all() {
        // Some file systems have no such thing (fsync(2)).
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        other => other,
    }
}

/// As [`write`], with the file's owner and mode changed by `dress` before anyone sees it.
pub(crate) fn write_as(
    path: &Path,
    content: &[u8],
    dress: impl FnOnce(&fs::File) -> io::Result<()>,
) -> Result<(), Error> {
    // A name that is nobody else's: beside a file of the user's there may be one with any ending.
    static WRITTEN: AtomicU32 = AtomicU32::new(0);
    let (process, count) = (std::process::id(), WRITTEN.fetch_add(1, Ordering::Relaxed));
    let mut name = OsString::from(format!("{TEMPORARY}{process}-{count}-"));
    name.push(path.file_name().unwrap_or_default());
    let temporary = path.with_file_name(name);
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        dress(&file)?;
        file.sync_data()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|error| {
        let _ = fs::remove_file(&temporary);
        Error::io("write", path)(error)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::ErrorId;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn preparing_makes_private_directories_and_can_be_done_again() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::at(root.path());
        layout.prepare().unwrap();
        fs::write(layout.pki("ca.key"), "kept").unwrap();
        layout.prepare().unwrap();
        assert_eq!(fs::read_to_string(layout.pki("ca.key")).unwrap(), "kept");
        let data = |path| layout.data().join(path);
        for directory in [data(""), data("etc"), data("pki"), layout.runtime().to_owned(), layout.cni("bin")] {
            assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700, "{directory:?}");
        }
    }

    #[test]
    fn directories_above_ours_are_made_for_everybody() {
        let root = tempfile::tempdir().unwrap();
        let usual = root.path().join("usual");
        fs::create_dir(&usual).unwrap();
        Layout::at(&root.path().join("var/lib")).prepare().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&root.path().join("var/lib")), mode(&usual));
    }

    #[test]
    fn a_directory_of_others_is_refused_and_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let layout = Layout::at(root.path());
        fs::create_dir(layout.data()).unwrap();
        fs::write(layout.data().join("thesis.tex"), "").unwrap();
        assert_eq!(layout.prepare().unwrap_err().id(), ErrorId::DataDirForeign);
        assert_eq!(layout.purge().unwrap_err().id(), ErrorId::DataDirForeign);
        assert_eq!(names(layout.data()), ["thesis.tex"]);
    }

    #[test]
    fn many_at_once_prepare_the_same_directory() {
        for _ in 0..100 {
            let root = tempfile::tempdir().unwrap();
            let layout = Layout::at(root.path());
            std::thread::scope(|scope| {
                let all: Vec<_> = (0..4).map(|_| scope.spawn(|| layout.prepare())).collect();
                all.into_iter().for_each(|one| one.join().unwrap().unwrap());
            });
        }
    }

    #[test]
    fn an_interrupted_purge_can_be_done_again() {
        let (_root, layout) = Layout::temporary();
        // All but what says whose it is, and then the rest.
        for directory in ["etc", "images", "logs", "pki"] {
            fs::remove_dir_all(layout.data().join(directory)).unwrap();
        }
        layout.purge().unwrap();
        assert!(!layout.data().exists());
        fs::create_dir(layout.data()).unwrap();
        layout.purge().unwrap();
        assert!(!layout.data().exists());
    }

    #[test]
    fn a_directory_is_the_same_through_a_link() {
        let root = tempfile::tempdir().unwrap();
        let real = fs::canonicalize(root.path()).unwrap().join("real");
        fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, root.path().join("link")).unwrap();
        assert_eq!(resolved(&root.path().join("link")).unwrap(), real);
        assert_eq!(resolved(&root.path().join("link/not/there")).unwrap(), real.join("not/there"));
    }

    #[test]
    fn a_write_that_fails_leaves_nothing_beside_the_file() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("config");
        // A directory cannot be replaced by a file: the rename fails, as it would on a full disk before it.
        fs::create_dir(&target).unwrap();
        assert!(write(&target, b"content").is_err());
        assert_eq!(names(root.path()), ["config"]);
    }

    #[test]
    fn a_write_spares_the_files_beside_it() {
        let root = tempfile::tempdir().unwrap();
        for neighbour in ["config.new", "config.old"] {
            fs::write(root.path().join(neighbour), "somebody's").unwrap();
        }
        write(&root.path().join("config"), b"secret").unwrap();
        assert_eq!(names(root.path()), ["config", "config.new", "config.old"]);
        assert_eq!(fs::read_to_string(root.path().join("config.new")).unwrap(), "somebody's");
        assert_eq!(fs::metadata(root.path().join("config")).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
