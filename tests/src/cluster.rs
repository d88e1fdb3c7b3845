//! A cluster in a sandbox, as a user has it before them.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::panic::panic_any;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use terrarium_testbed::{Privilege, Sandbox};

use crate::installation::{self, PREFIX};
use crate::run::Lacking;
use crate::{Kind, Namespace, Ran, eventually};

/// Where root's cluster keeps its state.
pub const DATA_DIR: &str = "/var/lib/terrarium";

/// The components that go on when guardian and supervisor are gone.
pub const SERVICES: [&str; 6] = ["cgroupfs", "containerd", "kube-server", "coredns", "netd", "kubelet"];

/// No command of a scenario takes longer, unless it hangs.
const LIMIT_SECONDS: u32 = 150;

/// A sandbox with terrarium installed, and the cluster that may run in it.
#[derive(Debug)]
pub struct Cluster {
    sandbox: Sandbox,
    kind: Kind,
    artefacts: PathBuf,
}

impl Cluster {
    pub(crate) fn in_new_sandbox(kind: Kind, artefacts: &Path) -> Result<Self, String> {
        fs::create_dir_all(artefacts).map_err(|error| format!("cannot create {}: {error}", artefacts.display()))?;
        point_latest_at(artefacts);
        let sandbox = Sandbox::builder()
            .gvisor(kind.gvisor)
            .platform(kind.platform)
            .root(kind.root)
            .privilege(kind.privilege)
            .deny(kind.deny.iter().copied())
            .bind_read_only(installation::out(), PREFIX)
            .env("PATH", format!("{PREFIX}/bin:/usr/sbin:/usr/bin:/sbin:/bin"))
            .start()
            .map_err(|error| format!("no sandbox: {error}"))?;
        Ok(Self { sandbox, kind, artefacts: artefacts.to_owned() })
    }

    /// The kind of the sandbox.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Where the cluster keeps its state, unless it is told otherwise.
    pub fn data_dir(&self) -> &'static str {
        match self.kind.privilege {
            Privilege::Full | Privilege::Docker => DATA_DIR,
            Privilege::Uid1000 => "/home/user/.local/share/terrarium",
        }
    }

    /// Ends the story: what it is about is known not to work in this kind of sandbox.
    pub fn lacks(&self, why: impl Into<String>) -> ! {
        panic_any(Lacking(why.into()))
    }

    /// The node's address, which is the sandbox's.
    pub fn address(&self) -> Ipv4Addr {
        self.sandbox.address()
    }

    /// The address of the test's own machine, as the sandbox reaches it.
    pub fn outside(&self) -> Ipv4Addr {
        self.sandbox.gateway()
    }

    /// Where to put what shall outlast the sandbox.
    pub fn artefacts(&self) -> &Path {
        &self.artefacts
    }

    /// Runs a program in the sandbox to its end.
    pub fn run<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Ran {
        self.run_with_input(words, b"")
    }

    /// Runs a program in the sandbox to its end, with this as its stdin.
    pub fn run_with_input<'a>(&self, words: impl IntoIterator<Item = &'a str>, input: &[u8]) -> Ran {
        let words: Vec<&str> = words.into_iter().collect();
        let limit = LIMIT_SECONDS.to_string();
        let argv = ["timeout", "--kill-after=5", &limit].into_iter().chain(words.iter().copied());
        let mut command = self.sandbox.command(argv).into_command();
        let start = Instant::now();
        let output = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().and_then(
            |mut child| {
                let stdin = child.stdin.take();
                thread::scope(|scope| {
                    // A program that does not read all of its input is fine.
                    scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(input)));
                    child.wait_with_output()
                })
            },
        );
        let command = words.join(" ");
        let output = output.unwrap_or_else(|error| panic!("cannot run `{command}` in the sandbox: {error}"));
        Ran {
            command,
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            took: start.elapsed(),
        }
    }

    /// Runs a script in the sandbox's shell.
    pub fn sh(&self, script: &str) -> Ran {
        self.run(["bash", "-c", script])
    }

    /// Runs `terrarium` with these words.
    pub fn terrarium(&self, words: &str) -> Ran {
        self.run(["terrarium"].into_iter().chain(words.split_whitespace()))
    }

    /// Runs `terrarium kubectl` with these words.
    pub fn try_kubectl(&self, words: &str) -> Ran {
        self.terrarium(&format!("kubectl {words}"))
    }

    /// Runs `terrarium kubectl` with these words, and returns its stdout; panics unless it succeeds.
    #[track_caller]
    pub fn kubectl(&self, words: &str) -> String {
        self.try_kubectl(words).succeeds().stdout
    }

    /// What kubectl prints as JSON.
    #[track_caller]
    pub fn json(&self, words: &str) -> Value {
        parse(&self.kubectl(&format!("{words} -o json")))
    }

    /// A new namespace, in which Pods may be made.
    #[track_caller]
    pub fn namespace<'a>(&'a self, name: &'a str) -> Namespace<'a> {
        Namespace::create(self, name)
    }

    /// Brings the cluster up; panics unless that succeeds.
    #[track_caller]
    pub fn up(&self) -> Ran {
        self.terrarium("up").succeeds()
    }

    /// What `terrarium status` says; whether the cluster runs is in it.
    #[track_caller]
    pub fn status(&self) -> Value {
        parse(&self.terrarium("status -o json").stdout)
    }

    /// The process of a component, if it runs.
    #[track_caller]
    pub fn pid(&self, component: &str) -> Option<i64> {
        let status = self.status();
        let components = status["components"].as_array().cloned().unwrap_or_default();
        let found = components.iter().find(|found| found["name"] == component);
        found.unwrap_or_else(|| panic!("status does not name {component}: {status}"))["pid"].as_i64()
    }

    /// The processes of the components that go on when the supervisor is gone; panics if one does not run.
    #[track_caller]
    pub fn services(&self) -> Vec<i64> {
        let pid = |name: &&str| self.pid(name).unwrap_or_else(|| panic!("{name} does not run"));
        SERVICES.iter().map(pid).collect()
    }

    /// Kills components, supervisor or guardian, all at once, and waits until they are gone.
    #[track_caller]
    pub fn kill(&self, components: &[&str]) {
        let pid = |name: &&str| self.pid(name).unwrap_or_else(|| panic!("{name} does not run")).to_string();
        let pids = components.iter().map(pid).collect::<Vec<_>>().join(" ");
        let script =
            format!("kill -9 {pids}; for pid in {pids}; do while kill -0 $pid 2>/dev/null; do sleep 0.02; done; done");
        self.sh(&script).succeeds();
    }

    /// Waits until the component runs as another process than before.
    #[track_caller]
    pub fn eventually_replaced(&self, component: &str, before: Option<i64>, limit: Duration) {
        eventually(limit, || match self.pid(component) {
            pid if pid.is_some() && pid != before => Ok(()),
            _ => Err(format!("{component} was not started again: {}", self.status())),
        });
    }

    /// Waits until there are so many processes whose command line matches; one that is about to begin another program still
    /// has its parent's. The brackets in `[k]ubelet` keep a pattern from matching the command that holds it.
    #[track_caller]
    pub fn eventually_counts(&self, pattern: &str, count: usize) {
        eventually(Duration::from_secs(30), || match self.run(["pgrep", "-fc", pattern]).stdout.trim() {
            found if found == count.to_string() => Ok(()),
            found => Err(format!("there are {found} processes like {pattern}, not {count}")),
        });
    }

    /// Waits until all components run and the node says so.
    #[track_caller]
    pub fn eventually_runs(&self, limit: Duration) {
        eventually(limit, || {
            let status = self.status();
            let up = status["running"] == true && status["nodes"][0]["ready"] == true;
            if up { Ok(()) } else { Err(format!("the cluster does not run: {status}")) }
        });
    }

    /// How the cluster stands, for someone who must find out why a scenario failed.
    pub fn diagnosis(&self) -> String {
        let mut text = String::new();
        if self.sandbox.exec(["test", "-S", "/run/terrarium/kine.sock"]).is_ok_and(|tried| tried.status.success()) {
            for words in [
                "get nodes,pods --all-namespaces -o wide --request-timeout=10s",
                "get events --all-namespaces --sort-by=.lastTimestamp --request-timeout=10s",
                "describe pods --all-namespaces --request-timeout=10s",
            ] {
                let ran = self.try_kubectl(words);
                let _ = writeln!(text, "--- kubectl {words}\n{}{}", tail(&ran.stdout, 80), tail(&ran.stderr, 5));
            }
        }
        for (name, log) in self.logs() {
            let _ = writeln!(text, "--- {name}\n{}", tail(&log, 15));
        }
        text
    }

    /// Copies the components' logs out of the sandbox.
    pub(crate) fn keep_logs(&self) {
        for (name, log) in self.logs() {
            let path = self.artefacts.join(&name);
            if let Err(error) = fs::write(&path, log) {
                eprintln!("scenarios: cannot write {}: {error}", path.display());
            }
        }
    }

    /// The components' log files, by name.
    fn logs(&self) -> Vec<(String, String)> {
        let directory = format!("{}/logs", self.data_dir());
        let names = self.run(["ls", &directory]).stdout;
        names.lines().map(|name| (name.to_owned(), self.run(["cat", &format!("{directory}/{name}")]).stdout)).collect()
    }
}

fn point_latest_at(artefacts: &Path) {
    let Some(run) = artefacts.parent() else { return };
    let latest = run.with_file_name("latest");
    let _ = fs::remove_file(&latest);
    // Only a convenience.
    let _ = std::os::unix::fs::symlink(run, latest);
}

#[track_caller]
fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("this is not JSON ({error}): {text:?}"))
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.trim_end().lines().collect();
    let mut last = all[all.len().saturating_sub(lines)..].join("\n");
    last.push('\n');
    last
}
