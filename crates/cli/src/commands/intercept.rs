//! `terrarium intercept`: a program whose chosen system calls are changed, for `terrarium exec` and for components.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use terrarium_cluster::INTERCEPT;
use terrarium_intercept::Rules;

/// Run a program by rules that change what chosen system calls do, in the namespaces of the caller
///
/// This process is the tracer: it passes signals on to the program, and the program and all that it started end with it. The
/// exit status is the program's; 128 and the signal's number if one ended it; 127 if it is not there, 126 if it cannot be
/// executed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The rules
    #[arg(long)]
    rules: PathBuf,

    /// Where it is written how often each was used
    #[arg(long)]
    stats: Option<PathBuf>,

    /// The program
    program: OsString,

    /// Its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// The arguments by which this program becomes the tracer of another.
pub fn call(rules: &Path, stats: Option<&Path>, program: &OsStr, arguments: &[OsString]) -> Vec<OsString> {
    let mut call: Vec<OsString> =
        [OsStr::new(INTERCEPT), OsStr::new("--rules"), rules.as_os_str()].map(Into::into).into();
    if let Some(stats) = stats {
        call.extend([OsStr::new("--stats"), stats.as_os_str()].map(OsString::from));
    }
    call.extend([OsStr::new("--"), program].map(OsString::from));
    call.extend_from_slice(arguments);
    call
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let rules = Rules::read(&args.rules)?;
    Ok(ExitCode::from(terrarium_intercept::run(&rules, &args.program, &args.arguments, args.stats.as_deref())?))
}
