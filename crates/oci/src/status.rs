//! How a container is.

use std::fmt;

use oci_spec::runtime::ContainerState;
use serde::{Deserialize, Serialize};

/// How a container is. The specification does not know `Paused`; runc's users do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It is being made.
    Creating,
    /// Its process waits for the start.
    Created,
    /// Its process runs.
    Running,
    /// Its processes are frozen.
    Paused,
    /// Its process has ended.
    Stopped,
}

impl Status {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }

    /// As the specification has it.
    pub(crate) fn in_specification(self) -> ContainerState {
        match self {
            Self::Creating => ContainerState::Creating,
            Self::Created => ContainerState::Created,
            Self::Running | Self::Paused => ContainerState::Running,
            Self::Stopped => ContainerState::Stopped,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}
