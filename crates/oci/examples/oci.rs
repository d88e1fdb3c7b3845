//! The runtime alone, to be tried and measured without the rest of terrarium.

use std::process::ExitCode;

fn main() -> ExitCode {
    terrarium_oci::command::main(std::env::args_os())
}
