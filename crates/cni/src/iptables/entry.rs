//! One entry of a table as bytes: `struct ipt_entry` with its matches and its target.

/// Length of `struct ipt_entry`: all before the matches and the target.
pub(super) const ENTRY_LEN: usize = 112;
/// Length of `struct xt_entry_target`, and of `struct xt_entry_match`: all before an extension's own data.
pub(super) const EXTENSION_HEADER: usize = 32;
pub(super) const TARGET_OFFSET_AT: usize = 88;
pub(super) const NEXT_OFFSET_AT: usize = 90;
/// The target that ends a table, and marks the beginning of each user chain with the chain's name as its data.
pub(super) const ERROR_TARGET: &str = "ERROR";
const VERDICT_RETURN: i32 = -5; // XT_RETURN: -NF_REPEAT - 1

/// One rule, policy or chain head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// `struct ipt_entry`, matches and target as the kernel had them.
    pub(super) bytes: Vec<u8>,
    /// For a jump: index of the entry where it goes on.
    pub(super) jump: Option<usize>,
}

impl Entry {
    /// The implied last rule of a user chain.
    pub(super) fn end_of_chain() -> Self {
        Self::verdict(VERDICT_RETURN)
    }

    /// What stands before the first rule of a user chain. Names longer than 29 bytes are cut.
    pub(super) fn chain_head(name: &str) -> Self {
        let mut data = [0; 32];
        let length = name.len().min(29);
        data[..length].copy_from_slice(&name.as_bytes()[..length]);
        Self::with_target(ERROR_TARGET, &data)
    }

    /// Every packet gets this verdict.
    pub(super) fn verdict(verdict: i32) -> Self {
        let mut data = [0; 8];
        data[..4].copy_from_slice(&verdict.to_ne_bytes());
        Self::with_target("", &data)
    }

    /// Every packet gets this target; `data` is a multiple of 8 bytes.
    pub(super) fn with_target(name: &str, data: &[u8]) -> Self {
        let target = extension(name, data);
        let mut bytes = vec![0; ENTRY_LEN];
        put_u16(&mut bytes, TARGET_OFFSET_AT, ENTRY_LEN);
        put_u16(&mut bytes, NEXT_OFFSET_AT, ENTRY_LEN + target.len());
        bytes.extend(target);
        Self { bytes, jump: None }
    }

    /// Puts a match before the target; `data` is a multiple of 8 bytes.
    pub(super) fn add_match(&mut self, name: &str, data: &[u8]) {
        let at = target_offset(&self.bytes);
        let added = extension(name, data);
        let length = self.bytes.len() + added.len();
        put_u16(&mut self.bytes, TARGET_OFFSET_AT, at + added.len());
        put_u16(&mut self.bytes, NEXT_OFFSET_AT, length);
        self.bytes.splice(at..at, added);
    }

    /// Whether both say the same, whatever their counters and the kernel's own marks.
    pub(super) fn same_rule(&self, other: &Self) -> bool {
        let plain = |entry: &Self| {
            let mut bytes = entry.bytes.clone();
            bytes[84..88].fill(0); // nfcache
            bytes[92..112].fill(0); // comefrom, counters
            // The target's length follows from the entry's. gVisor gives out that of revision 1 for DNAT's revision 2
            // (`dnatTargetMakerR2.marshal` in its pkg/sentry/socket/netfilter/dnat.go).
            let target = target_offset(&bytes);
            bytes[target..target + 2].fill(0);
            if entry.jump.is_some() {
                let at = verdict_at(&bytes);
                bytes[at..at + 4].fill(0);
            }
            bytes
        };
        self.jump == other.jump && plain(self) == plain(other)
    }

    pub(super) fn target_name(&self) -> &[u8] {
        let at = target_offset(&self.bytes) + 2;
        until_nul(&self.bytes[at..at + 29])
    }

    /// The name of the user chain that begins here, or `ERROR` at the end of the table.
    pub(super) fn error_name(&self) -> Option<&[u8]> {
        let at = target_offset(&self.bytes) + EXTENSION_HEADER;
        (self.target_name() == ERROR_TARGET.as_bytes()).then(|| until_nul(&self.bytes[at..]))
    }
}

/// A match or a target: its length, its name, revision 0, which every kernel knows, and its data.
fn extension(name: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; EXTENSION_HEADER];
    put_u16(&mut bytes, 0, EXTENSION_HEADER + data.len());
    bytes[2..2 + name.len()].copy_from_slice(name.as_bytes());
    bytes.extend_from_slice(data);
    bytes
}

/// The bytes of the entry at `at`, if they are all there and its lengths agree.
pub(super) fn entry_at(blob: &[u8], at: usize) -> Option<&[u8]> {
    let rest = &blob[at..];
    if rest.len() < ENTRY_LEN {
        return None;
    }
    let (target, length) = (target_offset(rest), get_u16(rest, NEXT_OFFSET_AT));
    let bytes = rest.get(..length)?;
    let target_len = get_u16(bytes.get(target..target + EXTENSION_HEADER)?, 0);
    // Standard and error targets carry data that this module reads.
    let name = until_nul(&bytes[target + 2..target + 31]);
    let needed = match name {
        b"" => 8,
        name if name == ERROR_TARGET.as_bytes() => 30,
        _ => 0,
    };
    (target >= ENTRY_LEN && target + target_len <= length && target_len >= EXTENSION_HEADER + needed).then_some(bytes)
}

/// For an entry with the standard target and a verdict that is an offset: that offset.
pub(super) fn jump_offset(entry: &[u8]) -> Option<u32> {
    let at = target_offset(entry);
    if !until_nul(&entry[at + 2..at + 31]).is_empty() {
        return None;
    }
    let at = verdict_at(entry);
    let verdict = i32::from_ne_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]);
    u32::try_from(verdict).ok()
}

pub(super) fn verdict_at(entry: &[u8]) -> usize {
    target_offset(entry) + EXTENSION_HEADER
}

pub(super) fn target_offset(entry: &[u8]) -> usize {
    get_u16(entry, TARGET_OFFSET_AT)
}

pub(super) fn get_u16(bytes: &[u8], at: usize) -> usize {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]]).into()
}

pub(super) fn put_u16(bytes: &mut [u8], at: usize, value: usize) {
    bytes[at..at + 2].copy_from_slice(&(value as u16).to_ne_bytes());
}

pub(super) fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}
