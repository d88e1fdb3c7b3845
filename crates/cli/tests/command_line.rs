//! The command line where no cluster runs: help, completion, errors, exit statuses. Nothing here changes the machine.

#![allow(clippy::unwrap_used)] // Helpers of tests, which the lint takes for code of its own.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// The program, away from whatever the environment of the tests says.
fn terrarium(args: &[&str]) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("terrarium"));
    for name in ["COLUMNS", "KUBECONFIG", "TERRARIUM_DATA_DIR"] {
        command.env_remove(name);
    }
    // No installation is beside it.
    command.env("TERRARIUM_COMPONENTS", "/nonexistent").args(args);
    command
}

fn output(args: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = terrarium(args).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// A data directory with logs in it, as an earlier start left it.
fn data_with_logs(logs: &[(&str, &str)]) -> TempDir {
    let data = tempfile::tempdir().unwrap();
    fs::create_dir(data.path().join("logs")).unwrap();
    for (name, text) in logs {
        fs::write(data.path().join("logs").join(name), text).unwrap();
    }
    data
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A cluster that runs on this machine has a say in what the commands answer.
fn a_cluster_is_here() -> bool {
    let is_here = Path::new("/run/terrarium").exists();
    if is_here {
        eprintln!("skipped: /run/terrarium exists");
    }
    is_here
}

#[test]
fn help() {
    for command in [
        "",
        "up",
        "down",
        "status",
        "doctor",
        "exec",
        "logs",
        "image",
        "image import",
        "support",
        "support bundle",
        "version",
        "completion",
    ] {
        let mut args: Vec<&str> = command.split_whitespace().collect();
        args.push("--help");
        let (code, stdout, stderr) = output(&args);
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{command}");
        let name = if command.is_empty() { "terrarium".to_owned() } else { command.replace(' ', "-") };
        insta::assert_snapshot!(format!("help-{name}"), stdout);
    }
}

#[test]
fn wrong_usage_is_2_with_a_hint_on_stderr() {
    for (args, hint) in [
        (&["up", "--wiat", "1m"][..], "a similar argument exists: '--wait'"),
        (&["--dta-dir", "/x", "up"], "a similar argument exists: '--data-dir'"),
        (&["staus"], "a similar subcommand exists: 'status'"),
        (&["upp"], "similar subcommands exist: 'support', 'up'"),
        (&["up", "--wait", "soon"], "--wait <DURATION>"),
        (&["status", "-o", "yaml"], "[possible values: text, json]"),
        (&["image", "import"], "<FILE>"),
        (&["completion", "tcsh"], "bash"),
    ] {
        let (code, stdout, stderr) = output(args);
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{args:?}");
        assert!(stderr.contains(hint) && stderr.lines().next().unwrap().ends_with(" [usage]"), "{args:?}: {stderr}");
    }
}

#[test]
fn what_the_program_alone_calls_is_never_offered() {
    let (code, _, stderr) = output(&["supervice"]);
    assert!(code == Some(2) && !stderr.contains("supervise"), "{stderr}");
    let (_, stdout, _) = output(&["completion", "bash"]);
    assert!(!stdout.contains("supervise"));
}

#[test]
fn completion_knows_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, stdout, stderr) = output(&["completion", shell]);
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{shell}");
        assert!(stdout.contains("kubectl") && stdout.contains("data-dir"), "{shell}");
    }
}

#[test]
fn the_status_of_nothing_is_3_and_a_whole_document() {
    if a_cluster_is_here() {
        return;
    }
    let data = tempfile::tempdir().unwrap();
    let (code, stdout, stderr) = output(&["status", "-o", "json", "--data-dir", text(data.path())]);
    assert_eq!((code, stderr.as_str()), (Some(3), ""));
    insta::assert_snapshot!("status-json", stdout.replace(text(data.path()), "[data]"));

    let (code, stdout, _) = output(&["status", "--data-dir", text(data.path())]);
    assert_eq!(code, Some(3));
    insta::assert_snapshot!("status-text", stdout.replace(text(data.path()), "[data]"));
    assert_eq!(fs::read_dir(data.path()).unwrap().count(), 0, "looking makes nothing");
}

/// Whatever this machine is and whoever runs the tests.
#[test]
fn doctor_says_the_same_twice_and_changes_nothing() {
    if a_cluster_is_here() {
        return;
    }
    let parent = tempfile::tempdir().unwrap();
    let data = parent.path().join("data");
    let look = || output(&["doctor", "-o", "json", "--data-dir", text(&data)]);
    let (code, stdout, stderr) = look();
    let document: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let findings = document["findings"].as_array().unwrap();
    let gaps: Vec<_> = findings.iter().map(|finding| finding["gap"].as_str().unwrap()).collect();
    assert!(gaps.contains(&"privileges") && gaps.contains(&"hostname-resolution"), "{gaps:?}");
    assert_eq!(document["report"]["schema"], 1);
    assert_eq!(code == Some(0), stderr.is_empty(), "{stderr}");
    assert!(stderr.is_empty() || stderr.starts_with("error: Pods cannot run in this sandbox: "), "{stderr}");

    let (again, stdout, _) = look();
    let second: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((again, &second["report"], &second["findings"]), (code, &document["report"], &document["findings"]));

    let (in_words, stdout, _) = output(&["doctor", "--data-dir", text(&data)]);
    assert_eq!(in_words, code);
    assert!(gaps.iter().all(|gap| stdout.contains(gap)), "{stdout}");

    // Others may mount what they like meanwhile.
    assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains("terrarium-probe"));
    assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0, "nothing is left beside the data directory");
    assert!(!Path::new("/run/terrarium").exists());
}

#[test]
fn what_needs_a_cluster_says_how_to_get_one() {
    if a_cluster_is_here() {
        return;
    }
    let (code, stdout, stderr) = output(&["kubectl", "get", "nodes"]);
    assert_eq!((code, stdout.as_str()), (Some(3), ""));
    assert_eq!(stderr, "error: no cluster is running here [not-running]\nhint: start one with `terrarium up`\n");
}

#[test]
fn the_log_that_is_not_there_is_told_with_those_that_are() {
    if a_cluster_is_here() {
        return;
    }
    let data = data_with_logs(&[("kubelet.log", ""), ("containerd.log", ""), ("kubelet.log.1", "")]);
    for name in ["kublet", "../logs/kubelet", "kubelet.log"] {
        let (code, stdout, stderr) = output(&["logs", name, "--data-dir", text(data.path())]);
        assert_eq!((code, stdout.as_str()), (Some(4), ""), "{name}");
        assert!(stderr.contains("containerd, kubelet [no-log]\n"), "{stderr}");
    }
    let (code, _, stderr) = output(&["logs", "kubelet", "--data-dir", "/nonexistent"]);
    assert_eq!(code, Some(4));
    assert!(stderr.contains("/nonexistent/logs"), "{stderr}");
}

#[test]
fn a_log_is_printed_as_it_is() {
    if a_cluster_is_here() {
        return;
    }
    let data = data_with_logs(&[("kubelet.log", "one\ntwo\nthree\n")]);
    let (code, stdout, stderr) = output(&["logs", "kubelet", "--tail", "2", "--data-dir", text(data.path())]);
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (Some(0), "two\nthree\n", ""));
}

#[test]
fn a_reader_that_has_enough_is_no_error() {
    if a_cluster_is_here() {
        return;
    }
    let data = data_with_logs(&[("kubelet.log", &"a line\n".repeat(200_000))]);
    let mut command = terrarium(&["logs", "kubelet", "--data-dir", text(data.path())]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdout.take().unwrap().read_exact(&mut [0; 6]).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

#[test]
fn up_refuses_a_directory_of_others() {
    if a_cluster_is_here() || !fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0) {
        return;
    }
    let data = tempfile::tempdir().unwrap();
    fs::write(data.path().join("thesis.tex"), "").unwrap();
    let (code, stdout, stderr) = output(&["up", "--data-dir", text(data.path())]);
    assert_eq!((code, stdout.as_str()), (Some(4), ""));
    assert!(stderr.contains("not terrarium's [data-dir-foreign]") && stderr.contains("--data-dir"), "{stderr}");
    assert!(!Path::new("/run/terrarium").exists());
}
