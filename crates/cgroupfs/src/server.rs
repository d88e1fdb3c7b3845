//! Mounting, serving, unmounting.

use std::fs::{self, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use fuser::{Session, SessionACL};
use nix::sys::stat::{Mode, umask};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::{info, warn};

use crate::backing::MEMBERS;
use crate::bell::Bell;
use crate::error::Doing as _;
use crate::fs::CgroupFs;
use crate::guard::Guard;
use crate::ids::Ids;
use crate::kept::Kept;
use crate::pool::Pool;
use crate::stir::Recovery;
use crate::tree::Tree;
use crate::{Config, Error, Hierarchy, Result, STACK, mounts};

/// The controller whose limits the guard enforces.
const GUARDED: &str = "memory";
/// Threads for what takes longer: so many may ask for figures of large cgroups before others wait.
const SLOW: usize = 2;

/// Why serving ends.
enum End {
    Told,
    /// A hierarchy's connection is over, or nobody gets to it any more.
    Lost(Error),
}

/// Serves until SIGTERM or SIGINT, then unmounts. What an earlier server left mounted is taken off first; those who look
/// meanwhile see the sandbox's own files.
///
/// Serves one configuration per process: it takes the signals, and sets the umask to nothing.
///
/// # Errors
/// A hierarchy is not mounted where it should be; FUSE cannot be mounted; or somebody else unmounts it.
pub fn serve(config: &Config) -> Result<()> {
    // Modes of new cgroups are those that were asked for.
    umask(Mode::empty());
    let mut signals = Signals::new([SIGTERM, SIGINT]).doing("wait for signals in", "/proc/self")?;
    let (tell, ends) = channel();
    let told = tell.clone();
    spawn("signals", move || {
        if signals.forever().next().is_some() {
            let _ = told.send(End::Told);
        }
    })?;
    let mut mounted = Vec::new();
    let served = start(config, &tell, &mut mounted).and_then(|_ready| wait(&ends));
    for point in &mounted {
        // Somebody may have taken it off before, and what is below it is not ours.
        if let Err(error) = mounts::detach_left(point) {
            warn!("{error}");
        }
    }
    if let Some(socket) = &config.ready_socket {
        let _ = fs::remove_file(socket);
    }
    served
}

/// Starts all, and says what is mounted, also when it fails.
fn start(config: &Config, tell: &Sender<End>, mounted: &mut Vec<PathBuf>) -> Result<Option<UnixListener>> {
    let pool = Pool::start(SLOW).doing("start threads for", "/dev/fuse")?;
    let ids = Arc::new(Ids::default());
    let recovery = Recovery::begin(config.state.as_deref());
    let mut left = 0;
    for hierarchy in &config.hierarchies {
        if !hierarchy.backing.join(MEMBERS).exists() {
            return Err(Error::NoCgroup(hierarchy.backing.clone()));
        }
        left += mounts::detach_left(&hierarchy.mount_point)?;
    }
    if left > 0 {
        info!("took off {left} mounts of a server that was killed");
    }
    recovery.end(left > 0);
    for hierarchy in &config.hierarchies {
        let state = config.state.as_ref().map(|state| state.join(format!("cgroupfs-{}.json", hierarchy.controller)));
        let kept = Arc::new(state.map_or_else(Kept::default, Kept::load));
        let bell = Bell::default();
        mount(hierarchy, &kept, &pool, &bell, &ids, tell)?;
        mounted.push(hierarchy.mount_point.clone());
        ids.try_with(&hierarchy.mount_point, &hierarchy.backing).doing("look at", &hierarchy.mount_point)?;
        let procs = hierarchy.mount_point.join(MEMBERS);
        fs::read(&procs).doing("read", procs)?;
        if let Some(guarded) = config.guarded.as_ref().filter(|_| hierarchy.controller == GUARDED) {
            let guard = Guard::new(&hierarchy.backing, guarded, kept);
            guard.start(bell).doing("guard", &hierarchy.backing)?;
        }
    }
    info!("serving {} hierarchies", mounted.len());
    config.ready_socket.as_deref().map(|socket| listen(socket, mounted.clone(), tell.clone())).transpose()
}

fn mount(
    hierarchy: &Hierarchy,
    kept: &Arc<Kept>,
    pool: &Pool,
    bell: &Bell,
    ids: &Arc<Ids>,
    tell: &Sender<End>,
) -> Result<()> {
    let tree = Tree::new(hierarchy, Arc::clone(kept)).doing("look at", &hierarchy.backing)?;
    let files = CgroupFs::new(Arc::new(tree), pool.clone(), bell.clone(), Arc::clone(ids));
    let point = hierarchy.mount_point.clone();
    let device = mounts::stack(&point)?;
    let serving = Session::from_fd(files, device, SessionACL::All, fuser::Config::default());
    let session = serving.doing("serve", &point).inspect_err(|_| drop(mounts::detach(&point)))?;
    let tell = tell.clone();
    spawn(&hierarchy.controller, move || {
        let lost = session.run().doing("serve", &point).err().unwrap_or(Error::Ended(point));
        let _ = tell.send(End::Lost(lost));
    })
}

fn wait(ends: &Receiver<End>) -> Result<()> {
    match ends.recv() {
        Ok(End::Told) | Err(_) => Ok(()),
        Ok(End::Lost(why)) => Err(why),
    }
}

/// Greets those who connect, if what is mounted can be read. gVisor does not tell a server that its mount was taken off: it
/// is found out here.
fn listen(socket: &Path, mounted: Vec<PathBuf>, tell: Sender<End>) -> Result<UnixListener> {
    match fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).doing("remove", socket)?,
        _ => {}
    }
    let listener = UnixListener::bind(socket).doing("listen on", socket)?;
    fs::set_permissions(socket, Permissions::from_mode(0o600)).doing("set the mode of", socket)?;
    let taking = listener.try_clone().doing("listen on", socket)?;
    spawn("ready", move || {
        for caller in taking.incoming() {
            match caller {
                Ok(_) if let Some(gone) = mounted.iter().find(|point| mounts::is_gone(point)) => {
                    let _ = tell.send(End::Lost(Error::Ended(gone.clone())));
                }
                Ok(mut caller) if mounted.iter().all(|point| fs::read(point.join(MEMBERS)).is_ok()) => {
                    // Who does not listen any more needs no answer.
                    let _ = caller.write_all(b"ok\n");
                }
                Ok(_) => {}
                // As where too many files are open: it is no use to ask at once.
                Err(_) => thread::sleep(Duration::from_secs(1)),
            }
        }
    })?;
    Ok(listener)
}

fn spawn(name: &str, job: impl FnOnce() + Send + 'static) -> Result<()> {
    let thread = thread::Builder::new().name(name.to_owned()).stack_size(STACK);
    thread.spawn(job).map(drop).doing("start a thread for", name)
}
