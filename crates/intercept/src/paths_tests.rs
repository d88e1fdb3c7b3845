use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::symlink;

use proptest::prelude::*;

use super::*;

struct Told(HashMap<PathBuf, PathBuf>);

impl Links for Told {
    fn read(&self, path: &Path) -> Option<PathBuf> {
        self.0.get(path).cloned()
    }
}

struct Real;

impl Links for Real {
    fn read(&self, path: &Path) -> Option<PathBuf> {
        fs::read_link(path).ok()
    }
}

fn every_call() -> Set {
    Set::of(|_| true)
}

fn map() -> Map {
    let redirect = |rule, from: &str, to| Redirect { rule, from: PathBuf::from(from), to, calls: every_call() };
    Map::new(
        vec![
            redirect(0, "/proc/sys", Target::Path("/run/ours/sys".into())),
            redirect(1, "/proc/sys/net", Target::Path("/run/net".into())),
            redirect(2, "/etc/made", Target::File(0)),
        ],
        vec![],
        false,
    )
}

fn links(pairs: &[(&str, &str)]) -> Told {
    Told(pairs.iter().map(|(from, to)| (PathBuf::from(from), PathBuf::from(to))).collect())
}

fn start() -> Start<'static> {
    Start { root: Path::new("/"), base: Path::new("/proc/sys/vm") }
}

fn led(path: &str, follow: bool, told: &Told) -> Place {
    let map = map();
    let resolved = map.resolve(start(), path.as_bytes(), follow, 0, told).expect("few links");
    map.place(&resolved.path, 0)
}

fn at(rule: usize, path: &str) -> Place {
    Place::At(rule, path.into())
}

#[test]
fn paths_below_a_redirect_are_elsewhere() {
    let none = links(&[]);
    assert_eq!(led("/proc/sys", true, &none), at(0, "/run/ours/sys"));
    assert_eq!(led("/proc/sys/vm/x", true, &none), at(0, "/run/ours/sys/vm/x"));
    assert_eq!(led("/proc/sys/net/x", true, &none), at(1, "/run/net/x"));
    assert_eq!(led("/proc/system", true, &none), Place::Itself);
    assert_eq!(led("/etc/made", true, &none), Place::File(2, 0));
    assert_eq!(led("/etc/made/more", true, &none), Place::Itself);
}

#[test]
fn dots_and_slashes_are_walked() {
    let none = links(&[]);
    assert_eq!(led("/proc/./sys//vm/../kernel/x", true, &none), at(0, "/run/ours/sys/kernel/x"));
    assert_eq!(led("/proc/sys/../cpuinfo", true, &none), Place::Itself);
    assert_eq!(led("/proc/sys/vm/../../sys/x", true, &none), at(0, "/run/ours/sys/x"));
    assert_eq!(led("../net/x", true, &none), at(1, "/run/net/x"));
    assert_eq!(led("x", true, &none), at(0, "/run/ours/sys/vm/x"));
    assert_eq!(led("../../../../../etc/made", true, &none), Place::File(2, 0));
}

#[test]
fn links_lead_in_and_out() {
    let told = links(&[
        ("/tmp/in", "/proc/sys/vm"),
        ("/run/ours/sys/out", "/tmp"),
        ("/run/ours/sys/beside", "../kernel"),
        ("/run/ours/sys/last", "vm"),
    ]);
    assert_eq!(led("/tmp/in/x", true, &told), at(0, "/run/ours/sys/vm/x"));
    assert_eq!(led("/proc/sys/out/x", true, &told), Place::Itself);
    assert_eq!(led("/proc/sys/beside/x", true, &told), Place::Itself, "/proc/kernel is not redirected");
    assert_eq!(led("/proc/sys/last", true, &told), at(0, "/run/ours/sys/vm"));
    assert_eq!(led("/proc/sys/last", false, &told), at(0, "/run/ours/sys/last"));
    assert_eq!(led("/proc/sys/last/", false, &told), at(0, "/run/ours/sys/vm"));
}

#[test]
fn links_in_a_circle_lead_nowhere() {
    let told = links(&[("/a", "/b"), ("/b", "/a")]);
    assert_eq!(map().resolve(start(), b"/a/x", true, 0, &told), None);
}

#[test]
fn a_root_is_not_left() {
    let jail = Start { root: Path::new("/jail"), base: Path::new("/jail/tmp") };
    let told = links(&[("/jail/link", "/etc")]);
    let led = |path: &str| map().resolve(jail, path.as_bytes(), true, 0, &told).expect("few links").path;
    assert_eq!(led("/../../etc"), Path::new("/jail/etc"));
    assert_eq!(led("/link/x"), Path::new("/jail/etc/x"));
    assert_eq!(led("../../../x"), Path::new("/jail/x"));
}

#[test]
fn only_what_begins_like_a_redirect_is_walked() {
    let map = map();
    for path in ["/proc/sys", "/proc/sys/vm", "/etc/made", "/etc/../x", "/a//b", "/a/./b", "/a/..", "/a/"] {
        assert!(map.concerns(path.as_bytes()), "{path}");
    }
    for path in ["/proc", "/etc/.hidden/..more", "/proc/system", "/etc/made2", "/usr/lib/x"] {
        assert!(!map.concerns(path.as_bytes()), "{path}");
    }
}

#[test]
fn what_was_opened_by_a_redirect_has_its_name_of_before() {
    let map = map();
    assert_eq!(map.logical("/run/ours/sys/vm".into(), 0), ("/proc/sys/vm".into(), Some(0)));
    assert_eq!(map.logical("/run/ours".into(), 0), ("/run/ours".into(), None));
}

#[test]
fn a_redirect_is_for_its_calls() {
    let calls = Set::of(|call| call.name == "openat");
    let openat = crate::calls::CALLS.iter().position(|call| call.name == "openat").expect("it is there");
    let redirect = Redirect { rule: 0, from: "/a".into(), to: Target::Path("/b".into()), calls };
    let map = Map::new(vec![redirect], vec![], false);
    assert_eq!(map.place(Path::new("/a"), openat), at(0, "/b"));
    assert_eq!(map.place(Path::new("/a"), 0), Place::Itself);
}

/// A tree of directories and links in both directions.
fn tree() -> tempfile::TempDir {
    let tree = tempfile::tempdir().expect("a directory");
    for directory in ["a/b/c", "d/e", "f"] {
        fs::create_dir_all(tree.path().join(directory)).expect("a directory");
    }
    for (link, to) in
        [("a/l", "../d"), ("d/m", "e/../../a/b"), ("f/n", "../a/l/m/c"), ("a/b/o", ".."), ("d/e/p", "../../f")]
    {
        symlink(to, tree.path().join(link)).expect("a link");
    }
    let root = fs::canonicalize(tree.path()).expect("it is there");
    symlink(root.join("d"), root.join("f/q")).expect("a link");
    tree
}

/// Ways of some steps through it.
fn ways() -> impl Strategy<Value = String> {
    let names = vec!["a", "b", "c", "d", "e", "f", "l", "m", "n", "o", "p", "q", "..", "."];
    proptest::collection::vec(proptest::sample::select(names), 1..9).prop_map(|names| names.join("/"))
}

/// Without redirects a path leads to where the kernel says.
#[test]
fn paths_lead_where_the_kernel_says() {
    let tree = tree();
    let root = fs::canonicalize(tree.path()).expect("it is there");
    let map = Map::new(vec![], vec![], true);
    proptest!(|(way in ways())| {
        let path = root.join(&way);
        if let Ok(real) = fs::canonicalize(&path) {
            let start = Start { root: Path::new("/"), base: &root };
            for path in [path.as_os_str().as_bytes(), way.as_bytes()] {
                let led = map.resolve(start, path, true, 0, &Real).expect("few links");
                prop_assert_eq!(&led.path, &real);
            }
        }
    });
}

/// A redirected tree is walked as if it were mounted there.
#[test]
fn a_redirect_is_as_a_mount() {
    let tree = tree();
    let root = fs::canonicalize(tree.path()).expect("it is there");
    let from = Path::new("/nowhere/at/all");
    let redirect = Redirect { rule: 0, from: from.into(), to: Target::Path(root.clone()), calls: every_call() };
    let map = Map::new(vec![redirect], vec![], false);
    proptest!(|(way in ways())| {
        if let Ok(real) = fs::canonicalize(root.join(&way)) && real.starts_with(&root) {
            let start = Start { root: Path::new("/"), base: from };
            let led = map.resolve(start, way.as_bytes(), true, 0, &Real).expect("few links");
            // Whoever went above the tree came back by another name.
            if led.path.starts_with(from) {
                prop_assert_eq!(map.place(&led.path, 0), Place::At(0, real));
            }
        }
    });
}
