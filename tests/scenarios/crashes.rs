//! Whatever is killed, the cluster comes back, and nothing that it acknowledged is lost.

use std::time::Duration;

use harness::{Cluster, Namespace, Pod, eventually};

crate::stories! {
    Harmed:
        components_outlive_the_supervisor_and_the_next_one_takes_them_over
        a_killed_component_is_started_again
        the_next_up_starts_what_died_without_a_supervisor;
}

const WEB: &str = include_str!("../manifests/web.yaml");

fn components_outlive_the_supervisor_and_the_next_one_takes_them_over(cluster: &Cluster) {
    let namespace = with_a_pod(cluster, "crashes-supervisor");
    let (supervisor, services, pod) = (cluster.pid("supervisor"), cluster.services(), namespace.pod("web"));
    cluster.kill("supervisor");

    cluster.terrarium("status").exits(3).prints("supervisor   does not run").prints("API          ready");
    let status = cluster.status();
    assert_eq!((&status["running"], &status["apiReady"]), (&false.into(), &true.into()));
    assert_eq!(cluster.services(), services);
    namespace.kubectl("create configmap orphaned --from-literal=still=writable");
    answers(&namespace, &pod);

    cluster.up().within(Duration::from_secs(5));
    assert_ne!(cluster.pid("supervisor"), supervisor);
    assert_eq!(cluster.services(), services);
    cluster.terrarium("status").exits(0);
    assert_eq!(namespace.json("get configmap orphaned")["data"]["still"], "writable");
    is_the_same(&namespace, &pod);
    answers(&namespace, &pod);

    // The new supervisor watches what it did not start.
    cluster.kill("containerd");
    cluster.eventually_runs(Duration::from_secs(30));
    is_the_same(&namespace, &pod);
}

fn a_killed_component_is_started_again(cluster: &Cluster) {
    let namespace = with_a_pod(cluster, "crashes-components");
    let pod = namespace.pod("web");
    for component in ["containerd", "kubelet", "kube-server"] {
        let killed = cluster.pid(component);
        namespace.kubectl(&format!("create configmap before-{component} --from-literal=kept=yes"));
        cluster.kill(component);
        eventually(Duration::from_secs(30), || match cluster.pid(component) {
            pid if pid.is_some() && pid != killed => Ok(()),
            _ => Err(format!("{component} was not started again: {}", cluster.status())),
        });
        cluster.eventually_runs(Duration::from_secs(30));
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
    let namespace = with_a_pod(cluster, "crashes-both");
    let (services, pod) = (cluster.services(), namespace.pod("web"));
    cluster.kill("supervisor");
    cluster.kill("kubelet");
    cluster.kill("kube-server");
    cluster.terrarium("status").exits(3).prints("kubelet      does not run").prints("kube-server  does not run");

    cluster.up();
    cluster.terrarium("status").exits(0);
    assert_eq!(cluster.services()[0], services[0], "containerd was alive all the time");
    is_the_same(&namespace, &pod);
    answers(&namespace, &pod);
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
