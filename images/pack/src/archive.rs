//! The archive around the layer: configuration, manifest, index, and the blobs under their digests.

use std::str::FromStr;

use anyhow::{Context, Result};
use oci_spec::image::{
    ANNOTATION_REF_NAME, Arch, Config, ConfigBuilder, Descriptor, DescriptorBuilder, HistoryBuilder,
    ImageConfigurationBuilder, ImageIndexBuilder, ImageManifestBuilder, MediaType, OciLayoutBuilder, Os,
    PlatformBuilder, RootFsBuilder, Sha256Digest,
};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType};

use crate::layer::append;

/// Where containerd looks for an image's full name; `org.opencontainers.image.ref.name` is for the tag alone.
const ANNOTATION_CONTAINERD_NAME: &str = "io.containerd.image.name";
/// Nothing in an image may depend on when it was made.
const EPOCH: &str = "1970-01-01T00:00:00Z";

/// An image's name with its tag. Only what this project needs is checked: that there is a tag.
#[derive(Clone, Debug)]
pub struct Name {
    full: String,
    tag: String,
}

impl FromStr for Name {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (repository, tag) = text.rsplit_once(':').context("it has no tag")?;
        anyhow::ensure!(
            repository.contains('/') && !repository.contains(char::is_whitespace),
            "it names no registry, as in localhost/pause:1.0"
        );
        anyhow::ensure!(!tag.is_empty() && !tag.contains(['/', '@']), "it has no tag");
        Ok(Self { full: text.to_owned(), tag: tag.to_owned() })
    }
}

/// What an image says about itself.
#[derive(Debug)]
pub struct Image {
    pub name: Name,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub user: Option<String>,
    pub env: Vec<String>,
}

impl Image {
    fn config(&self) -> Result<Config> {
        let mut config = ConfigBuilder::default().entrypoint(self.entrypoint.clone()).working_dir("/");
        // What is absent is left out rather than empty, as other builders do.
        if !self.cmd.is_empty() {
            config = config.cmd(self.cmd.clone());
        }
        if !self.env.is_empty() {
            config = config.env(self.env.clone());
        }
        if let Some(user) = &self.user {
            config = config.user(user.clone());
        }
        Ok(config.build()?)
    }
}

/// Returns the archive of an image with this one layer, an uncompressed tar.
pub fn build(image: &Image, layer: Vec<u8>) -> Result<Vec<u8>> {
    let layer = Blob::new(MediaType::ImageLayer, layer)?;
    let config = ImageConfigurationBuilder::default()
        .created(EPOCH)
        .architecture(Arch::default())
        .os(Os::Linux)
        .config(image.config()?)
        // The layer is not compressed: its digest is that of its content.
        .rootfs(RootFsBuilder::default().typ("layers").diff_ids(vec![layer.descriptor.digest().to_string()]).build()?)
        .history(vec![HistoryBuilder::default().created(EPOCH).created_by("terrarium pack-image").build()?])
        .build()?;
    let config = Blob::new(MediaType::ImageConfig, json(&config)?)?;
    let manifest = ImageManifestBuilder::default()
        .schema_version(2u32)
        .media_type(MediaType::ImageManifest)
        .config(config.descriptor.clone())
        .layers(vec![layer.descriptor.clone()])
        .build()?;
    let mut manifest = Blob::new(MediaType::ImageManifest, json(&manifest)?)?;
    manifest
        .descriptor
        .set_platform(Some(PlatformBuilder::default().architecture(Arch::default()).os(Os::Linux).build()?));
    manifest.descriptor.set_annotations(Some(
        [(ANNOTATION_CONTAINERD_NAME, &image.name.full), (ANNOTATION_REF_NAME, &image.name.tag)]
            .map(|(key, value)| (key.to_owned(), value.clone()))
            .into(),
    ));
    let index = ImageIndexBuilder::default()
        .schema_version(2u32)
        .media_type(MediaType::ImageIndex)
        .manifests(vec![manifest.descriptor.clone()])
        .build()?;
    let layout = OciLayoutBuilder::default().image_layout_version("1.0.0".to_owned()).build()?;

    let mut tar = Builder::new(Vec::new());
    append(&mut tar, "oci-layout", EntryType::Regular, 0o644, &json(&layout)?)?;
    append(&mut tar, "index.json", EntryType::Regular, 0o644, &json(&index)?)?;
    append(&mut tar, "blobs/", EntryType::Directory, 0o755, &[])?;
    append(&mut tar, "blobs/sha256/", EntryType::Directory, 0o755, &[])?;
    for blob in [manifest, config, layer] {
        let path = format!("blobs/sha256/{}", blob.descriptor.digest().digest());
        append(&mut tar, &path, EntryType::Regular, 0o644, &blob.content)?;
    }
    Ok(tar.into_inner()?)
}

/// Content and what refers to it.
struct Blob {
    descriptor: Descriptor,
    content: Vec<u8>,
}

impl Blob {
    fn new(kind: MediaType, content: Vec<u8>) -> Result<Self> {
        let hex: String = Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect();
        let descriptor = DescriptorBuilder::default()
            .media_type(kind)
            .digest(Sha256Digest::from_str(&hex)?)
            .size(content.len() as u64)
            .build()?;
        Ok(Self { descriptor, content })
    }
}

/// Keys are sorted: oci-spec keeps annotations in a hash map, whose order differs from run to run.
fn json(document: &impl Serialize) -> Result<Vec<u8>> {
    let mut value = serde_json::to_value(document)?;
    value.sort_all_objects();
    Ok(serde_json::to_vec(&value)?)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::io::Read;

    use oci_spec::image::{ImageConfiguration, ImageIndex, ImageManifest};

    use super::*;

    fn sample() -> Image {
        Image {
            name: "localhost/terrarium/sample:0.1.0".parse().unwrap(),
            entrypoint: vec!["/sample".into()],
            cmd: vec!["serve".into()],
            user: Some("65532:65532".into()),
            env: vec!["PATH=/".into()],
        }
    }

    fn files(archive: &[u8]) -> HashMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(archive);
        let read = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (entry.path().unwrap().to_str().unwrap().to_owned(), content)
        };
        archive.entries().unwrap().map(read).collect()
    }

    #[test]
    fn makes_the_same_bytes_each_time() {
        let first = build(&sample(), b"layer".to_vec()).unwrap();
        // A hash map of two keys has one of two orders: 20 runs of the same order by chance are one in half a million.
        for _ in 0..20 {
            assert!(build(&sample(), b"layer".to_vec()).unwrap() == first);
        }
    }

    #[test]
    fn every_reference_leads_to_its_content() {
        let files = files(&build(&sample(), b"layer".to_vec()).unwrap());
        let blob = |descriptor: &Descriptor| {
            let content = &files[&format!("blobs/sha256/{}", descriptor.digest().digest())];
            assert_eq!(descriptor.size(), content.len() as u64);
            let hex: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(descriptor.digest().digest(), hex);
            content.as_slice()
        };
        assert_eq!(files["oci-layout"], br#"{"imageLayoutVersion":"1.0.0"}"#);
        let index = ImageIndex::from_reader(files["index.json"].as_slice()).unwrap();
        let annotations = index.manifests()[0].annotations().as_ref().unwrap();
        assert_eq!(annotations["io.containerd.image.name"], "localhost/terrarium/sample:0.1.0");
        assert_eq!(annotations["org.opencontainers.image.ref.name"], "0.1.0");
        let manifest = ImageManifest::from_reader(blob(&index.manifests()[0])).unwrap();
        assert_eq!(blob(&manifest.layers()[0]), b"layer");
        let config = ImageConfiguration::from_reader(blob(manifest.config())).unwrap();
        assert_eq!(config.rootfs().diff_ids(), &[manifest.layers()[0].digest().to_string()]);
        let run = config.config().as_ref().unwrap();
        assert_eq!(run.entrypoint().as_deref(), Some(&["/sample".to_owned()][..]));
        assert_eq!(run.user().as_deref(), Some("65532:65532"));
    }

    #[test]
    fn a_name_needs_registry_and_tag() {
        for wrong in ["pause", "pause:1", "localhost/pause", "localhost:5000/pause", "localhost/pause:"] {
            assert!(wrong.parse::<Name>().is_err(), "{wrong}");
        }
        assert_eq!("localhost:5000/pause:1".parse::<Name>().unwrap().tag, "1");
    }
}
