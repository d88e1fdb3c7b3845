//! The API itself: schemas, rights, dry runs.

use std::time::Duration;

use harness::{Cluster, eventually};

crate::stories! {
    Shared:
        a_custom_resource_is_held_to_its_schema
        rights_are_refused_until_a_role_grants_them
        a_dry_run_persists_nothing;
}

const PLANTS: &str = include_str!("../manifests/plants.yaml");
const READER_ROLE: &str = include_str!("../manifests/reader-role.yaml");

fn a_custom_resource_is_held_to_its_schema(cluster: &Cluster) {
    let namespace = cluster.namespace("api-plants");
    let plant = |name: &str, height: &str| {
        let head = "apiVersion: scenarios.terrarium/v1\nkind: Plant";
        format!("{head}\nmetadata: {{name: {name}}}\nspec: {{height: {height}}}\n")
    };
    namespace.try_apply(&plant("early", "3")).exits(1).complains("no matches for kind \"Plant\"");

    namespace.apply(PLANTS);
    namespace.wait("crd/plants.scenarios.terrarium", "condition=Established");
    // It is served a moment later.
    eventually(Duration::from_secs(30), || namespace.try_apply(&plant("fern", "3")).ok());
    assert_eq!(namespace.json("get plant fern")["spec"]["height"], 3);
    namespace
        .try_apply(&plant("moss", "0"))
        .exits(1)
        .complains("spec.height in body should be greater than or equal to 1");
    namespace.try_apply(&plant("ivy", "tall")).exits(1).complains("spec.height");
    assert_eq!(namespace.kubectl("get plants -o name"), "plant.scenarios.terrarium/fern\n");

    cluster.kubectl("delete crd plants.scenarios.terrarium --timeout=120s");
    namespace.try_kubectl("get plants").exits(1);
}

fn rights_are_refused_until_a_role_grants_them(cluster: &Cluster) {
    let namespace = cluster.namespace("api-rights");
    let forbidden = "pods is forbidden: User \"jane\" cannot list resource \"pods\"";
    namespace.try_kubectl("get pods --as jane").exits(1).complains(forbidden);
    let may = namespace.try_kubectl("auth can-i list pods --as jane").exits(1);
    assert_eq!(may.stdout, "no\n");

    namespace.apply(READER_ROLE);
    eventually(Duration::from_secs(30), || namespace.try_kubectl("get pods --as jane").ok());
    assert_eq!(namespace.kubectl("auth can-i list pods --as jane"), "yes\n");
    namespace.try_kubectl("delete pod web --as jane").exits(1).complains("forbidden");
    cluster.try_kubectl("get pods -n default --as jane").exits(1).complains(forbidden);
    namespace.try_kubectl("get secrets --as jane").exits(1).complains("forbidden");
}

fn a_dry_run_persists_nothing(cluster: &Cluster) {
    let namespace = cluster.namespace("api-dry");
    let created = namespace.kubectl("create configmap ghost --from-literal=a=b --dry-run=server -o name");
    assert_eq!(created, "configmap/ghost\n");
    namespace.try_kubectl("get configmap ghost").exits(1).complains("\"ghost\" not found");

    namespace.kubectl("create configmap real --from-literal=a=b");
    namespace.kubectl("delete configmap real --dry-run=server");
    assert_eq!(namespace.json("get configmap real")["data"]["a"], "b");
    // The server looked at it: a client's dry run would let it pass.
    let wrong = namespace.try_kubectl("create quota wrong --hard=pods=-1 --dry-run=server").exits(1);
    wrong.complains("must be greater than or equal to 0");
}
