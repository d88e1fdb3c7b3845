//! Users and groups between the kernel and this server. Linux says and takes them as they are numbered in the server's user
//! namespace; gVisor as they are numbered outside of all (pkg/sentry/fsimpl/fuse `CheckPermissions` takes them for KUIDs).
//! Which it is, is tried with the first mount.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::OnceLock;

/// A part of uid_map or gid_map (user_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    inside: u32,
    outside: u32,
    length: u32,
}

/// A user and a group.
pub(crate) type Owner = (u32, u32);

/// The maps, where they are to be used.
#[derive(Debug, Default)]
pub(crate) struct Ids(OnceLock<[Vec<Range>; 2]>);

impl Ids {
    /// Looks whether the owner of a directory is the same by FUSE as it is on its own file system.
    pub fn try_with(&self, fuse: &Path, own: &Path) -> io::Result<()> {
        let (seen, is) = (fs::metadata(fuse)?, fs::metadata(own)?);
        if (seen.uid(), seen.gid()) != (is.uid(), is.gid()) {
            let map = |file| fs::read_to_string(file).map(|text| parse(&text));
            // Another hierarchy's were the same.
            let _ = self.0.set([map("/proc/self/uid_map")?, map("/proc/self/gid_map")?]);
        }
        Ok(())
    }

    /// As the kernel is told.
    pub fn outside(&self, owner: Owner) -> Owner {
        self.each(owner, |range, id| Some(range.outside + within(range.inside, range.length, id)?))
    }

    /// As the kernel says.
    pub fn inside(&self, owner: Owner) -> Owner {
        self.each(owner, |range, id| Some(range.inside + within(range.outside, range.length, id)?))
    }

    fn each(&self, (uid, gid): Owner, map: impl Fn(&Range, u32) -> Option<u32>) -> Owner {
        let Some([users, groups]) = self.0.get() else { return (uid, gid) };
        let find = |ranges: &[Range], id| ranges.iter().find_map(|range| map(range, id)).unwrap_or(id);
        (find(users, uid), find(groups, gid))
    }
}

fn within(start: u32, length: u32, id: u32) -> Option<u32> {
    id.checked_sub(start).filter(|offset| *offset < length)
}

fn parse(map: &str) -> Vec<Range> {
    let range = |line: &str| {
        let mut numbers = line.split_whitespace().map(|word| word.parse().ok());
        Some(Range { inside: numbers.next()??, outside: numbers.next()??, length: numbers.next()?? })
    };
    map.lines().filter_map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_mapped_where_they_must_be() {
        let ids = Ids::default();
        assert_eq!((ids.outside((0, 0)), ids.inside((1000, 7))), ((0, 0), (1000, 7)));
        ids.0.set([parse("         0       1000          1\n"), parse("0 100 10\n10 5000 2\n")]).unwrap();
        assert_eq!(ids.outside((0, 11)), (1000, 5001));
        assert_eq!(ids.inside((1000, 5001)), (0, 11));
        assert_eq!(ids.inside((7, 7)), (7, 7), "who is not mapped stays who they are");
        assert_eq!(ids.outside((u32::MAX, u32::MAX)), (u32::MAX, u32::MAX));
    }

    #[test]
    fn one_owner_by_both_ways_needs_no_map() {
        let ids = Ids::default();
        ids.try_with(Path::new("/proc"), Path::new("/proc/self/..")).unwrap();
        assert!(ids.0.get().is_none());
    }
}
