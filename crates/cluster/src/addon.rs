//! What a node can do without: some of it is there unless it is unwanted, `terrarium up --disable`, the rest if it is
//! asked for, `--enable`.
//!
//! An add-on is a component that nothing waits for. The cluster is up without it, and one that does not start is tried
//! again for as long as the cluster runs.

use std::fmt;
use std::rc::Rc;
use std::str::FromStr;
use std::time::Duration;

use tokio::time::sleep;

use serde_json::Value;

use crate::component::{Component, SERVER, Spec};
use crate::history::History;
use crate::runner::Shared;
use crate::{Error, Layout, ingress, metrics, objects, preflight, process};

/// How often is looked whether the ports are free.
const PORT_INTERVAL: Duration = Duration::from_secs(2);

/// An add-on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Addon {
    /// Ingress by Traefik, on ports 80 and 443 of the node.
    Ingress,
    /// What `kubectl top` and autoscalers ask, by metrics-server.
    MetricsServer,
}

impl Addon {
    /// All that there are.
    pub const ALL: &[Self] = &[Self::Ingress, Self::MetricsServer];

    /// The word for it, which is also its component's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ingress => ingress::NAME,
            Self::MetricsServer => metrics::NAME,
        }
    }

    /// Whether every node has it unless it is unwanted.
    #[must_use]
    pub fn is_default(self) -> bool {
        match self {
            Self::Ingress => false,
            Self::MetricsServer => true,
        }
    }

    /// The add-on whose component this is.
    pub(crate) fn of(component: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|addon| addon.name() == component)
    }

    /// Its program, in the directory of the components.
    pub(crate) fn program(self) -> &'static str {
        match self {
            Self::Ingress => ingress::PROGRAM,
            Self::MetricsServer => metrics::PROGRAM,
        }
    }

    pub(crate) fn component(self, spec: &Spec<'_>) -> Result<Component, Error> {
        match self {
            Self::Ingress => ingress::component(spec),
            Self::MetricsServer => metrics::component(spec),
        }
    }

    /// The ports that it listens on.
    fn ports(self) -> &'static [u16] {
        match self {
            Self::Ingress => ingress::PORTS,
            Self::MetricsServer => metrics::PORTS,
        }
    }

    /// The API that it serves as part of the cluster's.
    fn api_service(self, layout: &Layout) -> Result<Option<Value>, Error> {
        match self {
            Self::Ingress => Ok(None),
            Self::MetricsServer => metrics::api_service(layout).map(Some),
        }
    }

    /// Has the API that it serves be part of the cluster's while there is a server for it. Of one without, every discovery
    /// tells, and no namespace comes to its end: so what an earlier start left is taken back, and it is put there when the
    /// server answers.
    pub(crate) async fn announce(self, shared: Rc<Shared>) {
        let (layout, name) = (&shared.layout, self.name());
        let api = match self.api_service(layout) {
            Ok(Some(api)) => api,
            Ok(None) => return,
            Err(error) => return shared.warn(format!("{name}: {}", crate::error::chain(&error))),
        };
        shared.until_ready(SERVER).await;
        // One that an earlier supervisor started serves.
        if process::recorded(layout, name).is_none() {
            objects::withdraw(&shared, &api).await;
        }
        if shared.knows(name) {
            shared.until_ready(name).await;
            objects::ensure(&shared, &[api]).await;
        }
    }

    /// Waits until its process can do its work: until its ports are free.
    pub(crate) async fn prepare(self, shared: &Shared) {
        let name = self.name();
        // One that an earlier supervisor started has the ports itself.
        if process::recorded(&shared.layout, name).is_none() {
            self.wait_for_ports(shared).await;
        }
    }

    /// Another port than the one that everybody expects would be found by nobody, so there is none: it waits.
    async fn wait_for_ports(self, shared: &Shared) {
        let (layout, name) = (&shared.layout, self.name());
        let mut history = History::load(layout, name);
        let mut told = Vec::new();
        loop {
            let used: Vec<u16> = self.ports().iter().copied().filter(|port| preflight::is_used(*port)).collect();
            if used != told {
                let why = (!used.is_empty()).then(|| waits_for(&used, preflight::holder));
                if let Some(why) = &why {
                    shared.warn(format!("{name}: {why}"));
                }
                history.is_unhealthy(layout, name, why);
                told = used;
            }
            if told.is_empty() {
                return;
            }
            sleep(PORT_INTERVAL).await;
        }
    }
}

/// Which ports are used by whom, and what follows.
fn waits_for(ports: &[u16], holder: impl Fn(u16) -> Option<String>) -> String {
    let used = ports.iter().map(|port| {
        let holder = holder(*port).unwrap_or_else(preflight::anonymous);
        format!("port {port} is used by {holder}")
    });
    let used = used.collect::<Vec<_>>().join(", and ");
    format!("{used}; it starts by itself when that is free, and the rest of the cluster does without it")
}

impl fmt::Display for Addon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Addon {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::of(text).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|addon| addon.name()).collect();
            format!("there is no add-on {text}; there are: {}", known.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_add_on_is_known_by_its_components_name() {
        for addon in Addon::ALL {
            assert_eq!(addon.to_string().parse(), Ok(*addon));
            assert_eq!(Addon::of(addon.name()), Some(*addon));
        }
        assert_eq!(Addon::of("kubelet"), None);
        assert_eq!(
            "kubelet".parse::<Addon>(),
            Err("there is no add-on kubelet; there are: ingress, metrics-server".to_owned())
        );
    }

    #[test]
    fn each_used_port_is_told_with_its_holder() {
        let holder = |port| (port == 80).then(|| "process 7 (nginx)".to_owned());
        let text = waits_for(&[80, 443], holder);
        assert!(
            text.starts_with("port 80 is used by process 7 (nginx), and port 443 is used by another process; "),
            "{text}"
        );
    }
}
