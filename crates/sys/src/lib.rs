//! Safe wrappers over system calls that nix lacks; the only crate with unsafe.
