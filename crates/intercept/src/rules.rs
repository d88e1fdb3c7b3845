//! The rules, as a file says them.

use std::io;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use crate::calls::{CALLS, Kind, Set};
use crate::error::Error;
use crate::paths::{Map, Redirect, Target};

/// The file: JSON, in which nothing may be that is not known.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    statfs: Vec<StatfsRule>,
    #[serde(default)]
    redirect: Vec<RedirectRule>,
    #[serde(default)]
    files: Vec<FileRule>,
    uname: Option<UnameRule>,
    #[serde(default)]
    follow_all_links: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StatfsRule {
    from: Number,
    to: Number,
    #[serde(default)]
    below: Vec<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RedirectRule {
    from: PathBuf,
    to: PathBuf,
    calls: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileRule {
    path: PathBuf,
    content: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UnameRule {
    release: Option<String>,
    version: Option<String>,
}

/// The magic number of a file system, `61267` or `"0xEF53"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Number(u64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a magic number such as \"0xEF53\" or 61267")]
        enum Written {
            Number(u32),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Number(number) => Ok(Self(number.into())),
            Written::Text(text) => text
                .strip_prefix("0x")
                .and_then(|digits| u32::from_str_radix(digits, 16).ok())
                .map(|number| Self(number.into()))
                .ok_or_else(|| D::Error::custom(format!("{text:?} is no magic number such as \"0xEF53\""))),
        }
    }
}

/// What is changed, checked.
#[derive(Debug)]
pub struct Rules {
    /// What each is called in the figures.
    pub(crate) labels: Vec<String>,
    pub(crate) magic: Vec<Magic>,
    pub(crate) map: Map,
    /// What the files hold that rules make, with the paths that they are at.
    pub(crate) files: Vec<Vec<u8>>,
    pub(crate) names: Option<Names>,
}

/// Another type of a file system.
#[derive(Debug)]
pub(crate) struct Magic {
    pub(crate) rule: usize,
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// Where alone; anywhere if none is given.
    pub(crate) below: Vec<PathBuf>,
}

impl Magic {
    pub(crate) fn is_at(&self, place: Option<&Path>) -> bool {
        self.below.is_empty() || place.is_some_and(|place| self.below.iter().any(|below| place.starts_with(below)))
    }
}

/// Another kernel, to uname(2).
#[derive(Debug)]
pub(crate) struct Names {
    pub(crate) rule: usize,
    pub(crate) release: Option<String>,
    pub(crate) version: Option<String>,
}

/// As much as a field of `struct utsname` holds, without its end.
const LONGEST_NAME: usize = 64;

/// Why a field is wrong.
type Wrong = (String, String);

impl Rules {
    /// Reads the file.
    ///
    /// # Errors
    /// It cannot be read, or a rule is wrong.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read(path).map_err(|source| Error::Unreadable { path: path.into(), source })?;
        let wrong = |(at, why)| Error::Rule { path: path.into(), at, why };
        let mut json = serde_json::Deserializer::from_slice(&text);
        let document: Document = serde_path_to_error::deserialize(&mut json)
            .map_err(|error| wrong((place(error.path()), error.inner().to_string())))?;
        json.end().map_err(|error| wrong(("after the rules".to_owned(), error.to_string())))?;
        Self::check(document).map_err(wrong)
    }

    fn check(document: Document) -> Result<Self, Wrong> {
        let mut labels = Vec::new();
        let mut label = |label: String| {
            labels.push(label);
            labels.len() - 1
        };
        let mut interesting = Vec::new();
        let mut redirects: Vec<Redirect> = Vec::new();
        let mut magic = Vec::new();
        for (index, rule) in document.statfs.into_iter().enumerate() {
            magic.push(magic_of(&format!("statfs[{index}]"), rule, &mut label)?);
        }
        let paths = Set::of(|call| matches!(call.kind, Kind::Path(_)));
        for (index, rule) in document.redirect.into_iter().enumerate() {
            let at = format!("redirect[{index}]");
            let from = place_of(&format!("{at}.from"), &rule.from)?;
            check_path(&format!("{at}.to"), &rule.to)?;
            let to = std::fs::canonicalize(&rule.to)
                .map_err(|error| (format!("{at}.to"), format!("{}: {error}; it has to be there", rule.to.display())))?;
            if to.starts_with(&from) {
                return Err((format!("{at}.to"), format!("{} is below what is redirected", to.display())));
            }
            let calls = rule.calls.map_or(Ok(paths), |names| calls(&format!("{at}.calls"), &names))?;
            let number = label(format!("redirect {}", rule.from.display()));
            redirects.push(Redirect { rule: number, from, to: Target::Path(to), calls });
            interesting.push(rule.from.components().collect());
        }
        let mut files = Vec::new();
        for (index, rule) in document.files.into_iter().enumerate() {
            let from = place_of(&format!("files[{index}].path"), &rule.path)?;
            let number = label(format!("file {}", rule.path.display()));
            let to = Target::File(files.len());
            redirects.push(Redirect { rule: number, from, to, calls: paths });
            interesting.push(rule.path.components().collect());
            files.push(rule.content.into_bytes());
        }
        let names = document.uname.map(|rule| names_of(rule, &mut label)).transpose()?;
        for (index, redirect) in redirects.iter().enumerate() {
            if redirects[..index].iter().any(|other| other.from == redirect.from) {
                let why = format!("{} is given twice; leave one out", redirect.from.display());
                return Err(("redirect and files".to_owned(), why));
            }
        }
        if labels.is_empty() {
            let why = "there is no rule; give some of statfs, redirect, files and uname".to_owned();
            return Err(("rules".to_owned(), why));
        }
        Ok(Self { labels, magic, map: Map::new(redirects, interesting, document.follow_all_links), files, names })
    }

    /// The calls that have to stop.
    pub(crate) fn calls(&self) -> Set {
        let mut set = self.map.calls();
        if set != Set::default() || self.magic.iter().any(|magic| !magic.below.is_empty()) {
            set = set.union(Set::of(|call| call.kind == Kind::Root));
        }
        if !self.magic.is_empty() {
            set = set.union(Set::of(|call| matches!(call.kind, Kind::Statfs | Kind::Fstatfs)));
        }
        if self.names.is_some() {
            set = set.union(Set::of(|call| call.kind == Kind::Uname));
        }
        set
    }

    /// The numbers of the system calls that stop, for measuring what a filter for them costs.
    pub fn numbers(&self) -> Vec<i64> {
        self.calls().numbers().collect()
    }
}

/// Where in the file; its syntax may be wrong anywhere.
fn place(path: &serde_path_to_error::Path) -> String {
    match path.to_string().as_str() {
        "." | "?" => "rules".to_owned(),
        place => place.to_owned(),
    }
}

fn magic_of(at: &str, rule: StatfsRule, label: &mut impl FnMut(String) -> usize) -> Result<Magic, Wrong> {
    let (Number(from), Number(to)) = (rule.from, rule.to);
    if from == to {
        return Err((format!("{at}.to"), "it is the same as from".to_owned()));
    }
    let place_below = |(index, path): (usize, &PathBuf)| match path.as_path() {
        root if root == Path::new("/") => Ok(root.to_owned()),
        path => place_of(&format!("{at}.below[{index}]"), path),
    };
    let below = rule.below.iter().enumerate().map(place_below).collect::<Result<_, _>>()?;
    let places: String = rule.below.iter().map(|path| format!(" {}", path.display())).collect();
    let rule = label(format!("statfs {from:#x} as {to:#x}{places}"));
    Ok(Magic { rule, from, to, below })
}

fn names_of(rule: UnameRule, label: &mut impl FnMut(String) -> usize) -> Result<Names, Wrong> {
    for (field, name) in [("uname.release", &rule.release), ("uname.version", &rule.version)] {
        if name.as_ref().is_some_and(|name| name.len() > LONGEST_NAME || name.contains('\0')) {
            return Err((field.to_owned(), format!("it may have {LONGEST_NAME} bytes, none of them 0")));
        }
    }
    if rule.release.is_none() && rule.version.is_none() {
        return Err(("uname".to_owned(), "it changes nothing; give release or version".to_owned()));
    }
    Ok(Names { rule: label("uname".to_owned()), release: rule.release, version: rule.version })
}

fn check_path(at: &str, path: &Path) -> Result<(), Wrong> {
    let plain = path.components().all(|each| matches!(each, Component::RootDir | Component::Normal(_)));
    if !path.is_absolute() || !plain || path == Path::new("/") || path.to_string_lossy().contains('\0') {
        let why = format!("{:?} is no absolute path without . and .. and below /", path.display().to_string());
        return Err((at.to_owned(), why));
    }
    Ok(())
}

fn calls(at: &str, names: &[String]) -> Result<Set, Wrong> {
    let known = Set::of(|call| matches!(call.kind, Kind::Path(_)) && names.iter().any(|name| name == call.name));
    let is_known = |name: &&String| CALLS.iter().any(|call| call.name == **name && matches!(call.kind, Kind::Path(_)));
    match names.iter().find(|name| !is_known(name)) {
        None if names.is_empty() => Err((at.to_owned(), "no call is named; leave it out for all".to_owned())),
        None => Ok(known),
        Some(unknown) => {
            let all: Vec<&str> =
                CALLS.iter().filter(|call| matches!(call.kind, Kind::Path(_))).map(|call| call.name).collect();
            Err((at.to_owned(), format!("no such call as {unknown:?}; there are {}", all.join(", "))))
        }
    }
}

fn place_of(at: &str, path: &Path) -> Result<PathBuf, Wrong> {
    check_path(at, path)?;
    without_links(path).map_err(|error| (at.to_owned(), format!("{}: {error}", path.display())))
}

/// The path as the kernel would name it, as far as it is there; but /proc/self and /proc/thread-self, which are about
/// whoever reads them, stay.
fn without_links(path: &Path) -> io::Result<PathBuf> {
    let missing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let real = match (std::fs::canonicalize(path), path.parent(), path.file_name()) {
        (Ok(real), ..) => real,
        (Err(error), Some(parent), Some(name)) if missing(&error) => without_links(parent)?.join(name),
        // The tracer may not look there; the program may.
        (Err(error), ..) if error.kind() == io::ErrorKind::PermissionDenied => path.components().collect(),
        (Err(error), ..) => return Err(error),
    };
    for link in ["/proc/thread-self", "/proc/self"] {
        if let Ok(own) = std::fs::canonicalize(link)
            && let Ok(rest) = real.strip_prefix(own)
        {
            return Ok(Path::new(link).components().chain(rest.components()).collect());
        }
    }
    Ok(real)
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
