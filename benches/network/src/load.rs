//! What asks, and measures.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpStream, UdpSocket};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::{ALWAYS, MESSAGE, ONCE, PATIENCE, STREAM, address_in, question};

/// Until servers that have not answered yet are asked again.
const PAUSE: Duration = Duration::from_millis(10);

/// Opens a connection that has been answered once: with the server it leads to.
fn open(server: SocketAddrV4, kind: u8) -> io::Result<(TcpStream, Ipv4Addr)> {
    let mut connection = TcpStream::connect_timeout(&server.into(), PATIENCE)?;
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.write_all(&question(kind))?;
    let mut message = [0; MESSAGE];
    connection.read_exact(&mut message)?;
    Ok((connection, address_in(&message)))
}

/// The server that a new connection leads to.
pub fn ask_once(server: SocketAddrV4) -> io::Result<Ipv4Addr> {
    open(server, ONCE).map(|(_, address)| address)
}

pub fn stream(server: SocketAddrV4, connections: usize, seconds: u64) -> io::Result<()> {
    let all = (0..connections).map(|_| open(server, STREAM)).collect::<io::Result<Vec<_>>>()?;
    let start = Instant::now();
    let send = |(connection, _)| thread::spawn(move || send(connection, start + Duration::from_secs(seconds)));
    let senders: Vec<JoinHandle<io::Result<u64>>> = all.into_iter().map(send).collect();
    let mut bytes = 0;
    for sender in senders {
        bytes += sender.join().map_err(|_| io::Error::other("a sender panicked"))??;
    }
    println!("throughput-{connections} {:.1}", bytes as f64 / start.elapsed().as_secs_f64() / 1e6);
    Ok(())
}

/// Sends until then; how many bytes arrived.
fn send(mut connection: TcpStream, until: Instant) -> io::Result<u64> {
    let buffer = vec![b'x'; 256 * 1024];
    while Instant::now() < until {
        connection.write_all(&buffer)?;
    }
    connection.shutdown(Shutdown::Write)?;
    let mut bytes = [0; 8];
    connection.read_exact(&mut bytes)?;
    Ok(u64::from_be_bytes(bytes))
}

pub fn ask(server: SocketAddrV4, count: usize) -> io::Result<()> {
    let (mut connection, _) = open(server, ALWAYS)?;
    let mut message = question(ALWAYS);
    let times = repeat(count, || {
        connection.write_all(&message)?;
        connection.read_exact(&mut message)
    })?;
    println!("ask-p50 {:.1}\nask-p99 {:.1}", quantile(&times, 0.5), quantile(&times, 0.99));
    Ok(())
}

pub fn connect(server: SocketAddrV4, count: usize) -> io::Result<()> {
    let times = repeat(count, || ask_once(server).map(drop))?;
    println!("connections {:.1}", times.len() as f64 / times.iter().sum::<Duration>().as_secs_f64());
    println!("connect-p50 {:.1}\nconnect-p99 {:.1}", quantile(&times, 0.5), quantile(&times, 0.99));
    Ok(())
}

pub fn datagrams(server: SocketAddrV4, count: usize) -> io::Result<()> {
    let socket = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(server)?;
        io::Result::Ok(socket)
    };
    let ask = |socket: &UdpSocket| {
        socket.send(&question(ALWAYS))?;
        socket.recv(&mut [0; MESSAGE]).map(drop)
    };
    let one = socket()?;
    let times = repeat(count, || ask(&one))?;
    println!("datagram-p50 {:.1}", quantile(&times, 0.5));
    let times = repeat(count, || ask(&socket()?))?;
    println!("datagram-new-p50 {:.1}", quantile(&times, 0.5));
    Ok(())
}

pub fn answer(mut servers: Vec<SocketAddrV4>) {
    let start = Instant::now();
    loop {
        servers.retain(|server| ask_once(*server).is_err());
        if servers.is_empty() {
            break;
        }
        thread::sleep(PAUSE);
    }
    println!("answer {:.2}", start.elapsed().as_secs_f64());
}

/// Does it so many times; how long each took, in order.
fn repeat(count: usize, mut what: impl FnMut() -> io::Result<()>) -> io::Result<Vec<Duration>> {
    let mut once = |_| {
        let start = Instant::now();
        what().map(|()| start.elapsed())
    };
    let mut times = (0..count).map(&mut once).collect::<io::Result<Vec<_>>>()?;
    times.sort_unstable();
    Ok(times)
}

/// In microseconds, of times in order.
pub fn quantile(times: &[Duration], share: f64) -> f64 {
    let index = (times.len().saturating_sub(1) as f64 * share).round() as usize;
    times.get(index).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
}
