//! A container's root file system: what containerd asks the shim to mount below its bundle.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use containerd_shim::mount::umount_recursive;
use containerd_shim::protos::types::mount::Mount;
use nix::mount::{MntFlags, MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::chdir;

use crate::error::Error;

/// What mount(2) takes of options: a page, with its end.
const OPTIONS_LIMIT: usize = 4096 - 1;

/// Mounts all, one upon the other, on `rootfs`; undone if one fails.
pub fn mount_all(mounts: &[Mount], rootfs: &Path) -> Result<(), Error> {
    let result = mounts.iter().try_for_each(|entry| {
        let target = rootfs.join(entry.target.trim_start_matches('/'));
        mount_one(entry, &target)
    });
    if result.is_err() {
        // The first error is the one to tell.
        let _ = unmount_all(rootfs);
    }
    result
}

/// Unmounts whatever is mounted on `rootfs` and below. What is busy for a moment is asked for again, and let go of lazily in
/// the end.
pub fn unmount_all(rootfs: &Path) -> Result<(), Error> {
    let target = rootfs.to_string_lossy();
    for _ in 0..10 {
        if umount_recursive(Some(&target), 0).is_ok() {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(20));
    }
    let lazily = umount_recursive(Some(&target), MntFlags::MNT_DETACH.bits());
    lazily.map_err(|error| Error::io("unmount", rootfs)(io::Error::other(error.to_string())))
}

fn mount_one(entry: &Mount, target: &Path) -> Result<(), Error> {
    let (flags, data) = options(&entry.options);
    let (directory, data) = if data.len() > OPTIONS_LIMIT { shorten(&data) } else { (None, data) };
    let (source, kind) = (entry.source.clone(), entry.type_.clone());
    let (there, failed) = (target.to_owned(), Error::io::<io::Error>("mount the root file system on", target));
    let task = move || -> nix::Result<()> {
        if let Some(directory) = directory {
            // The working directory is this thread's alone from here.
            unshare(CloneFlags::CLONE_FS)?;
            chdir(&directory)?;
        }
        mount(Some(source.as_str()), &there, Some(kind.as_str()), flags, Some(data.as_str()))?;
        let read_only = MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        if flags.contains(read_only) {
            mount(None::<&str>, &there, None::<&str>, flags | MsFlags::MS_REMOUNT, None::<&str>)?;
        }
        Ok(())
    };
    thread::spawn(task).join().expect("mounting does not panic").map_err(|errno| failed(errno.into()))
}

/// Options of mount(8) as mount(2) has them: flags, and what is the file system's own.
fn options(options: &[String]) -> (MsFlags, String) {
    let mut flags = MsFlags::empty();
    let mut data: Vec<&str> = Vec::new();
    for option in options {
        match option.as_str() {
            "defaults" => {}
            "ro" => flags |= MsFlags::MS_RDONLY,
            "rw" => flags -= MsFlags::MS_RDONLY,
            "bind" => flags |= MsFlags::MS_BIND,
            "rbind" => flags |= MsFlags::MS_BIND | MsFlags::MS_REC,
            "nosuid" => flags |= MsFlags::MS_NOSUID,
            "suid" => flags -= MsFlags::MS_NOSUID,
            "nodev" => flags |= MsFlags::MS_NODEV,
            "dev" => flags -= MsFlags::MS_NODEV,
            "noexec" => flags |= MsFlags::MS_NOEXEC,
            "exec" => flags -= MsFlags::MS_NOEXEC,
            "noatime" => flags |= MsFlags::MS_NOATIME,
            "relatime" => flags |= MsFlags::MS_RELATIME,
            "sync" => flags |= MsFlags::MS_SYNCHRONOUS,
            other => data.push(other),
        }
    }
    (flags, data.join(","))
}

/// Makes the options of an overlay with many layers fit: those layers that lie below one directory are named relative to it.
/// Answers that directory, which has to be the working directory of whoever mounts.
fn shorten(data: &str) -> (Option<PathBuf>, String) {
    let Some(layers) = data.split(',').find_map(|option| option.strip_prefix("lowerdir=")) else {
        return (None, data.to_owned());
    };
    let layers: Vec<&Path> = layers.split(':').map(Path::new).collect();
    let common = layers.iter().skip(1).fold(layers[0].to_owned(), |common, layer| {
        common.ancestors().find(|ancestor| layer.starts_with(ancestor)).unwrap_or(Path::new("/")).to_owned()
    });
    let Some(relative) = layers
        .iter()
        .map(|layer| layer.strip_prefix(&common).ok().and_then(Path::to_str).filter(|layer| !layer.is_empty()))
        .collect::<Option<Vec<&str>>>()
    else {
        return (None, data.to_owned());
    };
    let short = format!("lowerdir={}", relative.join(":"));
    let options: Vec<&str> =
        data.split(',').map(|option| if option.starts_with("lowerdir=") { short.as_str() } else { option }).collect();
    (Some(common), options.join(","))
}

/// Makes the directory that a root file system is mounted on.
pub fn make_directory(rootfs: &Path) -> Result<(), Error> {
    match fs::create_dir(rootfs) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(Error::io("create", rootfs)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_become_flags_or_data() {
        let given = ["rbind", "ro", "index=off", "rw", "nosuid", "workdir=/w"].map(str::to_owned);
        let (flags, data) = options(&given);
        assert_eq!(flags, MsFlags::MS_BIND | MsFlags::MS_REC | MsFlags::MS_NOSUID);
        assert_eq!(data, "index=off,workdir=/w");
    }

    #[test]
    fn many_layers_fit() {
        let layers: Vec<String> =
            (1..=100).map(|layer| format!("/var/lib/containerd/overlayfs/snapshots/{layer}/fs")).collect();
        let data = format!("workdir=/var/lib/w,upperdir=/var/lib/u,lowerdir={}", layers.join(":"));
        assert!(data.len() > OPTIONS_LIMIT);
        let (directory, short) = shorten(&data);
        assert_eq!(directory.unwrap(), Path::new("/var/lib/containerd/overlayfs/snapshots"));
        assert!(short.starts_with("workdir=/var/lib/w,upperdir=/var/lib/u,lowerdir=1/fs:2/fs:"), "{short}");
        assert!(short.ends_with(":99/fs:100/fs") && short.len() < OPTIONS_LIMIT, "{short}");
    }

    #[test]
    fn layers_that_have_nothing_in_common_stay() {
        let data = "lowerdir=/a:/a/b";
        assert_eq!(shorten(data), (None, data.to_owned()));
        assert_eq!(shorten("size=5"), (None, "size=5".to_owned()));
    }
}
