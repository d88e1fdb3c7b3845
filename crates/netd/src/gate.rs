//! The gate: where the cluster has a network namespace of its own, a process that stayed in the caller's makes sockets there
//! and passes them in. A socket keeps the namespace that it was made in, so what is sent and received takes no detour.
//!
//! A request is a connection to the gate's socket:
//!
//! ```text
//! ──▶ protocol (6, 17), IPv4 address, port      1 + 4 + 2 bytes, network byte order
//! ◀── errno or 0, and with 0 a connected socket  4 bytes, big-endian; SCM_RIGHTS
//! ```

use std::fs::{Permissions, remove_file, set_permissions};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::{TcpStream, UdpSocket, UnixListener, UnixStream};
use tokio::time::{Duration, sleep, timeout};

use crate::Error;
use crate::table::Protocol;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(10);
/// How long to wait when no request can be taken in.
const PAUSE: Duration = Duration::from_millis(100);

const REQUEST: usize = 7;

/// Serves until the process ends. Call it in the network namespace of which sockets are wanted.
///
/// # Errors
/// It cannot listen at `path`.
pub fn run(path: &Path) -> Result<(), Error> {
    // Each request has two descriptors for a while. Fewer than could be had do no harm.
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::io("start the event loop of", "the gate"))?;
    runtime.block_on(async {
        let listener = listen(path).map_err(Error::io("listen on", path.display().to_string()))?;
        serve(listener).await
    })
}

/// A socket that only this user may connect to. One that a killed gate left is replaced.
fn listen(path: &Path) -> io::Result<UnixListener> {
    match remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn serve(listener: UnixListener) -> ! {
    // How many requests there are at once is bounded by who makes them: the proxy has limits of its own.
    loop {
        match listener.accept().await {
            // Who asks and does not wait for the answer is gone: nobody is left to tell.
            Ok((stream, _)) => drop(tokio::spawn(timeout(2 * CONNECT, answer(stream)))),
            Err(error) => {
                tracing::warn!("the gate cannot take a request in: {error}");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn answer(mut stream: UnixStream) -> io::Result<()> {
    let mut request = [0; REQUEST];
    stream.read_exact(&mut request).await?;
    let made = match decode(request) {
        Some((protocol, address)) => make(protocol, address).await,
        None => Err(Errno::EINVAL.into()),
    };
    match made {
        Ok(socket) => pass(&stream, 0, Some(socket.as_fd())).await,
        Err(error) => pass(&stream, error.raw_os_error().unwrap_or(Errno::EIO as i32), None).await,
    }
}

/// A connected socket, which does not block.
async fn make(protocol: Protocol, address: SocketAddrV4) -> io::Result<OwnedFd> {
    if !is_outside(*address.ip()) {
        return Err(Errno::ENETUNREACH.into());
    }
    Ok(match protocol {
        Protocol::Tcp => {
            let connected = timeout(CONNECT, TcpStream::connect(address)).await;
            connected.unwrap_or_else(|_| Err(Errno::ETIMEDOUT.into()))?.into_std()?.into()
        }
        Protocol::Udp => {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
            socket.connect(address).await?;
            socket.into_std()?.into()
        }
    })
}

/// Whether Pods may go there by the gate: what is on the caller's loopback device is none of their business, as it would
/// not be if their packets were routed.
pub(crate) fn is_outside(address: Ipv4Addr) -> bool {
    !(address.is_loopback() || address.is_unspecified() || address.is_multicast() || address.is_broadcast())
}

async fn pass(stream: &UnixStream, errno: i32, socket: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let bytes = errno.to_be_bytes();
    stream
        .async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            let sockets = socket.as_slice();
            if !sockets.is_empty() {
                ancillary.push(SendAncillaryMessage::ScmRights(sockets));
            }
            rustix::net::sendmsg(stream, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
            Ok(())
        })
        .await
}

/// Asks the gate at `path` for a connected socket.
///
/// # Errors
/// Those of connect(2) in the gate's network namespace; or the gate is not there.
pub async fn connect(path: &Path, protocol: Protocol, address: SocketAddrV4) -> io::Result<OwnedFd> {
    let mut stream = UnixStream::connect(path).await?;
    stream.write_all(&encode(protocol, address)).await?;
    let (bytes, socket) = stream.async_io(Interest::READABLE, || receive(&stream)).await?;
    match (i32::from_be_bytes(bytes), socket) {
        (0, Some(socket)) => Ok(socket),
        (0, None) => Err(io::ErrorKind::InvalidData.into()),
        (errno, _) => Err(io::Error::from_raw_os_error(errno)),
    }
}

fn receive(stream: &UnixStream) -> io::Result<([u8; 4], Option<OwnedFd>)> {
    let mut bytes = [0; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = rustix::net::recvmsg(stream, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags)?;
    if received.bytes < bytes.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let socket = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
        _ => None,
    });
    Ok((bytes, socket))
}

fn encode(protocol: Protocol, address: SocketAddrV4) -> [u8; REQUEST] {
    let protocol = match protocol {
        Protocol::Tcp => 6, // IPPROTO_TCP
        Protocol::Udp => 17,
    };
    let [a, b, c, d] = address.ip().octets();
    let [high, low] = address.port().to_be_bytes();
    [protocol, a, b, c, d, high, low]
}

fn decode([protocol, a, b, c, d, high, low]: [u8; REQUEST]) -> Option<(Protocol, SocketAddrV4)> {
    let protocol = match protocol {
        6 => Protocol::Tcp,
        17 => Protocol::Udp,
        _ => return None,
    };
    Some((protocol, SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low]))))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn requests_survive(udp: bool, address: u32, port: u16) {
            let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
            let address = SocketAddrV4::new(address.into(), port);
            prop_assert_eq!(decode(encode(protocol, address)), Some((protocol, address)));
        }
    }

    /// The only address here that is not of the loopback device.
    fn own_address() -> Option<Ipv4Addr> {
        let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?; // sends nothing
        match socket.local_addr().ok()?.ip() {
            std::net::IpAddr::V4(address) if is_outside(address) => Some(address),
            _ => None,
        }
    }

    #[tokio::test]
    async fn connected_sockets_come_through() {
        let Some(address) = own_address() else {
            eprintln!("skipped: no address but loopback");
            return;
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gate");
        std::fs::write(&path, "left by a killed one").unwrap();
        let listener = listen(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        tokio::spawn(async move { serve(listener).await });

        let server = std::net::TcpListener::bind((address, 0)).unwrap();
        let to = SocketAddrV4::new(address, server.local_addr().unwrap().port());
        let socket = connect(&path, Protocol::Tcp, to).await.unwrap();
        let mut client = TcpStream::from_std(socket.into()).unwrap();
        let mut served = server.accept().unwrap().0;
        client.write_all(b"there").await.unwrap();
        let mut heard = [0; 5];
        io::Read::read_exact(&mut served, &mut heard).unwrap();
        assert_eq!(&heard, b"there");

        drop((server, served));
        let refused = connect(&path, Protocol::Tcp, to).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);

        let server = std::net::UdpSocket::bind((address, 0)).unwrap();
        let to = SocketAddrV4::new(address, server.local_addr().unwrap().port());
        let socket = connect(&path, Protocol::Udp, to).await.unwrap();
        UdpSocket::from_std(socket.into()).unwrap().send(b"there").await.unwrap();
        assert_eq!(server.recv(&mut heard).unwrap(), 5);
    }

    #[tokio::test]
    async fn the_loopback_device_is_out_of_reach() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gate");
        let listener = listen(&path).unwrap();
        tokio::spawn(async move { serve(listener).await });
        let server = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, server.local_addr().unwrap().port());
        let error = connect(&path, Protocol::Tcp, to).await.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::ENETUNREACH as i32));
    }
}
