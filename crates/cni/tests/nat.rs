//! The nat table of real kernels: this Linux, in a network namespace of the test's own, and each build of gVisor, where this
//! program plays itself. Where ip_tables is out of reach it says so and counts as skipped.

#![allow(clippy::unwrap_used, reason = "a test, though not one that cargo knows as such")]

use std::process::ExitCode;
use std::sync::LazyLock;
use std::thread;
use std::time::Duration;

use ipnet::Ipv4Net;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use terrarium_cni::CHAINS;
use terrarium_cni::iptables::{Chain, Hook, Match, Place, Protocol, Target};
use terrarium_cni::nat::Nat;
use terrarium_testbed::{Gvisor, Sandbox, check_host};

const PROGRAM: &str = "/opt/nat";
/// Says to this program that it is in a sandbox.
const INSIDE: &str = "TERRARIUM_NAT_INSIDE";

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Each changes the one table, in the namespaces of the thread.
    arguments.test_threads = Some(1);
    let mut trials = vec![];
    if std::env::var_os(INSIDE).is_none() {
        trials.extend([Gvisor::V2024_07, Gvisor::V2026_02, Gvisor::V2026_07].map(in_a_sandbox));
    }
    for (name, story) in [
        ("all_kinds_of_rules_are_taken_and_known_again", all_kinds_of_rules_are_taken_and_known_again as fn(&Nat)),
        ("a_table_that_changes_is_read", a_table_that_changes_is_read),
    ] {
        trials.push(Trial::ignorable_test(name, move || match &*ISOLATED {
            Ok(()) => Ok({
                story(&Nat::open()?);
                Completion::Completed
            }),
            Err(why) => Ok(Completion::ignored_with(why)),
        }));
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Done by the first who needs it, after the sandboxes, which need the machine's namespaces.
static ISOLATED: LazyLock<Result<(), String>> = LazyLock::new(isolate);

/// Leaves the machine's network and mount namespaces.
fn isolate() -> Result<(), String> {
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
        .and_then(|()| mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none))
        .and_then(|()| mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none)) // for iptables' lock file
        .map_err(|errno| format!("no namespaces can be made: {errno}"))?;
    Nat::open().and_then(|nat| nat.extent()).map(drop).map_err(|error| error.to_string())
}

fn in_a_sandbox(gvisor: Gvisor) -> Trial {
    Trial::ignorable_test(format!("in gVisor {gvisor}"), move || match check_host(gvisor) {
        Err(why) => Ok(Completion::ignored_with(why.to_string().replace('\n', "; "))),
        Ok(()) => play(gvisor).map(|()| Completion::Completed),
    })
}

fn play(gvisor: Gvisor) -> Result<(), Failed> {
    let program = std::env::current_exe()?;
    let sandbox = Sandbox::builder().gvisor(gvisor).bind_read_only(program, PROGRAM).env(INSIDE, "1").start()?;
    let output = sandbox.exec([PROGRAM])?;
    sandbox.stop()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    // What is skipped on Linux is there.
    if output.status.success() && said.contains("2 passed") { Ok(()) } else { Err(said.into()) }
}

/// Kernels check every entry of a table, and give it back.
fn all_kinds_of_rules_are_taken_and_known_again(nat: &Nat) {
    let net = |text: &str| text.parse::<Ipv4Net>().unwrap();
    let (tcp, udp) = (Match::protocol(Protocol::Tcp), Match::protocol(Protocol::Udp));
    let chain = |name, hook, when: Match, place, rules| Chain { name, jumps: vec![(hook, when)], place, rules };
    let before = [
        tcp.clone().to(net("10.43.0.10/32")).then(Target::Return),
        tcp.clone().to(net("10.43.0.0/16")).then(Target::Redirect(10243)),
        udp.clone().from(net("10.42.0.0/24")).then(Target::Dnat([10, 42, 0, 1].into(), None)),
        tcp.not_from(net("10.42.0.5/32"))
            .from_ports(1024..=2047)
            .to_ports(80..=80)
            .then(Target::Dnat([10, 42, 0, 5].into(), Some(8080))),
    ];
    let after = [
        udp.to_ports(53..=54).then(Target::Return),
        Match::all().from(net("10.42.0.2/31")).then(Target::Drop),
        Match::protocol(Protocol::Tcp).not_to(net("10.42.0.0/16")).then(Target::Snat([10, 201, 0, 2].into())),
    ];
    let dns = Match::all().to(net("10.43.0.10/32"));
    let chains = [
        chain(CHAINS[1], Hook::Prerouting, Match::all(), Place::First, before.to_vec()),
        chain(CHAINS[2], Hook::Postrouting, Match::all(), Place::First, after.to_vec()),
        chain(CHAINS[3], Hook::Input, dns, Place::First, after[..2].to_vec()),
    ];
    let untouched = nat.extent().unwrap();
    let set = || {
        nat.change(|table| {
            let mut changed = false;
            for chain in &chains {
                changed |= table.set_chain(chain)?;
            }
            Ok(changed)
        })
    };
    assert!(set().unwrap() && !set().unwrap(), "what is there is not set again");
    let table = nat.read().unwrap();
    assert!(chains.iter().all(|chain| table.has_chain(chain)));
    assert_eq!(table.size(), untouched.size as usize + chains.iter().map(Chain::size).sum::<usize>());
    assert!(nat.remove_chains(&CHAINS).unwrap());
    assert_eq!(nat.extent().unwrap(), untouched);
}

/// Who reads need not have the lock.
fn a_table_that_changes_is_read(nat: &Nat) {
    let other = Nat::open().unwrap();
    let rules = (1..20).map(|port| Match::protocol(Protocol::Tcp).to_ports(port..=port).then(Target::Return));
    let jumps = vec![(Hook::Prerouting, Match::all())];
    let chain = Chain { name: CHAINS[1], jumps, place: Place::First, rules: rules.collect() };
    let changes = thread::spawn(move || {
        for _ in 0..200 {
            other.change(|table| table.set_chain(&chain)).unwrap();
            other.remove_chains(&CHAINS).unwrap();
            thread::sleep(Duration::from_millis(1));
        }
    });
    while !changes.is_finished() {
        nat.read().expect("it is read again");
    }
    changes.join().unwrap();
}
