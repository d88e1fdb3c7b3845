//! A hierarchy as a FUSE file system.
//!
//! The thread that takes requests answers those that are quick; what takes looking at many processes goes to the pool.
//!
//! gVisor asks for a file's size before each read that passes it, and reads no further (pkg/sentry/fsimpl/fuse
//! `regularFileFD.PRead`), so it is told the length of what is to be read. It also keeps no pages, so that nothing is to be
//! known of what is opened and closed, and it need not tell (ENOSYS to open). A kernel that keeps some is told not to
//! (`FOPEN_DIRECT_IO`).

use std::ffi::OsStr;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use crate::bell::Bell;
use crate::ids::Ids;
use crate::inodes::{Entry, Inodes, Kind, Node, ROOT};
use crate::memory::LIMIT;
use crate::pool::Pool;
use crate::readers::part;
use crate::tree::Tree;

/// How long the kernel may believe what it was told of a name and of attributes: far longer than cAdvisor takes to come back.
/// All changes come through the mount, and the kernel knows of them by itself. Only those that somebody makes behind it are
/// seen so late; the sandbox's own files, and what is made from them, then say so when they are read.
const BELIEVED: Duration = Duration::from_secs(600);
/// The number of a file that nobody has looked up yet (`FUSE_UNKNOWN_INO`).
const UNKNOWN: u64 = 0xFFFF_FFFF;
/// The size of files that are not open: what sysfs says, too.
const SIZE: u64 = 4096;

/// The file system of one hierarchy.
pub(crate) struct CgroupFs {
    tree: Arc<Tree>,
    inodes: Arc<Mutex<Inodes>>,
    /// Whether the kernel keeps pages, for which it has to know of what is opened.
    keeps_pages: bool,
    pool: Pool,
    /// Told of new cgroups and of limits.
    bell: Bell,
    ids: Arc<Ids>,
}

impl CgroupFs {
    pub fn new(tree: Arc<Tree>, pool: Pool, bell: Bell, ids: Arc<Ids>) -> Self {
        let inodes = Arc::new(Mutex::new(Inodes::new(&tree.hierarchy.backing)));
        Self { tree, inodes, keeps_pages: true, pool, bell, ids }
    }

    fn inodes(&self) -> MutexGuard<'_, Inodes> {
        locked(&self.inodes)
    }

    /// What a number stands for. A removed cgroup's numbers stand for nothing; the kernel says ENODEV then.
    fn node(&self, number: INodeNo) -> Result<Node, Errno> {
        self.inodes().get(number.0).cloned().ok_or(Errno::ENODEV)
    }

    /// What has a name in a cgroup.
    fn entry(&self, parent: INodeNo, name: &OsStr) -> Result<FileAttr, Errno> {
        let path = self.node(parent)?.path.join(name);
        let (kind, metadata) = self.tree.find(&path).inspect_err(|error| {
            // It may have been removed behind the mount.
            if error.kind() == io::ErrorKind::NotFound && self.inodes().number(&path).is_some() {
                self.inodes().remove(&path);
                self.tree.forget(&path);
            }
        })?;
        let node = Node { path, kind };
        let number = self.inodes().look_up(&node);
        Ok(self.told(attributes(number, &node, metadata)?))
    }

    fn attributes(&self, number: INodeNo) -> Result<FileAttr, Errno> {
        let node = self.node(number)?;
        let metadata = match node.kind {
            Kind::Added(_) => None,
            _ => Some(fs::symlink_metadata(&node.path)?),
        };
        Ok(self.told(attributes(number.0, &node, metadata)?))
    }

    /// Attributes with the owner as the kernel knows them, which is told them.
    fn told(&self, mut attributes: FileAttr) -> FileAttr {
        (attributes.uid, attributes.gid) = self.ids.outside((attributes.uid, attributes.gid));
        self.inodes().tell(attributes);
        attributes
    }

    fn make(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32) -> Result<FileAttr, Errno> {
        let path = self.node(parent)?.path.join(name);
        DirBuilder::new().mode(mode).create(&path)?;
        // It is the user's who made it.
        let own = fs::symlink_metadata(&path)?;
        let (uid, gid) = self.ids.inside((request.uid(), request.gid()));
        if (own.uid(), own.gid()) != (uid, gid) {
            // Whoever tries again finds nothing half made.
            chown(&path, Some(uid), Some(gid)).inspect_err(|_| drop(fs::remove_dir(&path)))?;
        }
        self.tree.created(&path);
        self.bell.ring();
        self.entry(parent, name)
    }

    fn entries(&self, directory: INodeNo) -> Result<Vec<Entry>, Errno> {
        let node = self.node(directory)?;
        let mut entries = vec![
            Entry { number: directory.0, kind: FileType::Directory, name: ".".into() },
            Entry { number: ROOT, kind: FileType::Directory, name: "..".into() },
        ];
        let number = |name: &OsStr| self.inodes().number(&node.path.join(name)).unwrap_or(UNKNOWN);
        for entry in fs::read_dir(&node.path)? {
            let entry = entry?;
            let kind = if entry.file_type()?.is_dir() { FileType::Directory } else { FileType::RegularFile };
            entries.push(Entry { number: number(&entry.file_name()), kind, name: entry.file_name() });
        }
        let has = |name: &str| entries.iter().any(|entry| entry.name == name);
        for (_, name) in self.tree.lacking(&node.path, has) {
            let kind = FileType::RegularFile;
            entries.push(Entry { number: number(name.as_ref()), kind, name: name.into() });
        }
        Ok(entries)
    }

    fn change(&self, number: INodeNo, mode: Option<u32>, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
        if mode.is_none() && uid.is_none() && gid.is_none() {
            return Ok(());
        }
        let node = self.node(number)?;
        if let Kind::Added(_) = node.kind {
            return Err(Errno::EPERM);
        }
        if uid.is_some() || gid.is_some() {
            // chown(2): this one stays.
            const STAYS: u32 = u32::MAX;
            let (uid, gid) = self.ids.inside((uid.unwrap_or(STAYS), gid.unwrap_or(STAYS)));
            chown(&node.path, Some(uid), Some(gid))?;
        }
        if let Some(mode) = mode {
            fs::set_permissions(&node.path, fs::Permissions::from_mode(mode & 0o7777))?;
        }
        self.inodes().tell_anew(&node.path);
        Ok(())
    }

    /// Does something with what a file says: at once or, if it takes long to tell, later.
    fn with_content(
        &self,
        number: INodeNo,
        job: impl FnOnce(Result<Arc<[u8]>, Errno>, &Mutex<Inodes>) + Send + 'static,
    ) {
        let node = match self.node(number) {
            Ok(node) => node,
            Err(error) => return job(Err(error), &self.inodes),
        };
        let (tree, inodes) = (Arc::clone(&self.tree), Arc::clone(&self.inodes));
        let is_slow = tree.is_slow(&node);
        let job = move || job(tree.read(&node).map(Arc::from).map_err(Errno::from), &inodes);
        if is_slow { self.pool.run(job) } else { job() }
    }
}

fn locked(inodes: &Mutex<Inodes>) -> MutexGuard<'_, Inodes> {
    inodes.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Those of a file. Added ones belong to whom their cgroup belongs.
fn attributes(number: u64, node: &Node, metadata: Option<fs::Metadata>) -> Result<FileAttr, Errno> {
    let (metadata, mode) = match (metadata, node.kind) {
        (Some(metadata), _) => {
            let mode = metadata.mode();
            (metadata, mode)
        }
        (None, Kind::Added(added)) => {
            let cgroup = node.path.parent().unwrap_or(Path::new("/"));
            (fs::symlink_metadata(cgroup)?, added.mode().into())
        }
        (None, _) => return Err(Errno::ENOENT),
    };
    let at = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    let is_cgroup = node.kind == Kind::Cgroup;
    Ok(FileAttr {
        ino: INodeNo(number),
        size: if is_cgroup { 0 } else { SIZE },
        blocks: 0,
        atime: at,
        mtime: at,
        ctime: at,
        crtime: at,
        kind: if is_cgroup { FileType::Directory } else { FileType::RegularFile },
        perm: (mode & 0o7777) as u16,
        nlink: if is_cgroup { u32::try_from(metadata.nlink()).unwrap_or(2) } else { 1 },
        uid: metadata.uid(),
        gid: metadata.gid(),
        rdev: 0,
        blksize: SIZE as u32,
        flags: 0,
    })
}

fn answer_entry(reply: ReplyEntry, entry: Result<FileAttr, Errno>) {
    match entry {
        Ok(attributes) => reply.entry(&BELIEVED, &attributes, Generation(0)),
        Err(error) => reply.error(error),
    }
}

fn answer_attributes(reply: ReplyAttr, answer: Result<FileAttr, Errno>) {
    match answer {
        Ok(attributes) => reply.attr(&BELIEVED, &attributes),
        Err(error) => reply.error(error),
    }
}

impl Filesystem for CgroupFs {
    /// Who keeps pages reads ahead.
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        self.keeps_pages = config.capabilities().contains(InitFlags::FUSE_ASYNC_READ);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        answer_entry(reply, self.entry(parent, name));
    }

    fn forget(&self, _: &Request, number: INodeNo, lookups: u64) {
        self.inodes().forget(number.0, lookups);
    }

    /// With a handle it is asked before and after a read, for the length. All that is told of the beginning is a length that
    /// will do: a longer content comes in parts, as the kernel's own come in pages.
    fn getattr(&self, request: &Request, number: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        if handle.is_none() {
            return answer_attributes(reply, self.attributes(number));
        }
        let known = self.inodes().told(number.0);
        let known = match known.map_or_else(|| self.attributes(number), Ok) {
            Ok(known) => known,
            Err(error) => return reply.error(error),
        };
        let thread = request.pid();
        let (told, longest) = match self.inodes().text(number.0) {
            Some(text) => (text.just_told(thread), text.longest() as u64),
            None => (None, 0),
        };
        let Some(told) = told else {
            // It is about to begin, or to go on after a while.
            return reply.attr(&BELIEVED, &FileAttr { size: known.size.max(longest), ..known });
        };
        // Most likely it was told all, and looks whether there is more; but it may begin again.
        self.with_content(number, move |content, _| {
            let size = content.map_or(0, |content| content.len()).max(told.len()) as u64;
            reply.attr(&BELIEVED, &FileAttr { size, ..known });
        });
    }

    /// Times are the sandbox's own, and no file has a length that could be cut.
    fn setattr(
        &self,
        _: &Request,
        number: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        _: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let changed = self.change(number, mode, uid, gid);
        answer_attributes(reply, changed.and_then(|()| self.attributes(number)));
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        answer_entry(reply, self.make(request, parent, name, mode & !umask & 0o7777));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let removed = self.node(parent).and_then(|node| {
            let path = node.path.join(name);
            self.tree.remove(&path)?;
            self.inodes().remove(&path);
            Ok(())
        });
        answer_nothing(reply, removed);
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        if self.keeps_pages {
            reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH);
        } else {
            reply.error(Errno::ENOSYS);
        }
    }

    fn read(
        &self,
        request: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let thread = request.pid();
        let said = self.inodes().text(number.0).and_then(|text| text.at(thread, offset));
        if let Some(content) = said {
            return reply.data(part(&content, offset, size));
        }
        self.with_content(number, move |content, inodes| match content {
            Ok(content) => {
                if let Some(text) = locked(inodes).text(number.0) {
                    text.tell(thread, Arc::clone(&content));
                }
                reply.data(part(&content, offset, size));
            }
            Err(error) => reply.error(error),
        });
    }

    fn write(
        &self,
        request: &Request,
        number: INodeNo,
        _: FileHandle,
        _: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let node = match self.node(number) {
            Ok(node) => node,
            Err(error) => return reply.error(error),
        };
        let (tree, bell, data, writer) = (Arc::clone(&self.tree), self.bell.clone(), data.to_owned(), request.pid());
        // Processes may have to be looked at, for which gVisor asks this thread of its mounts.
        let is_slow = tree.is_slow_to_write(&node);
        let job = move || match tree.write(&node, &data, writer) {
            Ok(taken) => {
                if node.path.ends_with(LIMIT) {
                    bell.ring();
                }
                reply.written(u32::try_from(taken).unwrap_or(u32::MAX));
            }
            Err(error) => reply.error(error.into()),
        };
        if is_slow { self.pool.run(job) } else { job() }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    /// Once it need not tell of files, gVisor does not tell when a directory is closed either.
    fn readdir(&self, request: &Request, number: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let thread = request.pid();
        let said = self.inodes().entries(number.0).and_then(|entries| entries.at(thread, offset));
        let told_anew = || {
            let entries: Arc<[Entry]> = self.entries(number)?.into();
            if let Some(readers) = self.inodes().entries(number.0) {
                readers.tell(thread, Arc::clone(&entries));
            }
            Ok(entries)
        };
        let entries = match said.map_or_else(told_anew, Ok) {
            Ok(entries) => entries,
            Err(error) => return reply.error(error),
        };
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        for (entry, next) in entries.iter().zip(1..).skip(from) {
            if reply.add(INodeNo(entry.number), next, entry.kind, &entry.name) {
                break;
            }
        }
        reply.ok();
    }

    // No build of gVisor has more for its own cgroups, and Linux has none of it.

    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        reply.ok();
    }

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        reply.error(Errno::EOPNOTSUPP);
    }

    fn listxattr(&self, _: &Request, _: INodeNo, _: u32, reply: ReplyXattr) {
        reply.error(Errno::EOPNOTSUPP);
    }

    fn setxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: &[u8], _: i32, _: u32, reply: ReplyEmpty) {
        reply.error(Errno::EOPNOTSUPP);
    }

    fn create(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: i32, reply: fuser::ReplyCreate) {
        reply.error(Errno::EACCES);
    }

    fn mknod(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(Errno::EPERM);
    }

    fn unlink(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EPERM);
    }

    fn symlink(&self, _: &Request, _: INodeNo, _: &OsStr, _: &Path, reply: ReplyEntry) {
        reply.error(Errno::EPERM);
    }

    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(Errno::EPERM);
    }

    fn rename(&self, _: &Request, _: INodeNo, _: &OsStr, _: INodeNo, _: &OsStr, _: RenameFlags, reply: ReplyEmpty) {
        reply.error(Errno::EPERM);
    }
}

fn answer_nothing(reply: ReplyEmpty, done: Result<(), Errno>) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}
