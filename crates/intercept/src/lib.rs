//! Interception: a program, and all that it starts, runs by rules that change what chosen system calls do. It is the fourth
//! rung of the ladder of remedies, for what neither a setting, a mount nor a file system can close.
//!
//! A seccomp filter in the program stops it at the chosen calls alone (`SECCOMP_RET_TRACE`); all others run untouched. Its
//! tracer, the process that started it, changes a call's path before it or its answer after it. What a rule can be about is
//! in [`Rules`]; [`run`] does it.
//!
//! Rules are an aid for programs that want them, and no border: a program that changes a path under its tracer's eyes gets
//! around a rule, and harms nobody but itself. What the tracer puts in a path's place is in memory that the program cannot
//! write.
//!
//! The tracer resolves links itself, and so waits for the file systems that they are on: none of them may be served by the
//! traced program.

#[cfg(target_arch = "x86_64")]
mod act;
#[cfg(target_arch = "x86_64")]
mod calls;
#[cfg(target_arch = "x86_64")]
mod decide;
mod error;
#[cfg(target_arch = "x86_64")]
pub mod filter;
#[cfg(target_arch = "x86_64")]
mod launch;
#[cfg(target_arch = "x86_64")]
mod memory;
#[cfg(target_arch = "x86_64")]
mod nudge;
#[cfg(not(target_arch = "x86_64"))]
mod other;
#[cfg(target_arch = "x86_64")]
mod paths;
#[cfg(target_arch = "x86_64")]
mod rules;
#[cfg(target_arch = "x86_64")]
mod signals;
mod stats;
#[cfg(target_arch = "x86_64")]
mod thread;
#[cfg(target_arch = "x86_64")]
mod tracer;
#[cfg(target_arch = "x86_64")]
mod window;

pub use error::Error;
#[cfg(target_arch = "x86_64")]
pub use launch::run;
#[cfg(not(target_arch = "x86_64"))]
pub use other::{Rules, run};
#[cfg(target_arch = "x86_64")]
pub use rules::Rules;
pub use stats::{RuleStats, Stats};
