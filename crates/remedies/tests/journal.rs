//! Journals: what they undo, in which namespace, after which accident. Real mounts, in a mount namespace of the test's.

use std::fs;
use std::path::Path;

use terrarium_remedies::{Action, CATALOGUE, Journal, Setting, Site, apply_all, namespace};

/// Runs the test on a thread in its own mount namespace; says so and does nothing where that is refused.
fn in_namespace(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        scope.spawn(|| match namespace::enter_new() {
            Ok(()) => test(),
            Err(error) => eprintln!("skipped: no mount namespace for the test: {error}"),
        });
    });
}

fn site(directory: &Path) -> Site {
    Site { runtime_dir: directory.join("run") }
}

#[test]
fn what_was_applied_is_reverted_exactly() {
    let directory = tempfile::tempdir().unwrap();
    in_namespace(|| {
        let before = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let path = directory.path().join("journal");
        let mut journal = Journal::create(&path).unwrap();
        let settings = apply_all(&site(directory.path()), &mut journal).unwrap();
        assert!(settings.iter().any(|setting| matches!(setting, Setting::ApiServer { .. })), "{settings:?}");
        assert_ne!(before, fs::read_to_string("/proc/thread-self/mountinfo").unwrap());

        // Whoever comes later reads the same from the file.
        drop(journal);
        let journal = Journal::open(&path).unwrap().unwrap();
        assert_eq!(journal.settings().cloned().collect::<Vec<_>>(), settings);
        journal.revert().unwrap();
        assert_eq!(before, fs::read_to_string("/proc/thread-self/mountinfo").unwrap());
        assert!(!path.exists() && !directory.path().join("run").exists());
    });
}

#[test]
fn a_torn_journal_undoes_what_it_holds() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let made = directory.path().join("made");
    drop(Journal::create(&path).unwrap());
    let action =
        serde_json::json!({"gap": "machine-id", "rung": "mount", "do": "create-file", "path": made, "content": ""});
    let whole = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{whole}{action}\n{}", &action.to_string()[..20])).unwrap();
    fs::write(&made, "").unwrap();

    Journal::open(&path).unwrap().unwrap().revert().unwrap();
    assert!(!made.exists() && !path.exists());
}

#[test]
fn reverting_what_was_never_done_is_fine() {
    let directory = tempfile::tempdir().unwrap();
    for action in [
        Action::CreateDir { path: directory.path().join("no/directory") },
        Action::CreateFile { path: directory.path().join("no-file"), content: String::new() },
        Action::Bind { source: "/dev/null".into(), target: directory.path().join("no-mount") },
    ] {
        CATALOGUE[0].revert(&action).unwrap();
    }
}

#[test]
fn a_directory_that_others_use_by_now_stays() {
    let directory = tempfile::tempdir().unwrap();
    let used = directory.path().join("used");
    fs::create_dir(&used).unwrap();
    fs::write(used.join("file"), "").unwrap();
    CATALOGUE[0].revert(&Action::CreateDir { path: used.clone() }).unwrap();
    assert!(used.join("file").exists());
}
