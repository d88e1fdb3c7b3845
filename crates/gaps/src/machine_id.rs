//! The machine's ID (machine-id(5)).

/// Its file.
pub const MACHINE_ID: &str = "/etc/machine-id";

/// Whether a file's text is an ID.
#[must_use]
pub fn is_machine_id(text: &str) -> bool {
    let id = text.trim();
    id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_id_is_32_digits() {
        assert!(is_machine_id("0123456789abcdef0123456789abcdef\n"));
        for bad in ["", "uninitialized\n", "0123456789abcdef0123456789abcdeg"] {
            assert!(!is_machine_id(bad), "{bad:?}");
        }
    }
}
