//! Whether a component is ready: asked of the component itself.

use std::os::unix::net::UnixStream;
use std::time::SystemTime;

use k8s_openapi::api::core::v1::Node;
use kube::config::KubeConfigOptions;
use kube::{Api, Client, Config};

use crate::component::Readiness;
use crate::{Error, Layout, kubeconfig};

/// A client of the API with the administrator's rights.
pub(crate) async fn client(layout: &Layout) -> Result<Client, Error> {
    let path = layout.admin_kubeconfig();
    let config = Config::from_custom_kubeconfig(kubeconfig::load(&path)?, &KubeConfigOptions::default())
        .await
        .map_err(|error| Error::Kubeconfig { path, why: error.to_string() })?;
    Client::try_from(config).map_err(|error| Error::Api(Box::new(error)))
}

/// Whether the component is ready. `since` is when its process started.
pub(crate) async fn is_ready(readiness: &Readiness, client: &Client, since: SystemTime) -> bool {
    match readiness {
        Readiness::Socket(path) => UnixStream::connect(path).is_ok(),
        Readiness::Api => {
            let request = http::Request::get("/readyz").body(Vec::new()).expect("a constant request is valid");
            client.request_text(request).await.is_ok()
        }
        Readiness::Node(name) => match Api::<Node>::all(client.clone()).get_opt(name).await {
            Ok(Some(node)) => is_node_ready(&node, since),
            _ => false,
        },
    }
}

/// Whether the node is Ready, and says so since then: the store may still hold what an earlier kubelet said.
pub(crate) fn is_node_ready(node: &Node, since: SystemTime) -> bool {
    let since = since.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed());
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.filter(|condition| condition.type_ == "Ready" && condition.status == "True").any(|condition| {
        condition.last_heartbeat_time.as_ref().is_some_and(|heartbeat| heartbeat.0.as_second() >= since)
    })
}
