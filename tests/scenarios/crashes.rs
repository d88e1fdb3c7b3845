//! Whatever is killed, the cluster comes back, and nothing that it acknowledged is lost.

use std::time::Duration;

use harness::{Cluster, Namespace, Pod, eventually};

crate::stories! {
    Harmed:
        a_killed_supervisor_is_started_again_and_takes_over
        a_killed_guardian_is_started_again
        when_both_are_killed_the_next_command_starts_them_again
        a_killed_component_is_started_again
        the_next_up_starts_what_died_without_a_supervisor
        a_component_that_ends_again_and_again_is_told
        a_component_that_lives_and_does_not_answer_is_told;
}

const WEB: &str = include_str!("../manifests/web.yaml");

fn a_killed_supervisor_is_started_again_and_takes_over(cluster: &Cluster) {
    let namespace = with_a_pod(cluster, "crashes-supervisor");
    let (supervisor, guardian) = (cluster.pid("supervisor"), cluster.pid("guardian"));
    let (services, pod) = (cluster.services(), namespace.pod("web"));
    cluster.kill(&["supervisor"]);
    namespace.kubectl("create configmap orphaned --from-literal=still=writable");
    answers(&namespace, &pod);

    cluster.eventually_replaced("supervisor", supervisor, Duration::from_secs(30));
    cluster.eventually_runs(Duration::from_secs(60));
    assert_eq!((cluster.pid("guardian"), cluster.services()), (guardian, services));
    cluster.terrarium("logs supervisor").prints("guardian: the supervisor is gone");
    assert_eq!(namespace.json("get configmap orphaned")["data"]["still"], "writable");
    is_the_same(&namespace, &pod);

    // The new supervisor watches what it did not start.
    let containerd = cluster.pid("containerd");
    cluster.kill(&["containerd"]);
    cluster.eventually_replaced("containerd", containerd, Duration::from_secs(30));
    cluster.eventually_runs(Duration::from_secs(60));
    is_the_same(&namespace, &pod);
}

fn a_killed_guardian_is_started_again(cluster: &Cluster) {
    let (supervisor, guardian, services) = (cluster.pid("supervisor"), cluster.pid("guardian"), cluster.services());
    let namespace_of = |component: &str| {
        let pid = cluster.pid(component).expect("it runs");
        cluster.sh(&format!("readlink /proc/{pid}/ns/mnt")).succeeds().stdout
    };
    let outside = namespace_of("guardian");
    assert_ne!(outside, namespace_of("supervisor"));
    cluster.kill(&["guardian"]);
    cluster.eventually_replaced("guardian", guardian, Duration::from_secs(30));
    assert_eq!(namespace_of("guardian"), outside, "it lives where `up` was called");
    assert_eq!((cluster.pid("supervisor"), cluster.services()), (supervisor, services));

    // The new one does what the first did.
    cluster.kill(&["supervisor"]);
    cluster.eventually_replaced("supervisor", supervisor, Duration::from_secs(30));
    cluster.eventually_runs(Duration::from_secs(60));
}

fn when_both_are_killed_the_next_command_starts_them_again(cluster: &Cluster) {
    let namespace = with_a_pod(cluster, "crashes-both");
    let (services, pod) = (cluster.services(), namespace.pod("web"));
    for command in ["status", "kubectl get nodes", "logs kubelet --tail 1"] {
        cluster.kill(&["guardian", "supervisor"]);
        cluster.terrarium(command).complains("neither guardian nor supervisor was there");
        cluster.eventually_runs(Duration::from_secs(60));
        assert_eq!(cluster.services(), services);
    }
    is_the_same(&namespace, &pod);
    answers(&namespace, &pod);
}

fn a_killed_component_is_started_again(cluster: &Cluster) {
    let namespace = with_a_pod(cluster, "crashes-components");
    let pod = namespace.pod("web");
    for component in ["containerd", "kubelet", "kube-server"] {
        let killed = cluster.pid(component);
        namespace.kubectl(&format!("create configmap before-{component} --from-literal=kept=yes"));
        cluster.kill(&[component]);
        cluster.eventually_replaced(component, killed, Duration::from_secs(30));
        cluster.eventually_runs(Duration::from_secs(60));
        assert_eq!(namespace.json(&format!("get configmap before-{component}"))["data"]["kept"], "yes");
        is_the_same(&namespace, &pod);
        answers(&namespace, &pod);
        // All of it works together again: a new Pod is made, and answers.
        namespace.apply(&WEB.replace("name: web", &format!("name: after-{component}")));
        namespace.wait(&format!("pod/after-{component}"), "condition=Ready");
        namespace.exec(&format!("after-{component}"), "exit 7").exits(7);
    }
    cluster.terrarium("logs supervisor").prints("it is started again");
}

fn the_next_up_starts_what_died_without_a_supervisor(cluster: &Cluster) {
    let namespace = with_a_pod(cluster, "crashes-all");
    let (services, pod) = (cluster.services(), namespace.pod("web"));
    cluster.kill(&["guardian", "supervisor", "kubelet", "kube-server"]);
    cluster.up();
    cluster.terrarium("status").exits(0);
    assert_eq!(cluster.services()[..2], services[..2], "cgroup files and containerd were there all the time");
    is_the_same(&namespace, &pod);
    answers(&namespace, &pod);
}

fn a_component_that_ends_again_and_again_is_told(cluster: &Cluster) {
    let kubelet = |status: &serde_json::Value| {
        let components = status["components"].as_array().cloned().unwrap_or_default();
        components.into_iter().find(|component| component["name"] == "kubelet").expect("kubelet is listed")
    };
    let before = kubelet(&cluster.status())["restarts"].as_u64().expect("a number");
    for _ in 0..3 {
        let pid = cluster.pid("kubelet");
        cluster.kill(&["kubelet"]);
        cluster.eventually_replaced("kubelet", pid, Duration::from_secs(30));
    }
    let told = kubelet(&cluster.status());
    assert_eq!(told["restarts"].as_u64(), Some(before + 3), "{told}");
    assert!(told["lastEnd"]["why"].as_str().is_some_and(|why| why.starts_with("it ended")), "{told}");
    assert!(told["lastEnd"]["log"].as_array().is_some_and(|log| !log.is_empty()), "{told}");
    cluster.terrarium("status").prints("started again").prints("! it ended");
    cluster.terrarium("logs supervisor").prints("kubelet ends again and again");
    cluster.eventually_runs(Duration::from_secs(60));
}

fn a_component_that_lives_and_does_not_answer_is_told(cluster: &Cluster) {
    let containerd = cluster.pid("containerd").expect("it runs");
    cluster.sh(&format!("kill -STOP {containerd}")).succeeds();
    eventually(Duration::from_secs(100), || {
        let status = cluster.terrarium("status").stdout;
        if status.contains("! it has not answered for 60 s") { Ok(()) } else { Err(status) }
    });
    cluster.sh(&format!("kill -CONT {containerd}")).succeeds();
    eventually(Duration::from_secs(30), || {
        let status = cluster.terrarium("status").stdout;
        if status.contains("has not answered") { Err(status) } else { Ok(()) }
    });
    assert_eq!(cluster.pid("containerd"), Some(containerd));
    cluster.eventually_runs(Duration::from_secs(60));
}

fn with_a_pod<'a>(cluster: &'a Cluster, name: &'a str) -> Namespace<'a> {
    let namespace = cluster.namespace(name);
    namespace.apply(WEB);
    namespace.wait("pod/web", "condition=Ready");
    namespace
}

/// The Pod's container is the one that it was, and was never started again.
#[track_caller]
fn is_the_same(namespace: &Namespace<'_>, pod: &Pod) {
    let now = namespace.pod("web");
    assert_eq!((&now.container, now.restarts, now.address), (&pod.container, pod.restarts, pod.address));
}

#[track_caller]
fn answers(namespace: &Namespace<'_>, pod: &Pod) {
    let url = format!("http://{}:8080/healthz", pod.address);
    namespace.cluster.run(["curl", "-sSf", "--max-time", "5", &url]).succeeds();
}
