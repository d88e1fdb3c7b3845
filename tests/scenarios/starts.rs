//! How a cluster starts, and how long that takes.

use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use harness::{Cluster, Namespace, eventually};
use serde_json::Value;

crate::stories! {
    Own:
        an_impatient_up_is_told_what_it_waits_for_and_the_next_one_joins
        commands_that_meet_agree_on_one_cluster
        starts_are_measured;
}

const DEPLOYMENT: &str = include_str!("../manifests/deployment.yaml");

fn an_impatient_up_is_told_what_it_waits_for_and_the_next_one_joins(cluster: &Cluster) {
    // A slow start waits for something else first.
    eventually(Duration::from_secs(60), || {
        let up = cluster.terrarium("up --wait 1s").exits(7).within(Duration::from_secs(20));
        let words = "error: the cluster was not ready in time: still waiting for";
        let up = up.complains(words).complains("terrarium status");
        let is_told = up.stderr.lines().any(|line| line.starts_with(words) && line.contains("kube-server"));
        if is_told { Ok(()) } else { Err(up.to_string()) }
    });
    let status = cluster.terrarium("status -o json");
    let told: Value = serde_json::from_str(&status.stdout).expect("JSON");
    assert_eq!(status.code, if told["running"] == true { 0 } else { 3 }, "{status}");
    let supervisor = cluster.pid("supervisor");
    assert!(supervisor.is_some(), "the start does not go on");

    cluster.up();
    assert_eq!(cluster.pid("supervisor"), supervisor);
    cluster.terrarium("status").exits(0);
}

/// With a proxy in the environment, as many sandboxes have one: nothing of the cluster's own is behind it.
fn commands_that_meet_agree_on_one_cluster(cluster: &Cluster) {
    let ups = "export HTTPS_PROXY=http://127.0.0.1:9; for n in 1 2 3; do terrarium up & ups+=($!); done; for up in ${ups[@]}; do wait $up || exit; done";
    cluster.sh(ups).succeeds();
    cluster.eventually_counts("[/]terrarium guard", 1);
    cluster.eventually_counts("[/]terrarium supervise", 1);
    let node = cluster.kubectl("get nodes -o jsonpath={.items[0].metadata.name}");
    cluster.kubectl(&format!("get --raw /api/v1/nodes/{}/proxy/healthz", node.trim()));

    let is_going = "[ ! -e /run/terrarium/progress ] || grep -q '\"stopping\"' /run/terrarium/progress";
    let again = format!("terrarium down & until {is_going}; do sleep 0.02; done; terrarium up && wait $!");
    cluster.sh(&again).succeeds();
    cluster.eventually_runs(Duration::from_secs(60));
    cluster.sh("terrarium down & terrarium down && wait $!").succeeds();
    cluster.sh("test -e /run/terrarium").exits(1);
}

/// No limits: the table goes into the documentation.
fn starts_are_measured(cluster: &Cluster) {
    let start = Instant::now();
    cluster.up();
    let namespace = cluster.namespace("measured");
    namespace.apply(DEPLOYMENT);
    let cold = figures(&namespace, start);
    cluster.terrarium("down").succeeds();

    let start = Instant::now();
    cluster.up();
    let warm = figures(&namespace, start);

    let mut table = "| start | API | node | Pod answers | memory |".to_owned();
    for component in cluster.status()["components"].as_array().expect("components") {
        let _ = write!(table, " {} |", component["name"].as_str().unwrap_or_default());
    }
    let columns = table.matches('|').count() - 1;
    let _ = write!(table, "\n{}|\n| cold |{cold}\n| warm |{warm}\n", "|---".repeat(columns));
    fs::write(cluster.artefacts().join("starts.md"), &table).expect("the run's directory takes files");
    eprintln!("\n{table}");
}

/// The cells of a start's row, once the Pod answers: seconds since `start`, resident sets.
fn figures(namespace: &Namespace<'_>, start: Instant) -> String {
    let cluster = namespace.cluster;
    eventually(Duration::from_secs(60), || {
        let address = namespace.try_kubectl("get pods -l app=web -o jsonpath={.items[*].status.podIP}").ok()?;
        cluster.run(["curl", "-sSf", "--max-time", "1", &format!("http://{address}:8080/healthz")]).ok()
    });
    let seconds = start.elapsed().as_secs_f64();
    let status = cluster.status();
    let at = |key: &str| status["startup"][key].as_f64().unwrap_or_else(|| panic!("no {key}: {status}"));
    let mut cells = format!(" {:.1} s | {:.1} s | {seconds:.1} s |", at("apiSeconds"), at("nodeSeconds"));
    let components = status["components"].as_array().expect("components").iter();
    for part in std::iter::once(&status).chain(components) {
        let bytes = part["residentBytes"].as_u64().unwrap_or_else(|| panic!("no residentBytes: {part}"));
        let _ = write!(cells, " {} MiB |", bytes >> 20);
    }
    cells
}
