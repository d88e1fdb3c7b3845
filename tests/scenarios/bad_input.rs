//! What is wrong with a machine, a file or a command is said by its name, and leaves nothing behind.

use std::time::Duration;

use harness::{Cluster, Marks, eventually};
use tar::{EntryType, Header};

crate::stories! {
    Bare:
        hostile_image_archives_are_refused_and_not_kept
        an_image_needs_room;
    Own:
        what_cannot_start_is_refused_and_leaves_nothing
        ctrl_c_at_every_step_undoes_the_start
        a_damaged_store_is_refused_and_set_aside_on_demand
        a_full_disk_takes_no_cluster_down;
}

fn hostile_image_archives_are_refused_and_not_kept(cluster: &Cluster) {
    let index = b"{\"manifests\":[]}";
    let archives = [
        ("image-unsafe", tar_of(&[(EntryType::Regular, "../../etc/cron.d/x", "", b"* * * * * root true")])),
        ("image-unsafe", tar_of(&[(EntryType::Symlink, "blobs", "/etc", b"")])),
        ("image-unsafe", tar_of(&[(EntryType::Link, "index.json", "/etc/shadow", b"")])),
        ("image-unsafe", tar_of(&[(EntryType::Char, "null", "", b"")])),
        ("image-digest", tar_of(&[(EntryType::Regular, "blobs/sha256/00", "", b"x")])),
        ("image-format", tar_of(&[(EntryType::Regular, "index.json", "", index)])),
        ("image-truncated", tar_of(&[(EntryType::Regular, "index.json", "", index)])[..600].to_vec()),
        ("image-format", b"words".to_vec()),
    ];
    for (id, archive) in archives {
        cluster.run_with_input(["tee", "/srv/hostile.tar"], &archive).succeeds();
        let refused = cluster.terrarium("image import /srv/hostile.tar --data-dir /srv/images").exits(4);
        refused.complains("cannot import /srv/hostile.tar").complains(&format!("[{id}]\nhint: "));
    }
    let bomb =
        "head -c 100M /dev/zero >/tmp/index.json && tar -C /tmp -czf /srv/hostile.tar index.json; rm /tmp/index.json";
    cluster.sh(bomb).succeeds();
    let refused = cluster.terrarium("image import /srv/hostile.tar --data-dir /srv/images").exits(4);
    refused.complains("[image-too-large]");
    assert_eq!(cluster.sh("find /srv/images/images -type f").stdout, "");
    cluster.run(["test", "-e", "/etc/cron.d/x"]).exits(1);
    cluster.sh("rm -r /srv/images /srv/hostile.tar").succeeds();
}

fn an_image_needs_room(cluster: &Cluster) {
    cluster.sh("mkdir /srv/small && mount -t tmpfs -o size=24m tmpfs /srv/small").succeeds();
    let sample = "/opt/terrarium/share/terrarium/images/sample.tar";
    let refused = cluster.terrarium(&format!("image import {sample} --data-dir /srv/small")).exits(6);
    refused.complains("/srv/small").complains("[no-space]\nhint: ");
    assert_eq!(cluster.sh("ls -A /srv/small/images").stdout, "");
    cluster.sh("umount /srv/small && rmdir /srv/small").succeeds();
}

fn what_cannot_start_is_refused_and_leaves_nothing(cluster: &Cluster) {
    let small = "mkdir -p /srv/small /srv/newer /srv/torn && mount -t tmpfs -o size=32m tmpfs /srv/small && \
        echo '{\"format\":99}' >/srv/newer/terrarium.json && echo '{' >/srv/torn/terrarium.json";
    cluster.sh(small).succeeds();
    // Copies of all components; one will be no program.
    cluster.sh("cp -rs /opt/terrarium/libexec/terrarium/. /broken && rm /broken/terrarium-oci").succeeds();
    cluster.sh("cd /broken && head -c 1M /opt/terrarium/libexec/terrarium/terrarium-oci >terrarium-oci && chmod +x terrarium-oci").succeeds();
    let listen = "perl -MIO::Socket::INET -e '$s = IO::Socket::INET->new(LocalPort => 6443, Listen => 1) or die; \
        sleep 1000' >/dev/null 2>&1 & echo $!";
    let listener = cluster.sh(listen).succeeds().stdout;
    let listener = listener.trim();
    eventually(Duration::from_secs(30), || cluster.sh("grep ':192B .* 0A ' /proc/net/tcp").ok());
    let before = Marks::of(cluster);

    for (command, code, words) in [
        ("terrarium up --data-dir /srv/newer", 4, "of a newer version of terrarium; this one knows 1 [data-dir-newer]"),
        ("terrarium up --data-dir /srv/torn", 4, "[data-dir-unreadable]"),
        ("terrarium up --data-dir /srv/small", 6, "/srv/small has 31 MiB left"),
        ("TERRARIUM_COMPONENTS=/broken terrarium up --data-dir /srv/x", 4, "it is truncated"),
        ("TERRARIUM_COMPONENTS=/broken terrarium up --data-dir /srv/x", 4, "[component-corrupt]"),
        ("terrarium up --data-dir /srv/x", 4, "the API's port 6443 is used already by"),
        ("terrarium up --data-dir /srv/x", 4, "[api-port-used]\nhint: end that process, or choose another port"),
        ("terrarium upp", 2, "similar subcommands exist: 'support', 'up'"),
        ("terrarium up --dta-dir /x", 2, "a similar argument exists: '--data-dir'"),
    ] {
        cluster.sh(command).exits(code).complains(words);
        cluster.sh("rm -rf /srv/x /srv/small/*").succeeds();
        Marks::of(cluster).assert_same_as(&before);
    }
    let used = cluster.terrarium("up --data-dir /srv/x").exits(4);
    used.complains(&format!("by process {listener} (perl"));
    // Another port is free.
    cluster.terrarium("up --api-port 7443").succeeds();
    cluster.kubectl("get nodes");
    assert!(cluster.sh("cat ~/.kube/config").stdout.contains("https://127.0.0.1:7443"));
    let fixed = cluster.terrarium("up --api-port 8443").exits(4);
    fixed.complains("the API's port cannot change while the cluster runs [restart-needed]");
    cluster.terrarium("down").succeeds();
    cluster.sh(&format!("kill {listener}")).succeeds();
}

fn ctrl_c_at_every_step_undoes_the_start(cluster: &Cluster) {
    let before = Marks::of(cluster);
    for seconds in ["0.02", "0.1", "0.2", "0.4", "0.8", "1.5", "2.5"] {
        let up = cluster.run(["timeout", "--preserve-status", "--signal=INT", seconds, "terrarium", "up"]);
        assert!(up.code == 130, "after {seconds} s: {up}");
        Marks::of(cluster).assert_same_as(&before);
    }
    let begin = "terrarium up & until [ -e /run/terrarium/records/supervisor.json ]; do sleep 0.05; done";
    let up = cluster.sh(&format!("{begin}; kill -INT %1; wait %1")).exits(130);
    up.complains("error: interrupted; the start was undone [interrupted]").within(Duration::from_secs(60));
    Marks::of(cluster).assert_same_as(&before);

    // One that only waits along takes nothing down.
    let both = format!("{begin}; timeout --preserve-status --signal=INT 0.5 terrarium up; echo $?; wait %1");
    cluster.sh(&both).succeeds().prints("130");
    cluster.terrarium("status").exits(0);
    cluster.terrarium("down").succeeds();

    // What a start left half-finished whose guardian was killed, too, is no obstacle to the next.
    for seconds in ["0.1", "0.4", "1.5"] {
        let kill = format!(
            "terrarium up & up=$!; sleep {seconds}
            while kill -0 $up 2>/dev/null; do pkill -9 -f '[/]terrarium (guard|supervise)'; sleep 0.02; done; wait $up"
        );
        assert_ne!(cluster.sh(&kill).code, 0);
    }
    cluster.up();
    cluster.terrarium("down").succeeds();
    Marks::of(cluster).assert_same_as(&before);
}

fn a_damaged_store_is_refused_and_set_aside_on_demand(cluster: &Cluster) {
    const STORE: &str = "/var/lib/terrarium/store/state.db";
    cluster.up();
    cluster.kubectl("create configmap memory --from-literal=word=moss");
    cluster.terrarium("up --reset-store").exits(4).complains("the store cannot change while the cluster runs");
    cluster.terrarium("down").succeeds();

    let sum = || cluster.sh(&format!("sha256sum <{STORE}")).succeeds().stdout;
    cluster.sh(&format!("cp -r {} /srv/store", STORE.trim_end_matches("/state.db"))).succeeds();
    let before = Marks::of(cluster);
    for damage in [
        format!("truncate -s 100000 {STORE}; rm -f {STORE}-*"),
        format!("truncate -s 0 {STORE}; rm -f {STORE}-*"),
        format!("dd if=/dev/urandom of={STORE} bs=4096 seek=3 count=20 conv=notrunc; rm -f {STORE}-*"),
        format!("echo words >{STORE}; rm -f {STORE}-*"),
    ] {
        cluster.sh(&damage).succeeds();
        let damaged = sum();
        let refused = cluster.terrarium("up").exits(4).complains(STORE);
        refused.complains("[store-corrupt]\nhint: put it back from a backup").complains("terrarium up --reset-store");
        assert_eq!(sum(), damaged, "{damage}");
        Marks::of(cluster).assert_same_as(&before);
        cluster.sh(&format!("cp /srv/store/* {}", STORE.trim_end_matches("state.db"))).succeeds();
    }
    // Put back, it is as good as ever.
    cluster.up();
    assert!(cluster.kubectl("get configmap memory -o jsonpath={.data.word}").contains("moss"));
    cluster.terrarium("down").succeeds();

    cluster.sh(&format!("truncate -s 100000 {STORE}; rm -f {STORE}-*")).succeeds();
    let damaged = sum();
    cluster.terrarium("up --reset-store").succeeds().complains("the store was set aside to");
    cluster.try_kubectl("get configmap memory").exits(1).complains("not found");
    let aside = cluster.sh("sha256sum </var/lib/terrarium/store/set-aside-*/state.db").succeeds().stdout;
    assert_eq!(aside, damaged);
}

fn a_full_disk_takes_no_cluster_down(cluster: &Cluster) {
    cluster.sh("mkdir /srv/small && mount -t tmpfs -o size=160m tmpfs /srv/small").succeeds();
    cluster.terrarium("up --data-dir /srv/small").succeeds();
    cluster.kubectl("create configmap before --from-literal=word=moss");
    let services = cluster.services();

    cluster.sh("cat /dev/zero >/srv/small/filler 2>/dev/null; df /srv/small >&2").succeeds();
    let big = "head -c 500000 /dev/urandom | base64 -w0 >/tmp/big; for n in 1 2 3 4 5 6 7 8 9 10 11 12; do \
        terrarium kubectl create configmap full-$n --from-file=/tmp/big || exit 9; done";
    cluster.sh(big).exits(9);
    let import = cluster.terrarium("image import /opt/terrarium/share/terrarium/images/sample.tar");
    import.exits(6).complains("[no-space]");
    cluster.eventually_runs(Duration::from_secs(60));

    cluster.sh("rm /srv/small/filler").succeeds();
    cluster.kubectl("create configmap after --from-literal=word=moss");
    assert!(cluster.kubectl("get configmap before -o jsonpath={.data.word}").contains("moss"));
    assert_eq!(cluster.services(), services);
    cluster.terrarium("down").succeeds();
    cluster.terrarium("up --data-dir /srv/small").succeeds();
    assert!(cluster.kubectl("get configmap after -o jsonpath={.data.word}").contains("moss"));
    // Where the directory is a mount point, the place stays.
    cluster.terrarium("down --purge").succeeds();
    assert_eq!(cluster.sh("ls -A /srv/small").stdout, "");
}

/// A tar file of entries with type, path, link and content, also as no honest program writes it.
fn tar_of(entries: &[(EntryType, &str, &str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (kind, path, link, content) in entries {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(*kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        archive.append(&header, *content).expect("memory takes it");
    }
    archive.into_inner().expect("memory takes it")
}
