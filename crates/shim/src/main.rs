//! `containerd-shim-terrarium-v2`: the containerd shim of the runtime type `io.containerd.terrarium.v2`.
//!
//! There is one for each Pod, and so it is made to be small: few threads with small stacks, and one thread that copies the
//! streams of all containers. It differs from containerd's own shim in nothing that containerd or Kubernetes can see.
//!
//! containerd runs it as `start`, which starts the shim itself or finds the one of the same Pod, as `delete`, which cleans up
//! after a shim that died, and with `-info`. The OCI runtime is the program `terrarium-oci` beside it ([`runtime`]).

use std::env;
use std::ffi::OsString;
use std::process::ExitCode;

use containerd_shim::Config;

mod bootstrap;
mod container;
mod error;
mod events;
mod exits;
mod process;
mod relay;
mod rootfs;
mod runtime;
mod server;
mod service;
mod stats;
mod stdio;
mod tasks;

const RUNTIME_TYPE: &str = "io.containerd.terrarium.v2";

fn main() -> ExitCode {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    if let Ok(flags) = containerd_shim::parse(&arguments)
        && flags.action.is_empty()
        && !flags.socket.is_empty()
    {
        return match server::serve(&flags) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{RUNTIME_TYPE}: {error}");
                containerd_shim::error!("{error}");
                ExitCode::FAILURE
            }
        };
    }
    // What runs there reaps its own children.
    let config = Config { no_reaper: true, no_sub_reaper: true, ..Config::default() };
    containerd_shim::run::<bootstrap::Bootstrap>(RUNTIME_TYPE, Some(config));
    ExitCode::SUCCESS
}
