//! A Kubernetes namespace that a scenario has for itself.

use std::net::Ipv4Addr;
use std::thread;

use serde_json::Value;

use crate::{Cluster, Ran};

/// A Kubernetes namespace. It is deleted at the end of the scenario, unless that fails.
#[derive(Debug)]
pub struct Namespace<'a> {
    /// The cluster that it is in.
    pub cluster: &'a Cluster,
    /// Its name.
    pub name: &'a str,
}

/// A Pod, as the API had it.
#[derive(Debug)]
pub struct Pod {
    /// Its address.
    pub address: Ipv4Addr,
    /// How often its first container was started again.
    pub restarts: u64,
    /// The ID of its first container.
    pub container: String,
    /// All about it.
    pub json: Value,
}

impl<'a> Namespace<'a> {
    #[track_caller]
    pub(crate) fn create(cluster: &'a Cluster, name: &'a str) -> Self {
        cluster.kubectl(&format!("create namespace {name}"));
        let namespace = Self { cluster, name };
        // Without it Pods are refused.
        namespace.kubectl("wait --for=create serviceaccount/default --timeout=30s");
        namespace
    }

    /// Leaves it as it is at the end of the scenario.
    pub fn keep(self) {
        std::mem::forget(self);
    }

    /// Runs kubectl in it.
    pub fn try_kubectl(&self, words: &str) -> Ran {
        self.cluster.try_kubectl(&format!("-n {} {words}", self.name))
    }

    /// Runs kubectl in it, and returns its stdout; panics unless it succeeds.
    #[track_caller]
    pub fn kubectl(&self, words: &str) -> String {
        self.try_kubectl(words).succeeds().stdout
    }

    /// What kubectl prints as JSON.
    #[track_caller]
    pub fn json(&self, words: &str) -> Value {
        self.cluster.json(&format!("-n {} {words}", self.name))
    }

    /// Applies manifests.
    pub fn try_apply(&self, manifests: &str) -> Ran {
        let words = ["terrarium", "kubectl", "-n", self.name, "apply", "-f", "-"];
        self.cluster.run_with_input(words, manifests.as_bytes())
    }

    /// Applies manifests; panics unless they are accepted.
    #[track_caller]
    pub fn apply(&self, manifests: &str) {
        self.try_apply(manifests).succeeds();
    }

    /// Waits until the objects, such as `pod/web`, fulfil the condition, such as `condition=Ready`.
    #[track_caller]
    pub fn wait(&self, objects: &str, condition: &str) {
        self.kubectl(&format!("wait {objects} --for={condition} --timeout=60s"));
    }

    /// Runs the sample program in a Pod's container.
    pub fn exec(&self, pod: &str, words: &str) -> Ran {
        self.try_kubectl(&format!("exec {pod} -- /sample {words}"))
    }

    /// A Pod that has an address.
    #[track_caller]
    pub fn pod(&self, name: &str) -> Pod {
        Pod::from(self.json(&format!("get pod {name}")))
    }

    /// The Pods with a label, such as `app=web`, without those that have ended and are about to be removed.
    #[track_caller]
    pub fn pods(&self, label: &str) -> Vec<Pod> {
        let list = self.json(&format!("get pods -l {label}"));
        let is_there =
            |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null() || pod["status"]["podIP"].is_string();
        list["items"].as_array().into_iter().flatten().filter(is_there).cloned().map(Pod::from).collect()
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        // After a failure its objects are evidence.
        if !thread::panicking() {
            self.cluster.try_kubectl(&format!("delete namespace {} --wait=false", self.name));
        }
    }
}

impl From<Value> for Pod {
    fn from(json: Value) -> Self {
        let address = json["status"]["podIP"].as_str().and_then(|address| address.parse().ok());
        let container = &json["status"]["containerStatuses"][0];
        Self {
            address: address.unwrap_or_else(|| panic!("the Pod has no address: {json}")),
            restarts: container["restartCount"].as_u64().unwrap_or_default(),
            container: container["containerID"].as_str().unwrap_or_default().to_owned(),
            json,
        }
    }
}
