//! `terrarium version`

use std::process::{Command, ExitCode};

use anyhow::Result;
use terrarium_cluster::Layout;

/// The components, with the arguments that make each print its version.
const COMPONENTS: &[(&str, &[&str])] =
    &[("kubernetes", &["kubelet", "--version"]), ("containerd", &["--version"]), ("runc", &["--version"])];

pub fn run(layout: &Layout) -> Result<ExitCode> {
    println!("terrarium {}", env!("CARGO_PKG_VERSION"));
    for (name, args) in COMPONENTS {
        let version = layout.component(name).ok().and_then(|program| Command::new(program).args(*args).output().ok());
        let text = version.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        println!("{}", text.lines().next().unwrap_or(&format!("{name} is not installed")));
    }
    Ok(ExitCode::SUCCESS)
}
