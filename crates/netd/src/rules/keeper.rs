//! Keeps our chains in the nat table, within what one replacement of it may take.

use std::cell::RefCell;
use std::time::Duration;

use nix::errno::Errno;
use terrarium_cni::iptables::{Chain, Table, TableError};
use terrarium_cni::nat::{Extent, Lock, Nat, NatError, REPLACE_HEADER};
use tokio::time::sleep;

/// No kernel has a smaller limit, so whatever is refused below it has another flaw.
const MINIMUM: usize = 4096;
/// How often to look whether the lock of the tables is free: `iptables` holds it for milliseconds.
const LOCK_INTERVAL: Duration = Duration::from_millis(5);

/// The table, and what is known of it.
pub struct Keeper {
    nat: Nat,
    /// Bytes that a replacement may take, header and all: known once one was refused.
    limit: Option<usize>,
    /// The table when it was last as it should be.
    seen: Option<Extent>,
}

impl Keeper {
    pub fn open() -> Result<Self, NatError> {
        Ok(Self { nat: Nat::open()?, limit: None, seen: None })
    }

    /// Whether someone added or removed rules since we last saw to it. Who replaces one by another of the same size goes
    /// unnoticed until the next change: reading the whole table each time would cost too much.
    pub fn is_disturbed(&self) -> bool {
        self.nat.extent().ok() != self.seen
    }

    /// Has the table hold these chains and no others of these names, in one change. `plan` is told how many bytes they may
    /// take, jumps included, and says what is best within that; it is asked again with less if the kernel refuses. Returns
    /// what it planned.
    pub async fn set<P>(&mut self, names: &[&str], plan: impl Fn(usize) -> (Vec<Chain>, P)) -> Result<P, NatError> {
        self.seen = None;
        let _lock = self.lock().await?;
        loop {
            let result = RefCell::new(None);
            let changed = self.nat.change_unlocked(|table| {
                let mut others = table.clone();
                set_chains(&mut others, names, &[])?;
                let taken = REPLACE_HEADER + others.size();
                let (chains, planned) = plan(self.limit.map_or(usize::MAX, |limit| limit.saturating_sub(taken)));
                let changed = set_chains(table, names, &chains)?;
                result.replace(Some((planned, REPLACE_HEADER + table.size())));
                Ok(changed)
            });
            match (changed, result.into_inner()) {
                (Ok(_), Some((planned, _))) => {
                    self.seen = self.nat.extent().ok();
                    return Ok(planned);
                }
                (Err(NatError::Replace { source, .. }), Some((_, size)))
                    if source.raw_os_error() == Some(Errno::EINVAL as i32) && self.learn(size) => {}
                (Err(error), _) => return Err(error),
                (Ok(_), None) => unreachable!("a table was changed, and nothing planned"),
            }
        }
    }

    /// Removes chains, now.
    pub fn remove(&self, names: &[&str]) -> Result<bool, NatError> {
        self.nat.remove_chains(names)
    }

    /// A replacement of this size was refused. gVisor's limits of a socket option have been powers of two, so the next
    /// smaller one is tried. Whether that is worth it: what is smaller than the table that is there cannot be too large.
    fn learn(&mut self, refused: usize) -> bool {
        let limit = refused.next_power_of_two() / 2;
        let there = self.nat.extent().map_or(0, |extent| REPLACE_HEADER + extent.size as usize);
        let news = self.limit.is_none_or(|known| limit < known) && limit >= MINIMUM && there < refused;
        if news {
            tracing::info!(refused, limit, "the kernel takes smaller nat tables only");
            self.limit = Some(limit);
        }
        news
    }

    async fn lock(&self) -> Result<Lock, NatError> {
        loop {
            match Lock::try_take()? {
                Some(lock) => return Ok(lock),
                None => sleep(LOCK_INTERVAL).await,
            }
        }
    }
}

/// Has a table hold these chains, and none other of those names.
fn set_chains(table: &mut Table, names: &[&str], chains: &[Chain]) -> Result<bool, TableError> {
    let mut changed = false;
    for name in names {
        changed |= match chains.iter().find(|chain| chain.name == *name) {
            Some(chain) => table.set_chain(chain)?,
            None => table.remove_chain(name)?,
        };
    }
    Ok(changed)
}
