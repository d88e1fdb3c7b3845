//! The `terrarium` command where a cluster runs, and where none ever did.

use std::time::Duration;

use harness::{Cluster, DATA_DIR, SERVICES};

crate::stories! {
    Shared:
        up_again_finds_the_cluster_running
        status_is_one_json_document
        logs_are_printed_by_component;
    Bare:
        status_and_down_without_a_cluster
        kubectl_without_a_cluster
        a_data_directory_of_others_is_left_alone
        what_is_no_image_is_refused
        a_user_without_rights_is_told_so
        completions_are_valid_shell;
    Own:
        a_cluster_with_another_data_directory_is_found;
}

fn up_again_finds_the_cluster_running(cluster: &Cluster) {
    let (supervisor, services) = (cluster.pid("supervisor"), cluster.services());
    let again = cluster.up().within(Duration::from_secs(30));
    assert!(!again.stderr.contains('✓'), "it tells steps that it did not take: {again}");
    assert_eq!((cluster.pid("supervisor"), cluster.services()), (supervisor, services));
    cluster.terrarium("up --data-dir /srv/other").exits(4).complains(DATA_DIR).complains("[already-running]");
    cluster.run(["test", "-e", "/srv/other"]).exits(1);
}

fn status_is_one_json_document(cluster: &Cluster) {
    cluster.eventually_runs(Duration::from_secs(60)); // a slow answer is none
    cluster.terrarium("status -o json").exits(0);
    let status = cluster.status();
    assert_eq!(status["running"], true);
    assert_eq!(status["apiReady"], true);
    assert_eq!(status["dataDir"], DATA_DIR);
    assert_eq!(status["nodes"].as_array().map(Vec::len), Some(1));
    assert_eq!(status["nodes"][0]["ready"], true);
    assert_eq!(status["nodes"][0]["version"], "v1.36.4");
    assert!(status["pods"].is_object());
    let components = status["components"].as_array().expect("components");
    let names: Vec<&str> = components.iter().filter_map(|component| component["name"].as_str()).collect();
    assert_eq!(names, [["guardian", "supervisor"].as_slice(), &SERVICES, &["metrics-server"]].concat());
    // Nothing waits for the last one.
    for component in &components[..names.len() - 1] {
        assert!(component["pid"].as_i64() > Some(1), "{component}");
        assert!(component["residentBytes"].as_u64() > Some(1 << 20), "{component}");
    }
    assert!(status["residentBytes"].as_u64() > Some(100 << 20), "{status}");
    let seconds = |key: &str| status["startup"][key].as_f64().unwrap_or_else(|| panic!("no {key}: {status}"));
    assert!(seconds("apiSeconds") > 0.0 && seconds("nodeSeconds") <= seconds("upSeconds"), "{status}");

    let text = cluster.terrarium("status").succeeds();
    text.prints("kube-server    runs  pid").prints("API            ready").prints("Ready  v1.36.4");
}

fn logs_are_printed_by_component(cluster: &Cluster) {
    for component in SERVICES.iter().chain(&["supervisor"]) {
        let log = cluster.terrarium(&format!("logs {component}")).succeeds().stdout;
        let tail = cluster.terrarium(&format!("logs {component} --tail 2")).succeeds().stdout;
        assert_eq!(tail.lines().count(), log.lines().count().min(2), "{component}: {tail}");
    }
    cluster.terrarium("logs kubelet").prints("Starting to listen");
    let refused = cluster.terrarium("logs nosuch").exits(4).complains("there is no component \"nosuch\"");
    refused.complains("containerd").complains("kube-server").complains("kubelet").complains("supervisor");
}

fn status_and_down_without_a_cluster(cluster: &Cluster) {
    cluster.terrarium("status").exits(3).prints("supervisor     does not run");
    let status = cluster.terrarium("status -o json").exits(3);
    status.prints("\"running\": false").prints("\"apiReady\": false");
    for _ in 0..2 {
        cluster.terrarium("down").exits(0).complains("no cluster was running");
    }
    cluster.run(["test", "-e", DATA_DIR]).exits(1);
}

fn kubectl_without_a_cluster(cluster: &Cluster) {
    let refused = cluster.try_kubectl("get nodes").exits(3);
    refused.complains("error: no cluster is running here [not-running]\nhint: start one with `terrarium up`");
    cluster.terrarium("logs kubelet").exits(4).complains("no cluster was started with this data directory");
}

fn a_data_directory_of_others_is_left_alone(cluster: &Cluster) {
    let look = "find /srv/others -printf '%p %y %m %s %T@\\n'; cat /srv/others/precious";
    cluster.sh("mkdir -m 755 /srv/others && echo gold > /srv/others/precious").succeeds();
    let before = cluster.sh(look).succeeds().stdout;
    let refused = cluster.terrarium("up --data-dir /srv/others").exits(4);
    refused
        .complains("/srv/others cannot be the data directory")
        .complains("hint: name another or an empty one with --data-dir");
    cluster.terrarium("down --purge --data-dir /srv/others").exits(4).complains("[data-dir-foreign]");
    assert_eq!(cluster.sh(look).succeeds().stdout, before);
    cluster.terrarium("status").exits(3);
}

fn what_is_no_image_is_refused(cluster: &Cluster) {
    let refused = cluster.terrarium("image import /etc/passwd --data-dir /srv/images").exits(4);
    refused.complains("cannot import /etc/passwd").complains("manifest.json");
    cluster.terrarium("image import /nowhere.tar --data-dir /srv/images").exits(1).complains("/nowhere.tar");
    let kept = cluster.sh("find /srv/images/images -type f 2>/dev/null");
    assert_eq!(kept.stdout, "");
}

fn a_user_without_rights_is_told_so(cluster: &Cluster) {
    let nobody =
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"];
    let refused = cluster.run(nobody.into_iter().chain(["terrarium", "up"])).exits(5);
    refused.complains("Permission denied").complains("[access-denied]");
    cluster.run(["test", "-e", DATA_DIR]).exits(1);
}

fn completions_are_valid_shell(cluster: &Cluster) {
    let script = cluster.terrarium("completion bash").succeeds().prints("terrarium").prints("kubectl").stdout;
    cluster.run_with_input(["bash", "-n"], script.as_bytes()).succeeds();
    for shell in ["zsh", "fish"] {
        cluster.terrarium(&format!("completion {shell}")).succeeds().prints("kubectl");
    }
}

fn a_cluster_with_another_data_directory_is_found(cluster: &Cluster) {
    cluster.terrarium("up --data-dir /srv/cluster").succeeds();
    cluster.terrarium("status").succeeds().prints("data           /srv/cluster");
    cluster.kubectl("get nodes");
    cluster.terrarium("logs kubelet").succeeds();
    cluster.terrarium("down").succeeds().complains("the cluster is down");
    cluster.run(["test", "-e", DATA_DIR]).exits(1);
    cluster.run(["test", "-e", "/srv/cluster/store/state.db"]).succeeds();
}
