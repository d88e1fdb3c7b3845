use super::*;
use crate::record::tests::sample;

struct Fixture {
    _directory: tempfile::TempDir,
    store: Store,
}

fn fixture() -> Fixture {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = Store::at(directory.path().join("run"), directory.path().join("cache")).expect("a store");
    Fixture { _directory: directory, store }
}

impl Fixture {
    fn draft(&self, name: &str, keep: bool) -> Record {
        Record { disk: self.store.disk(name), ..sample(name, keep, None) }
    }

    fn claim(&self, draft: &Record) -> (Claim, Record) {
        match self.store.claim(draft, &Interrupt::default()).expect("a claim") {
            Claimed::New(claim, record) => (claim, record),
            Claimed::Running(_) => panic!("it runs already"),
        }
    }

    fn sweep(&self) -> Vec<String> {
        let swept = self.store.sweep().expect("a sweep");
        assert!(swept.failed.is_empty(), "{:?}", swept.failed);
        swept.removed
    }

    fn names(&self) -> Vec<String> {
        let all = self.store.list().expect("a list");
        all.into_iter().map(|(record, _)| record.name).collect()
    }
}

fn own_process() -> Option<Process> {
    Process::of(std::process::id().cast_signed())
}

#[test]
fn a_sandbox_is_swept_once_its_owner_is_gone() {
    let fixture = fixture();
    let (claim, record) = fixture.claim(&fixture.draft("a", false));
    fs::create_dir_all(record.disk.join("rootfs")).expect("a root");
    assert!(fixture.sweep().is_empty());
    assert_eq!(fixture.names(), ["a"]);
    drop(claim); // what the kernel does when the owner dies
    assert_eq!(fixture.sweep(), ["tt-a"]);
    assert!(fixture.names().is_empty());
    assert!(!record.disk.exists());
}

#[test]
fn a_name_is_free_once_what_its_dead_owner_left_is_removed() {
    let fixture = fixture();
    let mut owner = std::process::Command::new("true").spawn().expect("a process");
    owner.wait().expect("it ends");
    let (claim, record) = fixture.claim(&Record { owner: owner.id(), ..fixture.draft("a", false) });
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(200));
            fixture.store.remove(claim, Some(&record)).expect("it is removed");
        });
        fixture.claim(&fixture.draft("a", false));
    });
}

#[test]
fn a_kept_sandbox_stays_when_its_maker_ends() {
    let fixture = fixture();
    let (claim, record) = fixture.claim(&fixture.draft("a", true));
    claim.write(&Record { sandbox: own_process(), ..record }).expect("a record");
    drop(claim);
    assert!(fixture.sweep().is_empty());
    let again = fixture.store.claim(&fixture.draft("a", true), &Interrupt::default()).expect("a claim");
    assert!(matches!(again, Claimed::Running(_)));
}

#[test]
fn a_start_that_was_killed_midway_is_swept() {
    let fixture = fixture();
    drop(fixture.claim(&fixture.draft("a", true)));
    assert_eq!(fixture.sweep(), ["tt-a"]);
}

#[test]
fn a_directory_without_a_record_is_swept() {
    let fixture = fixture();
    fs::create_dir(fixture.store.run.join("tt-half")).expect("a directory");
    assert_eq!(fixture.sweep(), ["tt-half"]);
}

#[test]
fn the_sandbox_of_another_version_stays_and_is_told() {
    let fixture = fixture();
    let (claim, record) = fixture.claim(&fixture.draft("a", false));
    let path = Files(&claim.directory).record();
    let foreign = serde_json::json!({"name": "a", "gvisor": "2031-01", "slot": record.slot});
    fs::write(&path, foreign.to_string()).expect("a record");
    fs::create_dir_all(record.disk.join("rootfs")).expect("a root");
    drop(claim);
    let swept = fixture.store.sweep().expect("a sweep");
    assert!(swept.removed.is_empty());
    assert!(matches!(swept.failed[..], [Error::Foreign { .. }]));
    assert!(path.exists() && record.disk.exists());
    assert!(fixture.store.claim(&fixture.draft("a", true), &Interrupt::default()).is_err());
    assert_ne!(fixture.claim(&fixture.draft("b", false)).1.slot, record.slot);
}

#[test]
fn what_is_not_ours_stays() {
    let fixture = fixture();
    let strangers = [fixture.store.run.join("other"), fixture.store.sandboxes().join("other")];
    strangers.iter().for_each(|path| fs::create_dir(path).expect("a directory"));
    fixture.sweep();
    assert!(strangers.iter().all(|path| path.exists()));
}

#[test]
fn a_root_that_lost_its_record_is_removed() {
    let fixture = fixture();
    let lost = fixture.store.disk("lost");
    fs::create_dir_all(lost.join("rootfs")).expect("a root");
    fixture.sweep();
    assert!(!lost.exists());
}

#[test]
fn the_cache_is_where_the_scripts_have_it() {
    let cache = |set: &[(&str, &str)]| {
        cache_from(|name| set.iter().find(|(other, _)| *other == name).map(|(_, value)| value.into()))
    };
    assert_eq!(cache(&[("HOME", "/h")]), Path::new("/h/.cache/terrarium"));
    assert_eq!(cache(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), Path::new("/x/terrarium"));
    assert_eq!(cache(&[("XDG_CACHE_HOME", "/x"), ("TERRARIUM_CACHE", "/t")]), Path::new("/t"));
    assert!(cache(&[("TERRARIUM_CACHE", "t")]).is_absolute());
}

#[test]
fn trees_are_known_to_be_in_use_unless_a_record_is_silent() {
    let fixture = fixture();
    let in_use = || fixture.store.trees_in_use().expect("the trees in use");
    assert_eq!(in_use(), Some(Vec::new()));
    let draft = Record { tree: Some("/trees/a".into()), ..fixture.draft("a", false) };
    let _a = fixture.claim(&draft);
    assert_eq!(in_use(), Some(vec!["/trees/a".into()]));
    let _b = fixture.claim(&fixture.draft("b", false));
    assert_eq!(in_use(), None);
}

#[test]
fn a_name_in_use_by_a_living_owner_is_refused() {
    let fixture = fixture();
    let _owner = fixture.claim(&fixture.draft("a", false));
    let second = fixture.store.claim(&fixture.draft("a", true), &Interrupt::default());
    assert!(matches!(second, Err(Error::Owned { owner: 1, .. })));
    assert!(matches!(fixture.store.take("a", &Interrupt::default()), Err(Error::Owned { .. })));
}

#[test]
fn a_dead_sandbox_makes_room_for_a_new_one() {
    let fixture = fixture();
    let (claim, record) = fixture.claim(&fixture.draft("a", true));
    let mut dead = std::process::Command::new("sleep").arg("9").spawn().expect("sleep");
    let process = Process::of(dead.id().cast_signed());
    claim.write(&Record { sandbox: process, ..record }).expect("a record");
    drop(claim);
    dead.kill().expect("kill");
    dead.wait().expect("wait");
    assert_eq!(fixture.store.list().expect("a list")[0].1, State::Dead);
    fixture.claim(&fixture.draft("a", true));
}

#[test]
fn parallel_sandboxes_get_different_networks() {
    let fixture = fixture();
    let (_a, first) = fixture.claim(&fixture.draft("a", false));
    let (_b, second) = fixture.claim(&fixture.draft("b", false));
    assert_ne!(first.slot, second.slot);
}
