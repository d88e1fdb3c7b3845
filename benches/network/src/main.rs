//! One program that gives throughput, latency and new connections alike, so that paths can be compared; and what
//! answers it. Prints a line for each figure: its name and its number.

mod churn;
mod load;
mod serve;

use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use clap::Parser;

/// How long a message is: the first byte of one that asks says what for, and the answer's has the server's address.
const MESSAGE: usize = 64;
type Message = [u8; MESSAGE];

/// An answer, and then the end.
const ONCE: u8 = b'1';
/// An answer to each message.
const ALWAYS: u8 = b'?';
/// What follows is counted.
const STREAM: u8 = b'>';

/// How long anything may take that should take no time.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Parser)]
#[command(about = "Load for scripts/bench-network, and what answers it")]
enum Command {
    /// Answer by TCP and UDP on all addresses
    Serve { port: u16 },
    /// MB/s of so many connections at once
    Stream { server: SocketAddrV4, connections: usize, seconds: u64 },
    /// Median and 99th percentile of questions on one connection, in microseconds
    Ask { server: SocketAddrV4, count: usize },
    /// Connections per second, each with a question, one after another
    Connect { server: SocketAddrV4, count: usize },
    /// Median of questions by UDP, from one socket and from a new one for each, in microseconds
    Datagrams { server: SocketAddrV4, count: usize },
    /// Seconds until all servers on standard input have answered
    Answer,
    /// Lead a Service from one Pod to the next by changes of its EndpointSlice, and watch where connections go
    Churn(churn::Churn),
}

fn main() -> anyhow::Result<()> {
    match Command::parse() {
        Command::Serve { port } => serve::serve(port)?,
        Command::Stream { server, connections, seconds } => load::stream(server, connections, seconds)?,
        Command::Ask { server, count } => load::ask(server, count)?,
        Command::Connect { server, count } => load::connect(server, count)?,
        Command::Datagrams { server, count } => load::datagrams(server, count)?,
        Command::Answer => {
            let mut servers = String::new();
            std::io::stdin().read_to_string(&mut servers)?;
            load::answer(servers.split_whitespace().map(str::parse).collect::<Result<_, _>>()?);
        }
        Command::Churn(churn) => churn.run()?,
    }
    Ok(())
}

/// A question.
fn question(kind: u8) -> Message {
    let mut message = [0; MESSAGE];
    message[0] = kind;
    message
}

/// The address in an answer.
fn address_in(answer: &Message) -> Ipv4Addr {
    let [_, a, b, c, d, ..] = *answer;
    [a, b, c, d].into()
}
