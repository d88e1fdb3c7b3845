//! What one process has in memory.

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

/// Those of a process by what they are of, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Pages {
    /// No file: nobody else has them.
    pub private: u64,
    /// Mapped files.
    pub files: u64,
}

impl Pages {
    /// Those of a process. This takes far longer than [`resident`].
    pub fn of(pid: i32) -> Self {
        fs::read_to_string(format!("/proc/{pid}/smaps")).map_or_else(|_| Self::default(), |text| Self::parse(&text))
    }

    /// proc_pid_smaps(5); gVisor's are in pkg/sentry/mm/procfs.go.
    fn parse(smaps: &str) -> Self {
        let mut pages = Self::default();
        let (mut of_file, mut resident) = (false, 0_u64);
        for line in smaps.lines() {
            let mut words = line.split_whitespace();
            let Some(first) = words.next() else { continue };
            if !first.ends_with(':') {
                let name = words.nth(4).unwrap_or_default();
                of_file = name.starts_with('/') && !is_shared_memory(name);
                resident = 0;
                continue;
            }
            let bytes = words.next().and_then(|word| word.parse::<u64>().ok()).unwrap_or_default().saturating_mul(1024);
            match first {
                "Rss:" => resident = bytes,
                "Anonymous:" => {
                    let private = if of_file { bytes } else { resident };
                    pages.private = pages.private.saturating_add(private);
                    pages.files = pages.files.saturating_add(resident.saturating_sub(private));
                }
                _ => {}
            }
        }
        pages
    }
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
";
        assert_eq!(Pages::parse(smaps), Pages { private: (4 + 96 + 512) << 10, files: 1020 << 10 });
    }

    proptest! {
        #[test]
        fn anything_can_be_read(text in "(\\PC*\\n)*") {
            resident_pages(&text);
            Pages::parse(&text);
        }
    }
}
