//! Many Pods, as a Deployment has them.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use harness::{Cluster, eventually};

crate::stories! {
    Shared: a_deployment_is_scaled_rolled_out_anew_and_deleted;
}

const DEPLOYMENT: &str = include_str!("../manifests/deployment.yaml");

fn a_deployment_is_scaled_rolled_out_anew_and_deleted(cluster: &Cluster) {
    let namespace = cluster.namespace("deployments");
    namespace.apply(DEPLOYMENT);
    namespace.kubectl("scale deployment/web --replicas=5");
    namespace.kubectl("rollout status deployment/web --timeout=90s");
    let first = namespace.pods("app=web");
    let first: BTreeSet<Ipv4Addr> = first.iter().map(|pod| pod.address).collect();
    assert_eq!(first.len(), 5, "five Pods have five addresses: {first:?}");

    namespace.kubectl("set env deployment/web ROUND=two");
    namespace.kubectl("rollout status deployment/web --timeout=90s").contains("successfully rolled out");
    let second = eventually(Duration::from_secs(30), || match namespace.pods("app=web") {
        pods if pods.len() == 5 => Ok(pods),
        pods => Err(format!("{} Pods are there", pods.len())),
    });
    for pod in &second {
        let url = format!("http://{}:8080/env", pod.address);
        cluster.run(["curl", "-sS", "--max-time", "10", &url]).succeeds().prints("ROUND=two\n");
    }

    let links: Vec<String> = second.iter().map(|pod| link_to(cluster, pod.address)).collect();
    assert_eq!(links.iter().collect::<BTreeSet<_>>().len(), 5, "{links:?}");
    namespace.kubectl("delete deployment/web --timeout=60s");
    namespace.kubectl("wait pod -l app=web --for=delete --timeout=60s");
    eventually(Duration::from_secs(60), || {
        let all = cluster.sh("ip -o link; ip route").ok()?;
        let gone = |name: &str| !all.split([' ', ':', '@']).any(|word| word == name);
        let left: Vec<&String> = links.iter().filter(|link| !gone(link)).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?} are left:\n{all}")) }
    });
}

/// The node's end of the link to a Pod.
fn link_to(cluster: &Cluster, pod: Ipv4Addr) -> String {
    let route = cluster.run(["ip", "-o", "route", "show", &pod.to_string()]).succeeds().stdout;
    let device = route.split_whitespace().skip_while(|word| *word != "dev").nth(1);
    device.unwrap_or_else(|| panic!("there is no route to {pod}: {route:?}")).to_owned()
}
