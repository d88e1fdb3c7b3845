//! UDP.

use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time;

use super::*;

async fn client() -> UdpSocket {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap()
}

/// Sends back what it hears, with its name before.
async fn echo(address: SocketAddrV4, name: u8) {
    let socket = UdpSocket::bind(address).await.unwrap();
    spawn_local(async move {
        let mut buffer = vec![0; 1 << 16];
        buffer[0] = name;
        loop {
            let (length, source) = socket.recv_from(&mut buffer[1..]).await.unwrap();
            socket.send_to(&buffer[..=length], source).await.unwrap();
        }
    });
}

/// What comes back, and from whom.
async fn ask(client: &UdpSocket, frontend: SocketAddrV4, question: &[u8]) -> Vec<u8> {
    client.send_to(question, frontend).await.unwrap();
    let mut buffer = vec![0; 1 << 16];
    let (length, source) = client.recv_from(&mut buffer).await.unwrap();
    assert_eq!(source, frontend.into(), "who was asked is to answer");
    buffer.truncate(length);
    buffer
}

#[tokio::test]
async fn datagrams_of_any_size_go_there_and_back() {
    with_relay(LIMITS, async |world| {
        echo(world.pod(2), b'a').await;
        let frontend = world.serve(world.frontend(Protocol::Udp), &[world.pod(2)]).await;
        let client = client().await;
        for size in [0, 1, 1500, 65_506] {
            let question = vec![1; size];
            assert_eq!(ask(&client, frontend, &question).await[1..], question);
        }
        let route = world.relay.shared.table.get(&world.frontend(Protocol::Udp)).unwrap();
        assert_eq!(route.traffic.connections.get(), 1);
        assert_eq!(route.traffic.bytes.get(), 2 * (1 + 1500 + 65_506) + 4);
    })
    .await;
}

#[tokio::test]
async fn a_flow_stays_with_its_endpoint_until_that_leaves() {
    with_relay(LIMITS, async |world| {
        let pods = [world.pod(2), world.pod(3)];
        echo(pods[0], 0).await;
        echo(pods[1], 1).await;
        let frontend = world.serve(world.frontend(Protocol::Udp), &pods).await;
        let client = client().await;
        let first = ask(&client, frontend, b"?").await[0];
        for _ in 0..16 {
            world.set(world.frontend(Protocol::Udp), &pods); // a change elsewhere in the route
            assert_eq!(ask(&client, frontend, b"?").await[0], first);
        }
        let other = 1 - first;
        world.set(world.frontend(Protocol::Udp), &[pods[usize::from(other)]]);
        assert_eq!(ask(&client, frontend, b"?").await[0], other);
        world.until(|counters| counters.open_flows.get() == 1).await;
    })
    .await;
}

#[tokio::test]
async fn an_endpoint_that_is_closed_loses_its_flow() {
    with_relay(LIMITS, async |world| {
        let frontend = world.serve(world.frontend(Protocol::Udp), &[world.pod(2)]).await;
        let client = client().await;
        client.send_to(b"?", frontend).await.unwrap();
        world.until(|counters| counters.open_flows.get() == 1).await;
        echo(world.pod(2), 2).await; // the refusal has come by ICMP; the next datagram begins a flow
        assert_eq!(ask(&client, frontend, b"?").await[0], 2);
    })
    .await;
}

#[tokio::test]
async fn flows_end_like_those_of_conntrack() {
    with_relay(LIMITS, async |world| {
        echo(world.pod(2), 2).await;
        let _silent = UdpSocket::bind(world.pod(3)).await.unwrap();
        let frontend = world.serve(world.frontend(Protocol::Udp), &[world.pod(2)]).await;
        let (once, twice) = (client().await, client().await);
        ask(&once, frontend, b"?").await;
        ask(&twice, frontend, b"?").await;
        ask(&twice, frontend, b"?").await;
        time::pause();
        time::advance(Duration::from_secs(31)).await;
        world.until(|counters| counters.open_flows.get() == 1).await;
        time::advance(Duration::from_secs(80)).await;
        assert!(pends(&mut Box::pin(world.until(|counters| counters.open_flows.get() == 0))).await);
        time::advance(Duration::from_secs(10)).await;
        world.until(|counters| counters.open_flows.get() == 0).await;
        assert!(world.relay.flows.borrow().is_empty());
    })
    .await;
}

#[tokio::test]
async fn the_flow_that_was_silent_for_longest_makes_room() {
    with_relay(Limits { flows: 2, ..LIMITS }, async |world| {
        echo(world.pod(2), 2).await;
        let frontend = world.serve(world.frontend(Protocol::Udp), &[world.pod(2)]).await;
        let clients = [client().await, client().await, client().await];
        for index in [0, 1, 0, 2, 0] {
            ask(&clients[index], frontend, b"?").await;
        }
        let counters = &world.relay.shared.counters;
        assert_eq!((counters.open_flows.get(), counters.too_many.get()), (2, 1), "the second client's flow had to go");
    })
    .await;
}

#[tokio::test]
async fn a_node_port_answers_from_the_address_that_was_asked() {
    with_relay(LIMITS, async |world| {
        echo(world.pod(2), 2).await;
        let frontend =
            Frontend { protocol: Protocol::Udp, address: Ipv4Addr::UNSPECIFIED, port: 30_000 + u16::from(world.net) };
        world.set(frontend, &[world.pod(2)]);
        world.until(|counters| counters.listeners.get() == 3).await;
        let client = client().await;
        for address in [world.relay.shared.config.node_address, world.relay.shared.config.gateway, Ipv4Addr::LOCALHOST]
        {
            ask(&client, SocketAddrV4::new(address, frontend.port), b"?").await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_frontend_that_goes_closes_its_socket_at_once() {
    with_relay(LIMITS, async |world| {
        echo(world.pod(2), 2).await;
        let frontend = world.frontend(Protocol::Udp);
        let address = world.serve(frontend, &[world.pod(2)]).await;
        let client = client().await;
        ask(&client, address, b"?").await;
        world.relay.shared.table.remove(&frontend);
        world.until(|counters| counters.listeners.get() == 0).await;
        drop(UdpSocket::bind(address).await.unwrap());
        // The same client finds the next socket, though its flow is of the one before.
        world.serve(frontend, &[world.pod(2)]).await;
        ask(&client, address, b"?").await;
    })
    .await;
}
