//! Rules as a classic BPF program.
//!
//! A filter runs before every system call, in gVisor by an interpreter in Go, and gVisor runs it for every number there
//! is when it is installed. So numbers are looked up by bisection, not one after the other.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use terrarium_sys::seccomp::Instruction;

/// More instructions than these the kernel does not take (`BPF_MAXINSNS`).
pub const MAX_INSTRUCTIONS: usize = 4096;

// linux/bpf_common.h; every load is of 32 bits from a fixed place.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

// Where `struct seccomp_data` has its fields.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

/// How an argument is compared with a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// Equal in the bits of the mask.
    EqualIn(u64),
}

/// What an argument must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    /// 0 to 5.
    pub argument: u32,
    pub comparison: Comparison,
    pub value: u64,
    /// Compare all 64 bits, or the lower 32 only.
    pub wide: bool,
}

/// What to answer when all conditions hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub conditions: Vec<Condition>,
    /// `SECCOMP_RET_*` with its data.
    pub answer: u32,
}

/// What happens to a call of some number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Answer(u32),
    /// The answer of the first rule that holds, or else this one.
    Rules(Vec<Rule>, u32),
}

/// The verdicts of all numbers of an architecture.
#[derive(Debug, Clone)]
pub struct Verdicts(BTreeMap<u32, Verdict>);

impl Verdicts {
    /// The same for all numbers.
    pub fn all(verdict: Verdict) -> Self {
        Self(BTreeMap::from([(0, verdict)]))
    }

    /// Another one for some of them.
    pub fn set(&mut self, numbers: RangeInclusive<u32>, verdict: Verdict) {
        let (first, last) = numbers.into_inner();
        if let Some(next) = last.checked_add(1) {
            let after = self.at(next).clone();
            self.0.entry(next).or_insert(after);
        }
        let covered: Vec<u32> = self.0.range(first..=last).map(|(start, _)| *start).collect();
        covered.iter().for_each(|start| drop(self.0.remove(start)));
        self.0.insert(first, verdict);
    }

    fn at(&self, number: u32) -> &Verdict {
        self.0.range(..=number).next_back().expect("0 has a verdict from the start").1
    }

    /// Each verdict with the first number that has it; neighbours differ.
    fn runs(&self) -> Vec<(u32, &Verdict)> {
        let mut runs: Vec<(u32, &Verdict)> = Vec::with_capacity(self.0.len());
        for (start, verdict) in &self.0 {
            if runs.last().is_none_or(|(_, last)| *last != verdict) {
                runs.push((*start, verdict));
            }
        }
        runs
    }
}

/// The program: verdicts by architecture as the kernel calls it, and the answer for other architectures.
pub fn program(architectures: &[(u32, Verdicts)], otherwise: u32) -> Vec<Instruction> {
    let mut program = vec![plain(LOAD, ARCH)];
    for (arch, verdicts) in architectures {
        let mut section = vec![plain(LOAD, NUMBER)];
        section.extend(bisection(&verdicts.runs()));
        program.extend(unless(JUMP_EQUAL, *arch, section.len()));
        program.extend(section);
    }
    program.push(plain(RETURN, otherwise));
    program
}

/// With the number loaded, finds its run by halving. Every part ends in an answer, so parts can stand in any order.
fn bisection(runs: &[(u32, &Verdict)]) -> Vec<Instruction> {
    if let [(_, verdict)] = runs {
        return answer(verdict);
    }
    let (lower, upper) = runs.split_at(runs.len() / 2);
    let upper_code = bisection(upper);
    let mut code = unless(JUMP_GREATER_EQUAL, upper[0].0, upper_code.len());
    code.extend(upper_code);
    code.extend(bisection(lower));
    code
}

/// Skips the next `length` instructions unless the comparison holds; jumps that depend on something reach only 255 far.
fn unless(comparison: u16, operand: u32, length: usize) -> Vec<Instruction> {
    match u8::try_from(length) {
        Ok(length) => vec![jump(comparison, operand, 0, length)],
        Err(_) => {
            let far = u32::try_from(length).expect("a program is far shorter than 2^32 instructions");
            vec![jump(comparison, operand, 1, 0), plain(JUMP, far)]
        }
    }
}

fn answer(verdict: &Verdict) -> Vec<Instruction> {
    match verdict {
        Verdict::Answer(answer) => vec![plain(RETURN, *answer)],
        Verdict::Rules(rules, otherwise) => rules.iter().flat_map(rule).chain([plain(RETURN, *otherwise)]).collect(),
    }
}

/// Where a comparison leads: within its condition by so many instructions, or out of the rule.
#[derive(Clone, Copy)]
enum Target {
    Skip(u8),
    Fail,
}

/// Ends in the rule's answer if the conditions hold, else behind its last instruction.
fn rule(rule: &Rule) -> Vec<Instruction> {
    let steps: Vec<Step> = rule.conditions.iter().flat_map(condition).collect();
    // At most 6 conditions of 6 steps: conditional jumps reach the end.
    let length = steps.len() + 1;
    let skip = |from: usize, target: Target| match target {
        Target::Skip(count) => count,
        Target::Fail => u8::try_from(length - from - 1).expect("a rule has fewer than 255 instructions"),
    };
    let code = steps.iter().enumerate().map(|(at, step)| match *step {
        Step::Plain(instruction) => instruction,
        Step::Compare(code, operand, yes, no) => jump(code, operand, skip(at, yes), skip(at, no)),
    });
    code.chain([plain(RETURN, rule.answer)]).collect()
}

#[derive(Clone, Copy)]
enum Step {
    Plain(Instruction),
    /// Where to go if it holds, and if not.
    Compare(u16, u32, Target, Target),
}

/// Goes on behind its last step if the condition holds.
fn condition(condition: &Condition) -> Vec<Step> {
    use Comparison::{Equal, EqualIn, Greater, GreaterOrEqual, Less, LessOrEqual, NotEqual};
    use Target::{Fail, Skip};
    let place = ARGUMENTS + 8 * condition.argument;
    // x86 is little-endian: the lower half comes first. Truncation is what takes the halves apart.
    let (low, high) = (condition.value as u32, (condition.value >> 32) as u32);
    let load_low = Step::Plain(plain(LOAD, place));
    let load_high = Step::Plain(plain(LOAD, place + 4));
    let lower = |code, yes, no| [load_low, Step::Compare(code, low, yes, no)];
    let (next, fail) = (Skip(0), Fail);
    // The upper halves decide, unless they are equal. Where one holds, the two steps of the lower halves are skipped.
    let upper: Vec<Step> = match condition.comparison {
        _ if !condition.wide => Vec::new(),
        Equal => vec![load_high, Step::Compare(JUMP_EQUAL, high, next, fail)],
        NotEqual => vec![load_high, Step::Compare(JUMP_EQUAL, high, next, Skip(2))],
        Greater | GreaterOrEqual => vec![
            load_high,
            Step::Compare(JUMP_GREATER, high, Skip(3), next),
            Step::Compare(JUMP_EQUAL, high, next, fail),
        ],
        Less | LessOrEqual => vec![
            load_high,
            Step::Compare(JUMP_GREATER, high, fail, next),
            Step::Compare(JUMP_EQUAL, high, next, Skip(2)),
        ],
        EqualIn(mask) => {
            let mask = (mask >> 32) as u32;
            let masked = Step::Plain(plain(AND, mask));
            vec![load_high, masked, Step::Compare(JUMP_EQUAL, high & mask, next, fail)]
        }
    };
    let lower: Vec<Step> = match condition.comparison {
        Equal => lower(JUMP_EQUAL, next, fail).into(),
        NotEqual => lower(JUMP_EQUAL, fail, next).into(),
        Greater => lower(JUMP_GREATER, next, fail).into(),
        GreaterOrEqual => lower(JUMP_GREATER_EQUAL, next, fail).into(),
        Less => lower(JUMP_GREATER_EQUAL, fail, next).into(),
        LessOrEqual => lower(JUMP_GREATER, fail, next).into(),
        EqualIn(mask) => {
            let mask = mask as u32;
            vec![load_low, Step::Plain(plain(AND, mask)), Step::Compare(JUMP_EQUAL, low & mask, next, fail)]
        }
    };
    [upper, lower].concat()
}

fn plain(code: u16, operand: u32) -> Instruction {
    jump(code, operand, 0, 0)
}

fn jump(code: u16, operand: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction { code, jump_true, jump_false, operand }
}

/// Runs programs as the kernel does, for tests.
#[cfg(test)]
pub mod evaluate {
    use super::*;

    /// What a filter is asked about (`struct seccomp_data`).
    #[derive(Debug, Clone, Copy)]
    pub struct Call {
        pub number: u32,
        pub arch: u32,
        pub arguments: [u64; 6],
    }

    impl Call {
        fn word(&self, place: u32) -> u32 {
            match place {
                NUMBER => self.number,
                ARCH => self.arch,
                _ => {
                    let argument = self.arguments[(place as usize - 16) / 8];
                    (if place.is_multiple_of(8) { argument } else { argument >> 32 }) as u32
                }
            }
        }
    }

    /// The answer, and how many instructions it took. Panics where the kernel would refuse the program.
    pub fn run(program: &[Instruction], call: &Call) -> (u32, usize) {
        let (mut at, mut value, mut steps) = (0, 0_u32, 0);
        loop {
            let Instruction { code, jump_true, jump_false, operand } = program[at];
            steps += 1;
            at += 1;
            let mut branch = |holds: bool| at += usize::from(if holds { jump_true } else { jump_false });
            match code {
                LOAD => value = call.word(operand),
                AND => value &= operand,
                JUMP => at += operand as usize,
                JUMP_EQUAL => branch(value == operand),
                JUMP_GREATER => branch(value > operand),
                JUMP_GREATER_EQUAL => branch(value >= operand),
                // Only libseccomp's programs and runc's have it: any of these bits.
                0x45 => branch(value & operand != 0),
                RETURN => return (operand, steps),
                other => panic!("instruction {other:#x} at {}", at - 1),
            }
        }
    }
}
