//! Which devices a container may use: rules, of which the last one that is about a device decides. What no rule allows is
//! forbidden. Version 1's `devices` controller is written lines, version 2 runs a [`program`](super::device_program).

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::device_program;
use super::directory::Directory;
use crate::error::Doing;
use crate::{Error, Result};

/// What may be done with a device, as the kernel numbers it for a program (`BPF_DEVCG_ACC_*`).
pub const RIGHTS: [(char, u32); 3] = [('r', 2), ('w', 4), ('m', 1)];
const ALL: &str = "rwm";

/// What a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Any,
    Block,
    Character,
}

/// One rule. A number that is not given is any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub allow: bool,
    pub kind: Kind,
    pub major: Option<i32>,
    pub minor: Option<i32>,
    /// Of `r`, `w` and `m`.
    pub access: String,
}

/// What every container may use, as with runc: to make any node, but to open only these. 136 are terminals (devpts), 5:2 is
/// `/dev/ptmx`, 10:200 is `/dev/net/tun`.
const ALWAYS: &[(Kind, Option<i32>, Option<i32>, &str)] = &[
    (Kind::Character, None, None, "m"),
    (Kind::Block, None, None, "m"),
    (Kind::Character, Some(1), Some(3), ALL),
    (Kind::Character, Some(1), Some(8), ALL),
    (Kind::Character, Some(1), Some(7), ALL),
    (Kind::Character, Some(5), Some(0), ALL),
    (Kind::Character, Some(1), Some(5), ALL),
    (Kind::Character, Some(1), Some(9), ALL),
    (Kind::Character, Some(136), None, ALL),
    (Kind::Character, Some(5), Some(2), ALL),
    (Kind::Character, Some(10), Some(200), ALL),
];

/// How many a container may have: they become a program, for three rights with four instructions each and a jump.
pub const MOST_RULES: usize = 1000;

/// A container's rules, and then those of every container.
pub fn rules(asked: &[LinuxDeviceCgroup]) -> Result<Vec<Rule>> {
    if asked.len() > MOST_RULES {
        return Err(Error::spec("linux.resources.devices", format!("has more than {MOST_RULES} rules")));
    }
    let asked =
        asked.iter().enumerate().map(|(index, rule)| Rule::of(rule, &format!("linux.resources.devices[{index}]")));
    let always = ALWAYS.iter().map(|(kind, major, minor, access)| {
        Ok(Rule { allow: true, kind: *kind, major: *major, minor: *minor, access: (*access).to_owned() })
    });
    asked.chain(always).collect()
}

/// Whether they forbid nothing.
pub fn allow_all(rules: &[Rule]) -> bool {
    device_program::program(rules).is_none()
}

/// Sets the rules of a cgroup of version 1 that has no processes yet: for a moment they could use none.
pub fn set(directory: &Directory, rules: &[Rule]) -> Result<()> {
    let nothing = ("devices.deny", "a".to_owned());
    for (file, line) in std::iter::once(nothing).chain(rules.iter().map(Rule::line)) {
        directory.try_write(file, &line).doing_with(|| {
            format!("write {line} to {} (linux.resources.devices)", directory.path().join(file).display())
        })?;
    }
    Ok(())
}

impl Rule {
    fn of(rule: &LinuxDeviceCgroup, field: &str) -> Result<Self> {
        let access = rule.access().clone().unwrap_or_default();
        if access.is_empty() || !access.chars().all(|right| ALL.contains(right)) {
            return Err(Error::spec(format!("{field}.access"), "must be of r, w and m"));
        }
        let kind = match rule.typ().unwrap_or(LinuxDeviceType::A) {
            // The kernel takes it for everything, whatever comes after it.
            LinuxDeviceType::A => {
                let access = ALL.to_owned();
                return Ok(Self { allow: rule.allow(), kind: Kind::Any, major: None, minor: None, access });
            }
            LinuxDeviceType::B => Kind::Block,
            LinuxDeviceType::C => Kind::Character,
            LinuxDeviceType::U | LinuxDeviceType::P => {
                return Err(Error::spec(format!("{field}.type"), "must be a, b or c"));
            }
        };
        let number = |number: Option<i64>, name| match number.filter(|number| *number >= 0).map(i32::try_from) {
            Some(Err(_)) => Err(Error::spec(format!("{field}.{name}"), "is out of range")),
            number => Ok(number.and_then(Result::ok)),
        };
        let (major, minor) = (number(rule.major(), "major")?, number(rule.minor(), "minor")?);
        Ok(Self { allow: rule.allow(), kind, major, minor, access })
    }

    /// The file of version 1, and what to write there.
    fn line(&self) -> (&'static str, String) {
        let file = if self.allow { "devices.allow" } else { "devices.deny" };
        let kind = match self.kind {
            Kind::Any => return (file, "a".to_owned()),
            Kind::Block => 'b',
            Kind::Character => 'c',
        };
        let number = |number: Option<i32>| number.map_or_else(|| "*".to_owned(), |number| number.to_string());
        (file, format!("{kind} {}:{} {}", number(self.major), number(self.minor), self.access))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(asked: &str) -> Result<Vec<(&'static str, String)>> {
        Ok(rules(&serde_json::from_str::<Vec<_>>(asked).expect("rules"))?.iter().map(Rule::line).collect())
    }

    #[test]
    fn what_every_container_has_is_allowed_last() {
        let lines = of(
            r#"[{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "rw"},
                {"allow": true, "type": "b", "major": 8, "access": "r"}]"#,
        )
        .expect("they are right");
        assert_eq!(lines[0], ("devices.deny", "a".to_owned()));
        assert_eq!(lines[1], ("devices.allow", "c 1:11 rw".to_owned()));
        assert_eq!(lines[2], ("devices.allow", "b 8:* r".to_owned()));
        assert_eq!(lines.len(), 3 + ALWAYS.len());
        assert_eq!(lines.last(), Some(&("devices.allow", "c 10:200 rwm".to_owned())));
    }

    #[test]
    fn a_privileged_container_may_use_all() {
        let lines = of(r#"[{"allow": true, "type": "a", "access": "rwm"}]"#).expect("it is right");
        assert_eq!(lines[0], ("devices.allow", "a".to_owned()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let problem = |rules| of(rules).expect_err("it is wrong").to_string();
        assert_eq!(problem(r#"[{"allow": true}]"#), "linux.resources.devices[0].access: must be of r, w and m");
        let fifo = r#"[{"allow": true, "type": "p", "access": "r"}]"#;
        assert_eq!(problem(fifo), "linux.resources.devices[0].type: must be a, b or c");
        let number = r#"[{"allow": true, "type": "c", "access": "r", "major": 4294967296}]"#;
        assert_eq!(problem(number), "linux.resources.devices[0].major: is out of range");
    }
}
