//! The configuration of a container, `config.json` of a bundle: reading it, and whether it can be followed.

mod sysctl;
mod unsupported;

use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Hook, Hooks, Linux, LinuxIdMapping, LinuxNamespaceType, Process, Spec};
use serde::de::DeserializeOwned;

use crate::error::Doing as _;
use crate::mount_options::MountOptions;
use crate::namespaces::Namespaces;
use crate::{Error, Result};

/// The newest version of the specification that this runtime follows.
pub const VERSION: &str = "1.2.0";

/// The name of the configuration in a bundle.
pub const CONFIG: &str = "config.json";

/// A configuration that was found to be one that can be followed.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub spec: Spec,
    /// The bundle, absolute.
    pub bundle: PathBuf,
    /// The root file system, absolute, without symbolic links.
    pub rootfs: PathBuf,
    pub namespaces: Namespaces,
    /// What is done in another way than it was asked for.
    pub warnings: Vec<String>,
}

impl Config {
    /// Reads the configuration of a bundle.
    pub fn load(bundle: &Path) -> Result<Self> {
        let bundle = fs::canonicalize(bundle).doing_with(|| format!("find the bundle {}", bundle.display()))?;
        let spec = read(&bundle.join(CONFIG))?;
        Self::new(spec, bundle)
    }

    /// Looks whether it can be followed.
    pub fn new(spec: Spec, bundle: PathBuf) -> Result<Self> {
        let mut warnings = Vec::new();
        let namespaces = validate(&spec, &mut warnings)?;
        let root = spec.root().as_ref().ok_or_else(|| Error::spec("root", "must be given"))?;
        let path = bundle.join(root.path());
        let rootfs = fs::canonicalize(&path)
            .map_err(|error| Error::spec("root.path", format!("{}: {error}", path.display())))?;
        if !rootfs.is_dir() || rootfs == Path::new("/") {
            return Err(Error::spec("root.path", format!("{} cannot be a container's root", rootfs.display())));
        }
        Ok(Self { spec, bundle, rootfs, namespaces, warnings })
    }

    /// That of a container that was created with it.
    pub fn of_created(spec: Spec, bundle: PathBuf, rootfs: PathBuf) -> Result<Self> {
        let mut warnings = Vec::new();
        let namespaces = validate(&spec, &mut warnings)?;
        Ok(Self { spec, bundle, rootfs, namespaces, warnings })
    }

    /// The process that is started with the container. It need not be given before that.
    pub fn process(&self) -> Result<&Process> {
        self.spec.process().as_ref().ok_or_else(|| Error::spec("process", "must be given"))
    }

    /// What waits for the start: that process, or one with no program.
    pub fn process_to_wait(&self) -> Process {
        self.spec.process().clone().unwrap_or_else(|| {
            let mut process = Process::default();
            process.set_args(None);
            process
        })
    }

    /// Whether its mounts are in a namespace that is made for it. Else they are among those of the runtime's, or of a
    /// namespace that others may be in, too.
    pub fn has_own_mounts(&self) -> bool {
        self.namespaces.is_new(LinuxNamespaceType::Mount)
    }

    /// The part that is about Linux.
    pub fn linux(&self) -> Option<&Linux> {
        self.spec.linux().as_ref()
    }

    /// The hooks of one kind.
    pub fn hooks(&self, of: impl Fn(&Hooks) -> &Option<Vec<Hook>>) -> &[Hook] {
        self.spec.hooks().as_ref().and_then(|hooks| of(hooks).as_deref()).unwrap_or_default()
    }
}

/// Reads a file of JSON. What is wrong with it is told by the field.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read(path).doing_with(|| format!("read {}", path.display()))?;
    parse(&text)
}

/// Reads JSON. What is wrong with it is told by the field.
pub(crate) fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T> {
    let mut json = serde_json::Deserializer::from_slice(text);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let field = match error.path().to_string() {
            path if path == "." => "configuration".to_owned(),
            path => path,
        };
        Error::spec(field, error.into_inner().to_string())
    })?;
    json.end().map_err(|error| Error::spec("configuration", error.to_string()))?;
    Ok(value)
}

/// Looks at all that can be judged without touching anything.
fn validate(spec: &Spec, warnings: &mut Vec<String>) -> Result<Namespaces> {
    let version = spec.version();
    if version.split('.').next() != Some("1") {
        return Err(Error::spec("ociVersion", format!("{version:?} is not a version 1")));
    }
    unsupported::refuse(spec)?;
    if let Some(process) = spec.process() {
        validate_process(process, "process")?;
    }
    let no_namespaces = Vec::new();
    let linux = spec.linux().as_ref();
    let listed = linux.and_then(|linux| linux.namespaces().as_ref()).unwrap_or(&no_namespaces);
    let namespaces = Namespaces::of(listed, warnings)?;
    validate_names(spec, &namespaces)?;
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        MountOptions::of(mount).map_err(|problem| Error::spec(format!("mounts[{index}].options"), problem))?;
    }
    if let Some(linux) = linux {
        validate_linux(linux, &namespaces)?;
    }
    if let Some(hooks) = spec.hooks() {
        validate_hooks(hooks)?;
    }
    Ok(namespaces)
}

fn validate_names(spec: &Spec, namespaces: &Namespaces) -> Result<()> {
    for (field, name) in [("hostname", spec.hostname()), ("domainname", spec.domainname())] {
        if name.as_ref().is_some_and(|name| !name.is_empty()) && !namespaces.has(LinuxNamespaceType::Uts) {
            return Err(Error::spec(field, "needs a uts namespace"));
        }
    }
    Ok(())
}

fn validate_linux(linux: &Linux, namespaces: &Namespaces) -> Result<()> {
    for (field, paths) in [("linux.maskedPaths", linux.masked_paths()), ("linux.readonlyPaths", linux.readonly_paths())]
    {
        for (index, path) in paths.iter().flatten().enumerate() {
            if !path.starts_with('/') {
                return Err(Error::spec(format!("{field}[{index}]"), format!("{path:?} is not absolute")));
            }
        }
    }
    for (index, device) in linux.devices().iter().flatten().enumerate() {
        if !device.path().is_absolute() {
            return Err(Error::spec(format!("linux.devices[{index}].path"), "is not absolute"));
        }
    }
    if let Some(propagation) = linux.rootfs_propagation().as_deref().filter(|name| !name.is_empty()) {
        crate::mount_options::propagation(propagation)
            .ok_or_else(|| Error::spec("linux.rootfsPropagation", format!("{propagation:?} is not known")))?;
    }
    sysctl::validate(linux, namespaces)?;
    let new_user = namespaces.is_new(LinuxNamespaceType::User);
    for (field, map) in [("linux.uidMappings", linux.uid_mappings()), ("linux.gidMappings", linux.gid_mappings())] {
        validate_map(field, map.as_deref().unwrap_or_default(), new_user, namespaces)?;
    }
    if linux.time_offsets().as_ref().is_some_and(|offsets| !offsets.is_empty())
        && !namespaces.is_new(LinuxNamespaceType::Time)
    {
        return Err(Error::spec("linux.timeOffsets", "needs a new time namespace"));
    }
    Ok(())
}

fn validate_map(field: &str, map: &[LinuxIdMapping], new_user: bool, namespaces: &Namespaces) -> Result<()> {
    if new_user && map.is_empty() {
        return Err(Error::spec(field, "must not be empty with a new user namespace"));
    }
    if !map.is_empty() && !namespaces.has(LinuxNamespaceType::User) {
        return Err(Error::spec(field, "needs a user namespace"));
    }
    for (index, line) in map.iter().enumerate() {
        let fits = |first: u32| first.checked_add(line.size().saturating_sub(1)).is_some();
        if line.size() == 0 || !fits(line.container_id()) || !fits(line.host_id()) {
            return Err(Error::spec(format!("{field}[{index}].size"), format!("{} is out of range", line.size())));
        }
    }
    Ok(())
}

/// Looks at a process, which may also come in a file of its own for an `exec`.
pub(crate) fn validate_process(process: &Process, field: &str) -> Result<()> {
    let args = process.args().as_deref().unwrap_or_default();
    if args.first().is_none_or(String::is_empty) {
        return Err(Error::spec(format!("{field}.args"), "must not be empty"));
    }
    for (name, texts) in [("args", args), ("env", process.env().as_deref().unwrap_or_default())] {
        if let Some(index) = texts.iter().position(|text| text.contains('\0')) {
            return Err(Error::spec(format!("{field}.{name}[{index}]"), "holds a NUL"));
        }
    }
    if !process.cwd().is_absolute() {
        return Err(Error::spec(format!("{field}.cwd"), format!("{:?} is not absolute", process.cwd())));
    }
    if process.user().umask().is_some_and(|umask| umask > 0o777) {
        return Err(Error::spec(format!("{field}.user.umask"), "is more than 0777"));
    }
    if process.oom_score_adj().is_some_and(|adjustment| !(-1000..=1000).contains(&adjustment)) {
        return Err(Error::spec(format!("{field}.oomScoreAdj"), "is not within -1000 and 1000"));
    }
    let limits = process.rlimits().as_deref().unwrap_or_default();
    for (index, limit) in limits.iter().enumerate() {
        if limits[..index].iter().any(|before| before.typ() == limit.typ()) {
            return Err(Error::spec(format!("{field}.rlimits[{index}]"), format!("a second {}", limit.typ())));
        }
    }
    unsupported::refuse_of_process(process, field)
}

fn validate_hooks(hooks: &Hooks) -> Result<()> {
    for (kind, of) in crate::hooks::KINDS {
        for (index, hook) in of(hooks).iter().flatten().enumerate() {
            let field = || format!("hooks.{kind}[{index}]");
            if !hook.path().is_absolute() {
                return Err(Error::spec(format!("{}.path", field()), "is not absolute"));
            }
            if hook.timeout().is_some_and(|timeout| timeout <= 0) {
                return Err(Error::spec(format!("{}.timeout", field()), "is not more than 0"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
