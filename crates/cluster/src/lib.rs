//! A Kubernetes cluster as components that are data: started in dependency order, supervised, stopped in order.
//!
//! `terrarium up` starts the [`supervisor`] in the background, which applies the remedies, writes keys and
//! configuration, and runs the components. What is known about a cluster is in files: durable ones in the data
//! directory, the rest in the runtime directory ([`Layout`]). Components outlive the supervisor: a new one finds them
//! by their records and goes on with them.

mod addon;
mod archive;
mod cgroup_files;
mod component;
mod config;
mod dns;
mod egress;
mod error;
mod error_id;
mod events;
mod exec;
mod forwarder;
mod gate;
pub mod guardian;
mod health;
mod history;
pub mod image;
mod ingress;
mod interception;
mod known;
pub mod kubeconfig;
mod launch;
mod layout;
mod lifecycle;
mod logs;
mod marker;
mod metrics;
mod network;
mod network_check;
mod node;
mod objects;
mod oci_runtime;
mod options;
mod pki;
mod preflight;
mod preparation;
mod process;
mod readiness;
mod renewal;
mod restart;
mod runner;
mod service;
pub mod status;
mod stop;
mod store;
pub mod supervisor;
pub mod support;
mod wishes;

pub use addon::Addon;
pub use error::{DataDirFault, Error, ImageFault, chain};
pub use error_id::{CLASSES, Class, ErrorId, render as render_errors};
pub use events::Event;
pub use exec::exec;
pub use interception::INTERCEPT;
pub use launch::{RUN_COMPONENT, run_component};
pub use layout::{Layout, default_data_dir, resolved};
pub use lifecycle::{Outcome, down, refuse_another, revive, running_data_dir, up};
pub use marker::DEFAULT_API_PORT;
pub use network_check::{Leg, check_network};
pub use oci_runtime::OciRuntime;
pub use options::Options;
pub use preparation::{ComponentPreview, Preview, look_and_plan, preview};
pub use wishes::Wishes;
