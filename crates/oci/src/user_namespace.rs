//! IDs of a user namespace, by its maps (user_namespaces(7), `/proc/PID/uid_map`).

use std::fs;

/// Whether this process is in one: outside of any, all IDs are mapped to themselves. A kernel without the file has none.
pub(crate) fn is_inside() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    !map.is_empty() && !maps_all(&map)
}

fn maps_all(map: &str) -> bool {
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Whether an ID is in a map.
pub(crate) fn is_mapped(map: &str, id: u64) -> bool {
    map.lines().any(|line| {
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        matches!(numbers[..], [first, _, count] if id >= first && id - first < count)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_mapped_within_its_range() {
        let map = "         0       1000          1\n    100000     100000      65536\n";
        assert!(is_mapped(map, 0) && is_mapped(map, 100_000) && is_mapped(map, 165_535));
        assert!(!is_mapped(map, 1) && !is_mapped(map, 165_536) && !is_mapped("", 0) && !is_mapped("x y z", 0));
    }

    #[test]
    fn all_ids_are_mapped_outside() {
        assert!(maps_all("         0          0 4294967295\n") && !maps_all("0 100000 65536\n"));
    }
}
