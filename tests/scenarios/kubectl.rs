//! What kubectl does with a container that runs: terminals, copies, attaching, debugging.

use std::time::Duration;

use harness::{Cluster, Namespace, eventually};
use serde_json::json;

use crate::shells::{add_volume, container_status, mount, pod, shell};

crate::stories! {
    Shared in CONTAINERS:
        exec_gives_a_terminal_of_the_callers_size
        what_is_typed_interrupts_a_program
        attach_joins_input_and_output
        cp_copies_in_both_directions
        an_ephemeral_container_looks_into_another;
}

/// Runs kubectl in a terminal of 33 rows and 101 columns, where something is typed each time that something is seen.
fn in_a_terminal(namespace: &Namespace<'_>, words: &str, typed: &[(&str, &str)]) -> harness::Ran {
    let command = format!("stty rows 33 cols 101; exec terrarium kubectl -n {} {words}", namespace.name);
    let typed: Vec<String> = typed.iter().map(|(seen, keys)| format!("await '{seen}'; printf '{keys}';")).collect();
    let script = format!(
        "seen=$(mktemp)
        await() {{ for n in $(seq 600); do grep -q -- \"$1\" $seen && return; sleep 0.1; done; }}
        {{ {} sleep 1; }} | script -qefc '{command}' $seen; code=$?; rm $seen; exit $code",
        typed.join(" ")
    );
    namespace.cluster.sh(&script)
}

fn running<'a>(cluster: &'a Cluster, name: &'a str, script: &str) -> Namespace<'a> {
    let namespace = cluster.namespace(name);
    let mut container = shell("main", script);
    // Without the joint stream of a shell: containerd closes the input of who is attached when an output ends.
    container["command"][2] = json!(script);
    // Its input ends with that of the first who is attached.
    container["stdin"] = json!(true);
    container["stdinOnce"] = json!(true);
    mount(&mut container, json!({"name": "data", "mountPath": "/data"}));
    let mut pod = pod("shell", &[container]);
    add_volume(&mut pod, json!({"name": "data", "emptyDir": {}}));
    namespace.apply(&pod.to_string());
    namespace.wait("pod/shell", "condition=Ready");
    namespace
}

fn exec_gives_a_terminal_of_the_callers_size(cluster: &Cluster) {
    let namespace = running(cluster, "kubectl-terminal", "sleep 600");
    let ran = in_a_terminal(
        &namespace,
        "exec -it shell -- /bin/bash --norc",
        &[("bash-[^ ]*# $", "tty; stty size; echo $((6 * 7)); exit 9\\n")],
    );
    let ran = ran.exits(9);
    for words in ["/dev/pts/", "33 101", "\n42\r"] {
        assert!(ran.stdout.contains(words), "expected {words:?}: {ran}");
    }
    // Without one there is none.
    let ran = namespace.try_kubectl("exec shell -- /usr/bin/tty").exits(1);
    ran.prints("not a tty");
}

fn what_is_typed_interrupts_a_program(cluster: &Cluster) {
    // Before 2026-07 kubectl's own terminal, which is gVisor's too, would interrupt kubectl, if that were at it by itself.
    let namespace = running(cluster, "kubectl-interrupt", "sleep 600");
    let ran = in_a_terminal(
        &namespace,
        "exec -it shell -- /bin/bash --norc",
        &[
            ("bash-[^ ]*# $", "echo $((6 * 7)); sleep 100\\n"),
            ("42", "\\003"),
            // Before 2026-07 the shell reads the byte, too, and rings the bell.
            ("bash-[^ ]*# [[:cntrl:]]*$", "echo still $? here; exit 9\\n"),
        ],
    );
    assert!(ran.exits(9).stdout.contains("still 130 here"));
}

fn attach_joins_input_and_output(cluster: &Cluster) {
    let script = "echo begins; while read -r line; do echo \"heard $line\"; done; echo over; exit 3";
    let namespace = running(cluster, "kubectl-attach", script);
    let words = ["terrarium", "kubectl", "-n", namespace.name, "attach", "-i", "shell"];
    let attached = cluster.run_with_input(words, b"one\ntwo\n");
    for words in ["heard one\n", "heard two\n", "over\n"] {
        assert!(attached.stdout.contains(words), "{attached}");
    }
    assert_eq!(namespace.kubectl("logs shell"), "begins\nheard one\nheard two\nover\n");
    eventually(Duration::from_secs(60), || {
        let status = container_status(&namespace, "shell", "main");
        if status["state"]["terminated"]["exitCode"] == 3 { Ok(()) } else { Err(status.to_string()) }
    });
}

fn cp_copies_in_both_directions(cluster: &Cluster) {
    let namespace = running(cluster, "kubectl-cp", "sleep 600");
    cluster
        .sh("mkdir -p /tmp/cp/sub && head -c 3000000 /dev/urandom >/tmp/cp/sub/large && echo small >/tmp/cp/small")
        .succeeds();
    namespace.kubectl("cp /tmp/cp shell:/data/cp");
    namespace.kubectl("cp shell:/data/cp /tmp/back");
    cluster.sh("diff -r /tmp/cp /tmp/back && rm -r /tmp/cp /tmp/back").succeeds();
    assert_eq!(namespace.kubectl("exec shell -- /bin/cat /data/cp/small"), "small\n");
    // That kubectl exits with 0 is its own affair.
    namespace.try_kubectl("cp shell:/data/nowhere /tmp/nowhere");
    cluster.sh("test ! -e /tmp/nowhere").succeeds();
}

fn an_ephemeral_container_looks_into_another(cluster: &Cluster) {
    let namespace = running(cluster, "kubectl-debug", "sleep 4711");
    let words = "debug shell --image=localhost/terrarium/sample:0.1.0 --image-pull-policy=IfNotPresent --target=main \
        --profile=general -c looks -- /sample cat /proc/1/cmdline";
    namespace.kubectl(words);
    eventually(Duration::from_secs(30), || {
        let status = container_status(&namespace, "shell", "looks");
        if status["state"]["terminated"]["exitCode"] == 0 { Ok(()) } else { Err(status.to_string()) }
    });
    assert_eq!(namespace.kubectl("logs shell -c looks"), "sleep\u{0}4711\u{0}");
    assert_eq!(container_status(&namespace, "shell", "main")["restartCount"], 0);
}
