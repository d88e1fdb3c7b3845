//! Pods with the sandbox's own programs: its `/usr` is theirs as well, so that a script can say what a container is like.

use std::time::Duration;

use harness::{Namespace, eventually};
use serde_json::{Value, json};

/// Where a container sees the sandbox's programs.
const PROGRAMS: [&str; 4] = ["/usr", "/bin", "/lib", "/lib64"];

/// A container that runs a script in a shell. What it says on standard error comes by the same pipe as its output, or
/// else their order in the log would be chance.
pub fn shell(name: &str, script: &str) -> Value {
    let mounts: Vec<Value> =
        PROGRAMS.iter().map(|path| json!({"name": &path[1..], "mountPath": path, "readOnly": true})).collect();
    json!({
        "name": name,
        "image": "localhost/terrarium/sample:0.1.0",
        "imagePullPolicy": "Never",
        "command": ["/bin/bash", "-c", format!("exec 2>&1; {script}")],
        "volumeMounts": mounts,
    })
}

/// A Pod with such containers, which run as root and are not started again.
pub fn pod(name: &str, containers: &[Value]) -> Value {
    let volumes: Vec<Value> =
        PROGRAMS.iter().map(|path| json!({"name": &path[1..], "hostPath": {"path": path}})).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "restartPolicy": "Never",
            "securityContext": {"runAsUser": 0, "runAsGroup": 0},
            "containers": containers,
            "volumes": volumes,
        },
    })
}

/// Gives a Pod a volume, which its containers mount by themselves.
pub fn add_volume(pod: &mut Value, volume: Value) {
    pod["spec"]["volumes"].as_array_mut().expect("a list").push(volume);
}

/// Mounts a volume in a container.
pub fn mount(container: &mut Value, volume_mount: Value) {
    container["volumeMounts"].as_array_mut().expect("a list").push(volume_mount);
}

/// Runs a Pod to its good end, and returns what its container of this name said.
#[track_caller]
pub fn run(namespace: &Namespace<'_>, pod: &Value, container: &str) -> String {
    namespace.apply(&pod.to_string());
    let name = pod["metadata"]["name"].as_str().expect("a name");
    ends(namespace, name, "Succeeded");
    namespace.kubectl(&format!("logs {name} -c {container}"))
}

/// Waits until a Pod has ended in this phase.
#[track_caller]
pub fn ends(namespace: &Namespace<'_>, pod: &str, phase: &str) {
    let ended = eventually(Duration::from_secs(120), || {
        let status = namespace.json(&format!("get pod {pod}"))["status"].clone();
        if status["phase"] == "Succeeded" || status["phase"] == "Failed" { Ok(status) } else { Err(status.to_string()) }
    });
    let logs = || namespace.try_kubectl(&format!("logs {pod} --all-containers")).stdout;
    assert!(ended["phase"] == phase, "expected {phase}: {ended}\n{}", logs());
}

/// Waits until an event of the namespace says this.
#[track_caller]
pub fn says(namespace: &Namespace<'_>, words: &str) {
    eventually(Duration::from_secs(120), || {
        let events = namespace.kubectl("get events");
        if events.contains(words) { Ok(()) } else { Err(events) }
    });
}

/// The state of a Pod's container.
pub fn container_status(namespace: &Namespace<'_>, pod: &str, container: &str) -> Value {
    let status = namespace.json(&format!("get pod {pod}"))["status"].clone();
    let lists = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];
    let all = lists.iter().flat_map(|list| status[list].as_array().cloned().unwrap_or_default());
    all.into_iter().find(|status| status["name"] == container).unwrap_or(Value::Null)
}
