//! Files below /proc/sys.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::path::Path;

use terrarium_gaps::{SYSCTLS, Sysctl, Tried};

use crate::failure::{Doing as _, Failure};
use crate::overlay::Layers;
use crate::scratch::Scratch;

const PROC_SYS: &str = "/proc/sys";

/// How each sysctl of the table behaves.
pub(crate) fn all() -> BTreeMap<String, Sysctl> {
    SYSCTLS.iter().map(|(path, _)| ((*path).to_owned(), behaviour(path))).collect()
}

/// How one behaves, by its path below /proc/sys. Nothing is written.
pub(crate) fn behaviour(path: &str) -> Sysctl {
    behaviour_of(&Path::new(PROC_SYS).join(path))
}

fn behaviour_of(file: &Path) -> Sysctl {
    if OpenOptions::new().read(true).write(true).open(file).is_ok() {
        return Sysctl::Writable;
    }
    // One that is there and cannot be read is of no more use than one that is not.
    fs::read_to_string(file).map_or(Sysctl::Absent, |value| Sysctl::ReadOnly(value.trim().to_owned()))
}

/// Whether the file is there.
pub(crate) fn exists(path: &str) -> bool {
    Path::new(PROC_SYS).join(path).exists()
}

/// An overlay over a directory of /proc/sys: what it has can still be read, and what it lacks can be added.
pub(crate) fn overlay(scratch: &Scratch) -> Tried {
    let try_it = || -> Result<(), Failure> {
        let lower = Path::new(PROC_SYS).join("kernel");
        let layers = Layers::make(&scratch.dir("sysctl")?)?;
        fs::write(layers.upper.join("terrarium-probe"), "1\n").doing("write a file of the upper layer")?;
        layers.mount_over(&lower)?;
        for file in ["terrarium-probe", "hostname"] {
            fs::read_to_string(layers.merged.join(file)).doing(&format!("read {file} through the overlay"))?;
        }
        fs::write(layers.merged.join("terrarium-probe"), "2\n").doing("write through the overlay")
    };
    try_it().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sysctl_is_absent_read_only_or_writable() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("panic");
        assert_eq!(behaviour_of(&file), Sysctl::Absent);
        fs::write(&file, "10\n").unwrap();
        assert_eq!(behaviour_of(&file), Sysctl::Writable);
        // A file that not even root can write.
        assert!(
            matches!(behaviour_of(Path::new("/proc/self/stat")), Sysctl::ReadOnly(value) if !value.ends_with('\n'))
        );
    }
}
