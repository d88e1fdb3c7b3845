//! The rules for devices as a program for version 2 (`BPF_PROG_TYPE_CGROUP_DEVICE`, include/uapi/linux/bpf.h).
//!
//! It is run for each use of a device, which may be for several rights at once, and returns 1 if all of them are allowed.
//! For each right it looks for the last rule that is about the device.

use terrarium_sys::bpf::Instruction;

use super::devices::{Kind, RIGHTS, Rule};

// Registers: the result; what is asked, by `struct bpf_cgroup_dev_ctx`; and what is taken from it.
const RESULT: u8 = 0;
const ASKED: u8 = 1;
const ACCESS: u8 = 2;
const TYPE: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;

const LOAD_WORD: u8 = 0x61;
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const MOVE: u8 = 0xb7;
const MOVE_REGISTER: u8 = 0xbf;
const JUMP: u8 = 0x05;
const JUMP_IF_SET: u8 = 0x45;
const JUMP_UNLESS_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

/// A program that is written from its beginning to its end; it only jumps forward.
#[derive(Default)]
struct Writer(Vec<Instruction>);

/// Jumps whose target is not yet written.
type Jumps = Vec<usize>;

/// The program; none if these rules allow everything.
pub fn program(rules: &[Rule]) -> Option<Vec<Instruction>> {
    let mut writer = Writer::default();
    writer.add(LOAD_WORD, ACCESS | ASKED << 4, 0, 0);
    writer.add(MOVE_REGISTER, TYPE | ACCESS << 4, 0, 0);
    writer.add(AND, TYPE, 0, 0xffff);
    writer.add(SHIFT_RIGHT, ACCESS, 0, 16);
    writer.add(LOAD_WORD, MAJOR | ASKED << 4, 4, 0);
    writer.add(LOAD_WORD, MINOR | ASKED << 4, 8, 0);
    let mut refused = Jumps::new();
    for (right, bit) in RIGHTS {
        let about: Vec<&Rule> = rules.iter().filter(|rule| rule.access.contains(right)).collect();
        writer.add(JUMP_IF_SET, ACCESS, 1, bit.cast_signed());
        let mut granted = vec![writer.jump()];
        writer.look_up(&about, &mut granted, &mut refused);
        writer.land(&granted);
    }
    writer.add(MOVE, RESULT, 0, 1);
    writer.add(EXIT, 0, 0, 0);
    if refused.is_empty() {
        return None;
    }
    writer.land(&refused);
    writer.add(MOVE, RESULT, 0, 0);
    writer.add(EXIT, 0, 0, 0);
    Some(writer.0)
}

impl Writer {
    fn add(&mut self, code: u8, registers: u8, offset: i16, operand: i32) {
        self.0.push(Instruction { code, registers, offset, operand });
    }

    fn jump(&mut self) -> usize {
        self.add(JUMP, 0, 0, 0);
        self.0.len() - 1
    }

    /// Lets jumps lead to what is written next.
    fn land(&mut self, jumps: &[usize]) {
        for jump in jumps {
            // [`MOST_RULES`](super::devices::MOST_RULES) are fewer than a jump can skip.
            self.0[*jump].offset = i16::try_from(self.0.len() - jump - 1).expect("a jump within the program");
        }
    }

    /// The last rule comes first. Nothing is written after one that is about every device: the kernel refuses what cannot
    /// be reached.
    fn look_up(&mut self, rules: &[&Rule], granted: &mut Jumps, refused: &mut Jumps) {
        for rule in rules.iter().rev() {
            let mut other = Jumps::new();
            let kind = match rule.kind {
                Kind::Any => None,
                Kind::Block => Some(BLOCK),
                Kind::Character => Some(CHARACTER),
            };
            for (register, value) in [(TYPE, kind), (MAJOR, rule.major), (MINOR, rule.minor)] {
                if let Some(value) = value {
                    self.add(JUMP_UNLESS_EQUAL, register, 0, value);
                    other.push(self.0.len() - 1);
                }
            }
            let decided = self.jump();
            if rule.allow {
                granted.push(decided)
            } else {
                refused.push(decided)
            }
            if other.is_empty() {
                return;
            }
            self.land(&other);
        }
        refused.push(self.jump());
    }
}

#[cfg(test)]
mod tests {
    use super::super::devices::rules;
    use super::*;

    fn of(asked: &str) -> Option<Vec<Instruction>> {
        program(&rules(&serde_json::from_str::<Vec<_>>(asked).expect("rules")).expect("they are right"))
    }

    /// Runs it as the kernel would.
    fn allows(program: &[Instruction], kind: i32, (major, minor): (i32, i32), access: i32) -> bool {
        let mut registers = [0_i32; 6];
        let mut at = 0;
        loop {
            let Instruction { code, registers: which, offset, operand } = program[at];
            let (to, from) = (usize::from(which & 0xf), usize::from(which >> 4));
            at += 1;
            let skips = match code {
                LOAD_WORD => {
                    registers[to] = [access << 16 | kind, major, minor][usize::try_from(offset / 4).expect("inside")];
                    false
                }
                MOVE_REGISTER => {
                    registers[to] = registers[from];
                    false
                }
                MOVE => {
                    registers[to] = operand;
                    false
                }
                AND => {
                    registers[to] &= operand;
                    false
                }
                SHIFT_RIGHT => {
                    registers[to] >>= operand;
                    false
                }
                JUMP => true,
                JUMP_IF_SET => registers[to] & operand != 0,
                JUMP_UNLESS_EQUAL => registers[to] != operand,
                EXIT => return registers[0] == 1,
                other => panic!("code {other:#x}"),
            };
            if skips {
                at += usize::try_from(offset).expect("forward");
            }
        }
    }

    const READ: i32 = 2;
    const WRITE: i32 = 4;
    const MAKE: i32 = 1;

    #[test]
    fn the_last_rule_about_a_device_decides_for_each_right() {
        let program = of(r#"[
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "b", "major": 8, "access": "rw"},
            {"allow": false, "type": "b", "major": 8, "minor": 1, "access": "w"}]"#)
        .expect("not all is allowed");
        let allows = |kind, device, access| allows(&program, kind, device, access);
        assert!(allows(BLOCK, (8, 0), READ | WRITE) && allows(BLOCK, (8, 1), READ));
        assert!(!allows(BLOCK, (8, 1), READ | WRITE) && !allows(BLOCK, (254, 0), READ));
        assert!(!allows(CHARACTER, (8, 0), READ));
        // What every container has.
        assert!(allows(CHARACTER, (1, 3), READ | WRITE | MAKE) && allows(CHARACTER, (136, 7), READ | WRITE));
        assert!(allows(BLOCK, (254, 0), MAKE) && !allows(BLOCK, (254, 0), MAKE | READ));
    }

    #[test]
    fn without_rules_only_what_every_container_has_is_allowed() {
        let program = of("[]").expect("not all is allowed");
        assert!(allows(&program, CHARACTER, (1, 9), READ) && !allows(&program, CHARACTER, (1, 1), READ));
    }

    #[test]
    fn where_everything_is_allowed_there_is_no_program() {
        assert_eq!(of(r#"[{"allow": false, "access": "rwm"}, {"allow": true, "access": "rwm"}]"#), None);
    }
}
