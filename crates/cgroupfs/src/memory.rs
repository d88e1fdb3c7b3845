//! The figures of memory, as `Documentation/admin-guide/cgroup-v1/memory.rst` lays them out.
//!
//! A cgroup's are those of [`crate::usage`]. Nothing of it is a file's that could be given up, so all of it is active. The
//! root's are those of the whole sandbox, from /proc/meminfo: they have what was touched before there were cgroups, too.

use std::fmt::Write as _;
use std::path::Path;
use std::{fs, io};

use crate::usage::Held;

/// What `memory.stat` says of a cgroup, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Stat {
    cache: u64,
    rss: u64,
    shmem: u64,
    mapped_file: u64,
    inactive_anon: u64,
    active_anon: u64,
    inactive_file: u64,
    active_file: u64,
}

impl Stat {
    /// That of a cgroup. What is in tmpfs is cache, as with the kernel.
    pub fn held(held: Held) -> Self {
        let shmem = held.all.saturating_sub(held.rss);
        Self { cache: shmem, shmem, rss: held.rss, active_anon: held.all, ..Self::default() }
    }

    /// In the order of the kernel. What gVisor does not count is 0: faults, and pages on their way to a disk.
    fn rows(&self) -> [(&'static str, u64); 17] {
        [
            ("cache", self.cache),
            ("rss", self.rss),
            ("rss_huge", 0),
            ("shmem", self.shmem),
            ("mapped_file", self.mapped_file),
            ("dirty", 0),
            ("writeback", 0),
            ("swap", 0),
            ("pgpgin", 0),
            ("pgpgout", 0),
            ("pgfault", 0),
            ("pgmajfault", 0),
            ("inactive_anon", self.inactive_anon),
            ("active_anon", self.active_anon),
            ("inactive_file", self.inactive_file),
            ("active_file", self.active_file),
            ("unevictable", 0),
        ]
    }
}

/// The whole file: of the cgroup itself, its limit, and of it with all below.
pub(crate) fn stat(own: &Stat, limit: u64, total: &Stat) -> String {
    let mut text = String::new();
    for (name, value) in own.rows() {
        let _ = writeln!(text, "{name} {value}");
    }
    let _ = writeln!(text, "hierarchical_memory_limit {limit}");
    for (name, value) in total.rows() {
        let _ = writeln!(text, "total_{name} {value}");
    }
    text
}

/// The least limit of a cgroup and those above it, as the kernel writes it.
pub(crate) fn least_limit(cgroup: &Path, root: &Path) -> u64 {
    let above = cgroup.ancestors().take_while(|path| path.starts_with(root));
    above.filter_map(|path| limit(path).ok()).min().unwrap_or(NO_LIMIT)
}

/// The file that has a cgroup's limit.
pub(crate) const LIMIT: &str = "memory.limit_in_bytes";

/// The file that has what a cgroup is to be held to if there is little memory.
pub(crate) const SOFT_LIMIT: &str = "memory.soft_limit_in_bytes";

/// The limit that somebody writes, in whole pages (`page_counter_memparse` and `memparse` in the kernel, but decimal only);
/// -1 for none.
pub(crate) fn limit_of(text: &str) -> Option<u64> {
    let text = text.trim();
    if text == "-1" {
        return Some(NO_LIMIT);
    }
    let (digits, shift) = match text.char_indices().last()? {
        (end, unit) if !unit.is_ascii_digit() => {
            (&text[..end], 10 * (1 + "kmgtpe".find(unit.to_ascii_lowercase())? as u32))
        }
        _ => (text, 0),
    };
    let number = digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse::<u64>().ok())??;
    let page = rustix::param::page_size() as u64;
    Some((number.saturating_mul(1 << shift) / page * page).min(NO_LIMIT))
}

/// What the kernel has for no limit: as many whole pages as fit.
pub(crate) const NO_LIMIT: u64 = 0x7FFF_FFFF_FFFF_F000;

/// The limit of a cgroup, [`NO_LIMIT`] at most.
pub(crate) fn limit(cgroup: &Path) -> io::Result<u64> {
    crate::backing::number(&cgroup.join(LIMIT)).map(|limit| limit.min(NO_LIMIT))
}

/// What the whole sandbox holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sandbox {
    /// All, in bytes.
    pub usage: u64,
    /// Its parts.
    pub stat: Stat,
}

impl Sandbox {
    pub fn look() -> io::Result<Self> {
        fs::read_to_string("/proc/meminfo").map(|text| Self::parse(&text))
    }

    /// gVisor's own account (pkg/sentry/fsimpl/proc `meminfoData`): `AnonPages` has what is in tmpfs as well, and files are
    /// half active and half inactive by definition. All of them can be taken back, so all are inactive here.
    fn parse(meminfo: &str) -> Self {
        let value = |name: &str| {
            let rest = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let kilobytes = rest.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
            kilobytes.unwrap_or_default().saturating_mul(1024)
        };
        let shmem = value("Shmem");
        let files = value("Cached").saturating_sub(shmem);
        let private = value("AnonPages").saturating_sub(shmem);
        let stat = Stat {
            cache: files + shmem,
            rss: private,
            shmem,
            mapped_file: value("Mapped"),
            inactive_anon: 0,
            active_anon: private + shmem,
            inactive_file: files,
            active_file: 0,
        };
        Self { usage: value("MemTotal").saturating_sub(value("MemFree")), stat }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MEMINFO: &str = "\
MemTotal:        4030464 kB
MemFree:         3900000 kB
Cached:            30000 kB
AnonPages:        100000 kB
Mapped:            20000 kB
Shmem:             10000 kB
";

    #[test]
    fn limits_are_whole_pages_with_units() {
        for (text, limit) in [
            ("1048576\n", Some(1 << 20)),
            ("4097", Some(4096)),
            ("3K", Some(0)),
            ("4m", Some(4 << 20)),
            ("2G\n", Some(2 << 30)),
            ("-1\n", Some(NO_LIMIT)),
            ("9223372036854775807", Some(NO_LIMIT)),
            ("99999999E", Some(NO_LIMIT)),
            ("-5", None),
            ("+5", None),
            ("much", None),
            ("4 M", None),
            ("", None),
            ("4é", None),
        ] {
            assert_eq!(limit_of(text), limit, "{text:?}");
        }
    }

    #[test]
    fn the_sandbox_is_told_in_full() {
        let sandbox = Sandbox::parse(MEMINFO);
        assert_eq!(sandbox.usage, 130_464 << 10);
        assert_eq!((sandbox.stat.cache, sandbox.stat.rss), (30_000 << 10, 90_000 << 10));
        assert_eq!((sandbox.stat.inactive_file, sandbox.stat.active_anon), (20_000 << 10, 100_000 << 10));
    }

    #[test]
    fn the_file_is_as_the_kernel_writes_it() {
        let text = stat(&Stat::held(Held { all: 3, rss: 3 }), 8, &Stat::held(Held { all: 7, rss: 5 }));
        assert!(text.starts_with("cache 0\nrss 3\nrss_huge 0\n"), "{text}");
        assert!(text.contains("\nhierarchical_memory_limit 8\ntotal_cache 2\ntotal_rss 5\n"), "{text}");
        assert!(text.ends_with("\ntotal_unevictable 0\n"), "{text}");
        assert!(text.lines().all(|line| line.split(' ').count() == 2), "{text}");
    }

    #[test]
    fn the_least_limit_counts() {
        let root = tempfile::tempdir().unwrap();
        let below = root.path().join("pods/one");
        fs::create_dir_all(&below).unwrap();
        assert_eq!(least_limit(&below, root.path()), NO_LIMIT);
        fs::write(root.path().join("memory.limit_in_bytes"), "9223372036854775807\n").unwrap();
        fs::write(root.path().join("pods/memory.limit_in_bytes"), "4096\n").unwrap();
        fs::write(below.join("memory.limit_in_bytes"), "-1\n").unwrap();
        assert_eq!(least_limit(&below, root.path()), 4096);
        assert_eq!(least_limit(root.path(), root.path()), NO_LIMIT);
    }

    proptest! {
        #[test]
        fn any_meminfo_can_be_read(text in "(\\PC*\\n)*", value: u64) {
            Sandbox::parse(&text);
            Sandbox::parse(&format!("MemTotal: {value} kB\nCached: {value} kB\nAnonPages: {value} kB\nShmem: 1 kB\n"));
        }
    }
}
