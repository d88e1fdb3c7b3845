//! `terrarium status`

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use terrarium_cluster::Layout;
use terrarium_cluster::status::{ComponentStatus, Stats, Status, look};

use super::{Output, print};

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

/// How wide the column of names is: as the longest of them, metrics-server, and a space.
const WIDTH: usize = 15;

pub fn run(layout: &Layout, args: &Args) -> Result<ExitCode> {
    let status = look(layout)?;
    match args.output {
        Output::Json => print(&serde_json::to_string_pretty(&status)?)?,
        Output::Text => print(&text(&status))?,
    }
    Ok(if status.running { ExitCode::SUCCESS } else { ExitCode::from(NOT_RUNNING) })
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// A line for the component, and more where it is or was not well.
fn describe(component: &ComponentStatus) -> String {
    let mut state = match (component.pid, component.back_off_seconds) {
        (Some(pid), _) => format!("runs  pid {pid}  {}", mib(component.resident_bytes)),
        (None, Some(seconds)) => format!("ended; it is started again in {seconds:.0} s"),
        (None, None) => "does not run".to_owned(),
    };
    if component.restarts > 0 {
        let times = if component.restarts == 1 { "once".to_owned() } else { format!("{} times", component.restarts) };
        state += &format!("  started again {times}");
    }
    let mut text = format!("{:<WIDTH$}{state}\n", component.name);
    if let Some(why) = &component.unhealthy {
        text += &format!("{:<WIDTH$}! {why}\n", "");
    }
    if let Some(Stats { rules, traps, missed }) = &component.intercept {
        text += &format!("{:<WIDTH$}{traps} system calls stopped, {missed} could not be changed\n", "");
        text.extend(rules.iter().map(|rule| format!("{:<WIDTH$}  {}: {}\n", "", rule.rule, rule.hits)));
    }
    if let Some(end) = &component.last_end {
        text += &format!("{:<WIDTH$}! {} {}\n", "", end.why, ago(end.at));
        // What it wrote is of interest while it does not run.
        let log = if component.pid.is_none() { end.log.as_slice() } else { &[] };
        text.extend(log.iter().map(|line| format!("{:<WIDTH$}  {line}\n", "")));
    }
    text
}

/// How long ago a time in seconds since 1970 was, as words.
fn ago(at: u64) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    format!("{} ago", humantime::format_duration(Duration::from_secs(now.saturating_sub(at))))
}

fn text(status: &Status) -> String {
    let mut text = format!("{:<WIDTH$}{}\n", "data", status.data_dir.display());
    for component in &status.components {
        text += &describe(component);
    }
    text += &format!("{:<WIDTH$}{}\n", "API", if status.api_ready { "ready" } else { "not ready" });
    for node in &status.nodes {
        let ready = if node.ready { "Ready" } else { "NotReady" };
        text += &format!("{:<WIDTH$}{}  {ready}  {}\n", "node", node.name, node.version);
    }
    let pods: Vec<String> = status.pods.iter().map(|(phase, count)| format!("{count} {phase}")).collect();
    text += &format!("{:<WIDTH$}{}\n", "Pods", if pods.is_empty() { "none".to_owned() } else { pods.join(", ") });
    text += &format!("{:<WIDTH$}{}\n", "memory", mib(status.resident_bytes));
    if let (Some(api), Some(node)) = (status.startup.api_seconds, status.startup.node_seconds) {
        text += &format!("{:<WIDTH$}API {api:.1} s, node {node:.1} s\n", "last start");
    }
    text
}

#[cfg(test)]
mod tests {
    use terrarium_cluster::status::End;

    use super::*;

    #[test]
    fn a_component_that_is_not_well_says_why() {
        let mut component = ComponentStatus {
            name: "kubelet",
            pid: None,
            resident_bytes: 0,
            restarts: 4,
            last_end: Some(End { at: 0, why: "it ended with exit status: 1".to_owned(), log: vec!["last".to_owned()] }),
            back_off_seconds: Some(8.0),
            unhealthy: None,
            intercept: None,
        };
        let text = describe(&component);
        assert!(
            text.starts_with("kubelet        ended; it is started again in 8 s  started again 4 times\n"),
            "{text}"
        );
        assert!(
            text.contains("! it ended with exit status: 1 ") && text.ends_with("                 last\n"),
            "{text}"
        );

        component.pid = Some(7);
        component.restarts = 1;
        component.unhealthy = Some("it has not answered for 60 s".to_owned());
        let text = describe(&component);
        assert!(text.starts_with("kubelet        runs  pid 7  0 MiB  started again once\n"), "{text}");
        assert!(text.contains("! it has not answered for 60 s\n") && !text.contains("last\n"), "{text}");
    }
}
