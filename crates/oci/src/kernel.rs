//! What the kernel at hand does, found out by trying.

use std::fs;

/// What differs between kernels and cannot simply be tried when it is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernel {
    /// `SECCOMP_RET_LOG` lets the call pass. gVisor kills the thread instead, and has no list of actions.
    pub seccomp_log: bool,
}

impl Kernel {
    /// Looks at the kernel at hand.
    pub fn look() -> Self {
        let actions = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
        Self { seccomp_log: actions.split_whitespace().any(|action| action == "log") }
    }
}
