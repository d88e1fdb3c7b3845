//! One file per command.

mod cgroupfs;
mod completion;
mod doctor;
mod down;
mod exec;
mod gate;
mod guard;
mod image;
mod intercept;
mod kubectl;
mod logs;
mod map_ids;
mod netd;
mod probe;
mod run_component;
mod status;
mod supervise;
mod support;
mod up;
mod version;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use terrarium_cluster::{
    Addon, CLASSES, INTERCEPT, Layout, OciRuntime, Options, RUN_COMPONENT, chain, default_data_dir, refuse_another,
    resolved, revive, running_data_dir,
};
use terrarium_gaps::GapId;
use terrarium_remedies::{Choice, Decision};

/// Real, unpatched Kubernetes inside a gVisor sandbox.
#[derive(Debug, Parser)]
#[command(name = "terrarium", version, max_term_width = 100, after_help = exit_statuses())]
pub struct Cli {
    /// Where the cluster's state, keys, images and logs are kept [default: that of the running cluster, else /var/lib/terrarium for root and ~/.local/share/terrarium for others]
    #[arg(long, global = true, value_name = "DIR", env = "TERRARIUM_DATA_DIR", hide_env_values = true)]
    data_dir: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Up(up::Args),
    Down(down::Args),
    Status(status::Args),
    Doctor(doctor::Args),
    Logs(logs::Args),
    Kubectl(kubectl::Args),
    #[command(subcommand)]
    Image(image::Command),
    #[command(subcommand)]
    Support(support::Command),
    /// Print the versions of terrarium and its components
    Version,
    Completion(completion::Args),
    Exec(exec::Args),
}

/// The parts of the program that only the program itself calls. Apart from the commands, so that neither completion nor
/// the guess at what a user meant ever names them.
#[derive(Debug, Parser)]
#[command(name = "terrarium")]
pub struct Internal {
    /// The data directory.
    #[arg(long, global = true)]
    data_dir: Option<PathBuf>,

    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, Subcommand)]
enum Part {
    Cgroupfs(cgroupfs::Args),
    Gate(gate::Args),
    Guard(guard::Args),
    #[command(name = INTERCEPT)]
    Intercept(intercept::Args),
    #[command(name = terrarium_remedies::namespace::MAP_IDS)]
    MapIds(map_ids::Args),
    Netd(netd::Args),
    Probe(probe::Args),
    #[command(name = RUN_COMPONENT)]
    RunComponent(run_component::Args),
    Supervise(supervise::Args),
}

/// Which remedies are used.
#[derive(Clone, Debug, clap::Args)]
struct Remedies {
    /// Use this remedy for a gap, such as cgroup-stats=flag, or none at all: kmsg=none. May be given more than once
    #[arg(long = "remedy", value_name = "GAP=RUNG")]
    remedies: Vec<Decision>,
}

impl Remedies {
    /// For a node with these.
    fn options(&self) -> Options {
        Options { remedies: self.remedies.iter().copied().collect(), ..Options::default() }
    }
}

/// What is decided for a start.
#[derive(Clone, Debug, clap::Args)]
struct Decisions {
    #[command(flatten)]
    remedies: Remedies,

    /// Do not end containers that take more memory than their limit; gVisor itself never does. The same as
    /// --remedy resource-limits=none
    #[arg(long)]
    no_memory_guard: bool,

    /// Run no node: the API with its controllers and its store, for Helm, CRDs, RBAC, dry runs. Needs no rights
    #[arg(long)]
    control_plane_only: bool,

    /// Give the cluster what not every one needs. May be given more than once, or as a list with commas
    #[arg(long, value_name = "ADDON", value_enum, value_delimiter = ',', conflicts_with = "control_plane_only")]
    enable: Vec<Optional>,

    /// Spare the cluster what it has by default and can do without: metrics-server
    #[arg(long, value_name = "ADDON", value_enum, value_delimiter = ',', conflicts_with = "control_plane_only")]
    disable: Vec<Optional>,

    /// Start containers with this OCI runtime [default: that of the running cluster, else terrarium]
    #[arg(long, value_name = "RUNTIME", value_enum)]
    oci_runtime: Option<Runtime>,
}

/// What starts containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Runtime {
    /// Terrarium's own
    Terrarium,
    /// runc 1.1, with containerd's own shim; no figures and no limits of memory where cgroup files come by FUSE, and on gVisor
    /// 2024-07 no further programs in a container
    Runc,
}

impl From<Runtime> for OciRuntime {
    fn from(runtime: Runtime) -> Self {
        match runtime {
            Runtime::Runc => Self::Runc,
            Runtime::Terrarium => Self::Terrarium,
        }
    }
}

/// What a cluster may have or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Optional {
    /// Ingress by Traefik, on ports 80 and 443 of the node
    Ingress,
    /// What kubectl top and autoscalers ask; there by default
    MetricsServer,
}

impl From<Optional> for Addon {
    fn from(optional: Optional) -> Self {
        match optional {
            Optional::Ingress => Self::Ingress,
            Optional::MetricsServer => Self::MetricsServer,
        }
    }
}

impl Decisions {
    fn options(&self) -> Options {
        // Whoever says both wants it less.
        let enabled = self.enable.iter().map(|optional| (Addon::from(*optional), true));
        let disabled = self.disable.iter().map(|optional| (Addon::from(*optional), false));
        let addons = enabled.chain(disabled).collect();
        let oci_runtime = self.oci_runtime.map(OciRuntime::from);
        let unguarded =
            self.no_memory_guard.then_some(Decision { gap: GapId::ResourceLimits, choice: Choice::Nothing });
        let remedies = self.remedies.remedies.iter().copied().chain(unguarded).collect();
        Options { remedies, control_plane_only: self.control_plane_only, addons, oci_runtime }
    }
}

impl Internal {
    /// Whether the arguments of a call are for one of these parts.
    pub fn is_called(mut args: impl Iterator<Item = OsString>) -> bool {
        args.nth(1).is_some_and(|word| Part::has_subcommand(&word.to_string_lossy()))
    }

    /// Runs the part that was asked for.
    pub fn run(self) -> Result<ExitCode> {
        // Whoever called it knows which cluster it is for.
        let layout = Layout::new(self.data_dir.unwrap_or_else(default_data_dir))?;
        match self.part {
            Part::Cgroupfs(args) => cgroupfs::run(&args),
            Part::Gate(args) => gate::run(&args),
            Part::Guard(args) => guard::run(&layout, &args),
            Part::Intercept(args) => intercept::run(&args),
            Part::MapIds(args) => map_ids::run(&args),
            Part::Netd(args) => netd::run(&args),
            Part::Probe(args) => probe::run(&layout, &args),
            Part::RunComponent(args) => run_component::run(&layout, &args),
            Part::Supervise(args) => supervise::run(&layout, &args),
        }
    }
}

/// The part of the help that scripts are written by.
fn exit_statuses() -> String {
    let classes = CLASSES.iter().map(|(class, means)| format!("  {:<4} {means}\n", class.exit_code()));
    format!(
        "Exit status:\n  0    done\n{}\nAn error names itself in brackets, such as [no-space]; docs/errors.md lists them all. \
         `terrarium kubectl` ends with kubectl's own status.",
        classes.collect::<String>()
    )
}

/// Prints data, whose last line need not be ended yet. Whoever reads may go away: `terrarium status | head -1`.
fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    out.flush()
}

/// How data is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    #[default]
    Text,
    /// One JSON document.
    Json,
}

/// Runs the command that was asked for.
pub fn run(cli: Cli) -> Result<ExitCode> {
    let layout = layout(cli.data_dir)?;
    if cli.command.uses_the_cluster() {
        watch_again(&layout);
    }
    match cli.command {
        Command::Up(args) => up::run(&layout, &args),
        Command::Down(args) => down::run(&layout, &args),
        Command::Status(args) => status::run(&layout, &args),
        Command::Doctor(args) => doctor::run(&layout, &args),
        Command::Logs(args) => logs::run(&layout, &args),
        Command::Kubectl(args) => kubectl::run(&layout, &args),
        Command::Image(command) => image::run(&layout, &command),
        Command::Support(command) => support::run(&layout, &command),
        Command::Version => version::run(&layout),
        Command::Completion(args) => completion::run(&args),
        Command::Exec(args) => exec::run(&layout, &args),
    }
}

impl Command {
    /// Whether it looks at or uses a cluster that runs, and neither starts nor stops one.
    fn uses_the_cluster(&self) -> bool {
        matches!(self, Self::Status(_) | Self::Logs(_) | Self::Kubectl(_) | Self::Image(_))
    }
}

/// Starts guardian and supervisor again if both are gone while the cluster runs, and says so.
fn watch_again(layout: &Layout) {
    match revive(layout) {
        Ok(false) => {}
        Ok(true) => eprintln!("neither guardian nor supervisor was there; they watch over the cluster again"),
        Err(error) => eprintln!("warning: nobody watches over the cluster: {}", chain(&error)),
    }
}

/// The layout for the data directory that was asked for: that of the cluster which is here, if there is one.
fn layout(data_dir: Option<PathBuf>) -> Result<Layout> {
    let default = Layout::new(default_data_dir())?;
    let Some(asked) = data_dir else {
        return Ok(running_data_dir(&default).map(Layout::new).transpose()?.unwrap_or(default));
    };
    let layout = Layout::new(resolved(&asked)?)?;
    refuse_another(&layout)?;
    Ok(layout)
}

/// The user's kubeconfig: the first file of $KUBECONFIG, as kubectl writes to, else ~/.kube/config.
fn user_kubeconfig() -> Option<PathBuf> {
    let listed = std::env::var_os("KUBECONFIG").unwrap_or_default();
    std::env::split_paths(&listed)
        .find(|path| !path.as_os_str().is_empty())
        .or_else(|| std::env::home_dir().map(|home| home.join(".kube/config")))
}
