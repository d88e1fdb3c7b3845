//! The add-on `ingress`: Traefik as a process on the node, which serves every Ingress of the default class.
//!
//! It sends requests to the Pods' own addresses, which it reads from EndpointSlices, so it needs no Service proxy.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use crate::component::{self, CommandLine, Component, Name, Readiness, Runs, Spec};
use crate::layout::write;
use crate::{Error, Layout, objects, pki};

/// The add-on, its component, and its client certificate.
pub(crate) const NAME: Name = pki::INGRESS;

pub(crate) const PROGRAM: &str = "traefik";

/// HTTP, HTTPS, and on loopback the one that tells whether it is well; ingress-nginx has its health there, too.
pub(crate) const PORTS: &[u16] = &[HTTP, HTTPS, HEALTH];
const HTTP: u16 = 80;
const HTTPS: u16 = 443;
const HEALTH: u16 = 10254;

/// Who it is to the API.
pub(crate) const USER: &str = "system:terrarium:ingress";

/// The class of its Ingresses, by the name that users of Traefik know.
const CLASS: &str = "traefik";

pub(crate) fn component(spec: &Spec<'_>) -> Result<Component, Error> {
    let layout = spec.layout;
    let args = vec![format!("--configFile={}", layout.config("ingress.toml").display())];
    let kubeconfig = layout.config(&format!("{}.kubeconfig", pki::INGRESS)).display().to_string();
    let mut env = component::environment(spec);
    env.push(("KUBECONFIG", kubeconfig));
    let command = CommandLine { program: layout.component(PROGRAM)?, args };
    let ready = Readiness::Http { port: HEALTH, path: "/ping" };
    let runs = Runs::Service { command, env, ready };
    Ok(Component { name: NAME, label: "ingress", needs: &[component::SERVER], objects: objects(), runs })
}

/// Writes its configuration, by which it serves Ingresses and does nothing else. It must be a file: without one, Traefik
/// takes any `traefik.toml` that it finds where it is started, or in /etc, and ignores its arguments then.
pub(crate) fn write_config(layout: &Layout, address: Ipv4Addr) -> Result<(), Error> {
    write(&layout.config("ingress.toml"), config(address).as_bytes())
}

fn config(address: Ipv4Addr) -> String {
    let config = json!({
        "global": {"checkNewVersion": false, "sendAnonymousUsage": false},
        "log": {"level": "INFO", "noColor": true},
        "entryPoints": {
            "web": {"address": format!("0.0.0.0:{HTTP}"), "asDefault": true},
            // Every Ingress is served here, too; with Traefik's own certificate where it names none.
            "websecure": {"address": format!("0.0.0.0:{HTTPS}"), "asDefault": true, "http": {"tls": {}}},
            // Its own name for what is not for Ingresses.
            "traefik": {"address": format!("127.0.0.1:{HEALTH}")},
        },
        "ping": {},
        "providers": {"kubernetesIngress": {
            // /app is not /application: the API's word, which is not Traefik's default.
            "strictPrefixMatching": true,
            // A Service without Pods is 503, not 404.
            "allowEmptyServices": true,
            "ingressEndpoint": {"ip": address},
        }},
    });
    toml::to_string(&config).expect("strings, booleans and tables become TOML")
}

/// Its rights, and the class of the Ingresses that are its. Secrets, since an Ingress may name any for its certificate;
/// nodes, since Traefik's informers want them.
fn objects() -> Vec<Value> {
    let read = ["get", "list", "watch"];
    let rules = json!([
        {"apiGroups": [""], "resources": ["services", "secrets", "nodes"], "verbs": read},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": read},
        {"apiGroups": ["networking.k8s.io"], "resources": ["ingresses", "ingressclasses"], "verbs": read},
        {"apiGroups": ["networking.k8s.io"], "resources": ["ingresses/status"], "verbs": ["update"]},
    ]);
    let class = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IngressClass",
        "metadata": {
            "name": CLASS,
            "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"},
        },
        "spec": {"controller": "traefik.io/ingress-controller"},
    });
    objects::role_of_user(USER, rules).into_iter().chain([class]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_that_traefik_reads() {
        insta::assert_snapshot!(config(Ipv4Addr::new(192, 0, 2, 7)));
    }
}
