//! To come.

use tokio::sync::mpsc::UnboundedReceiver;

use crate::notice::Notice;
use crate::{Error, Shared};

/// Runs.
pub async fn run(_shared: Shared, _noticed: UnboundedReceiver<Notice>) -> Result<(), Error> {
    std::future::pending().await
}
