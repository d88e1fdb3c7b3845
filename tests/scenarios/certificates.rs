//! Certificates of a cluster that runs for longer than they last.

use std::time::{Duration, Instant};

use harness::{Cluster, DATA_DIR, eventually};

crate::stories! {
    Own: a_cluster_outlives_its_certificates;
}

const WEB: &str = include_str!("../manifests/web.yaml");

/// How long they last here: they are renewed after two thirds of it.
const LIFETIME: Duration = Duration::from_secs(60);

fn a_cluster_outlives_its_certificates(cluster: &Cluster) {
    let start = Instant::now();
    cluster.sh(&format!("TERRARIUM_CERTIFICATE_LIFETIME={} terrarium up", LIFETIME.as_secs())).succeeds();
    let issued = |name: &str| cluster.run(["cat", &format!("{DATA_DIR}/pki/{name}.crt")]).succeeds().stdout;
    let first = issued("admin");
    let namespace = cluster.namespace("certificates");
    namespace.apply(WEB);
    namespace.wait("pod/web", "condition=Ready");
    let pod = namespace.pod("web");

    eventually(LIFETIME, || if issued("admin") == first { Err("it is not renewed".to_owned()) } else { Ok(()) });
    std::thread::sleep((LIFETIME + Duration::from_secs(1)).saturating_sub(start.elapsed()));
    // The first ones are past their end. The API server asks the kubelet with a certificate, and the kubelet shows one.
    eventually(Duration::from_secs(90), || {
        namespace
            .try_kubectl("exec web -- /sample version")
            .ok()
            .map(drop)
            .or_else(|error| namespace.try_kubectl("logs web").ok().map(drop).map_err(|_| error))
    });
    cluster.eventually_runs(Duration::from_secs(60));
    // The API server is started again for its new one, maybe just now.
    eventually(Duration::from_secs(60), || {
        namespace.try_kubectl("annotate --overwrite pod web written=after-all").ok()
    });
    let now = namespace.pod("web");
    assert_eq!((now.container, now.restarts), (pod.container, pod.restarts));
    cluster.terrarium("logs supervisor").prints("the certificates were renewed");
}
