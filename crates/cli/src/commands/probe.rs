//! `terrarium probe`: what this sandbox does, as JSON; and the processes by which that is found out.

use std::process::ExitCode;

use anyhow::Result;
use terrarium_cluster::Layout;
use terrarium_gaps::Place;

use super::print;

/// Try what this sandbox does and print the report as JSON
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Be that part of the probe
    #[arg(long, value_name = "NAME")]
    part: Option<String>,

    /// Try it in this place instead of the best one
    #[arg(long, value_parser = place)]
    place: Option<Place>,
}

fn place(name: &str) -> Result<Place, serde_json::Error> {
    serde_json::from_value(name.into())
}

pub fn run(layout: &Layout, args: &Args) -> Result<ExitCode> {
    if let Some(part) = &args.part {
        return Ok(terrarium_probes::run_part(part, layout.data(), args.place));
    }
    let report = match args.place {
        None => terrarium_probes::probe(layout.data()),
        Some(place) => terrarium_probes::probe_in(layout.data(), place),
    }?;
    print(&serde_json::to_string_pretty(&report)?)?;
    Ok(ExitCode::SUCCESS)
}
