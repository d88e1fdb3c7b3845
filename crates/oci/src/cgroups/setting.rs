//! Values for the files of a cgroup.

use std::io;

use super::directory::Directory;
use crate::error::Doing;
use crate::{Error, Result};

/// A value for a file of a controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Version 2 has them all in one directory.
    pub controller: &'static str,
    pub file: String,
    pub value: String,
    /// What asks for it, such as `linux.resources.cpu.shares`.
    pub field: String,
}

/// Settings as they are put together: what is not asked for is passed over.
#[derive(Debug, Default)]
pub struct Settings(pub Vec<Setting>);

impl Settings {
    /// `field` is below `linux.resources`.
    pub fn add(&mut self, controller: &'static str, file: impl Into<String>, value: impl ToString, field: &str) {
        let field = format!("linux.resources.{field}");
        self.0.push(Setting { controller, file: file.into(), value: value.to_string(), field });
    }

    /// The same if there is a value that is not 0, which stands for none in runc as well.
    pub fn add_some<T: ToString + Default + PartialEq>(
        &mut self,
        controller: &'static str,
        file: &str,
        value: Option<T>,
        field: &str,
    ) {
        if let Some(value) = value.filter(|value| *value != T::default()) {
            self.add(controller, file, value, field);
        }
    }
}

/// Writes them, each where `place` says.
///
/// A setting without a place, or whose file the kernel does not have, is refused, but where `may_lack` it is a warning,
/// which this returns. The kernel checks some values against others (quota and period, memory with and without swap): what
/// it refuses at first, it takes once the other one is set.
pub fn write_all<'a>(
    settings: &[Setting],
    place: impl Fn(&Setting) -> Option<&'a Directory>,
    may_lack: bool,
) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    let mut refused = Vec::new();
    for setting in settings {
        let Some(directory) = place(setting) else {
            lacking(setting, format!("there is no {} controller", setting.controller), may_lack, &mut warnings)?;
            continue;
        };
        match directory.try_write(&setting.file, &setting.value) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                lacking(setting, format!("the kernel has no {}", setting.file), may_lack, &mut warnings)?;
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => refused.push((setting, directory)),
            Err(error) => return Err(error).doing_with(|| doing(setting, directory)),
        }
    }
    for (setting, directory) in refused {
        directory.try_write(&setting.file, &setting.value).doing_with(|| doing(setting, directory))?;
    }
    Ok(warnings)
}

fn doing(setting: &Setting, directory: &Directory) -> String {
    format!("write {} to {} ({})", setting.value, directory.path().join(&setting.file).display(), setting.field)
}

fn lacking(setting: &Setting, problem: String, may_lack: bool, warnings: &mut Vec<String>) -> Result<()> {
    if !may_lack {
        return Err(Error::spec(&setting.field, problem));
    }
    warnings.push(format!("{}: {problem}; not set", setting.field));
    Ok(())
}
