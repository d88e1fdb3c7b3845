use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use serde_json::json;
use tar::Header;

use super::*;
use crate::{Error, ErrorId};

/// Appends an entry as it is told, also one that no honest program writes.
fn append(archive: &mut tar::Builder<Vec<u8>>, kind: EntryType, path: &str, link: &str, content: &[u8]) {
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    archive.append(&header, content).unwrap();
}

pub(crate) fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in files {
        append(&mut archive, EntryType::Regular, name, "", content);
    }
    archive.into_inner().unwrap()
}

pub(crate) fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn descriptor(content: &[u8]) -> Value {
    json!({"digest": format!("sha256:{}", hex(&Sha256::digest(content))), "size": content.len()})
}

fn blob_name(content: &[u8]) -> String {
    format!("blobs/sha256/{}", hex(&Sha256::digest(content)))
}

const LAYER: &[u8] = &[7; 20_000];
const CONFIG: &[u8] = b"{\"os\":\"linux\"}";

/// The files of an OCI image layout.
fn files() -> Vec<(String, Vec<u8>)> {
    let manifest = json!({"config": descriptor(CONFIG), "layers": [descriptor(LAYER)]}).to_string().into_bytes();
    let index = json!({"manifests": [descriptor(&manifest)]}).to_string().into_bytes();
    vec![
        ("oci-layout".to_owned(), b"{\"imageLayoutVersion\":\"1.0.0\"}".to_vec()),
        ("index.json".to_owned(), index),
        (blob_name(&manifest), manifest),
        (blob_name(CONFIG), CONFIG.to_vec()),
        (blob_name(LAYER), LAYER.to_vec()),
    ]
}

fn tar_of_owned(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    tar_of(&files.iter().map(|(name, content)| (name.as_str(), content.as_slice())).collect::<Vec<_>>())
}

/// An OCI image layout as a tar file.
pub(crate) fn image() -> Vec<u8> {
    tar_of_owned(&files())
}

/// An OCI image layout with one entry more.
fn image_and(kind: EntryType, path: &str, link: &str) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    append(&mut archive, kind, path, link, b"");
    for (name, content) in files() {
        append(&mut archive, EntryType::Regular, &name, "", &content);
    }
    archive.into_inner().unwrap()
}

fn checked(content: &[u8], room: u64) -> Result<(), ImageFault> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    file.rewind().unwrap();
    check(&mut file, room, &mut |_| {})
}

#[track_caller]
fn refused(content: &[u8]) -> ErrorId {
    let fault = checked(content, u64::MAX).expect_err("it is taken for an image");
    assert!(!fault.to_string().contains("secret"), "what is in a file is nobody's business: {fault}");
    Error::Image { path: "x".into(), fault }.id()
}

#[test]
fn images_of_both_layouts_are_taken_plain_and_compressed() {
    let docker = json!([{"Config": "aa.json", "Layers": ["bb/layer.tar", "cc/layer.tar"], "RepoTags": ["x:1"]}]);
    let docker = docker.to_string().into_bytes();
    let mut archive = tar::Builder::new(Vec::new());
    append(&mut archive, EntryType::Directory, "bb/", "", b"");
    append(&mut archive, EntryType::Regular, "./bb/layer.tar", "", LAYER);
    // As `docker save` writes a layer that an image has twice.
    append(&mut archive, EntryType::Symlink, "cc/layer.tar", "../bb/layer.tar", b"");
    append(&mut archive, EntryType::Regular, "aa.json", "", CONFIG);
    append(&mut archive, EntryType::Regular, "./manifest.json", "", &docker);
    let docker = archive.into_inner().unwrap();
    for archive in [image(), docker] {
        checked(&archive, u64::MAX).unwrap();
        checked(&gzip(&archive), u64::MAX).unwrap();
    }
}

#[test]
fn what_is_no_image_archive_is_told() {
    for content in [
        Vec::new(),
        b"a secret\n".to_vec(),
        vec![b'a'; 4096],
        tar_of(&[("etc/passwd", b"secret"), ("sub/index.json", b"{}")]),
        tar_of(&[("index.json", b"secret")]),
        tar_of(&[("index.json", b"{}")]),
        tar_of(&[("index.json", b"{\"manifests\":[{}]}")]),
        tar_of(&[("manifest.json", b"[]")]),
        tar_of(&[("manifest.json", b"[{\"Config\":1}]")]),
        gzip(b"a secret"),
    ] {
        assert_eq!(refused(&content), ErrorId::ImageFormat);
    }
}

#[test]
fn what_leads_out_is_unsafe() {
    for (kind, path, link) in [
        (EntryType::Regular, "../etc/cron.d/x", ""),
        (EntryType::Regular, "blobs/../../x", ""),
        (EntryType::Regular, "/etc/passwd", ""),
        (EntryType::Directory, "..", ""),
        (EntryType::Symlink, "x", "/etc/passwd"),
        (EntryType::Symlink, "a/x", "../../etc/passwd"),
        (EntryType::Symlink, "x", "a/../../y"),
        (EntryType::Link, "a/x", "../etc/passwd"),
        (EntryType::Link, "x", "/etc/passwd"),
        (EntryType::Char, "x", ""),
        (EntryType::Block, "x", ""),
        (EntryType::Fifo, "x", ""),
        (EntryType::GNUSparse, "x", ""),
        (EntryType::new(b'V'), "x", ""),
    ] {
        let archive = image_and(kind, path, link);
        assert_eq!(refused(&archive), ErrorId::ImageUnsafe, "{kind:?} {path} {link}");
        assert_eq!(refused(&gzip(&archive)), ErrorId::ImageUnsafe);
    }
    for (kind, path, link) in [
        (EntryType::Symlink, "a/x", "../oci-layout"),
        (EntryType::Link, "a/x", "oci-layout"),
        (EntryType::Regular, "a/../x", ""),
    ] {
        checked(&image_and(kind, path, link), u64::MAX).unwrap();
    }
}

#[test]
fn a_long_name_leads_out_no_less() {
    let long = format!("../{}", "x/".repeat(200));
    let mut archive = tar::Builder::new(Vec::new());
    append(&mut archive, EntryType::GNULongName, "././@LongLink", "", long.as_bytes());
    append(&mut archive, EntryType::Regular, "harmless", "", b"");
    assert_eq!(refused(&archive.into_inner().unwrap()), ErrorId::ImageUnsafe);

    let mut archive = tar::Builder::new(Vec::new());
    append(&mut archive, EntryType::XHeader, "pax", "", b"24 linkpath=/etc/passwd\n");
    append(&mut archive, EntryType::Symlink, "harmless", "oci-layout", b"");
    assert_eq!(refused(&archive.into_inner().unwrap()), ErrorId::ImageUnsafe);
}

#[test]
fn a_blob_is_what_its_name_says() {
    for which in 2..5 {
        let mut files = files();
        files[which].1[0] ^= 1;
        assert_eq!(refused(&tar_of_owned(&files)), ErrorId::ImageDigest);
    }
    let named_badly = [("blobs/sha256/beef", &b"x"[..]), ("index.json", b"{}")];
    assert_eq!(refused(&tar_of(&named_badly)), ErrorId::ImageDigest);
}

#[test]
fn what_an_image_is_made_of_is_there() {
    for which in 2..5 {
        let mut files = files();
        files.remove(which);
        assert_eq!(refused(&tar_of_owned(&files)), ErrorId::ImageTruncated);
    }
    let docker = b"[{\"Config\":\"a.json\",\"Layers\":[]}]";
    assert_eq!(refused(&tar_of(&[("manifest.json", docker)])), ErrorId::ImageTruncated);
}

#[test]
fn a_bomb_is_not_unpacked_to_its_end() {
    // Two GiB of nothing, in 2 MiB.
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    let mut archive = tar::Builder::new(Vec::new());
    append(&mut archive, EntryType::Regular, "oci-layout", "", b"{}");
    encoder.write_all(&archive.into_inner().unwrap()[..1024]).unwrap();
    let mut header = Header::new_gnu();
    header.set_path("zeros").unwrap();
    header.set_size(2 << 30);
    header.set_entry_type(EntryType::Regular);
    header.set_cksum();
    encoder.write_all(header.as_bytes()).unwrap();
    for _ in 0..80 {
        encoder.write_all(&vec![0; 1 << 20]).unwrap();
    }
    let bomb = encoder.finish().unwrap();
    assert!(bomb.len() < 1 << 20);
    assert_eq!(refused(&bomb), ErrorId::ImageTooLarge);

    let mut archive = tar::Builder::new(Vec::new());
    for _ in 0..=ENTRIES {
        append(&mut archive, EntryType::Directory, "d", "", b"");
    }
    assert_eq!(refused(&archive.into_inner().unwrap()), ErrorId::ImageTooLarge);

    let mut archive = tar::Builder::new(Vec::new());
    append(&mut archive, EntryType::GNULongName, "././@LongLink", "", &vec![b'x'; 5 << 20]);
    assert_eq!(refused(&archive.into_inner().unwrap()), ErrorId::ImageTooLarge);

    let fault = checked(&image(), 4096).unwrap_err();
    assert!(matches!(&fault, ImageFault::TooLarge(why) if why.contains("memory")), "{fault}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// An archive that ends anywhere is refused, unless only the end mark is missing.
    #[test]
    fn an_archive_cut_off_anywhere_is_refused(cut in any::<prop::sample::Index>(), compressed in any::<bool>()) {
        let whole = image();
        let (archive, enough) =
            if compressed { (gzip(&whole), gzip(&whole).len()) } else { (whole.clone(), whole.len() - 1024) };
        let cut = cut.index(archive.len());
        prop_assert!(checked(&archive[..cut], u64::MAX).is_err() || cut >= enough, "{} of {}", cut, enough);
    }

    /// A flipped bit is refused, or changes nothing that matters: it never gets through as another image.
    #[test]
    fn no_blob_changes_unseen(at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let whole = image();
        let mut changed = whole.clone();
        let at = at.index(whole.len());
        changed[at] ^= 1_u8 << bit;
        if checked(&changed, u64::MAX).is_ok() {
            // What is beside the blobs: padding, owners, times.
            for (_, content) in files().iter().skip(2) {
                prop_assert!(changed.windows(content.len()).any(|window| window == content));
            }
        }
    }
}
