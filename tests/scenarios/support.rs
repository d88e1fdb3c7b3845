//! What is given away to somebody who helps.

use harness::{Cluster, DATA_DIR};

crate::stories! {
    Shared: a_support_bundle_holds_what_helps_and_no_secret;
    Bare: a_support_bundle_without_a_cluster_says_what_is_missing;
}

const POD: &str = include_str!("../manifests/web.yaml");

fn a_support_bundle_holds_what_helps_and_no_secret(cluster: &Cluster) {
    let namespace = cluster.namespace("support");
    let token = namespace.kubectl("create token default").trim().to_owned();
    // A token where none should be, and in a place that kubectl copies into an annotation.
    let variable = format!("- name: TOKEN\n          value: \"{token}\"\n        - name: POD_IP");
    let with_token = POD.replace("- name: POD_IP", &variable);
    assert_ne!(with_token, POD);
    namespace.apply(&with_token);
    namespace.kubectl("create secret generic hidden --from-literal=word=xyzzy-plugh-0451");
    cluster.sh(&format!("echo 'leaked: {token} Bearer {token}' >>{DATA_DIR}/logs/kubelet.log")).succeeds();

    let unpack = "mkdir /tmp/support && cd /tmp/support && terrarium support bundle -o bundle.tar.gz && \
        stat -c %a bundle.tar.gz && tar -xzf bundle.tar.gz && cat terrarium-support/missing.txt";
    let unpacked = cluster.sh(unpack).succeeds();
    unpacked.prints("bundle.tar.gz\n600");
    for file in [
        "version.txt",
        "status.json",
        "run/journal",
        "run/progress",
        "run/records/kubelet.json",
        "etc/kubelet.json",
        "etc/admin.kubeconfig",
        "logs/kubelet.log",
        "logs/containerd.log",
        "cluster/nodes.json",
        "cluster/pods.json",
        "cluster/events.json",
        "system/mountinfo",
        "system/mountinfo-of-the-cluster",
        "system/addresses",
        "system/processes",
        "pki.txt",
    ] {
        cluster.sh(&format!("test -s /tmp/support/terrarium-support/{file}")).succeeds();
    }
    cluster.sh("grep -q oomparser.*$ /tmp/support/terrarium-support/logs/kubelet.log").succeeds();
    // Every line of every private key, and each key as kubeconfigs carry it.
    let look = "for key in /var/lib/terrarium/pki/*.key; do \
          grep -v -e ----- $key | while read -r line; do [ ${#line} -lt 16 ] || echo \"$line\"; done; base64 -w0 $key; echo; \
        done >/tmp/secrets; wc -l </tmp/secrets; grep -rFf /tmp/secrets /tmp/support/terrarium-support && exit 1; exit 0";
    let looked = cluster.sh(look).succeeds();
    assert!(looked.stdout.trim().parse::<u32>().is_ok_and(|count| count >= 10), "{looked}");
    for secret in [token.as_str(), "xyzzy-plugh-0451", "PRIVATE KEY"] {
        cluster.run(["grep", "-rF", "--", secret, "/tmp/support/terrarium-support"]).exits(1);
    }
    cluster.terrarium("support bundle -o /tmp/support/bundle.tar.gz").exits(1).complains("bundle.tar.gz");
    cluster.sh("rm -r /tmp/support /tmp/secrets").succeeds();
}

fn a_support_bundle_without_a_cluster_says_what_is_missing(cluster: &Cluster) {
    let nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups";
    for (user, file) in [("", "/tmp/root.tar.gz"), (nobody, "/tmp/nobody.tar.gz")] {
        cluster.sh(&format!("{user} terrarium support bundle -o {file}")).succeeds();
        let missing = cluster.sh(&format!("tar -xzOf {file} terrarium-support/missing.txt && rm {file}")).succeeds();
        missing.prints("cluster/nodes.json: the API server does not run").prints("logs: ");
    }
    cluster.run(["test", "-e", DATA_DIR]).exits(1);
}
