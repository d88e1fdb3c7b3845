//! Programs do what the profile says, by an interpreter of programs.

use oci_spec::runtime::Spec;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::bpf::evaluate::{Call, run};
use super::*;
use crate::spec::tests::{any_json, changed};

const LINUX: Kernel = Kernel { seccomp_log: true };
const X86_64: u32 = 0xc000_003e;
const X86: u32 = 0x4000_0003;

/// The profile that containerd gave a container with Docker's capabilities, and what runc 1.1.15 with libseccomp 2.5.4
/// makes of it, 8 bytes an instruction.
const CONTAINERD: &str = include_str!("testdata/containerd.json");
const RUNC: &[u8] = include_bytes!("testdata/containerd.runc.bpf");

fn compile(profile: &str) -> Filter {
    Filter::compile(&serde_json::from_str(profile).expect("a profile"), &LINUX).expect("it compiles")
}

fn problem(profile: &str) -> String {
    let profile = serde_json::from_str(profile).expect("a profile");
    Filter::compile(&profile, &LINUX).expect_err("it is refused").to_string()
}

fn answer(filter: &Filter, arch: u32, number: u32, arguments: &[u64]) -> u32 {
    let arguments = std::array::from_fn(|index| arguments.get(index).copied().unwrap_or_default());
    run(&filter.program, &Call { number, arch, arguments }).0
}

fn runcs_program() -> Vec<Instruction> {
    let instruction = |bytes: &[u8]| Instruction {
        code: u16::from_le_bytes([bytes[0], bytes[1]]),
        jump_true: bytes[2],
        jump_false: bytes[3],
        operand: u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
    };
    RUNC.chunks_exact(8).map(instruction).collect()
}

#[test]
fn containerds_profile_is_what_runc_makes_of_it() {
    let (ours, runcs) = (compile(CONTAINERD), runcs_program());
    let interesting = [0, 1, 2, 8, 16, 40, 41, 0x8, 0x20000, 0x20008, 0x7e02_0000, 0xffff_ffff, 1 << 32, u64::MAX];
    for arch in [X86_64, X86, 0x4000_0028] {
        // libseccomp 2.5.4 does not know the calls above 456, nor uretprobe, which is 335.
        let numbers = (0..=456)
            .filter(|number| *number != 335)
            .chain([0x3fff_ffff, 0x8000_0000, u32::MAX, X32_BIT + 1000])
            .chain(X32_BIT..=X32_BIT + 456);
        for number in numbers.chain(X32_BIT + 512..X32_BIT + 548) {
            for first in interesting {
                let call = Call { number, arch, arguments: [first, 1, 2, 3, 4, 5] };
                assert_eq!(run(&ours.program, &call).0, run(&runcs, &call).0, "{call:x?}");
            }
        }
    }
}

#[test]
fn containerds_profile_is_found_in_few_steps() {
    let (ours, runcs) = (compile(CONTAINERD), runcs_program());
    let steps = |program: &[Instruction]| {
        let calls = (0..450).map(|number| Call { number, arch: X86_64, arguments: [0; 6] });
        calls.map(|call| run(program, &call).1).max().expect("450 calls")
    };
    assert!(steps(&ours.program) < 60, "{} steps at most, {} by libseccomp", steps(&ours.program), steps(&runcs));
    assert!(ours.program.len() < runcs.len(), "{} and {} instructions", ours.program.len(), runcs.len());
}

#[test]
fn containerds_profile_denies_what_containers_must_not_do() {
    let filter = compile(CONTAINERD);
    for (name, number) in [("mount", 165), ("unshare", 272), ("keyctl", 250), ("setns", 308), ("bpf", 321)] {
        assert_eq!(answer(&filter, X86_64, number, &[]), ERRNO | EPERM, "{name}");
    }
    assert_eq!(answer(&filter, X86_64, 435, &[]), ERRNO | ENOSYS, "clone3, so that libc takes clone");
    assert_eq!(answer(&filter, X86_64, 56, &[0x1200_0000]), ERRNO | EPERM, "clone of a user namespace");
    assert_eq!(answer(&filter, X86_64, 56, &[0x11]), ALLOW, "clone of a process");
    assert_eq!(answer(&filter, X86_64, 10_000, &[]), ERRNO | ENOSYS, "a call of the future");
}

#[test]
fn each_action_is_answered() {
    let filter = compile(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 13, "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["write"], "action": "SCMP_ACT_KILL"},
            {"names": ["open"], "action": "SCMP_ACT_KILL_PROCESS"},
            {"names": ["close"], "action": "SCMP_ACT_TRAP"},
            {"names": ["stat"], "action": "SCMP_ACT_ERRNO"},
            {"names": ["fstat"], "action": "SCMP_ACT_TRACE", "errnoRet": 7},
            {"names": ["lstat"], "action": "SCMP_ACT_LOG"}]}"#,
    );
    let answers: Vec<u32> = (0..9).map(|number| answer(&filter, X86_64, number, &[])).collect();
    let expected = [ALLOW, KILL_THREAD, KILL_PROCESS, TRAP, ERRNO | 1, TRACE | 7, LOG, ERRNO | ENOSYS, ERRNO | ENOSYS];
    assert_eq!(answers, expected);
    assert!(filter.warnings.is_empty());
}

#[test]
fn where_logging_would_kill_it_is_allowing_with_a_warning() {
    let profile = r#"{"defaultAction": "SCMP_ACT_LOG", "flags": ["SECCOMP_FILTER_FLAG_LOG"]}"#;
    let profile = serde_json::from_str(profile).expect("a profile");
    let filter = Filter::compile(&profile, &Kernel { seccomp_log: false }).expect("it compiles");
    assert_eq!(answer(&filter, X86_64, 0, &[]), ALLOW);
    assert_eq!(filter.flags, 0);
    assert_eq!(filter.warnings.len(), 2, "{:?}", filter.warnings);
    let filter = Filter::compile(&profile, &LINUX).expect("it compiles");
    assert_eq!((answer(&filter, X86_64, 0, &[]), filter.flags), (LOG, seccomp::LOG));
}

#[test]
fn other_architectures_are_killed_unless_named() {
    let native = compile(r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#);
    let number = |arch, number| answer(&native, arch, number, &[]);
    assert_eq!([number(X86, 1), number(X86_64, X32_BIT | 1), number(X86_64, 1)], [KILL_THREAD, KILL_THREAD, ALLOW]);
    assert_eq!(number(X86_64, u32::MAX), ALLOW, "a call that a tracer skips");
    let all = compile(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_ARM"],
            "syscalls": [{"names": ["ioctl"], "action": "SCMP_ACT_TRAP"}]}"#,
    );
    let calls = [(X86, 54), (X86_64, X32_BIT | 514), (X86_64, 16), (X86_64, X32_BIT | 16), (X86, 16)];
    assert_eq!(calls.map(|(arch, number)| answer(&all, arch, number, &[])), [TRAP, TRAP, TRAP, ALLOW, ALLOW]);
}

#[test]
fn a_multiplexer_is_asked_for_its_operation() {
    let filter = compile(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"],
            "syscalls": [{"names": ["connect", "semop"], "action": "SCMP_ACT_TRAP"}]}"#,
    );
    let calls = [(362, 0), (102, 3), (102, 1), (117, 1), (117, 2)];
    assert_eq!(calls.map(|(number, first)| answer(&filter, X86, number, &[first])), [TRAP, TRAP, ALLOW, TRAP, ALLOW]);
}

#[test]
fn unknown_names_are_left_out_with_a_warning() {
    let filter = compile(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["arm_sync_file_range", "read"],
            "action": "SCMP_ACT_TRAP"}]}"#,
    );
    assert_eq!(answer(&filter, X86_64, 0, &[]), TRAP);
    assert_eq!(
        filter.warnings,
        ["linux.seccomp.syscalls[0].names[0]: no system call is called arm_sync_file_range; left out"]
    );
}

#[test]
fn what_cannot_be_had_is_refused_by_its_field() {
    let of_entry = |entry: &str| problem(&format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{entry}]}}"#));
    assert_eq!(
        of_entry(r#"{"names": ["read"], "action": "SCMP_ACT_NOTIFY"}"#),
        "linux.seccomp.syscalls[0].action: SCMP_ACT_NOTIFY is not supported"
    );
    assert_eq!(
        of_entry(
            r#"{"names": ["read"], "action": "SCMP_ACT_TRAP", "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}"#
        ),
        "linux.seccomp.syscalls[0].args[0].index: must be 0 to 5"
    );
    assert_eq!(
        of_entry(r#"{"names": [""], "action": "SCMP_ACT_TRAP"}"#),
        "linux.seccomp.syscalls[0].names[0]: must not be empty"
    );
    assert_eq!(
        of_entry(r#"{"names": [], "action": "SCMP_ACT_TRAP"}"#),
        "linux.seccomp.syscalls[0].names: must not be empty"
    );
    assert_eq!(
        of_entry(r#"{"names": ["read"], "action": "SCMP_ACT_TRAP", "errnoRet": 1}"#),
        "linux.seccomp.syscalls[0].action: SCMP_ACT_TRAP has no errnoRet"
    );
    let flag = r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}"#;
    assert!(problem(flag).starts_with("linux.seccomp.flags[0]: "));
}

#[test]
fn a_profile_too_long_for_the_kernel_is_refused() {
    let args = r#"[{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]"#;
    let entry = |value: usize| {
        let args = args.replace('1', &value.to_string());
        format!(r#"{{"names": ["read"], "action": "SCMP_ACT_TRAP", "args": {args}}}"#)
    };
    let entries: Vec<String> = (0..1000).map(entry).collect();
    let problem = problem(&format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{}]}}"#, entries.join(",")));
    assert!(problem.starts_with("linux.seccomp.syscalls: need a filter of "), "{problem}");
}

/// An entry of a random profile: calls of x86-64, an action, and conditions of (argument, operator, value, mask's value).
#[derive(Debug, Clone)]
struct Entry {
    numbers: Vec<usize>,
    action: (&'static str, u32),
    conditions: Vec<(usize, &'static str, u64, u64)>,
}

/// The first calls of x86-64, by number.
const NAMES: [&str; 8] = ["read", "write", "open", "close", "stat", "fstat", "lstat", "poll"];
const ACTIONS: [(&str, u32); 5] = [
    ("SCMP_ACT_ALLOW", ALLOW),
    ("SCMP_ACT_ERRNO", ERRNO | EPERM),
    ("SCMP_ACT_TRAP", TRAP),
    ("SCMP_ACT_KILL", KILL_THREAD),
    ("SCMP_ACT_LOG", LOG),
];

/// Values whose halves are less than, equal to and greater than each other's.
fn value() -> impl Strategy<Value = u64> {
    let half = prop_oneof![Just(0_u64), Just(1), Just(2), Just(0x7fff_ffff), Just(0x8000_0000), Just(0xffff_ffff)];
    (half.clone(), half).prop_map(|(high, low)| high << 32 | low)
}

fn entry() -> impl Strategy<Value = Entry> {
    const OPERATORS: [&str; 7] = [
        "SCMP_CMP_NE",
        "SCMP_CMP_LT",
        "SCMP_CMP_LE",
        "SCMP_CMP_EQ",
        "SCMP_CMP_GE",
        "SCMP_CMP_GT",
        "SCMP_CMP_MASKED_EQ",
    ];
    let condition = (0..6_usize, prop::sample::select(&OPERATORS[..]), value(), value());
    let numbers = prop::collection::vec(0..NAMES.len(), 1..4);
    (numbers, prop::sample::select(&ACTIONS[..]), prop::collection::vec(condition, 0..4))
        .prop_map(|(numbers, action, conditions)| Entry { numbers, action, conditions })
}

/// What the profile says, by the definition.
fn expected(entries: &[Entry], default: u32, number: usize, arguments: &[u64; 6]) -> u32 {
    let holds = |&(index, operator, value, masked): &(usize, &str, u64, u64)| {
        let argument = arguments[index];
        match operator {
            "SCMP_CMP_NE" => argument != value,
            "SCMP_CMP_LT" => argument < value,
            "SCMP_CMP_LE" => argument <= value,
            "SCMP_CMP_EQ" => argument == value,
            "SCMP_CMP_GE" => argument >= value,
            "SCMP_CMP_GT" => argument > value,
            _ => argument & value == masked & value,
        }
    };
    let twice = |entry: &Entry| {
        let mut arguments: Vec<usize> = entry.conditions.iter().map(|condition| condition.0).collect();
        arguments.sort_unstable();
        arguments.windows(2).any(|pair| pair[0] == pair[1])
    };
    let of_call: Vec<&Entry> =
        entries.iter().filter(|entry| entry.numbers.contains(&number) && entry.action.1 != default).collect();
    let unconditional = of_call.iter().find(|entry| entry.conditions.is_empty());
    let conditional = of_call.iter().find(|entry| match twice(entry) {
        true => entry.conditions.iter().any(holds),
        false => entry.conditions.iter().all(holds),
    });
    let highest = entries.iter().flat_map(|entry| &entry.numbers).max();
    let newer = default != ALLOW && default != LOG && highest.is_some_and(|highest| number > *highest);
    let otherwise = if newer { ERRNO | ENOSYS } else { default };
    unconditional.or(conditional).map_or(otherwise, |entry| entry.action.1)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn programs_do_what_profiles_say(
        entries in prop::collection::vec(entry(), 0..8),
        default in prop::sample::select(&ACTIONS[..]),
        calls in prop::collection::vec((0..10_usize, prop::array::uniform6(value())), 32),
    ) {
        let syscalls: Vec<_> = entries.iter().map(|entry| {
            let args: Vec<_> = entry.conditions.iter().map(|(index, op, value, value_two)| {
                serde_json::json!({"index": index, "op": op, "value": value, "valueTwo": value_two})
            }).collect();
            let names: Vec<_> = entry.numbers.iter().map(|number| NAMES[*number]).collect();
            serde_json::json!({"names": names, "action": entry.action.0, "args": args})
        }).collect();
        let profile = serde_json::json!({"defaultAction": default.0, "syscalls": syscalls});
        let filter = compile(&profile.to_string());
        for (number, arguments) in calls {
            let call = Call { number: u32::try_from(number).expect("a number below 10"), arch: X86_64, arguments };
            prop_assert_eq!(run(&filter.program, &call).0, expected(&entries, default.1, number, &arguments));
        }
    }
}

proptest! {
    #[test]
    fn any_wrong_profile_is_told_by_its_field(place in any::<usize>(), value in any_json()) {
        let valid = json!({
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "architectures": ["SCMP_ARCH_X86_64"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [
                {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"},
                {"names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1,
                 "args": [{"index": 0, "value": 1, "valueTwo": 1, "op": "SCMP_CMP_MASKED_EQ"}]}
            ]
        });
        let judge = |profile: Value| {
            let config = json!({"ociVersion": "1.2.0", "linux": {"seccomp": profile}});
            let spec: Spec = crate::spec::parse(config.to_string().as_bytes())?;
            let seccomp = spec.linux().as_ref().and_then(|linux| linux.seccomp().clone());
            seccomp.map_or(Ok(()), |seccomp| Filter::compile(&seccomp, &LINUX).map(drop))
        };
        judge(valid.clone()).expect("it is right");
        if let Err(error) = judge(changed(valid, place, value)) {
            prop_assert!(error.to_string().starts_with("linux.seccomp"), "{}", error);
        }
    }
}
