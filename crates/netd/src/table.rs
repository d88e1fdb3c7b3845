//! The table that leads from frontends to endpoints.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;
use std::time::Duration;

use ipnet::Ipv4Net;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// A transport protocol that is proxied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
}

/// An address, port and protocol that clients talk to. Address 0.0.0.0 stands for the node's own addresses (node ports).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Frontend {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its port.
    pub port: u16,
}

/// A port of an object: of a Service mostly, of a Pod for host ports.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner {
    /// `Service` or `Pod`.
    pub kind: &'static str,
    /// The object's namespace.
    pub namespace: String,
    /// The object's name.
    pub name: String,
    /// The object's UID, by which events are filed.
    pub uid: String,
    /// The port's name; empty where a single port needs none.
    pub port: String,
}

/// Where a frontend leads.
#[derive(Clone, Debug)]
pub struct Route {
    /// Whose frontend it is.
    pub owner: Rc<Owner>,
    /// The endpoints that new connections go to, each as good as any other.
    pub endpoints: Rc<[SocketAddrV4]>,
    /// What happens where there is no endpoint.
    pub otherwise: Otherwise,
    /// Session affinity by the client's address, for so long after its last connection.
    pub affinity: Option<Duration>,
    /// The sources that may use it (loadBalancerSourceRanges); empty: all.
    pub sources: Rc<[Ipv4Net]>,
    /// Whether it goes by the relay.
    pub way: Way,
    /// What has been carried.
    pub traffic: Rc<Traffic>,
}

/// By which way connections go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Way {
    /// By the relay, unless what it carries says that the other is better.
    #[default]
    Measured,
    /// By the relay, always.
    Relay,
    /// By rules of the kernel, if it has room and can do all that the Service asks for.
    InStack,
}

/// What happens to a client where there is no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Otherwise {
    /// It is told at once: a TCP reset.
    Reject,
    /// It hears nothing: endpoints are there, but not for this traffic policy.
    Drop,
}

/// What a port of a Service has carried since it is there.
#[derive(Debug, Default)]
pub struct Traffic {
    /// New connections, or flows of UDP.
    pub connections: Cell<u64>,
    /// Bytes, both ways.
    pub bytes: Cell<u64>,
}

/// All routes. Who subscribes is told which frontends changed, and looks them up.
#[derive(Debug, Default)]
pub struct Table {
    routes: RefCell<HashMap<Frontend, Rc<Route>>>,
    subscribers: RefCell<Vec<UnboundedSender<Frontend>>>,
}

impl Table {
    /// The route of a frontend, if it has one.
    pub fn get(&self, frontend: &Frontend) -> Option<Rc<Route>> {
        self.routes.borrow().get(frontend).cloned()
    }

    /// Leads a frontend somewhere, or elsewhere.
    pub fn set(&self, frontend: Frontend, route: Route) {
        self.routes.borrow_mut().insert(frontend, Rc::new(route));
        self.tell(frontend);
    }

    /// Takes a frontend away.
    pub fn remove(&self, frontend: &Frontend) {
        if self.routes.borrow_mut().remove(frontend).is_some() {
            self.tell(*frontend);
        }
    }

    /// The frontends that change from now on, after those that are there already.
    pub fn subscribe(&self) -> UnboundedReceiver<Frontend> {
        let (sender, receiver) = unbounded_channel();
        for frontend in self.routes.borrow().keys() {
            let _ = sender.send(*frontend); // its receiver is right here
        }
        self.subscribers.borrow_mut().push(sender);
        receiver
    }

    /// All routes, in no order.
    pub fn all(&self) -> Vec<(Frontend, Rc<Route>)> {
        self.routes.borrow().iter().map(|(frontend, route)| (*frontend, route.clone())).collect()
    }

    fn tell(&self, frontend: Frontend) {
        self.subscribers.borrow_mut().retain(|subscriber| subscriber.send(frontend).is_ok());
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.address, self.port, self.protocol)
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)?;
        if self.port.is_empty() { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}
