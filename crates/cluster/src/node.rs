//! What this machine is called as a node.

/// The longest name that is also a label's value (kubernetes.io/hostname), in bytes.
const NAME_LIMIT: usize = 63;

/// The node's name: the host's, in the form that Kubernetes takes.
pub(crate) fn name() -> String {
    let host = nix::unistd::gethostname().unwrap_or_default();
    sanitized(&host.to_string_lossy())
}

/// A name of lower-case labels parted by dots, each beginning and ending with a letter or a digit (RFC 1123).
fn sanitized(host: &str) -> String {
    let name: String = host
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' })
        .take(NAME_LIMIT)
        .collect();
    let labels: Vec<&str> =
        name.split('.').map(|label| label.trim_matches('-')).filter(|label| !label.is_empty()).collect();
    if labels.is_empty() { "node".to_owned() } else { labels.join(".") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_host_name_that_is_valid_stays() {
        for (host, node) in [
            ("sandbox-1", "sandbox-1"),
            ("a.example.org", "a.example.org"),
            ("Dev_Box", "dev-box"),
            ("-edge-", "edge"),
            ("a..b", "a.b"),
            ("a.-b-.c", "a.b.c"),
            ("\u{fc}ber", "ber"),
            ("", "node"),
            ("...", "node"),
        ] {
            assert_eq!(sanitized(host), node, "{host:?}");
        }
    }

    proptest! {
        #[test]
        fn every_host_name_becomes_a_node_name(host in "([a-zA-Z0-9._-]{0,70}|\\PC{0,70})") {
            let name = sanitized(&host);
            prop_assert!((1..=NAME_LIMIT).contains(&name.len()), "{}", name);
            for label in name.split('.') {
                let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
                prop_assert!(label.starts_with(inner) && label.ends_with(inner), "{}", name);
                prop_assert!(label.chars().all(|c| inner(c) || c == '-'), "{}", name);
            }
            prop_assert_eq!(sanitized(&name), name);
        }
    }
}
