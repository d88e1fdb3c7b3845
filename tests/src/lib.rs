//! What the scenarios are told with: a [`Cluster`] in a sandbox of its own, a [`Namespace`] in it, what a command did
//! ([`Ran`]), waiting ([`eventually`]) and the marks that a cluster leaves ([`Marks`]).
//!
//! A scenario is a function that takes a [`Cluster`] and panics when something is not as it should be; the harness
//! then tells how the cluster stands. Where each scenario takes place says its [`Stage`]: those that only use the
//! cluster share one, those that stop or kill it have one of their own. As many as there are cores are played at a time, in
//! different stages (`--test-threads`). In which kinds of sandboxes ([`Kind`]) it is played says its [`Scope`]; of the whole
//! matrix a run plays a cut, unless the variable `MATRIX` says `full` or names a kind. `SECOND_TRIES` says how many that fail are
//! played again.
//!
//! Everything that a run leaves is in `target/scenarios/<time of the run>`, and `target/scenarios/latest` leads there.

mod cluster;
mod installation;
mod kind;
mod lanes;
mod marks;
mod matrix;
mod namespace;
mod ran;
mod results;
mod run;
mod stage;
mod wait;

pub use cluster::{Cluster, DATA_DIR, SERVICES};
pub use kind::Kind;
pub use marks::Marks;
pub use matrix::Scope;
pub use namespace::{Namespace, Pod};
pub use ran::Ran;
pub use run::{Scenario, main};
pub use stage::Stage;
pub use wait::eventually;
