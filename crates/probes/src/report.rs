//! The report, theme by theme, all at once. One that hangs costs its own fields and not the report.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use terrarium_gaps::{Network, Oci, Report, Rights, SCHEMA, Tried};

use crate::failure::Failure;
use crate::scratch::Scratch;
use crate::{cgroups, devices, host, intercept, network, oci, overlay, sysctl};

/// How long a theme may take. The whole probe has longer, so that the report still comes.
const LIMIT: Duration = Duration::from_secs(15);

/// The themes that are being tried, each in a thread of its own.
pub(crate) struct Themes {
    deadline: Instant,
    cgroups: Receiver<cgroups::Seen>,
    network: Receiver<Network>,
    mounts: Receiver<Mounts>,
    oci: Receiver<Oci>,
    intercept: Receiver<Tried>,
    hostname: Receiver<Tried>,
}

/// What mounts were tried for.
struct Mounts {
    sysctl_overlay: Tried,
    overlay_on_data_dir: Tried,
    overlay_on_tmpfs: Tried,
    fuse: Tried,
}

impl Mounts {
    fn look(scratch: &Scratch, data_dir: &Path) -> Self {
        Self {
            sysctl_overlay: sysctl::overlay(scratch),
            overlay_on_data_dir: overlay::on_data_dir(data_dir, scratch),
            overlay_on_tmpfs: overlay::on_tmpfs(scratch),
            fuse: devices::fuse(scratch),
        }
    }

    fn failed(why: &Failure) -> Self {
        let tried = || why.tried();
        Self { sysctl_overlay: tried(), overlay_on_data_dir: tried(), overlay_on_tmpfs: tried(), fuse: tried() }
    }
}

impl Themes {
    /// Begins. The calling thread is in the place already.
    pub fn start(scratch: Scratch, data_dir: &Path) -> Self {
        let scratch = Arc::new(scratch);
        let data_dir: PathBuf = data_dir.to_owned();
        let (of_cgroups, of_oci) = (Arc::clone(&scratch), Arc::clone(&scratch));
        Self {
            deadline: Instant::now() + LIMIT,
            cgroups: begin(move || cgroups::look(&of_cgroups)),
            oci: begin(move || oci::look(&of_oci)),
            intercept: begin(intercept::works),
            network: begin(network::look),
            mounts: begin(move || Mounts::look(&scratch, &data_dir)),
            hostname: begin(host::hostname),
        }
    }

    /// Tries the rest, which cannot hang, and waits for the themes.
    pub fn finish(self, rights: Rights) -> Report {
        let kernel = host::kernel();
        let (unprivileged_ports, unprivileged_icmp) = (
            host::unprivileged(&kernel, "ip_unprivileged_port_start"),
            host::unprivileged(&kernel, "ping_group_range"),
        );
        let sysctls = sysctl::all();
        let (openat2, kmsg) = (devices::openat2(), devices::kmsg());
        let (machine_id, writable) = (host::machine_id(), host::writable());
        let cgroups = self.wait(&self.cgroups, cgroups::Seen::failed);
        let mounts = self.wait(&self.mounts, Mounts::failed);
        Report {
            schema: SCHEMA,
            kernel,
            rights,
            sysctls,
            sysctl_overlay: mounts.sysctl_overlay,
            cgroups: cgroups.cgroups,
            missing_cgroup_files: cgroups.missing_files,
            resource_limits: cgroups.limits,
            openat2,
            kmsg,
            fuse: mounts.fuse,
            intercept: self.wait(&self.intercept, Failure::tried),
            overlay_on_data_dir: mounts.overlay_on_data_dir,
            overlay_on_tmpfs: mounts.overlay_on_tmpfs,
            unprivileged_ports,
            unprivileged_icmp,
            network: self.wait(&self.network, network::failed),
            oci: self.wait(&self.oci, oci::failed),
            machine_id,
            hostname: self.wait(&self.hostname, Failure::tried),
            writable,
        }
    }

    fn wait<T>(&self, theme: &Receiver<T>, failed: fn(&Failure) -> T) -> T {
        let left = self.deadline.saturating_duration_since(Instant::now());
        theme.recv_timeout(left).unwrap_or_else(|error| {
            failed(&Failure::new(match error {
                RecvTimeoutError::Timeout => format!("no answer within {} s", LIMIT.as_secs()),
                RecvTimeoutError::Disconnected => "the probe of it broke off".to_owned(),
            }))
        })
    }
}

fn begin<T: Send + 'static>(theme: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
    let (sender, receiver) = mpsc::channel();
    // Without a thread the sender is dropped, and the theme counts as broken off.
    let _ = thread::Builder::new().spawn(move || sender.send(theme()));
    receiver
}
