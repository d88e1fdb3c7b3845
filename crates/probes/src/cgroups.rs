//! Cgroup hierarchies: what is mounted, what could be, which files are there, and whether they tell the truth.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use terrarium_gaps::{Cgroups, Tried};

use crate::failure::{Doing as _, Failure};
use crate::helper::{HELD, Helper, Part};
use crate::scratch::{Scratch, mount};

const ROOT: &str = "/sys/fs/cgroup";
/// The beginning of the names of the cgroups that a probe makes.
const NAME: &str = "terrarium-probe-";
/// gVisor's controllers.
const CONTROLLERS: &[&str] = &["cpu", "cpuacct", "cpuset", "devices", "job", "memory", "pids"];

/// What cAdvisor reads of version 1 through `github.com/opencontainers/cgroups` v0.0.6, `fs/cpuacct.go` and
/// `fs/memory.go`. Without one of the first three it has no figures at all; `memory.stat` alone may be absent, and then
/// all figures of memory are 0; with it, those after it must be there. Others that it reads may be absent.
const FILES: &[(&str, &[&str])] = &[
    ("cpuacct", &["cpuacct.stat", "cpuacct.usage", "cpuacct.usage_percpu"]),
    (
        "memory",
        &[
            "memory.stat",
            "memory.usage_in_bytes",
            "memory.max_usage_in_bytes",
            "memory.failcnt",
            "memory.limit_in_bytes",
            "memory.use_hierarchy",
        ],
    ),
];

/// What was seen of cgroups.
pub(crate) struct Seen {
    pub cgroups: Cgroups,
    pub missing_files: BTreeSet<String>,
    pub limits: Tried,
}

impl Seen {
    pub fn failed(why: &Failure) -> Self {
        Self {
            cgroups: Cgroups::Unmounted { mountable: Vec::new() },
            missing_files: BTreeSet::new(),
            limits: why.tried(),
        }
    }
}

/// Tries all that.
pub(crate) fn look(scratch: &Scratch) -> Seen {
    let child = Helper::start(Part::Holder);
    let mounted = Mounted::find(Path::new(ROOT), scratch);
    let cgroups = mounted.describe();
    let missing_files = mounted.missing_files();
    let limits = child.and_then(|child| mounted.limits(child)).into();
    Seen { cgroups, missing_files, limits }
}

/// Hierarchies and where they are mounted.
enum Mounted {
    V2(PathBuf),
    V1(Vec<PathBuf>),
    /// By the probe itself, for a moment.
    Here(Vec<PathBuf>),
}

impl Mounted {
    fn find(root: &Path, scratch: &Scratch) -> Self {
        if root.join("cgroup.controllers").exists() {
            return Self::V2(root.to_owned());
        }
        let mut hierarchies: Vec<PathBuf> = root.read_dir().into_iter().flatten().flatten().map(|e| e.path()).collect();
        // In hybrid mode one of them is the unified hierarchy, without controllers.
        hierarchies.retain(|dir| dir.join("cgroup.procs").exists() && !dir.join("cgroup.controllers").exists());
        hierarchies.sort();
        if !hierarchies.is_empty() {
            return Self::V1(hierarchies);
        }
        let mountable = CONTROLLERS.iter().filter_map(|controller| {
            let dir = scratch.dir(&format!("cgroup-{controller}")).ok()?.join(controller);
            fs::create_dir(&dir).ok()?;
            mount("cgroup", &dir, controller).ok()?;
            Some(dir)
        });
        Self::Here(mountable.collect())
    }

    fn hierarchies(&self) -> &[PathBuf] {
        match self {
            Self::V2(root) => std::slice::from_ref(root),
            Self::V1(hierarchies) | Self::Here(hierarchies) => hierarchies,
        }
    }

    fn hierarchy(&self, controller: &str) -> Option<&Path> {
        self.hierarchies().iter().map(PathBuf::as_path).find(|dir| dir.ends_with(controller))
    }

    fn describe(&self) -> Cgroups {
        match self {
            Self::V2(_) => Cgroups::V2(self.make()),
            Self::V1(hierarchies) => Cgroups::V1 { hierarchies: names(hierarchies), make: self.make() },
            Self::Here(hierarchies) => Cgroups::Unmounted { mountable: names(hierarchies) },
        }
    }

    /// Makes a cgroup in each hierarchy.
    fn make(&self) -> Tried {
        self.hierarchies().iter().try_for_each(|hierarchy| Cgroup::make(hierarchy).map(drop)).into()
    }

    /// What is missing in a new cgroup, or in the root one where none can be made. Version 2 lacks nothing.
    fn missing_files(&self) -> BTreeSet<String> {
        if let Self::V2(_) = self {
            return BTreeSet::new();
        }
        let mut missing = BTreeSet::new();
        for (controller, files) in FILES {
            let Some(hierarchy) = self.hierarchy(controller) else { continue };
            let made = Cgroup::make(hierarchy);
            let cgroup = made.as_ref().map_or(hierarchy, |made| &made.0);
            missing.extend(files.iter().filter(|file| !cgroup.join(file).exists()).map(|file| (*file).to_owned()));
        }
        missing
    }

    /// Whether memory that a child holds in a cgroup is seen there, and the freezer exists.
    fn limits(&self, child: Helper) -> Result<(), Failure> {
        let (hierarchy, usage) = match self {
            Self::V2(root) => (Some(root.as_path()), "memory.current"),
            _ => (self.hierarchy("memory"), "memory.usage_in_bytes"),
        };
        let hierarchy = hierarchy.ok_or_else(|| Failure::new("there is no memory controller"))?;
        let cgroup = Cgroup::make(hierarchy)?;
        if let Self::V2(root) = self {
            let controllers = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
            if !controllers.split_whitespace().any(|controller| controller == "memory") {
                return Err(Failure::new("there is no memory controller"));
            }
            if !cgroup.0.join("cgroup.freeze").exists() {
                return Err(Failure::new("there is no freezer"));
            }
            // Whoever makes cgroups turns the controller on below the root; a probe does not.
            if !cgroup.0.join(usage).exists() {
                return Ok(());
            }
        }
        held_memory_is_seen(&cgroup, usage, child)?;
        match self {
            Self::V1(_) | Self::Here(_) if self.hierarchy("freezer").is_none() => {
                Err(Failure::new("there is no freezer"))
            }
            _ => Ok(()),
        }
    }
}

fn held_memory_is_seen(cgroup: &Cgroup, usage: &str, mut child: Helper) -> Result<(), Failure> {
    let procs = cgroup.0.join("cgroup.procs");
    fs::write(procs, child.pid().to_string()).doing("move a process to a memory cgroup")?;
    child.say("hold")?;
    child.hear()?;
    let used = fs::read_to_string(cgroup.0.join(usage)).doing(&format!("read {usage}"))?;
    // Half of what is held: kernels count pages, and some of them late.
    if used.trim().parse::<usize>().is_ok_and(|used| used >= HELD / 2) {
        Ok(())
    } else {
        Err(Failure::new(format!("{usage} does not show what a process holds")))
    }
}

fn names(hierarchies: &[PathBuf]) -> Vec<String> {
    hierarchies.iter().filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect()
}

/// A cgroup that is removed when it goes out of scope: in gVisor it would outlast its mount.
struct Cgroup(PathBuf);

impl Cgroup {
    fn make(hierarchy: &Path) -> Result<Self, Failure> {
        sweep(hierarchy);
        let path = hierarchy.join(format!("{NAME}{}", std::process::id()));
        let name = hierarchy.file_name().unwrap_or_default().to_string_lossy();
        fs::create_dir(&path).doing(&format!("make a cgroup in {name}"))?;
        Ok(Self(path))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The child that was in it is gone, but not at once for every kernel.
        for _ in 0..50 {
            match fs::remove_dir(&self.0) {
                Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                    thread::sleep(std::time::Duration::from_millis(1));
                }
                _ => break,
            }
        }
    }
}

/// Removes what killed probes left; one with processes in it, which is in use, the kernel keeps.
fn sweep(hierarchy: &Path) {
    for entry in hierarchy.read_dir().into_iter().flatten().flatten() {
        let name = entry.file_name();
        let of = name.to_str().and_then(|name| name.strip_prefix(NAME)).and_then(|pid| pid.parse::<u32>().ok());
        if of.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hierarchy(files: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for file in files {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        root
    }

    fn find(root: &Path) -> Cgroups {
        Mounted::find(root, &Scratch::none(Failure::new("none"))).describe()
    }

    #[test]
    fn hierarchies_are_told_by_their_files() {
        let v2 = hierarchy(&["cgroup.controllers", "cgroup.procs"]);
        assert_eq!(find(v2.path()), Cgroups::V2(Tried::Works));

        let hybrid = hierarchy(&["pids/cgroup.procs", "cpu/cgroup.procs", "unified/cgroup.procs", "none/notes"]);
        fs::write(hybrid.path().join("unified/cgroup.controllers"), "").unwrap();
        let hierarchies = vec!["cpu".to_owned(), "pids".to_owned()];
        assert_eq!(find(hybrid.path()), Cgroups::V1 { hierarchies, make: Tried::Works });
        assert_eq!(hybrid.path().join("cpu").read_dir().unwrap().count(), 1, "the cgroup is removed");

        let nothing = Cgroups::Unmounted { mountable: Vec::new() };
        assert_eq!(find(hierarchy(&[]).path()), nothing);
        assert_eq!(find(Path::new("/nonexistent")), nothing);
    }

    #[test]
    fn leftovers_of_the_dead_go() {
        let root = tempfile::tempdir().unwrap();
        let (dead, alive) = (format!("{NAME}{}", u32::MAX), format!("{NAME}{}", std::process::id()));
        for name in [&dead, &alive, "terrarium"] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        sweep(root.path());
        let mut left: Vec<_> = root.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["terrarium", alive.as_str()]);
    }
}
