//! The cluster's certificates: CAs that last with the data directory, and leaves that are issued anew at every start,
//! so that each names the addresses of today, and while the cluster runs before they end (`renewal`).
//!
//! The front proxy's CA is apart from the other, since whoever has a certificate of it may say on whose behalf it asks: by
//! it the servers of aggregated APIs know the API server.
//!
//! Names and groups follow Kubernetes' "PKI certificates and requirements".

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData as _, SanType,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use x509_parser::pem::parse_x509_pem;
use x509_parser::time::ASN1Time;

use crate::layout::{write, write_durably};
use crate::{Error, Layout, dns, ingress, metrics};

/// How long the CA lasts: ten years, as kubeadm's does.
const CA_LIFETIME: Duration = Duration::from_secs(3650 * 24 * 3600);

/// The clocks of one machine differ by nothing, but a clock may be set back a little after a start.
pub(crate) const BACKDATED: Duration = Duration::from_secs(3600);

/// What the certificates name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Names {
    /// The node's name.
    pub(crate) node: String,
    /// The node's address.
    pub(crate) address: IpAddr,
    /// The address of the Service `kubernetes`.
    pub(crate) api_service: Ipv4Addr,
}

/// What was issued last, on disk beside it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Issued {
    pub(crate) names: Names,
    /// The leaves' end, in seconds since 1970.
    pub(crate) not_after: i64,
    /// How long they last, in seconds.
    pub(crate) lifetime: u64,
}

impl Issued {
    /// `None` where nothing was issued yet, or nothing readable says what.
    pub(crate) fn load(layout: &Layout) -> Option<Self> {
        serde_json::from_slice(&fs::read(Self::path(layout)).ok()?).ok()
    }

    fn path(layout: &Layout) -> PathBuf {
        layout.pki("issued.json")
    }
}

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
pub(crate) const COREDNS: &str = "coredns";
pub(crate) const FRONT_PROXY_CA: &str = "front-proxy-ca";
pub(crate) const FRONT_PROXY_CLIENT: &str = "front-proxy-client";
pub(crate) const INGRESS: &str = "ingress";
pub(crate) const KUBELET: &str = "kubelet";
pub(crate) const KUBELET_SERVING: &str = "kubelet-serving";
pub(crate) const LOOPBACK_SERVING: &str = "loopback-serving";
pub(crate) const METRICS: &str = "metrics-server";
pub(crate) const METRICS_SERVING: &str = "metrics-server-serving";
pub(crate) const NETD: &str = "terrarium-netd";
pub(crate) const SCHEDULER: &str = "kube-scheduler";
pub(crate) const SERVICE_ACCOUNT: &str = "service-account";
pub(crate) const SERVICE_ACCOUNT_PUBLIC: &str = "service-account.pub";

/// Makes the CAs and the service-account key if they are not there yet, and issues every leaf anew for so long.
pub(crate) fn issue(layout: &Layout, of: &Names, lifetime: Duration) -> Result<(), Error> {
    let Names { node, address, api_service } = of;
    let issuer = authority(layout, CA, ca_params("terrarium-ca"))?;
    let front_proxy = authority(layout, FRONT_PROXY_CA, ca_params("terrarium-front-proxy-ca"))?;
    let public = durable_key(layout, SERVICE_ACCOUNT)?.public_key_pem();
    write(&layout.pki(SERVICE_ACCOUNT_PUBLIC), public.as_bytes())?;

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
    let node_names = [node.clone(), address.to_string()];
    let loopback = strings(&["localhost", "127.0.0.1"]);
    let metrics = [metrics::SERVICE_NAME.to_owned(), address.to_string()];
    let node_user = format!("system:node:{node}");

    let leaf = |file, common_name, organization, names| Leaf { file, common_name, organization, names };
    for leaf in [
        leaf(ADMIN, "kubernetes-admin", Some("system:masters"), &[]),
        leaf(API_SERVER, "kube-apiserver", None, &api),
        // Its right is given by name (`rbac`).
        leaf(API_SERVER_KUBELET_CLIENT, API_SERVER_KUBELET_CLIENT, None, &[]),
        leaf(CONTROLLER_MANAGER, "system:kube-controller-manager", None, &[]),
        leaf(COREDNS, dns::USER, None, &[]),
        // For nothing until the add-on gives its user rights.
        leaf(INGRESS, ingress::USER, None, &[]),
        leaf(KUBELET, &node_user, Some("system:nodes"), &[]),
        leaf(KUBELET_SERVING, &node_user, Some("system:nodes"), &node_names),
        leaf(LOOPBACK_SERVING, "localhost", None, &loopback),
        // For nothing until the add-on gives its user rights.
        leaf(METRICS, metrics::USER, None, &[]),
        leaf(METRICS_SERVING, metrics::SERVICE_NAME, None, &metrics),
        leaf(NETD, NETD, None, &[]),
        leaf(SCHEDULER, "system:kube-scheduler", None, &[]),
    ] {
        issue_leaf(layout, &issuer, &leaf, lifetime)?;
    }
    issue_leaf(layout, &front_proxy, &leaf(FRONT_PROXY_CLIENT, FRONT_PROXY_CLIENT, None, &[]), lifetime)?;
    // Last: what says that they are new is there when they are.
    let not_after = (OffsetDateTime::now_utc() + lifetime).unix_timestamp();
    let issued = Issued { names: of.clone(), not_after, lifetime: lifetime.as_secs() };
    write(&Issued::path(layout), &serde_json::to_vec(&issued).expect("names and numbers become JSON"))
}

/// The CA of that name, made if it is not there yet.
fn authority(layout: &Layout, name: &str, params: CertificateParams) -> Result<Issuer<'static, KeyPair>, Error> {
    let KeyFiles { certificate, key } = key_files(layout, name);
    // One without its key, by a crash between the two, is nobody's.
    let is_new = !certificate.exists() || !key.exists();
    let key = durable_key(layout, name)?;
    if is_new {
        let signed = params.self_signed(&key).map_err(Error::Certificate)?;
        write_durably(&certificate, signed.pem().as_bytes())?;
    }
    check_ca(&certificate, &key)?;
    Ok(Issuer::new(params, key))
}

/// Makes sure that clients would take a certificate of this CA.
fn check_ca(path: &Path, key: &KeyPair) -> Result<(), Error> {
    let refused = |why: &str| Error::Ca { path: path.to_owned(), why: why.to_owned() };
    let content = fs::read(path).map_err(Error::io("read", path))?;
    let (_, pem) = parse_x509_pem(&content).map_err(|_| refused("it is no PEM file"))?;
    let ca = pem.parse_x509().map_err(|_| refused("it holds no certificate"))?;
    if ca.public_key().raw != key.subject_public_key_info() {
        return Err(refused("it is of another key"));
    }
    let now = ASN1Time::now();
    let (from, until) = (ca.validity().not_before, ca.validity().not_after);
    if now < from {
        return Err(Error::NotYetValid { path: path.to_owned(), from: from.to_string(), now: now.to_string() });
    }
    if now > until {
        return Err(Error::Expired { path: path.to_owned(), until: until.to_string(), now: now.to_string() });
    }
    Ok(())
}

fn issue_leaf(layout: &Layout, issuer: &Issuer<'_, KeyPair>, leaf: &Leaf<'_>, lifetime: Duration) -> Result<(), Error> {
    let mut params = params(leaf.common_name, lifetime);
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
        return KeyPair::from_pem(&pem).map_err(|source| Error::Key { path, source });
    }
    let key = KeyPair::generate().map_err(Error::Certificate)?;
    write_durably(&path, key.serialize_pem().as_bytes())?;
    Ok(key)
}

fn ca_params(common_name: &str) -> CertificateParams {
    let mut params = params(common_name, CA_LIFETIME);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    params
}

fn params(common_name: &str, validity: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let now = OffsetDateTime::now_utc();
    params.not_before = now - BACKDATED;
    params.not_after = now + validity;
    params.use_authority_key_identifier_extension = true;
    params
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt as _;

    use tempfile::TempDir;
    use x509_parser::pem::Pem;
    use x509_parser::prelude::*;

    use super::*;
    use crate::ErrorId;

    fn issued() -> (TempDir, Layout) {
        let (root, layout) = Layout::temporary();
        again(&layout).unwrap();
        (root, layout)
    }

    fn again(layout: &Layout) -> Result<(), Error> {
        let (address, api_service) = ([192, 0, 2, 7].into(), [10, 43, 0, 1].into());
        issue(layout, &Names { node: "node-1".to_owned(), address, api_service }, Duration::from_secs(3600))
    }

    fn pem(layout: &Layout, name: &str) -> Pem {
        let text = fs::read(key_files(layout, name).certificate).unwrap();
        Pem::iter_from_buffer(&text).next().unwrap().unwrap()
    }

    fn files(layout: &Layout) -> BTreeMap<String, Vec<u8>> {
        let entries = fs::read_dir(layout.data().join("pki")).unwrap().map(Result::unwrap);
        entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
    }

    /// A certificate in a line: who it is, what for, under which names.
    fn described(certificate: &X509Certificate<'_>) -> String {
        let usage = certificate.extended_key_usage().unwrap().unwrap().value;
        let usage = match (usage.client_auth, usage.server_auth, usage.any) {
            (true, false, false) => "client",
            (false, true, false) => "server",
            other => panic!("{other:?}"),
        };
        let names = certificate.subject_alternative_name().unwrap().map(|names| {
            let texts = names.value.general_names.iter().map(|name| match name {
                GeneralName::DNSName(name) => (*name).to_owned(),
                GeneralName::IPAddress(bytes) => Ipv4Addr::from(<[u8; 4]>::try_from(*bytes).unwrap()).to_string(),
                other => panic!("{other}"),
            });
            texts.collect::<Vec<_>>().join(" ")
        });
        [certificate.subject().to_string(), usage.to_owned(), names.unwrap_or_default()].join("; ")
    }

    const LEAVES: &[&str] = &[
        ADMIN,
        API_SERVER,
        API_SERVER_KUBELET_CLIENT,
        CONTROLLER_MANAGER,
        COREDNS,
        FRONT_PROXY_CLIENT,
        INGRESS,
        KUBELET,
        KUBELET_SERVING,
        LOOPBACK_SERVING,
        METRICS,
        METRICS_SERVING,
        NETD,
        SCHEDULER,
    ];

    #[test]
    fn each_certificate_is_of_the_ca_for_one_use_and_its_names() {
        let (_root, layout) = issued();
        let (cas, now) = ([CA, FRONT_PROXY_CA].map(|name| pem(&layout, name)), ASN1Time::now());
        let [ca, front_proxy] = cas.each_ref().map(|ca| ca.parse_x509().unwrap());
        for ca in [&ca, &front_proxy] {
            assert!(ca.is_ca() && ca.validity().is_valid_at(now));
            ca.verify_signature(None).unwrap();
        }
        let mut text = String::new();
        for name in LEAVES {
            let ca = if *name == FRONT_PROXY_CLIENT { &front_proxy } else { &ca };
            let leaf = pem(&layout, name);
            let leaf = leaf.parse_x509().unwrap();
            leaf.verify_signature(Some(ca.public_key())).unwrap();
            assert_eq!(leaf.issuer(), ca.subject());
            assert!(!leaf.is_ca() && leaf.validity().is_valid_at(now), "{name}");
            let key = fs::read_to_string(key_files(&layout, name).key).unwrap();
            let public = KeyPair::from_pem(&key).unwrap().subject_public_key_info();
            assert_eq!(public, leaf.public_key().raw, "{name}: the key is the certificate's");
            text += &format!("{name}: {}\n", described(&leaf));
        }
        insta::assert_snapshot!(text);
    }

    #[test]
    fn only_the_owner_can_read_what_is_issued() {
        let (_root, layout) = issued();
        for entry in fs::read_dir(layout.data().join("pki")).unwrap().map(Result::unwrap) {
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
        }
    }

    #[test]
    fn the_next_start_keeps_the_roots_and_renews_the_leaves() {
        let (_root, layout) = issued();
        let before = files(&layout);
        again(&layout).unwrap();
        let after = files(&layout);
        let kept: Vec<_> = before
            .iter()
            .filter(|(name, content)| after[*name] == **content && *name != "issued.json")
            .map(|(name, _)| name)
            .collect();
        let roots = ["ca.crt", "ca.key", "front-proxy-ca.crt", "front-proxy-ca.key"];
        assert_eq!(kept, roots.into_iter().chain(["service-account.key", "service-account.pub"]).collect::<Vec<_>>());
        assert_eq!(after.len(), before.len());
        // A new leaf is of the CA certificate that clients have had since the first start.
        let (ca, leaf) = (pem(&layout, CA), pem(&layout, API_SERVER));
        leaf.parse_x509().unwrap().verify_signature(Some(ca.parse_x509().unwrap().public_key())).unwrap();
    }

    #[test]
    fn half_a_ca_is_made_whole() {
        for lost in ["ca.key", "ca.crt"] {
            let (_root, layout) = issued();
            fs::remove_file(layout.pki(lost)).unwrap();
            again(&layout).unwrap();
            let (ca, leaf) = (pem(&layout, CA), pem(&layout, ADMIN));
            let verified = leaf.parse_x509().unwrap().verify_signature(Some(ca.parse_x509().unwrap().public_key()));
            verified.unwrap_or_else(|error| panic!("after the loss of {lost}: {error}"));
        }
    }

    /// Puts a CA of the same key in place that is valid from and until so many days from now.
    fn put_ca(layout: &Layout, days: [i64; 2]) {
        let mut params = ca_params("terrarium-ca");
        [params.not_before, params.not_after] =
            days.map(|days| OffsetDateTime::now_utc() + ::time::Duration::days(days));
        let signed = params.self_signed(&durable_key(layout, CA).unwrap()).unwrap();
        fs::write(key_files(layout, CA).certificate, signed.pem()).unwrap();
    }

    #[test]
    fn a_ca_that_no_client_would_take_is_said_and_kept() {
        let (_root, layout) = issued();
        let path = key_files(&layout, CA).certificate;
        for (days, id) in
            [([-2, -1], ErrorId::CertificateExpired), ([1, 2], ErrorId::ClockWrong), ([-2, 2], ErrorId::Failed)]
        {
            put_ca(&layout, days);
            let before = fs::read(&path).unwrap();
            let error = again(&layout).err();
            assert_eq!(error.as_ref().map_or(ErrorId::Failed, Error::id), id, "{error:?}");
            assert_eq!(fs::read(&path).unwrap(), before);
        }
        fs::write(&path, fs::read(key_files(&layout, ADMIN).certificate).unwrap()).unwrap();
        assert_eq!(again(&layout).unwrap_err().id(), ErrorId::KeyCorrupt);
        fs::write(&path, "torn").unwrap();
        assert_eq!(again(&layout).unwrap_err().id(), ErrorId::KeyCorrupt);
        // The way out that the hint tells: the same key, so that whoever trusts it need not be told.
        let key = fs::read(key_files(&layout, CA).key).unwrap();
        fs::remove_file(&path).unwrap();
        again(&layout).unwrap();
        assert_eq!(fs::read(key_files(&layout, CA).key).unwrap(), key);
    }

    #[test]
    fn a_key_that_is_none_is_said_and_kept() {
        let (_root, layout) = issued();
        fs::write(layout.pki("service-account.key"), "torn").unwrap();
        let error = again(&layout).unwrap_err().to_string();
        assert!(error.contains("service-account.key"), "{error}");
        assert_eq!(fs::read_to_string(layout.pki("service-account.key")).unwrap(), "torn");
    }
}
