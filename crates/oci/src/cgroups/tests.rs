//! The files of both versions, in directories like theirs.

use std::fs;
use std::io::Write as _;

use oci_spec::runtime::Spec;
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::spec::tests::{any_json, changed};

struct Fixture(TempDir);

impl Fixture {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().expect("it is below")).expect("a directory");
        fs::write(path, text).expect("a file");
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.0.path().join(path)).expect("a file")
    }

    /// With these hierarchies (mount point and file system's options) and the container's path `/one`.
    fn cgroups(&self, mounts: &[(&str, &str, &str)]) -> Cgroups {
        let line = |(point, kind, options): &(&str, &str, &str)| {
            format!("1 0 0:1 / {}/{point} rw - {kind} none rw,{options}\n", self.0.path().display())
        };
        Cgroups::among(&Mounts::parse(&mounts.iter().map(line).collect::<String>(), ""), "/one")
    }

    fn linux(&self) -> Cgroups {
        for controller in ["cpu", "memory", "pids", "freezer"] {
            self.put(&format!("{controller}/notify_on_release"), "0");
        }
        self.cgroups(&[
            ("cpu", "cgroup", "cpu"),
            ("memory", "cgroup", "memory"),
            ("pids", "cgroup", "pids"),
            ("freezer", "cgroup", "freezer"),
        ])
    }

    fn gvisor(&self) -> Cgroups {
        self.put("memory/tasks", "");
        self.cgroups(&[("memory", "cgroup", "memory")])
    }

    fn v2(&self) -> Cgroups {
        self.put("cgroup.controllers", "cpu memory pids");
        self.put("cgroup.subtree_control", "");
        self.cgroups(&[("", "cgroup2", "nsdelegate")])
    }
}

fn resources(json: &str) -> LinuxResources {
    serde_json::from_str(json).expect("resources")
}

#[test]
fn limits_go_where_version_1_has_them() {
    let fixture = Fixture::new();
    let cgroups = fixture.linux();
    for file in ["cpu/one/cpu.shares", "cpu/one/cpu.cfs_quota_us", "cpu/one/cpu.cfs_period_us", "pids/one/pids.max"] {
        fixture.put(file, "");
    }
    fixture.put("memory/one/memory.limit_in_bytes", "");
    fixture.put("memory/one/memory.memsw.limit_in_bytes", "");
    let warnings = cgroups.set(&resources(
        r#"{"cpu": {"shares": 512, "quota": 20000, "period": 100000}, "memory": {"limit": 1048576, "swap": 2097152},
            "pids": {"limit": -1}}"#,
    ));
    assert_eq!(warnings.expect("all files are there"), [""; 0]);
    assert_eq!(fixture.read("cpu/one/cpu.shares"), "512");
    assert_eq!(fixture.read("cpu/one/cpu.cfs_quota_us"), "20000");
    assert_eq!(fixture.read("memory/one/memory.memsw.limit_in_bytes"), "2097152");
    assert_eq!(fixture.read("pids/one/pids.max"), "max");
}

#[test]
fn a_limit_that_linux_does_not_have_is_refused() {
    let fixture = Fixture::new();
    let cgroups = fixture.linux();
    fixture.put("memory/one/tasks", "");
    let problem = |json| cgroups.set(&resources(json)).expect_err("it is not there").to_string();
    assert_eq!(
        problem(r#"{"memory": {"swap": 1}}"#),
        "linux.resources.memory.swap: the kernel has no memory.memsw.limit_in_bytes"
    );
    assert_eq!(problem(r#"{"cpu": {"cpus": "0"}}"#), "linux.resources.cpu.cpus: there is no cpuset controller");
    assert!(problem(r#"{"unified": {"memory.high": "1"}}"#).starts_with("linux.resources.unified: "));
    let rules = r#"[{"allow": false, "access": "rwm"}]"#;
    let rules: Vec<LinuxDeviceCgroup> = serde_json::from_str(rules).expect("rules");
    let error = cgroups.allow_devices(&rules);
    assert!(error.is_err() || !fs::read_to_string("/proc/self/uid_map").expect("a map").contains("4294967295"));
}

#[test]
fn a_limit_that_gvisor_does_not_have_is_a_warning() {
    let fixture = Fixture::new();
    let cgroups = fixture.gvisor();
    fixture.put("memory/one/memory.limit_in_bytes", "");
    let asked =
        resources(r#"{"memory": {"limit": 4096, "swap": 4096}, "cpu": {"cpus": "0"}, "blockIO": {"weight": 9}}"#);
    assert_eq!(
        cgroups.set(&asked).expect("warnings only"),
        [
            "linux.resources.cpu.cpus: there is no cpuset controller; not set",
            "linux.resources.memory.swap: the kernel has no memory.memsw.limit_in_bytes; not set",
            "linux.resources.blockIO.weight: there is no blkio controller; not set",
        ]
    );
    assert_eq!(fixture.read("memory/one/memory.limit_in_bytes"), "4096");
    cgroups.allow_devices(&[]).expect("there is no such controller");
    assert!(!cgroups.is_frozen().expect("an answer"));
    let error = cgroups.freeze().expect_err("there is no freezer");
    assert_eq!(error.to_string(), "pause or resume the container");
}

#[test]
fn without_cgroups_limits_are_warnings() {
    let cgroups = Cgroups::among(&Mounts::default(), "/one");
    assert_eq!(cgroups, Cgroups::None);
    let warnings = cgroups.set(&resources(r#"{"pids": {"limit": 5}}"#)).expect("warnings only");
    assert_eq!(warnings, ["linux.resources.pids.limit: no cgroups are mounted; not set"]);
    assert_eq!(cgroups.pids().expect("none"), []);
    cgroups.create().and_then(|()| cgroups.kill()).and_then(|()| cgroups.delete()).expect("nothing to do");
}

#[test]
fn version_2_hands_controllers_down_and_converts_values() {
    let fixture = Fixture::new();
    let cgroups = fixture.v2();
    cgroups.create().expect("a directory");
    // Each controller is a write of its own; a plain file keeps what is not overwritten.
    assert_eq!(fixture.read("cgroup.subtree_control"), "+pidsry");
    for file in ["cpu.weight", "cpu.max", "memory.max", "memory.swap.max", "memory.low", "pids.max", "memory.high"] {
        fixture.put(&format!("one/{file}"), "");
    }
    let asked = r#"{"cpu": {"shares": 1024, "quota": 5000}, "memory": {"limit": 100, "swap": 150, "reservation": -1},
        "pids": {"limit": 7}, "unified": {"memory.high": "90"}}"#;
    cgroups.set(&resources(asked)).expect("all files are there");
    let files = ["cpu.weight", "cpu.max", "memory.max", "memory.swap.max", "memory.low", "pids.max", "memory.high"];
    let values = files.map(|file| fixture.read(&format!("one/{file}")));
    assert_eq!(values, ["39", "5000 100000", "100", "50", "max", "7", "90"]);
    let problem = |json| cgroups.set(&resources(json)).expect_err("it is wrong").to_string();
    assert!(problem(r#"{"memory": {"limit": 100, "swap": 50}}"#).starts_with("linux.resources.memory.swap: "));
    assert!(problem(r#"{"unified": {"../x.y": "1"}}"#).starts_with("linux.resources.unified.../x.y: "));
    assert_eq!(problem(r#"{"cpu": {"burst": 1}}"#), "linux.resources.cpu.burst: the kernel has no cpu.max.burst");
}

#[test]
fn version_1_tells_what_was_used() {
    let fixture = Fixture::new();
    let cgroups =
        fixture.cgroups(&[("cpu", "cgroup", "cpu,cpuacct"), ("m", "cgroup", "memory"), ("p", "cgroup", "pids")]);
    fixture.put("cpu/one/cpuacct.usage", "123456789\n");
    fixture.put("cpu/one/cpuacct.stat", "user 7\nsystem 5\n");
    fixture.put("cpu/one/cpuacct.usage_percpu", "100000000 23456789 \n");
    fixture.put("cpu/one/cpu.stat", "nr_periods 9\nnr_throttled 2\nthrottled_time 12345\n");
    fixture.put("m/one/memory.usage_in_bytes", "4096\n");
    fixture.put("m/one/memory.limit_in_bytes", "9223372036854771712\n");
    fixture.put("m/one/memory.failcnt", "3\n");
    fixture.put("m/one/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n");
    fixture.put("m/one/memory.stat", "cache 1\nrss 2\ntotal_inactive_file 3\n");
    fixture.put("m/one/cgroup.procs", "");
    fixture.put("p/one/pids.current", "6\n");
    fixture.put("p/one/pids.max", "max\n");
    let stats = cgroups.stats().expect("they can be read");
    assert_eq!((stats.cpu.usage_ns, stats.cpu.user_ns, stats.cpu.kernel_ns), (123_456_789, 70_000_000, 50_000_000));
    assert_eq!(stats.cpu.per_cpu_ns, [100_000_000, 23_456_789]);
    assert_eq!((stats.cpu.periods, stats.cpu.throttled_periods, stats.cpu.throttled_ns), (9, 2, 12345));
    assert_eq!((stats.memory.usage, stats.memory.limit, stats.memory.failcnt), (4096, 9_223_372_036_854_771_712, 3));
    assert_eq!((stats.memory.oom_kills, stats.memory.stat["total_inactive_file"]), (4, 3));
    assert_eq!((stats.pids.current, stats.pids.limit), (6, 0));
    fixture.put("cpu/one/cpuacct.usage_user", "71\n");
    fixture.put("cpu/one/cpuacct.usage_sys", "52\n");
    let cpu = cgroups.stats().expect("they can be read").cpu;
    assert_eq!((cpu.user_ns, cpu.kernel_ns), (71, 52), "as gVisor tells it by itself");
    fixture.put("cpu/one/cpuacct.usage_all", "cpu user system\n0 60 40\n1 3 4\n");
    let cpu = cgroups.stats().expect("they can be read").cpu;
    assert_eq!((cpu.user_ns, cpu.kernel_ns, cpu.usage_ns), (63, 44, 123_456_789));
}

#[test]
fn what_comes_in_parts_is_put_together() {
    let fixture = Fixture::new();
    let cgroups = fixture.cgroups(&[("m", "cgroup", "memory")]);
    fixture.put("m/one/tasks", "");
    let in_parts = |file: &str| {
        let path = fixture.0.path().join(file);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("it can be made");
        thread::spawn(move || {
            let mut pipe = fs::OpenOptions::new().write(true).open(path).expect("somebody reads");
            for part in ["7\n10", "00\n"] {
                pipe.write_all(part.as_bytes()).expect("it is read");
                thread::sleep(Duration::from_millis(100));
            }
        })
    };
    let writer = in_parts("m/one/cgroup.procs");
    assert_eq!(cgroups.pids().expect("they can be read"), [7, 1000].map(Pid::from_raw));
    writer.join().expect("it has written");
    let writer = in_parts("m/one/numbers");
    let Cgroups::V1(groups) = &cgroups else { panic!("version 1") };
    let memory = groups.directories().next().expect("one");
    assert_eq!(memory.read("numbers").expect("it can be read"), "7\n1000");
    writer.join().expect("it has written");
}

#[test]
fn long_lists_are_read_to_their_end() {
    let fixture = Fixture::new();
    let cgroups = fixture.cgroups(&[("m", "cgroup", "memory")]);
    for count in [1, 400, 2000] {
        let pids: Vec<String> = (1..=count).map(|pid| pid.to_string()).collect();
        fixture.put("m/one/cgroup.procs", &format!("{}\n", pids.join("\n")));
        assert_eq!(cgroups.pids().expect("they can be read").len(), count);
    }
}

#[test]
fn version_2_tells_what_was_used() {
    let fixture = Fixture::new();
    let cgroups = fixture.v2();
    fixture.put("one/cpu.stat", "usage_usec 12\nuser_usec 7\nsystem_usec 5\nnr_throttled 1\nthrottled_usec 3\n");
    fixture.put("one/memory.current", "8192\n");
    fixture.put("one/memory.max", "max\n");
    fixture.put("one/memory.events", "low 0\nmax 2\noom 1\noom_kill 1\n");
    fixture.put("one/memory.stat", "anon 4096\ninactive_file 10\n");
    fixture.put("one/cgroup.procs", "");
    fixture.put("one/pids.current", "2\n");
    fixture.put("one/pids.max", "10\n");
    let stats = cgroups.stats().expect("they can be read");
    assert_eq!((stats.cpu.usage_ns, stats.cpu.user_ns, stats.cpu.throttled_ns), (12_000, 7_000, 3_000));
    assert_eq!((stats.memory.usage, stats.memory.limit, stats.memory.failcnt), (8192, u64::MAX, 2));
    assert_eq!((stats.memory.oom_kills, stats.memory.stat["inactive_file"]), (1, 10));
    assert_eq!((stats.pids.current, stats.pids.limit), (2, 10));
}

#[test]
fn members_are_those_of_the_whole_tree() {
    let fixture = Fixture::new();
    let cgroups = fixture.linux();
    fixture.put("memory/one/cgroup.procs", "7\n0\n");
    fixture.put("memory/one/below/cgroup.procs", "5\n7\n");
    assert_eq!(cgroups.pids().expect("they can be read"), [Pid::from_raw(5), Pid::from_raw(7)]);
}

#[test]
fn a_cgroup_with_processes_is_not_taken() {
    let fixture = Fixture::new();
    let cgroups = fixture.linux();
    fixture.put("memory/one/cgroup.procs", "7\n");
    let error = cgroups.without_members().expect_err("it is another's");
    assert_eq!(error.to_string(), "linux.cgroupsPath: process 7 is in that cgroup already");
}

#[test]
fn what_was_made_is_removed_and_more_than_once() {
    let fixture = Fixture::new();
    let cgroups = fixture.linux();
    cgroups.create().expect("directories");
    fs::create_dir(fixture.0.path().join("memory/one/below")).expect("a directory");
    assert_eq!(cgroups.paths().filter(|path| path.is_dir()).count(), 4);
    cgroups.delete().expect("they are empty");
    assert_eq!(cgroups.paths().filter(|path| path.exists()).count(), 0);
    cgroups.delete().expect("there is nothing left");
}

#[test]
fn processes_are_frozen_by_either_version() {
    let fixture = Fixture::new();
    let cgroups = fixture.linux();
    fixture.put("freezer/one/freezer.state", "THAWED");
    cgroups.freeze().expect("a freezer");
    assert!(cgroups.is_frozen().expect("an answer"));
    cgroups.thaw().expect("a freezer");
    assert!(!cgroups.is_frozen().expect("an answer"));
    let fixture = Fixture::new();
    let cgroups = fixture.v2();
    fixture.put("one/cgroup.freeze", "0");
    fixture.put("one/cgroup.events", "populated 1\nfrozen 1\n");
    cgroups.freeze().expect("a freezer");
    assert!(cgroups.is_frozen().expect("an answer"));
}

#[test]
fn where_they_are_survives_being_written_down() {
    let fixture = Fixture::new();
    for cgroups in [fixture.linux(), fixture.v2(), Cgroups::None] {
        let text = serde_json::to_string(&cgroups).expect("text");
        assert_eq!(serde_json::from_str::<Cgroups>(&text).expect("the same"), cgroups);
    }
}

/// Of every kind of limit one.
fn all_limits() -> Value {
    let device = json!([{"major": 8, "minor": 0, "rate": 600}]);
    json!({
        "devices": [{"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"}],
        "cpu": {
            "shares": 1024, "quota": 50_000, "period": 100_000, "burst": 0, "cpus": "0", "mems": "0", "idle": 0,
            "realtimePeriod": 1, "realtimeRuntime": 1
        },
        "memory": {"limit": 4096, "swap": 8192, "reservation": 4096, "swappiness": 60, "disableOOMKiller": false},
        "pids": {"limit": 10},
        "blockIO": {
            "weight": 10, "leafWeight": 10, "weightDevice": [{"major": 8, "minor": 0, "weight": 10, "leafWeight": 10}],
            "throttleReadBpsDevice": device, "throttleWriteIOPSDevice": device
        },
        "hugepageLimits": [{"pageSize": "2MB", "limit": 0}],
        "network": {"classID": 1, "priorities": [{"name": "lo", "priority": 1}]},
        "rdma": {"mlx": {"hcaHandles": 1, "hcaObjects": 1}},
        "unified": {"memory.high": "1"}
    })
}

fn judge(resources: &Value, of_version: fn(&LinuxResources) -> Result<Vec<setting::Setting>>) -> Result<()> {
    let config = json!({"ociVersion": "1.2.0", "linux": {"resources": resources}});
    let spec: Spec = crate::spec::parse(config.to_string().as_bytes())?;
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().clone()).unwrap_or_default();
    of_version(&resources)?;
    let rules = devices::rules(resources.devices().as_deref().unwrap_or_default())?;
    // The program of version 2 is made of them.
    let _ = devices::allow_all(&rules);
    Ok(())
}

proptest! {
    #[test]
    fn any_wrong_limit_is_told_by_its_field(
        (first, second) in any::<(usize, usize)>(),
        (one, other) in (any_json(), any_json()),
    ) {
        let mut version_1 = all_limits();
        version_1["unified"] = json!({});
        for (limits, of_version) in [(version_1, limits::v1 as fn(&_) -> _), (all_limits(), limits::v2)] {
            judge(&limits, of_version).expect("they are right");
            if let Err(error) = judge(&changed(changed(limits, first, one.clone()), second, other.clone()), of_version) {
                prop_assert!(error.to_string().starts_with("linux.resources"), "{}", error);
            }
        }
    }
}
