//! testbed against real sandboxes: what it promises its users, and that nothing stays behind.
//!
//! Where no sandbox can run (not root, no runsc) every test counts as ignored, with the reason.

mod common;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use common::{Outcome, ensure, equal, quickest, text};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use terrarium_testbed::{Builder, Gvisor, RootKind, Sandbox, check_host};

type Test = (&'static str, fn() -> Outcome);

fn main() {
    let tests: [Test; 17] = [
        ("the_exit_code_is_passed_on", the_exit_code_is_passed_on),
        ("output_and_input_stream_while_running", output_and_input_stream_while_running),
        ("a_regular_file_gets_all_output", a_regular_file_gets_all_output),
        ("start_exec_stop", start_exec_stop),
        ("a_detached_daemon_outlives_its_exec", a_detached_daemon_outlives_its_exec),
        ("two_sandboxes_at_once", two_sandboxes_at_once),
        ("a_server_of_the_test_is_reached", a_server_of_the_test_is_reached),
        ("binds_are_seen_inside", binds_are_seen_inside),
        ("the_kind_of_root_decides_about_whiteouts", the_kind_of_root_decides_about_whiteouts),
        ("orphans_leave_no_zombies", orphans_leave_no_zombies),
        ("ctrl_c_leaves_nothing", ctrl_c_leaves_nothing),
        ("ctrl_c_while_starting_leaves_nothing", ctrl_c_while_starting_leaves_nothing),
        ("a_killed_run_is_swept", a_killed_run_is_swept),
        ("a_killed_start_is_swept", a_killed_start_is_swept),
        ("links_without_a_record_are_swept", links_without_a_record_are_swept),
        ("a_panic_leaves_nothing", a_panic_leaves_nothing),
        ("a_living_owner_keeps_its_sandbox", a_living_owner_keeps_its_sandbox),
    ];
    let obstacle = check_host(Gvisor::default()).err().map(|error| error.to_string());
    let trials = tests.map(|(name, test)| {
        let obstacle = obstacle.clone();
        Trial::ignorable_test(name, move || match obstacle {
            Some(reason) => Ok(Completion::ignored_with(reason.replace('\n', "; "))),
            None => test().map(|()| Completion::Completed),
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.into()).exit();
}

fn the_exit_code_is_passed_on() -> Outcome {
    equal(testbed(&["run", "--", "sh", "-c", "exit 7"])?.status.code(), Some(7))?;
    equal(testbed(&["run", "--", "sh", "-c", "kill -TERM $$"])?.status.code(), Some(143))?;
    let output = testbed(&["run", "--env", "A=b", "--", "sh", "-c", "echo $A; hostname; echo talk >&2"])?;
    equal(text(&output.stdout), "b\nsandbox\n".into())?;
    equal(text(&output.stderr), "talk\n".into())
}

fn output_and_input_stream_while_running() -> Outcome {
    let mut child = spawn(&["run", "--", "sh", "-c", "echo ready; read word; echo got $word; cat | wc -c"])?;
    let mut stdin = child.stdin.take().ok_or("no stdin")?;
    let mut lines = BufReader::new(child.stdout.take().ok_or("no stdout")?).lines();
    // The command still waits for input: the line can only be here because output streams.
    equal(next(&mut lines)?, "ready".into())?;
    stdin.write_all(b"hello\n")?;
    equal(next(&mut lines)?, "got hello".into())?;
    stdin.write_all(&vec![b'x'; 1_000_000])?;
    drop(stdin);
    equal(next(&mut lines)?, "1000000".into())?;
    equal(child.wait()?.code(), Some(0))
}

fn a_regular_file_gets_all_output() -> Outcome {
    let mut file = tempfile::NamedTempFile::new()?;
    writeln!(file, "before")?;
    let script = "echo one; echo two; seq 1 100000 | tail -1";
    let status = command(&["run", "--", "sh", "-c", script]).stdout(file.as_file().try_clone()?).status()?;
    equal(status.code(), Some(0))?;
    equal(std::fs::read_to_string(file.path())?, "before\none\ntwo\n100000\n".into())
}

fn start_exec_stop() -> Outcome {
    let name = unique("start");
    let started = testbed(&["start", "--name", &name, "--env", "FROM=start"])?;
    equal(started.status.code(), Some(0))?;
    let traces = Traces::of(&name)?;
    traces.expect_all()?;
    let again = testbed(&["start", "--name", &name])?;
    ensure(again.status.success() && text(&again.stderr).contains("already runs"), &text(&again.stderr))?;
    let script = "echo $FROM $HERE; pwd; exit 3";
    let output = testbed(&["exec", "--name", &name, "--env", "HERE=exec", "--cwd", "/usr", "--", "sh", "-c", script])?;
    equal((output.status.code(), text(&output.stdout)), (Some(3), "start exec\n/usr\n".into()))?;
    let address = testbed(&["address", "--name", &name])?;
    equal(text(&address.stdout).trim(), traces.listed["address"].as_str().unwrap_or_default())?;
    let begun = Instant::now();
    equal(testbed(&["stop", "--name", &name])?.status.code(), Some(0))?;
    ensure(begun.elapsed() < Duration::from_secs(8), "stop took eight seconds")?;
    traces.expect_none()?;
    equal(testbed(&["stop", "--name", &name])?.status.code(), Some(0))?;
    let output = testbed(&["exec", "--name", &name, "--", "true"])?;
    equal(output.status.code(), Some(125))?;
    ensure(text(&output.stderr).contains("hint: testbed start"), &text(&output.stderr))
}

fn a_detached_daemon_outlives_its_exec() -> Outcome {
    // It keeps the streams of the exec that started it: the exec must end all the same.
    let name = unique("daemon");
    equal(testbed(&["start", "--name", &name])?.status.code(), Some(0))?;
    let output = testbed(&["exec", "--name", &name, "--", "sh", "-c", "setsid sleep 4242 & echo started"])?;
    equal(text(&output.stdout), "started\n".into())?;
    let found = testbed(&["exec", "--name", &name, "--", "pgrep", "-fc", "sleep 4242"])?;
    equal(text(&found.stdout), "1\n".into())?;
    equal(testbed(&["stop", "--name", &name])?.status.code(), Some(0))
}

fn two_sandboxes_at_once() -> Outcome {
    let start = || sandbox().start();
    let (first, second) = thread::scope(|scope| {
        let first = scope.spawn(start);
        let second = scope.spawn(start);
        (first.join(), second.join())
    });
    let (first, second) = (first.map_err(|_| "panic")??, second.map_err(|_| "panic")??);
    ensure(first.address() != second.address(), "both have one address")?;
    first.exec(["sh", "-c", "echo first > /root/mark"])?;
    equal(second.exec(["cat", "/root/mark"])?.status.code(), Some(1))?;
    let traces = Traces::of(first.name())?;
    first.stop()?;
    traces.expect_none()?;
    equal(second.exec(["true"])?.status.code(), Some(0))?;
    let traces = Traces::of(second.name())?;
    drop(second);
    traces.expect_none()
}

fn a_server_of_the_test_is_reached() -> Outcome {
    let sandbox = sandbox().start()?;
    let server = TcpListener::bind((sandbox.gateway(), 0))?;
    let url = format!("http://{}/", server.local_addr()?);
    let serve = thread::spawn(move || -> std::io::Result<String> {
        let (mut connection, peer) = server.accept()?;
        let _ = connection.read(&mut [0; 1024])?;
        connection.write_all(b"HTTP/1.0 200 OK\r\n\r\nfrom the host")?;
        Ok(peer.ip().to_string())
    });
    let output = sandbox.exec(["curl", "-sS", "--max-time", "10", &url])?;
    equal(text(&output.stdout), "from the host".into())?;
    equal(serve.join().map_err(|_| "panic")??, sandbox.address().to_string())
}

fn binds_are_seen_inside() -> Outcome {
    let shared = tempfile::tempdir()?;
    std::fs::write(shared.path().join("host"), "h")?;
    let sandbox = sandbox().bind(shared.path(), "/rw").bind_read_only(shared.path(), "/opt/ro").start()?;
    let output = sandbox.exec(["sh", "-c", "cat /opt/ro/host; echo g > /rw/guest; echo no > /opt/ro/guest"])?;
    equal((output.status.success(), text(&output.stdout)), (false, "h".into()))?;
    sandbox.stop()?;
    // What the bind led to is still there after the clean-up.
    equal(std::fs::read_to_string(shared.path().join("guest"))?, "g\n".into())
}

fn the_kind_of_root_decides_about_whiteouts() -> Outcome {
    // Where the host cannot mount an overlay there is one kind only.
    let kinds = [(RootKind::NineP, true), (RootKind::Overlay, false)];
    for (root, allowed) in kinds.into_iter().filter(|(root, _)| [quickest(), RootKind::NineP].contains(root)) {
        let sandbox = sandbox().root(root).start()?;
        let traces = Traces::of(sandbox.name())?;
        equal(sandbox.exec(["mknod", "/root/whiteout", "c", "0", "0"])?.status.success(), allowed)?;
        sandbox.exec(["sh", "-c", "echo kept > /root/file"])?;
        equal(text(&sandbox.exec(["cat", "/root/file"])?.stdout), "kept\n".into())?;
        sandbox.stop()?;
        traces.expect_none()?;
    }
    Ok(())
}

fn orphans_leave_no_zombies() -> Outcome {
    let sandbox = sandbox().start()?;
    let script = "(sleep 0.1 &); sh -c 'sleep 0.1 & exec sleep 0.3'; sleep 0.3
        for try in $(seq 100); do ps -eo stat= | grep -q Z || break; sleep 0.1; done; ps -eo stat= | grep -c Z";
    equal(text(&sandbox.exec(["sh", "-c", script])?.stdout), "0\n".into())
}

fn ctrl_c_leaves_nothing() -> Outcome {
    let (mut child, traces) = run_until_ready()?;
    signal(&child, Signal::SIGINT)?;
    equal(child.wait()?.code(), Some(130))?;
    traces.expect_none()
}

fn ctrl_c_while_starting_leaves_nothing() -> Outcome {
    for milliseconds in [20, 100, 250, 500] {
        let mut child = spawn(&["run", "--", "sleep", "60"])?;
        let name = format!("run-{}-0", child.id());
        thread::sleep(Duration::from_millis(milliseconds));
        signal(&child, Signal::SIGTERM)?;
        let code = child.wait()?.code();
        ensure(matches!(code, Some(143) | None), &format!("{code:?} after {milliseconds} ms"))?;
        Traces::expected(&name).expect_none()?;
    }
    Ok(())
}

fn a_killed_run_is_swept() -> Outcome {
    let (mut child, traces) = run_until_ready()?;
    traces.expect_all()?;
    signal(&child, Signal::SIGKILL)?;
    child.wait()?;
    // The start of another test's sandbox may have been first, and be at it still: then it is listed.
    let start = Instant::now();
    while traces.are_listed()? && start.elapsed() < Duration::from_secs(20) {
        thread::sleep(Duration::from_millis(50));
    }
    traces.expect_none()
}

fn a_killed_start_is_swept() -> Outcome {
    for milliseconds in [50, 150, 300, 600] {
        let name = unique("killed");
        let mut child = spawn(&["start", "--name", &name])?;
        thread::sleep(Duration::from_millis(milliseconds));
        signal(&child, Signal::SIGKILL)?;
        child.wait()?;
        // Killed at its very end it may have started the sandbox wholly.
        equal(testbed(&["stop", "--name", &name])?.status.code(), Some(0))?;
        Traces::expected(&name).expect_none()?;
    }
    Ok(())
}

fn links_without_a_record_are_swept() -> Outcome {
    // What an `ip` leaves that outlived its killed testbed: the last slot, which no sandbox here has.
    let (link, namespace) = (Path::new("/sys/class/net/tt-16383"), Path::new("/run/netns/tt-16383"));
    let ip = |words: &str| Command::new("ip").args(words.split(' ')).status();
    // The start of another test's sandbox may sweep what is half made.
    let make = |_| -> Outcome {
        ensure(ip("netns add tt-16383")?.success(), "no namespace")?;
        ensure(ip("link add tt-16383 type veth peer name eth0 netns tt-16383")?.success(), "no link")
    };
    ensure((0..20).any(|round| make(round).is_ok()), "they are swept each time")?;
    let sandbox = sandbox().start()?;
    ensure(!link.exists() && !namespace.exists(), "they are left")?;
    let traces = Traces::of(sandbox.name())?;
    equal(testbed(&["list"])?.status.code(), Some(0))?;
    traces.expect_all()
}

fn a_panic_leaves_nothing() -> Outcome {
    let sandbox = sandbox().start()?;
    let traces = Traces::of(sandbox.name())?;
    let panicked = thread::spawn(move || {
        let _held = sandbox;
        std::panic::resume_unwind(Box::new("on purpose"));
    });
    ensure(panicked.join().is_err(), "it did not panic")?;
    traces.expect_none()
}

fn a_living_owner_keeps_its_sandbox() -> Outcome {
    let name = unique("owned");
    let sandbox = sandbox().name(&name).start()?;
    for verb in ["start", "stop"] {
        let output = testbed(&[verb, "--name", &name])?;
        equal(output.status.code(), Some(1))?;
        ensure(text(&output.stderr).contains("belongs to process"), &text(&output.stderr))?;
    }
    equal(sandbox.exec(["true"])?.status.code(), Some(0))
}

/// A `testbed run` whose command has begun.
fn run_until_ready() -> Result<(Child, Traces), Failed> {
    let mut child = spawn(&["run", "--", "sh", "-c", "echo ready; exec sleep 600"])?;
    let mut lines = BufReader::new(child.stdout.take().ok_or("no stdout")?).lines();
    equal(next(&mut lines)?, "ready".into())?;
    let traces = Traces::of(&format!("run-{}-0", child.id()))?;
    Ok((child, traces))
}

/// Everything on this host by which a sandbox shows.
struct Traces {
    listed: Value,
    paths: Vec<PathBuf>,
    /// By names that are another sandbox's next.
    links: Vec<PathBuf>,
    flag: String,
}

impl Traces {
    fn of(name: &str) -> Result<Self, Failed> {
        let listed = list()?.into_iter().find(|it| it["name"] == name).ok_or(format!("{name} is not listed"))?;
        let link = listed["link"].as_str().ok_or("no link")?;
        let mut traces = Self::expected(name);
        traces.links = ["/sys/class/net", "/run/netns"].map(|parent| Path::new(parent).join(link)).into();
        traces.paths.push(listed["disk"].as_str().ok_or("no disk")?.into());
        Ok(Self { listed, ..traces })
    }

    /// What can be known by the name alone.
    fn expected(name: &str) -> Self {
        let directory = Path::new("/run/terrarium-testbed").join(format!("tt-{name}"));
        let flag = format!("--root={}", directory.join("root").display());
        Self { listed: Value::Null, paths: vec![directory], links: Vec::new(), flag }
    }

    fn processes(&self) -> Vec<String> {
        let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let lines = all.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
        lines.map(|line| text(&line)).filter(|line| line.split('\0').any(|word| word == self.flag)).collect()
    }

    fn expect_all(&self) -> Outcome {
        ensure(!self.processes().is_empty(), "no process")?;
        let all = self.paths.iter().chain(&self.links);
        all.into_iter().try_for_each(|path| ensure(path.exists(), &format!("{} is missing", path.display())))
    }

    /// Whether the links are somebody else's by now, who has them on record before they are made.
    fn are_anothers(&self) -> Result<bool, Failed> {
        Ok(list()?.iter().any(|it| it["link"] == self.listed["link"] && it["name"] != self.listed["name"]))
    }

    fn are_listed(&self) -> Result<bool, Failed> {
        Ok(list()?.iter().any(|it| it["name"] == self.listed["name"]))
    }

    fn expect_none(&self) -> Outcome {
        equal(self.processes(), Vec::new())?;
        self.paths.iter().try_for_each(|path| ensure(!path.exists(), &format!("{} is left", path.display())))?;
        let is_left = |path: &&PathBuf| path.exists();
        let link = self.links.iter().find(is_left);
        // Another one may have come, or gone, since it was looked at.
        ensure(link.is_none() || self.are_anothers()? || link.filter(is_left).is_none(), &format!("{link:?} is left"))?;
        let mounts = std::fs::read_to_string("/proc/self/mounts")?;
        let left = mounts.lines().find(|line| self.paths.iter().any(|path| line.contains(&*path.to_string_lossy())));
        equal(left, None)
    }
}

/// What `list` says, after it swept what it could.
fn list() -> Result<Vec<Value>, Failed> {
    let output = testbed(&["list", "-o", "json"])?;
    equal(output.status.code(), Some(0))?;
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn sandbox() -> Builder {
    Sandbox::builder().root(quickest())
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_testbed"));
    let (verb, rest) = args.split_at(1);
    command.args(verb).stdin(Stdio::null());
    if let ["run" | "start"] = verb {
        command.arg(format!("--root={}", quickest()));
    }
    command.args(rest);
    command
}

fn testbed(args: &[&str]) -> Result<Output, Failed> {
    Ok(command(args).output()?)
}

fn spawn(args: &[&str]) -> Result<Child, Failed> {
    Ok(command(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?)
}

fn signal(child: &Child, signal: Signal) -> Outcome {
    Ok(kill(Pid::from_raw(child.id().cast_signed()), signal)?)
}

fn next(lines: &mut impl Iterator<Item = std::io::Result<String>>) -> Result<String, Failed> {
    Ok(lines.next().ok_or("the output ended")??)
}

fn unique(what: &str) -> String {
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    format!("test-{what}-{}-{count}", std::process::id())
}
