//! What becomes of a call with a path. Nothing is changed here.
//!
//! A path is read once. If it leads where nothing is redirected, the call goes on with the program's own: whoever changes it
//! in between, another thread of the program, gets around a rule, as it could by not being traced. Rules are there for
//! programs that want them, and keep nobody from anything.

use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use nix::libc;
use terrarium_sys::trace::Registers;

use crate::calls::{Deed, Flags, PathCall, argument};
use crate::memory::{self, PATH_MAX};
use crate::paths::{Links, Place, Start};
use crate::tracer::Tracer;
use crate::window::HOW;

pub(crate) enum Decision {
    /// The call goes on as it is.
    Untouched,
    /// It fails at once.
    Fail { rule: usize, errno: i32 },
    /// It goes on with another path.
    Change { rule: usize, change: Change },
}

/// What is put in the place of a call's arguments.
pub(crate) struct Change {
    pub(crate) path: Vec<u8>,
    /// Instead of the argument with flags.
    pub(crate) flags: Option<u64>,
    /// Instead of the `struct open_how`.
    pub(crate) how: Option<[u8; HOW]>,
    /// Instead of the call itself.
    pub(crate) number: Option<i64>,
}

/// What a call says about its path.
struct Said {
    flags: i32,
    how: Option<[u8; HOW]>,
}

/// Where a path led.
pub(crate) struct Led {
    /// By the names that the program uses.
    pub(crate) path: PathBuf,
    directory: bool,
    /// The kernel itself would go elsewhere, because of this rule.
    by: Option<usize>,
    root: PathBuf,
}

impl Tracer<'_> {
    pub(crate) fn decide(&self, pid: i32, registers: &Registers, index: usize, call: &PathCall) -> Decision {
        let Some(path) = memory::read_string(pid, argument(registers, call.path)) else { return Decision::Untouched };
        let directory = call.directory.map_or(libc::AT_FDCWD, |index| descriptor(registers, index));
        let has_root = self.has_root(pid);
        if path.starts_with(b"/") && !has_root && !self.rules.map.concerns(&path) {
            return Decision::Untouched;
        }
        let Some(said) = said(pid, registers, call) else { return Decision::Untouched };
        let Some(led) = self.lead(pid, directory, &path, follows(call.deed, said.flags), index, false) else {
            return Decision::Untouched;
        };
        match (self.rules.map.place(&led.path, index), led.by) {
            (Place::Itself, None) => Decision::Untouched,
            (Place::Itself, Some(rule)) => elsewhere(rule, &led.path, &led),
            (Place::At(rule, place), _) => elsewhere(rule, &place, &led),
            (Place::File(rule, file), _) => self.made(rule, file, &led, call, registers, said),
        }
    }

    pub(crate) fn has_root(&self, pid: i32) -> bool {
        self.known(pid).is_some_and(|thread| thread.process.has_root.get())
    }

    /// Walks the path of a call. None: it is the kernel's to say what is wrong with it, or, unless that is to be known always,
    /// it leads where no redirect is about.
    pub(crate) fn lead(
        &self,
        pid: i32,
        directory: i32,
        path: &[u8],
        follow: bool,
        index: usize,
        always: bool,
    ) -> Option<Led> {
        let map = &self.rules.map;
        if path.is_empty() {
            return None;
        }
        let root = if self.has_root(pid) { read_link(pid, "root")? } else { PathBuf::from("/") };
        let mut by = None;
        let mut base = root.clone();
        if !path.starts_with(b"/") {
            let place = if directory == libc::AT_FDCWD {
                read_link(pid, "cwd")
            } else {
                read_link(pid, &format!("fd/{directory}"))
            }?;
            (base, by) = map.logical(place, index);
            let mut whole = base.as_os_str().as_bytes().to_vec();
            whole.push(b'/');
            whole.extend_from_slice(path);
            if !always && by.is_none() && !self.has_root(pid) && !map.concerns(&whole) {
                return None;
            }
        }
        let start = Start { root: &root, base: &base };
        let resolved = map.resolve(start, path, follow, index, &Seen { thread: pid, root: &root })?;
        Some(Led { path: resolved.path, directory: resolved.directory, by: by.or(resolved.by), root })
    }

    /// The call finds a file that a rule has made: a regular one that may be read.
    fn made(
        &self,
        rule: usize,
        file: usize,
        led: &Led,
        call: &PathCall,
        registers: &Registers,
        mut said: Said,
    ) -> Decision {
        if led.root != Path::new("/") {
            return Decision::Untouched;
        }
        let fail = |errno| Decision::Fail { rule, errno };
        let mut number = None;
        match call.deed {
            Deed::ReadLink => return fail(libc::EINVAL),
            Deed::Open if said.flags & (libc::O_CREAT | libc::O_EXCL) == libc::O_CREAT | libc::O_EXCL => {
                return fail(libc::EEXIST);
            }
            Deed::Open if said.flags & (libc::O_ACCMODE | libc::O_TRUNC) != 0 && said.flags & libc::O_PATH == 0 => {
                return fail(libc::EACCES);
            }
            // It is a link in /proc that leads there, which the program does not know.
            Deed::Open => said.flags &= !(libc::O_NOFOLLOW | libc::O_CREAT | libc::O_EXCL),
            Deed::Access => {
                let mode = call.mode.map_or(0, |index| descriptor(registers, index));
                if mode & (libc::W_OK | libc::X_OK) != 0 {
                    return fail(libc::EACCES);
                }
                said.flags &= !libc::AT_SYMLINK_NOFOLLOW;
            }
            Deed::Stat => {
                number = call.following;
                said.flags &= !libc::AT_SYMLINK_NOFOLLOW;
            }
        }
        let path = with_slash(self.files[file].path().into_bytes(), led);
        let flags = matches!(call.flags, Flags::Argument(_)).then_some(u64::from(said.flags.cast_unsigned()));
        if let Some(how) = &mut said.how {
            // A mode goes with O_CREAT alone.
            how.fill(0);
            how[..8].copy_from_slice(&u64::from(said.flags.cast_unsigned()).to_ne_bytes());
        }
        Decision::Change { rule, change: Change { path, flags, how: said.how, number } }
    }
}

fn elsewhere(rule: usize, place: &Path, led: &Led) -> Decision {
    // What is outside its root a process cannot be led to.
    let Ok(inside) = place.strip_prefix(&led.root) else { return Decision::Untouched };
    let path = with_slash(Path::new("/").join(inside).into_os_string().into_vec(), led);
    if path.len() >= PATH_MAX {
        return Decision::Fail { rule, errno: libc::ENAMETOOLONG };
    }
    Decision::Change { rule, change: Change { path, flags: None, how: None, number: None } }
}

fn with_slash(mut path: Vec<u8>, led: &Led) -> Vec<u8> {
    if led.directory && path != b"/" {
        path.push(b'/');
    }
    path
}

/// The kernel takes the lower half of these.
fn descriptor(registers: &Registers, index: usize) -> i32 {
    argument(registers, index) as i32
}

/// None: what the call says cannot be read, or forbids that its path leads elsewhere.
fn said(pid: i32, registers: &Registers, call: &PathCall) -> Option<Said> {
    match call.flags {
        Flags::Always(flags) => Some(Said { flags, how: None }),
        Flags::Argument(index) => Some(Said { flags: descriptor(registers, index), how: None }),
        Flags::How(index) => {
            let how: [u8; HOW] = memory::read(pid, argument(registers, index))?;
            let (flags, rest) = how.split_first_chunk::<8>()?;
            let resolve = rest.last_chunk::<8>()?;
            let is_plain = *resolve == [0; 8] && argument(registers, index + 1) == HOW as u64;
            let flags = i32::try_from(u64::from_ne_bytes(*flags)).ok()?;
            is_plain.then_some(Said { flags, how: Some(how) })
        }
    }
}

fn follows(deed: Deed, flags: i32) -> bool {
    let new = libc::O_CREAT | libc::O_EXCL;
    match deed {
        Deed::Open => flags & libc::O_NOFOLLOW == 0 && flags & new != new,
        Deed::Stat | Deed::Access => flags & libc::AT_SYMLINK_NOFOLLOW == 0,
        Deed::ReadLink => false,
    }
}

/// Where a thread's link in /proc leads, if that is a path.
pub(crate) fn read_link(pid: i32, name: &str) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/{name}")).ok().filter(|path| path.is_absolute())
}

/// Links as this thread sees them.
struct Seen<'a> {
    thread: i32,
    root: &'a Path,
}

impl Links for Seen<'_> {
    fn read(&self, path: &Path) -> Option<PathBuf> {
        let Self { thread, root } = self;
        // These are about whoever reads them.
        let process = || status(*thread, "Tgid:").map(|process| PathBuf::from(process.to_string()));
        let inside = path.strip_prefix(root).unwrap_or(path);
        let (own, rest) = match (inside.strip_prefix("proc/self"), inside.strip_prefix("proc/thread-self")) {
            (Ok(rest), _) => (process()?, rest),
            (_, Ok(rest)) => (process()?.join("task").join(thread.to_string()), rest),
            _ => return std::fs::read_link(path).ok(),
        };
        if rest.as_os_str().is_empty() {
            Some(own)
        } else {
            std::fs::read_link(Path::new("/proc").join(own).join(rest)).ok()
        }
    }
}

/// A number that is said of a thread (proc_pid_status(5)).
pub(crate) fn status(thread: i32, field: &str) -> Option<i32> {
    let [number] = statuses(thread, [field]);
    number
}

/// Several, from one look.
pub(crate) fn statuses<const N: usize>(thread: i32, fields: [&str; N]) -> [Option<i32>; N] {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    fields.map(|field| status.lines().find_map(|line| line.strip_prefix(field)?.trim().parse().ok()))
}
