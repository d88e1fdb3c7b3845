//! What makes containers: `terrarium up --oci-runtime`.

use std::fmt;
use std::str::FromStr;

use serde_json::{Value, json};

use crate::{Error, Layout};

/// An OCI runtime, with the containerd shim that uses it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OciRuntime {
    /// terrarium's own, and terrarium's own shim.
    #[default]
    Terrarium,
    /// runc, and containerd's own shim.
    Runc,
}

const SHIM: &str = "containerd-shim-terrarium-v2";
/// What the shim runs; it lies beside it.
const OWN: &str = "terrarium-oci";
const RUNC: &str = "runc";

impl OciRuntime {
    /// All that there are.
    pub const ALL: &[Self] = &[Self::Terrarium, Self::Runc];

    /// The word for it, which is also the name of the runtime class that containerd knows.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Terrarium => "terrarium",
            Self::Runc => RUNC,
        }
    }

    /// Its programs, in the directory of the components.
    pub(crate) fn programs(self) -> &'static [&'static str] {
        match self {
            Self::Terrarium => &[SHIM, OWN],
            Self::Runc => &["containerd-shim-runc-v2", RUNC],
        }
    }

    /// What containerd's configuration has of it.
    pub(crate) fn config(self, layout: &Layout) -> Result<Value, Error> {
        Ok(match self {
            Self::Terrarium => json!({
                "runtime_type": "io.containerd.terrarium.v2",
                "runtime_path": layout.component(SHIM)?,
            }),
            Self::Runc => json!({
                "runtime_type": "io.containerd.runc.v2",
                // gVisor has room for 200 session keyrings and frees none: with one for each container, none starts after that.
                "options": {"BinaryName": layout.component(RUNC)?, "NoNewKeyring": true, "SystemdCgroup": false},
            }),
        })
    }
}

impl fmt::Display for OciRuntime {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for OciRuntime {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let named = Self::ALL.iter().copied().find(|runtime| runtime.name() == name);
        named.ok_or_else(|| format!("there is no OCI runtime {name}"))
    }
}
