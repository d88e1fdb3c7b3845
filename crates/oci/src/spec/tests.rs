use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::capabilities::Capabilities;

/// A configuration that is valid.
fn valid() -> Value {
    json!({
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs"},
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["true"], "cwd": "/"},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "hostname": "box",
        "linux": {
            "namespaces": [{"type": "mount"}, {"type": "uts"}, {"type": "pid"}],
            "maskedPaths": ["/proc/kcore"],
            "seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}
        },
        "hooks": {"prestart": [{"path": "/bin/true", "timeout": 1}]}
    })
}

fn judge(config: &Value) -> Result<()> {
    validate(&parse(config.to_string().as_bytes())?, &mut Vec::new()).map(|_| ())
}

#[test]
fn a_valid_configuration_is_accepted() {
    judge(&valid()).expect("valid");
}

#[test]
fn an_error_names_the_field() {
    let cases = [
        ("/process/args", json!([]), "process.args: must not be empty"),
        ("/process/args", json!(["a\0b"]), "process.args[0]: holds a NUL"),
        ("/process/cwd", json!("here"), "process.cwd: \"here\" is not absolute"),
        ("/process/user/uid", json!("root"), "process.user.uid: invalid type: string \"root\", expected u32"),
        ("/process/oomScoreAdj", json!(2000), "process.oomScoreAdj: is not within -1000 and 1000"),
        ("/process/apparmorProfile", json!("x"), "process.apparmorProfile: is not supported"),
        ("/process/rlimits", json!([{"type": "RLIMIT_X", "soft": 1, "hard": 1}]), "process.rlimits[0].type: unknown"),
        ("/ociVersion", json!("2.0.0"), "ociVersion: \"2.0.0\" is not a version 1"),
        ("/linux/namespaces/2/type", json!("space"), "linux.namespaces[2].type: unknown variant `space`"),
        ("/linux/namespaces/0/path", json!("x"), "linux.namespaces[0].path: is not absolute"),
        ("/linux/maskedPaths/0", json!("kcore"), "linux.maskedPaths[0]: \"kcore\" is not absolute"),
        ("/linux/rootfsPropagation", json!("wide"), "linux.rootfsPropagation: \"wide\" is not known"),
        ("/linux/sysctl", json!({"kernel.panic": "1"}), "linux.sysctl[\"kernel.panic\"]: belongs to no namespace"),
        ("/linux/sysctl", json!({"net.x": "1"}), "linux.sysctl[\"net.x\"]: needs a net namespace"),
        ("/linux/uidMappings", json!([{"hostID": 0, "containerID": 0, "size": 1}]), "linux.uidMappings: needs a user"),
        ("/linux/intelRdt", json!({}), "linux.intelRdt: is not supported"),
        ("/linux/seccomp/defaultAction", json!("NO"), "linux.seccomp.defaultAction: unknown variant `NO`"),
        ("/mounts/0/options", json!(["ridmap"]), "mounts[0].options: ridmap is not supported"),
        ("/mounts/0/type", json!("bind"), ""),
        ("/hooks/prestart/0/path", json!("true"), "hooks.prestart[0].path: is not absolute"),
        ("/hooks/prestart/0/timeout", json!(0), "hooks.prestart[0].timeout: is not more than 0"),
    ];
    for (field, value, expected) in cases {
        let mut config = valid();
        let (parent, name) = field.rsplit_once('/').expect("a path");
        match config.pointer_mut(parent).expect("a parent") {
            Value::Array(list) => list[name.parse::<usize>().expect("an index")] = value,
            parent => parent[name] = value,
        }
        match judge(&config) {
            Ok(()) => assert_eq!(expected, "", "{field} was accepted"),
            Err(error) => assert!(error.to_string().starts_with(expected) && !expected.is_empty(), "{field}: {error}"),
        }
    }
}

#[test]
fn a_hostname_needs_a_namespace() {
    let mut config = valid();
    config["linux"]["namespaces"] = json!([{"type": "mount"}]);
    assert_eq!(judge(&config).expect_err("no uts namespace").to_string(), "hostname: needs a uts namespace");
}

/// Any JSON, of the names that a configuration has.
pub(crate) fn any_json() -> impl Strategy<Value = Value> {
    let names = "ociVersion|process|args|cwd|user|uid|linux|namespaces|type|path|mounts|options|destination|hooks|\
                 prestart|root|resources|seccomp|sysctl|uidMappings|size|hostID|containerID|rlimits|devices";
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-2..3_i64).prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        "1\\.0|/|mount|pid|user|bind|RLIMIT_CPU|SCMP_ACT_ALLOW".prop_map(Value::from),
    ];
    let nested = leaf.clone().prop_recursive(5, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(names, inner, 0..6).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    });
    prop_oneof![leaf, nested]
}

/// JSON with anything in the place of one of its values.
pub(crate) fn changed(mut json: Value, place: usize, value: Value) -> Value {
    fn places(value: &Value, at: &str, all: &mut Vec<String>) {
        all.push(at.to_owned());
        match value {
            Value::Object(map) => map.iter().for_each(|(name, inner)| places(inner, &format!("{at}/{name}"), all)),
            Value::Array(list) => {
                list.iter().enumerate().for_each(|(index, inner)| places(inner, &format!("{at}/{index}"), all));
            }
            _ => {}
        }
    }
    let mut all = Vec::new();
    places(&json, "", &mut all);
    *json.pointer_mut(&all[place % all.len()]).expect("one of its places") = value;
    json
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in ".{0,200}") {
        let _ = parse::<Spec>(text.as_bytes());
        let _ = parse::<Process>(text.as_bytes());
    }

    #[test]
    fn no_json_makes_it_panic(config in any_json()) {
        let _ = judge(&config);
    }

    #[test]
    fn any_wrong_value_is_told_by_its_field(place in any::<usize>(), value in any_json()) {
        if let Err(error) = judge(&changed(valid(), place, value)) {
            let known = [
                "[", "annotations", "configuration", "domainname", "gidMappings", "hooks", "hostname", "linux", "mounts",
                "ociVersion", "process", "root", "solaris", "uidMappings", "vm", "windows", "zos",
            ];
            let text = error.to_string();
            prop_assert!(known.iter().any(|field| text.starts_with(field)), "{}", text);
        }
    }

    /// As it comes in a file of its own for an `exec`.
    #[test]
    fn any_wrong_process_is_told_by_its_field(place in any::<usize>(), value in any_json()) {
        let judge = |process: &Value| {
            let process: Process = parse(process.to_string().as_bytes())?;
            validate_process(&process, "process")?;
            Capabilities::new(process.capabilities().as_ref());
            Ok::<_, Error>(())
        };
        let valid = json!({
            "terminal": true, "consoleSize": {"height": 1, "width": 1},
            "user": {"uid": 1, "gid": 1, "umask": 18, "additionalGids": [1]}, "args": ["sh", "-c"], "env": ["A=b"],
            "cwd": "/", "capabilities": {"bounding": ["CAP_KILL"], "ambient": ["CAP_KILL"]}, "oomScoreAdj": 1,
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 2, "soft": 1}], "noNewPrivileges": true
        });
        judge(&valid).expect("valid");
        if let Err(error) = judge(&changed(valid.clone(), place, value)) {
            let text = error.to_string();
            let mut known = valid.as_object().expect("an object").keys().map(String::as_str).chain(["process", "configuration", "["]);
            prop_assert!(known.any(|field| text.starts_with(field)), "{}", text);
        }
    }
}
