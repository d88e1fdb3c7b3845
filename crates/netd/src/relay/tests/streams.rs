//! TCP.

use std::io::{ErrorKind, Read as _, Write as _};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;

#[tokio::test]
async fn half_closed_connections_still_carry_the_other_way() {
    with_relay(LIMITS, async |world| {
        let endpoint = TcpListener::bind(world.pod(2)).await.unwrap();
        let frontend = world.serve(world.frontend(Protocol::Tcp), &[world.pod(2)]).await;
        let mut client = TcpStream::connect(frontend).await.unwrap();
        let (mut upstream, _) = endpoint.accept().await.unwrap();

        let sent = vec![7; 3 * TURN + 1];
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut heard = Vec::new();
        upstream.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"question");
        let mut answer = Vec::new();
        let (written, read) = tokio::join!(
            async {
                upstream.write_all(&sent).await?;
                upstream.shutdown().await
            },
            client.read_to_end(&mut answer)
        );
        written.unwrap();
        read.unwrap();
        assert_eq!(answer, sent);
        world.until(|counters| counters.open_connections.get() == 0).await;
        let route = world.relay.shared.table.get(&world.frontend(Protocol::Tcp)).unwrap();
        assert_eq!(route.traffic.connections.get(), 1);
        assert_eq!(route.traffic.bytes.get(), (8 + sent.len()) as u64);
        assert_eq!(world.relay.waiting.get(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_reset_of_one_end_is_seen_by_the_other() {
    with_relay(LIMITS, async |world| {
        let endpoint = TcpListener::bind(world.pod(2)).await.unwrap();
        let frontend = world.serve(world.frontend(Protocol::Tcp), &[world.pod(2)]).await;
        for client_resets in [true, false] {
            let client = TcpStream::connect(frontend).await.unwrap();
            let (upstream, _) = endpoint.accept().await.unwrap();
            let (resets, mut sees) = if client_resets { (client, upstream) } else { (upstream, client) };
            resets.set_zero_linger().unwrap();
            drop(resets);
            let error = sees.read(&mut [0]).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "client resets: {client_resets}");
        }
    })
    .await;
}

#[tokio::test]
async fn another_endpoint_is_tried_when_one_refuses() {
    with_relay(LIMITS, async |world| {
        let endpoint = TcpListener::bind(world.pod(2)).await.unwrap();
        let frontend = world.serve(world.frontend(Protocol::Tcp), &[world.pod(3), world.pod(2), world.pod(4)]).await;
        for _ in 0..8 {
            let _client = TcpStream::connect(frontend).await.unwrap();
            endpoint.accept().await.unwrap();
        }
        assert_eq!(world.relay.shared.counters.unanswered.get(), 0);
    })
    .await;
}

#[tokio::test]
async fn without_a_living_endpoint_clients_are_told() {
    with_relay(LIMITS, async |world| {
        // Its only endpoint refuses: the client is connected already, and reset.
        let frontend = world.serve(world.frontend(Protocol::Tcp), &[world.pod(2)]).await;
        let mut client = TcpStream::connect(frontend).await.unwrap();
        assert_eq!(client.read(&mut [0]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(world.relay.shared.counters.unanswered.get(), 1);

        // It has none.
        world.set(world.frontend(Protocol::Tcp), &[]);
        world.until(|counters| counters.listeners.get() == 0).await;
        assert_eq!(TcpStream::connect(frontend).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);

        // It has one again.
        let endpoint = TcpListener::bind(world.pod(2)).await.unwrap();
        world.serve(world.frontend(Protocol::Tcp), &[world.pod(2)]).await;
        let _client = TcpStream::connect(frontend).await.unwrap();
        endpoint.accept().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn dropped_clients_hear_nothing_but_only_so_many_are_held() {
    with_relay(LIMITS, async |world| {
        let frontend = world.frontend(Protocol::Tcp);
        world.relay.shared.table.set(frontend, Route { otherwise: Otherwise::Drop, ..route(&[]) });
        world.until(|counters| counters.listeners.get() == 1).await;
        let address = (frontend.address, frontend.port);
        let mut first = TcpStream::connect(address).await.unwrap();
        first.write_all(b"anybody?").await.unwrap();
        until(|| world.relay.held.get() == 1).await;
        let mut second = TcpStream::connect(address).await.unwrap();
        assert_eq!(second.read(&mut [0]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        let mut byte = [0];
        assert!(pends(&mut Box::pin(first.read(&mut byte))).await);
        drop(first);
        until(|| world.relay.held.get() == 0).await;
    })
    .await;
}

#[tokio::test]
async fn sources_are_enforced() {
    with_relay(LIMITS, async |world| {
        let endpoint = TcpListener::bind(world.pod(2)).await.unwrap();
        let frontend = world.frontend(Protocol::Tcp);
        let address = world.serve(frontend, &[world.pod(2)]).await;
        let sources = |net: &str| Rc::from([net.parse().unwrap()]);
        let only = Route { sources: sources("192.0.2.0/24"), ..route(&[world.pod(2)]) };
        world.relay.shared.table.set(frontend, only);
        let _client = TcpStream::connect(address).await.unwrap();
        until(|| world.relay.held.get() == 1).await;
        world.relay.shared.table.set(frontend, Route { sources: sources("127.0.0.0/8"), ..route(&[world.pod(2)]) });
        let _client = TcpStream::connect(address).await.unwrap();
        endpoint.accept().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_client_keeps_its_endpoint_while_that_is_there() {
    with_relay(LIMITS, async |world| {
        let endpoints =
            [TcpListener::bind(world.pod(2)).await.unwrap(), TcpListener::bind(world.pod(3)).await.unwrap()];
        let frontend = world.frontend(Protocol::Tcp);
        let sticky = |endpoints: &[SocketAddrV4]| Route { affinity: Some(Duration::from_secs(60)), ..route(endpoints) };
        let address = world.serve(frontend, &[world.pod(2)]).await;
        world.relay.shared.table.set(frontend, sticky(&[world.pod(2), world.pod(3)]));
        let mut met = [0, 0];
        for _ in 0..16 {
            let _client = TcpStream::connect(address).await.unwrap();
            tokio::select! {
                _ = endpoints[0].accept() => met[0] += 1,
                _ = endpoints[1].accept() => met[1] += 1,
            }
        }
        assert!(met.contains(&16), "{met:?}");
        let (kept, other) = if met[0] == 16 { (2, 1) } else { (3, 0) };
        world.relay.shared.table.set(frontend, sticky(&[world.pod(5 - kept)]));
        let _client = TcpStream::connect(address).await.unwrap();
        endpoints[other].accept().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn connections_outlive_their_frontend_and_their_endpoint() {
    with_relay(LIMITS, async |world| {
        let endpoint = TcpListener::bind(world.pod(2)).await.unwrap();
        let frontend = world.frontend(Protocol::Tcp);
        let address = world.serve(frontend, &[world.pod(2)]).await;
        let mut client = TcpStream::connect(address).await.unwrap();
        let (mut upstream, _) = endpoint.accept().await.unwrap();
        world.relay.shared.table.remove(&frontend);
        world.until(|counters| counters.listeners.get() == 0).await;
        client.write_all(b"still").await.unwrap();
        upstream.read_exact(&mut [0; 5]).await.unwrap();
        assert_eq!(TcpStream::connect(address).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    })
    .await;
}

#[tokio::test]
async fn slow_readers_cost_little() {
    const SLOW: usize = 64;
    with_relay(LIMITS, async |world| {
        let endpoint = TcpListener::bind(world.pod(2)).await.unwrap();
        let frontend = world.serve(world.frontend(Protocol::Tcp), &[world.pod(2)]).await;
        let mut ends = Vec::new();
        for _ in 0..SLOW {
            let client = TcpStream::connect(frontend).await.unwrap();
            ends.push((client, endpoint.accept().await.unwrap().0));
        }
        // Each client sends until nobody takes any more.
        let piece = vec![0; TURN];
        for (client, _) in &ends {
            let mut idle = 0;
            while idle < 100 {
                match client.try_write(&piece) {
                    Ok(_) => idle = 0,
                    Err(_) => idle += 1,
                }
                yield_now().await;
            }
        }
        let waiting = world.relay.waiting.get();
        assert!(waiting > 0, "nothing waits: the test sent too little");
        assert!(waiting <= 2 * 1024 * 1024 + TURN + SLOW * 4096, "{waiting} bytes wait");
        // The others are not in the way of one that reads.
        let client = TcpStream::connect(frontend).await.unwrap();
        let (mut upstream, _) = endpoint.accept().await.unwrap();
        client.try_write(b"quick").unwrap();
        upstream.read_exact(&mut [0; 5]).await.unwrap();
        drop(ends);
        drop((client, upstream));
        world.until(|counters| counters.open_connections.get() == 0).await;
        assert_eq!(world.relay.waiting.get(), 0);
    })
    .await;
}

#[tokio::test]
async fn more_connections_than_allowed_are_reset() {
    with_relay(Limits { connections: 2, ..LIMITS }, async |world| {
        let endpoint = TcpListener::bind(world.pod(2)).await.unwrap();
        let frontend = world.serve(world.frontend(Protocol::Tcp), &[world.pod(2)]).await;
        let first = TcpStream::connect(frontend).await.unwrap();
        let _second = TcpStream::connect(frontend).await.unwrap();
        world.until(|counters| counters.open_connections.get() == 2).await;
        let mut third = TcpStream::connect(frontend).await.unwrap();
        assert_eq!(third.read(&mut [0]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(world.relay.shared.counters.too_many.get(), 1);
        let (upstream, _) = endpoint.accept().await.unwrap();
        drop((first, upstream));
        world.until(|counters| counters.open_connections.get() == 1).await;
        let _fourth = TcpStream::connect(frontend).await.unwrap();
        world.until(|counters| counters.open_connections.get() == 2).await;
    })
    .await;
}

#[tokio::test]
async fn who_cannot_listen_says_so_and_listens_when_it_can() {
    with_relay(LIMITS, async |mut world| {
        let frontend = world.frontend(Protocol::Tcp);
        let squatter = std::net::TcpListener::bind((frontend.address, frontend.port)).unwrap();
        world.set(frontend, &[world.pod(2)]);
        let notice = world.notices.recv().await.unwrap();
        assert_eq!((notice.reason, notice.about.name.as_str()), ("PortConflict", "web"));
        assert!(notice.message.contains("Port 7000 (TCP)"), "{}", notice.message);
        assert_eq!(world.relay.shared.counters.unbound.get(), 1);
        drop(squatter);
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(2)).await;
        world.until(|counters| counters.listeners.get() == 1).await;
        assert_eq!(world.relay.shared.counters.unbound.get(), 0);
    })
    .await;
}

/// One that has a frontend of its own, moves it to another Service: nothing is in the way.
#[tokio::test]
async fn a_frontend_may_change_hands() {
    with_relay(LIMITS, async |mut world| {
        let endpoint = TcpListener::bind(world.pod(2)).await.unwrap();
        let frontend = world.frontend(Protocol::Tcp);
        let address = world.serve(frontend, &[world.pod(2)]).await;
        for _ in 0..50 {
            world.relay.shared.table.remove(&frontend);
            yield_now().await;
            world.set(frontend, &[world.pod(2)]);
            yield_now().await;
        }
        world.until(|counters| counters.listeners.get() == 1).await;
        let _client = TcpStream::connect(address).await.unwrap();
        endpoint.accept().await.unwrap();
        assert!(world.notices.try_recv().is_err());
    })
    .await;
}

#[tokio::test]
async fn ten_thousand_idle_connections_take_little_memory() {
    const EACH: usize = 2 * 1024; // bytes; measured: about half
    // In a process of its own: other tests take memory and give it back.
    const NAME: &str = "relay::tests::streams::ten_thousand_idle_connections_take_little_memory";
    const ALONE: &str = "TERRARIUM_TEST_ALONE";
    if std::env::var_os(ALONE).is_none() {
        let mut test = std::process::Command::new(std::env::current_exe().unwrap());
        let output = test.args(["--exact", NAME, "--nocapture"]).env(ALONE, "1").output().unwrap();
        let [said, errors] = [&output.stdout, &output.stderr].map(|said| String::from_utf8_lossy(said));
        assert!(output.status.success() && said.contains("1 passed"), "{said}{errors}");
        return;
    }
    // Four files each here, which has both ends. As root, there are enough.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let files =
        [41_000, hard].into_iter().find(|&most| setrlimit(Resource::RLIMIT_NOFILE, most, hard.max(most)).is_ok());
    let connections = (files.unwrap() as usize / 4 - 200).min(10_000);
    with_relay(LIMITS, async |world| {
        let endpoint = std::net::TcpListener::bind(world.pod(2)).unwrap();
        let frontend = world.serve(world.frontend(Protocol::Tcp), &[world.pod(2)]).await;
        let mut ends = Vec::with_capacity(2 * connections);
        let before = resident();
        for connected in 1..=connections {
            ends.push(std::net::TcpStream::connect(frontend).unwrap());
            world.until(|counters| counters.open_connections.get() == connected as u64).await;
            endpoint.set_nonblocking(true).unwrap();
            let upstream = loop {
                match endpoint.accept() {
                    Ok((upstream, _)) => break upstream,
                    Err(_) => yield_now().await,
                }
            };
            upstream.set_nonblocking(true).unwrap();
            ends.push(upstream);
        }
        let grown = resident().saturating_sub(before);
        eprintln!("{connections} idle connections: {} KiB", grown / 1024);
        assert!(grown < connections * EACH, "{grown} bytes");
        // They are alive.
        ends[0].write_all(b"x").unwrap();
        until(|| (&ends[1]).read(&mut [0]).is_ok_and(|read| read == 1)).await;
    })
    .await;
}

/// Bytes of this process in memory.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}
