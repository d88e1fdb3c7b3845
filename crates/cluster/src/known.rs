//! Lines of the components' logs whose meaning is known: those that tell why a component ends or did not start, and those
//! that a gVisor sandbox makes it write again and again without harm. So the cause of a failed start is not lost among the
//! noise. Many were recorded from real components; others, such as the failure of a hook, come from upstream's sources.

use terrarium_gaps::GapId;

use crate::component::{CONTAINERD, COREDNS, KUBELET, SERVER};
use crate::{ErrorId, ingress};

/// What a line means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// The component cannot go on after it.
    Fatal {
        /// The gap of the sandbox that shows in it.
        gap: Option<GapId>,
        /// What to do.
        hint: &'static str,
    },
    /// It explains a start that failed. A component that runs may write it too, of a Pod or a client, and go on.
    Cause {
        /// What to do.
        hint: &'static str,
    },
    /// It can go on.
    Survivable {
        /// Why it is written.
        because: &'static str,
    },
}

/// One kind of line.
struct Known {
    /// The components that write it; none for every one.
    of: &'static [&'static str],
    /// What the line contains.
    has: &'static str,
    meaning: Meaning,
}

const fn fatal(of: &'static [&'static str], has: &'static str, gap: Option<GapId>, hint: &'static str) -> Known {
    Known { of, has, meaning: Meaning::Fatal { gap, hint } }
}

const fn cause(of: &'static [&'static str], has: &'static str, hint: &'static str) -> Known {
    Known { of, has, meaning: Meaning::Cause { hint } }
}

const fn survivable(of: &'static [&'static str], has: &'static str, because: &'static str) -> Known {
    Known { of, has, meaning: Meaning::Survivable { because } }
}

/// What is to be done about a gap that ought to be closed.
const SHOULD_BE_CLOSED: &str = "terrarium closes this gap; that it shows means that the remedy was undone, or does not \
     work here: `terrarium down && terrarium up`, and please report it with `terrarium support bundle`";

const CHANGES_NOTHING: &str = "gVisor has no such file; nothing depends on it";

/// The first one that fits decides.
const TABLE: &[Known] = &[
    fatal(&[KUBELET], "open /proc/sys/vm/panic_on_oom", Some(GapId::ProcSys), SHOULD_BE_CLOSED),
    fatal(&[KUBELET], "open /proc/sys/kernel/panic", Some(GapId::ProcSys), SHOULD_BE_CLOSED),
    fatal(&[KUBELET], "open /proc/sys/vm/overcommit_memory", Some(GapId::ProcSys), SHOULD_BE_CLOSED),
    fatal(&[KUBELET], "failed to find cgroup mounts", Some(GapId::CgroupMounts), SHOULD_BE_CLOSED),
    fatal(&[KUBELET], "Following Cgroup subsystem not mounted", Some(GapId::CgroupMounts), SHOULD_BE_CLOSED),
    fatal(&[KUBELET], "failed to get rootfs info", Some(GapId::CgroupStats), SHOULD_BE_CLOSED),
    fatal(&[KUBELET], "not a cgroup file", Some(GapId::CgroupMagic), SHOULD_BE_CLOSED),
    fatal(&[KUBELET], "open /dev/kmsg", Some(GapId::Kmsg), SHOULD_BE_CLOSED),
    fatal(
        &[KUBELET],
        "kubelet is configured to not run on a host using cgroup v1",
        Some(GapId::CgroupV1),
        SHOULD_BE_CLOSED,
    ),
    fatal(
        &[CONTAINERD],
        "unprivileged_icmp and unprivileged_port require kernel version",
        Some(GapId::UnprivilegedSysctls),
        SHOULD_BE_CLOSED,
    ),
    // k8s.io/apiserver, pkg/server/hooks.go: klog.Fatalf.
    fatal(
        &[SERVER],
        "PostStartHook \"",
        None,
        "the line says why a part of the API server did not start; the lines before it may say more",
    ),
    fatal(&[SERVER], "database disk image is malformed", None, ErrorId::StoreCorrupt.hint()),
    cause(
        &[],
        "no space left on device",
        "free space on the disk of the data directory, or name a directory on another one with --data-dir",
    ),
    cause(
        &[],
        "address already in use",
        "another program listens there; see `ss -ltnp`, and stop it or take down the other cluster",
    ),
    cause(
        &[SERVER],
        "x509: certificate has expired or is not yet valid",
        "the clock of this machine was set: `terrarium down && terrarium up` issues new certificates",
    ),
    cause(&[], "too many open files", "raise the limit on open files: `ulimit -n 65536`, then `terrarium up`"),
    cause(&[], "cannot allocate memory", "the sandbox has too little memory: the cluster alone takes about a GiB"),
    cause(
        &[COREDNS],
        "Error during parsing",
        "the line names what CoreDNS does not understand; files of yours are in the data directory, in coredns/",
    ),
    survivable(&[COREDNS], "Plugins not ready", "it is reading Services from the API"),
    survivable(&[COREDNS], "plugin/errors: 2 ", "a resolver of the sandbox did not answer for a name of the outside"),
    survivable(&[KUBELET], "oomparser.go", "/dev/kmsg is /dev/null: gVisor kills nobody for memory that could be told"),
    survivable(&[KUBELET], "open /sys/class/net", CHANGES_NOTHING),
    survivable(&[KUBELET], "physical package id", CHANGES_NOTHING),
    survivable(&[KUBELET], "\"/proc/diskstats\" was not found", CHANGES_NOTHING),
    survivable(
        &[KUBELET],
        "cumulative stats decrease",
        "cgroupfs was killed before it had written down the time of cgroups that were removed",
    ),
    survivable(&[KUBELET], "cpuacct.usage_percpu: no such file", "the figures of one sample are incomplete"),
    survivable(&[KUBELET], "oom_control", "without cgroup files over FUSE none tells of processes killed for memory"),
    survivable(
        &[KUBELET],
        "Image garbage collection failed once",
        "the size of a tmpfs is not told; the next round is tried anyway",
    ),
    survivable(&[KUBELET], "checkpoint is not found", "it is the first start: there is nothing to go on with"),
    survivable(&[KUBELET], "node is not registered yet", "it is about to be registered"),
    survivable(&[KUBELET], "Error getting the current node from lister", "the node is about to be registered"),
    survivable(&[KUBELET], "Skipping pod synchronization", "containerd has just started"),
    survivable(
        &[SERVER],
        "not yet ready to handle request",
        "a hook asked before the API server was ready, and asks again",
    ),
    survivable(&[SERVER], "Slow SQL", "the disk is slow to sync; whatever is acknowledged is on it"),
    survivable(
        &[SERVER],
        "missing content for CA bundle",
        "the API server has not written it yet as its parts ask for it",
    ),
    survivable(&[SERVER], "because it has no resources", "this version of the API has nothing in it any more"),
    survivable(
        &[CONTAINERD],
        "failed check for fsverity support",
        "gVisor has no fs-verity; contents are checked by digest",
    ),
    survivable(&[ingress::NAME], "Traefik can reject some encoded characters", "it says so at every start"),
    survivable(&[ingress::NAME], "aliasHeadersStrategy is not configured", "it says so at every start"),
];

/// What a line of a component's log means, if that is known.
#[must_use]
pub fn meaning(component: &str, line: &str) -> Option<Meaning> {
    let fits = |known: &&Known| (known.of.is_empty() || known.of.contains(&component)) && line.contains(known.has);
    TABLE.iter().find(fits).map(|known| known.meaning)
}

/// Why a component did not start: the last line of its log that is known to be fatal, else the last one that is known to
/// be a cause, with its gap and what to do; empty if there is none.
pub(crate) fn explain(component: &str, log: &str) -> String {
    let lines = || log.lines().rev().map(|line| (line, meaning(component, line)));
    let fatal = lines().find_map(|(line, meaning)| match meaning {
        Some(Meaning::Fatal { gap, hint }) => Some((line, gap, hint)),
        _ => None,
    });
    let cause = lines().find_map(|(line, meaning)| match meaning {
        Some(Meaning::Cause { hint }) => Some((line, None, hint)),
        _ => None,
    });
    fatal.or(cause).map_or_else(String::new, |(line, gap, hint)| {
        let gap = gap.map(|gap| format!(" (gap {gap})")).unwrap_or_default();
        format!("  because{gap}: {}\n  hint: {hint}\nits last lines:\n", line.trim())
    })
}

/// A log with each known line followed by what it means, for who reads it elsewhere.
#[must_use]
pub fn annotated(component: &str, log: &str) -> String {
    let mut text = String::with_capacity(log.len());
    for line in log.lines() {
        text.push_str(line);
        text.push('\n');
        match meaning(component, line) {
            Some(Meaning::Fatal { gap, hint }) => {
                let gap = gap.map(|gap| format!("gap {gap}; ")).unwrap_or_default();
                text.push_str(&format!("  # fatal: {gap}{hint}\n"));
            }
            Some(Meaning::Cause { hint }) => text.push_str(&format!("  # if it ended here: {hint}\n")),
            Some(Meaning::Survivable { because }) => text.push_str(&format!("  # harmless: {because}\n")),
            None => {}
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a kubelet without the remedies wrote them, among what it always writes.
    const KUBELET_LOG: &str = "\
I1121 14:09:20.101201     512 server.go:211] \"Kubelet version\" kubeletVersion=\"v1.36.4\"
W1121 14:09:20.313371     512 sysinfo.go:287] Cannot read any physical package id for any CPU
E1121 14:09:20.413371     512 info.go:110] Failed to get network devices: open /sys/class/net: no such file or directory
E1121 14:09:20.513371     512 kubelet.go:1703] \"Failed to start ContainerManager\" err=\"[open /proc/sys/vm/panic_on_oom: no such file or directory]\"
I1121 14:09:20.523371     512 server.go:1] \"Shutting down\"
";

    #[test]
    fn the_fatal_line_is_found_among_the_noise_with_its_gap_and_a_hint() {
        let text = explain(KUBELET, KUBELET_LOG);
        assert!(text.starts_with("  because (gap proc-sys): E1121 14:09:20.513371"), "{text}");
        assert!(text.contains("hint: terrarium closes this gap"), "{text}");
        let noise: String = KUBELET_LOG.lines().filter(|line| !line.contains("panic_on_oom")).collect();
        assert_eq!(explain(KUBELET, &noise), "");
    }

    #[test]
    fn a_line_is_known_of_the_components_that_write_it() {
        let port = "E1121 run.go:72] \"command failed\" err=\"listen tcp 0.0.0.0:6443: bind: address already in use\"";
        assert!(matches!(meaning(SERVER, port), Some(Meaning::Cause { .. })));
        assert!(matches!(meaning("coredns", port), Some(Meaning::Cause { .. })));
        let kmsg = "failed to create kubelet: open /dev/kmsg: no such file or directory";
        assert!(matches!(meaning(KUBELET, kmsg), Some(Meaning::Fatal { gap: Some(GapId::Kmsg), .. })));
        assert_eq!(meaning(SERVER, kmsg), None);
    }

    #[test]
    fn what_the_founding_experiments_took_for_fatal_is_told_from_it() {
        let early = "E1121 the server is currently unable: apiserver not yet ready to handle request";
        assert!(matches!(meaning(SERVER, early), Some(Meaning::Survivable { .. })));
    }

    /// In the form of upstream's `klog.Fatalf`.
    const HOOK: &str = "F1121 14:09:20.1 7 hooks.go:203] PostStartHook \"rbac/bootstrap-roles\" failed: timed out";

    #[test]
    fn a_hook_that_fails_ends_the_api_server() {
        assert!(matches!(meaning(SERVER, HOOK), Some(Meaning::Fatal { gap: None, .. })));
    }

    #[test]
    fn what_a_component_survives_elsewhere_explains_a_failed_start_for_want_of_better() {
        let files = "E1121 cannot accept: too many open files";
        assert!(explain(SERVER, files).starts_with("  because: E1121 cannot accept"));
        assert!(explain(SERVER, &format!("{HOOK}\n{files}\n")).contains("rbac/bootstrap-roles"));
        let text = annotated(SERVER, files);
        assert!(text.contains("# if it ended here: raise the limit") && !text.contains("fatal"), "{text}");
    }

    #[test]
    fn every_breakage_of_the_gap_table_that_a_component_logs_is_known() {
        for gap in terrarium_gaps::TABLE {
            for of in [KUBELET, CONTAINERD] {
                // Such as "kubelet: `open /dev/kmsg: …`".
                let Some(message) =
                    gap.breaks.strip_prefix(&format!("{of}: `")).and_then(|rest| rest.split('`').next())
                else {
                    continue;
                };
                let is_known =
                    matches!(meaning(of, message), Some(Meaning::Fatal { gap: Some(known), .. }) if known == gap.id);
                // These two name no text of the component's own.
                let is_general = message.contains("failed to mount") || message.contains("node address");
                assert!(is_known || is_general, "{}: {message}", gap.id);
            }
        }
    }

    #[test]
    fn an_annotated_log_keeps_every_line() {
        let text = annotated(KUBELET, KUBELET_LOG);
        let kept: String =
            text.lines().filter(|line| !line.starts_with("  # ")).map(|line| format!("{line}\n")).collect();
        assert_eq!(kept, KUBELET_LOG);
        assert_eq!(text.matches("  # harmless: ").count(), 2);
        assert_eq!(text.matches("  # fatal: gap proc-sys; ").count(), 1);
    }
}
