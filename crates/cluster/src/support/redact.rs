//! Taking secrets out of texts that leave the machine: by what they are known to be, and by what secrets look like.

use std::fs;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use regex::{Captures, Regex};
use serde_json::Value;

use crate::Layout;

const REMOVED: &str = "[removed]";

/// A shorter line of a key is no secret, and would be found everywhere.
const SHORTEST: usize = 16;

/// What secrets look like. What the group `kept` matches stays.
static PATTERNS: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    [
        // Private keys in PEM.
        r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\z)",
        // JSON Web Tokens, as service accounts have.
        r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*",
        r"(?i)(?P<kept>\bbearer\s+)[A-Za-z0-9._~+/=-]{8,}",
        r"(?i)(?P<kept>authorization:\s*)\S+(\s+\S+)?",
        // User and password in a URL, as of a proxy.
        r#"(?P<kept>://)[^/\s:@"']*(:[^/\s@"']*)?@"#,
        // Fields of kubeconfigs and the like. A Kubernetes object below such a name is looked at by itself.
        r#"(?i)(?P<kept>(client-key-data|token|password|passwd|secret|api[_-]?key|access[_-]?key)["']?\s*[:=]\s*["']?)[^\s"',{}\[\]]+"#,
    ]
    .iter()
    .map(|pattern| Regex::new(pattern).expect("constant patterns are valid"))
    .collect()
});

/// The line of a field as above whose value is on the lines after it, which are indented further: a block of YAML. Every
/// long value is one where serde-saphyr writes it.
static BLOCK: LazyLock<Regex> = LazyLock::new(|| {
    let names = r"(client-key-data|token|password|passwd|secret|api[_-]?key|access[_-]?key)";
    let pattern = format!(
        r#"(?i)^(?P<indent>[ -]*)(?P<key>["']?[\w./-]*{names}["']?\s*:\s*)([!&]\S*\s+)*[|>][-+0-9]*\s*(#.*)?$"#
    );
    Regex::new(&pattern).expect("constant patterns are valid")
});

/// Takes secrets out of texts.
#[derive(Debug, Default)]
pub(crate) struct Redactor {
    /// Parts of the cluster's own keys.
    known: Vec<String>,
}

impl Redactor {
    /// Knows the cluster's own private keys, as far as they can be read.
    pub(crate) fn new(layout: &Layout) -> Self {
        let entries = fs::read_dir(layout.pki("")).into_iter().flatten().filter_map(Result::ok);
        let keys = entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|name| name == "key"));
        let mut known = Vec::new();
        for pem in keys.filter_map(|path| fs::read_to_string(path).ok()) {
            known.push(BASE64.encode(&pem));
            let body = pem.lines().filter(|line| !line.starts_with("-----") && line.len() >= SHORTEST);
            known.extend(body.map(str::to_owned));
        }
        Self { known }
    }

    /// The text without its secrets.
    pub(crate) fn text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.known {
            text = text.replace(secret, REMOVED);
        }
        text = without_blocks(&text);
        for pattern in PATTERNS.iter() {
            let replaced = pattern.replace_all(&text, |found: &Captures<'_>| {
                let kept = found.name("kept").map_or("", |kept| kept.as_str());
                let end = if kept == "://" { "@" } else { "" };
                format!("{kept}{REMOVED}{end}")
            });
            text = replaced.into_owned();
        }
        text
    }
}

/// The text without the values that are blocks of YAML.
fn without_blocks(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    // How far the key of the block is indented whose lines are passed over.
    let mut block = None;
    for line in text.split_inclusive('\n') {
        let indent = line.len() - line.trim_start_matches(' ').len();
        if block.is_some_and(|key| line.trim().is_empty() || indent > key) {
            continue;
        }
        block = None;
        if let Some(found) = BLOCK.captures(line.trim_end()) {
            block = Some(found["indent"].len());
            kept += &format!("{}{}{REMOVED}\n", &found["indent"], &found["key"]);
        } else {
            kept += line;
        }
    }
    kept
}

/// Takes out of Kubernetes objects what may be secret by its place: values of environment variables, the copies that
/// kubectl keeps of whole objects; and what is only long.
pub(crate) fn strip(object: &mut Value) {
    match object {
        Value::Array(items) => items.iter_mut().for_each(strip),
        Value::Object(fields) => {
            fields.remove("managedFields");
            if let Some(Value::Object(annotations)) = fields.get_mut("annotations") {
                annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
            }
            if let Some(Value::Array(variables)) = fields.get_mut("env") {
                for value in variables.iter_mut().filter_map(|variable| variable.get_mut("value")) {
                    *value = REMOVED.into();
                }
            }
            fields.values_mut().for_each(strip);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use kube::config::{AuthInfo, Kubeconfig, NamedAuthInfo};
    use serde_json::json;

    use super::*;

    fn redacted(text: &str) -> String {
        Redactor::default().text(text)
    }

    #[test]
    fn what_looks_like_a_secret_is_removed_and_the_rest_stays() {
        for (text, expected) in [
            ("a -----BEGIN EC PRIVATE KEY-----\nMIG\n-----END EC PRIVATE KEY----- b", "a [removed] b"),
            ("cut off: -----BEGIN PRIVATE KEY-----\nMIGHAgEA", "cut off: [removed]"),
            ("got eyJhbGciOiJSUzI1.eyJhdWQiOlsia3.c2lnbmF0dXJl!", "got [removed]!"),
            ("Authorization: Basic dXNlcjpwYXNz", "Authorization: [removed]"),
            ("header \"Bearer abcdefgh12345678\"", "header \"Bearer [removed]\""),
            ("proxy http://me:pass@proxy:3128/x", "proxy http://[removed]@proxy:3128/x"),
            ("    client-key-data: LS0tLS1CRUdJTg==\n", "    client-key-data: [removed]\n"),
            ("{\"token\":\"abc\",\"user\":\"me\"}", "{\"token\":\"[removed]\",\"user\":\"me\"}"),
            ("password=hunter2 next", "password=[removed] next"),
        ] {
            assert_eq!(redacted(text), expected);
        }
        for harmless in [
            "pulled docker.io/library/nginx@sha256:0123",
            "https://10.43.0.1:443/api/v1/pods?a@b",
            "\"serviceAccountToken\": {\"path\": \"token\"}",
            "certificate-authority-data: LS0tLS1CRUdJTi==",
            "--service-account-key-file=/var/lib/terrarium/pki/service-account.pub",
        ] {
            assert_eq!(redacted(harmless), harmless);
        }
    }

    #[test]
    fn values_that_are_blocks_are_removed_to_their_end() {
        for (text, expected) in [
            ("- token: >-\n    abc\n\n    def\n  name: x\n", "- token: [removed]\n  name: x\n"),
            ("  \"password\": |2+ # why\n      abc\n    def\nname: x", "  \"password\": [removed]\nname: x"),
            ("id-token: !!str >\n abc", "id-token: [removed]\n"),
            ("note: >-\n  abc\n", "note: >-\n  abc\n"),
        ] {
            assert_eq!(redacted(text), expected);
        }
    }

    #[test]
    fn keys_are_removed_from_a_kubeconfig_as_it_is_written() {
        let key = BASE64.encode("a private key of many letters ".repeat(20));
        let user = AuthInfo { client_key_data: Some(key.clone().into()), ..AuthInfo::default() };
        let with_token = AuthInfo { token: Some(key.clone().into()), ..AuthInfo::default() };
        let named = |name: &str, user| NamedAuthInfo { name: name.into(), auth_info: Some(user), ..Default::default() };
        let config = Kubeconfig {
            auth_infos: vec![named("a", user), named("b", with_token)],
            current_context: Some("kept".to_owned()),
            ..Kubeconfig::default()
        };
        let written = serde_saphyr::to_string(&config).unwrap();
        assert!(written.contains("client-key-data: >") && written.contains(&key), "{written}");
        let text = redacted(&written);
        assert!(!text.contains(&key[..20]) && !text.contains(&key[key.len() - 20..]), "{text}");
        assert_eq!(text.matches(": [removed]\n").count(), 2, "{text}");
        assert!(text.contains("name: b") && text.contains("current-context: kept"), "{text}");
    }

    #[test]
    fn the_clusters_own_keys_are_removed_wherever_they_stand() {
        let (_root, layout) = Layout::temporary();
        let pem = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqG\nshort\n-----END PRIVATE KEY-----\n";
        fs::write(layout.pki("admin.key"), pem).unwrap();
        let redactor = Redactor::new(&layout);
        let text = format!("x: {} y: MIGHAgEAMBMGByqGSM49AgEGCCqG short", BASE64.encode(pem));
        assert_eq!(redactor.text(&text), "x: [removed] y: [removed] short");
    }

    #[test]
    fn values_of_environment_variables_are_removed_from_objects() {
        let mut pods = json!({"items": [{
            "metadata": {
                "managedFields": [{}],
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{all}", "kept": "yes"},
            },
            "spec": {"containers": [{"env": [{"name": "A", "value": "s"}, {"name": "B", "valueFrom": {}}]}]},
        }]});
        strip(&mut pods);
        let expected = json!({"items": [{
            "metadata": {"annotations": {"kept": "yes"}},
            "spec": {"containers": [{"env": [{"name": "A", "value": "[removed]"}, {"name": "B", "valueFrom": {}}]}]},
        }]});
        assert_eq!(pods, expected);
    }
}
