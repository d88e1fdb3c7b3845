//! The one layer of an image: the given files, their directories, and what programs expect of any system.
//!
//! It is a plain tar: the images are small and imported from a file on the same machine, so gzip would save nothing and
//! cost an inflate in the sandbox, where CPU time is what is short.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use tar::{Builder, EntryType, Header};

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
        ensure!(target.split('/').all(|part| !matches!(part, "" | "." | "..")), "DST is not a plain path of a file");
        Ok(Self { source: source.into(), target: target.to_owned(), mode })
    }
}

/// What the layer holds at one path.
#[derive(Debug)]
enum Entry {
    Directory { mode: u32 },
    File { mode: u32, content: Vec<u8> },
}

/// Returns the layer, an uncompressed tar, sorted by path and without times. All in it is root's: where a sandbox maps but
/// one user, no other's files can be unpacked.
pub fn build(files: &[AddedFile]) -> Result<Vec<u8>> {
    // A directory is named with a closing slash, which also sorts it before what it holds.
    let mut entries = BTreeMap::from([
        ("etc/".to_owned(), Entry::Directory { mode: 0o755 }),
        ("etc/group".to_owned(), Entry::File { mode: 0o644, content: GROUP.into() }),
        ("etc/passwd".to_owned(), Entry::File { mode: 0o644, content: PASSWD.into() }),
        ("root/".to_owned(), Entry::Directory { mode: 0o700 }),
        ("tmp/".to_owned(), Entry::Directory { mode: 0o1777 }),
    ]);
    for AddedFile { source, target, mode } in files {
        let content = fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
        for (slash, _) in target.match_indices('/') {
            entries.entry(target[..=slash].to_owned()).or_insert(Entry::Directory { mode: 0o755 });
        }
        let earlier = entries.insert(target.clone(), Entry::File { mode: *mode, content });
        ensure!(earlier.is_none(), "/{target} is in the image twice");
    }
    for AddedFile { target, .. } in files {
        ensure!(!entries.contains_key(&format!("{target}/")), "/{target} is both a file and a directory");
    }

    let mut tar = Builder::new(Vec::new());
    for (path, entry) in &entries {
        match entry {
            Entry::Directory { mode } => append(&mut tar, path, EntryType::Directory, *mode, &[]),
            Entry::File { mode, content } => append(&mut tar, path, EntryType::Regular, *mode, content),
        }?;
    }
    Ok(tar.into_inner()?)
}

/// Appends one entry whose header says nothing of the machine it was made on: root's, time 0.
pub fn append(tar: &mut Builder<Vec<u8>>, path: &str, kind: EntryType, mode: u32, content: &[u8]) -> Result<()> {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(content.len() as u64);
    tar.append_data(&mut header, path, content).with_context(|| format!("cannot pack {path}"))
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
        let layer = build(&[file("opt/tool/bin/run"), file("pause")]).unwrap();
        let mut archive = tar::Archive::new(layer.as_slice());
        let listing: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let header = entry.header();
                assert_eq!(header.mtime().unwrap(), 0);
                format!("{:o} {} {}", header.mode().unwrap(), header.uid().unwrap(), entry.path().unwrap().display())
            })
            .collect();
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

        assert!(build(&[file("pause"), file("pause")]).is_err());
        assert!(build(&[file("tmp")]).is_err());
        assert!(build(&[file("pause"), file("pause/more")]).is_err());
    }
}
