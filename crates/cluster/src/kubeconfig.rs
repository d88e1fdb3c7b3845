//! Kubeconfigs: one for each client of the API, and the user's own, into which the cluster's context is merged.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use kube::config::{AuthInfo, Cluster, Context, Kubeconfig, NamedAuthInfo, NamedCluster, NamedContext};

use crate::layout::write;
use crate::pki::{self, key_files};
use crate::{Error, Layout};

/// The name of the cluster, the user and the context in kubeconfigs.
pub const CONTEXT: &str = "terrarium";

/// Writes the kubeconfig of the client whose certificate has this name. The administrator's carries the keys, since it
/// is copied around; the others point at the files.
pub(crate) fn write_for(layout: &Layout, client: &str, server: &str) -> Result<PathBuf, Error> {
    let ca = key_files(layout, pki::CA).certificate;
    let files = key_files(layout, client);
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let mut cluster = Cluster { server: Some(server.to_owned()), ..Cluster::default() };
    let mut user = AuthInfo::default();
    if client == pki::ADMIN {
        let base64 = |path: &Path| {
            let content = fs::read(path).map_err(Error::io("read", path))?;
            Ok::<_, Error>(BASE64.encode(&content))
        };
        cluster.certificate_authority_data = Some(base64(&ca)?);
        user.client_certificate_data = Some(base64(&files.certificate)?);
        user.client_key_data = Some(base64(&files.key)?.into());
    } else {
        cluster.certificate_authority = Some(text(&ca));
        user.client_certificate = Some(text(&files.certificate));
        user.client_key = Some(text(&files.key));
    }
    let context = Context { cluster: CONTEXT.to_owned(), user: Some(CONTEXT.to_owned()), ..Context::default() };
    let config = Kubeconfig {
        api_version: Some("v1".to_owned()),
        kind: Some("Config".to_owned()),
        clusters: vec![NamedCluster { name: CONTEXT.to_owned(), cluster: Some(cluster), ..Default::default() }],
        auth_infos: vec![NamedAuthInfo { name: CONTEXT.to_owned(), auth_info: Some(user), ..Default::default() }],
        contexts: vec![NamedContext { name: CONTEXT.to_owned(), context: Some(context), ..Default::default() }],
        current_context: Some(CONTEXT.to_owned()),
        ..Kubeconfig::default()
    };
    let path = layout.config(&format!("{client}.kubeconfig"));
    save(&path, &config)?;
    Ok(path)
}

/// Puts the cluster's context into the user's kubeconfig in the place of an earlier one, and makes it the current one.
/// What else the file holds stays.
///
/// # Errors
/// A file cannot be read or written, or the user's is not a kubeconfig; it is left as it is then.
pub fn merge(layout: &Layout, into: &Path) -> Result<(), Error> {
    let ours = load(&layout.admin_kubeconfig())?;
    let mut config = remove_context(load_or_empty(into)?);
    config.clusters.extend(ours.clusters);
    config.auth_infos.extend(ours.auth_infos);
    config.contexts.extend(ours.contexts);
    config.current_context = ours.current_context;
    config.api_version = ours.api_version;
    config.kind = ours.kind;
    if let Some(directory) = into.parent() {
        fs::create_dir_all(directory).map_err(Error::io("make the directory", directory))?;
    }
    save(into, &config)
}

/// Takes the cluster's context out of the user's kubeconfig again.
///
/// # Errors
/// As [`merge`].
pub fn unmerge(from: &Path) -> Result<(), Error> {
    if !from.exists() {
        return Ok(());
    }
    let mut config = remove_context(load(from)?);
    config.current_context = config.current_context.filter(|context| context != CONTEXT);
    save(from, &config)
}

fn remove_context(mut config: Kubeconfig) -> Kubeconfig {
    config.clusters.retain(|cluster| cluster.name != CONTEXT);
    config.auth_infos.retain(|user| user.name != CONTEXT);
    config.contexts.retain(|context| context.name != CONTEXT);
    config
}

fn load_or_empty(path: &Path) -> Result<Kubeconfig, Error> {
    // An empty file is a valid kubeconfig for kubectl.
    let empty = fs::metadata(path).map_or(true, |metadata| metadata.len() == 0);
    if empty { Ok(Kubeconfig::default()) } else { load(path) }
}

pub(crate) fn load(path: &Path) -> Result<Kubeconfig, Error> {
    let invalid = |why: String| Error::Kubeconfig { path: path.to_owned(), why };
    let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
    serde_saphyr::from_str(&text).map_err(|error| invalid(error.to_string()))
}

fn save(path: &Path, config: &Kubeconfig) -> Result<(), Error> {
    let text = serde_saphyr::to_string(config)
        .map_err(|error| Error::Kubeconfig { path: path.to_owned(), why: error.to_string() })?;
    // A link in the place of the user's file is followed: it is the file behind it that changes.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    write(&path, text.as_bytes())
}
