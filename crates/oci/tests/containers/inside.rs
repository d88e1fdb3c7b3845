//! What runs in a container: says what it sees, on stdout.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, exit};
use std::thread;
use std::time::Duration;

/// Where it is in a container.
pub const PATH: &str = "/inside";

pub fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["wait", ..] => loop {
            thread::park();
        },
        ["pause"] => thread::sleep(Duration::from_millis(500)),
        ["fail", why] => {
            eprintln!("{why}");
            exit(3);
        }
        ["files"] => files(),
        ["names", path] => names(path),
        ["read", path] => print!("{}", fs::read_to_string(path).unwrap_or_else(|error| error.to_string())),
        ["write", path] => print!("{:?}", fs::write(path, "written").map_err(|error| error.kind())),
        ["overwrite-runtime", result] => keep_runtime(result),
        ["overwrite", fd, result] => overwrite(fd, result),
        ["open-block", major, minor] => open_block(major, minor),
        ["variable", name] => print!("{}", std::env::var(name).unwrap_or_default().len()),
        _ => panic!("unknown: {args:?}"),
    }
}

/// The open files, but for the directory that is read to find them.
fn files() {
    for entry in fs::read_dir("/proc/self/fd").expect("own files").flatten() {
        let target = fs::read_link(entry.path()).unwrap_or_default();
        if !target.ends_with("fd") {
            println!("{}", entry.file_name().to_string_lossy());
        }
    }
}

fn names(path: &str) {
    for entry in fs::read_dir(path).expect("a directory").flatten() {
        println!("{}", entry.file_name().to_string_lossy());
    }
}

/// As the runtime that has executed itself: holds on to its file, which can be written to once nobody executes it.
fn keep_runtime(result: &str) {
    let own = File::open("/proc/self/exe").expect("own program");
    rustix::io::fcntl_setfd(&own, rustix::io::FdFlags::empty()).expect("a file to be passed on");
    let fd = own.as_raw_fd().to_string();
    let error = Command::new(PATH).args(["overwrite", &fd, result]).exec();
    panic!("{error}");
}

fn overwrite(fd: &str, result: &str) {
    let opened = File::options().write(true).open(format!("/proc/self/fd/{fd}"));
    let told = if opened.and_then(|mut file| file.write_all(b"owned")).is_ok() { "overwritten" } else { "refused" };
    fs::write(result, told).expect("a place to tell it");
}

/// Makes a block device and opens it, and the null device.
fn open_block(major: &str, minor: &str) {
    let device = rustix::fs::makedev(major.parse().expect("a number"), minor.parse().expect("a number"));
    rustix::fs::mknodat(rustix::fs::CWD, "/disk", rustix::fs::FileType::BlockDevice, 0o600.into(), device)
        .expect("a node");
    let open = |path| File::open(path).map(drop).map_err(|error| error.kind());
    print!("{:?} {:?}", open("/disk"), open("/dev/null"));
}
