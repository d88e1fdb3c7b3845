//! Real gVisor sandboxes for `make up`, tests and benches.
//!
//! A sandbox is an unmodified `runsc` around a small Debian root, with the rights and gaps that users' sandboxes have:
//! a 9p root that keeps what is written, no cgroup mounts, gVisor's own network stack. Which build of gVisor
//! ([`Gvisor`], [`Platform`]) and which rights ([`Privilege`], [`Deny`]) are its maker's choice. Each one gets
//!
//! 1. a **root** of its own: a copy of, or an overlay over, a Debian tree that debootstrap makes once and a cache keeps
//!    ([`RootKind`]),
//! 2. a **network namespace** of its own, made anew for each start because runsc takes the addresses over, with a veth
//!    pair and a /30 of 10.200.0.0/16 ([`Slot`]); the host end is the sandbox's gateway,
//! 3. a **runsc** with a `--root` of its own, so that every process of the sandbox can be told by its arguments,
//! 4. a **record** under `/run/terrarium-testbed`, written before anything else is made and removed after all else.
//!
//! Nothing outlives its owner: a [`Sandbox`] cleans up when dropped, also in a panic. An owner that was killed leaves a
//! record whose lock is free, and the next start, stop, list or run sweeps it ([`sweep`]).
//!
//! ```no_run
//! # fn main() -> terrarium_testbed::Result<()> {
//! let sandbox = terrarium_testbed::Sandbox::builder().bind("out", "/opt/terrarium").start()?;
//! let output = sandbox.exec(["uname", "-r"])?;
//! assert!(output.status.success());
//! sandbox.stop()?;
//! # Ok(())
//! # }
//! ```

mod config;
mod error;
mod exec;
mod filter;
mod gvisor;
mod layer;
mod network;
mod process;
mod record;
mod rights;
mod rootfs;
mod sandbox;
mod store;
mod teardown;
mod tool;

pub use config::Bind;
pub use error::{Error, Result};
pub use exec::Exec;
pub use gvisor::{Gvisor, Platform};
pub use layer::RootKind;
pub use network::Slot;
pub use record::{Record, State};
pub use rights::{Deny, Privilege};
pub use sandbox::{Builder, Kept, Sandbox, check_host, list, sweep};
pub use store::Swept;
pub use tool::Interrupt;
