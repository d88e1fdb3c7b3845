//! The kinds of sandboxes in which scenarios take place.

use std::fmt;

use terrarium_testbed::{Deny, Gvisor, Platform, Privilege, RootKind};

/// A kind of sandbox. Written `2026-07/systrap/9p/full`, and with what is denied as in
/// `2026-07/systrap/9p/uid1000-mount-userns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// The build of gVisor.
    pub gvisor: Gvisor,
    /// How gVisor catches system calls.
    pub platform: Platform,
    /// What lies under the root.
    pub root: RootKind,
    /// The rights inside.
    pub privilege: Privilege,
    /// The rights that are taken away.
    pub deny: &'static [Deny],
}

const MOUNTS: &[Deny] = &[Deny::Mount, Deny::Userns];
const LINKS: &[Deny] = &[Deny::Links];

const BUILDS: [Gvisor; 3] = [Gvisor::V2026_07, Gvisor::V2026_02, Gvisor::V2024_07];

impl Kind {
    /// The one in which everything is tried that does not depend on the kind.
    pub const ORDINARY: Self = Self {
        gvisor: Gvisor::V2026_07,
        platform: Platform::Systrap,
        root: RootKind::NineP,
        privilege: Privilege::Full,
        deny: &[],
    };

    /// The full list; the ordinary kind comes first.
    pub fn all() -> Vec<Self> {
        let builds = || BUILDS.map(|gvisor| Self { gvisor, ..Self::ORDINARY }).into_iter();
        let with = |privilege| builds().map(move |kind| Self { privilege, ..kind });
        let mut all: Vec<Self> = builds().collect();
        all.extend(builds().map(|kind| Self { root: RootKind::Overlay, ..kind }));
        all.push(Self { platform: Platform::Ptrace, ..Self::ORDINARY });
        all.extend(with(Privilege::Docker).chain(with(Privilege::Uid1000)));
        all.extend(builds().map(|kind| Self { deny: MOUNTS, ..kind }));
        all.push(Self { privilege: Privilege::Uid1000, deny: MOUNTS, ..Self::ORDINARY });
        all.extend(builds().map(|kind| Self { deny: LINKS, ..kind }));
        all.push(Self { privilege: Privilege::Docker, deny: LINKS, ..Self::ORDINARY });
        all
    }

    /// Whether it is the ordinary kind but for the build.
    pub fn differs_in_build_only(&self) -> bool {
        Self { gvisor: Self::ORDINARY.gvisor, ..*self } == Self::ORDINARY
    }

    /// Whether everything is allowed inside.
    pub fn has_all_rights(&self) -> bool {
        self.privilege == Privilege::Full && self.deny.is_empty()
    }

    /// Whether the user inside is root.
    pub fn has_root(&self) -> bool {
        self.privilege != Privilege::Uid1000
    }

    /// Whether mounts can be made, if need be in a user namespace.
    pub fn can_mount(&self) -> bool {
        !MOUNTS.iter().all(|right| self.deny.contains(right))
    }

    /// Whether Pods have links of their own.
    pub fn has_links(&self) -> bool {
        !self.deny.contains(&Deny::Links)
    }

    /// What it is called in the name of a directory.
    pub(crate) fn directory(&self) -> String {
        self.to_string().replace('/', "-")
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.gvisor, self.platform, self.root, self.privilege)?;
        self.deny.iter().try_for_each(|right| write!(f, "-{right}"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_kind_stands_twice_and_the_ordinary_one_is_first() {
        let all = Kind::all();
        assert_eq!(all[0], Kind::ORDINARY);
        let names: BTreeSet<String> = all.iter().map(ToString::to_string).collect();
        assert_eq!(names.len(), all.len(), "{names:?}");
    }

    #[test]
    fn kinds_are_written_with_what_they_are_denied() {
        assert_eq!(Kind::ORDINARY.to_string(), "2026-07/systrap/9p/full");
        let denied = Kind { privilege: Privilege::Uid1000, deny: MOUNTS, ..Kind::ORDINARY };
        assert_eq!(denied.to_string(), "2026-07/systrap/9p/uid1000-mount-userns");
        assert!(!denied.can_mount() && Kind::ORDINARY.can_mount());
    }
}
