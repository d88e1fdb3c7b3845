//! A hierarchy as a FUSE file system.
//!
//! The thread that takes requests answers those that are quick; what takes looking at many processes goes to the pool.
//!
//! gVisor asks for a file's size before each read that passes it, and reads no further (pkg/sentry/fsimpl/fuse
//! `regularFileFD.PRead`), so an open file's content is fixed first, and its length told. The kernel's own way, to ask for
//! no size at all, is asked for as well (`FOPEN_DIRECT_IO`).

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use crate::backing::read_open;
use crate::bell::Bell;
use crate::handles::{Handles, Text, part};
use crate::ids::Ids;
use crate::inodes::{Inodes, Kind, Node, ROOT};
use crate::memory::LIMIT;
use crate::pool::Pool;
use crate::tree::Tree;

/// How long the kernel may believe what it was told of a name and of attributes: longer than cAdvisor takes to come back.
/// All changes come through the mount, and the kernel knows of them by itself. Only those that somebody makes behind it are
/// seen so late; a file of a cgroup that is gone then says so when it is opened.
const BELIEVED: Duration = Duration::from_secs(60);
/// The number of a file that nobody has looked up yet (`FUSE_UNKNOWN_INO`).
const UNKNOWN: u64 = 0xFFFF_FFFF;
/// The size of files that are not open: what sysfs says, too.
const SIZE: u64 = 4096;

/// The file system of one hierarchy.
pub(crate) struct CgroupFs {
    tree: Arc<Tree>,
    inodes: Mutex<Inodes>,
    files: Arc<Handles<File>>,
    directories: Handles<Vec<Entry>>,
    pool: Pool,
    /// Told of new cgroups and of limits.
    bell: Bell,
    ids: Arc<Ids>,
}

struct File {
    node: Node,
    text: Mutex<Text>,
    /// The sandbox's own file, if it is read.
    own: Option<fs::File>,
}

struct Entry {
    number: u64,
    kind: FileType,
    name: OsString,
}

impl File {
    /// What it says is fixed now. What cannot be read, though it is there, says so when it is read.
    fn open(node: Node, tree: &Tree, flags: OpenFlags) -> io::Result<Self> {
        let is_read = !matches!(flags.acc_mode(), OpenAccMode::O_WRONLY);
        let own = match node.kind {
            Kind::Own if is_read => Some(fs::File::open(&node.path)?),
            _ => None,
        };
        let file = Self { node, text: Mutex::default(), own };
        if is_read && let Ok(content) = file.read(tree) {
            *file.text() = Text::new(content);
        }
        Ok(file)
    }

    fn read(&self, tree: &Tree) -> io::Result<Vec<u8>> {
        self.own.as_ref().map_or_else(|| tree.read(&self.node), read_open)
    }

    fn text(&self) -> MutexGuard<'_, Text> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CgroupFs {
    pub fn new(tree: Arc<Tree>, pool: Pool, bell: Bell, ids: Arc<Ids>) -> Self {
        let inodes = Mutex::new(Inodes::new(&tree.hierarchy.backing));
        Self { tree, inodes, files: Arc::default(), directories: Handles::default(), pool, bell, ids }
    }

    fn inodes(&self) -> MutexGuard<'_, Inodes> {
        self.inodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a number stands for. A removed cgroup's numbers stand for nothing; the kernel says ENODEV then.
    fn node(&self, number: INodeNo) -> Result<Node, Errno> {
        self.inodes().get(number.0).cloned().ok_or(Errno::ENODEV)
    }

    /// What has a name in a cgroup.
    fn entry(&self, parent: INodeNo, name: &OsStr) -> Result<FileAttr, Errno> {
        let path = self.node(parent)?.path.join(name);
        let (kind, metadata) = self.tree.find(&path)?;
        let node = Node { path, kind };
        let number = self.inodes().look_up(&node);
        Ok(self.told(attributes(number, &node, metadata)?))
    }

    /// Those of an open file are as the kernel was told them last, but for the length: it asks before each read.
    fn attributes(&self, number: INodeNo, handle: Option<FileHandle>) -> Result<FileAttr, Errno> {
        let size = handle.and_then(|handle| self.files.get(handle.0)?.text().len());
        let known = size.and_then(|size| Some(FileAttr { size, ..self.inodes().told(number.0)? }));
        if let Some(known) = known {
            return Ok(known);
        }
        let node = self.node(number)?;
        let metadata = match node.kind {
            Kind::Added(_) => None,
            _ => Some(fs::symlink_metadata(&node.path)?),
        };
        let attributes = self.told(attributes(number.0, &node, metadata)?);
        Ok(FileAttr { size: size.unwrap_or(attributes.size), ..attributes })
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
            chown(&path, Some(uid), Some(gid))?;
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

    /// Does it now, or has it done if it takes long.
    fn at_its_time(&self, is_slow: bool, job: impl FnOnce() + Send + 'static) {
        if is_slow { self.pool.run(job) } else { job() }
    }
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
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        answer_entry(reply, self.entry(parent, name));
    }

    fn forget(&self, _: &Request, number: INodeNo, lookups: u64) {
        self.inodes().forget(number.0, lookups);
    }

    fn getattr(&self, _: &Request, number: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr) {
        answer_attributes(reply, self.attributes(number, handle));
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
        handle: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let changed = self.change(number, mode, uid, gid);
        answer_attributes(reply, changed.and_then(|()| self.attributes(number, handle)));
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

    fn open(&self, _: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let node = match self.node(number) {
            Ok(node) => node,
            Err(error) => return reply.error(error),
        };
        let (tree, files) = (Arc::clone(&self.tree), Arc::clone(&self.files));
        self.at_its_time(tree.is_slow(&node), move || {
            let file = match File::open(node, &tree, flags) {
                Ok(file) => file,
                Err(error) => return reply.error(error.into()),
            };
            let handle = files.open(file);
            reply.opened(FileHandle(handle), FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH);
        });
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some(file) = self.files.get(handle.0) else { return reply.error(Errno::EBADF) };
        let said = file.text().at(offset);
        if let Some(content) = said {
            return reply.data(part(&content, offset, size));
        }
        let tree = Arc::clone(&self.tree);
        self.at_its_time(tree.is_slow(&file.node), move || match file.read(&tree) {
            Ok(content) => reply.data(part(&file.text().renew(content), offset, size)),
            Err(error) => reply.error(error.into()),
        });
    }

    fn write(
        &self,
        request: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let Some(file) = self.files.get(handle.0) else { return reply.error(Errno::EBADF) };
        match self.tree.write(&file.node, data, request.pid()) {
            Ok(taken) => {
                if file.node.path.ends_with(LIMIT) {
                    self.bell.ring();
                }
                reply.written(u32::try_from(taken).unwrap_or(u32::MAX));
            }
            Err(error) => reply.error(error.into()),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
        self.files.close(handle.0);
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn opendir(&self, _: &Request, number: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.entries(number) {
            Ok(entries) => reply.opened(FileHandle(self.directories.open(entries)), FopenFlags::empty()),
            Err(error) => reply.error(error),
        }
    }

    fn readdir(&self, _: &Request, _: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let Some(entries) = self.directories.get(handle.0) else { return reply.error(Errno::EBADF) };
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        for (entry, next) in entries.iter().zip(1..).skip(from) {
            if reply.add(INodeNo(entry.number), next, entry.kind, &entry.name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(&self, _: &Request, _: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        reply.ok();
        self.directories.close(handle.0);
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
