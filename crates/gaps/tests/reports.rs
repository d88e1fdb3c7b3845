//! Reports of real sandboxes (recorded by scripts/record-reports) are understood, and say what is known of each kind.

#![allow(clippy::unwrap_used)] // Helpers of tests, which the lint takes for code of its own.

use std::collections::BTreeMap;
use std::path::Path;

use terrarium_gaps::{GapId, Place, Report, SCHEMA, TABLE};

fn reports() -> BTreeMap<String, Report> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reports");
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        (path.file_stem().unwrap().to_str().unwrap().to_owned(), serde_json::from_str(&text).unwrap())
    };
    dir.read_dir().unwrap().map(read).collect()
}

fn present(report: &Report) -> Vec<GapId> {
    report.findings().into_iter().filter(|finding| finding.present).map(|finding| finding.gap).collect()
}

#[test]
fn a_recorded_report_has_a_finding_for_each_gap_with_evidence() {
    for (name, report) in reports() {
        assert_eq!(report.schema, SCHEMA, "{name}");
        let findings = report.findings();
        assert!(findings.iter().map(|finding| finding.gap).eq(TABLE.iter().map(|gap| gap.id)), "{name}");
        for finding in findings {
            assert_eq!(finding.present, !finding.evidence.is_empty(), "{name}: {}", finding.gap);
        }
        // Neither process IDs nor temporary paths: the next run must say the same.
        let text = serde_json::to_string(&report).unwrap();
        assert!(!text.contains("probe-") && !text.contains("/tmp/"), "{name}: {text}");
    }
}

#[test]
fn linux_with_every_right_lacks_nothing_that_keeps_pods_from_running() {
    let gaps = present(&reports()["linux-root"]);
    assert_eq!(gaps, [GapId::CgroupV1], "of a machine with version 1");
}

#[test]
fn gvisor_lacks_the_same_on_every_build_but_for_what_is_known_to_differ() {
    use GapId::{
        CgroupMagic, CgroupMounts, CgroupStats, CgroupV1, DevicelessRoute, HostnameResolution, Kmsg, LinkKind,
        LinkMonitor, LocalPorts, MachineId, Netfilter, OciRuntime, OverlayOnRoot, ProcSys, ResourceLimits,
        UnprivilegedSysctls,
    };
    let reports = reports();
    let all = [
        ProcSys,
        CgroupMounts,
        CgroupStats,
        CgroupMagic,
        Kmsg,
        CgroupV1,
        OverlayOnRoot,
        UnprivilegedSysctls,
        LocalPorts,
        LinkKind,
        DevicelessRoute,
        Netfilter,
        OciRuntime,
        ResourceLimits,
        LinkMonitor,
        MachineId,
        HostnameResolution,
    ];
    let without = |missing: &[GapId]| all.into_iter().filter(|gap| !missing.contains(gap)).collect::<Vec<_>>();
    assert_eq!(present(&reports["2024-07-full"]), all);
    assert_eq!(present(&reports["2026-02-full"]), without(&[LinkMonitor]));
    assert_eq!(present(&reports["2026-07-full"]), without(&[LinkMonitor, OverlayOnRoot]));
    // Whiteouts fail on a host's overlay.
    assert_eq!(present(&reports["2026-07-full-on-overlay"]), without(&[LinkMonitor]));
}

#[test]
fn the_place_follows_from_the_rights() {
    let reports = reports();
    for (name, place, ids) in [
        ("2026-07-full", Place::MountNamespace, 65536),
        ("2026-07-docker", Place::UserNamespace, 65536),
        ("2026-07-uid1000", Place::UserNamespace, 1),
        ("2024-07-docker", Place::UserNamespace, 65536),
        ("2026-07-full-in-user-namespace", Place::UserNamespace, 65536),
        ("2026-07-docker-without-userns", Place::Nowhere, 1),
        ("2026-07-full-without-mount", Place::Nowhere, 65536),
        ("linux-uid1000", Place::UserNamespace, 1),
    ] {
        let rights = &reports[name].rights;
        assert_eq!((rights.place, rights.mappable_ids), (place, ids), "{name}");
        let in_user_namespace = place == Place::UserNamespace;
        assert_eq!(reports[name].has(GapId::NodeAddress), in_user_namespace, "{name}: its network has no address");
    }
    assert!(!reports["2026-07-full-without-ptrace"].intercept.works());
    assert!(!reports["2026-07-full-without-fuse"].fuse.works());
    assert!(!reports["2026-07-full-without-net-raw"].network.legacy_nat.works());
    assert!(reports["2026-07-docker"].network.legacy_nat.works());
}
