//! Kubeconfigs: one for each client of the API, and the user's own, into which the cluster's context is merged.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use kube::config::{AuthInfo, Cluster, Context, Kubeconfig, NamedAuthInfo, NamedCluster, NamedContext, NamedExtension};

use crate::layout::write_as;
use crate::pki::{self, key_files};
use crate::process::wait_until;
use crate::{Error, Layout};

/// The name of the cluster, the user and the context in kubeconfigs.
pub const CONTEXT: &str = "terrarium";

/// The extension of our context that names the context which was the current one before.
const FORMER: &str = "terrarium/former-context";

/// How long another program may take to change the file.
const LOCK_LIMIT: Duration = Duration::from_secs(3);

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
    let mut ours = load(&layout.admin_kubeconfig())?;
    let into = &behind(into);
    if let Some(directory) = into.parent() {
        let make = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        make.map_err(Error::io("make the directory", directory))?;
    }
    let _lock = Lock::take(into)?;
    let config = load_or_empty(into)?;
    if let Some(former) = former(&config)
        && let Some(context) = ours.contexts.first_mut().and_then(|context| context.context.as_mut())
    {
        let extension = NamedExtension { name: FORMER.to_owned(), extension: former.into() };
        context.extensions = Some(vec![extension]);
    }
    let mut config = remove_context(config);
    config.clusters.extend(ours.clusters);
    config.auth_infos.extend(ours.auth_infos);
    config.contexts.extend(ours.contexts);
    config.current_context = ours.current_context;
    config.api_version = ours.api_version;
    config.kind = ours.kind;
    save(into, &config)
}

/// Takes the cluster's context out of the user's kubeconfig again; the one that was the current one before is it again.
/// A file that does not have ours is not touched.
///
/// # Errors
/// As [`merge`].
pub fn unmerge(from: &Path) -> Result<(), Error> {
    let from = &behind(from);
    if !from.exists() {
        return Ok(());
    }
    let _lock = Lock::take(from)?;
    let config = load_or_empty(from)?;
    let former = former(&config);
    let is_current = config.current_context.as_deref() == Some(CONTEXT);
    let entries = |config: &Kubeconfig| config.clusters.len() + config.auth_infos.len() + config.contexts.len();
    let before = entries(&config);
    let mut config = remove_context(config);
    if is_current {
        config.current_context = former.filter(|name| config.contexts.iter().any(|context| context.name == *name));
    } else if entries(&config) == before {
        return Ok(());
    }
    save(from, &config)
}

/// The context that is the current one, or was it before ours.
fn former(config: &Kubeconfig) -> Option<String> {
    let current = config.current_context.clone().filter(|name| !name.is_empty());
    if current.as_deref() != Some(CONTEXT) {
        return current;
    }
    let ours = config.contexts.iter().find(|context| context.name == CONTEXT)?.context.as_ref()?;
    let extension = ours.extensions.iter().flatten().find(|extension| extension.name == FORMER)?;
    extension.extension.as_str().map(str::to_owned)
}

/// The file that a link in the place of the user's leads to, whether it is there or not: that is the one to change.
fn behind(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    // As many as the kernel follows (path_resolution(7)).
    for _ in 0..40 {
        let Ok(target) = fs::read_link(&path) else { break };
        path = path.parent().unwrap_or(Path::new("/")).join(target);
    }
    path
}

/// The lock by which kubectl and its kin keep each other from the file while they change it: a file beside it (client-go's
/// tools/clientcmd/config.go).
struct Lock(PathBuf);

impl Lock {
    fn take(file: &Path) -> Result<Self, Error> {
        let lock = file.with_added_extension("lock");
        let mut result = Ok(());
        wait_until(LOCK_LIMIT, || {
            result = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&lock).map(drop);
            !matches!(&result, Err(error) if error.kind() == io::ErrorKind::AlreadyExists)
        });
        match result {
            Ok(()) => Ok(Self(lock)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(Error::KubeconfigLocked { lock }),
            Err(error) => Err(Error::io("make the lock", lock)(error)),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // One that stays is said to the next who wants it.
        let _ = fs::remove_file(&self.0);
    }
}

fn remove_context(mut config: Kubeconfig) -> Kubeconfig {
    config.clusters.retain(|cluster| cluster.name != CONTEXT);
    config.auth_infos.retain(|user| user.name != CONTEXT);
    config.contexts.retain(|context| context.name != CONTEXT);
    config
}

fn load_or_empty(path: &Path) -> Result<Kubeconfig, Error> {
    // An empty file is a valid kubeconfig for kubectl. One that cannot be looked at is not empty.
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Kubeconfig::default()),
        Ok(metadata) if metadata.len() == 0 => Ok(Kubeconfig::default()),
        _ => load(path),
    }
}

pub(crate) fn load(path: &Path) -> Result<Kubeconfig, Error> {
    let invalid = |why: String| Error::Kubeconfig { path: path.to_owned(), why };
    let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
    serde_saphyr::from_str(&text).map_err(|error| invalid(error.to_string()))
}

fn save(path: &Path, config: &Kubeconfig) -> Result<(), Error> {
    let text = serde_saphyr::to_string(config)
        .map_err(|error| Error::Kubeconfig { path: path.to_owned(), why: error.to_string() })?;
    let before = fs::metadata(path).ok();
    write_as(path, text.as_bytes(), |file| {
        // It stays whose it was, also where this runs as root on the user's behalf.
        let Some(before) = &before else { return Ok(()) };
        fchown(file, Some(before.uid()), Some(before.gid()))?;
        file.set_permissions(before.permissions())
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

    use serde_json::{Value, json};
    use tempfile::TempDir;

    use super::*;
    use crate::ErrorId;

    /// A layout with an administrator's kubeconfig, and the path of a user's that is not there yet.
    fn setting() -> (TempDir, Layout, PathBuf) {
        let (root, layout) = Layout::temporary();
        for file in ["ca.crt", "admin.crt", "admin.key"] {
            fs::write(layout.pki(file), file).unwrap();
        }
        write_for(&layout, pki::ADMIN, "https://127.0.0.1:6443").unwrap();
        let user = root.path().join("home/.kube/config");
        (root, layout, user)
    }

    fn put(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn read(path: &Path) -> Value {
        serde_saphyr::from_str(&fs::read_to_string(path).unwrap()).unwrap()
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    /// With what kube's types know, what they do not know, and values that YAML would read as something else unquoted.
    const OF_THE_USER: &str = r#"
apiVersion: v1
kind: Config
current-context: work
preferences: {colors: true}
some-extension-of-tomorrow: {nested: [1, two]}
clusters:
- name: work
  cluster:
    server: https://work.example:6443
    tls-server-name: api
    proxy-url: socks5://127.0.0.1:1080
    certificate-authority-data: Y2E=
    unknown-field: kept
contexts:
- name: work
  context: {cluster: work, user: me, namespace: "0123", extensions: [{name: x, extension: {a: 1}}]}
- name: terrarium-2
  context: {cluster: work, user: me}
users:
- name: me
  user:
    token: "12345678901234567890"
    exec:
      apiVersion: client.authentication.k8s.io/v1
      command: aws
      args: [--region, "no", "1e3"]
      env: [{name: A, value: "null"}]
      interactiveMode: IfAvailable
      provideClusterInfo: false
      installHint: |
        first line
        second: line
- name: basic
  user: {username: "true", password: "~ : # '\\"}
"#;

    #[test]
    fn what_the_user_has_survives_merging_and_comes_back_whole_on_unmerging() {
        let (_root, layout, user) = setting();
        put(&user, OF_THE_USER);
        let before = read(&user);
        merge(&layout, &user).unwrap();
        merge(&layout, &user).unwrap();
        let merged = read(&user);
        assert_eq!(merged["current-context"], CONTEXT);
        for list in ["clusters", "users", "contexts"] {
            let (ours, theirs): (Vec<_>, Vec<_>) =
                merged[list].as_array().unwrap().iter().cloned().partition(|entry| entry["name"] == CONTEXT);
            assert_eq!(ours.len(), 1, "{list}: merging again replaces");
            assert_eq!(Value::from(theirs), before[list], "{list}");
        }
        unmerge(&user).unwrap();
        assert_eq!(read(&user), before);
        assert_eq!(fs::read_dir(user.parent().unwrap()).unwrap().count(), 1, "no lock is left");
    }

    #[test]
    fn the_current_context_is_the_users_choice() {
        let (_root, layout, user) = setting();
        let current = |user: &Path| read(user)["current-context"].clone();
        put(&user, OF_THE_USER);
        merge(&layout, &user).unwrap();
        // Another one was chosen since: that stays.
        let chosen = fs::read_to_string(&user)
            .unwrap()
            .replace("current-context: terrarium\n", "current-context: terrarium-2\n");
        put(&user, &chosen);
        unmerge(&user).unwrap();
        assert_eq!(current(&user), "terrarium-2");
        // The former one is gone since: then there is none.
        put(&user, OF_THE_USER);
        merge(&layout, &user).unwrap();
        let without = fs::read_to_string(&user).unwrap().replace("name: work\n", "name: play\n");
        put(&user, &without);
        unmerge(&user).unwrap();
        assert_eq!(current(&user), Value::Null);
    }

    #[test]
    fn a_file_that_another_program_is_changing_is_waited_for() {
        let (_root, layout, user) = setting();
        put(&user, OF_THE_USER);
        let lock = user.with_added_extension("lock");
        fs::write(&lock, "").unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(100));
                fs::remove_file(&lock).unwrap();
            });
            merge(&layout, &user).unwrap();
        });
        fs::write(&lock, "").unwrap();
        assert_eq!(unmerge(&user).unwrap_err().id(), ErrorId::KubeconfigLocked);
        assert!(lock.exists(), "it is another's");
    }

    #[test]
    fn a_link_to_what_is_not_there_yet_stays_one() {
        let (root, layout, user) = setting();
        fs::create_dir_all(user.parent().unwrap()).unwrap();
        symlink("../../dotfiles/kubeconfig", &user).unwrap();
        merge(&layout, &user).unwrap();
        assert!(fs::symlink_metadata(&user).unwrap().is_symlink());
        assert_eq!(read(&root.path().join("dotfiles/kubeconfig"))["current-context"], CONTEXT);
    }

    #[test]
    fn an_absent_and_an_empty_file_are_begun_privately() {
        let (_root, layout, user) = setting();
        merge(&layout, &user).unwrap();
        assert_eq!((mode(&user), mode(user.parent().unwrap())), (0o600, 0o700));
        assert_eq!(read(&user), read(&layout.admin_kubeconfig()));

        let empty = user.with_file_name("empty");
        fs::write(&empty, "").unwrap();
        unmerge(&empty).unwrap();
        merge(&layout, &empty).unwrap();
        assert_eq!(read(&empty)["current-context"], CONTEXT);
    }

    #[test]
    fn what_is_no_kubeconfig_is_left_as_it_is() {
        let (_root, layout, user) = setting();
        for text in ["clusters: [", "- a list", "just words", "clusters: {not: a list}"] {
            put(&user, text);
            let error = merge(&layout, &user).unwrap_err().to_string();
            assert!(error.contains(user.to_str().unwrap()), "{error}");
            assert!(unmerge(&user).is_err());
            assert_eq!(fs::read_to_string(&user).unwrap(), text);
        }
    }

    #[test]
    fn a_file_that_cannot_be_looked_at_is_not_taken_for_an_absent_one() {
        let (_root, layout, user) = setting();
        fs::create_dir_all(user.parent().unwrap()).unwrap();
        symlink("config", &user).unwrap();
        assert!(merge(&layout, &user).is_err(), "a link to itself");
        assert!(fs::symlink_metadata(&user).unwrap().is_symlink());
    }

    #[test]
    fn the_file_behind_a_link_changes_and_keeps_owner_and_mode() {
        let (root, layout, user) = setting();
        let behind = root.path().join("dotfiles/kubeconfig");
        put(&behind, OF_THE_USER);
        fs::set_permissions(&behind, fs::Permissions::from_mode(0o640)).unwrap();
        // Only root can give a file away.
        let is_root = chown(&behind, Some(1000), Some(1001)).is_ok();
        fs::create_dir_all(user.parent().unwrap()).unwrap();
        symlink(&behind, &user).unwrap();
        merge(&layout, &user).unwrap();
        assert!(fs::symlink_metadata(&user).unwrap().is_symlink());
        assert_eq!(read(&behind)["current-context"], CONTEXT);
        assert_eq!(mode(&behind), 0o640);
        if is_root {
            let metadata = fs::metadata(&behind).unwrap();
            assert_eq!((metadata.uid(), metadata.gid()), (1000, 1001));
        }
    }

    #[test]
    fn unmerging_does_not_touch_a_file_without_the_context() {
        let (_root, _, user) = setting();
        unmerge(&user).unwrap();
        assert!(!user.exists());
        let text = "# my notes\nkind: Config\napiVersion: v1\ncurrent-context: work\n";
        put(&user, text);
        unmerge(&user).unwrap();
        assert_eq!(fs::read_to_string(&user).unwrap(), text);
    }

    #[test]
    fn a_components_kubeconfig_points_at_files_and_the_administrators_stands_alone() {
        let (_root, layout, _) = setting();
        write_for(&layout, pki::SCHEDULER, "https://127.0.0.1:6443").unwrap();
        let user = |path: &Path| read(path)["users"][0]["user"].clone();
        let scheduler = layout.config("kube-scheduler.kubeconfig");
        let files = key_files(&layout, pki::SCHEDULER);
        assert_eq!(user(&scheduler), json!({"client-certificate": files.certificate, "client-key": files.key}));
        assert_eq!(mode(&scheduler), 0o600);
        assert_eq!(
            user(&layout.admin_kubeconfig()),
            json!({"client-certificate-data": "YWRtaW4uY3J0", "client-key-data": "YWRtaW4ua2V5"})
        );
    }
}
