//! The Debian tree that every sandbox starts from: made once by debootstrap.
//!
//! `<cache>/rootfs/<key>/`, where the key names the suite and hashes all that goes in. It appears by a rename, so it is
//! whole or not there; a lock makes parallel starts wait for one maker.

use std::{
    fs::{self, File},
    io,
    io::{BufRead, BufReader, IsTerminal, Write},
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::Stdio,
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use crate::{
    error::{Error, IoContext, Result},
    rights::{USER, USER_HOME, USER_ID},
    teardown::remove_tree,
    tool::{Interrupt, UNSHARE, mortal, require, spawn, tail, wait},
};

const SUITE: &str = "bookworm";
const PACKAGES: &str = "ca-certificates,curl,iproute2,iptables,procps,python3-minimal";

/// What no test needs, by size and number of files: where there is no overlay, each sandbox copies the tree.
const STRIP: [&str; 9] = [
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
    "usr/share/zoneinfo",
    "usr/lib/x86_64-linux-gnu/gconv",
    "var/cache/apt",
    "var/lib/apt/lists",
    "var/log",
];

/// How many trees stay when a new one is made: switching between two versions of this program costs nothing.
const KEPT: usize = 2;

/// The cached tree, made first when missing (a minute or two, told on stderr). Then older ones go, except those that
/// `in_use` has; it is none where that cannot be known.
pub(crate) fn prepare(
    cache: &Path,
    in_use: impl FnOnce() -> Result<Option<Vec<PathBuf>>>,
    interrupt: &Interrupt,
) -> Result<PathBuf> {
    let parent = cache.join("rootfs");
    let tree = parent.join(key());
    if tree.exists() {
        return Ok(tree);
    }
    require("debootstrap", "debootstrap")?;
    fs::create_dir_all(&parent).io("create", &parent)?;
    let _lock = lock(&parent.join(format!("{}.lock", key())), interrupt)?;
    if tree.exists() {
        return Ok(tree);
    }
    let half = parent.join(format!("{}.new", key()));
    remove_tree(&half)?;
    eprintln!("testbed: making the Debian {SUITE} root of all sandboxes (once; takes 1-2 minutes)");
    let made = debootstrap(&half, interrupt).and_then(|()| strip(&half)).and_then(|()| add_user(&half));
    if let Err(error) = made {
        let _ = remove_tree(&half);
        return Err(error);
    }
    fs::rename(&half, &tree).io("rename", &half)?;
    eprintln!("testbed: the root is in {}", tree.display());
    if let Some(in_use) = in_use()? {
        prune(&parent, &in_use)?;
    }
    Ok(tree)
}

/// Changes with everything that decides the tree's content.
fn key() -> String {
    let content = format!("{SUITE} {PACKAGES} {} {} {}", STRIP.join(" "), user().concat(), std::env::consts::ARCH);
    // FNV-1a: short, and the same in every version of this program.
    let hash = content
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    format!("{SUITE}-{hash:016x}")
}

fn lock(path: &Path, interrupt: &Interrupt) -> Result<Flock<File>> {
    let mut file = File::options().create(true).truncate(false).write(true).open(path).io("open", path)?;
    let mut told = false;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((back, Errno::EWOULDBLOCK)) => file = back,
            Err((_, errno)) => return Err(errno).io("lock", path),
        }
        if !told {
            eprintln!("testbed: waiting for another testbed that makes the Debian root");
            told = true;
        }
        interrupt.check()?;
        thread::sleep(Duration::from_millis(200));
    }
}

fn debootstrap(target: &Path, interrupt: &Interrupt) -> Result<()> {
    require(UNSHARE.0, UNSHARE.1)?;
    // debootstrap mounts /proc in the tree. In namespaces of its own those mounts die with it, however it ends, so
    // that removing a half-made tree can never follow one.
    let mut command = mortal("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--", "debootstrap", "--variant=minbase"]);
    command.arg(format!("--include={PACKAGES}")).arg(SUITE).arg(target);
    command.args(mirror());
    let (mut child, name) = spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()))?;
    let stdout = child.stdout.take().map(progress);
    let stderr = child.stderr.take().map(progress);
    let status = wait(&mut child, interrupt)?;
    let said: Vec<String> =
        [stdout, stderr].into_iter().flatten().flat_map(|it| it.join().unwrap_or_default()).collect();
    if status.success() {
        return Ok(());
    }
    Err(Error::Tool { command: name, status, output: tail(&said.join("\n"), 20) })
}

/// Passes debootstrap's steps on to a terminal, and keeps all lines.
fn progress(pipe: impl io::Read + Send + 'static) -> thread::JoinHandle<Vec<String>> {
    let terminal = io::stderr().is_terminal();
    thread::spawn(move || {
        let mut lines = Vec::new();
        for line in BufReader::new(pipe).lines().map_while(std::result::Result::ok) {
            if terminal && let Some(step) = line.strip_prefix("I: ") {
                eprint!("\r\x1b[K  {}", step.chars().take(76).collect::<String>());
            }
            lines.push(line);
        }
        if terminal {
            eprint!("\r\x1b[K");
        }
        lines
    })
}

/// `TERRARIUM_DEBIAN_MIRROR`, else what this host's apt uses for the suite, else debootstrap's own default.
fn mirror() -> Option<String> {
    if let Ok(mirror) = std::env::var("TERRARIUM_DEBIAN_MIRROR") {
        return Some(mirror);
    }
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    let entries = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten();
    files.extend(entries.map(|entry| entry.path()));
    files.sort();
    files.iter().find_map(|file| archive_of(&fs::read_to_string(file).ok()?))
}

/// The first archive that has `main` of the suite, in either format of sources.list(5).
fn archive_of(sources: &str) -> Option<String> {
    one_line_format(sources).or_else(|| sources.split("\n\n").find_map(deb822_format))
}

fn one_line_format(sources: &str) -> Option<String> {
    sources.lines().find_map(|line| {
        let line = line.trim().strip_prefix("deb ")?.trim();
        let rest = line.strip_prefix('[').and_then(|options| Some(options.split_once(']')?.1)).unwrap_or(line);
        let mut words = rest.split_whitespace();
        let (archive, suite) = (words.next()?, words.next()?);
        (suite == SUITE && words.any(|component| component == "main")).then(|| archive.to_owned())
    })
}

fn deb822_format(paragraph: &str) -> Option<String> {
    let field = |name: &str| {
        let lines = paragraph.lines().filter(|line| !line.starts_with('#'));
        lines.filter_map(|line| line.split_once(':')).find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim())
    };
    let has = |name: &str, word: &str| field(name).is_some_and(|value| value.split_whitespace().any(|it| it == word));
    let wanted = has("Types", "deb") && has("Suites", SUITE) && has("Components", "main");
    let archive = field("URIs")?.split_whitespace().next()?;
    wanted.then(|| archive.to_owned())
}

fn strip(tree: &Path) -> Result<()> {
    for directory in STRIP.map(|directory| tree.join(directory)) {
        remove_tree(&directory)?;
    }
    for directory in ["var/cache/apt/archives/partial", "var/lib/apt/lists/partial", "var/log/apt"] {
        let directory = tree.join(directory);
        fs::create_dir_all(&directory).io("create", &directory)?;
    }
    Ok(())
}

/// What is added to which file for the user of [`Privilege::Uid1000`](crate::Privilege::Uid1000).
fn user() -> [String; 6] {
    [
        "etc/passwd".into(),
        format!("{USER}:x:{USER_ID}:{USER_ID}::{USER_HOME}:/bin/bash\n"),
        "etc/group".into(),
        format!("{USER}:x:{USER_ID}:\n"),
        "etc/shadow".into(),
        format!("{USER}:*:20000:0:99999:7:::\n"),
    ]
}

fn add_user(tree: &Path) -> Result<()> {
    for pair in user().chunks_exact(2) {
        let path = tree.join(&pair[0]);
        let mut file = File::options().append(true).open(&path).io("open", &path)?;
        file.write_all(pair[1].as_bytes()).io("write", &path)?;
    }
    let home = tree.join(USER_HOME.trim_start_matches('/'));
    fs::create_dir(&home).io("create", &home)?;
    chown(&home, Some(USER_ID), Some(USER_ID)).io("give away", home)
}

/// Removes all trees but the newest [`KEPT`] and those in use.
fn prune(parent: &Path, in_use: &[PathBuf]) -> Result<()> {
    let mut trees = Vec::new();
    for entry in fs::read_dir(parent).io("list", parent)? {
        let path = entry.io("list", parent)?.path();
        // One that is being made has a dot in its name, as its lock has.
        if path.is_dir() && path.extension().is_none() {
            let made = path.symlink_metadata().and_then(|metadata| metadata.modified()).io("look at", &path)?;
            trees.push((made, path));
        }
    }
    trees.sort();
    trees.truncate(trees.len().saturating_sub(KEPT));
    for (_, tree) in trees.into_iter().filter(|(_, tree)| !in_use.contains(tree)) {
        remove_tree(&tree)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn the_main_archive_is_found_in_both_formats() {
        let old = "# deb http://no.example/debian bookworm main\n\
                   deb http://security.example/ bookworm-security main\n\
                   deb [arch=amd64 signed-by=/k.gpg] http://archive.example/debian bookworm contrib main\n";
        assert_eq!(archive_of(old).as_deref(), Some("http://archive.example/debian"));
        let new = "Types: deb\nURIs: https://tools.example/x\nSuites: nodistro\nComponents: main\n\n\
                   Types: deb\n# http://snapshot.example/\nURIs: http://archive.example/debian\n\
                   Suites: bookworm bookworm-updates\nComponents: main\n";
        assert_eq!(archive_of(new).as_deref(), Some("http://archive.example/debian"));
        assert_eq!(archive_of("deb http://archive.example/debian trixie main\n"), None);
    }

    #[test]
    fn the_newest_trees_and_those_in_use_stay() {
        let parent = tempfile::tempdir().unwrap();
        let path = |name: &str| parent.path().join(name);
        for (age, name) in ["new", "newer.new", "old", "older", "oldest"].into_iter().enumerate() {
            fs::create_dir(path(name)).unwrap();
            let made = SystemTime::now() - Duration::from_secs(60 * age as u64);
            File::open(path(name)).unwrap().set_modified(made).unwrap();
            fs::write(path(&format!("{name}.lock")), "").unwrap();
        }
        prune(parent.path(), &[path("oldest")]).unwrap();
        let left = |name: &&str| path(name).exists();
        let all = ["new", "newer.new", "old", "older", "oldest", "older.lock"];
        let left: Vec<_> = all.into_iter().filter(left).collect();
        assert_eq!(left, ["new", "newer.new", "old", "oldest", "older.lock"]);
    }

    #[test]
    fn the_user_of_uid1000_is_added() {
        let tree = tempfile::tempdir().unwrap();
        fs::create_dir_all(tree.path().join("etc")).unwrap();
        fs::create_dir(tree.path().join("home")).unwrap();
        for name in ["passwd", "group", "shadow"] {
            fs::write(tree.path().join("etc").join(name), "root:x:0:0\n").unwrap();
        }
        let made = add_user(tree.path());
        assert!(made.is_ok() || !nix::unistd::geteuid().is_root(), "{made:?}"); // only root gives directories away
        let passwd = fs::read_to_string(tree.path().join("etc/passwd")).unwrap();
        assert_eq!(passwd, "root:x:0:0\nuser:x:1000:1000::/home/user:/bin/bash\n");
    }

    #[test]
    fn the_key_names_the_suite() {
        assert!(key().starts_with("bookworm-"));
        assert_eq!(key().len(), "bookworm-".len() + 16);
    }
}
