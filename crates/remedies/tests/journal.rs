//! Journals: what they undo, in which namespace, after which accident. Real mounts, in a mount namespace of the test's.

use std::fs;
use std::path::Path;

use terrarium_gaps::{GapId, Rung};
use terrarium_remedies::{Action, Isolation, Journal, Plan, Purpose, Setting, Step, namespace};

/// Runs the test on a thread in its own mount namespace; says so and does nothing where that is refused.
fn in_namespace(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        scope.spawn(|| match namespace::enter_new(Isolation::Mount) {
            Ok(()) => test(),
            Err(error) => eprintln!("skipped: no mount namespace for the test: {error}"),
        });
    });
}

/// A plan of these actions, for a gap whose remedy has nothing to verify.
fn plan(actions: Vec<Action>) -> Plan {
    let purpose = Purpose::Gap { gap: GapId::Netfilter, rung: Rung::Replacement };
    let step = Step { purpose, does: String::new(), evidence: String::new(), skipped: Vec::new(), actions };
    Plan { isolation: Isolation::Mount, steps: vec![step], open: Vec::new() }
}

#[test]
fn what_was_applied_is_reverted_exactly() {
    let directory = tempfile::tempdir().unwrap();
    in_namespace(|| {
        let mounts = || fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let before = mounts();
        let run = directory.path().join("run/deep");
        let there = directory.path().join("there");
        fs::create_dir(&there).unwrap();
        let setting = Setting::ApiServer { flag: "--flag".to_owned(), value: "value".to_owned() };
        let plan = plan(vec![
            Action::CreateDir { path: run.clone() },
            Action::CreateDir { path: there.clone() },
            Action::Mount { fstype: "tmpfs".to_owned(), target: run.clone(), options: "mode=0755".to_owned() },
            Action::CreateFile { path: run.join("file"), content: "1".to_owned() },
            Action::Bind { source: "/dev/null".into(), target: run.join("file") },
            Action::Configure(setting.clone()),
        ]);
        let path = directory.path().join("journal");
        let mut journal = Journal::create(&path, Isolation::Mount).unwrap();
        plan.apply(&mut journal).unwrap();
        assert_ne!(before, mounts());
        assert_eq!(fs::read_to_string(run.join("file")).unwrap(), "", "the bind is over it");

        // Whoever comes later reads the same from the file.
        drop(journal);
        let journal = Journal::open(&path).unwrap().unwrap();
        assert_eq!(journal.settings().collect::<Vec<_>>(), [&setting]);
        journal.revert().unwrap();
        assert_eq!(before, mounts());
        assert!(!path.exists() && !directory.path().join("run").exists());
        assert!(there.exists(), "a directory that was there before stays, empty as it is");
    });
}

#[test]
fn a_sysctl_gets_back_the_value_that_it_had() {
    // What is written is an ordinary file here: what counts is which value comes back.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ip_forward");
    let sysctl = |value: &str| Action::Sysctl { path: path.clone(), value: value.to_owned(), before: None };
    for (value, journalled) in [("1", 1), ("0", 0)] {
        fs::write(&path, "0\n").unwrap();
        let journal_path = directory.path().join("journal");
        let mut journal = Journal::create(&journal_path, Isolation::Mount).unwrap();
        plan(vec![sysctl(value)]).apply(&mut journal).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap().trim(), value);
        drop(journal);
        assert_eq!(
            fs::read_to_string(&journal_path).unwrap().lines().count(),
            1 + journalled,
            "one that holds it stays"
        );
        Journal::open(&journal_path).unwrap().unwrap().revert().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap().trim(), "0");
    }
}

#[test]
fn a_torn_journal_undoes_what_it_holds() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let made = directory.path().join("made");
    drop(Journal::create(&path, Isolation::Mount).unwrap());
    let action =
        serde_json::json!({"gap": "machine-id", "rung": "mount", "do": "create-file", "path": made, "content": ""});
    let whole = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{whole}{action}\n{}", &action.to_string()[..20])).unwrap();
    fs::write(&made, "").unwrap();

    Journal::open(&path).unwrap().unwrap().revert().unwrap();
    assert!(!made.exists() && !path.exists());
}

/// Reverts one action as a journal that holds it does.
#[track_caller]
fn revert(directory: &Path, action: &Action) {
    let path = directory.join("journal");
    let revert = || -> Result<(), Box<dyn std::error::Error>> {
        drop(Journal::create(&path, Isolation::Mount)?);
        let mut entry = serde_json::to_value(action)?;
        entry["preparation"] = "directories".into();
        let header = fs::read_to_string(&path)?;
        fs::write(&path, format!("{header}{entry}\n"))?;
        Ok(Journal::open(&path)?.ok_or("no journal")?.revert()?)
    };
    if let Err(error) = revert() {
        panic!("{action}: {error}");
    }
}

#[test]
fn reverting_what_was_never_done_is_fine() {
    let directory = tempfile::tempdir().unwrap();
    for action in [
        Action::CreateDir { path: directory.path().join("no/directory") },
        Action::CreateFile { path: directory.path().join("no-file"), content: String::new() },
        Action::Cgroup { path: directory.path().join("no-cgroup") },
        Action::Address { address: "10.41.0.99/32".parse().unwrap() },
        Action::Bind { source: "/dev/null".into(), target: directory.path().join("no-mount") },
    ] {
        revert(directory.path(), &action);
    }
}

#[test]
fn a_directory_that_others_use_by_now_stays() {
    let directory = tempfile::tempdir().unwrap();
    let used = directory.path().join("used");
    fs::create_dir(&used).unwrap();
    fs::write(used.join("file"), "").unwrap();
    revert(directory.path(), &Action::CreateDir { path: used.clone() });
    assert!(used.join("file").exists());
}
