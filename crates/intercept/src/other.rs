//! On other machines than x86-64: a refusal.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use crate::Error;

/// There are none.
#[derive(Debug)]
pub struct Rules(());

impl Rules {
    /// # Errors
    /// Always.
    pub fn read(_: &Path) -> Result<Self, Error> {
        Err(Error::Architecture)
    }
}

/// # Errors
/// Always.
pub fn run(_: &Rules, _: &OsStr, _: &[OsString], _: Option<&Path>) -> Result<u8, Error> {
    Err(Error::Architecture)
}
