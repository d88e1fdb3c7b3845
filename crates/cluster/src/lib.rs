//! A Kubernetes cluster as components that are data: started in dependency order, supervised, stopped in order.
//!
//! `terrarium up` starts the [`supervisor`] in the background, which applies the remedies, writes keys and
//! configuration, and runs the components. What is known about a cluster is in files: durable ones in the data
//! directory, the rest in the runtime directory ([`Layout`]). Components outlive the supervisor: a new one finds them
//! by their records and goes on with them.

mod archive;
mod component;
mod config;
mod error;
mod error_id;
mod events;
pub mod image;
pub mod kubeconfig;
mod layout;
mod lifecycle;
mod logs;
mod marker;
mod network;
mod node;
mod pki;
mod preflight;
mod process;
mod readiness;
pub mod status;
mod stop;
mod store;
pub mod supervisor;
mod wishes;

pub use error::{DataDirFault, Error, ImageFault, chain};
pub use error_id::{CLASSES, Class, ErrorId, render as render_errors};
pub use events::Event;
pub use layout::{DEFAULT_DATA_DIR, Layout, resolved};
pub use lifecycle::{Outcome, down, refuse_another, running_data_dir, up};
pub use marker::DEFAULT_API_PORT;
pub use wishes::Wishes;
