//! What outlasts `down`.

use std::fs;
use std::io::{Cursor, Read as _};
use std::path::Path;
use std::time::Duration;

use harness::{Cluster, DATA_DIR, Namespace, eventually};

crate::stories! {
    Own: objects_images_and_pods_are_there_after_down_and_up;
}

const DEPLOYMENT: &str = include_str!("../manifests/deployment.yaml");
const SHIPPED: &str = "localhost/terrarium/sample:0.1.0";
const IMPORTED: &str = "localhost/scenarios/imported:1.0.0";

fn objects_images_and_pods_are_there_after_down_and_up(cluster: &Cluster) {
    cluster.run_with_input(["tee", "/root/imported.tar"], &archive_of_another_name()).succeeds();
    cluster.up();
    cluster.terrarium("image import /root/imported.tar").succeeds().complains("imported /root/imported.tar");
    cluster.terrarium("image import /etc/passwd").exits(4).complains("cannot import /etc/passwd");
    cluster.sh("rm /root/imported.tar").succeeds();
    assert_eq!(cluster.sh(&format!("ls {DATA_DIR}/images | wc -l")).stdout.trim(), "1");

    let namespace = cluster.namespace("durable");
    namespace.kubectl("create configmap memory --from-literal=word=moss");
    namespace.apply(&DEPLOYMENT.replace(SHIPPED, IMPORTED));
    namespace.wait("deployment/web", "condition=Available");
    answers(&namespace);
    namespace.kubectl("create configmap regret --from-literal=a=b");
    namespace.kubectl("delete configmap regret");
    let identity = cluster.json("get node -o json")["items"][0]["metadata"]["uid"].clone();
    let memory = namespace.json("get configmap memory")["metadata"].clone();

    cluster.terrarium("down").succeeds();
    cluster.terrarium("kubectl get nodes --request-timeout=2s").exits(3);
    // One archive that rotted on the disk does not keep the cluster from starting.
    cluster.sh(&format!("echo rot >{DATA_DIR}/images/rotten.tar")).succeeds();
    cluster.up().complains("images/rotten.tar");
    assert_eq!(namespace.json("get configmap memory")["data"]["word"], "moss");
    assert_eq!(namespace.json("get configmap memory")["metadata"], memory);
    namespace.try_kubectl("get configmap regret").exits(1).complains("not found");
    assert_eq!(cluster.json("get node -o json")["items"][0]["metadata"]["uid"], identity);
    answers(&namespace);
    namespace.wait("deployment/web", "condition=Available");
    let pod = &namespace.pods("app=web")[0];
    assert_eq!(pod.json["spec"]["containers"][0]["image"], IMPORTED);
}

/// Waits until the one Pod of the Deployment answers on the address that it has now.
#[track_caller]
fn answers(namespace: &Namespace<'_>) {
    eventually(Duration::from_secs(60), || {
        let path = "-o jsonpath={.items[*].status.podIP}";
        let address = namespace.try_kubectl(&format!("get pods -l app=web {path}")).ok()?;
        let url = format!("http://{}:8080/healthz", address.trim());
        namespace.cluster.run(["curl", "-sSf", "--max-time", "2", &url]).ok()
    });
}

/// The archive of the sample image, with another name for the image in it.
fn archive_of_another_name() -> Vec<u8> {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../out/share/terrarium/images/sample.tar");
    let shipped = fs::read(shipped).expect("the shipped image can be read");
    let mut renamed = tar::Builder::new(Vec::new());
    for entry in tar::Archive::new(Cursor::new(shipped)).entries().expect("it is a tar file") {
        let mut entry = entry.expect("its entries are whole");
        let mut header = entry.header().clone();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("its entries are whole");
        if entry.path().expect("entries have paths") == Path::new("index.json") {
            let index = String::from_utf8(content).expect("the index is JSON");
            assert!(index.contains(SHIPPED), "{index}");
            content = index.replace(SHIPPED, IMPORTED).replace("\"0.1.0\"", "\"1.0.0\"").into_bytes();
        }
        header.set_size(content.len() as u64);
        header.set_cksum();
        renamed.append(&header, content.as_slice()).expect("memory takes it");
    }
    renamed.into_inner().expect("memory takes it")
}
