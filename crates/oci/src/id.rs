//! Names of containers.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use crate::{Error, Result};

/// The name of a container: letters, digits, `+`, `-`, `.` and `_`, as runc has it; never `.` or `..`. So it is safe as
/// a file name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerId(String);

impl FromStr for ContainerId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let legal = |letter: char| letter.is_ascii_alphanumeric() || "+-._".contains(letter);
        if text.is_empty() || text.len() > 1024 || text == "." || text == ".." || !text.chars().all(legal) {
            return Err(Error::spec("container ID", format!("{text:?} is not made of letters, digits, +, -, . and _")));
        }
        Ok(Self(text.to_owned()))
    }
}

impl ContainerId {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl AsRef<Path> for ContainerId {
    fn as_ref(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_one_file_name() {
        for good in ["a", "0-9_.+z", "...", "d41d8cd98f00b204e9800998ecf8427e"] {
            assert_eq!(good.parse::<ContainerId>().expect(good).as_str(), good);
        }
        for bad in ["", ".", "..", "a/b", "a b", "ä", "a\0"] {
            assert!(bad.parse::<ContainerId>().is_err(), "{bad:?}");
        }
    }
}
