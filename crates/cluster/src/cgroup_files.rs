//! The component that adds cgroup files to those of the kernel, and sees to limits of memory: a part of this program
//! ([`terrarium_cgroupfs`]).

use std::path::{Path, PathBuf};

use terrarium_remedies::{CGROUP_ROOT, POD_CGROUP_ROOT, Setting};

use crate::component::{CGROUPFS, CommandLine, Component, Readiness, Runs, Spec};
use crate::launch::own_program;
use crate::{Error, Layout};

/// The component, if the sandbox needs it.
pub(crate) fn component(spec: &Spec<'_>) -> Result<Option<Component>, Error> {
    let Some((controllers, backing)) = spec.settings.iter().find_map(files) else { return Ok(None) };
    let socket = socket(spec.layout);
    // What is counted goes with the cgroups, at the latest with the runtime directory.
    let state = spec.layout.runtime();
    let mut args = vec![CGROUPFS.to_owned()];
    for (flag, value) in
        [("--root", Path::new(CGROUP_ROOT)), ("--backing", backing), ("--ready-socket", &socket), ("--state", state)]
    {
        args.extend([flag.to_owned(), value.to_string_lossy().into_owned()]);
    }
    if spec.settings.contains(&Setting::MemoryGuard) {
        args.extend(["--guard".to_owned(), format!("/{POD_CGROUP_ROOT}")]);
    }
    args.extend(controllers.iter().cloned());
    let command = CommandLine { program: own_program()?, args };
    let runs = Runs::Service { command, env: Vec::new(), ready: Readiness::Greeting(socket) };
    Ok(Some(Component { name: CGROUPFS, label: "cgroup files", needs: &[], objects: Vec::new(), runs }))
}

fn socket(layout: &Layout) -> PathBuf {
    layout.runtime().join("cgroupfs.sock")
}

fn files(setting: &Setting) -> Option<(&Vec<String>, &PathBuf)> {
    match setting {
        Setting::CgroupFiles { controllers, backing } => Some((controllers, backing)),
        _ => None,
    }
}
