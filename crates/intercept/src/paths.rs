//! Where a path leads: as the kernel walks it, but with some directories being others.
//!
//! A path is walked *logically*: as if what is redirected were mounted where it is redirected from. `..` therefore leaves a
//! redirected directory for the parent of the name that the program used, and a link in there leads to where it says.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use crate::calls::Set;

/// As many as Linux follows (path_resolution(7)).
const MOST_LINKS: usize = 40;

/// A directory or file that stands for another one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Redirect {
    pub(crate) rule: usize,
    /// Without links.
    pub(crate) from: PathBuf,
    pub(crate) to: Target,
    pub(crate) calls: Set,
}

/// What it is instead.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// What is at this path, which has no links.
    Path(PathBuf),
    /// A file made by a rule; the number is its place among those.
    File(usize),
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Map {
    redirects: Vec<Redirect>,
    /// Paths that begin like these may be redirected: as they were written, and without links.
    interesting: Vec<PathBuf>,
    /// Whether any path is walked, since a link anywhere may lead to what is redirected.
    all_links: bool,
}

/// Where a logical path is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// There.
    Itself,
    /// At this other path, by this rule.
    At(usize, PathBuf),
    /// In a file made by this rule.
    File(usize, usize),
}

/// Whoever can read a link; none if there is no link.
pub(crate) trait Links {
    fn read(&self, path: &Path) -> Option<PathBuf>;
}

/// From where a path is walked. Both have no links.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start<'a> {
    /// What `/` is.
    pub(crate) root: &'a Path,
    /// Where a path begins that does not begin with `/`.
    pub(crate) base: &'a Path,
}

/// Where a path led.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Resolved {
    pub(crate) path: PathBuf,
    /// It ends with a slash: whatever is there has to be a directory.
    pub(crate) directory: bool,
    /// It led through what this rule redirects, so that the kernel itself may go another way.
    pub(crate) by: Option<usize>,
}

impl Map {
    /// `interesting` are the beginnings of paths besides those of the redirects that have to be looked at.
    pub(crate) fn new(mut redirects: Vec<Redirect>, mut interesting: Vec<PathBuf>, all_links: bool) -> Self {
        // The longest first: it is what a path is about.
        redirects.sort_by_key(|redirect| std::cmp::Reverse(redirect.from.as_os_str().len()));
        interesting.extend(redirects.iter().map(|redirect| redirect.from.clone()));
        interesting.sort();
        interesting.dedup();
        Self { redirects, interesting, all_links }
    }

    /// The calls for which something is redirected.
    pub(crate) fn calls(&self) -> Set {
        self.redirects.iter().fold(Set::default(), |set, redirect| set.union(redirect.calls))
    }

    /// Whether an absolute path has to be walked to know where it leads. If not, it is what it says, but for links.
    pub(crate) fn concerns(&self, path: &[u8]) -> bool {
        self.all_links
            || path.split(|byte| *byte == b'/').skip(1).any(|name| matches!(name, b"" | b"." | b".."))
            || self.interesting.iter().any(|beginning| {
                path.strip_prefix(beginning.as_os_str().as_bytes())
                    .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
            })
    }

    /// Where what a program calls `logical` is for a call.
    pub(crate) fn place(&self, logical: &Path, call: usize) -> Place {
        for redirect in self.redirects.iter().filter(|redirect| redirect.calls.has(call)) {
            let Ok(rest) = logical.strip_prefix(&redirect.from) else { continue };
            match &redirect.to {
                Target::Path(to) => return Place::At(redirect.rule, join(to, rest)),
                Target::File(file) if rest.as_os_str().is_empty() => return Place::File(redirect.rule, *file),
                Target::File(_) => {}
            }
        }
        Place::Itself
    }

    /// What a program calls the place where a redirect has led it, for a call: of a directory that it has opened, the kernel knows the
    /// place only. With the rule, if there is one.
    pub(crate) fn logical(&self, place: PathBuf, call: usize) -> (PathBuf, Option<usize>) {
        let of_call = self.redirects.iter().filter(|redirect| redirect.calls.has(call));
        let back = of_call.filter_map(|redirect| match &redirect.to {
            Target::Path(to) => Some((to, place.strip_prefix(to).ok()?, redirect)),
            Target::File(_) => None,
        });
        match back.max_by_key(|(to, _, _)| to.as_os_str().len()) {
            Some((_, rest, redirect)) => (join(&redirect.from, rest), Some(redirect.rule)),
            None => (place, None),
        }
    }

    /// Walks a path for a call. None: it has too many links.
    pub(crate) fn resolve(
        &self,
        start: Start<'_>,
        path: &[u8],
        follow: bool,
        call: usize,
        links: &impl Links,
    ) -> Option<Resolved> {
        let directory = path.ends_with(b"/") || path.ends_with(b"/.");
        let mut left: Vec<PathBuf> = Vec::new();
        push(&mut left, Path::new(OsStr::from_bytes(path)));
        let mut at = if path.starts_with(b"/") { start.root.to_path_buf() } else { start.base.to_path_buf() };
        let (mut followed, mut by) = (0, None);
        while let Some(name) = left.pop() {
            if name.as_os_str() == ".." {
                if at != start.root {
                    at.pop();
                }
                continue;
            }
            at.push(&name);
            let place = self.place(&at, call);
            if let Place::At(rule, _) | Place::File(rule, _) = place {
                by = Some(rule);
            }
            if left.is_empty() && !follow && !directory || self.is_known(&at) {
                continue;
            }
            let link = match place {
                Place::Itself => links.read(&at),
                Place::At(_, place) => links.read(&place),
                Place::File(..) => None,
            };
            if let Some(link) = link {
                followed += 1;
                if followed > MOST_LINKS {
                    return None;
                }
                if link.is_absolute() {
                    at = start.root.to_path_buf();
                } else {
                    at.pop();
                }
                push(&mut left, &link);
            }
        }
        Some(Resolved { path: at, directory, by })
    }

    /// Whether it is known from the rules that there is no link.
    fn is_known(&self, path: &Path) -> bool {
        self.redirects.iter().any(|redirect| redirect.from.starts_with(path))
    }
}

/// The components of a path, the first on top.
fn push(left: &mut Vec<PathBuf>, path: &Path) {
    let names = path.components().rev().filter_map(|component| match component {
        Component::Normal(name) => Some(PathBuf::from(name)),
        Component::ParentDir => Some(PathBuf::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    left.extend(names);
}

fn join(to: &Path, rest: &Path) -> PathBuf {
    // `join` with nothing would add a slash.
    if rest.as_os_str().is_empty() { to.to_path_buf() } else { to.join(rest) }
}

#[cfg(test)]
#[path = "paths_tests.rs"]
mod tests;
