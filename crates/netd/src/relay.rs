//! To come.

use crate::{Error, Shared};

/// Runs.
pub async fn run(_shared: Shared) -> Result<(), Error> {
    std::future::pending().await
}
