//! What is traced.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, posix_spawn};
use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use terrarium_sys::process::kill;
use terrarium_sys::trace::open_keeps_registers;

use crate::support::{INSIDE, eventually, own_path};

const SIGUSR1: i32 = 10;
const FILE: &str = "/proc/sys/terrarium/file";

pub fn main(words: &[String]) {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["magic", path] => magic(path),
        ["calls", directory] => calls(directory),
        ["no-follow", link, file] => println!("{} {}", no_follow(link), no_follow(file)),
        ["descriptors", directory] => descriptors(directory),
        ["jail", root, ref paths @ ..] => jail(root, paths),
        ["spawn", file] => (0..3).for_each(|_| assert!(cat(file).status().expect("it runs").success())),
        ["execute", program, file] => execute(program, file),
        ["vfork", count] => vfork(number(count)),
        ["threads", count, file] => threads(number(count), file),
        ["realtime"] => realtime(),
        ["beats", file] => beats(file),
        ["interrupted", pipe] => interrupted(pipe),
        ["stress", threads, calls] => stress(number(threads), number(calls)),
        ["family", children] => family(number(children)),
        ["busy"] => busy(),
        ["killer", rounds] => killer(number(rounds)),
        _ => panic!("{words:?}"),
    }
}

fn number(text: &str) -> u64 {
    text.parse().expect("a number")
}

fn pid() -> i32 {
    std::process::id().cast_signed()
}

fn magic(path: &str) {
    let by_path = rustix::fs::statfs(path).expect("it is there").f_type;
    let file = File::open(path).expect("it is there");
    println!("{by_path:x} {:x}", rustix::fs::fstatfs(file).expect("it is there").f_type);
}

fn calls(directory: &str) {
    let at = |name: &str| format!("{directory}/{name}");
    print!("openat: {}", fs::read_to_string(at("file")).expect("it is there"));
    println!("stat: {}", rustix::fs::stat(at("file")).expect("it is there").st_size);
    let kind = FileType::from_raw_mode(rustix::fs::lstat(at("link")).expect("it is there").st_mode);
    println!("lstat: {}", if kind == FileType::Symlink { "link" } else { "no link" });
    let statx = rustix::fs::statx(CWD, at("link"), AtFlags::empty(), StatxFlags::SIZE).expect("it is there");
    println!("statx: {}", statx.stx_size);
    println!("access: {}", rustix::fs::access(at("file"), Access::READ_OK).is_ok());
    println!("access of nothing: {}", rustix::fs::access(at("nothing"), Access::READ_OK).is_ok());
    println!("readlink: {}", fs::read_link(at("link")).expect("it is there").display());
    let path = CString::new(at("file")).expect("no 0");
    println!("registers: {}", (0..100).all(|_| open_keeps_registers(&path).expect("it is there")));
}

/// Children open the file while they are still in this memory. Says how often the window is in it then.
fn vfork(count: u64) {
    let mut actions = PosixSpawnFileActions::init().expect("they are made");
    actions.add_open(0, FILE, OFlag::O_RDONLY, nix::sys::stat::Mode::empty()).expect("it is added");
    let attributes = PosixSpawnAttr::init().expect("they are made");
    for _ in 0..count {
        let pid =
            posix_spawn("/bin/true", &actions, &attributes, &[c"true"], &[] as &[&std::ffi::CStr]).expect("it runs");
        nix::sys::wait::waitpid(pid, None).expect("it is a child");
    }
    let maps = fs::read_to_string("/proc/self/maps").expect("it is there");
    println!("{}", maps.lines().filter(|line| line.contains("terrarium-intercept")).count());
}

fn no_follow(path: &str) -> String {
    match rustix::fs::open(path, OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
        Ok(_) => "ok".to_owned(),
        Err(Errno::LOOP) => "ELOOP".to_owned(),
        Err(Errno::NOENT) => "ENOENT".to_owned(),
        Err(other) => other.to_string(),
    }
}

fn descriptors(directory: &str) {
    let directory = File::open(directory).expect("it is there");
    let read = |path: &str| {
        let fd: OwnedFd = rustix::fs::openat(&directory, path, OFlags::CLOEXEC, Mode::empty()).expect("it is there");
        let mut text = String::new();
        File::from(fd).read_to_string(&mut text).expect("it is read");
        text
    };
    print!("{}", read("../file"));
    let version = read("../../../version");
    rustix::process::fchdir(&directory).expect("it is there");
    print!("{}", fs::read_to_string("../file").expect("it is there"));
    println!("{}", &version[..5]);
}

fn jail(root: &str, paths: &[&str]) {
    nix::mount::mount(
        Some("/proc"),
        &*format!("{root}/proc"),
        None::<&str>,
        nix::mount::MsFlags::MS_BIND,
        None::<&str>,
    )
    .expect("it may");
    rustix::process::chroot(root).expect("it may");
    rustix::process::chdir("/").expect("it is there");
    for path in paths {
        print!("{}", fs::read_to_string(path).expect("it is there"));
    }
    nix::mount::umount2("/proc", nix::mount::MntFlags::MNT_DETACH).expect("it may");
}

fn cat(file: &str) -> Command {
    let mut command = Command::new("/bin/cat");
    command.arg(file);
    command
}

fn execute(program: &str, file: &str) {
    for _ in 0..5 {
        thread::spawn(|| while File::open(FILE).is_ok() {});
    }
    print!("{}", fs::read_to_string(file).expect("it is there"));
    std::io::Write::flush(&mut std::io::stdout()).expect("it is written");
    let mut command = Command::new(program);
    command.arg(file);
    let error = thread::spawn(move || command.exec()).join();
    panic!("{error:?}");
}

fn threads(count: u64, file: &str) {
    let mut read = 0;
    let mut left = count;
    while left > 0 {
        let batch = left.min(500);
        left -= batch;
        let threads: Vec<_> = (0..batch)
            .map(|_| {
                let file = file.to_owned();
                thread::Builder::new().stack_size(64 << 10).spawn(move || fs::read_to_string(file)).expect("a thread")
            })
            .collect();
        for thread in threads {
            read += u64::from(thread.join().expect("it ends").is_ok_and(|text| text == "redirected\n"));
        }
    }
    println!("{read}");
}

fn realtime() {
    let mut came = Vec::new();
    for signal in [34, 64, 40] {
        let flag = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(signal, Arc::clone(&flag)).expect("it may");
        kill(pid(), signal).expect("it is there");
        assert!(eventually(|| flag.load(Ordering::Relaxed)), "{signal}");
        came.push(signal.to_string());
    }
    println!("{}", came.join(" "));
}

/// Makes trapped calls as fast as it can.
fn tire(times: u64) {
    let file = File::open("/proc").expect("it is there");
    for _ in 0..times {
        rustix::fs::fstatfs(&file).expect("it is there");
        assert!(File::open(FILE).is_ok());
    }
}

fn beats(file: &str) {
    println!("{}", pid());
    for _ in 0..3 {
        thread::spawn(|| tire(u64::MAX));
    }
    for beat in 0..u64::MAX {
        tire(1);
        fs::write(file, beat.to_string()).expect("it is written");
    }
}

fn interrupted(pipe: &str) {
    let came = Arc::new(AtomicU64::new(0));
    let flag = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGUSR1, Arc::clone(&flag)).expect("it may");
    let path = pipe.to_owned();
    let opener = thread::spawn(move || fs::read_to_string(path).expect("it opens and is read"));
    thread::sleep(Duration::from_millis(50));
    let only: nix::sys::signal::SigSet = [nix::sys::signal::Signal::SIGUSR1].into_iter().collect();
    only.thread_block().expect("it may");
    for _ in 0..50 {
        kill(pid(), SIGUSR1).expect("it is there");
        assert!(eventually(|| flag.swap(false, Ordering::Relaxed)));
        came.fetch_add(1, Ordering::Relaxed);
    }
    fs::write(pipe, "text").expect("somebody reads");
    println!("heard: {}", opener.join().expect("it ends"));
    println!("{}", came.load(Ordering::Relaxed) == 50);
}

fn stress(threads: u64, calls: u64) {
    let (done, flag) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    signal_hook::flag::register(SIGUSR1, Arc::clone(&flag)).expect("it may");
    let sender = thread::spawn({
        let done = Arc::clone(&done);
        move || {
            let mut sent: u64 = 0;
            while !done.load(Ordering::Relaxed) {
                kill(pid(), SIGUSR1).expect("it is there");
                thread::sleep(Duration::from_micros(200));
                sent += u64::from(flag.swap(false, Ordering::Relaxed));
            }
            sent
        }
    });
    let workers: Vec<_> = (0..threads).map(|thread| thread::spawn(move || work(thread, calls))).collect();
    let wrong: u64 = workers.into_iter().map(|worker| worker.join().expect("it ends")).sum();
    done.store(true, Ordering::Relaxed);
    let signals = sender.join().expect("it ends");
    println!("{} calls, {wrong} wrong, {signals} signals", threads * calls);
}

/// So many calls of each kind in turn; answers how many were wrong.
fn work(thread: u64, calls: u64) -> u64 {
    let proc = File::open("/proc").expect("it is there");
    let (path, own) = (format!("/proc/sys/terrarium/{thread}"), thread.to_string());
    let is_right = |call: u64| match call % 4 {
        0 => rustix::fs::fstatfs(&proc).is_ok_and(|told| told.f_type == 0x27e0eb),
        1 => fs::read_to_string(&path).is_ok_and(|text| text == own),
        2 => rustix::system::uname().release().to_bytes() == b"9.9.9",
        _ => fs::read_to_string("/proc/sys/made").is_ok_and(|text| text == "made\n"),
    };
    (0..calls).map(|call| u64::from(!is_right(call))).sum()
}

fn busy_child() -> Command {
    let mut command = Command::new(own_path());
    command.args([INSIDE, "busy"]).stdout(Stdio::null());
    command
}

fn family(children: u64) {
    println!("{}", pid());
    for _ in 0..children {
        println!("{}", busy_child().spawn().expect("it starts").id());
    }
    busy();
}

fn busy() {
    thread::spawn(|| tire(u64::MAX));
    thread::spawn(|| tire(u64::MAX));
    loop {
        let _ = Command::new("/bin/true").status();
        tire(5);
    }
}

fn killer(rounds: u64) {
    let mut killed = 0;
    for _ in 0..rounds {
        let mut child = busy_child().spawn().expect("it starts");
        thread::sleep(Duration::from_micros(fastrand::u64(..20_000)));
        child.kill().expect("it runs");
        killed += u64::from(child.wait().expect("it is a child").signal() == Some(9));
    }
    println!("{killed} killed");
}
