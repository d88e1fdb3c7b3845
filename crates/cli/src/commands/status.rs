//! `terrarium status`

use std::process::ExitCode;

use anyhow::Result;
use terrarium_cluster::Layout;
use terrarium_cluster::status::{Status, look};

use super::Output;

/// Show what runs: components, node, Pods, memory, times of the last start
///
/// Exit status 3 means that the cluster does not run as a whole.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The form of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// The exit status for a cluster that does not run, as the Linux Standard Base gives it for services.
const NOT_RUNNING: u8 = 3;

pub fn run(layout: &Layout, args: &Args) -> Result<ExitCode> {
    let status = look(layout)?;
    match args.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&status)?),
        Output::Text => print!("{}", text(&status)),
    }
    Ok(if status.running { ExitCode::SUCCESS } else { ExitCode::from(NOT_RUNNING) })
}

fn text(status: &Status) -> String {
    let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
    let mut text = format!("{:<13}{}\n", "data", status.data_dir.display());
    for component in &status.components {
        let state = component.pid.map_or_else(
            || "does not run".to_owned(),
            |pid| format!("runs  pid {pid}  {}", mib(component.resident_bytes)),
        );
        text += &format!("{:<13}{state}\n", component.name);
    }
    text += &format!("{:<13}{}\n", "API", if status.api_ready { "ready" } else { "not ready" });
    for node in &status.nodes {
        let ready = if node.ready { "Ready" } else { "NotReady" };
        text += &format!("{:<13}{}  {ready}  {}\n", "node", node.name, node.version);
    }
    let pods: Vec<String> = status.pods.iter().map(|(phase, count)| format!("{count} {phase}")).collect();
    text += &format!("{:<13}{}\n", "Pods", if pods.is_empty() { "none".to_owned() } else { pods.join(", ") });
    text += &format!("{:<13}{}\n", "memory", mib(status.resident_bytes));
    if let (Some(api), Some(node)) = (status.startup.api_seconds, status.startup.node_seconds) {
        text += &format!("{:<13}API {api:.1} s, node {node:.1} s\n", "last start");
    }
    text
}
