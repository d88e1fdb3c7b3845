use std::fs;

use super::*;

fn read(text: &str) -> Result<Rules, String> {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("rules.json");
    fs::write(&path, text).expect("it is written");
    Rules::read(&path).map_err(|error| error.to_string().replace(&path.display().to_string(), "RULES"))
}

#[test]
fn rules_of_each_kind_are_read() {
    let rules = read(
        r#"{"statfs": [{"from": "0x65735546", "to": "0x27e0eb", "below": ["/sys"]}, {"from": 16914839, "to": 61267}],
            "redirect": [{"from": "/proc/sys/", "to": "/tmp"}, {"from": "/nowhere", "to": "/etc", "calls": ["openat"]}],
            "files": [{"path": "/etc/made", "content": "text\n"}], "uname": {"release": "6.1.0"}}"#,
    )
    .expect("they are right");
    let labels = [
        "statfs 0x65735546 as 0x27e0eb /sys",
        "statfs 0x1021997 as 0xef53",
        "redirect /proc/sys/",
        "redirect /nowhere",
        "file /etc/made",
        "uname",
    ];
    assert_eq!(rules.labels, labels);
    assert_eq!(rules.calls(), Set::of(|_| true));
}

#[test]
fn only_what_rules_are_about_stops() {
    let calls = |text| read(text).expect("they are right").calls();
    let statfs = calls(r#"{"statfs": [{"from": "0x1", "to": "0x2"}]}"#);
    assert_eq!(statfs, Set::of(|call| call.name.ends_with("statfs")));
    assert_eq!(calls(r#"{"uname": {"version": "1"}}"#), Set::of(|call| call.name == "uname"));
    let openat = calls(r#"{"redirect": [{"from": "/a", "to": "/tmp", "calls": ["openat"]}]}"#);
    assert_eq!(openat, Set::of(|call| ["openat", "chroot", "pivot_root"].contains(&call.name)));
}

#[test]
fn each_bad_rule_is_named_with_what_is_wrong() {
    let long = "x".repeat(65);
    for (text, said) in [
        ("{", "RULES: rules: EOF while parsing an object at line 1 column 1"),
        ("{} {}", "RULES: after the rules: trailing characters at line 1 column 4"),
        ("{}", "RULES: rules: there is no rule; give some of statfs, redirect, files and uname"),
        (r#"{"stat": []}"#, "RULES: stat: unknown field `stat`, expected one of"),
        (r#"{"statfs": [{"from": 1}]}"#, "RULES: statfs[0]: missing field `to`"),
        (r#"{"statfs": [{"from": 1, "to": "ext4"}]}"#, "RULES: statfs[0].to: \"ext4\" is no magic number"),
        (r#"{"statfs": [{"from": 1, "to": -1}]}"#, "RULES: statfs[0].to: a magic number such as"),
        (r#"{"statfs": [{"from": 1, "to": 1}]}"#, "RULES: statfs[0].to: it is the same as from"),
        (
            r#"{"statfs": [{"from": 1, "to": 2, "below": ["sys"]}]}"#,
            "RULES: statfs[0].below[0]: \"sys\" is no absolute",
        ),
        (r#"{"redirect": [{"from": "/a/../b", "to": "/tmp"}]}"#, "RULES: redirect[0].from: \"/a/../b\" is no absolute"),
        (r#"{"redirect": [{"from": "/", "to": "/tmp"}]}"#, "RULES: redirect[0].from: \"/\" is no absolute path"),
        (r#"{"redirect": [{"from": "/a", "to": "tmp"}]}"#, "RULES: redirect[0].to: \"tmp\" is no absolute path"),
        (r#"{"redirect": [{"from": "/a", "to": "/no/such"}]}"#, "RULES: redirect[0].to: /no/such: No such file"),
        (r#"{"redirect": [{"from": "/etc", "to": "/etc"}]}"#, "RULES: redirect[0].to: /etc is below what is"),
        (
            r#"{"redirect": [{"from": "/a", "to": "/tmp", "calls": ["unlink"]}]}"#,
            "RULES: redirect[0].calls: no such call as \"unlink\"; there are open, stat, lstat",
        ),
        (r#"{"redirect": [{"from": "/a", "to": "/tmp", "calls": []}]}"#, "RULES: redirect[0].calls: no call is named"),
        (
            r#"{"redirect": [{"from": "/a", "to": "/tmp"}], "files": [{"path": "/a", "content": ""}]}"#,
            "RULES: redirect and files: /a is given twice",
        ),
        (
            r#"{"redirect": [{"from": "/etc/passwd/x", "to": "/tmp"}]}"#,
            "RULES: redirect[0].from: /etc/passwd/x: Not a dir",
        ),
        (
            r#"{"statfs": [{"from": 1, "to": 2, "below": ["/tmp", "/dev/null/x"]}]}"#,
            "RULES: statfs[0].below[1]: /dev/null/x: Not a directory",
        ),
        (r#"{"files": [{"path": "a", "content": ""}]}"#, "RULES: files[0].path: \"a\" is no absolute path"),
        (r#"{"uname": {}}"#, "RULES: uname: it changes nothing"),
        (r#"{"uname": {"release": 6}}"#, "RULES: uname.release: invalid type: integer"),
        (&format!(r#"{{"uname": {{"release": "{long}"}}}}"#), "RULES: uname.release: it may have 64 bytes"),
    ] {
        let error = read(text).expect_err(text);
        assert!(error.starts_with(said), "{text}\n{error}\n{said}");
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = Rules::read(Path::new("/no/such/rules")).expect_err("it is not there");
    assert_eq!(error.to_string(), "cannot read the rules /no/such/rules");
}
