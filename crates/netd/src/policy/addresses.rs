//! Sets of addresses.

use std::net::Ipv4Addr;

use ipnet::{Ipv4Net, Ipv4Subnets};

/// A set of IPv4 addresses, as ranges: in order, apart from each other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Addresses(Vec<(u32, u32)>);

impl Addresses {
    /// Every address.
    pub fn all() -> Self {
        Self(vec![(0, u32::MAX)])
    }

    /// All of a net.
    pub fn net(net: Ipv4Net) -> Self {
        Self(vec![(net.network().into(), net.broadcast().into())])
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this one is in it.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        let address = u32::from(address);
        let after = self.0.partition_point(|(first, _)| *first <= address);
        after > 0 && address <= self.0[after - 1].1
    }

    /// Whether all of the others are in it.
    pub fn contains_all(&self, others: &Self) -> bool {
        let within = |(first, last): &(u32, u32)| {
            let after = self.0.partition_point(|(begin, _)| begin <= first);
            after > 0 && *last <= self.0[after - 1].1
        };
        others.0.iter().all(within)
    }

    /// Those of both.
    pub fn with(&self, others: &Self) -> Self {
        let all = self.0.iter().chain(&others.0).copied().collect();
        Self::of_ranges(all)
    }

    /// Those that are not among the others.
    pub fn without(&self, others: &Self) -> Self {
        let mut left = Vec::new();
        for (first, last) in &self.0 {
            let mut next = u64::from(*first);
            for (begin, end) in others.0.iter().filter(|(begin, end)| begin <= last && end >= first) {
                if next < u64::from(*begin) {
                    left.push((next as u32, begin - 1));
                }
                next = u64::from(*end) + 1;
            }
            if next <= u64::from(*last) {
                left.push((next as u32, *last));
            }
        }
        Self(left)
    }

    /// The fewest nets that hold just these addresses.
    pub fn nets(&self) -> Vec<Ipv4Net> {
        let nets = |(first, last): &(u32, u32)| Ipv4Subnets::new((*first).into(), (*last).into(), 0);
        self.0.iter().flat_map(nets).collect()
    }

    /// At most so many nets that hold these addresses, and as few others as is simply found: of neighbours, those are
    /// put together whose common net is smallest.
    pub fn cover(&self, most: usize) -> Vec<Ipv4Net> {
        let mut nets = self.nets();
        while nets.len() > most.max(1) {
            let common = nets.windows(2).map(|pair| common(pair[0], pair[1]));
            let Some(smallest) = common.max_by_key(Ipv4Net::prefix_len) else { break };
            nets.retain(|net| !smallest.contains(net));
            let at = nets.partition_point(|net| net.network() < smallest.network());
            nets.insert(at, smallest);
        }
        nets
    }

    /// Those that are among the others.
    pub fn within(&self, others: &Self) -> Self {
        self.without(&self.without(others))
    }

    fn of_ranges(mut ranges: Vec<(u32, u32)>) -> Self {
        ranges.sort_unstable();
        let mut joined: Vec<(u32, u32)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match joined.last_mut() {
                Some(previous) if u64::from(first) <= u64::from(previous.1) + 1 => previous.1 = previous.1.max(last),
                _ => joined.push((first, last)),
            }
        }
        Self(joined)
    }
}

impl FromIterator<Ipv4Addr> for Addresses {
    fn from_iter<T: IntoIterator<Item = Ipv4Addr>>(addresses: T) -> Self {
        Self::of_ranges(addresses.into_iter().map(|address| (address.into(), address.into())).collect())
    }
}

/// The smallest net that holds both.
fn common(one: Ipv4Net, other: Ipv4Net) -> Ipv4Net {
    let mut net = one;
    while !net.contains(&other) {
        match net.supernet() {
            Some(wider) => net = wider,
            None => break,
        }
    }
    net
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Within a net so small that all of it can be looked at.
    fn some() -> impl Strategy<Value = (Addresses, Vec<bool>)> {
        prop::collection::vec(any::<bool>(), 32).prop_map(|members| {
            let here = |(index, member): (usize, &bool)| member.then(|| Ipv4Addr::new(10, 0, 0, index as u8));
            (members.iter().enumerate().filter_map(here).collect(), members)
        })
    }

    fn members(addresses: &Addresses) -> Vec<bool> {
        (0..32).map(|index| addresses.contains(Ipv4Addr::new(10, 0, 0, index))).collect()
    }

    fn in_nets(nets: &[Ipv4Net]) -> Vec<bool> {
        (0..32).map(|index| nets.iter().any(|net| net.contains(&Ipv4Addr::new(10, 0, 0, index)))).collect()
    }

    proptest! {
        #[test]
        fn sets_do_as_sets_do((one, ones) in some(), (two, twos) in some()) {
            prop_assert_eq!(&members(&one), &ones);
            let by = |f: fn(bool, bool) -> bool| ones.iter().zip(&twos).map(|(a, b)| f(*a, *b)).collect::<Vec<_>>();
            prop_assert_eq!(members(&one.with(&two)), by(|a, b| a || b));
            prop_assert_eq!(members(&one.without(&two)), by(|a, b| a && !b));
            prop_assert_eq!(one.contains_all(&two), ones.iter().zip(&twos).all(|(a, b)| *a || !b));
            prop_assert_eq!(in_nets(&one.nets()), ones);
        }

        #[test]
        fn a_cover_leaves_nothing_out((one, ones) in some(), most in 1usize..5) {
            let nets = one.cover(most);
            prop_assert!(nets.len() <= most);
            prop_assert!(in_nets(&nets).iter().zip(&ones).all(|(covered, member)| *covered || !member));
        }
    }

    #[test]
    fn the_ends_of_the_space_are_no_trouble() {
        let half: Addresses = Addresses::net("128.0.0.0/1".parse().unwrap());
        let rest = Addresses::all().without(&half);
        assert_eq!(rest.nets(), ["0.0.0.0/1".parse().unwrap()]);
        assert_eq!(rest.with(&half), Addresses::all());
        assert_eq!(Addresses::all().nets(), [Ipv4Net::default()]);
        assert!(half.without(&Addresses::all()).is_empty());
    }
}
