//! One call of the plugin: what the runtime says in the environment (CNI specification 1.1, section 2).

use std::path::PathBuf;

use crate::attachment::Attachment;
use crate::conf::is_identifier;
use crate::error::Error;

/// Longest name of a link, in bytes.
const IF_NAME_MAX: usize = 15;

/// What the runtime asks for, with the variables that the command needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invocation {
    /// Attach a Pod.
    Add(AddressedTo, PathBuf),
    /// Detach a Pod whose namespace may be gone.
    Del(AddressedTo, Option<PathBuf>),
    /// See whether an attachment is as ADD left it.
    Check(AddressedTo, PathBuf),
    /// Delete what belongs to no attachment.
    Gc {
        /// `CNI_PATH`
        path: String,
    },
    /// Tell whether ADD would succeed.
    Status {
        /// `CNI_PATH`
        path: String,
    },
    /// Tell which versions of CNI are spoken.
    Version,
}

/// Which attachment a command is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressedTo {
    /// `CNI_CONTAINERID` and `CNI_IFNAME`.
    pub attachment: Attachment,
    /// `CNI_PATH`
    pub path: String,
    /// `CNI_ARGS`
    pub args: String,
}

impl Invocation {
    /// Reads the variables through `variable`. An empty one counts as missing.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let needed =
            |name: &'static str| variable(name).ok_or(Error::Environment { variable: name, why: "is missing".into() });
        let addressed = || {
            let attachment = Attachment { container_id: needed("CNI_CONTAINERID")?, if_name: needed("CNI_IFNAME")? };
            if !is_identifier(&attachment.container_id) {
                let why = format!("is `{}`: only letters, digits and `._-` are allowed", attachment.container_id);
                return Err(Error::Environment { variable: "CNI_CONTAINERID", why });
            }
            if !is_link_name(&attachment.if_name) {
                let why = format!("is `{}`, which no link can be called", attachment.if_name);
                return Err(Error::Environment { variable: "CNI_IFNAME", why });
            }
            Ok(AddressedTo { attachment, path: needed("CNI_PATH")?, args: variable("CNI_ARGS").unwrap_or_default() })
        };
        let netns = || needed("CNI_NETNS").map(PathBuf::from);
        match needed("CNI_COMMAND")?.as_str() {
            "ADD" => Ok(Self::Add(addressed()?, netns()?)),
            "DEL" => Ok(Self::Del(addressed()?, netns().ok())),
            "CHECK" => Ok(Self::Check(addressed()?, netns()?)),
            "GC" => Ok(Self::Gc { path: needed("CNI_PATH")? }),
            "STATUS" => Ok(Self::Status { path: needed("CNI_PATH")? }),
            "VERSION" => Ok(Self::Version),
            other => {
                Err(Error::Environment { variable: "CNI_COMMAND", why: format!("is `{other}`, which is no command") })
            }
        }
    }
}

fn is_link_name(name: &str) -> bool {
    name.len() <= IF_NAME_MAX
        && name != "."
        && name != ".."
        && !name.contains(|char: char| char.is_whitespace() || char == '/' || char == ':')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(changes: &[(&str, &str)]) -> Result<Invocation, Error> {
        let mut variables = std::collections::HashMap::from([
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "c1"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_NETNS", "/run/netns/n1"),
            ("CNI_PATH", "/opt/cni/bin"),
        ]);
        variables.extend(changes.iter().copied());
        Invocation::read(|name| variables.get(name).map(ToString::to_string))
    }

    #[test]
    fn each_command_asks_for_what_it_needs() {
        assert!(matches!(read(&[]), Ok(Invocation::Add(..))));
        assert!(matches!(read(&[("CNI_COMMAND", "DEL"), ("CNI_NETNS", "")]), Ok(Invocation::Del(_, None))));
        assert!(matches!(read(&[("CNI_COMMAND", "GC"), ("CNI_CONTAINERID", "")]), Ok(Invocation::Gc { .. })));
        assert!(matches!(read(&[("CNI_COMMAND", "VERSION"), ("CNI_PATH", "")]), Ok(Invocation::Version)));
    }

    #[test]
    fn wrong_variables_are_named_under_code_4() {
        let cases = [
            ("CNI_COMMAND", "UPDATE"),
            ("CNI_COMMAND", ""),
            ("CNI_CONTAINERID", "a/b"),
            ("CNI_IFNAME", "a-very-long-link-name"),
            ("CNI_IFNAME", ".."),
            ("CNI_NETNS", ""),
            ("CNI_PATH", ""),
        ];
        for (name, value) in cases {
            let error = read(&[(name, value)]).unwrap_err();
            assert_eq!(error.code(), 4);
            assert!(error.to_string().starts_with(name), "{error}");
        }
    }
}
