//! System calls that are refused in a sandbox, by seccomp as gVisor has it.
//!
//! What `runsc --oci-seccomp` makes of the configuration's filter is not enough, as measured:
//!
//! | | 2024-07 | 2026-02 | 2026-07 |
//! |---|---|---|---|
//! | holds for the init and what it starts | yes | yes | yes |
//! | holds for what `runsc exec` starts | **no** | **no** | yes |
//! | the errno that a rule asks for | EPERM instead | EPERM instead | EPERM instead |
//!
//! So an exec installs the same filter itself before it runs its program ([`Filter::launcher`]), in every build. Where
//! there are two filters, the errno of the later one holds.

use std::collections::HashSet;

use nix::libc::{CLONE_NEWUSER, ENOSYS, EPERM};
use oci_spec::{
    OciSpecError,
    runtime::{
        Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArgBuilder, LinuxSeccompBuilder,
        LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
    },
};

use crate::rights::{Deny, Privilege};

/// Character device 10:229, as mknod(2) has it.
const DEV_FUSE: u32 = 10 << 8 | 229;

/// When a call is refused.
#[derive(Clone, Copy, Debug)]
enum When {
    Always,
    /// An argument has this bit.
    Has(u32, u32),
    /// An argument has this value.
    Is(u32, u32),
}

/// A call of x86-64, the only ones that gVisor knows on it.
#[derive(Clone, Copy, Debug)]
struct Rule {
    name: &'static str,
    number: u32,
    when: When,
    errno: i32,
}

/// The calls refused; none for most sandboxes.
#[derive(Clone, Debug)]
pub(crate) struct Filter(Vec<Rule>);

impl Filter {
    pub(crate) fn of(deny: &[Deny]) -> Self {
        Self(deny.iter().flat_map(|right| rules(*right)).collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// For the init.
    pub(crate) fn seccomp(&self) -> Result<Option<LinuxSeccomp>, OciSpecError> {
        if self.is_empty() {
            return Ok(None);
        }
        let syscalls = self.0.iter().map(Rule::syscall).collect::<Result<Vec<_>, _>>()?;
        let seccomp = LinuxSeccompBuilder::default().default_action(LinuxSeccompAction::ScmpActAllow);
        seccomp.syscalls(syscalls).build().map(Some)
    }

    /// The words before a command line that run it behind this filter, with the user and the capabilities of the init.
    ///
    /// They are to be run by root with [`launcher_needs`](Self::launcher_needs): then a filter needs no `no_new_privs`,
    /// which nobody asked to set. Perl is in every Debian, and has system calls built in.
    pub(crate) fn launcher(&self, privilege: Privilege, deny: &[Deny]) -> Vec<String> {
        let id = privilege.id().to_string();
        let words = ["/usr/bin/perl", "-e", INSTALL_AND_RUN, &self.program()];
        let drop = ["/usr/bin/setpriv", "--reuid", &id, "--regid", &id, "--clear-groups", "--inh-caps=-all"];
        let bounding = format!("--bounding-set={}", bounding_set(privilege.capabilities(deny)));
        words.into_iter().chain(drop).chain([&*bounding, "--"]).map(String::from).collect()
    }

    /// The capabilities that the launcher must have: what it leaves, and what it needs to leave no more.
    pub(crate) fn launcher_needs(privilege: Privilege, deny: &[Deny]) -> Vec<String> {
        use Capability::{Setgid, Setpcap, Setuid, SysAdmin};
        let capabilities = &privilege.capabilities(deny) | &HashSet::from([SysAdmin, Setpcap, Setuid, Setgid]);
        let mut names: Vec<_> = capabilities.iter().map(|it| format!("CAP_{it}")).collect();
        names.sort();
        names
    }

    /// The filter as seccomp(2) takes it, in hexadecimal digits.
    fn program(&self) -> String {
        let mut program: Vec<[u8; 8]> = self.0.iter().flat_map(Rule::program).collect();
        program.push(instruction(RETURN, 0, 0, ALLOW));
        program.as_flattened().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// `$1` is the filter; the rest is what runs behind it. 317 is seccomp, 1 is SECCOMP_SET_MODE_FILTER.
const INSTALL_AND_RUN: &str = r#"$f = pack "H*", shift; $p = pack "S x6 P", length($f) / 8, $f;
syscall(317, 1, 0, $p) == 0 or die "testbed: seccomp: $!\n"; exec {$ARGV[0]} @ARGV or die "testbed: $ARGV[0]: $!\n""#;

/// As setpriv(1) takes it.
fn bounding_set(capabilities: HashSet<Capability>) -> String {
    let mut names: Vec<_> = capabilities.iter().map(|it| it.to_string().to_lowercase()).collect();
    names.sort();
    ["-all".to_owned()]
        .into_iter()
        .chain(names.into_iter().map(|name| format!("+{name}")))
        .collect::<Vec<_>>()
        .join(",")
}

fn rules(right: Deny) -> Vec<Rule> {
    let always = |name, number| Rule { name, number, when: When::Always, errno: EPERM };
    let new_user = When::Has(0, CLONE_NEWUSER.cast_unsigned());
    match right {
        Deny::Mount => vec![
            always("mount", 165),
            always("umount2", 166),
            always("pivot_root", 155),
            always("open_tree", 428),
            always("move_mount", 429),
            always("fsopen", 430),
            always("fsconfig", 431),
            always("fsmount", 432),
            always("fspick", 433),
            always("mount_setattr", 442),
        ],
        Deny::Userns => vec![
            Rule { name: "unshare", number: 272, when: new_user, errno: EPERM },
            Rule { name: "clone", number: 56, when: new_user, errno: EPERM },
            // Its flags lie in memory, where no filter sees them. After ENOSYS every libc falls back to clone.
            Rule { name: "clone3", number: 435, when: When::Always, errno: ENOSYS },
        ],
        Deny::Ptrace => {
            vec![always("ptrace", 101), always("process_vm_readv", 310), always("process_vm_writev", 311)]
        }
        Deny::Fuse => vec![
            Rule { name: "mknod", number: 133, when: When::Is(2, DEV_FUSE), errno: EPERM },
            Rule { name: "mknodat", number: 259, when: When::Is(3, DEV_FUSE), errno: EPERM },
        ],
        Deny::NetRaw | Deny::Links => Vec::new(),
    }
}

// The few instructions of classic BPF that a filter is made of (linux/bpf_common.h, linux/seccomp.h).
const LOAD: u16 = 0x20;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;
const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
const NUMBER: u32 = 0;
const ARGUMENTS: u32 = 16;

fn instruction(code: u16, jump: u8, otherwise: u8, value: u32) -> [u8; 8] {
    let ([a, b], [c, d, e, f]) = (code.to_le_bytes(), value.to_le_bytes());
    [a, b, jump, otherwise, c, d, e, f]
}

impl Rule {
    /// Instructions that end with the refusal, or fall through to the next rule.
    fn program(&self) -> Vec<[u8; 8]> {
        let refusal = instruction(RETURN, 0, 0, ERRNO | self.errno.cast_unsigned());
        let load = |offset| instruction(LOAD, 0, 0, offset);
        let other_call = |skip| instruction(JUMP_IF_EQUAL, 0, skip, self.number);
        let (argument, test) = match self.when {
            When::Always => return vec![load(NUMBER), other_call(1), refusal],
            When::Has(argument, bit) => (argument, instruction(JUMP_IF_BIT, 0, 1, bit)),
            When::Is(argument, value) => (argument, instruction(JUMP_IF_EQUAL, 0, 1, value)),
        };
        vec![load(NUMBER), other_call(3), load(ARGUMENTS + 8 * argument), test, refusal]
    }

    fn syscall(&self) -> Result<LinuxSyscall, OciSpecError> {
        let arg = LinuxSeccompArgBuilder::default();
        let args = match self.when {
            When::Always => Vec::new(),
            When::Has(index, bit) => {
                let arg = arg.op(LinuxSeccompOperator::ScmpCmpMaskedEq).value(bit).value_two(bit);
                vec![arg.index(index as usize).build()?]
            }
            When::Is(index, value) => {
                vec![arg.op(LinuxSeccompOperator::ScmpCmpEq).value(value).index(index as usize).build()?]
            }
        };
        let syscall = LinuxSyscallBuilder::default().names(vec![self.name.to_owned()]).args(args);
        syscall.action(LinuxSeccompAction::ScmpActErrno).errno_ret(self.errno.cast_unsigned()).build()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_of_a_filter() {
        // ld nr; jeq 272 else skip 3; ld arg 0; jset NEWUSER else skip 1; ret EPERM; the same for clone; clone3; ret ALLOW.
        let program = "2000000000000000 1500000310010000 2000000010000000 4500000100000010 0600000001000500 \
                       2000000000000000 1500000338000000 2000000010000000 4500000100000010 0600000001000500 \
                       2000000000000000 15000001b3010000 0600000026000500 060000000000ff7f";
        assert_eq!(Filter::of(&[Deny::Userns]).program(), program.replace(' ', ""));
    }

    #[test]
    fn nothing_is_filtered_where_capabilities_will_do() {
        assert!(Filter::of(&[Deny::NetRaw]).is_empty());
        assert!(Filter::of(&[]).seccomp().unwrap().is_none());
    }

    #[test]
    fn the_launcher_ends_with_the_rights_of_the_init() {
        let deny = [Deny::Ptrace];
        let words = Filter::of(&deny).launcher(Privilege::Uid1000, &deny);
        let end =
            ["--reuid", "1000", "--regid", "1000", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all", "--"];
        assert_eq!(words[words.len() - end.len()..], end);
        let words = Filter::of(&deny).launcher(Privilege::Docker, &deny);
        assert!(words[words.len() - 2].starts_with("--bounding-set=-all,+audit_write,+chown,"), "{words:?}");
    }
}
