//! What leads outside, for Pods that want it: the proxies and the trusted certificates of whoever called `up`, in a
//! ConfigMap. Nothing is put into Pods unasked.

use std::net::IpAddr;
use std::{fs, io};

use serde_json::{Map, Value, json};

/// A ConfigMap holds a MiB at most, with all else that is in it.
const LARGEST_BUNDLE: u64 = 900 << 10;

/// The ConfigMap, which is there whether there is a proxy or not, so that Pods can name it. `no_proxy` is what is never
/// behind one.
pub(crate) fn config_map(no_proxy: &str) -> Value {
    let variable = |name: &str| std::env::var(name).or_else(|_| std::env::var(name.to_lowercase())).ok();
    let mut data = proxies(variable, no_proxy);
    if let Some(bundle) = variable("SSL_CERT_FILE").and_then(|path| bundle(&path)) {
        data.insert("ca.crt".to_owned(), bundle.into());
    }
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"namespace": "kube-public", "name": "terrarium-egress"},
        "data": data,
    })
}

/// The variables by which programs find proxies, in both of their spellings.
fn proxies(variable: impl Fn(&str) -> Option<String>, no_proxy: &str) -> Map<String, Value> {
    let given =
        ["HTTP_PROXY", "HTTPS_PROXY"].into_iter().filter_map(|name| Some((name, for_pods(name, &variable(name)?)?)));
    let all = given.chain([("NO_PROXY", no_proxy.to_owned())]);
    all.flat_map(|(name, value)| [(name.to_owned(), value.clone().into()), (name.to_lowercase(), value.into())])
        .collect()
}

/// A proxy's address as Pods may have it, if they reach it: everyone who may read ConfigMaps would read its password.
fn for_pods(name: &str, proxy: &str) -> Option<String> {
    let (scheme, rest) = proxy.split_once("://").map_or(("http", proxy), |(scheme, rest)| (scheme, rest));
    // A password may hold any character, a slash too.
    let (credentials, server) = rest.rsplit_once('@').map_or((None, rest), |(user, server)| (Some(user), server));
    let server = server.split('/').next().unwrap_or_default();
    if credentials.is_some() {
        tracing::warn!(
            "{name} names a user: Pods that take it from the ConfigMap terrarium-egress have to add that themselves"
        );
    }
    let host = match server.strip_prefix('[') {
        Some(address) => address.split(']').next().unwrap_or_default(),
        None => server.split(':').next().unwrap_or_default(),
    };
    if host.is_empty() {
        return None;
    }
    if host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()) {
        tracing::warn!(
            "{name} is on loopback, where a Pod finds only itself: it is not in the ConfigMap terrarium-egress"
        );
        return None;
    }
    Some(format!("{scheme}://{server}"))
}

/// The trusted certificates in a file.
fn bundle(path: &str) -> Option<String> {
    let read = || match fs::metadata(path)?.len() {
        size if size > LARGEST_BUNDLE => Err(io::Error::other(format!("it is too large, {size} bytes"))),
        _ => fs::read_to_string(path),
    };
    read().inspect_err(|error| tracing::warn!("{path} is not in the ConfigMap terrarium-egress: {error}")).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_password_and_no_loopback_reaches_pods() {
        let given = |proxy: &str| for_pods("HTTPS_PROXY", proxy);
        for (proxy, expected) in [
            ("http://proxy.example:3128", Some("http://proxy.example:3128")),
            ("http://proxy.example:3128/", Some("http://proxy.example:3128")),
            ("proxy.example:3128", Some("http://proxy.example:3128")),
            ("https://user:p%40ss@word@proxy.example", Some("https://proxy.example")),
            ("socks5://[2001:db8::1]:1080", Some("socks5://[2001:db8::1]:1080")),
            ("http://127.0.0.1:3128", None),
            ("http://user:secret@localhost:3128", None),
            ("http://[::1]:3128", None),
            ("http://[::1]", None),
            ("http://user:pa/ss@proxy.example:3128", Some("http://proxy.example:3128")),
            ("", None),
        ] {
            assert_eq!(given(proxy).as_deref(), expected, "{proxy}");
        }
    }

    #[test]
    fn programs_find_the_proxies_by_either_spelling() {
        let variable = |name: &str| (name == "HTTPS_PROXY").then(|| "http://proxy.example:3128".to_owned());
        let all = proxies(variable, "10.43.0.0/16");
        let names: BTreeSet<_> = all.keys().map(String::as_str).collect();
        assert_eq!(names, BTreeSet::from(["HTTPS_PROXY", "NO_PROXY", "https_proxy", "no_proxy"]));
        assert_eq!(
            (&all["https_proxy"], &all["NO_PROXY"]),
            (&json!("http://proxy.example:3128"), &json!("10.43.0.0/16"))
        );
    }
}
