//! What a Pod asks of its containers holds inside: users, volumes, rights, filters, namespaces.

use harness::{Cluster, Namespace};
use serde_json::{Value, json};
use terrarium_testbed::Privilege;

use crate::shells::{add_volume, container_status, ends, mount, pod, run, says, shell};

crate::stories! {
    Shared in CONTAINERS:
        a_container_has_the_users_and_groups_of_its_pod
        volumes_are_where_and_how_they_are_mounted
        a_read_only_root_is_read_only
        capabilities_are_those_that_were_asked_for
        filters_of_system_calls_are_in_force
        containers_of_a_pod_may_share_its_processes
        a_pod_may_be_in_the_nodes_namespaces;
}

fn a_container_has_the_users_and_groups_of_its_pod(cluster: &Cluster) {
    let namespace = cluster.namespace("containers-users");
    let mut container = shell(
        "main",
        "id -u; id -g; id -G; touch /data/file; stat -c '%u %g' /data/file; stat -c '%g %a' /data; echo >/refused; exit 0",
    );
    mount(&mut container, json!({"name": "data", "mountPath": "/data"}));
    let mut user = shell("user", "id -u; id -g; echo out >/dev/stdout");
    user["securityContext"] = json!({"runAsUser": 65534, "runAsNonRoot": true});
    let mut pod = pod("users", &[container, user]);
    pod["spec"]["securityContext"] = json!({
        "runAsUser": 1000, "runAsGroup": 3000, "fsGroup": 2000, "supplementalGroups": [4000], "runAsNonRoot": true,
    });
    add_volume(&mut pod, json!({"name": "data", "emptyDir": {}}));
    let said = run(&namespace, &pod, "main");
    let lines: Vec<&str> = said.lines().collect();
    let mut groups: Vec<&str> = lines[2].split(' ').collect();
    groups.sort_unstable();
    assert_eq!((lines[0], lines[1], groups), ("1000", "3000", vec!["2000", "3000", "4000"]), "{said}");
    assert_eq!((lines[3], lines[4]), ("1000 2000", "2000 2777"), "{said}");
    assert!(lines[5].contains("Permission denied"), "{said}");
    assert_eq!(namespace.kubectl("logs users -c user"), "65534\n3000\nout\n");
}

fn volumes_are_where_and_how_they_are_mounted(cluster: &Cluster) {
    let namespace = cluster.namespace("containers-volumes");
    cluster.sh("mkdir -p /srv/shared && echo outside >/srv/shared/there && touch /srv/socket").succeeds();
    let script = "stat -f -c %T /memory; echo in memory >/memory/file && cat /memory/file
        cat /host/there; echo inside >/host/back; echo no >>/reads/there; cat /reads/there
        mkdir /disk/part && echo whole >/disk/part/file; cat /colour";
    let mut writes = shell("writes", script);
    for volume_mount in [
        json!({"name": "memory", "mountPath": "/memory"}),
        json!({"name": "disk", "mountPath": "/disk"}),
        json!({"name": "host", "mountPath": "/host"}),
        json!({"name": "host", "mountPath": "/reads", "readOnly": true}),
        json!({"name": "settings", "mountPath": "/colour", "subPath": "colour"}),
    ] {
        mount(&mut writes, volume_mount);
    }
    let mut reads = shell("reads", "cat /part/file; cat /file; ls /part; cat /memory/file");
    for volume_mount in [
        json!({"name": "disk", "mountPath": "/part", "subPath": "part"}),
        json!({"name": "disk", "mountPath": "/file", "subPathExpr": "$(PART)/file", "readOnly": true}),
        json!({"name": "memory", "mountPath": "/memory"}),
    ] {
        mount(&mut reads, volume_mount);
    }
    reads["env"] = json!([{"name": "PART", "value": "part"}]);
    let mut pod = pod("volumes", &[reads]);
    pod["spec"]["initContainers"] = json!([writes]);
    for volume in [
        json!({"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}),
        json!({"name": "disk", "emptyDir": {}}),
        json!({"name": "host", "hostPath": {"path": "/srv/shared", "type": "Directory"}}),
        json!({"name": "settings", "configMap": {"name": "settings"}}),
    ] {
        add_volume(&mut pod, volume);
    }
    namespace.kubectl("create configmap settings --from-literal=colour=green");
    assert_eq!(run(&namespace, &pod, "reads"), "whole\nwhole\nfile\nin memory\n");
    let said = namespace.kubectl("logs volumes -c writes");
    assert!(said.starts_with("tmpfs\nin memory\noutside\n"), "{said}");
    assert!(said.contains("/reads/there: Read-only file system") && said.ends_with("outside\ngreen"), "{said}");
    cluster.sh("cat /srv/shared/back && rm -r /srv/shared").succeeds().prints("inside");
}

fn a_read_only_root_is_read_only(cluster: &Cluster) {
    let namespace = cluster.namespace("containers-read-only");
    let mut container =
        shell("main", "echo >/new; mkdir /etc/new; echo >/data/new && ls /data; echo >/dev/shm/new; exit 0");
    container["securityContext"] = json!({"readOnlyRootFilesystem": true});
    mount(&mut container, json!({"name": "data", "mountPath": "/data"}));
    let mut pod = pod("read-only", &[container]);
    add_volume(&mut pod, json!({"name": "data", "emptyDir": {}}));
    let said = run(&namespace, &pod, "main");
    assert_eq!(said.matches("Read-only file system").count(), 2, "{said}");
    assert!(said.ends_with("new\n"), "{said}");
}

const STATUS: &str =
    "grep -E '^(Cap|Seccomp:)' /proc/self/status | tr -s '\\t ' ' '; setpriv --dump | grep no_new_privs";

fn capabilities_are_those_that_were_asked_for(cluster: &Cluster) {
    let namespace = cluster.namespace("containers-capabilities");
    let mut usual = shell("usual", &format!("{STATUS}; chown 7 /sample && echo owned"));
    usual["securityContext"] = json!({"capabilities": {"add": ["SYS_TIME"], "drop": ["MKNOD"]}});
    let mut few = shell("few", &format!("{STATUS}; chown 7 /sample; exit 0"));
    few["securityContext"] =
        json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}});
    let mut none = shell("none", &format!("{STATUS}; exit 0"));
    none["securityContext"] = json!({"runAsUser": 1000, "allowPrivilegeEscalation": false});
    let pod = pod("capabilities", &[usual, few, none]);
    let said = run(&namespace, &pod, "usual");
    // containerd's default, without CAP_MKNOD, with CAP_SYS_TIME.
    assert!(said.contains("CapEff: 00000000a20425fb\nCapBnd: 00000000a20425fb\n"), "{said}");
    assert!(said.ends_with("owned\n"), "{said}");
    let said = namespace.kubectl("logs capabilities -c few");
    assert!(said.contains("CapEff: 0000000000000400\nCapBnd: 0000000000000400\n"), "{said}");
    assert!(said.contains("no_new_privs: 1\n") && said.contains("Operation not permitted"), "{said}");
    let said = namespace.kubectl("logs capabilities -c none");
    assert!(said.contains("CapEff: 0000000000000000\nCapBnd: 00000000a80425fb\n"), "{said}");
}

/// Everything is allowed but to make directories.
const PROFILE: &str = r#"{"defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}"#;

fn filters_of_system_calls_are_in_force(cluster: &Cluster) {
    let namespace = cluster.namespace("containers-filters");
    place_profile(&namespace);
    let with = |name: &str, profile: Value| {
        let script = "grep Seccomp: /proc/self/status | tr -s '\\t ' ' '; mount -t tmpfs none /mnt 2>&1 && echo mounted; \
            hostname other && echo named; mkdir /new && echo made; exit 0";
        let mut container = shell(name, &format!("mkdir -p /mnt; {script}"));
        container["securityContext"] = json!({"seccompProfile": profile, "capabilities": {"add": ["SYS_ADMIN"]}});
        container
    };
    let mut few = shell("few", "unshare -r true && echo unshared; exit 0");
    few["securityContext"] = json!({"seccompProfile": {"type": "RuntimeDefault"}});
    let pod_with_all = pod(
        "filters",
        &[
            few,
            with("unconfined", json!({"type": "Unconfined"})),
            with("localhost", json!({"type": "Localhost", "localhostProfile": "no-mkdir.json"})),
        ],
    );
    assert!(run(&namespace, &pod_with_all, "few").contains("Operation not permitted"));
    let said = namespace.kubectl("logs filters -c unconfined");
    assert!(said.starts_with("Seccomp: 0\nmounted\n") && said.ends_with("named\nmade\n"), "{said}");
    let said = namespace.kubectl("logs filters -c localhost");
    assert!(said.contains("Seccomp: 2\n") && said.ends_with("No space left on device\n"), "{said}");

    let mut missing = shell("main", "true");
    missing["securityContext"] = json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "nowhere.json"}});
    namespace.apply(&pod("missing", &[missing]).to_string());
    says(&namespace, "nowhere.json: no such file or directory");
}

/// Puts the profile where the kubelet finds it, which only it and Pods see.
fn place_profile(namespace: &Namespace<'_>) {
    let mut container = shell("main", "echo \"$PROFILE\" >/profiles/no-mkdir.json");
    container["env"] = json!([{"name": "PROFILE", "value": PROFILE}]);
    mount(&mut container, json!({"name": "profiles", "mountPath": "/profiles"}));
    let mut pod = pod("profile", &[container]);
    let profiles = json!({"path": "/var/lib/kubelet/seccomp", "type": "DirectoryOrCreate"});
    add_volume(&mut pod, json!({"name": "profiles", "hostPath": profiles}));
    run(namespace, &pod, "main");
}

fn containers_of_a_pod_may_share_its_processes(cluster: &Cluster) {
    let namespace = cluster.namespace("containers-share");
    let waits =
        shell("waits", "trap 'echo told; exit 7' TERM; echo $BASHPID; touch /tmp/waits; while :; do sleep 0.1; done");
    let look = "for n in $(seq 100); do pid=$(pgrep -f '^/bin/bash -c [^;]*; trap' | head -1)
            [ -n \"$pid\" ] && [ -e /proc/$pid/root/tmp/waits ] && break; sleep 0.1; done
        tr '\\0' ' ' </proc/1/cmdline; echo; head -c 3 /proc/$pid/root/sample | tail -c 2; echo; kill -TERM $pid";
    let mut looks = shell("looks", look);
    looks["securityContext"] = json!({"capabilities": {"add": ["SYS_PTRACE"]}});
    let mut pod = pod("share", &[waits, looks]);
    pod["spec"]["shareProcessNamespace"] = json!(true);
    namespace.apply(&pod.to_string());
    ends(&namespace, "share", "Failed");
    assert_eq!(namespace.kubectl("logs share -c looks"), "/pause \nEL\n");
    let said = namespace.kubectl("logs share -c waits");
    assert!(said.ends_with("told\n") && !said.starts_with("1\n"), "{said}");
    let status = container_status(&namespace, "share", "waits");
    assert_eq!(status["state"]["terminated"]["exitCode"], 7, "{status}");
}

fn a_pod_may_be_in_the_nodes_namespaces(cluster: &Cluster) {
    let namespace = cluster.namespace("containers-node");
    let look = "for kind in net ipc uts; do readlink /proc/self/ns/$kind; done; hostname
        grep -l . /proc/[0-9]*/comm | wc -l";
    let mut pod = pod("node", &[shell("main", look)]);
    for what in ["hostNetwork", "hostPID", "hostIPC"] {
        pod["spec"][what] = json!(true);
    }
    let said = run(&namespace, &pod, "main");
    let kubelet = cluster.pid("kubelet").expect("it runs");
    let of_node = format!("for kind in net ipc; do readlink /proc/{kubelet}/ns/$kind; done");
    let of_node = cluster.sh(&of_node).succeeds().stdout;
    assert!(said.starts_with(&of_node), "{said}: {of_node}");
    let processes: u32 = said.lines().last().and_then(|count| count.parse().ok()).expect("a number");
    assert!(processes > 8, "the node's processes are seen: {said}");
    let address = namespace.json("get pod node")["status"]["podIP"].clone();
    if cluster.kind().privilege == Privilege::Full {
        assert_eq!(address, cluster.address().to_string());
    }
}
