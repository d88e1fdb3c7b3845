//! Files below /proc/sys.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

use terrarium_gaps::{SYSCTLS, Sysctl, Tried};

use crate::failure::{Doing as _, Failure};
use crate::overlay::Layers;
use crate::scratch::Scratch;

const PROC_SYS: &str = "/proc/sys";

/// How each sysctl of the table behaves.
pub(crate) fn all() -> BTreeMap<String, Sysctl> {
    SYSCTLS
        .iter()
        .map(|(path, _)| ((*path).to_owned(), behaviour(&Path::new(PROC_SYS).join(path), write_back)))
        .collect()
}

/// A sysctl below net/ipv4. Writing is not tried: in gVisor the files belong to the first network namespace, from wherever
/// they are written, and may read what was there before it was written through another mount of /proc.
pub(crate) fn of_network(name: &str) -> Sysctl {
    behaviour(&Path::new(PROC_SYS).join("net/ipv4").join(name), |file, _| {
        OpenOptions::new().read(true).write(true).open(file).map(drop)
    })
}

/// Opening is not enough: gVisor lets root open what it then refuses to write.
fn write_back(file: &Path, value: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(file)?.write_all(value.as_bytes())
}

fn behaviour(file: &Path, write: impl FnOnce(&Path, &str) -> io::Result<()>) -> Sysctl {
    // One that is there and cannot be read is of no more use than one that is not.
    let Ok(value) = fs::read_to_string(file) else { return Sysctl::Absent };
    match write(file, &value) {
        Ok(()) => Sysctl::Writable,
        Err(_) => Sysctl::ReadOnly(value.trim().to_owned()),
    }
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
        assert_eq!(behaviour(&file, write_back), Sysctl::Absent);
        fs::write(&file, "10\n").unwrap();
        assert_eq!(behaviour(&file, write_back), Sysctl::Writable);
        assert_eq!(fs::read_to_string(&file).unwrap(), "10\n");
        let refused = |_: &Path, _: &str| Err(io::ErrorKind::PermissionDenied.into());
        assert_eq!(behaviour(&file, refused), Sysctl::ReadOnly("10".to_owned()));
    }
}
