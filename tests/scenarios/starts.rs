//! How a cluster starts, and how long that takes.

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use harness::{Cluster, eventually};
use serde_json::Value;

crate::stories! {
    Own:
        an_impatient_up_is_told_what_it_waits_for_and_the_next_one_joins
        starts_are_measured;
}

const DEPLOYMENT: &str = include_str!("../manifests/deployment.yaml");

fn an_impatient_up_is_told_what_it_waits_for_and_the_next_one_joins(cluster: &Cluster) {
    let impatient = cluster.terrarium("up --wait 1s").exits(1).within(Duration::from_secs(4));
    let impatient = impatient.complains("error: the cluster was not ready in time: still waiting for");
    impatient.complains("kube-server").complains("terrarium status");
    let supervisor = cluster.pid("supervisor");
    assert!(supervisor.is_some(), "the start does not go on");
    cluster.terrarium("status").exits(3);

    cluster.up();
    assert_eq!(cluster.pid("supervisor"), supervisor);
    cluster.terrarium("status").exits(0);
}

/// No limits: what it says goes into the documentation.
fn starts_are_measured(cluster: &Cluster) {
    let mut table = String::from("| start | API | node | Pod answers | RSS idle |\n|---|---|---|---|---|\n");
    for start in ["cold", "warm"] {
        let up = cluster.up();
        let mut seconds = up.took.as_secs_f64();
        let startup = cluster.status()["startup"].clone();
        let namespace = if start == "cold" { Some(cluster.namespace("measured")) } else { None };
        let words = ["terrarium", "kubectl", "-n", "measured", "apply", "-f", "-"];
        seconds += cluster.run_with_input(words, DEPLOYMENT.as_bytes()).succeeds().took.as_secs_f64();
        let begun = std::time::Instant::now();
        eventually(Duration::from_secs(60), || {
            let words = "kubectl -n measured get pods -l app=web -o jsonpath={.items[*].status.podIP}";
            let address = cluster.terrarium(words).ok()?;
            cluster.run(["curl", "-sSf", "--max-time", "1", &format!("http://{address}:8080/healthz")]).ok()
        });
        seconds += begun.elapsed().as_secs_f64();
        let mebibytes = cluster.status()["residentBytes"].as_u64().unwrap_or_default() >> 20;
        let at = |key: &str| format!("{:.1} s", startup[key].as_f64().unwrap_or(f64::NAN));
        let (api, node) = (at("apiSeconds"), at("nodeSeconds"));
        let _ = writeln!(table, "| {start} | {api} | {node} | {seconds:.1} s | {mebibytes} MiB |");
        table += &memory(&cluster.status());
        // Its Pods shall be there at the warm start.
        std::mem::forget(namespace);
        cluster.terrarium("down").succeeds();
    }
    fs::write(cluster.artefacts().join("starts.md"), &table).expect("the run's directory takes files");
    eprintln!("\n{table}");
}

fn memory(status: &Value) -> String {
    let mut text = String::from("<!-- ");
    for component in status["components"].as_array().into_iter().flatten() {
        let mebibytes = component["residentBytes"].as_u64().unwrap_or_default() >> 20;
        let _ = write!(text, "{} {mebibytes} MiB; ", component["name"].as_str().unwrap_or_default());
    }
    text + "-->\n"
}
