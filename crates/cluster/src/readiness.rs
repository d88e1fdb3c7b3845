//! Whether a component is ready: asked of the component itself.

use std::time::SystemTime;

use k8s_openapi::api::core::v1::Node;
use kube::config::KubeConfigOptions;
use kube::{Api, Client, Config};
use tokio::net::UnixStream;

use crate::component::Readiness;
use crate::{Error, Layout, health, kubeconfig};

/// A client of the API with the administrator's rights.
pub(crate) async fn client(layout: &Layout) -> Result<Client, Error> {
    let path = layout.admin_kubeconfig();
    let mut config = Config::from_custom_kubeconfig(kubeconfig::load(&path)?, &KubeConfigOptions::default())
        .await
        .map_err(|error| Error::Kubeconfig { path, why: error.to_string() })?;
    // kube takes the environment's HTTPS_PROXY for every server but does not look at NO_PROXY; this one is on loopback.
    config.proxy_url = None;
    Client::try_from(config).map_err(|error| Error::Api(Box::new(error)))
}

/// Whether the component is ready. `since` is when its process started.
pub(crate) async fn is_ready(readiness: &Readiness, client: &Client, since: SystemTime) -> bool {
    match readiness {
        Readiness::Socket(path) => UnixStream::connect(path).await.is_ok(),
        Readiness::Api => {
            let request = http::Request::get("/readyz").body(Vec::new()).expect("a constant request is valid");
            client.request_text(request).await.is_ok()
        }
        Readiness::Node(name) => match Api::<Node>::all(client.clone()).get_opt(name).await {
            Ok(Some(node)) => is_node_ready(&node, since),
            _ => false,
        },
        Readiness::Greeting(_) | Readiness::Http { .. } | Readiness::Https { .. } => {
            health::answers(readiness, client).await
        }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use k8s_openapi::jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::pki;

    fn node(status: &str, heartbeat: Option<i64>) -> Node {
        let heartbeat = heartbeat.map(|seconds| Timestamp::from_second(seconds).unwrap().to_string());
        serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"},
            "status": {"conditions": [
                {"type": "MemoryPressure", "status": "True", "lastHeartbeatTime": "2999-01-01T00:00:00Z"},
                {"type": "Ready", "status": status, "lastHeartbeatTime": heartbeat},
            ]},
        }))
        .unwrap()
    }

    #[test]
    fn a_node_is_ready_by_the_word_of_this_start_only() {
        let since = SystemTime::UNIX_EPOCH + Duration::from_millis(100_900);
        assert!(!is_node_ready(&node("True", Some(99)), since), "an earlier kubelet said it");
        assert!(is_node_ready(&node("True", Some(100)), since), "heartbeats are whole seconds");
        assert!(!is_node_ready(&node("Unknown", Some(200)), since));
        assert!(!is_node_ready(&node("True", None), since));
        assert!(!is_node_ready(&Node::default(), SystemTime::UNIX_EPOCH));
    }

    #[tokio::test]
    async fn the_api_on_loopback_is_asked_directly_whatever_proxy_there_is() {
        let (_root, layout) = Layout::temporary();
        let (address, api_service) = ([192, 0, 2, 7].into(), [10, 43, 0, 1].into());
        let names = pki::Names { node: "n".to_owned(), address, api_service };
        pki::issue(&layout, &names, Duration::from_secs(3600)).unwrap();
        kubeconfig::write_for(&layout, pki::ADMIN, "https://127.0.0.1:6443").unwrap();
        // It stands for HTTPS_PROXY, which no test can set safely: kube puts both into the same field.
        let text = std::fs::read_to_string(layout.admin_kubeconfig()).unwrap();
        let text = text.replace("server: ", "proxy-url: http://proxy.example:3128\n    server: ");
        std::fs::write(layout.admin_kubeconfig(), text).unwrap();
        assert!(
            kubeconfig::load(&layout.admin_kubeconfig()).unwrap().clusters[0]
                .cluster
                .as_ref()
                .unwrap()
                .proxy_url
                .is_some()
        );
        client(&layout).await.unwrap();
    }
}
