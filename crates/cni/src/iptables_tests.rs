//! The codec against tables as kernels give them: gVisor's empty nat table, and made-up tables with others' chains,
//! jumps and rules without targets.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::entry::{ERROR_TARGET, NEXT_OFFSET_AT, get_u16, put_u16, target_offset};
use super::*;

const NAT_HOOKS: u32 = 0b11011; // prerouting, input, output, postrouting
const POSTROUTING: usize = Hook::Postrouting as usize;
const CHAIN: &str = "TERRARIUM-EGRESS";

fn accept() -> Entry {
    Entry::verdict(-2) // -NF_ACCEPT - 1
}

/// A nat table: for each hook some rules and its policy, then user chains, then the table's error.
fn table(hook_rules: [Vec<Entry>; 4], chains: Vec<(String, Vec<Entry>)>) -> Table {
    let (mut entries, mut hooks) = (Vec::new(), [None; HOOKS]);
    for (hook, rules) in [0, 1, 3, POSTROUTING].into_iter().zip(hook_rules) {
        let first = entries.len();
        entries.extend(rules);
        hooks[hook] = Some((first, entries.len()));
        entries.push(accept());
    }
    for (name, rules) in chains {
        entries.push(Entry::chain_head(&name));
        entries.extend(rules);
        entries.push(Entry::end_of_chain());
    }
    entries.push(Entry::chain_head(ERROR_TARGET));
    Table { valid_hooks: NAT_HOOKS, hooks, entries }
}

fn empty() -> Table {
    table(Default::default(), Vec::new())
}

fn net(text: &str) -> ipnet::Ipv4Net {
    text.parse().unwrap()
}

/// A chain with all kinds of rules, jumped to in all ways.
fn ours(place: Place) -> Chain {
    let rules = vec![
        Match::protocol(Protocol::Tcp).from(net("10.42.0.0/24")).not_to(net("10.42.0.0/16")).then(Target::Return),
        Match::protocol(Protocol::Udp).to_ports(53..=53).then(Target::Redirect(10_260)),
        Match::protocol(Protocol::Tcp).to_ports(80..=80).then(Target::Dnat([10, 42, 0, 5].into(), Some(8080))),
        Match::all().not_from(net("10.42.0.0/24")).then(Target::Drop),
    ];
    let jumps = vec![
        (Hook::Postrouting, Match::all()),
        (Hook::Prerouting, Match::all()),
        (Hook::Input, Match::protocol(Protocol::Tcp).to(net("10.43.0.10/32"))),
    ];
    Chain { name: CHAIN, jumps, place, rules }
}

/// What kernels do with a table: Linux counts, gVisor tells another length of DNAT targets, and both hand it out again.
fn through_the_kernel(table: &Table) -> Table {
    let (layout, mut blob) = table.encode();
    let mut at = 0;
    while at < blob.len() {
        blob[at + 96] = 7; // packets of this entry
        let target = at + target_offset(&blob[at..]);
        if blob[target + 2..].starts_with(b"DNAT\0") {
            put_u16(&mut blob, target, 72);
        }
        at += get_u16(&blob[at..], NEXT_OFFSET_AT);
    }
    Table::decode(&layout, &blob).unwrap()
}

#[test]
fn the_empty_table_has_the_layout_that_gvisor_tells() {
    // stack.DefaultTables and getEntries4 in gVisor 2026-07: four policies of 152 bytes and an error of 176.
    let (layout, blob) = empty().encode();
    assert_eq!((layout.num_entries, layout.size, blob.len()), (5, 784, 784));
    assert_eq!(layout.hook_entry, [0, 152, 0, 304, 456]);
    assert_eq!(layout.underflow, [0, 152, 0, 304, 456]);
}

#[test]
fn a_snat_rule_is_what_iptables_would_write() {
    let rule = Match::protocol(Protocol::Udp).from(net("10.42.0.0/24")).not_to(net("10.42.0.0/16"));
    let bytes = rule.then(Target::Snat([10, 201, 0, 2].into())).entry().bytes;
    assert_eq!(bytes.len(), 168); // 112 + xt_entry_target 32 + nf_nat_ipv4_multi_range_compat 20, aligned
    assert_eq!(bytes[0..16], [10, 42, 0, 0, 10, 42, 0, 0, 255, 255, 255, 0, 255, 255, 0, 0]);
    assert_eq!(bytes[80..84], [17, 0, 0, 0x10]); // udp, no flags, destination inverted
    assert_eq!(bytes[88..92], [112, 0, 168, 0]);
    assert_eq!(bytes[112..119], [56, 0, b'S', b'N', b'A', b'T', 0]);
    assert_eq!(bytes[144..160], [1, 0, 0, 0, 1, 0, 0, 0, 10, 201, 0, 2, 10, 201, 0, 2]);
}

#[test]
fn a_rule_with_ports_has_a_match_before_its_target() {
    let rule = Match::protocol(Protocol::Tcp).not_from(net("10.42.0.5/32")).from_ports(1024..=2047).to_ports(80..=80);
    let rule = rule.then(Target::Dnat([10, 42, 0, 5].into(), Some(8080)));
    let bytes = rule.entry().bytes;
    assert_eq!((bytes.len(), rule.size()), (240, 240));
    assert_eq!(bytes[80..84], [6, 0, 0, 0x08]); // tcp, no flags, source inverted
    assert_eq!(bytes[88..92], [160, 0, 240, 0]);
    assert_eq!(bytes[112..118], [48, 0, b't', b'c', b'p', 0]);
    assert_eq!(bytes[144..156], [0, 4, 255, 7, 80, 0, 80, 0, 0, 0, 0, 0]); // ports in the host's order
    assert_eq!(bytes[160..167], [80, 0, b'D', b'N', b'A', b'T', 0]);
    assert_eq!(bytes[191..200], [2, 3, 0, 0, 0, 10, 42, 0, 5]);
    assert_eq!(bytes[212..216], [10, 42, 0, 5]);
    assert_eq!(bytes[228..232], [0x1f, 0x90, 0x1f, 0x90]); // ports in the net's order
    assert_eq!(
        rule.to_string(),
        "! -s 10.42.0.5/32 -p tcp -m tcp --sport 1024:2047 --dport 80 -j DNAT --to-destination 10.42.0.5:8080"
    );
}

#[test]
fn the_chain_is_known_again_and_nothing_else_is() {
    for place in [Place::First, Place::Last] {
        let mut table = empty();
        let wanted = ours(place);
        assert!(!table.has_chain(&wanted));
        assert_eq!(table.set_chain(&wanted), Ok(true));
        assert_eq!(table.size(), empty().size() + wanted.size());
        let mut table = through_the_kernel(&table);
        assert!(table.has_chain(&wanted));
        assert_eq!(table.set_chain(&wanted), Ok(false));
        let differently = |change: fn(&mut Chain)| {
            let mut other = wanted.clone();
            change(&mut other);
            other
        };
        assert!(!table.has_chain(&differently(|chain| chain.rules.clear())));
        assert!(!table.has_chain(&differently(|chain| chain.jumps.truncate(2))));
        assert!(!table.has_chain(&differently(|chain| chain.jumps[0].0 = Hook::Output)));
        assert!(!table.has_chain(&differently(|chain| chain.jumps[2].1 = Match::all())));
        assert!(
            !table.has_chain(&differently(|chain| chain.rules[2].then = Target::Dnat(Ipv4Addr::LOCALHOST, Some(8080))))
        );
        assert!(!table.has_chain(&differently(|chain| chain.name = "TERRARIUM")));
    }
}

#[test]
fn a_chain_is_led_to_before_or_after_the_rules_of_others() {
    let rule = Entry::with_target("MINE", &[]);
    let others = table([vec![rule.clone()], vec![], vec![], vec![rule.clone(), rule]], vec![]);
    for (place, first) in [(Place::First, true), (Place::Last, false)] {
        let mut table = others.clone();
        table.set_chain(&ours(place)).unwrap();
        let body = table.chain(CHAIN).unwrap().start + 1;
        for hook in [Hook::Prerouting, Hook::Postrouting] {
            let (start, policy) = table.hooks[hook as usize].unwrap();
            let at = if first { start } else { policy - 1 };
            assert_eq!(table.entries[at].jump, Some(body));
        }
        assert_eq!(table.remove_chain(CHAIN), Ok(true));
        assert_eq!(table, others);
    }
}

#[test]
fn a_rule_without_target_still_goes_on_at_the_next_one() {
    // iptables writes such a rule as a jump to the entry after it: here, the policy of POSTROUTING.
    let mut table = table([vec![], vec![], vec![], vec![jump(&Match::all(), 4)]], vec![]);
    let before = table.clone();
    let wanted = Chain { jumps: vec![(Hook::Postrouting, Match::all())], ..ours(Place::Last) };
    table.set_chain(&wanted).unwrap();
    assert_eq!(table.entries[3].jump, Some(4), "to our jump");
    assert_eq!(table.hooks[POSTROUTING], Some((3, 5)));
    assert_eq!(table.entries[4].jump, Some(table.chain(CHAIN).unwrap().start + 1));
    assert_eq!(table.remove_chain(CHAIN), Ok(true));
    assert_eq!(table, before);
}

#[test]
fn a_chain_that_others_jump_to_is_not_removed() {
    let mut table = empty();
    table.set_chain(&ours(Place::First)).unwrap();
    let body = table.chain(CHAIN).unwrap().start + 1;
    table.insert(0, jump(&Match::all(), body + 2)); // into its middle, once this one has moved it
    let before = table.clone();
    assert_eq!(table.remove_chain(CHAIN), Err(TableError::StillUsed(0)));
    assert_eq!(table, before);
}

#[test]
fn a_table_without_the_hook_is_said_to_be() {
    let mut table = empty();
    table.hooks[POSTROUTING] = None;
    assert_eq!(table.set_chain(&ours(Place::First)), Err(TableError::NoHook(Hook::Postrouting)));
}

#[test]
fn wrong_offsets_are_refused() {
    let (layout, blob) = empty().encode();
    let dangling = Layout { hook_entry: [8; HOOKS], ..layout };
    assert_eq!(Table::decode(&dangling, &blob), Err(TableError::Dangling { what: "a hook", offset: 8 }));
    let fewer = Layout { num_entries: 4, ..layout };
    assert_eq!(Table::decode(&fewer, &blob), Err(TableError::Count { found: 5, told: 4 }));
    assert_eq!(Table::decode(&layout, &blob[..blob.len() - 1]), Err(TableError::Malformed(608)));
}

/// A rule of someone else: an unknown target with data of its own, jumps are set when the table is known.
fn foreign_rule() -> impl Strategy<Value = Entry> {
    let data = prop::collection::vec(any::<[u8; 8]>(), 0..4);
    ("[A-Z]{3,28}", data).prop_map(|(name, data)| Entry::with_target(&format!("{name}X"), data.as_flattened()))
}

fn foreign_table() -> impl Strategy<Value = Table> {
    let rules = || prop::collection::vec(foreign_rule(), 0..4);
    let chains = prop::collection::vec(("[a-z]{1,20}", rules()), 0..4);
    let jumps = prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..5);
    (rules(), rules(), rules(), rules(), chains, jumps).prop_map(|(a, b, c, d, chains, jumps)| {
        let mut table = table([a, b, c, d], chains);
        let bodies: Vec<usize> = (0..table.len() - 1)
            .filter(|&index| table.entries[index].error_name().is_some())
            .map(|head| head + 1)
            .collect();
        for (from, to) in jumps {
            let from = from.index(table.len() - 1);
            let policy = table.hooks.iter().flatten().any(|hook| hook.1 == from);
            if !bodies.is_empty() && !policy && table.entries[from].target_name().ends_with(b"X") {
                table.entries[from] = jump(&Match::all(), bodies[to.index(bodies.len())]);
            }
        }
        table
    })
}

proptest! {
    #[test]
    fn what_is_decoded_is_encoded_again(table in foreign_table()) {
        let (layout, blob) = table.encode();
        let decoded = Table::decode(&layout, &blob).unwrap();
        prop_assert_eq!(decoded.encode(), (layout, blob));
    }

    #[test]
    fn others_rules_keep_their_bytes_and_their_places(table in foreign_table(), first: bool) {
        let mut changed = through_the_kernel(&table);
        let before = changed.clone();
        let wanted = ours(if first { Place::First } else { Place::Last });
        prop_assert_eq!(changed.set_chain(&wanted), Ok(true));
        let mut changed = through_the_kernel(&changed);
        prop_assert!(changed.has_chain(&wanted));
        let chain = changed.chain(CHAIN).unwrap();
        let (start, policy) = changed.hooks[POSTROUTING].unwrap();
        prop_assert_eq!(changed.entries[if first { start } else { policy - 1 }].jump, Some(chain.start + 1));
        let other = Chain { rules: vec![], ..wanted };
        prop_assert_eq!(changed.set_chain(&other), Ok(true));
        prop_assert!(through_the_kernel(&changed).has_chain(&other));
        prop_assert_eq!(changed.remove_chain(CHAIN), Ok(true));
        prop_assert_eq!(changed.encode(), before.encode());
    }

    #[test]
    fn no_blob_makes_the_decoder_panic(blob in prop::collection::vec(any::<u8>(), 0..600), count in 0..5u32) {
        let layout = Layout { valid_hooks: NAT_HOOKS, num_entries: count, ..Layout::default() };
        let _ = Table::decode(&layout, &blob);
    }

    #[test]
    fn no_broken_byte_makes_the_decoder_panic(table in foreign_table(), at in any::<prop::sample::Index>(), byte: u8) {
        let (layout, mut blob) = table.encode();
        let at = at.index(blob.len());
        blob[at] = byte;
        if let Ok(mut table) = Table::decode(&layout, &blob) {
            let _ = table.set_chain(&ours(Place::First));
            let _ = table.remove_chain(CHAIN);
            table.encode();
        }
    }
}
