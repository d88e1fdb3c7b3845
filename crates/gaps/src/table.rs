//! The rows. Each was measured in gVisor sandboxes; the order is the one in which remedies are applied, because a
//! later one may rest on an earlier one (the cgroup files are looked for where the mounts were made).

use crate::Rung::{Flag, Fuse, Intercept, Mount, Namespace, Replacement};
use crate::{Blocks, Gap, GapId, Remedy, Rung};

const fn built(rung: Rung, does: &'static str) -> Remedy {
    Remedy { rung, does, built: true, partial: false }
}

const fn partial(rung: Rung, does: &'static str) -> Remedy {
    Remedy { rung, does, built: true, partial: true }
}

const fn to_come(rung: Rung, does: &'static str) -> Remedy {
    Remedy { rung, does, built: false, partial: false }
}

/// Every known gap.
pub static TABLE: &[Gap] = &[
    Gap {
        id: GapId::Privileges,
        missing: "CAP_SYS_ADMIN and CAP_NET_ADMIN, as in a container with Docker's default capabilities, or root as a whole",
        breaks: "every mount: `operation not permitted`",
        blocks: Blocks::Node,
        hint: "start the sandbox with CAP_SYS_ADMIN and CAP_NET_ADMIN, or let it make user namespaces",
        remedies: &[
            built(
                Namespace,
                "user, network, UTS, IPC and mount namespaces of the cluster's own, a forwarder from the caller's loopback to the API, and a gate for what leads outside",
            ),
            partial(
                Intercept,
                "a node without Pods: its kubelet's calls find the mounts that it insists on, and a taint keeps Pods off",
            ),
        ],
    },
    Gap {
        id: GapId::MappedIds,
        missing: "more than the caller's own user and group in a user namespace, for who may not set IDs outside of it",
        breaks: "OCI runtimes: `65535 is not an ID of the user namespace`, `setgid 5: invalid argument` and the like for every ID that an image, a Pod or devpts names",
        blocks: Blocks::Pods,
        hint: "start the sandbox with CAP_SETUID and CAP_SETGID, as Docker's default capabilities have them",
        remedies: &[to_come(Replacement, "an OCI runtime that does with one ID")],
    },
    Gap {
        id: GapId::ProcSys,
        missing: "`/proc/sys/vm/panic_on_oom`, `kernel/panic`, `kernel/panic_on_oops`, `kernel/keys/*` are absent, `vm/overcommit_memory` is read-only",
        breaks: "kubelet: `open /proc/sys/vm/panic_on_oom: no such file or directory`",
        blocks: Blocks::Node,
        hint: "no setting of a sandbox changes it",
        remedies: &[
            built(
                Mount,
                "overlay over each directory of /proc/sys that lacks something, with the missing files in its upper layer",
            ),
            built(Intercept, "the kubelet's calls for these paths are led to files of ours"),
        ],
    },
    Gap {
        id: GapId::CgroupMounts,
        missing: "nothing is mounted on /sys/fs/cgroup",
        breaks: "kubelet: `failed to get mounted cgroup subsystems: failed to find cgroup mounts`",
        blocks: Blocks::Node,
        hint: "no setting that sandboxes offer changes it; on Linux, mount a cgroup hierarchy on /sys/fs/cgroup",
        remedies: &[
            built(Mount, "tmpfs on /sys/fs/cgroup and in it each of gVisor's own cgroup v1 controllers"),
            partial(
                Intercept,
                "plain directories, which the kubelet's calls find as hierarchies, for a node without Pods",
            ),
        ],
    },
    Gap {
        id: GapId::CgroupStats,
        missing: "`cpuacct.usage_percpu`, `memory.stat` and others in every cgroup",
        breaks: "kubelet: `failed to get rootfs info: unable to find data in memory cache`",
        blocks: Blocks::Node,
        hint: "let the sandbox open /dev/fuse: with the flag, `kubectl top`, eviction and limits of memory do not work",
        remedies: &[
            built(Fuse, "a file system stacked over the cgroup mounts that adds the files, with true figures"),
            partial(
                Flag,
                "kubelet `localStorageCapacityIsolation: false` and no eviction: node Ready and Pods run, without metrics",
            ),
        ],
    },
    Gap {
        id: GapId::CgroupMagic,
        missing: "`openat2`, so runc's cgroup library checks the file system's magic number of each cgroup file",
        breaks: "kubelet on a FUSE cgroup hierarchy: `…/cpuacct.stat: not a cgroup file`",
        blocks: Blocks::Nothing,
        hint: "it matters only where cgroup files come from a FUSE file system",
        remedies: &[
            built(Flag, "our kubelet has its cgroup library not look (its `TestMode`)"),
            built(Intercept, "rewrite `f_type` in statfs and fstatfs, for a kubelet that is not ours"),
        ],
    },
    Gap {
        id: GapId::Kmsg,
        missing: "`/dev/kmsg`",
        breaks: "kubelet: `open /dev/kmsg: no such file or directory`",
        blocks: Blocks::Node,
        hint: "OOM kills by the kernel are not reported as events; on Linux, let the caller read /dev/kmsg",
        remedies: &[
            built(Flag, "in a user namespace, the kubelet's feature gate KubeletInUserNamespace does without it"),
            built(Mount, "/dev/null bound over an empty /dev/kmsg"),
            partial(Intercept, "the kubelet's calls for it are led to /dev/null, on a node without Pods"),
        ],
    },
    Gap {
        id: GapId::CgroupV1,
        missing: "cgroup v2",
        breaks: "kubelet: `kubelet is configured to not run on a host using cgroup v1`",
        blocks: Blocks::Node,
        hint: "gVisor has no version 2; on Linux, boot with `systemd.unified_cgroup_hierarchy=1`",
        remedies: &[built(Flag, "kubelet `failCgroupV1: false`")],
    },
    Gap {
        id: GapId::OverlayOnRoot,
        missing: "overlayfs with its upper layer on a 9p root (gVisor before 2026-05)",
        breaks: "containerd: `failed to mount … invalid argument`",
        blocks: Blocks::Node,
        hint: "take a gVisor of May 2026 or newer, and a data directory that lies on no overlay of the host: a volume; else snapshots take memory",
        remedies: &[
            built(Mount, "a tmpfs of its own on each of containerd's and the kubelet's directories"),
            partial(Flag, "containerd's snapshotter `native`, which copies, for a node without Pods"),
        ],
    },
    Gap {
        id: GapId::UnprivilegedSysctls,
        missing: "a kernel that says it is 4.11 or newer, or the sysctls `ip_unprivileged_port_start` and `ping_group_range`",
        breaks: "containerd: `unprivileged_icmp and unprivileged_port require kernel version greater than or equal to 4.11`",
        blocks: Blocks::Node,
        hint: "Pods that bind ports below 1024 or ping must run as root or with NET_BIND_SERVICE or NET_RAW",
        remedies: &[built(Flag, "containerd `enable_unprivileged_ports = false`, `enable_unprivileged_icmp = false`")],
    },
    Gap {
        id: GapId::NodeAddress,
        missing: "an address that is not loopback's (a sandbox without a network, or a network namespace of the cluster's own)",
        breaks: "kubelet: `failed to get node address`, and nothing by which the API server reaches it",
        blocks: Blocks::Node,
        hint: "start the sandbox with a network; in a user namespace the cluster always has one of its own",
        remedies: &[built(Flag, "an address of the node's own on the loopback device")],
    },
    Gap {
        id: GapId::PodLinks,
        missing: "network namespaces with links of their own (a sandbox with its host's network stack: `runsc --network=host`)",
        breaks: "CNI plugins: `Protocol not supported` on the first link, and every Pod",
        blocks: Blocks::Pods,
        hint: "start the sandbox with a network stack of its own (`runsc --network=sandbox`); else Pods share the node's network: no two have the same port, and network policies do not hold",
        remedies: &[built(
            Flag,
            "an admission policy that gives every Pod the node's network, and addresses of Services out of 127.0.0.0/8",
        )],
    },
    Gap {
        id: GapId::LocalPorts,
        missing: "a range of ports for outgoing connections beside those of Services, 30000 to 32767 (gVisor's is 16000 to 65535)",
        breaks: "now and then a Service of type NodePort: `Port 31725 (TCP) at 0.0.0.0 is not served: another program on the node has it`",
        blocks: Blocks::Nothing,
        hint: "start the sandbox with CAP_SYS_ADMIN and CAP_NET_ADMIN: in gVisor only its first network namespace has such a range; else a Service whose port a connection has is served once that ends",
        remedies: &[built(Flag, "Linux's own range, 32768 to 60999, in net.ipv4.ip_local_port_range")],
    },
    Gap {
        id: GapId::LinkKind,
        missing: "the link kind in netlink's answers",
        breaks: "CNI bridge plugin: `\"cni0\" already exists but is not a bridge`",
        blocks: Blocks::Nothing,
        hint: "other CNI plugins than terrarium's do not work",
        remedies: &[built(Replacement, "a CNI plugin that never asks for it")],
    },
    Gap {
        id: GapId::DevicelessRoute,
        missing: "routes without a device",
        breaks: "Pods: `Network is unreachable`",
        blocks: Blocks::Pods,
        hint: "other CNI plugins than terrarium's do not work",
        remedies: &[built(Replacement, "a CNI plugin that names the device in each route")],
    },
    Gap {
        id: GapId::Netfilter,
        missing: "nftables, MASQUERADE, and the matches conntrack, comment, mark, statistic, addrtype",
        breaks: "kube-proxy in every mode; CNI plugins that masquerade",
        blocks: Blocks::Pods,
        hint: "start the sandbox with CAP_NET_RAW (`runsc --net-raw`), else Pods have no way out",
        remedies: &[
            built(Replacement, "egress by SNAT rules that our CNI plugin writes to the legacy table itself"),
            built(Replacement, "a Service proxy of our own"),
        ],
    },
    Gap {
        id: GapId::OciRuntime,
        missing: "what newer OCI runtimes ask of a kernel (`nr_inodes` on tmpfs, Linux's procfs inode numbers, setgroups)",
        breaks: "runc 1.5: `invalid argument` on its mask mounts; crun, youki; exec of runc 1.1",
        blocks: Blocks::Pods,
        hint: "a runc of one's own must be a 1.1, with which `kubectl exec` needs a gVisor newer than July 2024",
        remedies: &[built(Replacement, "an OCI runtime and a containerd shim of our own")],
    },
    Gap {
        id: GapId::ResourceLimits,
        missing: "enforcement of `memory.limit_in_bytes`, `cpu.cfs_quota_us`, `cpu.shares`; a freezer",
        breaks: "nothing fails: limits are accepted and do nothing, nobody is OOMKilled",
        blocks: Blocks::Nothing,
        hint: "limits of CPU are not enforced: limit the sandbox as a whole",
        remedies: &[built(
            Fuse,
            "a guard beside the file system of cgroup-stats kills the container that is over its limit of memory",
        )],
    },
    Gap {
        id: GapId::LinkMonitor,
        missing: "netlink multicast groups, VXLAN",
        breaks: "flannel: `operation not supported`",
        blocks: Blocks::Nothing,
        hint: "flannel and other overlay networks do not work",
        remedies: &[built(Replacement, "one node, routed veths, no overlay network")],
    },
    Gap {
        id: GapId::MachineId,
        missing: "`/etc/machine-id`",
        breaks: "kubelet and cAdvisor log `Couldn't collect info from any of the files in \"/etc/machine-id…\"`",
        blocks: Blocks::Nothing,
        hint: "write 32 hexadecimal digits to /etc/machine-id for an ID that stays",
        remedies: &[built(Mount, "the file is created, and removed again")],
    },
    Gap {
        id: GapId::HostnameResolution,
        missing: "an address for the sandbox's own host name",
        breaks: "kubectl logs and exec: `dial tcp: lookup sandbox: no such host`",
        blocks: Blocks::Nothing,
        hint: "add the sandbox's name to /etc/hosts",
        remedies: &[built(Flag, "kube-apiserver `--kubelet-preferred-address-types=InternalIP`")],
    },
];
