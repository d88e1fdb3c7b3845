//! `terrarium-oci`: the OCI runtime, as a program of its own that containerd and its shims run for what has to fork.
//!
//! It is not part of the shim's own program, since every page of that counts as memory of every Pod in gVisor.

use std::process::ExitCode;

fn main() -> ExitCode {
    terrarium_oci::command::main(std::env::args_os())
}
