//! Events for containerd: told in order, by a thread of their own, so that no request waits for containerd.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use containerd_shim::event::Event;
use containerd_shim::protos::EventsClient;
use containerd_shim::protos::api::ForwardRequest;
use containerd_shim::protos::shim::event::Envelope;
use containerd_shim::protos::ttrpc::{Client, context};
use containerd_shim::util::{connect, convert_to_any, timestamp};
use containerd_shim::{debug, error, warn};

/// How long containerd may take for one event.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How often one is offered; in between the shim waits 1 s, 2 s and so on. A containerd that was not there that long asks for
/// every process's state when it comes back.
const TRIES: u64 = 5;
/// How long a connection is kept that nothing is sent on: it costs two threads.
const IDLE: Duration = Duration::from_secs(1);

/// Where events are put.
pub struct Events {
    namespace: String,
    queue: Sender<ForwardRequest>,
}

impl Events {
    /// Begins to publish to containerd's ttrpc socket at `address`. The receiver learns when all is told that was sent
    /// before the `Events` were dropped.
    pub fn new(address: String, namespace: &str) -> (Self, Receiver<()>) {
        let (queue, requests) = channel();
        let (told, all_told) = channel();
        thread::spawn(move || {
            publish(&address, &requests);
            drop(told);
        });
        (Self { namespace: namespace.to_owned(), queue }, all_told)
    }

    /// Puts one at the end of the queue.
    pub fn send(&self, event: impl Event) {
        let topic = event.topic();
        let envelope = timestamp().and_then(|timestamp| {
            let event = Some(convert_to_any(Box::new(event))?).into();
            let (namespace, topic) = (self.namespace.clone(), topic.clone());
            Ok(Envelope { timestamp: Some(timestamp).into(), namespace, topic, event, ..Envelope::default() })
        });
        match envelope {
            Ok(envelope) => {
                let request = ForwardRequest { envelope: Some(envelope).into(), ..ForwardRequest::default() };
                // Nobody listens at the very end.
                let _ = self.queue.send(request);
            }
            Err(error) => error!("event {topic}: {error}"),
        }
    }
}

fn publish(address: &str, requests: &Receiver<ForwardRequest>) {
    while let Ok(first) = requests.recv() {
        let mut client = None;
        deliver(address, &mut client, &first);
        loop {
            match requests.recv_timeout(IDLE) {
                Ok(next) => deliver(address, &mut client, &next),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }
}

fn deliver(address: &str, client: &mut Option<EventsClient>, request: &ForwardRequest) {
    for attempt in 1..=TRIES {
        match forward(address, client, request) {
            Ok(()) => return debug!("told {}", request.envelope.topic),
            Err(error) => {
                *client = None;
                warn!("event {}: {error}", request.envelope.topic);
            }
        }
        // The first error may be that of a connection which containerd's end has closed long since.
        if attempt > 1 {
            thread::sleep(Duration::from_secs(attempt - 1));
        }
    }
    error!("event {} was not told", request.envelope.topic);
}

fn forward(address: &str, client: &mut Option<EventsClient>, request: &ForwardRequest) -> containerd_shim::Result<()> {
    let connected = match client {
        Some(connected) => connected,
        None => client.insert(EventsClient::new(Client::new(connect(address)?)?)),
    };
    connected.forward(context::with_duration(TIMEOUT), request)?;
    Ok(())
}
