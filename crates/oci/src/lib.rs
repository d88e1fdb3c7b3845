//! An OCI runtime that works on Linux and in gVisor: the runtime specification 1.2, by library calls ([`Runtime`],
//! [`Container`]) and with runc's command line ([`command`]).
//!
//! ```text
//! command ──▶ container ──▶ create ──fork──▶ stage ──fork──▶ init       what happens inside
//!                      └──▶ exec   ──fork──▶ stage ──fork──▶ init::Rights
//! ```
//!
//! No threads and no async: the process that forks has one thread (`terrarium_sys::process::fork` refuses others). What
//! a kernel lacks is found out by trying ([`Kernel`]), never by its version. What is not done is refused by the name of the
//! field that asks for it.

mod channel;
mod console;
mod container;
mod create;
mod error;
mod exec;
mod features;
mod foreground;
mod fork;
mod guest;
mod hooks;
mod id;
mod init;
mod keeper;
mod kernel;
mod memory_file;
mod mount_options;
mod mountinfo;
mod namespaces;
mod own_exe;
mod process;
mod rlimits;
mod signal;
mod spec;
mod state;
mod status;
mod user_namespace;

pub mod capabilities;
pub mod cgroups;
pub mod command;
pub mod seccomp;
pub mod stats;

pub use container::{Container, Runtime};
pub use create::CreateOptions;
pub use error::{Error, Result};
pub use exec::ExecOptions;
pub use foreground::{wait, wait_acting};
pub use id::ContainerId;
pub use kernel::Kernel;
pub use signal::Signal;
pub use status::Status;
