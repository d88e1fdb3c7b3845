//! What containerd runs the program for beside serving: to start a shim, to clean up after one, and to learn what it can do.

use std::collections::HashMap;
use std::env;
use std::fs;
use std::os::unix::process::parent_id;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use containerd_shim::api::{DeleteResponse, Options};
use containerd_shim::bootstrap::any_is;
use containerd_shim::protos::protobuf::Message as _;
use containerd_shim::protos::protobuf::well_known_types::any::Any;
use containerd_shim::protos::types::introspection::RuntimeInfo;
use containerd_shim::publisher::RemotePublisher;
use containerd_shim::util::{OPTIONS_FILE_NAME, read_options};
use containerd_shim::{Config, Flags, Shim, StartOpts, Task, spawn};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::Deserialize;
use signal_hook::consts::SIGCHLD;
use signal_hook::iterator::Signals;

use crate::container::Record;
use crate::error::Error;
use crate::exits::Exits;
use crate::process::Exit;
use crate::rootfs;
use crate::runtime::Runtime;
use crate::server::{is_served, remove_socket};

/// Containers that have the same value of the first annotation that there is share a shim.
const GROUPS: [&str; 2] = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];
/// What keeps the shim small. gVisor counts the whole of a mapping as used up to the next 2 MiB, and so small stacks matter,
/// and what the heap grows by; glibc would give each thread a heap of its own.
const SMALL: [(&str, &str); 2] =
    [("RUST_MIN_STACK", "65536"), ("GLIBC_TUNABLES", "glibc.malloc.arena_max=1:glibc.malloc.top_pad=16384")];
/// The main thread's stack, for the same reason.
const MAIN_STACK: u64 = 256 * 1024;
/// Where the shim learns what its limit would have been, which is what containers get.
pub const STACK_LIMIT: &str = "TERRARIUM_STACK_LIMIT";
/// The type that containerd's typeurl gives runtime-spec's features.
const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";
const OOM_SCORE_MAX: i32 = 1000;

/// The program as containerd calls it.
pub struct Bootstrap {
    namespace: String,
    id: String,
}

/// A shim's service is made by [`crate::server`].
pub struct Nothing;

impl Task for Nothing {}

impl Shim for Bootstrap {
    type T = Nothing;

    fn new(_: &str, flags: &Flags, _: &mut Config) -> Self {
        Self { namespace: flags.namespace.clone(), id: flags.id.clone() }
    }

    fn start_shim(&mut self, options: StartOpts) -> containerd_shim::Result<String> {
        let config = fs::read("config.json").map_err(Error::io("read", Path::new("config.json")))?;
        let group = group(&config)?.unwrap_or_else(|| options.id.clone());
        let address = options.socket_address(&group);
        if is_served(&address) {
            return Ok(address);
        }
        let limit = getrlimit(Resource::RLIMIT_STACK)?;
        let soft = limit.0.to_string();
        setrlimit(Resource::RLIMIT_STACK, MAIN_STACK.min(limit.0), limit.1)?;
        let mut variables = SMALL.to_vec();
        variables.push((STACK_LIMIT, &soft));
        let (pid, address) = spawn(options, &group, variables)?;
        if let Err(error) = adjust_oom_score(pid) {
            // Lowering it needs a right that a sandbox may not have; the shim works all the same.
            eprintln!("{}", error.chain());
        }
        Ok(address)
    }

    fn delete_shim(&mut self) -> containerd_shim::Result<DeleteResponse> {
        // containerd runs this in the bundle of the dead shim's first container; the one to delete lies beside it.
        let here = env::current_dir().map_err(Error::io("find", Path::new(".")))?;
        let bundle = here.parent().unwrap_or(&here).join(&self.id);
        let deleted = clean_up(&self.namespace, &self.id, &bundle);
        let exit = Exit { status: deleted.status, at: deleted.at() };
        Ok(DeleteResponse {
            pid: deleted.pid as u32,
            exit_status: exit.status,
            exited_at: exit.timestamp(),
            ..DeleteResponse::default()
        })
    }

    fn wait(&mut self) {}

    fn create_task_service(&self, _: RemotePublisher) -> Nothing {
        Nothing
    }

    fn runtime_info(runtime_id: &str, options: Option<&Any>) -> containerd_shim::Result<RuntimeInfo> {
        let mut read = Options::default();
        if let Some(any) = options.filter(|any| any_is::<Options>(any)) {
            read = Options::parse_from_bytes(&any.value)?;
        }
        let mut info = RuntimeInfo { name: runtime_id.to_owned(), ..RuntimeInfo::default() };
        let version = info.version.mut_or_insert_default();
        version.version = env!("CARGO_PKG_VERSION").to_owned();
        let runtime = Runtime::new(reaping(), &read, "", Path::new("."), "");
        match runtime.features() {
            Ok(json) => info.features = Some(features(json)).into(),
            // containerd then takes every specification for one that the runtime can make.
            Err(error) => eprintln!("{}", error.chain()),
        }
        Ok(info)
    }
}

fn features(json: Vec<u8>) -> Any {
    Any { type_url: FEATURES.to_owned(), value: json, ..Any::default() }
}

/// A reaper for a program that has no main loop.
fn reaping() -> Arc<Exits> {
    let exits = Arc::new(Exits::default());
    let reaper = Arc::clone(&exits);
    let mut signals = Signals::new([SIGCHLD]).expect("SIGCHLD can be handled");
    thread::spawn(move || {
        for _ in signals.forever() {
            reaper.reap();
        }
    });
    exits
}

#[derive(Deserialize)]
struct Configuration {
    #[serde(default)]
    annotations: HashMap<String, String>,
}

fn group(config: &[u8]) -> Result<Option<String>, Error> {
    let mut config: Configuration =
        serde_json::from_slice(config).map_err(|source| Error::Json { what: "read config.json", source })?;
    Ok(GROUPS.iter().find_map(|group| config.annotations.remove(*group)))
}

/// The kernel is to end the shim before containerd, and containers before both.
fn adjust_oom_score(shim: u32) -> Result<(), Error> {
    let file = |pid: u32| PathBuf::from(format!("/proc/{pid}/oom_score_adj"));
    let (containerd, shim) = (file(parent_id()), file(shim));
    let score = fs::read_to_string(&containerd).map_err(Error::io("read", &containerd))?;
    let score: i32 = score.trim().parse().map_err(|_| Error::Invalid(format!("an OOM score of {score:?}")))?;
    fs::write(&shim, (score + 1).min(OOM_SCORE_MAX).to_string()).map_err(Error::io("write", &shim))
}

/// Ends and removes what a shim has left that is no more. Goes on after errors: whoever asks removes the bundle in any case.
fn clean_up(namespace: &str, id: &str, bundle: &Path) -> Record {
    let mut options = Options::default();
    if bundle.join(OPTIONS_FILE_NAME).exists() {
        match read_options(bundle) {
            Ok(read) => options = read,
            Err(error) => eprintln!("{error}"),
        }
    }
    let runtime = Runtime::new(reaping(), &options, namespace, bundle, id);
    if let Err(error) = runtime.delete(true) {
        eprintln!("{}", error.chain());
    }
    if let Err(error) = rootfs::unmount_all(&bundle.join("rootfs")) {
        eprintln!("{}", error.chain());
    }
    if let Some(address) = address(bundle).filter(|address| !is_served(address)) {
        remove_socket(&address);
    }
    Record::read(bundle).unwrap_or_else(|| {
        let pid = fs::read_to_string(runtime.pid_file()).ok().and_then(|pid| pid.trim().parse().ok());
        Record::new(pid.unwrap_or(0), Exit::now(128 + nix::libc::SIGKILL as u32))
    })
}

/// The dead shim's socket, which containerd has noted.
fn address(bundle: &Path) -> Option<String> {
    #[derive(Deserialize)]
    struct Noted {
        address: String,
    }
    let noted: Noted = serde_json::from_slice(&fs::read(bundle.join("bootstrap.json")).ok()?).ok()?;
    Some(noted.address).filter(|address| !address.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_of_a_pod_share_a_shim() {
        let config = |annotations: &str| format!(r#"{{"annotations": {annotations}, "process": {{}}}}"#);
        let sandbox = config(r#"{"io.kubernetes.cri.sandbox-id": "pod"}"#);
        assert_eq!(group(sandbox.as_bytes()).unwrap().as_deref(), Some("pod"));
        let both = config(r#"{"io.kubernetes.cri.sandbox-id": "pod", "io.containerd.runc.v2.group": "mine"}"#);
        assert_eq!(group(both.as_bytes()).unwrap().as_deref(), Some("mine"));
        assert_eq!(group(b"{}").unwrap(), None);
        assert!(group(b"[").unwrap_err().chain().starts_with("read config.json: "));
    }

    #[test]
    fn the_end_that_the_shim_has_seen_is_told_after_its_death() {
        let bundle = tempfile::tempdir().unwrap();
        fs::write(bundle.path().join("options.json"), "no JSON").unwrap();
        fs::write(bundle.path().join("bootstrap.json"), r#"{"version":3,"address":"unix:///nowhere/s"}"#).unwrap();
        assert_eq!(address(bundle.path()).as_deref(), Some("unix:///nowhere/s"));
        Record::new(7, Exit::now(3)).write(bundle.path()).unwrap();
        assert_eq!((Record::read(bundle.path()).unwrap().pid, Record::read(bundle.path()).unwrap().status), (7, 3));
    }
}
