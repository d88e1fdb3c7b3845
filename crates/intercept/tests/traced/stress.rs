//! Many threads, many calls, many signals.

use crate::support::{Setup, outcome};

const RULES: &str = r#"{"redirect": [{"from": "/proc/sys/terrarium", "to": "DIR/to"}],
    "statfs": [{"from": "0x9fa0", "to": "0x27e0eb"}], "uname": {"release": "9.9.9"},
    "files": [{"path": "/proc/sys/made", "content": "made\n"}]}"#;
const THREADS: u64 = 64;

pub fn no_call_of_many_threads_is_lost_or_wrong() {
    let setup = Setup::new(RULES);
    for thread in 0..THREADS {
        std::fs::write(setup.path(&format!("to/{thread}")), thread.to_string()).expect("it is written");
    }
    let calls: u64 = std::env::var("CALLS").ok().and_then(|calls| calls.parse().ok()).unwrap_or(10_000);
    let outcome = outcome(&mut setup.inside(&["stress", &THREADS.to_string(), &calls.to_string()])).succeeds();
    assert!(outcome.out.starts_with(&format!("{} calls, 0 wrong, ", THREADS * calls)), "{outcome:?}");
    assert!(!outcome.out.contains(", 0 signals"), "{outcome:?}");
    eprintln!("{}", outcome.out.trim_end());
    let stats = setup.stats();
    let hits: u64 = stats.rules.iter().map(|rule| rule.hits).sum();
    assert_eq!((hits >= THREADS * calls, stats.missed), (true, 0), "{stats:?}");
}
