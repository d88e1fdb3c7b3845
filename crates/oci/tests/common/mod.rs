//! A bundle of this machine's own programs, and the runtime as a user calls it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

/// The runtime. The environment names it where the tests run on another machine than the one that built them.
fn program() -> PathBuf {
    std::env::var_os("TERRARIUM_OCI").map_or_else(|| env!("CARGO_BIN_EXE_terrarium-oci").into(), PathBuf::from)
}

/// A container's configuration, its root file system and the state of the runtime, in a directory that goes with it.
pub struct Bundle {
    directory: TempDir,
}

impl Bundle {
    /// One whose process is a shell with this script. Its root has nothing but the machine's /usr, to be read.
    pub fn new(script: &str) -> Self {
        let bundle = Self { directory: tempfile::tempdir().expect("a directory") };
        for directory in ["rootfs/usr", "rootfs/tmp", "state"] {
            fs::create_dir_all(bundle.path().join(directory)).expect("a directory");
        }
        for name in ["bin", "sbin", "lib", "lib64"] {
            symlink(format!("usr/{name}"), bundle.rootfs().join(name)).expect("a link");
        }
        succeed(bundle.runtime(&["spec", "--bundle"]).arg(bundle.path()));
        bundle.change(|config| {
            config["process"]["args"] = json!(["/bin/sh", "-c", script]);
            config["process"]["terminal"] = json!(false);
            config["root"]["readonly"] = json!(false);
            let usr = json!({"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]});
            config["mounts"].as_array_mut().expect("mounts").push(usr);
        });
        bundle
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn rootfs(&self) -> PathBuf {
        self.path().join("rootfs")
    }

    /// Where the runtime keeps its state.
    pub fn state(&self) -> PathBuf {
        self.path().join("state")
    }

    /// Changes the configuration.
    pub fn change(&self, change: impl FnOnce(&mut Value)) {
        let path = self.path().join("config.json");
        let mut config = serde_json::from_slice(&fs::read(&path).expect("a configuration")).expect("it is JSON");
        change(&mut config);
        fs::write(&path, config.to_string()).expect("it is written");
    }

    /// The runtime with these arguments, to be run. A container must not hold the pipes of the test.
    pub fn runtime(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.arg("--root").arg(self.state()).args(arguments).current_dir(self.path()).stdin(Stdio::null());
        command
    }
}

/// Runs a command that has to succeed.
pub fn succeed(command: &mut Command) -> Output {
    let output = command.output().expect("it runs");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}
