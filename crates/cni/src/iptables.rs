//! A legacy ip_tables table as data: decode what the kernel gives, change it, encode what it takes.
//!
//! A table is one blob of entries, full of byte offsets: where hooks begin (`hook_entry`), where their policies are
//! (`underflow`), where jumps lead. Here all of them are indices of entries, and offsets exist only in the blob, so
//! entries can be inserted and removed without arithmetic. Entries of others keep their bytes; only the offset inside
//! a jump is written anew.
//!
//! Layouts are those of `struct ipt_entry`, `xt_entry_target` and friends in Linux's
//! `include/uapi/linux/netfilter_ipv4/ip_tables.h`; gVisor's are the same (`pkg/abi/linux/netfilter.go`).

use std::net::Ipv4Addr;
use std::ops::Range;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use terrarium_sys::ip_tables::{HOOKS, Layout};

/// Length of `struct ipt_entry`: all before the matches and the target.
const ENTRY_LEN: usize = 112;
/// Length of `struct xt_entry_target`: all before the target's own data.
const TARGET_HEADER: usize = 32;
const TARGET_OFFSET_AT: usize = 88;
const NEXT_OFFSET_AT: usize = 90;
const INVERT_DESTINATION: u8 = 0x10; // IPT_INV_DSTIP
const NAT_MAP_ADDRESSES: u32 = 1; // NF_NAT_RANGE_MAP_IPS
const VERDICT_RETURN: i32 = -5; // XT_RETURN: -NF_REPEAT - 1
/// The target that ends a table, and marks the beginning of each user chain with the chain's name as its data.
const ERROR_TARGET: &str = "ERROR";

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
}

/// Transport protocols that NAT rules of gVisor can match: it refuses NAT targets without one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// `-p tcp`
    Tcp = 6,
    /// `-p udp`
    Udp = 17,
}

/// One rule, policy or chain head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// `struct ipt_entry`, matches and target as the kernel had them.
    bytes: Vec<u8>,
    /// For a jump: index of the entry where it goes on.
    jump: Option<usize>,
}

impl Entry {
    /// `-p PROTOCOL -s SOURCE ! -d EXCEPT -j SNAT --to-source TO`, with the target's revision 0, known to every kernel.
    pub fn snat(protocol: Protocol, source: Ipv4Net, except: Ipv4Net, to: Ipv4Addr) -> Self {
        let mut range = Vec::with_capacity(24); // struct nf_nat_ipv4_multi_range_compat, aligned to 8
        range.extend_from_slice(&1u32.to_ne_bytes());
        range.extend_from_slice(&NAT_MAP_ADDRESSES.to_ne_bytes());
        range.extend_from_slice(&to.octets());
        range.extend_from_slice(&to.octets());
        range.resize(24, 0);
        let mut entry = Self::with_target("SNAT", &range);
        entry.bytes[0..4].copy_from_slice(&source.network().octets());
        entry.bytes[4..8].copy_from_slice(&except.network().octets());
        entry.bytes[8..12].copy_from_slice(&source.netmask().octets());
        entry.bytes[12..16].copy_from_slice(&except.netmask().octets());
        entry.bytes[80..82].copy_from_slice(&(protocol as u16).to_ne_bytes());
        entry.bytes[83] = INVERT_DESTINATION;
        entry
    }

    /// `-j CHAIN` for every packet; `to` is the index of the chain's first rule.
    pub fn jump(to: usize) -> Self {
        Self { jump: Some(to), ..Self::verdict(0) }
    }

    /// The implied last rule of a user chain.
    pub fn end_of_chain() -> Self {
        Self::verdict(VERDICT_RETURN)
    }

    /// What stands before the first rule of a user chain. Names longer than 29 bytes are cut.
    pub fn chain_head(name: &str) -> Self {
        let mut data = [0; 32];
        let length = name.len().min(29);
        data[..length].copy_from_slice(&name.as_bytes()[..length]);
        Self::with_target(ERROR_TARGET, &data)
    }

    fn verdict(verdict: i32) -> Self {
        let mut data = [0; 8];
        data[..4].copy_from_slice(&verdict.to_ne_bytes());
        Self::with_target("", &data)
    }

    fn with_target(name: &str, data: &[u8]) -> Self {
        let target_len = TARGET_HEADER + data.len();
        let mut bytes = vec![0; ENTRY_LEN + target_len];
        put_u16(&mut bytes, TARGET_OFFSET_AT, ENTRY_LEN);
        put_u16(&mut bytes, NEXT_OFFSET_AT, ENTRY_LEN + target_len);
        put_u16(&mut bytes, ENTRY_LEN, target_len);
        bytes[ENTRY_LEN + 2..ENTRY_LEN + 2 + name.len()].copy_from_slice(name.as_bytes());
        bytes[ENTRY_LEN + TARGET_HEADER..].copy_from_slice(data);
        Self { bytes, jump: None }
    }

    /// Whether both say the same, whatever their counters and the kernel's own marks.
    fn same_rule(&self, other: &Self) -> bool {
        let plain = |entry: &Self| {
            let mut bytes = entry.bytes.clone();
            bytes[84..88].fill(0); // nfcache
            bytes[92..112].fill(0); // comefrom, counters
            if entry.jump.is_some() {
                let at = verdict_at(&bytes);
                bytes[at..at + 4].fill(0);
            }
            bytes
        };
        self.jump == other.jump && plain(self) == plain(other)
    }

    fn target_name(&self) -> &[u8] {
        let at = target_offset(&self.bytes) + 2;
        until_nul(&self.bytes[at..at + 29])
    }

    /// The name of the user chain that begins here, or `ERROR` at the end of the table.
    fn error_name(&self) -> Option<&[u8]> {
        let at = target_offset(&self.bytes) + TARGET_HEADER;
        (self.target_name() == ERROR_TARGET.as_bytes()).then(|| until_nul(&self.bytes[at..]))
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

    /// Whether the chain holds just these rules and the hook has just one jump to it.
    pub fn has_chain(&self, hook: usize, name: &str, rules: &[Entry]) -> bool {
        let Some(chain) = self.chain(name) else { return false };
        let body = chain.start + 1;
        let found = &self.entries[body..chain.end];
        let end = Entry::end_of_chain();
        let expected = rules.iter().chain([&end]);
        found.len() == rules.len() + 1
            && found.iter().zip(expected).all(|(found, expected)| found.same_rule(expected))
            && self.jumps(hook, body).len() == 1
    }

    /// Adds a user chain of these rules at the end of the table, and a jump to it at the end of the hook's chain.
    /// Returns `false` and changes nothing if the table does not have that hook.
    pub fn add_chain(&mut self, hook: usize, name: &str, rules: Vec<Entry>) -> bool {
        let Some((_, policy)) = self.hooks.get(hook).copied().flatten() else { return false };
        let head = self.entries.len() - 1; // the last entry is the table's own error
        let chain = [Entry::chain_head(name)].into_iter().chain(rules).chain([Entry::end_of_chain()]);
        for (position, entry) in chain.enumerate() {
            self.insert(head + position, entry);
        }
        // The jump itself moves the chain by one entry.
        self.insert(policy, Entry::jump(head + 2));
        true
    }

    /// Removes a user chain and the hook's unconditional jumps to it. `Ok(false)` if there is none.
    pub fn remove_chain(&mut self, hook: usize, name: &str) -> Result<bool, TableError> {
        let Some(chain) = self.chain(name) else { return Ok(false) };
        let jumps = self.jumps(hook, chain.start + 1);
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

    /// The hook's own unconditional jumps to the entry `to`, in order.
    fn jumps(&self, hook: usize, to: usize) -> Vec<usize> {
        let Some((first, policy)) = self.hooks.get(hook).copied().flatten() else { return Vec::new() };
        (first..policy).filter(|&index| self.entries[index].same_rule(&Entry::jump(to))).collect()
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

/// The bytes of the entry at `at`, if they are all there and its lengths agree.
fn entry_at(blob: &[u8], at: usize) -> Option<&[u8]> {
    let rest = &blob[at..];
    if rest.len() < ENTRY_LEN {
        return None;
    }
    let (target, length) = (target_offset(rest), get_u16(rest, NEXT_OFFSET_AT));
    let bytes = rest.get(..length)?;
    let target_len = get_u16(bytes.get(target..target + TARGET_HEADER)?, 0);
    // Standard and error targets carry data that this module reads.
    let name = until_nul(&bytes[target + 2..target + 31]);
    let needed = match name {
        b"" => 8,
        name if name == ERROR_TARGET.as_bytes() => 30,
        _ => 0,
    };
    (target >= ENTRY_LEN && target + target_len <= length && target_len >= TARGET_HEADER + needed).then_some(bytes)
}

/// For an entry with the standard target and a verdict that is an offset: that offset.
fn jump_offset(entry: &[u8]) -> Option<u32> {
    let at = target_offset(entry);
    if !until_nul(&entry[at + 2..at + 31]).is_empty() {
        return None;
    }
    let at = verdict_at(entry);
    let verdict = i32::from_ne_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]);
    u32::try_from(verdict).ok()
}

fn verdict_at(entry: &[u8]) -> usize {
    target_offset(entry) + TARGET_HEADER
}

fn target_offset(entry: &[u8]) -> usize {
    get_u16(entry, TARGET_OFFSET_AT)
}

fn get_u16(bytes: &[u8], at: usize) -> usize {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]]).into()
}

fn put_u16(bytes: &mut [u8], at: usize, value: usize) {
    bytes[at..at + 2].copy_from_slice(&(value as u16).to_ne_bytes());
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

#[cfg(test)]
#[path = "iptables_tests.rs"]
mod tests;
