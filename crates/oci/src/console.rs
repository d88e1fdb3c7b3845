//! The terminal of a container's process: made inside, its master sent outside over the console socket.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use nix::mount::{MsFlags, mount};
use oci_spec::runtime::Process;
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use crate::error::Doing as _;
use crate::{Error, Result, channel};

const CONSOLE: &str = "/dev/console";

/// Connects to whoever takes the master, as long as its socket can still be seen. A process has a terminal if and only if
/// there is such a socket.
pub(crate) fn connect(process: &Process, socket: Option<&Path>, field: &str) -> Result<Option<OwnedFd>> {
    match (process.terminal().unwrap_or(false), socket) {
        (false, None) => Ok(None),
        (true, None) => {
            Err(Error::spec(format!("{field}.terminal"), "needs a --console-socket to send the terminal to"))
        }
        (false, Some(_)) => Err(Error::spec("--console-socket", format!("is for a process with {field}.terminal"))),
        (true, Some(path)) => {
            let connect = || {
                let address = SocketAddrUnix::new(path)?;
                let flags = SocketFlags::CLOEXEC;
                let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
                rustix::net::connect(&socket, &address)?;
                Ok::<_, rustix::io::Errno>(socket)
            };
            connect().map(Some).doing_with(|| format!("connect to the console socket {}", path.display()))
        }
    }
}

/// Makes the terminal of the container at hand the terminal of this process, which leads a session without one.
pub(crate) fn take(socket: &OwnedFd, process: &Process, is_init: bool) -> Result<()> {
    let master =
        rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).doing("open /dev/ptmx")?;
    rustix::pty::unlockpt(&master).doing("unlock the terminal")?;
    let name = rustix::pty::ptsname(&master, Vec::new()).doing("name the terminal")?;
    if let Some(size) = process.console_size() {
        let cells = |count: u64| u16::try_from(count).unwrap_or(u16::MAX);
        let size = Winsize { ws_row: cells(size.height()), ws_col: cells(size.width()), ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&master, size).doing("set the size of the terminal")?;
    }
    if is_init {
        show(&name)?;
    }
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let slave = rustix::fs::open(name.as_c_str(), flags, Mode::empty()).doing("open the terminal")?;
    channel::send_bytes(socket.as_fd(), name.as_bytes(), &[master.as_fd()])?;
    rustix::stdio::dup2_stdin(&slave).doing("make the terminal stdin")?;
    rustix::stdio::dup2_stdout(&slave).doing("make the terminal stdout")?;
    rustix::stdio::dup2_stderr(&slave).doing("make the terminal stderr")?;
    rustix::process::ioctl_tiocsctty(&slave).doing("make the terminal the controlling one")
}

/// Mounts it on `/dev/console`.
fn show(name: &std::ffi::CStr) -> Result<()> {
    let flags =
        OFlags::CREATE | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::open(CONSOLE, flags, Mode::from_raw_mode(0o600)).doing("make /dev/console")?;
    mount(Some(name), CONSOLE, None::<&str>, MsFlags::MS_BIND, None::<&str>).doing("mount the terminal on /dev/console")
}
