//! How containers begin and end: hooks, init containers and sidecars, signals, restarts, and what is told of an end.

use std::time::Duration;

use harness::{Cluster, eventually};
use serde_json::{Value, json};

use crate::shells::{add_volume, container_status, ends, mount, pod, run, says, shell};

crate::stories! {
    Shared in CONTAINERS:
        init_containers_and_sidecars_come_in_order
        hooks_run_after_the_start_and_before_the_end
        a_container_that_does_not_end_is_killed_after_its_grace
        an_end_is_told_with_its_code_signal_and_message
        a_container_that_crashes_is_started_again_and_again
        a_program_that_is_not_there_is_told;
    Shared in BUILDS:
        the_kernels_kill_for_want_of_memory_is_told
        limits_are_changed_in_place;
}

fn init_containers_and_sidecars_come_in_order(cluster: &Cluster) {
    let namespace = cluster.namespace("endings-init");
    let log = |container: &mut Value| mount(container, json!({"name": "log", "mountPath": "/log"}));
    let mut first = shell("first", "echo first >>/log/log");
    let mut sidecar = shell(
        "sidecar",
        "trap 'echo sidecar ends >>/log/log; cat /log/log; exit 0' TERM; echo sidecar >>/log/log; while :; do sleep 0.1; done",
    );
    sidecar["restartPolicy"] = json!("Always");
    let started = json!({"command": ["/bin/grep", "sidecar", "/log/log"]});
    sidecar["startupProbe"] =
        json!({"exec": started, "periodSeconds": 1, "timeoutSeconds": 30, "failureThreshold": 30});
    let mut second = shell("second", "echo second >>/log/log");
    let mut main = shell("main", "echo main >>/log/log");
    [&mut first, &mut sidecar, &mut second, &mut main].into_iter().for_each(log);
    let mut pod = pod("order", &[main]);
    pod["spec"]["initContainers"] = json!([first, sidecar, second]);
    pod["spec"]["terminationGracePeriodSeconds"] = json!(10);
    add_volume(&mut pod, json!({"name": "log", "emptyDir": {}}));
    assert_eq!(run(&namespace, &pod, "sidecar"), "first\nsidecar\nsecond\nmain\nsidecar ends\n");
}

fn hooks_run_after_the_start_and_before_the_end(cluster: &Cluster) {
    let namespace = cluster.namespace("endings-hooks");
    cluster.sh("mkdir -p /srv/hooks").succeeds();
    let mut container = shell("main", "trap 'echo told >>/hooks/log; exit 0' TERM; while :; do sleep 0.1; done");
    let run = |script: &str| json!({"exec": {"command": ["/bin/bash", "-c", script]}});
    container["lifecycle"] =
        json!({"postStart": run("echo started >>/hooks/log"), "preStop": run("sleep 1; echo stops >>/hooks/log")});
    mount(&mut container, json!({"name": "hooks", "mountPath": "/hooks"}));
    let mut broken = shell("main", "sleep 600");
    broken["lifecycle"] = json!({"postStart": run("echo why >&2; exit 5")});
    let mut pod_with_hooks = pod("hooks", &[container]);
    pod_with_hooks["spec"]["terminationGracePeriodSeconds"] = json!(10);
    add_volume(&mut pod_with_hooks, json!({"name": "hooks", "hostPath": {"path": "/srv/hooks"}}));
    namespace.apply(&pod_with_hooks.to_string());
    namespace.apply(&pod("broken", &[broken]).to_string());
    namespace.wait("pod/hooks", "condition=Ready");
    namespace.kubectl("delete pod hooks --timeout=60s");
    cluster.sh("cat /srv/hooks/log && rm -r /srv/hooks").succeeds().prints("started\nstops\ntold\n");
    says(&namespace, "PostStartHook failed");
    ends(&namespace, "broken", "Failed");
}

fn a_container_that_does_not_end_is_killed_after_its_grace(cluster: &Cluster) {
    let namespace = cluster.namespace("endings-grace");
    let deaf =
        shell("main", "trap 'echo -n heard >/dev/termination-log' TERM; echo ready; while :; do sleep 0.1; done");
    let mut pod = pod("deaf", &[deaf]);
    pod["spec"]["terminationGracePeriodSeconds"] = json!(5);
    // So that its end can be seen, it is not gone at once.
    pod["metadata"]["finalizers"] = json!(["scenarios.terrarium/look"]);
    namespace.apply(&pod.to_string());
    eventually(Duration::from_secs(60), || match namespace.try_kubectl("logs deaf").stdout {
        said if said.contains("ready") => Ok(()),
        said => Err(said),
    });
    namespace.kubectl("delete pod deaf --wait=false");
    eventually(Duration::from_secs(60), || {
        let status = container_status(&namespace, "deaf", "main");
        let ended = &status["state"]["terminated"];
        if ended["exitCode"] == 137 && ended["message"] == "heard" { Ok(()) } else { Err(status.to_string()) }
    });
    namespace.kubectl(r#"patch pod deaf --type=json -p=[{"op":"remove","path":"/metadata/finalizers"}]"#);
}

fn an_end_is_told_with_its_code_signal_and_message(cluster: &Cluster) {
    let namespace = cluster.namespace("endings-told");
    let mut tells = shell("tells", "echo -n because >/dev/termination-log; echo not this; exit 42");
    tells["terminationMessagePolicy"] = json!("FallbackToLogsOnError");
    let mut logs = shell("logs", "echo the last words; exit 255");
    logs["terminationMessagePolicy"] = json!("FallbackToLogsOnError");
    let mut elsewhere = shell("elsewhere", "echo -n fine >/tmp/message; exit 0");
    elsewhere["terminationMessagePath"] = json!("/tmp/message");
    let killed = shell("killed", "/bin/bash -c 'kill -SEGV $BASHPID'; exit $?");
    namespace.apply(&pod("told", &[tells, logs, elsewhere, killed]).to_string());
    ends(&namespace, "told", "Failed");
    for (container, code, message) in [
        ("tells", 42, json!("because")),
        ("logs", 255, json!("the last words\n")),
        ("elsewhere", 0, json!("fine")),
        ("killed", 139, Value::Null),
    ] {
        let status = container_status(&namespace, "told", container)["state"]["terminated"].clone();
        assert_eq!((&status["exitCode"], &status["message"]), (&json!(code), &message), "{container}: {status}");
        assert_eq!(status["reason"], if code == 0 { "Completed" } else { "Error" }, "{status}");
    }
}

fn a_container_that_crashes_is_started_again_and_again(cluster: &Cluster) {
    let namespace = cluster.namespace("endings-crashes");
    let mut crashes = shell("main", "echo run >>/data/runs; wc -l </data/runs; exit 3");
    mount(&mut crashes, json!({"name": "data", "mountPath": "/data"}));
    let mut pod = pod("crashes", &[crashes]);
    pod["spec"]["restartPolicy"] = json!("Always");
    add_volume(&mut pod, json!({"name": "data", "emptyDir": {}}));
    namespace.apply(&pod.to_string());
    let status = eventually(Duration::from_secs(60), || {
        let status = container_status(&namespace, "crashes", "main");
        if status["restartCount"].as_u64() >= Some(2) { Ok(status) } else { Err(status.to_string()) }
    });
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 3, "{status}");
    says(&namespace, "Back-off restarting failed container main");
    // The log of the one before may be gone by now.
    let runs = eventually(Duration::from_secs(30), || {
        let said = namespace.try_kubectl("logs crashes").stdout;
        said.trim().parse::<u64>().map_err(|_| said)
    });
    assert!(runs >= 3, "{runs} runs");
}

fn a_program_that_is_not_there_is_told(cluster: &Cluster) {
    let namespace = cluster.namespace("endings-nothing");
    let mut nothing = shell("main", "");
    nothing["command"] = json!(["no-such-program"]);
    namespace.apply(&pod("nothing", &[nothing]).to_string());
    ends(&namespace, "nothing", "Failed");
    let status = container_status(&namespace, "nothing", "main")["state"]["terminated"].clone();
    assert_eq!((&status["exitCode"], &status["reason"]), (&json!(128), &json!("StartError")), "{status}");
    let message = status["message"].as_str().unwrap_or_default();
    assert!(message.contains("exec \"no-such-program\": executable file not found in $PATH"), "{status}");
}

/// gVisor ends nobody for want of memory: the count that Linux would have is put before the shim, by a mount over the
/// container's cgroup, and the process is killed as Linux would kill it.
const KILL: &str = r#"until pid=$(pgrep -f '^sleep 4712$'); do sleep 0.1; done; group=$(sed -n 's/^[0-9]*:memory://p' /proc/$pid/cgroup) &&
    group=/sys/fs/cgroup/memory$group && mount -t tmpfs none $group &&
    printf 'oom_kill_disable 0\nunder_oom 0\noom_kill 1\n' >$group/memory.oom_control &&
    exit=/run/containerd/io.containerd.runtime.v2.task/k8s.io/${group##*/}/exit.json && kill -9 $pid &&
    { for n in $(seq 1000); do [ -e $exit ] && seen=1 && break; sleep 0.02; done; umount -l $group && [ "$seen" ]; }"#;

fn the_kernels_kill_for_want_of_memory_is_told(cluster: &Cluster) {
    let namespace = cluster.namespace("endings-memory");
    let mut eats = shell("main", "exec sleep 4712");
    eats["resources"] = json!({"limits": {"memory": "16Mi"}});
    namespace.apply(&pod("eats", &[eats]).to_string());
    namespace.wait("pod/eats", "condition=Ready");
    let containerd = cluster.pid("containerd").expect("it runs").to_string();
    cluster.run(["nsenter", "-t", &containerd, "-m", "bash", "-c", KILL]).succeeds();
    let status = eventually(Duration::from_secs(60), || {
        let status = container_status(&namespace, "eats", "main")["state"]["terminated"].clone();
        if status.is_null() { Err("it runs".to_owned()) } else { Ok(status) }
    });
    assert_eq!((&status["exitCode"], &status["reason"]), (&json!(137), &json!("OOMKilled")), "{status}");
}

fn limits_are_changed_in_place(cluster: &Cluster) {
    let namespace = cluster.namespace("endings-limits");
    let mut container = shell("main", "exec sleep 4713");
    container["resources"] =
        json!({"limits": {"cpu": "500m", "memory": "64Mi"}, "requests": {"cpu": "10m", "memory": "8Mi"}});
    namespace.apply(&pod("limits", &[container]).to_string());
    namespace.wait("pod/limits", "condition=Ready");
    let files = r#"until pid=$(pgrep -f '^sleep 4713$'); do sleep 0.1; done; at() { sed -n "s/^[0-9]*:$1://p" /proc/$pid/cgroup; }
        cat /sys/fs/cgroup/cpu$(at cpu)/cpu.cfs_quota_us /sys/fs/cgroup/memory$(at memory)/memory.limit_in_bytes"#;
    let containerd = cluster.pid("containerd").expect("it runs").to_string();
    let limits = || cluster.run(["nsenter", "-t", &containerd, "-m", "bash", "-c", files]).succeeds().stdout;
    assert_eq!(limits(), "50000\n67108864\n");
    let patch = r#"{"spec":{"containers":[{"name":"main","resources":{"limits":{"cpu":"300m","memory":"96Mi"}}}]}}"#;
    namespace.kubectl(&format!("patch pod limits --subresource resize -p {patch}"));
    eventually(Duration::from_secs(30), || match limits() {
        limits if limits == "30000\n100663296\n" => Ok(()),
        limits => Err(limits),
    });
    eventually(Duration::from_secs(30), || {
        let status = container_status(&namespace, "limits", "main");
        let told = status["resources"]["limits"]["cpu"] == "300m" && status["restartCount"] == 0;
        if told { Ok(()) } else { Err(status.to_string()) }
    });
}
