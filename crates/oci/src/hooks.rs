//! Hooks: programs that run at points of a container's life and read its state on stdin.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use oci_spec::runtime::{Hook, Hooks, State};

use crate::{Error, Result, memory_file};

/// Where the hooks of a kind are.
type Of = fn(&Hooks) -> &Option<Vec<Hook>>;

#[allow(deprecated, reason = "prestart hooks are deprecated and still to be run")]
fn prestart(hooks: &Hooks) -> &Option<Vec<Hook>> {
    hooks.prestart()
}

/// The six kinds.
pub(crate) const KINDS: [(&str, Of); 6] = [
    ("prestart", prestart),
    ("createRuntime", Hooks::create_runtime),
    ("createContainer", Hooks::create_container),
    ("startContainer", Hooks::start_container),
    ("poststart", Hooks::poststart),
    ("poststop", Hooks::poststop),
];

/// Runs the hooks of one kind, in their order, up to the first that fails.
pub(crate) fn run(kind: &'static str, hooks: &[Hook], state: &State) -> Result<()> {
    for (index, hook) in hooks.iter().enumerate() {
        run_one(hook, state).map_err(|problem| Error::Hook { kind, index, problem })?;
    }
    Ok(())
}

/// Runs all hooks of one kind. That one fails is only worth a warning after the start and after the end.
pub(crate) fn run_all(kind: &'static str, hooks: &[Hook], state: &State) -> Vec<String> {
    let failed = |(index, hook)| {
        let problem = run_one(hook, state).err()?;
        Some(Error::Hook { kind, index, problem }.to_string())
    };
    hooks.iter().enumerate().filter_map(failed).collect()
}

fn run_one(hook: &Hook, state: &State) -> Result<(), String> {
    let path = hook.path().display();
    let start = || {
        let (stdin, stderr) = (memory_file::of(state)?, memory_file::with(&[])?);
        Ok::<_, io::Error>((command(hook).stdin(stdin).stderr(stderr.try_clone()?).spawn()?, stderr))
    };
    let (mut child, mut stderr) = start().map_err(|error| format!("start {path}: {error}"))?;
    let deadline = hook.timeout().and_then(|seconds| u64::try_from(seconds).ok());
    let deadline = deadline.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let Some(status) = wait(&mut child, deadline).map_err(|error| format!("wait for {path}: {error}"))? else {
        end(&mut child);
        return Err(format!("{path} took longer than its timeout"));
    };
    if status.success() { Ok(()) } else { Err(format!("{path} ended with {status}{}", said(&mut stderr))) }
}

/// The first of its arguments is its name for itself. It has the environment that it is given, and no other.
fn command(hook: &Hook) -> Command {
    let args = hook.args().as_deref().unwrap_or_default();
    let mut command = Command::new(hook.path());
    command
        .arg0(args.first().map_or(hook.path().as_os_str(), OsStr::new))
        .args(args.iter().skip(1))
        .env_clear()
        .envs(hook.env().iter().flatten().filter_map(|variable| variable.split_once('=')))
        .stdout(Stdio::null());
    command
}

/// Waits until it ends; none if that takes too long.
fn wait(child: &mut Child, deadline: Option<Instant>) -> io::Result<Option<std::process::ExitStatus>> {
    let Some(deadline) = deadline else { return child.wait().map(Some) };
    let mut pause = Duration::from_millis(1);
    loop {
        match child.try_wait()? {
            None if Instant::now() >= deadline => return Ok(None),
            None => std::thread::sleep(pause),
            ended => return Ok(ended),
        }
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// What it wrote on stderr, the beginning of it.
fn said(stderr: &mut File) -> String {
    let mut text = [0; 512];
    let length = stderr.rewind().and_then(|()| stderr.read(&mut text)).unwrap_or(0);
    match String::from_utf8_lossy(&text[..length]).trim() {
        "" => String::new(),
        text => format!(": {text}"),
    }
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::HookBuilder;

    use super::*;

    fn shell(script: &str) -> HookBuilder {
        let args = ["sh", "-c", script].map(str::to_owned).to_vec();
        HookBuilder::default().path("/bin/sh").args(args)
    }

    fn result(hook: HookBuilder) -> Result<(), String> {
        run("prestart", &[hook.build().expect("a hook")], &State::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_hook_reads_the_state_and_has_its_own_environment() {
        let script = r#"grep -q '"ociVersion"' && test "$A" = b && test -z "$HOME""#;
        result(shell(script).env(vec!["A=b".to_owned()])).expect("it succeeds");
    }

    #[test]
    fn a_hook_that_fails_says_why() {
        let error = result(shell("echo full >&2; exit 3")).expect_err("it fails");
        assert_eq!(error, "hook prestart[0]: /bin/sh ended with exit status: 3: full");
    }

    #[test]
    fn a_hook_may_write_much_and_need_not_read() {
        result(shell("exec <&-; head -c 1000000 /dev/zero >&2")).expect("it succeeds");
    }

    #[test]
    fn a_hook_that_takes_too_long_is_ended() {
        let error = result(shell("exec sleep 600").timeout(1_i64)).expect_err("it is ended");
        assert_eq!(error, "hook prestart[0]: /bin/sh took longer than its timeout");
    }

    #[test]
    fn all_are_run_where_a_failure_is_only_a_warning() {
        let hooks = ["exit 1", "exit 0", "exit 2"].map(|script| shell(script).build().expect("a hook"));
        assert_eq!(run_all("poststop", &hooks, &State::default()).len(), 2);
    }
}
