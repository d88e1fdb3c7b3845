//! The rights that upstream leaves to whoever sets a cluster up: what the API server may ask of kubelets, and what the
//! parts of this node that are not upstream's may ask of the API.

use std::fmt::Debug;

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, RoleRef, Subject};
use kube::api::{ObjectMeta, Patch, PatchParams};
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::pki;

const GROUP: &str = "rbac.authorization.k8s.io";

/// Upstream's role for all that a kubelet serves, and nothing else.
const KUBELET_ROLE: &str = "system:kubelet-api-admin";

/// What the Service proxy asks for: groups, resources, verbs.
const NETD_RULES: &[(&str, &[&str], &[&str])] = &[
    ("", &["namespaces", "nodes", "pods", "services"], &["get", "list", "watch"]),
    ("", &["services/status"], &["patch", "update"]),
    ("discovery.k8s.io", &["endpointslices"], &["list", "watch"]),
    ("networking.k8s.io", &["networkpolicies"], &["list", "watch"]),
    ("events.k8s.io", &["events"], &["create", "patch"]),
    ("", &["events"], &["create", "patch"]),
];

/// Gives the rights; given already is fine.
///
/// # Errors
/// The API server does not answer.
pub(crate) async fn grant(client: &Client) -> Result<(), kube::Error> {
    apply(client, &binding("terrarium:kubelet-api-admin", KUBELET_ROLE, pki::API_SERVER_KUBELET_CLIENT)).await?;
    apply(client, &role(pki::NETD, NETD_RULES)).await?;
    apply(client, &binding(pki::NETD, pki::NETD, pki::NETD)).await
}

/// Makes an object of the whole cluster be as it is here.
async fn apply<K>(client: &Client, object: &K) -> Result<(), kube::Error>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize,
{
    let params = PatchParams::apply("terrarium").force();
    let name = object.meta().name.as_deref().unwrap_or_default();
    Api::<K>::all_with(client.clone(), &()).patch(name, &params, &Patch::Apply(object)).await.map(drop)
}

fn role(name: &str, rules: &[(&str, &[&str], &[&str])]) -> ClusterRole {
    let owned = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
    let rule = |(group, resources, verbs): &(&str, &[&str], &[&str])| PolicyRule {
        api_groups: Some(owned(&[group])),
        resources: Some(owned(resources)),
        verbs: owned(verbs),
        ..PolicyRule::default()
    };
    ClusterRole { metadata: named(name), rules: Some(rules.iter().map(rule).collect()), ..ClusterRole::default() }
}

/// Gives a user a role.
fn binding(name: &str, role: &str, user: &str) -> ClusterRoleBinding {
    ClusterRoleBinding {
        metadata: named(name),
        role_ref: RoleRef { api_group: Some(GROUP.to_owned()), kind: "ClusterRole".to_owned(), name: role.to_owned() },
        subjects: Some(vec![Subject {
            api_group: Some(GROUP.to_owned()),
            kind: "User".to_owned(),
            name: user.to_owned(),
            namespace: None,
        }]),
    }
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }
}
