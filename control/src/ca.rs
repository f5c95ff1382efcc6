//! The certificate authority: a root made on first start and kept, and the leaves that it signs.
//!
//! Signing takes from a request its key alone. Who a leaf is for, how long it lives and what it may do is decided here,
//! whatever the request asks; whether the caller may have it is decided before ([`crate::placements`]).

use std::{
    fmt,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use mesh::identity::Identity;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SubjectPublicKeyInfo,
    string::Ia5String,
};
use rustls::pki_types::{
    CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, pem::PemObject as _,
};
use x509_parser::prelude::{FromDer as _, X509Certificate, X509CertificationRequest};

use crate::state::{PUBLIC, SECRET, StateDir, StateError};

#[cfg(test)]
mod tests;

/// The root's certificate in the state directory; clients trust this file.
pub const ROOT_CERT: &str = "root-cert.pem";
/// The root's private key in the state directory (PKCS#8).
pub const ROOT_KEY: &str = "root-key.pem";

/// Clocks of two machines may differ by this much.
const SKEW: Duration = Duration::from_mins(2);
const ROOT_LIFE: Duration = Duration::from_hours(24 * 3650);
/// PEM of a request; one for P-256 takes some 500 bytes.
const MAX_REQUEST: usize = 16 * 1024;

/// The root and its key.
pub struct Authority {
    root_pem: String,
    root: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    expires: SystemTime,
}

/// Why there is no authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRoot {
    /// [`ROOT_CERT`] or [`ROOT_KEY`].
    pub part: &'static str,
    /// In words.
    pub reason: String,
}

impl fmt::Display for BadRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.part, self.reason)
    }
}

impl std::error::Error for BadRoot {}

/// A signed leaf.
#[derive(Clone, Debug)]
pub struct Issued {
    /// PEM of the leaf.
    pub leaf: String,
    /// Lowercase hex, 16 bytes.
    pub serial: String,
    /// When the leaf ends.
    pub expires: SystemTime,
}

/// Why a request is not signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotSigned {
    /// More than 16 KiB.
    TooLong(usize),
    /// Not one PKCS#10 request in PEM.
    NotARequest(String),
    /// The request is not signed by the key that it holds.
    BadSignature,
    /// A key other than ECDSA on P-256 or P-384.
    KeyNotTaken,
    /// The life asked for, in seconds, is negative.
    NegativeLife(i64),
    /// The root has expired or is about to.
    RootExpired,
    /// The signing itself failed.
    Failed(String),
}

impl Authority {
    /// The root that the state directory keeps; on first start a new one (P-256, ten years).
    pub fn open(state: &StateDir, trust_domain: &str, now: SystemTime) -> Result<Self, StateError> {
        let refused = |bad: BadRoot| StateError {
            path: state.path(bad.part),
            reason: bad.reason,
        };
        let bad = |part, reason| refused(BadRoot { part, reason });
        let key = match (state.read(ROOT_KEY)?, state.read(ROOT_CERT)?) {
            (Some(key), Some(certificate)) => {
                return Self::load(&key, certificate).map_err(refused);
            }
            (None, Some(_)) => {
                let reason = "is missing beside the root certificate: restore it, or, if it is lost, remove \
                              root-cert.pem to start with a new root (every node must then be given the new one)";
                return Err(bad(ROOT_KEY, reason.to_owned()));
            }
            // A first start that was cut short between the two files: nobody has seen a certificate of this key.
            (Some(key), None) => key_pair(&key).map_err(|reason| bad(ROOT_KEY, reason))?,
            (None, None) => {
                let key = new_key().map_err(refused)?;
                state.write(ROOT_KEY, key.serialize_pem().as_bytes(), SECRET)?;
                key
            }
        };
        let certificate = new_root(trust_domain, now, &key).map_err(refused)?;
        state.write(ROOT_CERT, certificate.as_bytes(), PUBLIC)?;
        tracing::info!(file = %state.path(ROOT_CERT).display(), "made a new root");
        Self::load(key.serialize_pem().as_bytes(), certificate.into_bytes()).map_err(refused)
    }

    /// A new root (P-256, ten years), as PEM of its key (PKCS#8) and of its certificate.
    pub fn make(trust_domain: &str, now: SystemTime) -> Result<(String, String), BadRoot> {
        let key = new_key()?;
        let certificate = new_root(trust_domain, now, &key)?;
        Ok((key.serialize_pem(), certificate))
    }

    /// The authority of a root, whose key and certificate are in PEM.
    pub fn load(key: &[u8], certificate: Vec<u8>) -> Result<Self, BadRoot> {
        let refused = |part: &'static str, reason: &str| BadRoot {
            part,
            reason: reason.to_owned(),
        };
        let key = key_pair(key).map_err(|reason| refused(ROOT_KEY, &reason))?;
        let root_pem =
            String::from_utf8(certificate).map_err(|_| refused(ROOT_CERT, "is not PEM"))?;
        let root = CertificateDer::from_pem_slice(root_pem.as_bytes())
            .map_err(|_| refused(ROOT_CERT, "is not a certificate in PEM"))?;
        let (_, parsed) = X509Certificate::from_der(&root)
            .map_err(|_| refused(ROOT_CERT, "is not an X.509 certificate"))?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.der_bytes() {
            return Err(refused(
                ROOT_CERT,
                "is not the certificate of root-key.pem: restore the pair",
            ));
        }
        if !parsed.is_ca() {
            return Err(refused(
                ROOT_CERT,
                "is not the certificate of a certificate authority",
            ));
        }
        let expires = parsed.validity().not_after.to_datetime().into();
        let issuer = Issuer::from_ca_cert_der(&root, key)
            .map_err(|error| refused(ROOT_CERT, &format!("cannot sign: {error}")))?;
        Ok(Self {
            root_pem,
            root,
            issuer,
            expires,
        })
    }

    /// PEM of the bundle of roots that clients are to trust.
    pub fn roots(&self) -> &str {
        &self.root_pem
    }

    /// The root as a trust anchor.
    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// When the root ends.
    pub fn expires(&self) -> SystemTime {
        self.expires
    }

    /// Signs a leaf for `identity` with the key of a PKCS#10 request in PEM.
    ///
    /// The leaf: empty subject, one critical URI SAN, TLS server and client, digital signature.
    pub fn sign(
        &self,
        request: &str,
        identity: Identity,
        life: Duration,
        now: SystemTime,
    ) -> Result<Issued, NotSigned> {
        let key = requested_key(request)?;
        let uri = Ia5String::try_from(identity.to_string())
            .map_err(|error| NotSigned::Failed(error.to_string()))?;
        let usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        self.leaf(vec![SanType::URI(uri)], usages, &key, life, now)
            .map(|(_, issued)| issued)
    }

    /// A certificate for this control plane's own server, with a key that is never stored.
    pub fn serve_as(
        &self,
        names: &[ServerName],
        life: Duration,
        now: SystemTime,
    ) -> Result<ServerCertificate, NotSigned> {
        let failed = |error: rcgen::Error| NotSigned::Failed(error.to_string());
        let key = KeyPair::generate().map_err(failed)?;
        let names = names.iter().map(|name| match name {
            ServerName::Dns(name) => Ok(SanType::DnsName(
                Ia5String::try_from(name.as_str()).map_err(failed)?,
            )),
            ServerName::Ip(ip) => Ok(SanType::IpAddress(*ip)),
        });
        let names = names.collect::<Result<_, _>>()?;
        let (leaf, issued) = self.leaf(
            names,
            vec![ExtendedKeyUsagePurpose::ServerAuth],
            &key,
            life,
            now,
        )?;
        let key = PrivateKeyDer::try_from(key.serialize_der())
            .map_err(|error| NotSigned::Failed(error.to_owned()))?;
        Ok(ServerCertificate {
            chain: vec![leaf, self.root.clone()],
            key,
            expires: issued.expires,
        })
    }

    fn leaf(
        &self,
        names: Vec<SanType>,
        usages: Vec<ExtendedKeyUsagePurpose>,
        key: &impl PublicKeyData,
        life: Duration,
        now: SystemTime,
    ) -> Result<(CertificateDer<'static>, Issued), NotSigned> {
        let expires = (now + life).min(self.expires);
        if expires <= now {
            return Err(NotSigned::RootExpired);
        }
        let serial = serial()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages;
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.not_before = (now - SKEW).into();
        params.not_after = expires.into();
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        let leaf = params
            .signed_by(key, &self.issuer)
            .map_err(|error| NotSigned::Failed(error.to_string()))?;
        let issued = Issued {
            leaf: leaf.pem(),
            serial: hex(&serial),
            expires,
        };
        Ok((leaf.der().clone(), issued))
    }
}

/// One name that clients may know this control plane by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerName {
    /// A DNS name.
    Dns(String),
    /// An address.
    Ip(IpAddr),
}

impl ServerName {
    /// An address if it reads as one, else a DNS name.
    pub fn new(text: &str) -> Self {
        text.parse()
            .map_or_else(|_| Self::Dns(text.to_owned()), Self::Ip)
    }
}

/// What a TLS server needs to be itself.
#[derive(Debug)]
pub struct ServerCertificate {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key.
    pub key: PrivateKeyDer<'static>,
    /// When the leaf ends.
    pub expires: SystemTime,
}

/// How long a leaf lives: what was asked for (seconds; 0 is "not said") up to the longest that is given.
pub fn life(asked: i64, longest: Duration) -> Result<Duration, NotSigned> {
    match u64::try_from(asked) {
        Ok(0) => Ok(longest),
        Ok(seconds) => Ok(Duration::from_secs(seconds).min(longest)),
        Err(_) => Err(NotSigned::NegativeLife(asked)),
    }
}

fn new_key() -> Result<KeyPair, BadRoot> {
    KeyPair::generate().map_err(|error| BadRoot {
        part: ROOT_KEY,
        reason: format!("cannot be made: {error}"),
    })
}

fn new_root(trust_domain: &str, now: SystemTime, key: &KeyPair) -> Result<String, BadRoot> {
    root(trust_domain, now, key).map_err(|error| BadRoot {
        part: ROOT_CERT,
        reason: format!("cannot be made: {error}"),
    })
}

fn root(trust_domain: &str, now: SystemTime, key: &KeyPair) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, trust_domain);
    params
        .distinguished_name
        .push(DnType::CommonName, "Ambit root");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = (now - SKEW).into();
    params.not_after = (now + ROOT_LIFE).into();
    params.serial_number = Some(SerialNumber::from_slice(
        &serial().map_err(|_| rcgen::Error::RingUnspecified)?,
    ));
    Ok(params.self_signed(key)?.pem())
}

fn key_pair(pem: &[u8]) -> Result<KeyPair, String> {
    let text = std::str::from_utf8(pem).map_err(|_| "is not PEM".to_owned())?;
    KeyPair::from_pem(text).map_err(|error| format!("is not a private key in PEM: {error}"))
}

/// The key of a request that is signed by that key.
fn requested_key(pem: &str) -> Result<SubjectPublicKeyInfo, NotSigned> {
    if pem.len() > MAX_REQUEST {
        return Err(NotSigned::TooLong(pem.len()));
    }
    let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| NotSigned::NotARequest(error.to_string()))?;
    let (rest, request) = X509CertificationRequest::from_der(&der)
        .map_err(|error| NotSigned::NotARequest(error.to_string()))?;
    if !rest.is_empty() {
        return Err(NotSigned::NotARequest("bytes after its end".to_owned()));
    }
    let spki = request.certification_request_info.subject_pki.raw;
    let key = SubjectPublicKeyInfo::from_der(spki).map_err(|_| NotSigned::KeyNotTaken)?;
    if ![
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
    ]
    .contains(&key.algorithm())
    {
        return Err(NotSigned::KeyNotTaken);
    }
    request
        .verify_signature()
        .map_err(|_| NotSigned::BadSignature)?;
    Ok(key)
}

/// Sixteen random bytes that read as a positive number of exactly that length (RFC 5280 §4.1.2.2).
fn serial() -> Result<[u8; 16], NotSigned> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| NotSigned::Failed("the system gives no random bytes".to_owned()))?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl NotSigned {
    /// Whether the caller is to blame.
    pub fn is_callers_fault(&self) -> bool {
        !matches!(self, Self::RootExpired | Self::Failed(_))
    }
}

impl fmt::Display for NotSigned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(length) => {
                write!(f, "the request has {length} bytes, more than {MAX_REQUEST}")
            }
            Self::NotARequest(why) => write!(f, "not a PKCS#10 request in PEM: {why}"),
            Self::BadSignature => f.write_str("the request is not signed by the key that it holds"),
            Self::KeyNotTaken => f.write_str("the request's key is neither ECDSA P-256 nor P-384"),
            Self::NegativeLife(seconds) => write!(f, "a life of {seconds} seconds was asked for"),
            Self::RootExpired => f.write_str("the root certificate has expired"),
            Self::Failed(why) => write!(f, "signing failed: {why}"),
        }
    }
}

impl std::error::Error for NotSigned {}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}
