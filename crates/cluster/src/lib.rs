//! A Kubernetes cluster as components that are data: started in dependency order, supervised, stopped in order.
//!
//! `terrarium up` starts the [`supervisor`] in the background, which applies the remedies, writes keys and
//! configuration, and runs the components. What is known about a cluster is in files: durable ones in the data
//! directory, the rest in the runtime directory ([`Layout`]). Components outlive the supervisor: a new one finds them
//! by their records and goes on with them.

mod component;
mod config;
mod error;
mod events;
mod exec;
mod forwarder;
pub mod guardian;
mod health;
mod history;
pub mod image;
mod known;
pub mod kubeconfig;
mod launch;
mod layout;
mod lifecycle;
mod logs;
mod network;
mod node;
mod options;
mod pki;
mod preparation;
mod process;
mod rbac;
mod readiness;
mod renewal;
mod restart;
mod runner;
mod service;
pub mod status;
mod stop;
pub mod supervisor;
pub mod support;

pub use error::{Error, chain};
pub use events::Event;
pub use exec::exec;
pub use launch::{RUN_COMPONENT, run_component};
pub use layout::{Layout, default_data_dir};
pub use lifecycle::{Outcome, down, refuse_another, revive, running_data_dir, up};
pub use options::Options;
pub use preparation::{ComponentPreview, Preview, look_and_plan, preview};
