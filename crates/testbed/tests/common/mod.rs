//! What the tests with sandboxes share.

use std::sync::OnceLock;

use libtest_mimic::Failed;
use terrarium_testbed::{RootKind, Sandbox};

pub type Outcome = Result<(), Failed>;

/// The kind of root that starts quickest here; what these tests look at does not depend on it.
pub fn quickest() -> RootKind {
    static KIND: OnceLock<RootKind> = OnceLock::new();
    let overlay = || Sandbox::builder().root(RootKind::Overlay).start().is_ok();
    *KIND.get_or_init(|| if overlay() { RootKind::Overlay } else { RootKind::NineP })
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn equal<T: PartialEq + std::fmt::Debug>(found: T, expected: T) -> Outcome {
    ensure(found == expected, &format!("found {found:?}, expected {expected:?}"))
}

pub fn ensure(holds: bool, otherwise: &str) -> Outcome {
    if holds { Ok(()) } else { Err(otherwise.to_owned().into()) }
}
