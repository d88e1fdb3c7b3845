//! Figures of one moment, for who reads the files of a cgroup one after the other.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long that moment lasts.
pub(crate) const MOMENT: Duration = Duration::from_millis(100);

/// Figures by their cgroups.
#[derive(Debug)]
pub(crate) struct Recent<T>(Mutex<HashMap<PathBuf, (Instant, T)>>);

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Copy> Recent<T> {
    /// That of a cgroup, if it was found a moment ago.
    pub fn get(&self, cgroup: &Path) -> Option<T> {
        self.table().get(cgroup).filter(|(when, _)| when.elapsed() < MOMENT).map(|(_, figure)| *figure)
    }

    /// That of a cgroup, which is found now unless it was a moment ago.
    pub fn get_or(&self, cgroup: &Path, find: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if let Some(figure) = self.get(cgroup) {
            return Ok(figure);
        }
        let figure = find()?;
        let mut table = self.table();
        table.retain(|_, (when, _)| when.elapsed() < MOMENT);
        table.insert(cgroup.to_owned(), (Instant::now(), figure));
        Ok(figure)
    }

    /// There is another cgroup by that name, or none.
    pub fn forget(&self, cgroup: &Path) {
        self.table().remove(cgroup);
    }

    /// None is as it was.
    pub fn clear(&self) {
        self.table().clear();
    }

    fn table(&self) -> MutexGuard<'_, HashMap<PathBuf, (Instant, T)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_found_once_in_a_moment() {
        let recent = Recent::default();
        let (one, other) = (Path::new("/one"), Path::new("/other"));
        assert!(recent.get_or(one, || Err(io::ErrorKind::NotFound.into())).is_err());
        assert_eq!(recent.get_or(one, || Ok(7)).unwrap(), 7);
        let found = |when| recent.table().values_mut().for_each(|(found, _)| *found = when);
        found(Instant::now() + Duration::from_secs(60));
        assert_eq!((recent.get_or(one, || Ok(8)).unwrap(), recent.get(one), recent.get(other)), (7, Some(7), None));
        found(Instant::now() - MOMENT);
        assert_eq!((recent.get(one), recent.get_or(one, || Ok(9)).unwrap()), (None, 9));
    }
}
