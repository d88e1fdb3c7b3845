//! The CNI plugin as a program of its own, for tests and for use without the `terrarium` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    terrarium_cni::main()
}
