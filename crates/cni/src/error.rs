//! Errors of the plugin and how CNI wants them told: a number, a message, details.

use std::error::Error as _;
use std::io;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::conf::VERSIONS;
use crate::egress::EgressError;
use crate::host_ports::HostPortError;
use crate::ipam::IpamError;
use crate::netlink::NetlinkError;
use crate::netns::NetnsError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is written for another version of CNI.
    #[error("CNI version {found} is not supported, only {}", VERSIONS.join(" and "))]
    Version {
        /// The configuration's `cniVersion`.
        found: String,
    },
    /// The command does not exist in the configuration's version.
    #[error("{command} takes CNI version 1.1.0, the configuration has {found}")]
    CommandVersion {
        /// `CNI_COMMAND`
        command: &'static str,
        /// The configuration's `cniVersion`.
        found: String,
    },
    /// An environment variable of CNI is missing or wrong.
    #[error("{variable} {why}")]
    Environment {
        /// Its name.
        variable: &'static str,
        /// What is wrong, as in `is missing`.
        why: String,
    },
    /// The configuration is not what JSON or the specification says.
    #[error("cannot understand the network configuration")]
    Decode(#[source] serde_json::Error),
    /// The configuration is understood and cannot be used.
    #[error("the network configuration is invalid: {0}")]
    Config(String),
    /// Something of the file system.
    #[error("cannot {action}")]
    Io {
        /// What was tried, such as `read stdin`.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// `CNI_NETNS` cannot be used.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// `CNI_NETNS` is the plugin's own namespace.
    #[error("CNI_NETNS {} is the network namespace of the node itself", .0.display())]
    SameNetns(PathBuf),
    /// Links, addresses or routes.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The IPAM plugin.
    #[error(transparent)]
    Ipam(#[from] IpamError),
    /// SNAT for what leaves the cluster.
    #[error("egress for Pods: {0}")]
    Egress(#[from] EgressError),
    /// Ports of the node that lead to the Pod.
    #[error(transparent)]
    HostPort(#[from] HostPortError),
    /// Something that a runtime hands on and that is not to be had here.
    #[error("{0}")]
    Unsupported(&'static str),
    /// The IPAM plugin's result is not one IPv4 address with a gateway.
    #[error("the IPAM plugin gave {0}; it must give one IPv4 address with a gateway")]
    Address(String),
    /// CHECK found something else than ADD made.
    #[error("the attachment is not as it was made: {0}")]
    Check(String),
    /// STATUS: ADD would fail.
    #[error("the plugin is not ready: {0}")]
    NotReady(#[source] Box<Self>),
    /// Undoing a failed ADD failed as well.
    #[error("{cause} (and not all could be undone: {})", list(undo))]
    Undo {
        /// Why ADD failed.
        #[source]
        cause: Box<Self>,
        /// What went wrong then.
        undo: Vec<Self>,
    },
    /// Several steps of DEL or GC failed, each on its own.
    #[error("{}", list(.0))]
    Several(Vec<Self>),
}

impl Error {
    /// The code for the runtime: those of the specification below 100, ours from there.
    pub fn code(&self) -> u32 {
        match self {
            Self::Version { .. } | Self::CommandVersion { .. } => 1,
            Self::Environment { .. } => 4,
            Self::Io { .. } => 5,
            Self::Decode(_) => 6,
            Self::Config(_) => 7,
            Self::Netns(_) | Self::SameNetns(_) => 8, // libcni's ErrInvalidNetNS
            Self::NotReady(_) => 50,
            Self::Netlink(_) => 100,
            Self::Ipam(IpamError::Refused { code, .. }) => *code,
            Self::Ipam(_) | Self::Address(_) => 101,
            Self::Egress(_) => 102,
            Self::Check(_) => 103,
            Self::HostPort(HostPortError::NoProxy { .. }) => 11, // try again later
            Self::HostPort(_) => 104,
            Self::Unsupported(_) => 105,
            Self::Undo { cause, .. } => cause.code(),
            Self::Several(errors) => errors.first().map_or(999, Self::code),
        }
    }

    /// The object that CNI wants on stdout.
    pub fn to_json(&self, cni_version: &str) -> Value {
        json!({ "cniVersion": cni_version, "code": self.code(), "msg": self.to_string(), "details": self.details() })
    }

    /// The causes, outermost first; each of several errors with its own.
    fn details(&self) -> String {
        if let Self::Several(errors) = self {
            return errors.iter().map(Self::details).filter(|text| !text.is_empty()).collect::<Vec<_>>().join("; ");
        }
        let mut seen = self.to_string();
        let mut causes = Vec::new();
        let mut source = self.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            if !seen.contains(&text) {
                causes.push(text.clone());
                seen.push_str(&text);
            }
            source = cause.source();
        }
        causes.join(": ")
    }
}

/// One error as it is, several as [`Error::Several`], none as success.
pub(crate) fn gather(errors: Vec<Error>) -> Result<(), Error> {
    let mut errors = errors;
    match errors.len() {
        0 => Ok(()),
        1 => Err(errors.remove(0)),
        _ => Err(Error::Several(errors)),
    }
}

fn list(errors: &[Error]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::NatError;

    fn refused() -> Error {
        let source = io::Error::from_raw_os_error(1);
        Error::Netlink(NetlinkError { action: "create veth ter0".into(), source })
    }

    #[test]
    fn an_error_says_what_and_why() {
        assert_eq!(
            refused().to_json("1.1.0").to_string(),
            r#"{"cniVersion":"1.1.0","code":100,"msg":"cannot create veth ter0","details":"Operation not permitted (os error 1)"}"#
        );
    }

    #[test]
    fn not_ready_is_50_and_keeps_the_advice() {
        let no_socket = EgressError::Nat(NatError::NoRawSocket(io::Error::from_raw_os_error(1)));
        let error = Error::NotReady(Box::new(no_socket.into())).to_json("1.1.0");
        assert_eq!(error["code"], 50);
        assert!(error["msg"].as_str().unwrap().contains("--net-raw"), "{error}");
        assert_eq!(error["details"], "Operation not permitted (os error 1)");
    }

    #[test]
    fn several_errors_are_all_told() {
        assert!(gather(Vec::new()).is_ok());
        assert_eq!(gather(vec![refused()]).unwrap_err().code(), 100);
        let error = gather(vec![Error::Check("no link".into()), refused()]).unwrap_err();
        assert_eq!(error.code(), 103);
        assert!(error.to_string().ends_with("no link; cannot create veth ter0"), "{error}");
        assert_eq!(error.to_json("1.0.0")["details"], "Operation not permitted (os error 1)");
    }

    #[test]
    fn a_failed_undo_does_not_hide_the_cause() {
        let error = Error::Undo { cause: Box::new(refused()), undo: vec![Error::Config("x".into())] };
        assert_eq!(error.code(), 100);
        assert!(error.to_string().starts_with("cannot create veth ter0 (and not all"), "{error}");
    }
}
