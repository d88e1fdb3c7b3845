//! The cluster's certificates: a CA that lasts with the data directory, and leaves that are issued anew at every start,
//! so that none is ever near its end and each names the addresses of today.
//!
//! Names and groups follow Kubernetes' "PKI certificates and requirements".

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use time::{Duration, OffsetDateTime};

use crate::layout::write;
use crate::{Error, Layout};

/// A certificate to issue: what it is for is told by its subject and names.
struct Leaf<'a> {
    file: &'a str,
    common_name: &'a str,
    organization: Option<&'a str>,
    /// Empty for a client's certificate.
    names: &'a [String],
}

/// The files of a key pair.
#[derive(Clone, Debug)]
pub(crate) struct KeyFiles {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

pub(crate) fn key_files(layout: &Layout, name: &str) -> KeyFiles {
    KeyFiles { certificate: layout.pki(&format!("{name}.crt")), key: layout.pki(&format!("{name}.key")) }
}

pub(crate) const ADMIN: &str = "admin";
pub(crate) const API_SERVER: &str = "kube-apiserver";
pub(crate) const API_SERVER_KUBELET_CLIENT: &str = "kube-apiserver-kubelet-client";
pub(crate) const CA: &str = "ca";
pub(crate) const CONTROLLER_MANAGER: &str = "kube-controller-manager";
pub(crate) const KUBELET: &str = "kubelet";
pub(crate) const KUBELET_SERVING: &str = "kubelet-serving";
pub(crate) const LOOPBACK_SERVING: &str = "loopback-serving";
pub(crate) const SCHEDULER: &str = "kube-scheduler";
pub(crate) const SERVICE_ACCOUNT: &str = "service-account";
pub(crate) const SERVICE_ACCOUNT_PUBLIC: &str = "service-account.pub";

/// Makes the CA and the service-account key if they are not there yet, and issues every leaf anew.
pub(crate) fn issue(layout: &Layout, node: &str, address: IpAddr, api_service: Ipv4Addr) -> Result<(), Error> {
    let ca_key = durable_key(layout, CA)?;
    let ca = ca_params();
    let certificate = key_files(layout, CA).certificate;
    if !certificate.exists() {
        let signed = ca.self_signed(&ca_key).map_err(Error::Certificate)?;
        write(&certificate, signed.pem().as_bytes())?;
    }
    let public = durable_key(layout, SERVICE_ACCOUNT)?.public_key_pem();
    write(&layout.pki(SERVICE_ACCOUNT_PUBLIC), public.as_bytes())?;
    let issuer = Issuer::new(ca, ca_key);

    let strings = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut api = strings(&[
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "localhost",
        "127.0.0.1",
        node,
    ]);
    api.extend([address.to_string(), api_service.to_string()]);
    let node_names = [node.to_owned(), address.to_string()];
    let loopback = strings(&["localhost", "127.0.0.1"]);
    let node_user = format!("system:node:{node}");

    let leaf = |file, common_name, organization, names| Leaf { file, common_name, organization, names };
    for leaf in [
        leaf(ADMIN, "kubernetes-admin", Some("system:masters"), &[]),
        leaf(API_SERVER, "kube-apiserver", None, &api),
        leaf(API_SERVER_KUBELET_CLIENT, API_SERVER_KUBELET_CLIENT, Some("system:masters"), &[]),
        leaf(CONTROLLER_MANAGER, "system:kube-controller-manager", None, &[]),
        leaf(KUBELET, &node_user, Some("system:nodes"), &[]),
        leaf(KUBELET_SERVING, &node_user, Some("system:nodes"), &node_names),
        leaf(LOOPBACK_SERVING, "localhost", None, &loopback),
        leaf(SCHEDULER, "system:kube-scheduler", None, &[]),
    ] {
        issue_leaf(layout, &issuer, &leaf)?;
    }
    Ok(())
}

fn issue_leaf(layout: &Layout, issuer: &Issuer<'_, KeyPair>, leaf: &Leaf<'_>) -> Result<(), Error> {
    let mut params = params(leaf.common_name, Duration::days(365));
    if let Some(organization) = leaf.organization {
        params.distinguished_name.push(DnType::OrganizationName, organization);
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![match leaf.names {
        [] => ExtendedKeyUsagePurpose::ClientAuth,
        _ => ExtendedKeyUsagePurpose::ServerAuth,
    }];
    for name in leaf.names {
        params.subject_alt_names.push(match name.parse() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(name.as_str().try_into().map_err(Error::Certificate)?),
        });
    }
    let key = KeyPair::generate().map_err(Error::Certificate)?;
    let certificate = params.signed_by(&key, issuer).map_err(Error::Certificate)?;
    let files = key_files(layout, leaf.file);
    write(&files.key, key.serialize_pem().as_bytes())?;
    write(&files.certificate, certificate.pem().as_bytes())
}

/// The key that was made once for this data directory.
fn durable_key(layout: &Layout, name: &str) -> Result<KeyPair, Error> {
    let path = key_files(layout, name).key;
    if path.exists() {
        let pem = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        return KeyPair::from_pem(&pem).map_err(Error::Certificate);
    }
    let key = KeyPair::generate().map_err(Error::Certificate)?;
    write(&path, key.serialize_pem().as_bytes())?;
    Ok(key)
}

fn ca_params() -> CertificateParams {
    let mut params = params("terrarium-ca", Duration::days(3650));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    params
}

fn params(common_name: &str, validity: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    // The clocks of one machine differ by nothing, but a clock may be set back a little after a start.
    let now = OffsetDateTime::now_utc();
    params.not_before = now - Duration::hours(1);
    params.not_after = now + validity;
    params.use_authority_key_identifier_extension = true;
    params
}
