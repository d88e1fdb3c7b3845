//! One function per verb.

use std::{io::Write, path::PathBuf};

use anyhow::Result;
use serde_json::json;
use terrarium_testbed::{Builder, Error, Kept, Record, Sandbox, State, list as sandboxes, sweep};

use crate::{
    Format, Named, Options,
    streams::{OnSignal, Signals, attached, piped},
};

pub(crate) fn run(options: Options, command: Vec<String>) -> Result<u8> {
    let signals = Signals::catch()?;
    let sandbox = builder(options).interrupt(signals.interrupt()).start()?;
    let code = piped(sandbox.command(command).into_command(), &signals, OnSignal::Abandon)?;
    sandbox.stop()?;
    Ok(code)
}

pub(crate) fn start(named: Named, options: Options) -> Result<u8> {
    let signals = Signals::catch()?;
    match builder(options).name(named.name).interrupt(signals.interrupt()).start_kept()? {
        Kept::Started(sandbox) => eprintln!("started {} at {}", sandbox.name(), sandbox.address()),
        Kept::AlreadyRunning(sandbox) => eprintln!("{} already runs at {}", sandbox.name(), sandbox.address()),
    }
    Ok(0)
}

pub(crate) fn exec(
    named: &Named,
    tty: bool,
    env: Vec<(String, String)>,
    cwd: Option<PathBuf>,
    command: Vec<String>,
) -> Result<u8> {
    let sandbox = find(named)?;
    let mut exec = sandbox.command(command);
    if tty && let Some(term) = std::env::var_os("TERM") {
        exec = exec.env("TERM", term);
    }
    for (name, value) in env {
        exec = exec.env(name, value);
    }
    if let Some(directory) = cwd {
        exec = exec.cwd(directory);
    }
    let signals = Signals::catch()?;
    if tty { attached(exec.into_command(), &signals) } else { piped(exec.into_command(), &signals, OnSignal::PassOn) }
}

pub(crate) fn stop(named: &Named) -> Result<u8> {
    sweep()?.warn();
    if Sandbox::stop_named(&named.name)? {
        eprintln!("stopped {}", named.name);
    } else {
        eprintln!("{} does not run", named.name);
    }
    Ok(0)
}

pub(crate) fn list(format: Format) -> Result<u8> {
    sweep()?.warn();
    let all = sandboxes()?;
    let mut out = std::io::stdout().lock();
    match format {
        Format::Json => {
            let all: Vec<_> = all.iter().map(|(record, state)| as_json(record, *state)).collect();
            writeln!(out, "{:#}", json!(all))?;
        }
        Format::Table => {
            writeln!(out, "{:<24} {:<8} {:<14} {:<8} {:<8} KEPT", "NAME", "STATE", "ADDRESS", "GVISOR", "PID")?;
            for (record, state) in &all {
                let pid = record.pid().map_or("-".into(), |pid| pid.to_string());
                let state = format!("{state:?}").to_lowercase();
                let kept = if record.is_kept() { "yes" } else { "no" };
                let (name, address, gvisor) =
                    (record.name(), record.address().to_string(), record.gvisor().to_string());
                writeln!(out, "{name:<24} {state:<8} {address:<14} {gvisor:<8} {pid:<8} {kept}")?;
            }
        }
    }
    Ok(0)
}

pub(crate) fn address(named: &Named) -> Result<u8> {
    println!("{}", find(named)?.address());
    Ok(0)
}

fn find(named: &Named) -> Result<Sandbox> {
    Ok(Sandbox::find(&named.name)?.ok_or_else(|| Error::NotFound { name: named.name.clone() })?)
}

fn builder(options: Options) -> Builder {
    let Options { gvisor, platform, privilege, deny, root, bind, env } = options;
    let mut builder = Sandbox::builder().gvisor(gvisor).platform(platform).privilege(privilege).deny(deny).root(root);
    for bind in bind {
        builder = builder.mount(bind);
    }
    for (name, value) in env {
        builder = builder.env(name, value);
    }
    builder
}

fn as_json(record: &Record, state: State) -> serde_json::Value {
    json!({
        "name": record.name(),
        "state": state,
        "kept": record.is_kept(),
        "owner": record.owner(),
        "pid": record.pid(),
        "address": record.address(),
        "gateway": record.gateway(),
        "link": record.link(),
        "gvisor": record.gvisor(),
        "platform": record.platform(),
        "privilege": record.privilege(),
        "deny": record.deny(),
        "root": record.root(),
        "disk": record.disk(),
    })
}
