//! Safe wrappers over system calls that nix and rustix lack. This is the only crate of the workspace with `unsafe`;
//! every wrapper takes borrowed file descriptors and owned or borrowed buffers, so that no caller can hand the kernel
//! a pointer of its own making.
#![deny(missing_docs)]

pub mod bpf;
pub mod ip_tables;
pub mod process;
pub mod seccomp;
pub mod statfs;
pub mod trace;
