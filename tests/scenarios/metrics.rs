//! What Pods use, as `kubectl top` and the kubelet itself tell it, and an autoscaler follows it.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use harness::{Cluster, Namespace, eventually};

use crate::resources::ask_kubelet;

crate::stories! {
    Shared in NODES:
        the_metrics_api_is_part_of_the_clusters;
    Shared in PODS:
        top_tells_what_pods_use;
    Shared:
        an_autoscaler_follows_the_load;
    Harmed:
        a_killed_metrics_server_comes_back;
    Own:
        a_cluster_without_metrics_server_has_no_api_for_it;
}

const USES: &str = include_str!("../manifests/uses.yaml");
const AUTOSCALED: &str = include_str!("../manifests/autoscaled.yaml");

const API: &str = "/apis/metrics.k8s.io/v1beta1";

/// What Prometheus reads of a kubelet about Pods.
const SCRAPED: [&str; 2] = ["metrics/cadvisor", "metrics/resource"];

/// How long the server may take until it serves, after the node is Ready: where it does not at first, the API server asks
/// again after half a minute and more.
const SOON: Duration = Duration::from_secs(120);

/// Figures of a new Pod take two rounds of metrics-server and one of the kubelet.
const FIGURES: Duration = Duration::from_secs(90);

/// For so long at least a process is looked at to say what it has of a core now.
const RECENT: Duration = Duration::from_secs(30);

/// An autoscaler looks every 15 s, and ignores a Pod until its figures are of a time when it was ready.
const SCALED: Duration = Duration::from_secs(150);

fn the_metrics_api_is_part_of_the_clusters(cluster: &Cluster) {
    eventually(SOON, || is_served(cluster));
    let service = cluster.json("get apiservice v1beta1.metrics.k8s.io");
    assert!(service["spec"]["caBundle"].is_string() && service["spec"]["insecureSkipTLSVerify"].is_null(), "{service}");
    // Those who may look at Pods may look at what they use, and no others.
    let can = |who: &str| cluster.try_kubectl(&format!("auth can-i list pods.metrics.k8s.io {who}"));
    can("--as jane").exits(1);
    can("--as system:serviceaccount:kube-system:horizontal-pod-autoscaler").succeeds();
    let address =
        cluster.json("-n kube-system get endpointslice metrics-server")["endpoints"][0]["addresses"][0].clone();
    let address = address.as_str().expect("the Service has an endpoint");
    let ask = format!("https://{address}:10251{API}/nodes");
    let forged = ["-H", "X-Remote-User: kubernetes-admin", "-H", "X-Remote-Group: system:masters"];
    let curl =
        ["curl", "-sSk", "--max-time", "10", "-o", "/dev/null", "-w", "%{http_code}", &ask].into_iter().chain(forged);
    let asked = if cluster.kind().has_all_rights() {
        cluster.run(curl)
    } else {
        cluster.run(["terrarium", "exec", "--"].into_iter().chain(curl))
    };
    // Where nobody can join the cluster's network namespace, nobody can ask past the API either.
    if asked.code == 0 {
        assert_eq!(asked.stdout, "403", "only who has a certificate of the front proxy's is believed");
    }
}

fn top_tells_what_pods_use(cluster: &Cluster) {
    let namespace = cluster.namespace("metrics-top");
    namespace.apply(USES);
    namespace.wait("pod/burns", "condition=Ready");
    namespace.wait("pod/holds", "condition=Ready");
    // A whole core, or what others leave of it, in thousandths.
    let look = || (Instant::now(), ticks_of_burner(cluster));
    let least = |(start, had): (Instant, u64)| {
        let share = u128::from(ticks_of_burner(cluster) - had) * 10_000 / start.elapsed().as_millis();
        u32::try_from(share.min(1000) * 9 / 10).expect("it is below 1000")
    };
    // What `top` tells is of the last moments: what others left of the core may have been more before.
    let mut looks = vec![look()];
    eventually(FIGURES, || {
        looks.push(look());
        let recent = looks.iter().rfind(|(at, _)| at.elapsed() > RECENT).unwrap_or(&looks[0]);
        within(&namespace, "burns", least(*recent).into()..=1100, 0..=50)
    });
    let cpu = |path| scraped(&namespace, path, "container_cpu_usage_seconds_total", "burns");
    let before = SCRAPED.map(|path| eventually(FIGURES, || Ok((look(), cpu(path)?))));
    eventually(FIGURES, || within(&namespace, "holds", 0..=100, 190..=240));
    for (path, (start, (had, then))) in SCRAPED.into_iter().zip(before) {
        eventually(FIGURES, || {
            let (has, now) = cpu(path)?;
            let share = 1000.0 * (has - had) / (now - then);
            let is_true = (least(start).into()..=1100.0).contains(&share);
            if is_true { Ok(()) } else { Err(format!("{path}: {share} thousandths of a core")) }
        });
        eventually(FIGURES, || {
            let (bytes, _) = scraped(&namespace, path, "container_memory_working_set_bytes", "holds")?;
            let is_true = (190.0..=240.0).contains(&(bytes / f64::from(1 << 20)));
            if is_true { Ok(()) } else { Err(format!("{path}: {bytes} bytes")) }
        });
    }
    // The node uses what its Pods and components do, once both figures are of the same time.
    eventually(FIGURES, || {
        let node = cluster.try_kubectl("top node --no-headers").ok()?;
        let pod = namespace.try_kubectl("top pod burns --no-headers").ok()?;
        match (figures(&node, [1, 3]), figures(&pod, [1, 2])) {
            (Some([cpu, memory]), Some([burns, _])) if cpu >= burns && memory >= 400 => Ok(()),
            _ => Err(format!("the node uses less than its Pods: {node}{pod}")),
        }
    });
}

fn an_autoscaler_follows_the_load(cluster: &Cluster) {
    let namespace = cluster.namespace("metrics-autoscaler");
    namespace.apply(AUTOSCALED);
    namespace.wait("deployment/web", "condition=Available");
    let replicas = |wanted: u64| {
        let scaled = namespace.json("get hpa web")["status"].clone();
        if scaled["currentReplicas"] == wanted && scaled["desiredReplicas"] == wanted {
            Ok(())
        } else {
            Err(format!("there are not {wanted} replicas: {scaled}"))
        }
    };
    let burn =
        format!("terrarium kubectl -n {} exec deployment/web -- /sample burn 10m >/dev/null 2>&1 &", namespace.name);
    cluster.sh(&burn).succeeds();
    eventually(SCALED, || replicas(2));
    cluster.sh("pkill -9 -f '^/sample burn'").succeeds();
    eventually(SCALED, || replicas(1));
    eventually(SOON, || {
        let pods = namespace.pods("app=web").len();
        if pods == 1 { Ok(()) } else { Err(format!("there are {pods} Pods")) }
    });
}

fn a_killed_metrics_server_comes_back(cluster: &Cluster) {
    eventually(SOON, || is_served(cluster));
    let killed = cluster.pid("metrics-server");
    let services = cluster.services();
    cluster.kill(&["metrics-server"]);
    cluster.eventually_runs(Duration::from_secs(60));
    assert_eq!(cluster.services(), services, "the rest does without it");
    cluster.eventually_replaced("metrics-server", killed, SOON);
    eventually(SOON, || is_served(cluster));

    // A new supervisor lets the one that runs be, and its API too.
    let (supervisor, server) = (cluster.pid("supervisor"), cluster.pid("metrics-server"));
    cluster.kill(&["supervisor"]);
    cluster.eventually_replaced("supervisor", supervisor, SOON);
    cluster.eventually_runs(SOON);
    assert_eq!(cluster.pid("metrics-server"), server);
    is_served(cluster).unwrap_or_else(|error| panic!("{error}"));
}

fn a_cluster_without_metrics_server_has_no_api_for_it(cluster: &Cluster) {
    cluster.up();
    eventually(SOON, || is_served(cluster));
    cluster.terrarium("up --disable metrics-server").exits(4).complains("[restart-needed]");
    cluster.terrarium("down").succeeds();

    // What the first start put into the store is taken out again: of an API that nobody serves every discovery would tell.
    cluster.terrarium("up --disable metrics-server").succeeds();
    eventually(SOON, || {
        let apis = cluster.kubectl("get apiservices -o name");
        if apis.contains("metrics") { Err(apis) } else { Ok(()) }
    });
    cluster.try_kubectl("top node").exits(1).complains("Metrics API not available");
    let status = cluster.terrarium("status").succeeds();
    assert!(!status.stdout.contains("metrics-server"), "{status}");
    cluster.kubectl("create namespace short");
    cluster.kubectl("delete namespace short --timeout=30s");
    cluster.terrarium("down").succeeds();

    cluster.up();
    eventually(SOON, || is_served(cluster));
    cluster.terrarium("down").succeeds();
}

/// Whether the API server passes requests on, and says that it does.
pub fn is_served(cluster: &Cluster) -> Result<(), String> {
    let available =
        "get apiservice v1beta1.metrics.k8s.io -o jsonpath={.status.conditions[?(@.type==\"Available\")].status}";
    let said = cluster.try_kubectl(available).ok()?;
    if said != "True" {
        return Err(format!("it is not available: {said}"));
    }
    cluster.try_kubectl(&format!("get --raw {API}/nodes")).ok().map(drop)
}

/// The time on a core that the process which burns one had, in hundredths of a second (proc(5), stat: fields 14 and 15).
fn ticks_of_burner(cluster: &Cluster) -> u64 {
    let stat = "cut -d ' ' -f 14,15 /proc/$(pgrep -f '^/sample burn')/stat";
    let ticks = cluster.sh(stat).succeeds().stdout;
    ticks.split_whitespace().filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
}

/// Whether the Pod uses so many thousandths of a core, and so many MiB.
fn within(
    namespace: &Namespace<'_>,
    pod: &str,
    cpu: RangeInclusive<u64>,
    memory: RangeInclusive<u64>,
) -> Result<(), String> {
    let top = namespace.try_kubectl(&format!("top pod {pod} --no-headers")).ok()?;
    match figures(&top, [1, 2]) {
        Some([uses, has]) if cpu.contains(&uses) && memory.contains(&has) => Ok(()),
        _ => Err(format!("not {cpu:?} thousandths of a core and {memory:?} MiB: {top}")),
    }
}

/// A figure of the Pod's container as the kubelet tells it at this path, and of when that is, in seconds.
fn scraped(namespace: &Namespace<'_>, path: &str, metric: &str, pod: &str) -> Result<(f64, f64), String> {
    let said = ask_kubelet(namespace.cluster, path)?;
    let labels = [("container", "sample"), ("namespace", namespace.name), ("pod", pod)];
    let labels = labels.map(|(label, value)| format!("{label}=\"{value}\""));
    let is_it = |line: &&str| line.starts_with(metric) && labels.iter().all(|label| line.contains(label));
    let figures = said.lines().find(is_it).and_then(|line| line.rsplit_once("} ")?.1.split_once(' '));
    let parsed = figures.and_then(|(figure, time)| Some((figure.parse().ok()?, time.parse::<f64>().ok()? / 1000.0)));
    parsed.ok_or_else(|| {
        let lines: Vec<&str> = said.lines().filter(|line| line.starts_with(metric)).collect();
        format!("{path} has no {metric} of {pod}'s container: {lines:#?}")
    })
}

/// The figures in these columns, such as `998m` and `203Mi`.
fn figures(line: &str, columns: [usize; 2]) -> Option<[u64; 2]> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let figure = |at: usize| words.get(at)?.trim_end_matches(|c: char| c.is_alphabetic()).parse().ok();
    Some([figure(columns[0])?, figure(columns[1])?])
}
