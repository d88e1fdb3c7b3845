//! The sysctls that a node needs.

/// What the kubelet sets at its start (its container manager's kernel settings) or reads for its figures: the path
/// below /proc/sys, and what the file is to say where the sandbox does not have it.
pub const SYSCTLS: &[(&str, &str)] = &[
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/pid_max", "4194304"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];
