//! `terrarium up`

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context as _, Result};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use terrarium_cluster::{Error, Event, Layout, Options, Outcome, Preview, Wishes, kubeconfig, preview, up};

use super::{Decisions, Output, print, user_kubeconfig};

/// Bring the cluster up, or wait for it if it is coming up already
///
/// Closes the gaps of this sandbox, starts Kubernetes in the background, waits until the node is Ready, and makes
/// `terrarium` the current context of the kubeconfig. The cluster's state is kept in the data directory: after `down`,
/// `up` goes on where it was.
///
/// Ctrl-C before the cluster is up undoes the start, unless another `up` began it. When the time of --wait is up, the start goes on.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How long to wait until the node is Ready, such as 90s or 5m
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = humantime::parse_duration)]
    wait: Duration,

    /// The port of the API, from now on; the first time it is 6443
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    api_port: Option<u16>,

    /// Set a damaged store aside, in a directory beside it, and begin with an empty one
    #[arg(long)]
    reset_store: bool,

    #[command(flatten)]
    decisions: Decisions,

    /// Print the plan for this sandbox and the components that would run, and change nothing
    #[arg(long)]
    dry_run: bool,

    /// The form of what --dry-run prints
    #[arg(short, long, value_enum, default_value_t, requires = "dry_run")]
    output: Output,
}

pub fn run(layout: &Layout, args: &Args) -> Result<ExitCode> {
    let options = args.decisions.options();
    if args.dry_run {
        return dry_run(layout, &options, args.output);
    }
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register(signal, interrupted.clone()).context("cannot handle signals")?;
    }
    let wishes =
        Wishes { wait: args.wait, api_port: args.api_port, reset_store: args.reset_store, interrupted: &interrupted };
    let mut steps = Steps::new();
    let result = up(layout, &options, &wishes, |event| steps.show(event));
    steps.clear();
    if result? == Outcome::WasUp {
        eprintln!("the cluster is up already");
    }
    if let Some(path) = user_kubeconfig() {
        kubeconfig::merge(layout, &path)?;
        eprintln!("context \"{}\" is the current one in {}", kubeconfig::CONTEXT, path.display());
    }
    eprintln!("\nnext:\n  terrarium kubectl get nodes\n  terrarium status\n  terrarium down");
    Ok(ExitCode::SUCCESS)
}

fn dry_run(layout: &Layout, options: &Options, output: Output) -> Result<ExitCode> {
    let preview = preview(layout, options)?;
    match output {
        Output::Json => print(&serde_json::to_string_pretty(&preview)?)?,
        Output::Text => print(&text(&preview))?,
    }
    let obstacles: Vec<_> = preview.plan.obstacles().cloned().collect();
    if obstacles.is_empty() { Ok(ExitCode::SUCCESS) } else { Err(Error::Obstacles(obstacles).into()) }
}

fn text(preview: &Preview) -> String {
    let mut text = format!("{}\n", preview.plan.isolation);
    for step in &preview.plan.steps {
        text += &format!("\n{}: {}\n", step.purpose, step.does);
        for action in &step.actions {
            text += &format!("  {action}\n");
        }
    }
    for open in &preview.plan.open {
        text += &format!("\n{} stays open: {}\n", open.gap, open.why);
    }
    text += "\ncomponents:\n";
    for component in &preview.components {
        for command in &component.commands {
            text += &format!("  {:<15}{}\n", component.name, command.join(" "));
        }
    }
    text
}

/// The steps of a start, as they begin and end: spinners on a terminal, a line for each elsewhere.
struct Steps {
    bars: MultiProgress,
    waiting: HashMap<String, (String, ProgressBar)>,
    is_terminal: bool,
}

impl Steps {
    fn new() -> Self {
        Self { bars: MultiProgress::new(), waiting: HashMap::new(), is_terminal: std::io::stderr().is_terminal() }
    }

    fn say(&self, line: &str) {
        if self.is_terminal {
            // The line goes above the spinners.
            let _ = self.bars.println(line);
        } else {
            eprintln!("{line}");
        }
    }

    fn show(&mut self, event: &Event) {
        match event {
            Event::Started { step, label } => {
                let bar = ProgressBar::new_spinner().with_message(label.clone()).with_style(
                    ProgressStyle::with_template("  {spinner} {msg} {elapsed}").expect("a constant template is valid"),
                );
                let bar = self.bars.add(bar);
                bar.enable_steady_tick(Duration::from_millis(100));
                self.waiting.insert(step.clone(), (label.clone(), bar));
            }
            Event::Ready { step, seconds } => {
                let label = self.waiting.remove(step).map_or_else(
                    || step.clone(),
                    |(label, bar)| {
                        self.bars.remove(&bar);
                        label
                    },
                );
                self.say(&format!("  ✓ {label:<18}{seconds:5.1} s"));
            }
            Event::Warning { message } => self.say(&format!("  ! {message}")),
            Event::Restarting { step, why } => self.say(&format!("  ! {step}: {why}; it is started again")),
            Event::Up { seconds } => self.say(&format!("the cluster is up after {seconds:.1} s")),
            Event::Stopping => self.say("  it is being taken down"),
            // The error that `up` returns says it.
            Event::Failed { .. } => {}
        }
    }

    fn clear(&self) {
        let _ = self.bars.clear();
    }
}
