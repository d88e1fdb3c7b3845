//! The program: found as execvp(3) would, and executed.

use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::AccessFlags;
use oci_spec::runtime::Process;

use super::user;
use crate::error::Doing as _;
use crate::{Error, Result};

/// A program with its arguments and environment, ready to be executed.
#[derive(Debug)]
pub(super) struct Program {
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
}

impl Program {
    /// Finds it, as the user that the process has become: what that one may not execute is not found.
    pub fn find(process: &Process) -> Result<Self> {
        let args = process.args().as_deref().unwrap_or_default();
        let name = args.first().ok_or_else(|| Error::spec("process.args", "must not be empty"))?;
        let mut env = process.env().clone().unwrap_or_default();
        let path = look_up(name, variable(&env, "PATH").unwrap_or_default())?;
        if variable(&env, "HOME").is_none_or(str::is_empty) {
            env.retain(|line| !line.starts_with("HOME="));
            env.push(format!("HOME={}", user::home(process.user().uid())));
        }
        let text = |text: &str| CString::new(text).map_err(|_| Error::spec("process", "holds a NUL"));
        Ok(Self {
            path: CString::new(path.as_os_str().as_bytes())
                .map_err(|_| Error::spec("process.args[0]", "holds a NUL"))?,
            args: args.iter().map(|arg| text(arg)).collect::<Result<_>>()?,
            env: env.iter().map(|line| text(line)).collect::<Result<_>>()?,
        })
    }

    /// Becomes it.
    pub fn execute(self) -> Result<Infallible> {
        nix::unistd::execve(&self.path, &self.args, &self.env)
            .doing_with(|| format!("exec {:?}", self.path.to_string_lossy()))
    }
}

/// The last of several counts, as in Go.
fn variable<'a>(env: &'a [String], name: &str) -> Option<&'a str> {
    env.iter().rev().find_map(|line| line.split_once('=').filter(|(known, _)| *known == name).map(|(_, value)| value))
}

fn look_up(name: &str, search: &str) -> Result<PathBuf> {
    let failed = |error: Errno| Error::System { operation: format!("exec {name:?}"), source: error.into() };
    if name.contains('/') {
        return executable(Path::new(name)).map(|()| name.into()).map_err(failed);
    }
    let mut refused = None;
    for directory in std::env::split_paths(search) {
        // An empty one is the working directory; a program there has to be named by a path, as in Go.
        let path = directory.join(name);
        match executable(&path) {
            Ok(()) if path.is_absolute() => return Ok(path),
            Err(Errno::EACCES) => refused = Some(Errno::EACCES),
            _ => {}
        }
    }
    Err(refused.map_or_else(
        || Error::System {
            operation: format!("exec {name:?}"),
            source: io::Error::new(io::ErrorKind::NotFound, "executable file not found in $PATH"),
        },
        failed,
    ))
}

fn executable(path: &Path) -> nix::Result<()> {
    let kind = nix::sys::stat::stat(path)?.st_mode & nix::sys::stat::SFlag::S_IFMT.bits();
    if kind == nix::sys::stat::SFlag::S_IFDIR.bits() {
        return Err(Errno::EISDIR);
    }
    match nix::unistd::eaccess(path, AccessFlags::X_OK) {
        // A filter that is in force already may not know the call (faccessat2). Then execve(2) will say.
        Err(Errno::EPERM) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_in_the_path() {
        assert!(look_up("sh", "/nowhere:/bin").is_ok_and(|path| path == Path::new("/bin/sh")));
        assert!(look_up("/bin/sh", "").is_ok());
    }

    #[test]
    fn what_cannot_be_executed_says_why() {
        let chain = |name: &str, search: &str| look_up(name, search).expect_err("not found").chain();
        assert_eq!(chain("none", "/bin:"), "exec \"none\": executable file not found in $PATH");
        assert!(chain("/bin/none", "").starts_with("exec \"/bin/none\": No such file or directory"));
        assert!(chain("/etc/passwd", "").starts_with("exec \"/etc/passwd\": Permission denied"));
        assert!(chain("/etc", "").starts_with("exec \"/etc\": Is a directory"));
        assert!(chain("passwd", "/etc").starts_with("exec \"passwd\": Permission denied"));
    }

    #[test]
    fn the_last_variable_of_a_name_counts() {
        let env = ["A=1", "AB=2", "A=3", "B"].map(str::to_owned);
        assert_eq!(variable(&env, "A"), Some("3"));
        assert_eq!(variable(&env, "B"), None);
    }
}
