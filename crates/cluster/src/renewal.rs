//! When the certificates of a cluster that runs for long are issued anew: while a third of their life is left, or when
//! they are past their end because the clock was set.

use std::time::Duration;

use time::OffsetDateTime;

use crate::{Error, Layout, config, pki};

/// How long certificates last: a year, as kubeadm's do.
const LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// How often is looked.
const INTERVAL: Duration = Duration::from_secs(60);

/// For tests: how long certificates last, in seconds.
const LIFETIME_VARIABLE: &str = "TERRARIUM_CERTIFICATE_LIFETIME";

/// How long certificates last.
pub(crate) fn lifetime() -> Duration {
    let set = std::env::var(LIFETIME_VARIABLE).ok().and_then(|text| text.parse().ok());
    set.map_or(LIFETIME, Duration::from_secs)
}

/// How often to look whether it is time.
pub(crate) fn interval() -> Duration {
    INTERVAL.min(lifetime() / 12).max(Duration::from_secs(1))
}

/// Issues the certificates anew if it is time; `false` if it is not.
///
/// # Errors
/// They cannot be issued or written.
pub(crate) fn renew_if_due(layout: &Layout) -> Result<bool, Error> {
    let Some(issued) = pki::Issued::load(layout) else { return Ok(false) };
    if !is_due(issued.not_after, issued.lifetime, OffsetDateTime::now_utc().unix_timestamp()) {
        return Ok(false);
    }
    pki::issue(layout, &issued.names, lifetime())?;
    config::write_kubeconfigs(layout)?;
    Ok(true)
}

/// Whether less than a third of the life is left, or more than all of it, as when the clock was set back before they
/// were issued. Times are seconds since 1970.
fn is_due(not_after: i64, lifetime: u64, now: i64) -> bool {
    let left = not_after.saturating_sub(now);
    left <= (lifetime / 3).cast_signed() || left > lifetime.saturating_add(pki::BACKDATED.as_secs()).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_renewed_in_the_last_third_of_their_life_and_beyond_their_end() {
        const DAY: i64 = 24 * 3600;
        let (lifetime, issued) = (LIFETIME.as_secs(), 20_000 * DAY);
        let after = |days: i64| is_due(issued + 365 * DAY, lifetime, issued + days * DAY);
        assert!(!after(0) && !after(200) && !after(243));
        assert!(after(244) && after(364) && after(365));
        assert!(after(10_000), "the clock was set");
        assert!(after(-2), "they are not valid yet");
    }

    #[test]
    fn what_is_due_is_issued_anew_for_the_same_names() {
        let (_root, layout) = Layout::temporary();
        assert!(!renew_if_due(&layout).unwrap(), "nothing was issued");
        let names = pki::Names {
            node: "node-1".to_owned(),
            address: [192, 0, 2, 7].into(),
            api_service: [10, 43, 0, 1].into(),
        };
        pki::issue(&layout, &names, LIFETIME).unwrap();
        config::write_kubeconfigs(&layout).unwrap();
        let read = |layout: &Layout| {
            let file = |path| std::fs::read(path).unwrap();
            (file(pki::key_files(layout, pki::ADMIN).certificate), file(layout.admin_kubeconfig()))
        };
        let before = read(&layout);
        assert!(!renew_if_due(&layout).unwrap());
        assert_eq!(read(&layout), before);
        // As ten years ago.
        pki::issue(&layout, &names, Duration::ZERO).unwrap();
        assert!(renew_if_due(&layout).unwrap());
        let after = read(&layout);
        assert!(after.0 != before.0 && after.1 != before.1);
        assert_eq!(pki::Issued::load(&layout).unwrap().names, names);
    }
}
