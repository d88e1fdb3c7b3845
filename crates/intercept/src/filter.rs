//! The seccomp filter: the chosen calls stop for the tracer, all others run.
//!
//! Not by `seccompiler`, whose programs kill whoever makes a call of another architecture; such calls run here. Only the
//! number and the architecture are read, so that gVisor remembers the answer for each number.

use nix::libc;
use terrarium_sys::seccomp::Instruction;

/// What happens at the chosen calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The thread stops for its tracer; without one the call fails with ENOSYS.
    Stop,
    /// Nothing, as at all others: for measuring what the filter itself costs.
    Nothing,
}

const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

fn instruction(code: u32, operand: u32, jump_true: u8, jump_false: u8) -> Instruction {
    // Codes have one byte; the constants of libc are wider.
    Instruction { code: code as u16, jump_true, jump_false, operand }
}

/// A program for these calls. Halving the sorted numbers keeps the way through it short.
pub fn program(numbers: impl IntoIterator<Item = i64>, action: Action) -> Vec<Instruction> {
    let mut numbers: Vec<u32> = numbers.into_iter().filter_map(|number| u32::try_from(number).ok()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let mut program = vec![
        instruction(load, ARCHITECTURE, 0, 0),
        instruction(equal, AUDIT_ARCH_X86_64, 1, 0),
        instruction(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
        instruction(load, NUMBER, 0, 0),
    ];
    let chosen = match action {
        Action::Stop => libc::SECCOMP_RET_TRACE,
        Action::Nothing => libc::SECCOMP_RET_ALLOW,
    };
    search(&numbers, chosen, &mut program);
    program
}

fn search(numbers: &[u32], chosen: u32, program: &mut Vec<Instruction>) {
    let ret = libc::BPF_RET | libc::BPF_K;
    match numbers {
        [] => program.push(instruction(ret, libc::SECCOMP_RET_ALLOW, 0, 0)),
        [number] => program.extend([
            instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, *number, 0, 1),
            instruction(ret, chosen, 0, 0),
            instruction(ret, libc::SECCOMP_RET_ALLOW, 0, 0),
        ]),
        _ => {
            let (lower, upper) = numbers.split_at(numbers.len() / 2);
            let at = program.len();
            program.push(instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, upper[0], 0, 0));
            search(lower, chosen, program);
            // Each number makes four instructions at most, so that the way over all lower ones fits for sixty of them.
            program[at].jump_true = (program.len() - at - 1) as u8;
            search(upper, chosen, program);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Runs the program, as the kernel would.
    fn answer(program: &[Instruction], architecture: u32, number: u32) -> u32 {
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let Instruction { code, jump_true, jump_false, operand } = program[at];
            at += 1;
            match u32::from(code) {
                code if code & 7 == libc::BPF_RET => return operand,
                code if code & 7 == libc::BPF_LD => {
                    accumulator = if operand == NUMBER { number } else { architecture };
                }
                code => {
                    let holds =
                        if code & 0xf0 == libc::BPF_JEQ { accumulator == operand } else { accumulator >= operand };
                    at += usize::from(if holds { jump_true } else { jump_false });
                }
            }
        }
    }

    proptest! {
        #[test]
        fn chosen_calls_stop_and_all_others_run(numbers in proptest::collection::vec(0..500i64, 0..60)) {
            let program = program(numbers.clone(), Action::Stop);
            for number in 0..510 {
                let stops = answer(&program, AUDIT_ARCH_X86_64, number) == libc::SECCOMP_RET_TRACE;
                prop_assert_eq!(stops, numbers.contains(&i64::from(number)));
                prop_assert_eq!(answer(&program, 0x4000_0003, number), libc::SECCOMP_RET_ALLOW, "32 bits");
                prop_assert_eq!(answer(&program, AUDIT_ARCH_X86_64, number | 0x4000_0000), libc::SECCOMP_RET_ALLOW, "x32");
            }
        }
    }
}
