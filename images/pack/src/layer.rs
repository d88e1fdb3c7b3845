//! The one layer of an image: the given files, their directories, what given tars hold, and what programs expect of any
//! system.
//!
//! It is a plain tar: the images are small and imported from a file on the same machine, so gzip would save nothing and
//! cost an inflate in the sandbox, where CPU time is what is short.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use tar::{Archive, Builder, EntryType, Header};

const PASSWD: &str = "root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/tmp:/sbin/nologin\n";
const GROUP: &str = "root:x:0:\nnonroot:x:65532:\n";

/// A file to put into the layer: `SRC:DST[:MODE]`.
#[derive(Clone, Debug, PartialEq)]
pub struct AddedFile {
    source: PathBuf,
    /// In the image, without the leading slash, as tar entries are named.
    target: String,
    mode: u32,
}

impl FromStr for AddedFile {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut parts = text.split(':');
        let (Some(source), Some(target), mode, None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            bail!("not of the form SRC:DST[:MODE]");
        };
        let mode = mode.unwrap_or("755");
        let mode = u32::from_str_radix(mode, 8).ok().filter(|&mode| mode <= 0o7777).context("the mode is not octal")?;
        let target = target.strip_prefix('/').context("DST is not absolute")?;
        ensure!(is_plain(target), "DST is not a plain path of a file");
        Ok(Self { source: source.into(), target: target.to_owned(), mode })
    }
}

/// What the layer holds at one path.
#[derive(Debug)]
enum Entry {
    Directory { mode: u32 },
    File { mode: u32, content: Vec<u8> },
    Link { to: PathBuf },
}

/// What the layer holds, by path. A directory is named with a closing slash, which also sorts it before what it holds.
#[derive(Default)]
struct Tree(BTreeMap<String, Entry>);

impl Tree {
    /// A file or link, once, and the directories that it needs.
    fn insert(&mut self, target: &str, entry: Entry) -> Result<()> {
        self.parents(target);
        ensure!(self.0.insert(target.to_owned(), entry).is_none(), "/{target} is in the image twice");
        Ok(())
    }

    fn parents(&mut self, target: &str) {
        for (slash, _) in target.trim_end_matches('/').match_indices('/') {
            self.0.entry(target[..=slash].to_owned()).or_insert(Entry::Directory { mode: 0o755 });
        }
    }

    /// What the tar at `path` holds. Of its headers only kind and mode count, as with all that is in an image.
    fn add_tar(&mut self, path: &Path) -> Result<()> {
        let mut archive = Archive::new(File::open(path)?);
        for entry in archive.entries()? {
            let mut entry = entry?;
            let name = entry.path()?.to_str().context("a name in it is not UTF-8")?.to_owned();
            let target = name.trim_start_matches("./").trim_end_matches('/');
            if matches!(target, "" | ".") {
                continue;
            }
            ensure!(is_plain(target), "{name} is not a plain path");
            let mode = entry.header().mode()? & 0o7777;
            match entry.header().entry_type() {
                EntryType::Directory => {
                    self.parents(target);
                    self.0.insert(format!("{target}/"), Entry::Directory { mode });
                }
                EntryType::Regular => {
                    let mut content = Vec::new();
                    entry.read_to_end(&mut content)?;
                    self.insert(target, Entry::File { mode, content })?;
                }
                EntryType::Symlink => {
                    let to = entry.link_name()?.context("a link leads nowhere")?.into_owned();
                    self.insert(target, Entry::Link { to })?;
                }
                other => bail!("{name} is neither file, directory nor symbolic link, but {other:?}"),
            }
        }
        Ok(())
    }

    /// What programs expect, where nothing else is in its place.
    fn add_defaults(&mut self) {
        for (target, entry) in [
            ("etc/", Entry::Directory { mode: 0o755 }),
            ("etc/group", Entry::File { mode: 0o644, content: GROUP.into() }),
            ("etc/passwd", Entry::File { mode: 0o644, content: PASSWD.into() }),
            ("root/", Entry::Directory { mode: 0o700 }),
            ("tmp/", Entry::Directory { mode: 0o1777 }),
        ] {
            self.0.entry(target.to_owned()).or_insert(entry);
        }
    }

    fn write(&self) -> Result<Vec<u8>> {
        let mut tar = Builder::new(Vec::new());
        for (path, entry) in &self.0 {
            ensure!(!self.0.contains_key(&format!("{path}/")), "/{path} is both a directory and something else");
            match entry {
                Entry::Directory { mode } => append(&mut tar, path, EntryType::Directory, *mode, &[]),
                Entry::File { mode, content } => append(&mut tar, path, EntryType::Regular, *mode, content),
                Entry::Link { to } => append_link(&mut tar, path, to),
            }?;
        }
        Ok(tar.into_inner()?)
    }
}

/// Returns the layer, an uncompressed tar, sorted by path and without times. All in it is root's: where a sandbox maps but
/// one user, no other's files can be unpacked.
pub fn build(files: &[AddedFile], tars: &[PathBuf]) -> Result<Vec<u8>> {
    let mut tree = Tree::default();
    for AddedFile { source, target, mode } in files {
        let content = fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
        tree.insert(target, Entry::File { mode: *mode, content })?;
    }
    for tar in tars {
        tree.add_tar(tar).with_context(|| format!("cannot take {}", tar.display()))?;
    }
    tree.add_defaults();
    tree.write()
}

fn is_plain(target: &str) -> bool {
    target.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// Appends one entry whose header says nothing of the machine it was made on: root's, time 0.
pub fn append(tar: &mut Builder<Vec<u8>>, path: &str, kind: EntryType, mode: u32, content: &[u8]) -> Result<()> {
    let mut header = header(kind, mode, content.len() as u64);
    tar.append_data(&mut header, path, content).with_context(|| format!("cannot pack {path}"))
}

fn append_link(tar: &mut Builder<Vec<u8>>, path: &str, to: &Path) -> Result<()> {
    let mut header = header(EntryType::Symlink, 0o777, 0);
    tar.append_link(&mut header, path, to).with_context(|| format!("cannot pack {path}"))
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_files() {
        let file = AddedFile { source: "out/pause".into(), target: "bin/pause".into(), mode: 0o755 };
        assert_eq!("out/pause:/bin/pause".parse::<AddedFile>().unwrap(), file);
        assert_eq!("out/pause:/bin/pause:644".parse::<AddedFile>().unwrap(), AddedFile { mode: 0o644, ..file });
        for wrong in ["a", "a:b", "a:/b:9", "a:/b:77777", "a:/b:755:c", "a:/", "a:/b/", "a:/../b"] {
            assert!(wrong.parse::<AddedFile>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn holds_directories_before_their_files() {
        let source = tempfile::NamedTempFile::new().unwrap();
        let file = |target: &str| AddedFile { source: source.path().into(), target: target.into(), mode: 0o755 };
        let listing = listing(&build(&[file("opt/tool/bin/run"), file("pause")], &[]).unwrap());
        let expected = [
            "755 0 etc/",
            "644 0 etc/group",
            "644 0 etc/passwd",
            "755 0 opt/",
            "755 0 opt/tool/",
            "755 0 opt/tool/bin/",
            "755 0 opt/tool/bin/run",
            "755 0 pause",
            "700 0 root/",
            "1777 0 tmp/",
        ];
        assert_eq!(listing, expected);

        assert!(build(&[file("pause"), file("pause")], &[]).is_err());
        assert!(build(&[file("tmp")], &[]).is_err());
        assert!(build(&[file("pause"), file("pause/more")], &[]).is_err());
    }

    #[test]
    fn takes_directories_files_and_links_of_a_tar() {
        let mut tree = Builder::new(Vec::new());
        let mut owned = header(EntryType::Regular, 0o644, 1);
        owned.set_uid(1000);
        owned.set_mtime(1);
        append(&mut tree, "./", EntryType::Directory, 0o755, &[]).unwrap();
        append(&mut tree, "uploads/", EntryType::Directory, 0o700, &[]).unwrap();
        append_link(&mut tree, "bin/sh", Path::new("/bin/busybox")).unwrap();
        tree.append_data(&mut owned, "etc/passwd", &b"x"[..]).unwrap();
        let file = written(&tree.into_inner().unwrap());
        let expected = [
            "755 0 bin/",
            "777 0 bin/sh -> /bin/busybox",
            "755 0 etc/",
            "644 0 etc/group",
            "644 0 etc/passwd",
            "700 0 root/",
            "1777 0 tmp/",
            "700 0 uploads/",
        ];
        assert_eq!(listing(&build(&[], &[file.path().into()]).unwrap()), expected);
        assert!(build(&[], &[file.path().into(), file.path().into()]).is_err(), "twice the same");
    }

    #[test]
    fn refuses_what_an_image_should_not_hold() {
        let mut tree = Builder::new(Vec::new());
        append(&mut tree, "dev/null", EntryType::Char, 0o666, &[]).unwrap();
        let device = written(&tree.into_inner().unwrap());
        assert!(build(&[], &[device.path().into()]).is_err());

        let mut outside = header(EntryType::Regular, 0o644, 0);
        outside.as_mut_bytes()[..4].copy_from_slice(b"../x");
        outside.set_cksum();
        let outside = written(outside.as_bytes());
        assert!(build(&[], &[outside.path().into()]).is_err());
    }

    fn written(content: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), content).unwrap();
        file
    }

    fn listing(layer: &[u8]) -> Vec<String> {
        let mut archive = Archive::new(layer);
        let line = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
            let entry = entry.unwrap();
            let header = entry.header();
            assert_eq!(header.mtime().unwrap(), 0);
            let link = entry.link_name().unwrap().map(|to| format!(" -> {}", to.display())).unwrap_or_default();
            let path = entry.path().unwrap();
            format!("{:o} {} {}{link}", header.mode().unwrap(), header.uid().unwrap(), path.display())
        };
        archive.entries().unwrap().map(line).collect()
    }
}
