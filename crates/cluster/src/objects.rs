//! The objects in the API that are terrarium's own: a component's rights, and what clients find it by. Each is written
//! whole at every start, by server-side apply: so a new version changes what an old one left in the store.

use std::time::Duration;

use http::StatusCode;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind, TypeMeta};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};
use terrarium_remedies::NO_PODS_TAINT;
use tokio::time::{Instant, sleep};

use crate::runner::Shared;

/// Whose the fields are.
const MANAGER: &str = "terrarium";

/// How long to wait before an object is tried again.
const INTERVAL: Duration = Duration::from_millis(100);

/// How long it is tried. The API server makes its namespaces in the first second.
const LIMIT: Duration = Duration::from_secs(30);

const RBAC: &str = "rbac.authorization.k8s.io";

/// A role of the whole cluster with these rules, and its binding to one user of the same name.
pub(crate) fn role_of_user(user: &str, rules: Value) -> [Value; 2] {
    let role = json!({
        "apiVersion": format!("{RBAC}/v1"),
        "kind": "ClusterRole",
        "metadata": {"name": user},
        "rules": rules,
    });
    [role, binding(user, user, user)]
}

/// A binding of a role of the whole cluster to a user.
pub(crate) fn binding(name: &str, role: &str, user: &str) -> Value {
    json!({
        "apiVersion": format!("{RBAC}/v1"),
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": RBAC, "kind": "User", "name": user}],
    })
}

/// Whether Pods are kept off a node that is there from an earlier start: its kubelet gives taints to a new one only.
pub(crate) fn taint(node: &str, has_pods: bool) -> Value {
    let taints = if has_pods { json!([]) } else { json!([{"effect": "NoSchedule", "key": NO_PODS_TAINT}]) };
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}, "spec": {"taints": taints}})
}

/// Makes sure of the objects, one after the other. One that the API refuses is told, and left as it is: a user may have
/// put something else in its place.
pub(crate) async fn ensure(shared: &Shared, objects: &[Value]) {
    for object in objects {
        insist(shared, object, async || apply(&shared.client(), object).await).await;
    }
}

/// Makes sure that the object is not there, unless somebody else put it there.
pub(crate) async fn withdraw(shared: &Shared, object: &Value) {
    insist(shared, object, async || delete(&shared.client(), object).await).await;
}

/// Tries until it succeeds, is refused for good, or the time is up.
async fn insist(shared: &Shared, object: &Value, attempt: impl AsyncFn() -> Result<(), kube::Error>) {
    let start = Instant::now();
    while let Err(error) = attempt().await {
        if is_final(&error) || start.elapsed() >= LIMIT {
            let (kind, name) = (&object["kind"], &object["metadata"]["name"]);
            shared.warn(format!("{kind} {name} of the cluster's own is not as it should be: {error}"));
            break;
        }
        sleep(INTERVAL).await;
    }
}

/// Whether the same request would be refused again. A namespace that is not there yet is about to be.
fn is_final(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => StatusCode::from_u16(status.code).is_ok_and(|code| {
            const AGAIN: [StatusCode; 3] = [StatusCode::NOT_FOUND, StatusCode::CONFLICT, StatusCode::TOO_MANY_REQUESTS];
            code.is_client_error() && !AGAIN.contains(&code)
        }),
        _ => false,
    }
}

async fn apply(client: &Client, object: &Value) -> Result<(), kube::Error> {
    let (api, name) = place(client, object);
    if object["kind"] == "Node" {
        return set_taint(&api, &name, &object["spec"]["taints"]).await;
    }
    api.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(object)).await.map(drop)
}

/// Gives a node that is there the taint of ours, or takes it. All taints are one list, of which no part can be applied.
async fn set_taint(nodes: &Api<DynamicObject>, name: &str, ours: &Value) -> Result<(), kube::Error> {
    // A new one is its kubelet's to register.
    let Some(node) = nodes.get_opt(name).await? else { return Ok(()) };
    let before = node.data["spec"]["taints"].as_array().cloned().unwrap_or_default();
    let mut taints = before.clone();
    taints.retain(|taint| taint["key"] != NO_PODS_TAINT);
    taints.extend(ours.as_array().into_iter().flatten().cloned());
    if taints == before {
        return Ok(());
    }
    // Refused if somebody has changed the node meanwhile, and tried again.
    let patch = json!({"metadata": {"resourceVersion": node.resource_version()}, "spec": {"taints": taints}});
    nodes.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.map(drop)
}

async fn delete(client: &Client, object: &Value) -> Result<(), kube::Error> {
    let (api, name) = place(client, object);
    let Some(found) = api.get_metadata_opt(&name).await? else { return Ok(()) };
    if !found.managed_fields().iter().any(|fields| fields.manager.as_deref() == Some(MANAGER)) {
        return Ok(());
    }
    match api.delete(&name, &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == StatusCode::NOT_FOUND.as_u16() => Ok(()),
        other => other.map(drop),
    }
}

/// Where an object is in the API, and its name there.
fn place(client: &Client, object: &Value) -> (Api<DynamicObject>, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let types = TypeMeta { api_version: text(&object["apiVersion"]), kind: text(&object["kind"]) };
    let kind = GroupVersionKind::try_from(&types).expect("an object of ours names its version and kind");
    let resource = ApiResource::from_gvk(&kind);
    let api: Api<DynamicObject> = match object["metadata"]["namespace"].as_str() {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    (api, text(&object["metadata"]["name"]))
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn only_what_would_be_refused_again_is_given_up() {
        let refused = |code| kube::Error::Api(Status::failure("no", "No").with_code(code).boxed());
        assert!(is_final(&refused(422)) && is_final(&refused(403)));
        assert!(
            !is_final(&refused(404))
                && !is_final(&refused(409))
                && !is_final(&refused(429))
                && !is_final(&refused(503))
        );
        assert!(!is_final(&kube::Error::LinesCodecMaxLineLengthExceeded));
    }
}
