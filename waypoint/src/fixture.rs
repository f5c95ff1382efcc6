//! Who gives certificates in tests.

use std::rc::Rc;

use mesh::identity::Identity;
use net::{
    clock,
    tls::{Credential, Issued},
};
use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};

/// Signs what it is asked for.
pub(crate) struct Office(CertifiedIssuer<'static, KeyPair>);

impl Office {
    pub(crate) fn new() -> Rc<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Rc::new(Self(CertifiedIssuer::self_signed(params, key).unwrap()))
    }

    pub(crate) fn issue(&self, identity: Identity) -> Credential {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into().unwrap())];
        params.extended_key_usages = vec![
            rcgen::ExtendedKeyUsagePurpose::ServerAuth,
            rcgen::ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let leaf = params.signed_by(&key, &self.0).unwrap().pem();
        let issued = Issued {
            chain: vec![leaf, self.0.pem()],
            key: key.serialize_der().try_into().unwrap(),
        };
        let now = i64::try_from(clock::wall().as_secs()).unwrap();
        Credential::new(issued, identity, &[], now).unwrap()
    }
}

/// A service account of `shop`.
pub(crate) fn identity(name: &str) -> Identity {
    Identity::new("cluster.local", "shop", name)
}
