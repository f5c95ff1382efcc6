//! Who may be at the other end: the two verifiers, and the one way to read an identity out of a certificate.
//!
//! The chain, its dates and its purpose are checked first, so nothing of a stranger's certificate is looked at further.

use std::sync::Arc;

use mesh::{identity::Identity, name::Name};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        ParsedCertificate,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

use super::{BadSan, Certificate, TlsError};

/// The identity that a certificate names, with the certificate's facts.
pub(crate) fn named(der: &CertificateDer<'_>) -> Result<(Identity, Certificate), BadSan> {
    let (_, parsed) = X509Certificate::from_der(der).map_err(|_| BadSan::Malformed)?;
    let names = parsed
        .subject_alternative_name()
        .map_err(|_| BadSan::Malformed)?;
    let names = names.map_or(&[][..], |extension| &extension.value.general_names);
    let mut uris = Vec::new();
    for name in names {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            // Might be a URI that cannot be read.
            GeneralName::Invalid(..) => return Err(BadSan::Malformed),
            _ => {}
        }
    }
    let &[uri] = uris.as_slice() else {
        return Err(BadSan::Count(uris.len()));
    };
    let identity = uri.parse().map_err(BadSan::NotAnIdentity)?;
    Ok((identity, Certificate::of(&parsed)))
}

fn refuse(why: TlsError) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(why))))
}

/// Judges clients: anyone whom our roots vouch for and who is of our trust domain.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    /// Chain, dates, purpose and signatures.
    pub(super) chain: Arc<dyn ClientCertVerifier>,
    /// Ours.
    pub(super) trust_domain: Name,
    /// Others that count as ours.
    pub(super) aliases: Vec<Name>,
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(leaf, intermediates, now)?;
        let (peer, _) = named(leaf).map_err(|why| refuse(TlsError::BadSan(why)))?;
        if peer.trust_domain != self.trust_domain && !self.aliases.contains(&peer.trust_domain) {
            return Err(refuse(TlsError::WrongTrustDomain {
                peer,
                ours: self.trust_domain,
            }));
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Judges a server: it must be one of those expected at its address.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    /// Who may vouch.
    pub(super) roots: Arc<RootCertStore>,
    /// How signatures are checked.
    pub(super) algorithms: WebPkiSupportedAlgorithms,
    /// Who it may be.
    pub(super) expected: Box<[Identity]>,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(leaf)?;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        let (peer, _) = named(leaf).map_err(|why| refuse(TlsError::BadSan(why)))?;
        if !self.expected.contains(&peer) {
            return Err(refuse(TlsError::UnexpectedIdentity {
                peer,
                expected: self.expected.to_vec(),
            }));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
