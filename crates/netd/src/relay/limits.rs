//! How much the relay takes on.

use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

/// The most connections, however many files may be open: about 1 KiB each here, and more in the kernel.
const CONNECTIONS: usize = 16 * 1024;
const FLOWS: usize = 4096;
const CLIENTS: usize = 4096;
const HELD: usize = 256;

/// Upper bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// TCP connections. The next one is reset: those that are there are in use by somebody, and those whose client is gone
    /// end by keep-alive.
    pub(super) connections: usize,
    /// UDP flows, of Services and of what is routed here each. The next one takes the place of the one that was silent for longest.
    pub(super) flows: usize,
    /// Clients whose endpoint is remembered.
    pub(super) clients: usize,
    /// Clients that are held without an answer; the next one is reset.
    pub(super) held: usize,
}

impl Limits {
    /// What this process has room for, after it raised its limit of open files as far as it may.
    pub(super) fn of_process() -> Self {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
        let files = match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
            Ok(()) => hard,
            Err(error) => {
                tracing::warn!("cannot raise the limit of open files from {soft} to {hard}: {error}");
                soft
            }
        };
        Self::with_files(files)
    }

    /// Half of the files is for connections, a quarter for flows, and a quarter for listeners and all else.
    fn with_files(files: rlim_t) -> Self {
        let files = usize::try_from(files).unwrap_or(usize::MAX);
        Self {
            connections: (files / 4).clamp(1, CONNECTIONS), // two files each
            flows: (files / 8).clamp(1, FLOWS),
            clients: CLIENTS,
            held: HELD,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_promises_more_files_than_there_are() {
        for files in [4, 256, 1024, 4096, 1 << 20, rlim_t::MAX] {
            let limits = Limits::with_files(files);
            let taken = 2 * limits.connections + 2 * limits.flows;
            assert!(taken as u64 <= files, "{files}: {limits:?}");
        }
        assert_eq!(Limits::with_files(rlim_t::MAX).connections, CONNECTIONS);
    }
}
