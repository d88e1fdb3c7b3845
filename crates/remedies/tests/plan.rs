//! What is planned for which report.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use proptest::prelude::*;
use terrarium_gaps::{
    Blocks, Cgroups, GapId, Kernel, Network, Oci, Place, Report, Rights, SCHEMA, SYSCTLS, Sysctl, TABLE, Tried,
};
use terrarium_remedies::{Action, Choices, Decision, Isolation, Plan, Setting, Site, plan};

/// Where a caller with these rights has its files.
fn site(report: &Report) -> Site {
    let (runtime, data) = match report.rights.uid {
        0 => ("/run/terrarium", "/var/lib/terrarium"),
        _ => ("/home/user/.local/state/terrarium", "/home/user/.local/share/terrarium"),
    };
    Site { runtime_dir: runtime.into(), data_dir: data.into() }
}

fn fails() -> Tried {
    Tried::Fails("Operation not permitted".to_owned())
}

/// A machine that lacks nothing.
fn complete() -> Report {
    Report {
        schema: SCHEMA,
        kernel: Kernel { release: "6.18.0".to_owned(), gvisor: false },
        rights: Rights {
            uid: 0,
            gid: 0,
            capabilities: BTreeSet::from(["CAP_SYS_ADMIN".to_owned()]),
            mount_namespace: Tried::Works,
            user_namespace: Tried::Works,
            mappable_ids: 65536,
            place: Place::MountNamespace,
        },
        sysctls: SYSCTLS.iter().map(|(path, _)| ((*path).to_owned(), Sysctl::Writable)).collect(),
        sysctl_overlay: Tried::Works,
        cgroups: Cgroups::V2(Tried::Works),
        missing_cgroup_files: BTreeSet::new(),
        resource_limits: Tried::Works,
        openat2: Tried::Works,
        kmsg: Tried::Works,
        fuse: Tried::Works,
        intercept: Tried::Works,
        overlay_on_data_dir: Tried::Works,
        overlay_on_tmpfs: Tried::Works,
        unprivileged_ports: Tried::Works,
        unprivileged_icmp: Tried::Works,
        network: Network {
            address: Tried::Works,
            veth: Tried::Works,
            link_kind: Tried::Works,
            deviceless_route: Tried::Works,
            legacy_nat: Tried::Works,
            nftables: Tried::Works,
            link_monitor: Tried::Works,
            ip_forward: Sysctl::Writable,
            local_ports: Tried::Works,
            ip_local_port_range: Sysctl::Writable,
            table_lock: true,
        },
        oci: Oci {
            masking_tmpfs: Tried::Works,
            procfs_inodes: Tried::Works,
            setgroups: Tried::Works,
            join_pid_namespace: Tried::Works,
        },
        machine_id: Tried::Works,
        hostname: Tried::Works,
        writable: BTreeMap::new(),
    }
}

fn decide(decisions: &[&str]) -> Choices {
    decisions.iter().map(|decision| decision.parse::<Decision>().expect("a test decides for what there is")).collect()
}

fn planned(report: &Report, decisions: &[&str]) -> Plan {
    plan(report, &decide(decisions), &site(report))
}

/// What the plan for a recorded sandbox comes to, one line each.
fn summary(plan: &Plan) -> String {
    let steps = plan.steps.iter().flat_map(|step| {
        let skipped = step.skipped.iter().map(|skipped| format!("  not {skipped}"));
        let actions = step.actions.iter().map(|action| format!("  {action}"));
        std::iter::once(step.purpose.to_string()).chain(skipped).chain(actions)
    });
    let open = plan.open.iter().map(|open| format!("open: {}: {}", open.gap, open.why));
    let mut text = format!("{:?}\n", plan.isolation);
    steps.chain(open).for_each(|line| text += &format!("{line}\n"));
    text
}

#[test]
fn a_machine_without_gaps_is_only_prepared() {
    insta::assert_snapshot!(summary(&planned(&complete(), &[])));
}

#[test]
fn the_plans_for_recorded_sandboxes() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gaps/tests/reports");
    let mut recorded: Vec<_> = directory.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    recorded.sort();
    assert!(recorded.len() >= 5, "reports are recorded by scripts/record-reports");
    for path in recorded {
        let report: Report = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        insta::assert_snapshot!(name, summary(&planned(&report, &[])));
    }
}

#[test]
fn a_gap_that_is_left_open_is_left_open_and_said() {
    let report = Report { kmsg: fails(), ..complete() };
    let closed = planned(&report, &[]);
    assert!(closed.step(GapId::Kmsg).is_some() && closed.can_run_pods());
    let open = planned(&report, &["kmsg=none"]);
    assert!(open.step(GapId::Kmsg).is_none() && !open.can_run_pods());
    assert_eq!(open.obstacles().count(), 0, "the user wants it so");
}

#[test]
fn a_rung_that_is_forced_is_used_where_the_gap_was_not_seen() {
    let plan = planned(&complete(), &["cgroup-stats=flag", "privileges=namespace"]);
    assert_eq!(plan.isolation, Isolation::User { ids: 65536, network: true });
    for gap in [GapId::CgroupStats, GapId::Privileges] {
        assert!(plan.step(gap).is_some(), "{gap}");
    }
}

#[test]
fn without_rights_no_pod_runs_and_the_plan_says_why() {
    let mut report = complete();
    report.rights.mount_namespace = fails();
    report.rights.user_namespace = fails();
    report.rights.place = Place::Nowhere;
    report.cgroups = Cgroups::Unmounted { mountable: Vec::new() };
    report.kmsg = fails();
    let made = planned(&report, &[]);
    assert_eq!(made.isolation, Isolation::Nothing);
    assert!(made.has_no_pods() && !made.can_run_pods());
    assert_eq!(made.obstacles().count(), 0, "there is a node");
    let mounts = made.steps.iter().flat_map(|step| &step.actions).filter(|action| {
        matches!(action, Action::Mount { .. } | Action::Bind { .. } | Action::Stack { .. } | Action::Cgroup { .. })
    });
    assert_eq!(mounts.count(), 0);
    let asked = planned(&complete(), &["privileges=intercept"]);
    assert!(!asked.has_no_pods() && asked.obstacles().count() == 1, "where mounts work it is refused");
    report.network.address = fails();
    assert_eq!(planned(&report, &[]).obstacles().map(|open| open.gap).collect::<Vec<_>>(), [GapId::NodeAddress]);
    report.network.address = Tried::Works;
    for (why, report) in [
        ("system calls cannot be intercepted", Report { intercept: fails(), ..report.clone() }),
        ("the kubelet needs /var/lib/kubelet", Report { writable: [("/var/lib".into(), false)].into(), ..report }),
    ] {
        let made = plan(&report, &Choices::default(), &site(&report));
        assert!(!made.has_no_pods());
        let reasons: Vec<_> = made.obstacles().map(|open| (open.gap, open.why.clone())).collect();
        assert!(reasons.iter().any(|(gap, reason)| *gap == GapId::Privileges && reason.contains(why)), "{reasons:?}");
    }
}

#[test]
fn a_remedy_that_cannot_work_here_is_not_planned() {
    let broken = Report {
        sysctls: [("vm/panic_on_oom".to_owned(), Sysctl::Absent)].into(),
        sysctl_overlay: fails(),
        intercept: fails(),
        overlay_on_data_dir: fails(),
        overlay_on_tmpfs: fails(),
        cgroups: Cgroups::Unmounted { mountable: vec!["cpu".to_owned()] },
        ..complete()
    };
    let plan = planned(&broken, &[]);
    let open: Vec<_> = plan.obstacles().map(|open| open.gap).collect();
    assert_eq!(open, [GapId::OverlayOnRoot, GapId::ProcSys, GapId::CgroupMounts]);
}

#[test]
fn entries_that_directories_refuse_go_to_overlays_of_a_user_namespace() {
    let mut report = complete();
    report.rights.place = Place::UserNamespace;
    report.rights.mount_namespace = fails();
    (report.rights.uid, report.rights.mappable_ids) = (1000, 1);
    report.writable = [("/var/lib".into(), false), ("/run".into(), true)].into();
    report.network.address = fails();
    report.network.ip_forward = Sysctl::ReadOnly("0".to_owned());
    let plan = planned(&report, &[]);
    assert_eq!(plan.isolation, Isolation::User { ids: 1, network: true });
    let overlays: Vec<_> = plan
        .steps
        .iter()
        .flat_map(|step| &step.actions)
        .filter(|action| matches!(action, Action::Mount { fstype, .. } if fstype == "overlay"))
        .map(Action::to_string)
        .collect();
    assert_eq!(overlays, ["mount overlay on /var/lib"]);
    assert!(
        plan.settings()
            .any(|setting| *setting == Setting::PodNetwork { ip_forward: false, ip_masq: false, redirect: true })
    );
    assert!(plan.step(GapId::NodeAddress).is_some());
}

#[test]
fn ports_of_services_are_kept_free_where_the_sysctl_is_that_of_the_node() {
    let mut report = complete();
    report.network.local_ports = fails();
    let actions =
        |report: &Report| planned(report, &[]).step(GapId::LocalPorts).map(|step| step.actions[0].to_string());
    let written = "write 32768 60999 to /proc/sys/net/ipv4/ip_local_port_range";
    assert_eq!(actions(&report).as_deref(), Some(written));
    report.network.ip_local_port_range = Sysctl::ReadOnly("16000 65535".to_owned());
    assert_eq!(actions(&report), None);
    report.network.ip_local_port_range = Sysctl::Writable;
    report.rights.place = Place::UserNamespace;
    report.rights.mount_namespace = fails();
    let plan = planned(&report, &[]);
    let open = plan.open.iter().find(|open| open.gap == GapId::LocalPorts).expect("stays");
    assert!(open.why.contains("network namespace") && open.blocks == Blocks::Nothing);
}

#[test]
fn what_lasts_is_never_hidden_by_an_overlay() {
    let mut report = complete();
    report.rights.place = Place::UserNamespace;
    report.rights.mount_namespace = fails();
    report.writable = [("/var/lib".into(), false)].into();
    let plan = planned(&report, &[]);
    let why = plan.obstacles().find(|open| open.gap == GapId::Privileges).map(|open| open.why.clone());
    assert!(why.unwrap().contains("--data-dir"));
}

#[test]
fn decisions_are_read_as_written() {
    for text in ["proc-sys=mount", "kmsg=none", "privileges=namespace"] {
        assert_eq!(text.parse::<Decision>().unwrap().to_string(), text);
    }
    for (text, says) in [
        ("kmsg", "GAP=RUNG"),
        ("kmsgs=none", "there are: privileges, mapped-ids, proc-sys"),
        ("kmsg=fuse", "there are: flag, mount, intercept, none"),
        ("resource-limits=flag", "there are: fuse, none"),
    ] {
        let error = text.parse::<Decision>().unwrap_err();
        assert!(error.contains(says), "{text}: {error}");
    }
}

fn any_tried() -> impl Strategy<Value = Tried> {
    prop_oneof![Just(Tried::Works), Just(fails())]
}

fn any_report() -> impl Strategy<Value = Report> {
    let sysctl = || prop_oneof![Just(Sysctl::Writable), Just(Sysctl::Absent), "[0-9]{1,3}".prop_map(Sysctl::ReadOnly)];
    let controllers = ["cpu", "cpuacct", "cpuset", "devices", "job", "memory", "pids"];
    let names = move || {
        prop::sample::subsequence(controllers.to_vec(), 0..=controllers.len())
            .prop_map(|names| names.into_iter().map(str::to_owned).collect::<Vec<_>>())
    };
    let cgroups = prop_oneof![
        any_tried().prop_map(Cgroups::V2),
        (names(), any_tried()).prop_map(|(hierarchies, make)| Cgroups::V1 { hierarchies, make }),
        names().prop_map(|mountable| Cgroups::Unmounted { mountable }),
    ];
    let tried = prop::collection::vec(any_tried(), 15);
    let place = prop_oneof![Just(Place::MountNamespace), Just(Place::UserNamespace), Just(Place::Nowhere)];
    (tried, place, cgroups, prop::collection::vec(sysctl(), SYSCTLS.len() + 2), any::<bool>()).prop_map(
        |(tried, place, cgroups, sysctls, writable)| {
            let mut report = complete();
            let [
                mount,
                user,
                overlay,
                kmsg,
                data_dir,
                tmpfs,
                ports,
                icmp,
                address,
                nat,
                nft,
                masking,
                id,
                hostname,
                local,
            ] = tried.try_into().expect("as many as were asked for");
            (report.rights.mount_namespace, report.rights.user_namespace, report.rights.place) = (mount, user, place);
            (report.sysctl_overlay, report.kmsg, report.cgroups) = (overlay, kmsg, cgroups);
            (report.overlay_on_data_dir, report.overlay_on_tmpfs) = (data_dir, tmpfs);
            (report.unprivileged_ports, report.unprivileged_icmp) = (ports, icmp);
            (report.network.address, report.network.legacy_nat, report.network.nftables) = (address, nat, nft);
            (report.oci.masking_tmpfs, report.machine_id, report.hostname) = (masking, id, hostname);
            report.network.local_ports = local;
            report.network.ip_forward = sysctls[0].clone();
            report.network.ip_local_port_range = sysctls[1].clone();
            report.sysctls = SYSCTLS
                .iter()
                .zip(&sysctls[2..])
                .map(|((path, _), sysctl)| ((*path).to_owned(), sysctl.clone()))
                .collect();
            report.writable = [("/etc".into(), writable), ("/run".into(), true)].into();
            report
        },
    )
}

fn any_choices() -> impl Strategy<Value = Choices> {
    prop::collection::vec(prop::sample::select(TABLE.iter().map(|row| row.id).collect::<Vec<_>>()), 0..3).prop_map(
        |gaps| {
            gaps.into_iter()
                .map(|gap| format!("{gap}=none").parse::<Decision>().expect("each gap can be left open"))
                .collect()
        },
    )
}

proptest! {
    /// Whatever is seen and decided: each gap that is there is closed by one step or said to be open, one that is not there
    /// is neither, and the plan can be told from its JSON.
    #[test]
    fn every_gap_is_closed_or_said_to_be_open(report in any_report(), choices in any_choices()) {
        let made = plan(&report, &choices, &site(&report));
        prop_assert_eq!(&made, &plan(&report, &choices, &site(&report)), "the same comes from the same");
        for gap in TABLE.iter().map(|row| row.id) {
            let closed = made.steps.iter().filter(|step| step.purpose.gap() == Some(gap)).count();
            let open = made.open.iter().filter(|open| open.gap == gap).count();
            prop_assert_eq!(closed + open, usize::from(report.has(gap)), "{}", gap);
        }
        let json = serde_json::to_string(&made).unwrap();
        prop_assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), made);
    }

    /// Nothing is mounted where another step has mounted something already: it would hide that.
    #[test]
    fn nothing_is_mounted_twice(report in any_report()) {
        let mut targets = BTreeSet::new();
        for action in plan(&report, &Choices::default(), &site(&report)).steps.iter().flat_map(|step| &step.actions) {
            if let Action::Mount { target, .. } | Action::Bind { target, .. } = action {
                prop_assert!(targets.insert(target.clone()), "{}", target.display());
            }
        }
    }

    /// A rung is what the table says: the sentence of each step is there.
    #[test]
    fn every_step_says_what_it_does(report in any_report()) {
        for step in plan(&report, &Choices::default(), &site(&report)).steps {
            prop_assert!(!step.does.is_empty(), "{}", step.purpose);
        }
    }
}
