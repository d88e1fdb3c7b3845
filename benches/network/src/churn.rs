//! Changes of endpoints, and whether connections follow.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;
use serde_json::json;

use crate::PATIENCE;
use crate::load::{ask_once, quantile};

/// How often it is looked where connections go after a change.
const INTERVAL: Duration = Duration::from_millis(2);
/// How many connections must follow, once one did.
const MORE: usize = 3;

#[derive(Args)]
pub struct Churn {
    /// Where `kubectl proxy` listens
    api: SocketAddrV4,
    /// The EndpointSlice's path in the API
    path: String,
    /// The Service's address
    service: SocketAddrV4,
    /// How many changes
    changes: u32,
    /// How many of them in a minute
    per_minute: u32,
    /// The Pods that it leads to in turn
    #[arg(required = true)]
    pods: Vec<Ipv4Addr>,
}

impl Churn {
    pub fn run(&self) -> Result<()> {
        let (start, mut times, mut wrong) = (Instant::now(), Vec::new(), 0);
        for (change, pod) in (0..self.changes).zip(self.pods.iter().cycle()) {
            sleep((Duration::from_secs(60) / self.per_minute * change).saturating_sub(start.elapsed()));
            self.lead_to(*pod)?;
            match self.followed(*pod) {
                Some(time) => times.push(time),
                None => wrong += 1,
            }
        }
        times.sort_unstable();
        println!("changes-per-minute {:.0}", f64::from(self.changes) * 60.0 / start.elapsed().as_secs_f64());
        println!("changes-wrong {wrong}");
        for (name, share) in [("p50", 0.5), ("p99", 0.99), ("most", 1.0)] {
            println!("change-{name} {:.1}", quantile(&times, share) / 1000.0);
        }
        Ok(())
    }

    fn lead_to(&self, pod: Ipv4Addr) -> Result<()> {
        let body = json!({"endpoints": [{"addresses": [pod], "conditions": {"ready": true}}]}).to_string();
        let mut connection = TcpStream::connect_timeout(&self.api.into(), PATIENCE)?;
        write!(
            connection,
            "PATCH {} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/merge-patch+json\r\nContent-Length: {}\r\n\r\n{body}",
            self.path,
            body.len()
        )?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        ensure!(answer.split_whitespace().nth(1) == Some("200"), "the API says {answer}");
        Ok(())
    }

    /// How long it took until connections led to this Pod; `None` if they did not, or others came after the first.
    fn followed(&self, pod: Ipv4Addr) -> Option<Duration> {
        let start = Instant::now();
        let right = || ask_once(self.service).is_ok_and(|address| address == pod);
        while !right() {
            if start.elapsed() > PATIENCE {
                return None;
            }
            sleep(INTERVAL);
        }
        let time = start.elapsed();
        (0..MORE).all(|_| right()).then_some(time)
    }
}
