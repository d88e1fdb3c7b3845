//! To come.

use crate::{Error, Shared};

/// Where redirected connections arrive.
pub const PORT: u16 = 10_260;

/// Runs.
pub async fn run(_shared: Shared) -> Result<(), Error> {
    std::future::pending().await
}
