//! What is looked at before a cluster starts, so that what cannot work is said at once and by its name: room on the disk,
//! the components' programs, the store, the ports of the API and the cluster's DNS. None of it changes anything.

use std::fs::File;
use std::io::{self, Read as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;

use nix::sys::statvfs::statvfs;
use procfs::net::TcpState;
use procfs::process::{FDTarget, all_processes};

use crate::{Addon, Error, Layout, Options, dns, store};

/// What the store, the logs and the certificates of a start take, with room to go on for a while.
const NEEDED_MIB: u64 = 64;

/// The program of the control plane.
const SERVER_PROGRAM: &str = "kubernetes";

/// Those of a node beside it.
const NODE_PROGRAMS: &[&str] = &["containerd", "ctr", "host-local", "coredns"];

/// Looks at everything. Call it when nothing of the cluster runs.
///
/// # Errors
/// The first thing with which the cluster could not start.
pub(crate) fn check(layout: &Layout, options: &Options) -> Result<(), Error> {
    check_space(layout.data(), NEEDED_MIB)?;
    let (of_node, of_runtime): (&[&str], &[&str]) = if options.control_plane_only {
        (&[], &[])
    } else {
        (NODE_PROGRAMS, options.oci_runtime.unwrap_or_default().programs())
    };
    let of_addons = options.addons().map(Addon::program);
    for name in std::iter::once(SERVER_PROGRAM).chain(of_node.iter().chain(of_runtime).copied()).chain(of_addons) {
        let path = layout.component(name)?;
        fault_of_program(&path)
            .map_err(Error::io("read", &path))?
            .map_or(Ok(()), |why| Err(Error::BadComponent { path, why }))?;
    }
    store::check(layout)?;
    check_port(layout.api_port()?)
}

/// Makes sure that there is room on the file system of a directory.
pub(crate) fn check_space(directory: &Path, needed_mib: u64) -> Result<(), Error> {
    match free_bytes(directory) {
        Some(free) if free >> 20 < needed_mib => {
            Err(Error::NoSpace { path: directory.to_owned(), free_mib: free >> 20, needed_mib })
        }
        _ => Ok(()),
    }
}

/// The room that is left on the file system of a directory, in bytes; `None` where it does not say.
pub(crate) fn free_bytes(directory: &Path) -> Option<u64> {
    let stat = statvfs(directory).ok().filter(|stat| stat.blocks() > 0)?;
    Some(stat.blocks_available() * stat.fragment_size())
}

/// What is wrong with a program: that it is none for this machine, or only a part of one. Its content is not looked at:
/// reading hundreds of megabytes would take longer than the start.
fn fault_of_program(path: &Path) -> io::Result<Option<String>> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.permissions().mode() & 0o111 == 0 {
        return Ok(Some("it is not executable".to_owned()));
    }
    let mut own = [0; 64];
    File::open("/proc/self/exe")?.read_exact(&mut own)?;
    let mut header = [0; 64];
    let read = metadata.len().min(64);
    file.read_exact_at(&mut header[..usize::try_from(read).unwrap_or(64)], 0)?;
    // A script is somebody's wrapper.
    if header.starts_with(b"#!") {
        return Ok(None);
    }
    if !header.starts_with(b"\x7fELF") {
        return Ok(Some("it is no program".to_owned()));
    }
    // Class, byte order, and e_machine.
    if header[4..6] != own[4..6] || header[18..20] != own[18..20] {
        return Ok(Some("it is for another kind of machine".to_owned()));
    }
    let needed = extent(&file, &header)?;
    let length = metadata.len();
    Ok((needed > length).then(|| format!("it is truncated: of at least {needed} bytes {length} are there")))
}

/// The least length of a 64-bit ELF file, as its headers, segments and sections tell (elf(5)).
fn extent(file: &File, header: &[u8; 64]) -> io::Result<u64> {
    const SHT_NOBITS: u64 = 8;
    let (segments, segments_end) = table(file, number(header, 32, 8), number(header, 56, 2) * 56)?;
    let (sections, sections_end) = table(file, number(header, 40, 8), number(header, 60, 2) * 64)?;
    let segments = segments.chunks_exact(56).map(|entry| (number(entry, 8, 8), number(entry, 32, 8)));
    // A section of that type takes no room in the file.
    let sections = sections.chunks_exact(64).filter(|entry| number(entry, 4, 4) != SHT_NOBITS);
    let sections = sections.map(|entry| (number(entry, 24, 8), number(entry, 32, 8)));
    let ends = segments.chain(sections).map(|(offset, size)| offset.saturating_add(size));
    Ok(ends.chain([64, segments_end, sections_end]).max().unwrap_or_default())
}

/// A table of an ELF file, empty where the file ends before it does, and where it ends.
fn table(file: &File, offset: u64, size: u64) -> io::Result<(Vec<u8>, u64)> {
    let end = offset.saturating_add(size);
    let mut entries = vec![0; usize::try_from(size).unwrap_or(0)];
    match file.read_exact_at(&mut entries, offset) {
        // An offset beyond what a file can have is invalid.
        Err(error) if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput) => {
            Ok((Vec::new(), end))
        }
        other => other.map(|()| (entries, end)),
    }
}

/// A little-endian number of so many bytes.
fn number(bytes: &[u8], at: usize, size: usize) -> u64 {
    bytes[at..at + size].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Whether another process listens on a port of the node.
pub(crate) fn is_used(port: u16) -> bool {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port));
    listener.is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
}

/// Makes sure that the API server can listen.
fn check_port(port: u16) -> Result<(), Error> {
    match TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            Err(Error::PortUsed { port, holder: holder(port).unwrap_or_else(anonymous) })
        }
        other => other.map(drop).map_err(Error::io("listen on", format!("port {port}"))),
    }
}

/// Makes sure that the cluster's DNS can listen: nobody has its port on every address, and so on that of the DNS.
pub(crate) fn check_dns_port() -> Result<(), Error> {
    let is_in_the_way = |address: SocketAddr| address.port() == dns::PORT && address.ip().is_unspecified();
    let tcp = tcp_listeners().filter(|(address, _)| is_in_the_way(*address)).map(|(_, inode)| inode);
    let udp = procfs::net::udp().into_iter().chain(procfs::net::udp6()).flatten();
    let udp = udp.filter(|entry| is_in_the_way(entry.local_address)).map(|entry| entry.inode);
    let inodes: Vec<u64> = tcp.chain(udp).collect();
    if inodes.is_empty() {
        Ok(())
    } else {
        Err(Error::DnsPortUsed { holder: owner(&inodes).unwrap_or_else(anonymous) })
    }
}

pub(crate) fn anonymous() -> String {
    "another process".to_owned()
}

/// Who listens on a port, as far as /proc tells.
pub(crate) fn holder(port: u16) -> Option<String> {
    let inodes: Vec<u64> =
        tcp_listeners().filter(|(address, _)| address.port() == port).map(|(_, inode)| inode).collect();
    owner(&inodes)
}

/// The addresses on which somebody listens, with the sockets' inodes.
fn tcp_listeners() -> impl Iterator<Item = (SocketAddr, u64)> {
    let sockets = procfs::net::tcp().into_iter().chain(procfs::net::tcp6()).flatten();
    sockets.filter(|entry| entry.state == TcpState::Listen).map(|entry| (entry.local_address, entry.inode))
}

/// The process that has one of these sockets.
fn owner(inodes: &[u64]) -> Option<String> {
    all_processes().ok()?.flatten().find_map(|process| {
        let mut targets = process.fd().ok()?.flatten().map(|descriptor| descriptor.target);
        targets.find(|target| matches!(target, FDTarget::Socket(inode) if inodes.contains(inode)))?;
        let command = process.cmdline().unwrap_or_default().join(" ");
        let shown: String = command.chars().filter(|c| !c.is_control()).take(80).collect();
        Some(format!("process {} ({shown})", process.pid))
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::TcpListener;

    use super::*;
    use crate::ErrorId;

    #[test]
    fn a_port_that_is_used_is_said_with_its_holder() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let error = check_port(port).unwrap_err();
        assert_eq!(error.id(), ErrorId::ApiPortUsed);
        assert!(is_used(port));
        assert!(error.to_string().contains(&format!("process {} (", std::process::id())), "{error}");
        drop(listener);
        // What another test has forked has it, too, until that is another program.
        crate::process::wait_until(std::time::Duration::from_secs(10), || check_port(port).is_ok());
        check_port(port).unwrap();
        assert!(!is_used(port));
    }

    #[test]
    fn a_full_disk_is_said_with_what_is_needed() {
        let directory = tempfile::tempdir().unwrap();
        check_space(directory.path(), 0).unwrap();
        let error = check_space(directory.path(), u64::MAX >> 20).unwrap_err();
        assert_eq!(error.id(), ErrorId::NoSpace);
        assert!(error.to_string().contains(directory.path().to_str().unwrap()), "{error}");
    }

    #[test]
    fn a_program_is_whole_and_of_this_machine() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("program");
        let whole = fs::read("/proc/self/exe").unwrap();
        let fault = |content: &[u8], mode: u32| {
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            fault_of_program(&path).unwrap().unwrap_or_default()
        };
        assert_eq!(fault(&whole, 0o755), "");
        assert_eq!(fault(b"#!/bin/sh\n", 0o700), "");
        assert_eq!(fault(&whole, 0o644), "it is not executable");
        assert_eq!(fault(b"", 0o755), "it is no program");
        assert_eq!(fault(b"<html>", 0o755), "it is no program");
        for length in [40, 64, 100, whole.len() / 2, whole.len() - 1] {
            let fault = fault(&whole[..length], 0o755);
            assert!(fault.starts_with("it is truncated"), "{length}: {fault}");
        }
        let mut foreign = whole.clone();
        foreign[18] = 0xb7;
        foreign[19] = 0x01;
        assert_eq!(fault(&foreign, 0o755), "it is for another kind of machine");
    }
}
