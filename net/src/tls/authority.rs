//! A certificate authority for tests: signs anything it is told to.

use mesh::identity::Identity;
use rcgen::{
    CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, SanType, SerialNumber,
};
use rustls::pki_types::PrivateKeyDer;
use time::{Duration, OffsetDateTime};

use super::{Credential, Issued};

/// A root with its key.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// What a leaf says. `Leaf::of(identity)` is one that everyone accepts.
#[derive(Clone)]
pub(crate) struct Leaf {
    pub(crate) names: Vec<SanType>,
    /// Seconds from now.
    pub(crate) valid: std::ops::Range<i64>,
    pub(crate) usages: Vec<ExtendedKeyUsagePurpose>,
    pub(crate) serial: u64,
}

/// A URI SAN with this text.
pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("tests use ASCII"))
}

impl Leaf {
    pub(crate) fn of(identity: &str) -> Self {
        Self::with(vec![uri(identity)])
    }

    pub(crate) fn with(names: Vec<SanType>) -> Self {
        Self {
            names,
            valid: -120..3600,
            usages: vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ],
            serial: 7,
        }
    }
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationName, name);
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, key()).expect("a root of our own");
        Self { issuer }
    }

    pub(crate) fn root(&self) -> String {
        self.issuer.pem()
    }

    /// Signs a leaf for a fresh key.
    pub(crate) fn issue(&self, leaf: &Leaf) -> Issued {
        let key = key();
        let pem = self.sign(leaf, &key);
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("rcgen writes PKCS#8");
        Issued {
            chain: vec![pem, self.root()],
            key,
        }
    }

    /// Signs a leaf for this key.
    pub(crate) fn sign(&self, leaf: &Leaf, key: &impl rcgen::PublicKeyData) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = leaf.names.clone();
        params.extended_key_usages = leaf.usages.clone();
        params.serial_number = Some(SerialNumber::from(leaf.serial));
        params.not_before = OffsetDateTime::now_utc() + Duration::seconds(leaf.valid.start);
        params.not_after = OffsetDateTime::now_utc() + Duration::seconds(leaf.valid.end);
        params
            .signed_by(key, &self.issuer)
            .expect("a leaf of our own")
            .pem()
    }

    /// A credential that everyone under this authority accepts.
    pub(crate) fn credential(&self, identity: &str) -> Credential {
        let asked: Identity = identity.parse().expect("tests name identities");
        let issued = self.issue(&Leaf::of(identity));
        Credential::new(
            issued,
            asked,
            &[],
            OffsetDateTime::now_utc().unix_timestamp(),
        )
        .expect("issued well")
    }
}

fn key() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("P-256 keys can be made")
}
