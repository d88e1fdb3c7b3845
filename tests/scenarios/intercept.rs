//! Programs whose chosen system calls are changed by rules. The suite of crates/intercept, which shows each rule and what
//! may befall a traced program, is played in the sandboxes by `make chaos`.

use harness::{Cluster, Marks};
use serde_json::Value;

crate::stories! {
    Idle in BUILDS:
        a_programs_calls_are_changed_by_rules
        what_is_wrong_with_rules_is_told_before_anything_is_done
        a_traced_program_ends_with_its_tracer
        a_signal_before_there_is_a_program_ends_exec
        a_program_has_cgroup_files_that_the_sandbox_lacks
        a_stock_runc_takes_cgroup_files_of_fuse_by_a_rule;
}

const RULES: &str = r#"{
    "statfs": [{"from": "0x9fa0", "to": "0x27e0eb", "below": ["/proc"]}],
    "redirect": [{"from": "/proc/sys/terrarium", "to": "/srv/intercept/to"}],
    "files": [{"path": "/etc/made", "content": "made\n"}],
    "uname": {"release": "6.1.0-terrarium"}}"#;

fn place(cluster: &Cluster, rules: &str) {
    cluster.sh("mkdir -p /srv/intercept/to && echo redirected >/srv/intercept/to/file").succeeds();
    cluster.run_with_input(["tee", "/srv/intercept/rules"], rules.as_bytes()).succeeds();
}

fn a_programs_calls_are_changed_by_rules(cluster: &Cluster) {
    let before = Marks::of(cluster);
    // What the error is without the rules.
    cluster
        .sh("terrarium exec -- cat /proc/sys/terrarium/file /etc/made")
        .exits(1)
        .complains("No such file or directory");
    place(cluster, RULES);
    let exec = "terrarium exec --intercept /srv/intercept/rules --intercept-stats /srv/intercept/stats --";
    let script = "uname -r; cat /proc/sys/terrarium/file /etc/made; stat -f -c %t /proc; \
        echo written >/proc/sys/terrarium/new; exit 7";
    let said = cluster.sh(&format!("{exec} sh -c '{script}'")).exits(7).stdout;
    assert_eq!(said.lines().collect::<Vec<_>>(), ["6.1.0-terrarium", "redirected", "made", "27e0eb"]);
    cluster.sh("cat /srv/intercept/to/new").succeeds().prints("written");
    let stats: Value = serde_json::from_str(&cluster.sh("cat /srv/intercept/stats").succeeds().stdout).expect("JSON");
    for rule in stats["rules"].as_array().expect("rules") {
        assert!(rule["hits"].as_u64() > Some(0), "{stats}");
    }
    assert_eq!(stats["missed"], 0, "{stats}");
    cluster.sh("rm -r /srv/intercept").succeeds();
    Marks::of(cluster).assert_same_as(&before);
}

fn what_is_wrong_with_rules_is_told_before_anything_is_done(cluster: &Cluster) {
    place(cluster, r#"{"redirect": [{"from": "/a", "to": "/srv/intercept/nowhere"}]}"#);
    let exec = "terrarium exec --intercept /srv/intercept/rules --";
    let said = cluster.sh(&format!("{exec} true")).exits(4).complains("[rules-wrong]");
    said.complains("/srv/intercept/rules: redirect[0].to: /srv/intercept/nowhere: No such file or directory");
    cluster.sh("terrarium exec --intercept /no/such/rules -- true").exits(4).complains("/no/such/rules: No such file");
    cluster.sh("test -e /run/terrarium/exec").exits(1);
    place(cluster, RULES);
    cluster.sh(&format!("{exec} /no/such/program")).exits(127).complains("cannot run /no/such/program");
    cluster.sh(&format!("{exec} /etc/passwd")).exits(126).complains("cannot run /etc/passwd");
    cluster.sh("rm -r /srv/intercept").succeeds();
}

fn a_traced_program_ends_with_its_tracer(cluster: &Cluster) {
    place(cluster, RULES);
    let script = "
        terrarium intercept --rules /srv/intercept/rules -- sh -c 'sleep 600 & echo $! >/tmp/helper; echo $$ >/tmp/pid; wait' & tracer=$!
        for _ in $(seq 200); do test -s /tmp/pid && break; sleep 0.1; done
        kill -9 $tracer; wait $tracer
        for _ in $(seq 200); do
            grep -sq 'State:.[^Z]' /proc/$(cat /tmp/pid)/status /proc/$(cat /tmp/helper)/status || { rm /tmp/pid /tmp/helper; exit 0; }
            sleep 0.1
        done
        exit 1";
    cluster.sh(script).succeeds();
    cluster.sh("rm -r /srv/intercept").succeeds();
}

fn a_signal_before_there_is_a_program_ends_exec(cluster: &Cluster) {
    let before = Marks::of(cluster);
    for exec in ["terrarium exec", WITH_FILES] {
        let script = format!(
            "for _ in $(seq 10); do
                {exec} -- touch /tmp/ran & exec=$!
                for _ in $(seq 1000); do test -d /run/terrarium/exec && break; sleep 0.005; done
                kill -INT $exec; wait $exec; code=$?
                # Else the program was quicker than the signal.
                test -e /tmp/ran || exit $code; rm /tmp/ran
            done; exit 9"
        );
        cluster.sh(&script).exits(128 + 2);
        Marks::of(cluster).assert_same_as(&before);
    }
}

const WITH_FILES: &str = "terrarium exec --remedy cgroup-stats=fuse";
const FILE: &str = "/sys/fs/cgroup/cpuacct/cpuacct.usage_percpu";

fn a_program_has_cgroup_files_that_the_sandbox_lacks(cluster: &Cluster) {
    let before = Marks::of(cluster);
    cluster.sh(&format!("terrarium exec -- cat {FILE}")).exits(1).complains("No such file or directory");
    cluster.sh(&format!("{WITH_FILES} -- sh -c 'cat {FILE} && exit 7'")).exits(7);
    cluster.sh(&format!("{WITH_FILES} -- /no/such/program")).exits(127).complains("cannot run /no/such/program");
    // The server is started again, and ends with whoever started it.
    let killed = format!(
        "{WITH_FILES} -- sh -c 'pkill -9 -f \"^[^ ]*terrarium cgroupfs\" || exit 9
            for _ in $(seq 100); do cat {FILE} >/dev/null 2>&1 && exit 0; sleep 0.1; done; exit 8'"
    );
    cluster.sh(&killed).succeeds();
    Marks::of(cluster).assert_same_as(&before);
    let left = format!(
        "{WITH_FILES} -- sh -c 'echo $$ >/tmp/pid; exec sleep 600' & exec=$!
        for _ in $(seq 200); do test -s /tmp/pid && break; sleep 0.1; done
        kill -9 $exec; kill -9 $(cat /tmp/pid); wait $exec; rm /tmp/pid
        for _ in $(seq 100); do pgrep -f '^[^ ]*terrarium cgroupfs' || break; sleep 0.1; done; terrarium exec -- true"
    );
    cluster.sh(&left).succeeds();
    // One that is quicker than whoever kills it is out of order the next time.
    let out_of_order = format!(
        "touch /tmp/killing; while test -e /tmp/killing; do pkill -9 -f '^[^ ]*terrarium cgroupfs'; done &
        for _ in $(seq 10); do timeout 30 {WITH_FILES} -- true; code=$?; test $code = 0 || break; done
        rm /tmp/killing; wait; exit $code"
    );
    cluster.sh(&out_of_order).exits(1).complains("[cgroup-files-fail]");
    Marks::of(cluster).assert_same_as(&before);
}

fn a_stock_runc_takes_cgroup_files_of_fuse_by_a_rule(cluster: &Cluster) {
    let runc = "/opt/terrarium/libexec/terrarium/runc";
    let bundle = format!(
        r#"mkdir -p /tmp/bundle/rootfs && cd /tmp/bundle && {runc} spec &&
        cp -L --parents /bin/cat $(ldd /bin/cat | grep -o '/[^ ]*') rootfs &&
        sed -i 's/"terminal": true/"terminal": false/; s|"sh"|"/bin/cat", "/proc/self/cgroup"|' config.json"#
    );
    cluster.sh(&bundle).succeeds();
    let rules = r#"{"statfs": [{"from": "0x65735546", "to": "0x27e0eb", "below": ["/sys/fs/cgroup"]}]}"#;
    place(cluster, rules);
    let run = |with: &str| cluster.sh(&format!("cd /tmp/bundle && {WITH_FILES} {with} -- {runc} run stock </dev/null"));
    run("").exits(1).complains("not a cgroup file");
    run("--intercept /srv/intercept/rules").succeeds().prints("memory:/");
    cluster.sh("rm -r /tmp/bundle /srv/intercept").succeeds();
}
