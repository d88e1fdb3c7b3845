//! Capabilities of the container's process.
//!
//! Which ones a kernel has is asked of the kernel, one by one (`PR_CAPBSET_READ`): gVisor has no
//! `/proc/sys/kernel/cap_last_cap`.

use std::io;

use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::prctl;
use oci_spec::runtime::{Capabilities as Names, LinuxCapabilities};

use crate::error::Doing;
use crate::{Error, Result};

/// The sets of `process.capabilities`, of what the kernel at hand has.
#[derive(Debug, Clone, Default)]
pub struct Capabilities {
    bounding: CapsHashSet,
    effective: CapsHashSet,
    permitted: CapsHashSet,
    inheritable: CapsHashSet,
    ambient: CapsHashSet,
    /// What was left out, for the log.
    pub warnings: Vec<String>,
}

impl Capabilities {
    /// Looks which of them this kernel has. Without any, a process gets none, as with runc.
    pub fn new(capabilities: Option<&LinuxCapabilities>) -> Self {
        let Some(sets) = capabilities else { return Self::default() };
        let mut warnings = Vec::new();
        let mut known = |set: &str, names: &Option<Names>| {
            let (known, unknown) =
                split_known(names.iter().flatten().filter_map(|name| format!("CAP_{name}").parse().ok()));
            if !unknown.is_empty() {
                let field = format!("process.capabilities.{set}");
                warnings.push(format!("{field}: this kernel has no {}; left out", listed(&unknown)));
            }
            known
        };
        let mut capabilities = Self {
            bounding: known("bounding", sets.bounding()),
            effective: known("effective", sets.effective()),
            permitted: known("permitted", sets.permitted()),
            inheritable: known("inheritable", sets.inheritable()),
            ambient: known("ambient", sets.ambient()),
            warnings,
        };
        if !capabilities.ambient.is_empty() && caps::runtime::ambient_set_supported().is_err() {
            let warning = "process.capabilities.ambient: this kernel has no ambient capabilities; left out";
            capabilities.warnings.push(warning.to_owned());
            capabilities.ambient.clear();
        }
        capabilities.leave_out_impossible_ambient();
        capabilities
    }

    /// The kernel lets only those be ambient that are both permitted and inheritable. `runc spec` writes others.
    fn leave_out_impossible_ambient(&mut self) {
        let (permitted, inheritable) = (&self.permitted, &self.inheritable);
        let possible = |one: &Capability| permitted.contains(one) && inheritable.contains(one);
        let (possible, impossible): (Vec<_>, Vec<_>) = self.ambient.drain().partition(possible);
        self.ambient = possible.into_iter().collect();
        if !impossible.is_empty() {
            let names = listed(&impossible);
            let warning = format!("process.capabilities.ambient: {names}: not permitted and inheritable; left out");
            self.warnings.push(warning);
        }
    }

    /// Takes the calling thread's capabilities down to these, and changes its user in between: the bounding set can be
    /// limited only before, when the thread may still do so, and the others are set after, since the change clears them.
    pub fn apply(&self, change_user: impl FnOnce() -> Result<()>) -> Result<()> {
        self.limit()?;
        prctl::set_keepcaps(true).doing("keep capabilities across the change of user")?;
        change_user()?;
        prctl::set_keepcaps(false).doing("keep capabilities no longer")?;
        self.set()
    }

    fn limit(&self) -> Result<()> {
        for capability in read(CapSet::Bounding)?.difference(&self.bounding) {
            caps::drop(None, CapSet::Bounding, *capability)
                .map_err(io::Error::other)
                .doing_with(|| format!("drop {capability} from the bounding set"))?;
        }
        Ok(())
    }

    /// In an order in which each step is allowed: what is inherited while the right to do so lasts; permitted, of which
    /// the effective ones must be part; ambient ones, which must be both permitted and inheritable.
    fn set(&self) -> Result<()> {
        let permitted = read(CapSet::Permitted)?;
        require("permitted", &self.permitted, &permitted)?;
        require("effective", &self.effective, &self.permitted)?;
        replace(CapSet::Inheritable, &self.inheritable)?;
        replace(CapSet::Effective, &CapsHashSet::new())?;
        replace(CapSet::Permitted, &self.permitted)?;
        replace(CapSet::Effective, &self.effective)?;
        if caps::runtime::ambient_set_supported().is_ok() {
            caps::clear(None, CapSet::Ambient).map_err(io::Error::other).doing("clear the ambient capabilities")?;
            for capability in &self.ambient {
                caps::raise(None, CapSet::Ambient, *capability)
                    .map_err(io::Error::other)
                    .doing_with(|| format!("make {capability} ambient (process.capabilities.ambient)"))?;
            }
        }
        Ok(())
    }
}

/// The kernel's own answer to a capability that is not to be had is EPERM, without a name.
fn require(set: &str, wanted: &CapsHashSet, have: &CapsHashSet) -> Result<()> {
    let missing: Vec<Capability> = wanted.difference(have).copied().collect();
    if missing.is_empty() {
        return Ok(());
    }
    let whose =
        if set == "permitted" { "the caller does not have" } else { "is not in process.capabilities.permitted" };
    Err(Error::spec(format!("process.capabilities.{set}"), format!("asks for {}, which {whose}", listed(&missing))))
}

fn split_known(wanted: impl Iterator<Item = Capability>) -> (CapsHashSet, Vec<Capability>) {
    let (known, unknown): (Vec<_>, Vec<_>) =
        wanted.partition(|capability| caps::has_cap(None, CapSet::Bounding, *capability).is_ok());
    (known.into_iter().collect(), unknown)
}

fn listed(capabilities: &[Capability]) -> String {
    let mut names: Vec<String> = capabilities.iter().map(ToString::to_string).collect();
    names.sort_unstable();
    names.join(", ")
}

fn read(set: CapSet) -> Result<CapsHashSet> {
    caps::read(None, set).map_err(io::Error::other).doing_with(|| format!("read the {set:?} capabilities"))
}

fn replace(set: CapSet, capabilities: &CapsHashSet) -> Result<()> {
    caps::set(None, set, capabilities).map_err(io::Error::other).doing_with(|| format!("set the {set:?} capabilities"))
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn of(sets: &str) -> Capabilities {
        Capabilities::new(Some(&serde_json::from_str(sets).expect("sets of capabilities")))
    }

    /// Capabilities are a thread's own; those of the test's main thread stay.
    fn in_a_thread<T: Send>(check: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| scope.spawn(check).join().expect("the check ends"))
    }

    /// Of the calling thread, as `CapInh CapPrm CapEff CapBnd CapAmb` in /proc.
    fn sets() -> [Vec<String>; 5] {
        [CapSet::Inheritable, CapSet::Permitted, CapSet::Effective, CapSet::Bounding, CapSet::Ambient].map(|set| {
            let mut names: Vec<_> = caps::read(None, set).unwrap_or_default().iter().map(ToString::to_string).collect();
            names.sort_unstable();
            names
        })
    }

    fn may_limit_itself() -> bool {
        caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).unwrap_or(false)
    }

    #[test]
    fn each_set_becomes_what_was_asked_for() {
        if !may_limit_itself() {
            eprintln!("skipped: needs CAP_SETPCAP");
            return;
        }
        let wanted =
            of(r#"{"bounding": ["CAP_KILL", "CAP_CHOWN", "CAP_SETUID"], "permitted": ["CAP_KILL", "CAP_CHOWN"],
                "effective": ["CAP_KILL"], "inheritable": ["CAP_CHOWN"], "ambient": ["CAP_CHOWN"]}"#);
        // gVisor before mid-2026 has no ambient ones, and says so instead of having none.
        let has_ambient = caps::runtime::ambient_set_supported().is_ok();
        assert_eq!(wanted.warnings.is_empty(), has_ambient, "{:?}", wanted.warnings);
        let [inheritable, permitted, effective, bounding, ambient] = in_a_thread(|| {
            wanted.apply(|| Ok(())).expect("rights to give up");
            sets()
        });
        assert_eq!(bounding, ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID"]);
        assert_eq!(permitted, ["CAP_CHOWN", "CAP_KILL"]);
        assert_eq!(effective, ["CAP_KILL"]);
        assert_eq!(inheritable, ["CAP_CHOWN"]);
        assert_eq!(ambient, ["CAP_CHOWN"].get(usize::from(!has_ambient)..).unwrap_or_default());
    }

    #[test]
    fn without_any_set_nothing_is_left() {
        if !may_limit_itself() {
            eprintln!("skipped: needs CAP_SETPCAP");
            return;
        }
        let left = in_a_thread(|| {
            Capabilities::new(None).apply(|| Ok(())).expect("rights to give up");
            sets()
        });
        assert!(left.iter().all(Vec::is_empty), "{left:?}");
    }

    #[test]
    fn what_the_caller_lacks_is_named() {
        let error = in_a_thread(|| {
            replace(CapSet::Effective, &CapsHashSet::new()).expect("rights to give up");
            replace(CapSet::Permitted, &CapsHashSet::new()).expect("rights to give up");
            of(r#"{"permitted": ["CAP_SYS_ADMIN", "CAP_KILL"]}"#).set().expect_err("none is permitted")
        });
        let message =
            "process.capabilities.permitted: asks for CAP_KILL, CAP_SYS_ADMIN, which the caller does not have";
        assert_eq!(error.to_string(), message);
        let error = in_a_thread(|| of(r#"{"effective": ["CAP_KILL"]}"#).set().expect_err("it is not permitted"));
        let message =
            "process.capabilities.effective: asks for CAP_KILL, which is not in process.capabilities.permitted";
        assert_eq!(error.to_string(), message);
    }
}
