//! A legacy ip_tables table as data: decode what the kernel gives, change it, encode what it takes.
//!
//! A table is one blob of entries, full of byte offsets: where hooks begin (`hook_entry`), where their policies are
//! (`underflow`), where jumps lead. Here all of them are indices of entries, and offsets exist only in the blob, so
//! entries can be inserted and removed without arithmetic. Entries of others keep their bytes; only the offset inside
//! a jump is written anew.
//!
//! [`Rule`] is what we write ourselves, and a [`Chain`] of ours is known again by its name: gVisor has no comments.
//!
//! Layouts are those of `struct ipt_entry`, `xt_entry_target` and friends in Linux's
//! `include/uapi/linux/netfilter_ipv4/ip_tables.h`; gVisor's are the same (`pkg/abi/linux/netfilter.go`).

mod entry;
mod rule;

use std::ops::Range;

use terrarium_sys::ip_tables::{HOOKS, Layout};

pub use entry::Entry;
use entry::{entry_at, jump_offset, verdict_at};
pub use rule::{Addresses, Match, Protocol, Rule, Target};

/// A blob that cannot be understood, or a change that would leave a table broken.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TableError {
    /// The entry at this offset (bytes) does not fit its own lengths, or the table's.
    #[error("the entry at offset {0} is cut short or malformed")]
    Malformed(usize),
    /// An offset that should lead to an entry does not.
    #[error("{what} leads to offset {offset}, where no entry begins")]
    Dangling {
        /// Who holds the offset.
        what: &'static str,
        /// Bytes from the first entry.
        offset: u32,
    },
    /// The table has another number of entries than the kernel said.
    #[error("{found} entries where the kernel told of {told}")]
    Count {
        /// Entries in the blob.
        found: usize,
        /// Entries by `IPT_SO_GET_INFO`.
        told: u32,
    },
    /// Someone else's rule jumps into entries that are to be removed.
    #[error("rule {0} of the table jumps into the rules to be removed")]
    StillUsed(usize),
    /// The table lacks the hook that a chain is to be jumped to from.
    #[error("the table has no {0:?} chain")]
    NoHook(Hook),
}

/// Where the kernel asks the nat table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// What arrives, before it is routed.
    Prerouting = 0,
    /// What arrives for the node itself.
    Input = 1,
    /// What the node itself sends.
    Output = 3,
    /// What leaves, after it was routed.
    Postrouting = 4,
}

/// Whether a hook's jump to a chain of ours is before all rules of others, or after them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Before them.
    First,
    /// After them.
    Last,
}

/// A user chain of ours, and the jumps that lead there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// At most 29 bytes.
    pub name: &'static str,
    /// From where, for which packets.
    pub jumps: Vec<(Hook, Match)>,
    /// Where in the hooks' own chains.
    pub place: Place,
    /// What it says.
    pub rules: Vec<Rule>,
}

impl Chain {
    /// How many bytes of a table it takes, jumps included.
    pub fn size(&self) -> usize {
        let jumps = self.jumps.iter().map(|(_, when)| jump(when, 0)).chain([Entry::end_of_chain()]);
        let around: usize = jumps.chain([Entry::chain_head(self.name)]).map(|entry| entry.bytes.len()).sum();
        around + self.rules.iter().map(Rule::size).sum::<usize>()
    }
}

/// A table, all offsets turned into indices of entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    valid_hooks: u32,
    /// First entry and policy of each hook that the table has.
    hooks: [Option<(usize, usize)>; HOOKS],
    entries: Vec<Entry>,
}

impl Table {
    /// Understands the blob that the kernel gave for a table of this layout.
    pub fn decode(layout: &Layout, blob: &[u8]) -> Result<Self, TableError> {
        let mut entries = Vec::new();
        let mut offsets = Vec::new();
        let mut at = 0;
        while at < blob.len() {
            let bytes = entry_at(blob, at).ok_or(TableError::Malformed(at))?;
            offsets.push(at);
            entries.push(Entry { bytes: bytes.to_vec(), jump: None });
            at += bytes.len();
        }
        if entries.len() != layout.num_entries as usize {
            return Err(TableError::Count { found: entries.len(), told: layout.num_entries });
        }
        let index = |what, offset: u32| {
            offsets.binary_search(&(offset as usize)).map_err(|_| TableError::Dangling { what, offset })
        };
        for entry in &mut entries {
            if let Some(offset) = jump_offset(&entry.bytes) {
                entry.jump = Some(index("a jump", offset)?);
            }
        }
        let mut hooks = [None; HOOKS];
        for (number, hook) in hooks.iter_mut().enumerate() {
            if layout.valid_hooks & (1 << number) != 0 {
                let entry = index("a hook", layout.hook_entry[number])?;
                *hook = Some((entry, index("a policy", layout.underflow[number])?));
            }
        }
        Ok(Self { valid_hooks: layout.valid_hooks, hooks, entries })
    }

    /// The blob and its layout, as the kernel takes them.
    pub fn encode(&self) -> (Layout, Vec<u8>) {
        let mut offsets = Vec::with_capacity(self.entries.len());
        let mut size = 0;
        for entry in &self.entries {
            offsets.push(size as u32);
            size += entry.bytes.len();
        }
        let mut blob = Vec::with_capacity(size);
        for entry in &self.entries {
            let start = blob.len();
            blob.extend_from_slice(&entry.bytes);
            if let Some(to) = entry.jump {
                let at = start + verdict_at(&entry.bytes);
                blob[at..at + 4].copy_from_slice(&offsets[to].to_ne_bytes());
            }
        }
        let mut layout = Layout {
            valid_hooks: self.valid_hooks,
            num_entries: self.entries.len() as u32,
            size: size as u32,
            ..Layout::default()
        };
        for (number, hook) in self.hooks.iter().enumerate() {
            if let Some((entry, policy)) = hook {
                layout.hook_entry[number] = offsets[*entry];
                layout.underflow[number] = offsets[*policy];
            }
        }
        (layout, blob)
    }

    /// Bytes that all entries take together.
    pub fn size(&self) -> usize {
        self.entries.iter().map(|entry| entry.bytes.len()).sum()
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry at all; the kernel has no such table.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entries of a user chain with its head, up to and with its implied return.
    pub fn chain(&self, name: &str) -> Option<Range<usize>> {
        let head = self.entries.iter().position(|entry| entry.error_name() == Some(name.as_bytes()))?;
        let length = self.entries[head + 1..].iter().position(|entry| entry.error_name().is_some())?;
        Some(head..head + 1 + length)
    }

    /// Whether the chain is there, says just this and is led to just so.
    pub fn has_chain(&self, wanted: &Chain) -> bool {
        let Some(chain) = self.chain(wanted.name) else { return false };
        let body = chain.start + 1;
        let found = &self.entries[body..chain.end];
        let expected = wanted.rules.iter().map(Rule::entry).chain([Entry::end_of_chain()]);
        let jumps = self.jumps(body);
        let leads = |(hook, when): &(Hook, Match)| {
            let within = self.hooks[*hook as usize].map_or(0..0, |(first, policy)| first..policy);
            let expected = jump(when, body);
            jumps.iter().any(|index| within.contains(index) && self.entries[*index].same_rule(&expected))
        };
        found.len() == wanted.rules.len() + 1
            && found.iter().zip(expected).all(|(found, expected)| found.same_rule(&expected))
            && jumps.len() == wanted.jumps.len()
            && wanted.jumps.iter().all(leads)
    }

    /// Has the table hold this chain, in place of one of the same name. Whether it had to be changed for that; after
    /// an error it is of no use.
    pub fn set_chain(&mut self, wanted: &Chain) -> Result<bool, TableError> {
        if self.has_chain(wanted) {
            return Ok(false);
        }
        self.remove_chain(wanted.name)?;
        let head = self.entries.len() - 1; // the last entry is the table's own error
        let rules = wanted.rules.iter().map(Rule::entry);
        let chain = [Entry::chain_head(wanted.name)].into_iter().chain(rules).chain([Entry::end_of_chain()]);
        for (position, entry) in chain.enumerate() {
            self.insert(head + position, entry);
        }
        for ((hook, when), before) in wanted.jumps.iter().zip(1..) {
            let (first, policy) = self.hooks[*hook as usize].ok_or(TableError::NoHook(*hook))?;
            let at = if wanted.place == Place::First { first } else { policy };
            self.insert(at, jump(when, head + before + 1)); // each jump moves the chain by one entry
        }
        Ok(true)
    }

    /// Removes a user chain and the hooks' jumps to it. `Ok(false)` if there is none.
    pub fn remove_chain(&mut self, name: &str) -> Result<bool, TableError> {
        let Some(chain) = self.chain(name) else { return Ok(false) };
        let jumps = self.jumps(chain.start + 1);
        let stays = |index: usize| !chain.contains(&index) && !jumps.contains(&index);
        let used = |(index, entry): (usize, &Entry)| {
            (stays(index) && entry.jump.is_some_and(|to| chain.contains(&to))).then_some(index)
        };
        if let Some(index) = self.entries.iter().enumerate().find_map(used) {
            return Err(TableError::StillUsed(index));
        }
        for index in chain.rev() {
            self.remove(index);
        }
        for index in jumps.into_iter().rev() {
            self.remove(index);
        }
        Ok(true)
    }

    /// The hooks' own jumps to the entry `to`, in order.
    fn jumps(&self, to: usize) -> Vec<usize> {
        let hooks = self.hooks.iter().flatten();
        let mut jumps: Vec<usize> = hooks
            .flat_map(|(first, policy)| *first..*policy)
            .filter(|&index| self.entries[index].jump == Some(to))
            .collect();
        jumps.sort_unstable();
        jumps
    }

    /// Puts an entry before the one at `at`. What led to `at` from a rule above (a rule without a target goes on at the
    /// next entry) and a hook that begins there now lead to the new entry; a policy stays what it was.
    fn insert(&mut self, at: usize, entry: Entry) {
        let beyond = |index: &mut usize| *index += usize::from(*index > at);
        for jump in self.entries.iter_mut().filter_map(|entry| entry.jump.as_mut()) {
            beyond(jump);
        }
        for (first, policy) in self.hooks.iter_mut().flatten() {
            beyond(first);
            *policy += usize::from(*policy >= at);
        }
        self.entries.insert(at, entry);
    }

    /// Takes the entry at `at` away; what led to it leads to the one after it.
    fn remove(&mut self, at: usize) {
        self.entries.remove(at);
        let beyond = |index: &mut usize| *index -= usize::from(*index > at);
        for jump in self.entries.iter_mut().filter_map(|entry| entry.jump.as_mut()) {
            beyond(jump);
        }
        for (first, policy) in self.hooks.iter_mut().flatten() {
            beyond(first);
            beyond(policy);
        }
    }
}

/// A jump for these packets; `to` is the index of the chain's first rule.
fn jump(when: &Match, to: usize) -> Entry {
    let mut entry = Entry::verdict(0);
    entry.jump = Some(to);
    when.narrow(&mut entry);
    entry
}

#[cfg(test)]
#[path = "iptables_tests.rs"]
mod tests;
