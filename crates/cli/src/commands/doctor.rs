//! `terrarium doctor`

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{Result, bail};
use serde_json::json;
use terrarium_cluster::{Layout, Leg, check_network, look_and_plan};
use terrarium_gaps::{Blocks, Finding, GapId, Report};
use terrarium_remedies::{Plan, Purpose};

use super::{Output, Remedies, print};

/// Look at this sandbox: what it lacks for Kubernetes, and what `up` would do about it
///
/// Tries what the sandbox does in processes and namespaces that are thrown away; nothing is changed, and no rights are
/// needed. Exit status 1 means that Pods cannot run here, or with --network that the cluster's network breaks somewhere.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    remedies: Remedies,

    /// Try the network of the cluster that runs, leg by leg, with Pods that are made for it and removed again
    #[arg(long, conflicts_with = "remedies")]
    network: bool,

    /// The form of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

pub fn run(layout: &Layout, args: &Args) -> Result<ExitCode> {
    if args.network {
        return network(layout, args.output);
    }
    let (report, plan) = look_and_plan(layout, &args.remedies.options(), layout.runtime())?;
    let findings = report.findings();
    match args.output {
        Output::Json => {
            let document = json!({ "report": report, "findings": findings, "plan": plan });
            print(&serde_json::to_string_pretty(&document)?)?;
        }
        Output::Text => print(&text(&report, &findings, &plan))?,
    }
    if plan.can_run_pods() {
        return Ok(ExitCode::SUCCESS);
    }
    bail!("Pods cannot run in this sandbox: {}", obstacles(&plan))
}

/// The legs of the network, and where it breaks.
fn network(layout: &Layout, output: Output) -> Result<ExitCode> {
    if matches!(output, Output::Text) {
        eprintln!("trying the network with Pods of its own; this takes a few seconds");
    }
    let legs = check_network(layout)?;
    match output {
        Output::Json => print(&serde_json::to_string_pretty(&legs)?)?,
        Output::Text => {
            let line = |leg: &Leg| format!("{} {:<30}{}\n", if leg.works { '✓' } else { '✗' }, leg.name, leg.found);
            print(&legs.iter().map(line).collect::<String>())?;
        }
    }
    match legs.iter().find(|leg| !leg.works) {
        None => Ok(ExitCode::SUCCESS),
        Some(broken) => bail!("the network breaks at {}: {}\nlook at {}", broken.name, broken.found, broken.hint),
    }
}

/// What keeps Pods from running, and what the user could do. Without rights everything else fails in their wake.
fn obstacles(plan: &Plan) -> String {
    if plan.has_no_pods() {
        let hint = GapId::Privileges.gap().hint;
        return format!("nothing can be mounted and no namespaces be made: there can only be a node (hint: {hint})");
    }
    let blocking = || plan.open.iter().filter(|open| open.blocks >= Blocks::Pods);
    let rights = blocking().find(|open| open.gap == GapId::Privileges);
    let told: Vec<String> = rights
        .map_or_else(|| blocking().collect(), |rights| vec![rights])
        .iter()
        .map(|open| format!("{}: {} (hint: {})", open.gap, open.why, open.gap.gap().hint))
        .collect();
    told.join("; ")
}

/// A line for each gap, and then what there is to say of those that are here.
fn text(report: &Report, findings: &[Finding], plan: &Plan) -> String {
    let mut text = String::new();
    let kernel = if report.kernel.gvisor { "gVisor, which says it is" } else { "Linux" };
    put(&mut text, format_args!("kernel   {kernel} {}", report.kernel.release));
    put(
        &mut text,
        format_args!("rights   uid {}, {} capabilities", report.rights.uid, report.rights.capabilities.len()),
    );
    put(&mut text, format_args!("cluster  {}\n", plan.isolation));
    put(&mut text, format_args!("{:<21}{:<6}{:<13}COSTS", "GAP", "HERE", "REMEDY"));
    for finding in findings {
        let here = if finding.present { "yes" } else { "no" };
        let (remedy, cost) = remedy(finding, plan);
        put(&mut text, format_args!("{}", format!("{:<21}{here:<6}{remedy:<13}{cost}", finding.gap).trim_end()));
    }
    for finding in findings.iter().filter(|finding| finding.present) {
        let gap = finding.gap.gap();
        put(&mut text, format_args!("\n{}", finding.gap));
        put(&mut text, format_args!("  seen    {}", finding.evidence));
        put(&mut text, format_args!("  breaks  {}", gap.breaks));
        if let Some(step) = plan.step(finding.gap) {
            for skipped in &step.skipped {
                put(&mut text, format_args!("  skipped {skipped}"));
            }
            put(&mut text, format_args!("  remedy  {}", step.does));
        }
        if let Some(open) = plan.open.iter().find(|open| open.gap == finding.gap) {
            put(&mut text, format_args!("  open    {}", open.why));
        }
        put(&mut text, format_args!("  hint    {}", gap.hint));
    }
    if plan.can_run_pods() {
        text += "\nPods can run here.\n";
    }
    text
}

fn put(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("a String takes every write");
}

/// What is done about a gap, and at what cost.
fn remedy(finding: &Finding, plan: &Plan) -> (String, &'static str) {
    match plan.step(finding.gap).map(|step| step.purpose) {
        Some(Purpose::Gap { rung, .. }) => (rung.to_string(), rung.cost()),
        _ if !finding.present => (String::new(), ""),
        _ => match finding.gap.gap().blocks {
            Blocks::Nothing => ("none".to_owned(), ""),
            Blocks::Pods => ("none".to_owned(), "no Pods"),
            Blocks::Node => ("none".to_owned(), "no node"),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use terrarium_remedies::{Choices, Site, plan};

    use super::*;

    #[allow(clippy::unwrap_used)] // A helper of tests, which the lint takes for code of its own.
    fn text_of(recorded: &str) -> String {
        let reports = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gaps/tests/reports");
        let report = std::fs::read_to_string(reports.join(recorded).with_extension("json")).unwrap();
        let report: Report = serde_json::from_str(&report).unwrap();
        let site = Site { runtime_dir: "/run/terrarium".into(), data_dir: "/var/lib/terrarium".into() };
        text(&report, &report.findings(), &plan(&report, &Choices::default(), &site))
    }

    #[test]
    fn what_is_said_of_recorded_sandboxes() {
        for recorded in ["2026-07-full", "2026-07-full-without-fuse", "2026-07-docker-without-userns", "linux-root"] {
            insta::assert_snapshot!(format!("doctor-{recorded}"), text_of(recorded));
        }
    }
}
