//! Which devices a container may use, by version 1's `devices` controller.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::directory::Directory;
use crate::error::Doing;
use crate::{Error, Result};

/// What every container may use, as with runc: to make any node, but to open only these. 136 are terminals (devpts), 5:2 is
/// `/dev/ptmx`, 10:200 is `/dev/net/tun`.
const ALWAYS: &[&str] = &[
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:8 rwm",
    "c 1:7 rwm",
    "c 5:0 rwm",
    "c 1:5 rwm",
    "c 1:9 rwm",
    "c 136:* rwm",
    "c 5:2 rwm",
    "c 10:200 rwm",
];

/// What to write where, in this order: nothing is allowed that no rule allows.
pub fn writes(rules: &[LinuxDeviceCgroup]) -> Result<Vec<(&'static str, String)>> {
    let mut writes = vec![("devices.deny", "a".to_owned())];
    for (index, rule) in rules.iter().enumerate() {
        let file = if rule.allow() { "devices.allow" } else { "devices.deny" };
        writes.push((file, line(rule, &format!("linux.resources.devices[{index}]"))?));
    }
    writes.extend(ALWAYS.iter().map(|rule| ("devices.allow", (*rule).to_owned())));
    Ok(writes)
}

/// Sets the rules of a cgroup that has no processes yet: for a moment they could use none.
pub fn set(directory: &Directory, rules: &[LinuxDeviceCgroup]) -> Result<()> {
    for (file, rule) in writes(rules)? {
        directory.try_write(file, &rule).doing_with(|| {
            format!("write {rule} to {} (linux.resources.devices)", directory.path().join(file).display())
        })?;
    }
    Ok(())
}

fn line(rule: &LinuxDeviceCgroup, field: &str) -> Result<String> {
    let access = rule.access().as_deref().unwrap_or_default();
    if access.is_empty() || !access.chars().all(|right| "rwm".contains(right)) {
        return Err(Error::spec(format!("{field}.access"), "must be of r, w and m"));
    }
    let kind = match rule.typ().unwrap_or(LinuxDeviceType::A) {
        // The kernel takes it for everything, whatever comes after it.
        LinuxDeviceType::A => return Ok("a".to_owned()),
        LinuxDeviceType::B => "b",
        LinuxDeviceType::C => "c",
        LinuxDeviceType::U | LinuxDeviceType::P => {
            return Err(Error::spec(format!("{field}.type"), "must be a, b or c"));
        }
    };
    let number = |number: Option<i64>| match number {
        Some(number) if number >= 0 => number.to_string(),
        _ => "*".to_owned(),
    };
    Ok(format!("{kind} {}:{} {access}", number(rule.major()), number(rule.minor())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rules: &str) -> Result<Vec<(&'static str, String)>> {
        writes(&serde_json::from_str::<Vec<_>>(rules).expect("rules"))
    }

    #[test]
    fn everything_is_denied_first_and_what_every_container_has_is_allowed_last() {
        let writes = of(
            r#"[{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "rw"},
                {"allow": true, "type": "b", "major": 8, "access": "r"}]"#,
        )
        .expect("they are right");
        assert_eq!(writes[..2], [("devices.deny", "a".to_owned()), ("devices.deny", "a".to_owned())]);
        assert_eq!(writes[2], ("devices.allow", "c 1:11 rw".to_owned()));
        assert_eq!(writes[3], ("devices.allow", "b 8:* r".to_owned()));
        assert_eq!(writes.len(), 4 + ALWAYS.len());
    }

    #[test]
    fn a_privileged_container_may_use_all() {
        let writes = of(r#"[{"allow": true, "type": "a", "access": "rwm"}]"#).expect("it is right");
        assert_eq!(writes[1], ("devices.allow", "a".to_owned()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let problem = |rules| of(rules).expect_err("it is wrong").to_string();
        assert_eq!(problem(r#"[{"allow": true}]"#), "linux.resources.devices[0].access: must be of r, w and m");
        let fifo = r#"[{"allow": true, "type": "p", "access": "r"}]"#;
        assert_eq!(problem(fifo), "linux.resources.devices[0].type: must be a, b or c");
    }
}
