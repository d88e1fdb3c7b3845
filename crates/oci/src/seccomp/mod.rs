//! Seccomp profiles as filters.
//!
//! The rules are those of runc 1.1, which are libseccomp's: see [`Filter::compile`]. The program is made here, since no
//! crate's fits: seccompiler has one action per filter and kills processes of other architectures, and its installing sets
//! `no_new_privs`, which is not a filter's business.

mod bpf;
mod syscalls;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;

use oci_spec::runtime::{
    Arch as SpecArch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator,
    LinuxSyscall,
};
use terrarium_sys::seccomp::{self, Instruction};

use crate::error::Doing;
use crate::{Error, Kernel, Result};
use bpf::{Comparison, Condition, Rule, Verdict, Verdicts};
use syscalls::{Arch, Entry, Table, X32_BIT};

// SECCOMP_RET_* (linux/seccomp.h)
const KILL_PROCESS: u32 = 0x8000_0000;
const KILL_THREAD: u32 = 0;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
const TRACE: u32 = 0x7ff0_0000;
const LOG: u32 = 0x7ffc_0000;
const ALLOW: u32 = 0x7fff_0000;

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// A profile as the kernel takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    program: Vec<Instruction>,
    flags: u32,
    /// What of the profile is not as it was written, and why; for the log.
    pub warnings: Vec<String>,
}

impl Filter {
    /// Makes the filter of a profile (`linux.seccomp`).
    ///
    /// - An unconditional rule goes before conditional ones, else the first that holds. A rule with the default action is
    ///   as if it were not there.
    /// - A rule holds if all its conditions do; if two are about the same argument, if any does.
    /// - Names that no kernel knows are left out with a warning; those of other architectures count there.
    /// - Of x86-64 the default action covers all calls; x86 and x32 are killed unless the profile names them. On these, the
    ///   lower 32 bits of arguments are compared.
    /// - Unless the default lets calls pass, numbers above the highest that the profile names get ENOSYS: what is newer
    ///   than the profile does not exist, rather than being forbidden, so that programs fall back.
    ///
    /// Where a kernel ends a thread that should be logged, as gVisor does, `SCMP_ACT_LOG` becomes `SCMP_ACT_ALLOW`.
    pub fn compile(profile: &LinuxSeccomp, kernel: &Kernel) -> Result<Self> {
        if !cfg!(target_arch = "x86_64") {
            return Err(Error::spec("linux.seccomp", "profiles are supported on x86-64 only"));
        }
        let mut compiler = Compiler { table: Table::read(), kernel, warnings: Vec::new() };
        let profile = compiler.profile(profile)?;
        let program = profile.program(&compiler.table);
        if program.len() > bpf::MAX_INSTRUCTIONS {
            let problem = format!(
                "need a filter of {} instructions, and the kernel takes {}",
                program.len(),
                bpf::MAX_INSTRUCTIONS
            );
            return Err(Error::spec("linux.seccomp.syscalls", problem));
        }
        Ok(Self { program, flags: profile.flags, warnings: compiler.warnings })
    }

    /// Puts the calling thread under the filter, for good. Needs `no_new_privs` or `CAP_SYS_ADMIN`.
    pub fn apply(&self) -> Result<()> {
        match seccomp::install(&self.program, self.flags) {
            // Older kernels do not know that flag. To do without it is the slower and safer way.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput && self.flags & seccomp::SPEC_ALLOW != 0 => {
                seccomp::install(&self.program, self.flags & !seccomp::SPEC_ALLOW)
            }
            done => done,
        }
        .doing("install the seccomp filter")
    }
}

/// A profile with its names, not yet their numbers.
struct Profile<'a> {
    architectures: Vec<Arch>,
    default: u32,
    /// Numbers above the profile's highest get ENOSYS.
    hides_newer: bool,
    flags: u32,
    rules: Vec<NamedRule<'a>>,
    /// All names, those of rules without effect as well.
    names: Vec<&'a str>,
}

struct NamedRule<'a> {
    name: &'a str,
    conditions: Vec<Condition>,
    answer: u32,
}

/// Checks a profile, field by field.
struct Compiler<'a> {
    table: Table,
    kernel: &'a Kernel,
    warnings: Vec<String>,
}

impl Compiler<'_> {
    fn profile<'a>(&mut self, profile: &'a LinuxSeccomp) -> Result<Profile<'a>> {
        let action = profile.default_action();
        let default = self.answer(action, profile.default_errno_ret(), "linux.seccomp.defaultAction")?;
        let lets_pass = matches!(
            action,
            LinuxSeccompAction::ScmpActAllow | LinuxSeccompAction::ScmpActLog | LinuxSeccompAction::ScmpActTrace
        );
        let mut compiled = Profile {
            architectures: architectures(profile.architectures().as_deref().unwrap_or_default()),
            default,
            hides_newer: !lets_pass,
            flags: self.flags(profile.flags().as_deref().unwrap_or_default())?,
            rules: Vec::new(),
            names: Vec::new(),
        };
        for (index, call) in profile.syscalls().iter().flatten().enumerate() {
            self.rules(call, &format!("linux.seccomp.syscalls[{index}]"), &mut compiled)?;
        }
        Ok(compiled)
    }

    /// The rules of one entry of `syscalls`.
    fn rules<'a>(&mut self, call: &'a LinuxSyscall, field: &str, profile: &mut Profile<'a>) -> Result<()> {
        let answer = self.answer(call.action(), call.errno_ret(), &format!("{field}.action"))?;
        let conditions = call.args().iter().flatten().enumerate();
        let conditions: Vec<Condition> =
            conditions.map(|(index, arg)| condition(arg, &format!("{field}.args[{index}]"))).collect::<Result<_>>()?;
        let alternatives = if is_about_one_argument_twice(&conditions) {
            conditions.into_iter().map(|condition| vec![condition]).collect()
        } else {
            vec![conditions]
        };
        if call.names().is_empty() {
            return Err(Error::spec(format!("{field}.names"), "must not be empty"));
        }
        for (index, name) in call.names().iter().enumerate() {
            if name.is_empty() {
                return Err(Error::spec(format!("{field}.names[{index}]"), "must not be empty"));
            }
            if !self.table.knows(name) {
                self.warnings.push(format!("{field}.names[{index}]: no system call is called {name}; left out"));
                continue;
            }
            profile.names.push(name);
            if answer != profile.default {
                let rules = alternatives.iter().cloned();
                profile.rules.extend(rules.map(|conditions| NamedRule { name, conditions, answer }));
            }
        }
        Ok(())
    }

    fn answer(&mut self, action: LinuxSeccompAction, errno: Option<u32>, field: &str) -> Result<u32> {
        use LinuxSeccompAction::{
            ScmpActAllow, ScmpActErrno, ScmpActKill, ScmpActKillProcess, ScmpActKillThread, ScmpActLog, ScmpActNotify,
            ScmpActTrace, ScmpActTrap,
        };
        let data = errno.unwrap_or(EPERM) & 0xffff;
        if errno.is_some() && !matches!(action, ScmpActErrno | ScmpActTrace) {
            return Err(Error::spec(field, format!("{action} has no errnoRet")));
        }
        Ok(match action {
            ScmpActKill | ScmpActKillThread => KILL_THREAD,
            ScmpActKillProcess => KILL_PROCESS,
            ScmpActTrap => TRAP,
            ScmpActErrno => ERRNO | data,
            ScmpActTrace => TRACE | data,
            ScmpActAllow => ALLOW,
            ScmpActLog if self.kernel.seccomp_log => LOG,
            ScmpActLog => {
                self.warnings.push(format!("{field}: this kernel would end the thread; allowed without being logged"));
                ALLOW
            }
            ScmpActNotify => return Err(Error::spec(field, "SCMP_ACT_NOTIFY is not supported")),
        })
    }

    fn flags(&mut self, flags: &[LinuxSeccompFilterFlag]) -> Result<u32> {
        let mut set = 0;
        for (index, flag) in flags.iter().enumerate() {
            let field = format!("linux.seccomp.flags[{index}]");
            match flag {
                LinuxSeccompFilterFlag::SeccompFilterFlagLog if self.kernel.seccomp_log => set |= seccomp::LOG,
                LinuxSeccompFilterFlag::SeccompFilterFlagLog => {
                    self.warnings.push(format!("{field}: this kernel does not log; left out"));
                }
                LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow if self.kernel.seccomp_log => {
                    set |= seccomp::SPEC_ALLOW;
                }
                // Without logging (Linux before 4.14, gVisor) there is no such mitigation to turn off either.
                LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => {}
                // The process that becomes the container's has one thread.
                LinuxSeccompFilterFlag::SeccompFilterFlagTsync => {}
                LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
                    return Err(Error::spec(field, "belongs to SCMP_ACT_NOTIFY, which is not supported"));
                }
            }
        }
        Ok(set)
    }
}

/// Those that can occur on this kernel. x86-64 always counts as named, as with libseccomp.
fn architectures(named: &[SpecArch]) -> Vec<Arch> {
    let has = |arch| named.contains(&arch);
    let optional = [(SpecArch::ScmpArchX86, Arch::X86), (SpecArch::ScmpArchX32, Arch::X32)];
    [Arch::X86_64]
        .into_iter()
        .chain(optional.into_iter().filter(|(name, _)| has(*name)).map(|(_, arch)| arch))
        .collect()
}

fn condition(arg: &LinuxSeccompArg, field: &str) -> Result<Condition> {
    let argument = u32::try_from(arg.index()).ok().filter(|index| *index < 6);
    let argument = argument.ok_or_else(|| Error::spec(format!("{field}.index"), "must be 0 to 5"))?;
    let comparison = match arg.op() {
        LinuxSeccompOperator::ScmpCmpNe => Comparison::NotEqual,
        LinuxSeccompOperator::ScmpCmpLt => Comparison::Less,
        LinuxSeccompOperator::ScmpCmpLe => Comparison::LessOrEqual,
        LinuxSeccompOperator::ScmpCmpEq => Comparison::Equal,
        LinuxSeccompOperator::ScmpCmpGe => Comparison::GreaterOrEqual,
        LinuxSeccompOperator::ScmpCmpGt => Comparison::Greater,
        // There the first value is the mask and the second what is to be left.
        LinuxSeccompOperator::ScmpCmpMaskedEq => Comparison::EqualIn(arg.value()),
    };
    let value = match comparison {
        Comparison::EqualIn(_) => arg.value_two().unwrap_or_default(),
        _ => arg.value(),
    };
    Ok(Condition { argument, comparison, value, wide: true })
}

fn is_about_one_argument_twice(conditions: &[Condition]) -> bool {
    let arguments = conditions.iter().map(|condition| condition.argument);
    arguments.enumerate().any(|(index, argument)| conditions[..index].iter().any(|other| other.argument == argument))
}

impl Profile<'_> {
    fn program(&self, table: &Table) -> Vec<Instruction> {
        let has_x32 = self.architectures.contains(&Arch::X32);
        let native = (Arch::X86_64.audit(), self.native_verdicts(table, has_x32));
        let x86 = self.architectures.contains(&Arch::X86).then(|| {
            let mut verdicts = self.everything();
            self.fill(&mut verdicts, table, Arch::X86, &[0..=u32::MAX]);
            (Arch::X86.audit(), verdicts)
        });
        let architectures: Vec<_> = [native].into_iter().chain(x86).collect();
        bpf::program(&architectures, KILL_THREAD)
    }

    /// Of x86-64 and x32, which are one architecture to the kernel: bit 30 makes the difference.
    fn native_verdicts(&self, table: &Table, has_x32: bool) -> Verdicts {
        let mut verdicts = self.everything();
        if has_x32 {
            self.fill(&mut verdicts, table, Arch::X86_64, &[0..=X32_BIT - 1, 2 * X32_BIT..=3 * X32_BIT - 1]);
            self.fill(&mut verdicts, table, Arch::X32, &[X32_BIT..=2 * X32_BIT - 1, 3 * X32_BIT..=u32::MAX]);
        } else {
            // -1 is what a tracer leaves of a call that it skips.
            verdicts.set(X32_BIT..=u32::MAX - 1, Verdict::Answer(KILL_THREAD));
            self.fill(&mut verdicts, table, Arch::X86_64, &[0..=X32_BIT - 1, 2 * X32_BIT..=3 * X32_BIT - 1]);
        }
        verdicts
    }

    fn everything(&self) -> Verdicts {
        Verdicts::all(Verdict::Answer(self.default))
    }

    /// Sets the verdicts of one architecture, whose numbers are in `domain`.
    fn fill(&self, verdicts: &mut Verdicts, table: &Table, arch: Arch, domain: &[std::ops::RangeInclusive<u32>]) {
        let known = self.names.iter().flat_map(|name| table.entries(name, arch)).map(|entry| entry.number);
        if let Some(last) = known.max().filter(|_| self.hides_newer) {
            for numbers in domain.iter().filter(|numbers| last < *numbers.end()) {
                let newer = (*numbers.start()).max(last + 1)..=*numbers.end();
                verdicts.set(newer, Verdict::Answer(ERRNO | ENOSYS));
            }
        }
        let mut by_number: BTreeMap<u32, Vec<Rule>> = BTreeMap::new();
        for rule in &self.rules {
            for entry in table.entries(rule.name, arch) {
                let conditions = conditions_at(&rule.conditions, entry, arch);
                by_number.entry(entry.number).or_default().push(Rule { conditions, answer: rule.answer });
            }
        }
        for (number, rules) in by_number {
            let unconditional = rules.iter().find(|rule| rule.conditions.is_empty()).map(|rule| rule.answer);
            let verdict = unconditional.map_or(Verdict::Rules(rules, self.default), Verdict::Answer);
            verdicts.set(number..=number, verdict);
        }
    }
}

/// The conditions of a rule at one of the places where its call arrives.
///
/// A multiplexer has the operation where the call has its first argument, and the others behind a pointer. libseccomp puts
/// the operation in the place of what the rule says about the first and leaves the rest; so does this.
fn conditions_at(conditions: &[Condition], entry: Entry, arch: Arch) -> Vec<Condition> {
    let operation = entry.multiplexed.map(|operation| Condition {
        argument: 0,
        comparison: Comparison::Equal,
        value: operation.into(),
        wide: false,
    });
    let rest = conditions.iter().filter(|condition| operation.is_none() || condition.argument != 0);
    let rest = rest.map(|condition| Condition { wide: arch.has_wide_arguments(), ..*condition });
    operation.into_iter().chain(rest).collect()
}
