//! What one process has in memory.

use std::collections::{BTreeMap, HashSet};
use std::fs;

/// All pages of a process, in bytes: its own, shared ones, and those of mapped files. Nothing when it has ended.
pub(crate) fn resident(pid: i32) -> u64 {
    let text = crate::backing::read(format!("/proc/{pid}/statm").as_ref()).unwrap_or_default();
    resident_pages(&text).unwrap_or_default().saturating_mul(rustix::param::page_size() as u64)
}

/// The second number (proc_pid_statm(5)).
fn resident_pages(statm: &str) -> Option<u64> {
    statm.split(' ').nth(1)?.parse().ok()
}

/// A file: its device and its inode's number, as proc_pid_maps(5) has them.
type Identity = (String, String);

/// Those of processes by what they are of, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Pages {
    /// No file at all.
    anonymous: u64,
    /// Files that are memory themselves. Several processes may have the same pages of one, too.
    memory: BTreeMap<Identity, u64>,
    /// Mapped files. Several processes may have the same pages of one, which are there once.
    files: BTreeMap<Identity, u64>,
}

impl Pages {
    /// Those that no file has, from which they could be read again.
    pub fn private(&self) -> u64 {
        self.anonymous.saturating_add(sum(&self.memory))
    }

    /// Those of files.
    pub fn files(&self) -> u64 {
        sum(&self.files)
    }

    /// Adds those of a process. This takes far longer than [`resident`].
    pub fn add(&mut self, pid: i32) {
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        self.add_from(&read("smaps"), &tmpfs_devices(&read("mountinfo")));
    }

    /// proc_pid_smaps(5); gVisor's are in pkg/sentry/mm/procfs.go.
    fn add_from(&mut self, smaps: &str, memory: &HashSet<&str>) {
        let mut found = [BTreeMap::<Identity, u64>::new(), BTreeMap::new()];
        let (mut file, mut resident) = (None, 0_u64);
        for line in smaps.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let Some(first) = words.first() else { continue };
            if !first.ends_with(':') {
                file = match words[..] {
                    [_, _, _, device, inode, name, ..] if name.starts_with('/') => {
                        let is_memory = is_shared_memory(name) || memory.contains(device);
                        Some((usize::from(is_memory), (device.to_owned(), inode.to_owned())))
                    }
                    _ => None,
                };
                resident = 0;
                continue;
            }
            let bytes = words.get(1).and_then(|word| word.parse::<u64>().ok()).unwrap_or_default().saturating_mul(1024);
            match (*first, &file) {
                ("Rss:", _) => resident = bytes,
                ("Anonymous:", Some((kind, file))) => {
                    self.anonymous = self.anonymous.saturating_add(bytes);
                    let pages = found[*kind].entry(file.clone()).or_default();
                    *pages = pages.saturating_add(resident.saturating_sub(bytes));
                }
                ("Anonymous:", None) => self.anonymous = self.anonymous.saturating_add(resident),
                _ => {}
            }
        }
        for (all, found) in [&mut self.files, &mut self.memory].into_iter().zip(found) {
            for (file, bytes) in found {
                let most = all.entry(file).or_default();
                *most = bytes.max(*most);
            }
        }
    }
}

fn sum(files: &BTreeMap<Identity, u64>) -> u64 {
    files.values().fold(0, |sum, bytes| sum.saturating_add(*bytes))
}

/// The devices of file systems whose files are memory (proc_pid_mountinfo(5)).
fn tmpfs_devices(mountinfo: &str) -> HashSet<&str> {
    let is_tmpfs = |line: &&str| line.split_once(" - ").is_some_and(|(_, rest)| rest.starts_with("tmpfs "));
    mountinfo.lines().filter(is_tmpfs).filter_map(|line| line.split(' ').nth(2)).collect()
}

/// Names of mappings that are memory all the same.
fn is_shared_memory(name: &str) -> bool {
    ["/dev/zero", "/dev/shm/", "/memfd:", "/SYSV"].iter().any(|memory| name.starts_with(memory))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_second_number_is_what_is_resident() {
        assert_eq!(resident_pages("3000 1200 0 0 0 0 0\n"), Some(1200));
        assert_eq!(resident_pages(""), None);
        assert_eq!(resident(i32::MAX), 0);
        assert!(resident(i32::try_from(std::process::id()).unwrap()) > 0);
    }

    #[test]
    fn pages_of_files_are_told_from_others() {
        let smaps = "\
00400000-00500000 r-xp 00000000 00:0a 7                                  /bin/program
Rss:                1024 kB
Anonymous:             4 kB
00700000-00800000 rw-p 00000000 00:00 0                                  [heap]
Rss:                  96 kB
Anonymous:            96 kB
00900000-00a00000 rw-s 00000000 00:05 9                                  /memfd:cache (deleted)
Rss:                 512 kB
Anonymous:             0 kB
00b00000-00c00000 rw-s 00000000 00:1f 3                                  /cache/in-memory
Rss:                 256 kB
Anonymous:             0 kB
";
        let mountinfo = "20 1 00:0a / / rw - 9p none rw\n31 20 00:1f / /cache rw - tmpfs none rw\n";
        let mut pages = Pages::default();
        for _ in 0..2 {
            pages.add_from(smaps, &tmpfs_devices(mountinfo));
        }
        assert_eq!(
            pages.private(),
            (2 * (4 + 96) + 512 + 256) << 10,
            "two processes share the pages of a file in memory"
        );
        assert_eq!(pages.files(), 1020 << 10, "and of another one");
    }

    proptest! {
        #[test]
        fn anything_can_be_read(text in "(\\PC*\\n)*") {
            resident_pages(&text);
            Pages::default().add_from(&text, &tmpfs_devices(&text));
        }
    }
}
