//! Every build of gVisor: that it boots, on both platforms, and that programs have the rights asked for and no others.
//!
//! Where no sandbox can run (not root) the tests count as ignored, with the reason; a build that is missing is a failure.

mod common;

use std::net::{TcpListener, TcpStream};

use clap::ValueEnum;
use common::{Outcome, ensure, equal, quickest, text};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use terrarium_testbed::{Builder, Deny, Error, Gvisor, Platform, Privilege, Sandbox, check_host};

type Test = (&'static str, fn(Gvisor) -> Outcome);

const TESTS: [Test; 6] = [
    ("full", full),
    ("docker", docker),
    ("uid1000", uid1000),
    ("rights_are_denied_to_root", rights_are_denied_to_root),
    ("rights_are_denied_to_a_user", rights_are_denied_to_a_user),
    ("what_is_not_denied_stays", what_is_not_denied_stays),
];

fn main() {
    let trials = Gvisor::all().iter().flat_map(|gvisor| TESTS.map(|(name, test)| trial(*gvisor, name, test)));
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit();
}

fn trial(gvisor: Gvisor, name: &str, test: fn(Gvisor) -> Outcome) -> Trial {
    Trial::ignorable_test(format!("{gvisor}::{name}"), move || match check_host(gvisor) {
        Ok(()) => test(gvisor).map(|()| Completion::Completed),
        Err(missing @ Error::NoRunsc { .. }) => Err(missing.to_string().into()),
        Err(obstacle) => Ok(Completion::ignored_with(obstacle.to_string().replace('\n', "; "))),
    })
}

fn full(gvisor: Gvisor) -> Outcome {
    let sandbox = sandbox(gvisor).start()?;
    let kernel = match gvisor {
        Gvisor::V2024_07 | Gvisor::V2026_02 => "4.4.0",
        Gvisor::V2026_07 => "4.19.0-gvisor",
    };
    equal(said(&sandbox, "uname -r")?, kernel.into())?;
    equal(said(&sandbox, "id -u; pwd; echo $HOME")?, "0\n/\n/root".into())?;
    let every = "000001ffffffffff";
    equal(capabilities(&sandbox)?, [every, every, every, "0000000000000000"].map(String::from))?;
    succeeds(&sandbox, "mount -t tmpfs t /mnt")?;
    // The address is the sandbox's in every build, both ways.
    let server = TcpListener::bind((sandbox.gateway(), 0))?;
    let (gateway, port) = (sandbox.gateway(), server.local_addr()?.port());
    succeeds(&sandbox, &format!("exec 3<>/dev/tcp/{gateway}/{port}"))?;
    equal(server.accept()?.1.ip().to_string(), sandbox.address().to_string())?;
    let refused = TcpStream::connect((sandbox.address(), 9)).map(|_| ()).map_err(|error| error.kind());
    equal(refused, Err(std::io::ErrorKind::ConnectionRefused))
}

fn docker(gvisor: Gvisor) -> Outcome {
    let sandbox = sandbox(gvisor).platform(Platform::Ptrace).privilege(Privilege::Docker).start()?;
    let docker = "00000000a80425fb";
    equal(capabilities(&sandbox)?, [docker, docker, docker, "0000000000000000"].map(String::from))?;
    equal(said(&sandbox, "id -u; pwd; echo $HOME")?, "0\n/\n/root".into())?;
    fails(&sandbox, "mount -t tmpfs t /mnt")?;
    succeeds(&sandbox, "unshare -Urmn mount -t tmpfs t /mnt")
}

fn uid1000(gvisor: Gvisor) -> Outcome {
    let sandbox = sandbox(gvisor).privilege(Privilege::Uid1000).start()?;
    equal(said(&sandbox, "id; pwd; echo $HOME; stat -c %U:%a .")?, USER.into())?;
    equal(capabilities(&sandbox)?, ["0000000000000000"; 4].map(String::from))?;
    equal(said(&sandbox, "stat -c %u /proc/1")?, "1000".into())?;
    succeeds(&sandbox, "touch file")?;
    fails(&sandbox, "touch /root/file || touch /file || touch /etc/file")?;
    succeeds(&sandbox, "unshare -Urmn mount -t tmpfs t /mnt")
}

const USER: &str = "uid=1000(user) gid=1000(user) groups=1000(user)\n/home/user\n/home/user\nuser:755";

fn rights_are_denied_to_root(gvisor: Gvisor) -> Outcome {
    let sandbox = sandbox(gvisor).deny(all()).start()?;
    // All but SYS_ADMIN, SYS_PTRACE and NET_RAW.
    let rest = "000001ffffd7dfff";
    equal(capabilities(&sandbox)?, [rest, rest, rest, "0000000000000000"].map(String::from))?;
    for script in [MOUNT, USERNS, PTRACE, FUSE, MAKE_FUSE, RAW, PACKET] {
        fails(&sandbox, script)?;
    }
    equal(said(&sandbox, "sed -n 's/Seccomp:.//p' /proc/1/status /proc/self/status")?, "2\n2".into())?;
    // The command line arrives as it is, and its exit code comes back.
    let output = sandbox.command(["sh", "-c", "printf '%s|' \"$@\"; pwd; exit 7", "sh", "a b", "", "-c"]).cwd("/usr");
    let output = output.env("A", "b").output()?;
    equal((output.status.code(), text(&output.stdout)), (Some(7), "a b||-c|/usr\n".into()))?;
    let missing = sandbox.exec(["no-such-program"])?;
    ensure(!missing.status.success() && text(&missing.stderr).contains("no-such-program"), &text(&missing.stderr))
}

fn rights_are_denied_to_a_user(gvisor: Gvisor) -> Outcome {
    let sandbox = sandbox(gvisor).privilege(Privilege::Uid1000).deny([Deny::Mount, Deny::Fuse]).start()?;
    equal(sandbox.record().deny(), [Deny::Mount, Deny::Fuse].as_slice())?;
    equal(said(&sandbox, "id; pwd; echo $HOME; stat -c %U:%a .")?, USER.into())?;
    equal(capabilities(&sandbox)?, ["0000000000000000"; 4].map(String::from))?;
    // unshare itself would mount, to keep the mounts in the namespace to it.
    let within = "unshare -Urmn --propagation unchanged";
    succeeds(&sandbox, &format!("{within} true"))?;
    for script in [MOUNT, FUSE, MAKE_FUSE] {
        fails(&sandbox, &format!("{within} {script}"))?;
    }
    Ok(())
}

fn what_is_not_denied_stays(gvisor: Gvisor) -> Outcome {
    let one = sandbox(gvisor).deny([Deny::Fuse]).start()?;
    succeeds(&one, MOUNT)?;
    for script in ["mount -t devtmpfs d /srv && test -e /srv/fuse", FUSE] {
        fails(&one, script)?;
    }
    for script in [USERNS, PTRACE, RAW, PACKET, THREAD, "mknod /tmp/null c 1 3"] {
        succeeds(&one, script)?;
    }
    let other = sandbox(gvisor).deny([Deny::Userns]).start()?;
    for script in [MOUNT, PTRACE, FUSE, RAW, PACKET, THREAD, "unshare -mn true"] {
        succeeds(&other, script)?;
    }
    Ok(())
}

const MOUNT: &str = "mount -t tmpfs t /mnt";
const USERNS: &str = "unshare -U true || perl -e 'exit(syscall(56, 0x10000000 | 17, 0, 0, 0, 0) < 0)'";
const PTRACE: &str = "perl -e 'exit(syscall(101, 0, 0, 0, 0) != 0)'";
const FUSE: &str = "test -e /dev/fuse";
const MAKE_FUSE: &str = "mknod /tmp/fuse c 10 229";
const RAW: &str = "perl -MSocket -e 'socket(S, PF_INET, SOCK_RAW, 1) or exit 1'";
const PACKET: &str = "perl -MSocket -e 'socket(S, 17, SOCK_RAW, 0) or exit 1'";
/// What a filter of clone must not break.
const THREAD: &str = "python3 -c 'import _thread; _thread.start_new_thread(print, ())'";

fn all() -> impl Iterator<Item = Deny> {
    Deny::value_variants().iter().copied()
}

fn sandbox(gvisor: Gvisor) -> Builder {
    Sandbox::builder().gvisor(gvisor).root(quickest())
}

/// Permitted, effective, bounding, inheritable of a program that is run inside; where they are shown, none is ambient.
fn capabilities(sandbox: &Sandbox) -> Result<[String; 4], Failed> {
    let status = said(sandbox, "cat /proc/self/status")?;
    let field = |name: &str| status.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()));
    equal(field("CapAmb:").unwrap_or_else(|| "0000000000000000".into()), "0000000000000000".into())?;
    Ok(["CapPrm:", "CapEff:", "CapBnd:", "CapInh:"].map(|name| field(name).unwrap_or_default()))
}

fn said(sandbox: &Sandbox, script: &str) -> Result<String, Failed> {
    let output = sandbox.exec(["bash", "-c", script])?;
    ensure(output.status.success(), &format!("{script}: {}{}", output.status, text(&output.stderr)))?;
    Ok(text(&output.stdout).trim_end().to_owned())
}

fn succeeds(sandbox: &Sandbox, script: &str) -> Outcome {
    said(sandbox, script).map(|_| ())
}

fn fails(sandbox: &Sandbox, script: &str) -> Outcome {
    ensure(!sandbox.exec(["bash", "-c", script])?.status.success(), &format!("{script}: it went well"))
}
