//! The smallest DNS client that can tell whether a name has an address: one UDP question for each name to try, over
//! resolv.conf(5)'s servers, within a short time altogether.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// How long all questions may take: a server that does not answer must not hold up a start.
const LIMIT: Duration = Duration::from_millis(200);
const HEADER: usize = 12;

/// What resolv.conf says.
#[derive(Debug, PartialEq, Eq)]
pub struct Resolver {
    /// The name servers; none where none is named, which means the machine itself.
    pub servers: Vec<IpAddr>,
    search: Vec<String>,
}

impl Resolver {
    /// Understands a resolv.conf.
    #[must_use]
    pub fn read(conf: &str) -> Self {
        let (mut servers, mut search) = (Vec::new(), Vec::new());
        for line in conf.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => servers.extend(words.next().and_then(|server| server.parse::<IpAddr>().ok())),
                Some("search" | "domain") => search = words.map(str::to_owned).collect(),
                _ => {}
            }
        }
        Self { servers, search }
    }

    /// Whether the name, or it within a search domain, has an IPv4 address.
    pub(crate) fn knows(&self, name: &str) -> bool {
        let own = [Ipv4Addr::LOCALHOST.into()];
        let servers = if self.servers.is_empty() { &own[..] } else { &self.servers };
        let deadline = Instant::now() + LIMIT;
        let mut names: Vec<String> = self.search.iter().map(|domain| format!("{name}.{domain}")).collect();
        names.push(name.to_owned());
        names.iter().enumerate().any(|(id, name)| {
            let Some(question) = question(id as u16, name) else { return false };
            servers.iter().any(|server| ask(*server, &question, deadline).is_some_and(|answer| has_address(&answer)))
        })
    }
}

/// The answer of a server to this question, if it comes in time.
fn ask(server: IpAddr, question: &[u8], deadline: Instant) -> Option<Vec<u8>> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { "::".parse().ok()? };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(SocketAddr::new(server, 53)).ok()?;
    socket.send(question).ok()?;
    loop {
        let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
        socket.set_read_timeout(Some(left)).ok()?;
        let mut answer = vec![0; 1500];
        let length = socket.recv(&mut answer).ok()?;
        answer.truncate(length);
        if answer.get(..2) == question.get(..2) {
            return Some(answer);
        }
    }
}

/// A question for the IPv4 addresses of a name (RFC 1035, section 4); none for what is no name.
fn question(id: u16, name: &str) -> Option<Vec<u8>> {
    let mut packet = Vec::with_capacity(HEADER + name.len() + 6);
    packet.extend(id.to_be_bytes());
    packet.extend([1, 0]); // recursion is desired
    packet.extend([0, 1, 0, 0, 0, 0, 0, 0]); // one question
    for label in name.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..64).contains(length))?;
        packet.push(length);
        packet.extend(label.as_bytes());
    }
    packet.push(0);
    packet.extend([0, 1, 0, 1]); // A, IN
    Some(packet)
}

/// Whether an answer says that there is something: no error, and at least one record.
fn has_address(answer: &[u8]) -> bool {
    let Some(header) = answer.get(..HEADER) else { return false };
    let is_answer = header[2] & 0x80 != 0;
    let error = header[3] & 0x0f;
    is_answer && error == 0 && header[6..8] != [0, 0]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn resolv_conf() {
        let conf = "# made by hand\nsearch a.example b.example\nnameserver 10.0.0.1\nnameserver fe80::1%eth0\nnameserver ::1\n";
        let expected = Resolver {
            servers: vec!["10.0.0.1".parse().unwrap(), "::1".parse().unwrap()],
            search: vec!["a.example".to_owned(), "b.example".to_owned()],
        };
        assert_eq!(Resolver::read(conf), expected);
        assert!(Resolver::read("").servers.is_empty());
    }

    #[test]
    fn a_question_is_as_the_rfc_has_it() {
        let expected = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x03box\x07example\0\0\x01\0\x01";
        assert_eq!(question(7, "box.example").unwrap(), expected);
        assert_eq!(question(7, "box.example.").unwrap(), expected);
        for name in ["", "a..b", &"x".repeat(64)] {
            assert_eq!(question(7, name), None, "{name:?}");
        }
    }

    #[test]
    fn an_answer_needs_a_record_and_no_error() {
        let answer = |flags: [u8; 2], records| [&[0, 7][..], &flags, &[0, 1, 0, records, 0, 0, 0, 0]].concat();
        assert!(has_address(&answer([0x81, 0x80], 1)));
        assert!(!has_address(&answer([0x81, 0x80], 0)));
        assert!(!has_address(&answer([0x81, 0x83], 1)));
        assert!(!has_address(&answer([0x01, 0x00], 1)));
    }

    proptest! {
        #[test]
        fn no_answer_is_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = has_address(&bytes);
        }
    }
}
