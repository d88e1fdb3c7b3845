//! The one right that upstream leaves to whoever sets a cluster up: what the API server may ask of kubelets.

use std::fmt::Debug;

use k8s_openapi::ClusterResourceScope;
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, RoleRef, Subject};
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::pki;

/// Upstream's role for all that a kubelet serves, and nothing else.
const ROLE: &str = "system:kubelet-api-admin";

/// Lets the API server's own client ask kubelets for logs, exec and metrics. Given already is fine.
///
/// # Errors
/// The API server does not answer.
pub(crate) async fn grant(client: &Client) -> Result<(), kube::Error> {
    create(client, &binding()).await
}

/// Makes an object of the whole cluster; one that is there stays as it is.
///
/// # Errors
/// The API server does not answer, or refuses it.
pub(crate) async fn create<K>(client: &Client, object: &K) -> Result<(), kube::Error>
where
    K: Resource<Scope = ClusterResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize,
{
    match Api::<K>::all(client.clone()).create(&PostParams::default(), object).await {
        Err(kube::Error::Api(status)) if status.code == http::StatusCode::CONFLICT => Ok(()),
        other => other.map(drop),
    }
}

fn binding() -> ClusterRoleBinding {
    const GROUP: &str = "rbac.authorization.k8s.io";
    let user = |name: &str| Subject {
        api_group: Some(GROUP.to_owned()),
        kind: "User".to_owned(),
        name: name.to_owned(),
        namespace: None,
    };
    ClusterRoleBinding {
        metadata: ObjectMeta { name: Some("terrarium:kubelet-api-admin".to_owned()), ..ObjectMeta::default() },
        role_ref: RoleRef { api_group: Some(GROUP.to_owned()), kind: "ClusterRole".to_owned(), name: ROLE.to_owned() },
        subjects: Some(vec![user(pki::API_SERVER_KUBELET_CLIENT)]),
    }
}
