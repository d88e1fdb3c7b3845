//! What Kubernetes puts into a container: configuration, secrets, identity.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use harness::{Cluster, DATA_DIR, Namespace};
use serde_json::{Value, json};

crate::stories! {
    Shared:
        a_pod_reads_its_config_map_and_secret
        a_projected_token_is_for_its_audience_alone
        the_default_token_is_taken_by_the_api;
}

const READER: &str = include_str!("../manifests/volumes.yaml");
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
const DEFAULT_MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

fn a_pod_reads_its_config_map_and_secret(cluster: &Cluster) {
    let namespace = reader(cluster, "volumes-files");
    let read = |path: &str| namespace.exec("reader", &format!("cat {path}")).succeeds().stdout;
    assert_eq!(read("/settings/colour"), "green");
    assert_eq!(read("/settings/notes.txt"), "first line\nsecond line\n");
    assert_eq!(read("/keys/password"), "open sesame");
    namespace.exec("reader", "env").succeeds().prints("COLOUR=green\n").prints("PASSWORD=open sesame\n");
}

fn a_projected_token_is_for_its_audience_alone(cluster: &Cluster) {
    let namespace = reader(cluster, "volumes-token");
    let token = namespace.exec("reader", "cat /identity/token").succeeds().stdout;
    let claims = claims(&token);
    assert_eq!(claims["iss"], ISSUER);
    assert_eq!(claims["aud"], json!(["vault"]));
    assert_eq!(claims["sub"], "system:serviceaccount:volumes-token:default");
    assert_eq!(claims["kubernetes.io"]["pod"]["name"], "reader");
    assert_eq!(claims["exp"].as_u64().zip(claims["iat"].as_u64()).map(|(end, start)| end - start), Some(600));
    assert_eq!(ask_api(cluster, &token), "401", "the API takes a token that is for someone else");
}

fn the_default_token_is_taken_by_the_api(cluster: &Cluster) {
    let namespace = reader(cluster, "volumes-default");
    let token = namespace.exec("reader", &format!("cat {DEFAULT_MOUNT}/token")).succeeds().stdout;
    let claims = claims(&token);
    assert_eq!((&claims["iss"], &claims["aud"]), (&json!(ISSUER), &json!([ISSUER])));
    assert_eq!(ask_api(cluster, &token), "200");
    assert_eq!(ask_api(cluster, &format!("{token}x")), "401");

    let authority = namespace.exec("reader", &format!("cat {DEFAULT_MOUNT}/ca.crt")).succeeds().stdout;
    let own = cluster.run(["cat", &format!("{DATA_DIR}/pki/ca.crt")]).succeeds().stdout;
    assert_eq!(authority.trim(), own.trim());
}

fn reader<'a>(cluster: &'a Cluster, name: &'a str) -> Namespace<'a> {
    let namespace = cluster.namespace(name);
    namespace.apply(READER);
    namespace.wait("pod/reader", "condition=Ready");
    namespace
}

/// The payload of a JWT (RFC 7519).
fn claims(token: &str) -> Value {
    let parts: Vec<&str> = token.split('.').collect();
    assert_eq!(parts.len(), 3, "this is not a JWT: {token:?}");
    let payload = URL_SAFE_NO_PAD.decode(parts[1]).expect("the payload is base64url");
    serde_json::from_slice(&payload).expect("the payload is JSON")
}

/// The HTTP status with which the API answers the bearer of a token.
fn ask_api(cluster: &Cluster, token: &str) -> String {
    let authority = format!("{DATA_DIR}/pki/ca.crt");
    let header = format!("Authorization: Bearer {token}");
    let url = format!("https://{}:6443/version", cluster.address());
    let words = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--cacert", &authority, "-H", &header, &url];
    cluster.run(words).succeeds().stdout
}
