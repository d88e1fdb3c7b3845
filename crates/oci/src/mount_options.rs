//! Options of mounts as mount(8) has them: flags, propagation, and what is left for the file system itself.

use nix::mount::MsFlags;
use oci_spec::runtime::Mount;

/// The options of one mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountOptions {
    /// The flags that are set, `MS_BIND` and `MS_REC` included.
    pub flags: MsFlags,
    /// Flags that are taken away from those of a bind mount's source.
    pub cleared: MsFlags,
    /// How mounts propagate, each a call of its own.
    pub propagation: Vec<MsFlags>,
    /// What the file system reads itself.
    pub data: Vec<String>,
}

/// An option, whether it clears its flags, and the flags.
const FLAGS: &[(&str, bool, MsFlags)] = &[
    ("async", true, MsFlags::MS_SYNCHRONOUS),
    ("atime", true, MsFlags::MS_NOATIME),
    ("bind", false, MsFlags::MS_BIND),
    ("defaults", false, MsFlags::empty()),
    ("dev", true, MsFlags::MS_NODEV),
    ("diratime", true, MsFlags::MS_NODIRATIME),
    ("dirsync", false, MsFlags::MS_DIRSYNC),
    ("exec", true, MsFlags::MS_NOEXEC),
    ("iversion", false, MsFlags::MS_I_VERSION),
    ("lazytime", false, MsFlags::MS_LAZYTIME),
    ("loud", true, MsFlags::MS_SILENT),
    ("mand", false, MsFlags::MS_MANDLOCK),
    ("noatime", false, MsFlags::MS_NOATIME),
    ("nodev", false, MsFlags::MS_NODEV),
    ("nodiratime", false, MsFlags::MS_NODIRATIME),
    ("noexec", false, MsFlags::MS_NOEXEC),
    ("noiversion", true, MsFlags::MS_I_VERSION),
    ("nolazytime", true, MsFlags::MS_LAZYTIME),
    ("nomand", true, MsFlags::MS_MANDLOCK),
    ("norelatime", true, MsFlags::MS_RELATIME),
    ("nostrictatime", true, MsFlags::MS_STRICTATIME),
    ("nosuid", false, MsFlags::MS_NOSUID),
    ("rbind", false, MsFlags::MS_BIND.union(MsFlags::MS_REC)),
    ("relatime", false, MsFlags::MS_RELATIME),
    ("remount", false, MsFlags::MS_REMOUNT),
    ("ro", false, MsFlags::MS_RDONLY),
    ("rw", true, MsFlags::MS_RDONLY),
    ("silent", false, MsFlags::MS_SILENT),
    ("strictatime", false, MsFlags::MS_STRICTATIME),
    ("suid", true, MsFlags::MS_NOSUID),
    ("sync", false, MsFlags::MS_SYNCHRONOUS),
];

const PROPAGATION: &[(&str, MsFlags)] = &[
    ("private", MsFlags::MS_PRIVATE),
    ("rprivate", MsFlags::MS_PRIVATE.union(MsFlags::MS_REC)),
    ("rshared", MsFlags::MS_SHARED.union(MsFlags::MS_REC)),
    ("rslave", MsFlags::MS_SLAVE.union(MsFlags::MS_REC)),
    ("runbindable", MsFlags::MS_UNBINDABLE.union(MsFlags::MS_REC)),
    ("shared", MsFlags::MS_SHARED),
    ("slave", MsFlags::MS_SLAVE),
    ("unbindable", MsFlags::MS_UNBINDABLE),
];

/// Options of runc and of mount_setattr(2) that would do something else if a file system got them.
const UNSUPPORTED: &[&str] = &[
    "idmap",
    "ridmap",
    "tmpcopyup",
    "rro",
    "rrw",
    "rnosuid",
    "rsuid",
    "rnodev",
    "rdev",
    "rnoexec",
    "rexec",
    "rnoatime",
    "ratime",
    "rnodiratime",
    "rdiratime",
    "rrelatime",
    "rnorelatime",
    "rstrictatime",
    "rnostrictatime",
    "rnosymfollow",
    "rsymfollow",
    "nosymfollow",
    "symfollow",
];

/// The flags for a kind of propagation, by its name.
pub(crate) fn propagation(name: &str) -> Option<MsFlags> {
    PROPAGATION.iter().find(|(known, _)| *known == name).map(|(_, flags)| *flags)
}

/// Every option that has a meaning of its own, sorted.
pub(crate) fn known() -> Vec<String> {
    let mut names: Vec<_> = FLAGS
        .iter()
        .map(|(name, ..)| *name)
        .chain(PROPAGATION.iter().map(|(name, _)| *name))
        .map(str::to_owned)
        .collect();
    names.sort();
    names
}

impl MountOptions {
    /// The options of a mount, or what is wrong with them. The type `bind` is the option `bind`.
    pub fn of(mount: &Mount) -> Result<Self, String> {
        let mut options =
            Self { flags: MsFlags::empty(), cleared: MsFlags::empty(), propagation: Vec::new(), data: Vec::new() };
        for option in mount.options().iter().flatten() {
            if UNSUPPORTED.contains(&option.as_str()) {
                return Err(format!("{option} is not supported"));
            }
            options.add(option);
        }
        if mount.typ().as_deref() == Some("bind") && !options.is_bind() {
            options.flags |= MsFlags::MS_BIND;
        }
        if options.is_bind() && mount.source().is_none() {
            return Err("a bind mount needs a source".to_owned());
        }
        Ok(options)
    }

    fn add(&mut self, option: &str) {
        if let Some((_, clears, flags)) = FLAGS.iter().find(|(name, ..)| *name == option) {
            let (to, from) =
                if *clears { (&mut self.cleared, &mut self.flags) } else { (&mut self.flags, &mut self.cleared) };
            to.insert(*flags);
            from.remove(*flags);
        } else if let Some(flags) = propagation(option) {
            self.propagation.push(flags);
        } else if !option.is_empty() {
            self.data.push(option.to_owned());
        }
    }

    /// Whether the mount shows what is mounted elsewhere.
    pub fn is_bind(&self) -> bool {
        self.flags.contains(MsFlags::MS_BIND)
    }

    /// The flags without those that say what kind of mount it is.
    pub fn attributes(&self) -> MsFlags {
        self.flags.difference(MsFlags::MS_BIND | MsFlags::MS_REC | MsFlags::MS_REMOUNT)
    }
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::MountBuilder;

    use super::*;

    fn options(of: &[&str]) -> Result<MountOptions, String> {
        let of: Vec<_> = of.iter().map(|option| (*option).to_owned()).collect();
        let mount = MountBuilder::default().destination("/x").source("/y").typ("none").options(of).build();
        MountOptions::of(&mount.expect("a mount"))
    }

    #[test]
    fn the_last_option_counts() {
        let read_only = options(&["rw", "ro"]).expect("known");
        assert!(read_only.flags.contains(MsFlags::MS_RDONLY) && read_only.cleared.is_empty());
        let writable = options(&["ro", "rw"]).expect("known");
        assert!(writable.flags.is_empty() && writable.cleared.contains(MsFlags::MS_RDONLY));
    }

    #[test]
    fn what_is_not_known_is_for_the_file_system() {
        let all = options(&["nosuid", "mode=1777", "rslave", "size=64k", "rbind"]).expect("known");
        assert_eq!(all.data, ["mode=1777", "size=64k"]);
        assert_eq!(all.propagation, [MsFlags::MS_SLAVE | MsFlags::MS_REC]);
        assert!(all.is_bind() && all.attributes() == MsFlags::MS_NOSUID);
    }

    #[test]
    fn options_that_are_not_supported_are_refused() {
        assert_eq!(options(&["ro", "idmap"]).expect_err("refused"), "idmap is not supported");
    }
}
