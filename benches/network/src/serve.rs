//! What answers.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::thread;

use crate::{MESSAGE, Message, ONCE, STREAM};

/// Answers for good.
pub fn serve(port: u16) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
    thread::spawn(move || datagrams(&socket));
    for connection in listener.incoming() {
        // The other end's mistakes are its own.
        let _ = connection.and_then(take);
    }
    Ok(())
}

/// A thread costs more than the connection: who asks once gets none.
fn take(mut connection: TcpStream) -> io::Result<()> {
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(crate::PATIENCE))?;
    let mut message = [0; MESSAGE];
    connection.read_exact(&mut message)?;
    let kind = message[0];
    answer(&connection, &mut message)?;
    connection.write_all(&message)?;
    if kind != ONCE {
        connection.set_read_timeout(None)?;
        thread::spawn(move || if kind == STREAM { count(connection) } else { always(connection, message) });
    }
    Ok(())
}

fn answer(connection: &TcpStream, message: &mut Message) -> io::Result<()> {
    if let IpAddr::V4(address) = connection.local_addr()?.ip() {
        message[1..5].copy_from_slice(&address.octets());
    }
    Ok(())
}

fn always(mut connection: TcpStream, answer: Message) -> io::Result<()> {
    let mut message = [0; MESSAGE];
    loop {
        connection.read_exact(&mut message)?;
        connection.write_all(&answer)?;
    }
}

/// Tells how many bytes came, once they have ended.
fn count(mut connection: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    let mut bytes = 0_u64;
    loop {
        match connection.read(&mut buffer)? {
            0 => return connection.write_all(&bytes.to_be_bytes()),
            read => bytes += read as u64,
        }
    }
}

fn datagrams(socket: &UdpSocket) {
    let mut message = [0; MESSAGE];
    loop {
        // Nobody waits for a datagram that is lost.
        let _ = socket.recv_from(&mut message).and_then(|(size, client)| socket.send_to(&message[..size], client));
    }
}
