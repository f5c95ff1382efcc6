//! A certificate with its key, ready to be used: everything that a handshake needs is made once, here.

use std::{fmt, sync::Arc};

use mesh::{identity::Identity, name::Name};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::Resumption,
    crypto::WebPkiSupportedAlgorithms,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    version::TLS13,
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::{
    BadSan, provider,
    verify::{self, ClientVerifier, ServerVerifier},
};

/// The application protocol of tunnels.
const H2: &[u8] = b"h2";

/// What a certificate authority answered, with the key that the request was made for.
pub struct Issued {
    /// PEM: the leaf first, then intermediates, the bundle of roots last (`IstioCertificateResponse.cert_chain`).
    pub chain: Vec<String>,
    /// The leaf's private key.
    pub key: PrivateKeyDer<'static>,
}

/// Facts about one certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// PEM; empty for a peer's certificate.
    pub pem: String,
    /// Serial number, decimal.
    pub serial: String,
    /// Seconds since 1970.
    pub not_before: i64,
    /// Seconds since 1970.
    pub not_after: i64,
}

/// One identity's certificate, key and roots. Shared as an `Arc`: a handshake clones handles, never keys or chains.
pub struct Credential {
    identity: Identity,
    chain: Vec<Certificate>,
    roots: Vec<Certificate>,
    server: Arc<ServerConfig>,
    client: ClientConfig,
    anchors: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// Why a certificate authority's answer cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadCredential {
    /// The answer holds no leaf, or no bundle of roots after it.
    Incomplete,
    /// A certificate in it cannot be read.
    Malformed,
    /// Its leaf names no one.
    BadSan(BadSan),
    /// Its leaf names someone else.
    WrongIdentity {
        /// Whom it names.
        got: Identity,
        /// Who was asked for.
        asked: Identity,
    },
    /// Its leaf has already ended.
    Expired,
    /// Its leaf begins later.
    NotYetValid,
    /// The leaf and the key do not belong together, or the TLS library takes them not.
    Unusable(String),
}

impl Certificate {
    /// The facts of a parsed certificate, without its text.
    pub(super) fn of(parsed: &X509Certificate<'_>) -> Self {
        Self {
            pem: String::new(),
            serial: parsed.serial.to_string(),
            not_before: parsed.validity().not_before.timestamp(),
            not_after: parsed.validity().not_after.timestamp(),
        }
    }
}

impl Credential {
    /// Checks what was issued for `identity`, at `now` (seconds since 1970), and prepares its use.
    ///
    /// Clients of the trust domains in `aliases` are accepted as if they were of the identity's own.
    pub fn new(
        issued: Issued,
        identity: Identity,
        aliases: &[Name],
        now: i64,
    ) -> Result<Self, BadCredential> {
        let [chain @ .., roots] = issued.chain.as_slice() else {
            return Err(BadCredential::Incomplete);
        };
        let (chain, roots) = (
            parse(chain.iter().map(String::as_str))?,
            parse([roots.as_str()])?,
        );
        let (Some((leaf, facts)), false) = (chain.first(), roots.is_empty()) else {
            return Err(BadCredential::Incomplete);
        };
        let (got, _) = verify::named(leaf).map_err(BadCredential::BadSan)?;
        if got != identity {
            return Err(BadCredential::WrongIdentity {
                got,
                asked: identity,
            });
        }
        if now < facts.not_before {
            return Err(BadCredential::NotYetValid);
        }
        if now >= facts.not_after {
            return Err(BadCredential::Expired);
        }
        Self::assemble(identity, chain, roots, issued.key, aliases).map_err(BadCredential::Unusable)
    }

    fn assemble(
        identity: Identity,
        chain: Vec<(CertificateDer<'static>, Certificate)>,
        roots: Vec<(CertificateDer<'static>, Certificate)>,
        key: PrivateKeyDer<'static>,
        aliases: &[Name],
    ) -> Result<Self, String> {
        let mut anchors = RootCertStore::empty();
        for (root, _) in &roots {
            anchors
                .add(root.clone())
                .map_err(|e| format!("a root: {e}"))?;
        }
        let anchors = Arc::new(anchors);
        let (certificates, chain): (Vec<_>, Vec<_>) = chain.into_iter().unzip();
        let (server, client) =
            configure(certificates, key, &anchors, identity.trust_domain, aliases)?;
        Ok(Self {
            identity,
            chain,
            roots: roots.into_iter().map(|(_, facts)| facts).collect(),
            server: Arc::new(server),
            algorithms: client.crypto_provider().signature_verification_algorithms,
            client,
            anchors,
        })
    }

    /// What a peer with bad intentions may hold: nothing is checked.
    #[cfg(test)]
    pub(crate) fn unchecked(issued: Issued, identity: Identity) -> Self {
        let [chain @ .., roots] = issued.chain.as_slice() else {
            panic!("a chain and roots")
        };
        let (chain, roots) = (
            parse(chain.iter().map(String::as_str)).unwrap(),
            parse([roots.as_str()]).unwrap(),
        );
        Self::assemble(identity, chain, roots, issued.key, &[]).unwrap()
    }

    /// Whose it is.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The leaf's serial number, decimal.
    pub fn serial(&self) -> &str {
        &self.leaf().serial
    }

    /// When the leaf begins, in seconds since 1970.
    pub fn not_before(&self) -> i64 {
        self.leaf().not_before
    }

    /// When the leaf ends, in seconds since 1970.
    pub fn not_after(&self) -> i64 {
        self.leaf().not_after
    }

    /// The leaf and its intermediates.
    pub fn chain(&self) -> &[Certificate] {
        &self.chain
    }

    /// Who may vouch for peers.
    pub fn roots(&self) -> &[Certificate] {
        &self.roots
    }

    /// How peers are accepted.
    pub(super) fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// How one of `expected` is connected to. A copy of prepared handles: small beside the handshake that follows,
    /// which is why these are not kept per set of identities.
    pub(super) fn client(&self, expected: &[Identity]) -> Arc<ClientConfig> {
        let mut config = self.client.clone();
        config
            .dangerous()
            .set_certificate_verifier(Arc::new(ServerVerifier {
                roots: Arc::clone(&self.anchors),
                algorithms: self.algorithms,
                expected: expected.into(),
            }));
        Arc::new(config)
    }

    fn leaf(&self) -> &Certificate {
        self.chain.first().expect("`new` takes no empty chain")
    }
}

/// Both sides' configurations: TLS 1.3, one certificate, `h2`, nothing resumed.
fn configure(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    anchors: &Arc<RootCertStore>,
    trust_domain: Name,
    aliases: &[Name],
) -> Result<(ServerConfig, ClientConfig), String> {
    let provider = provider();
    let judge =
        WebPkiClientVerifier::builder_with_provider(Arc::clone(anchors), Arc::clone(&provider))
            .build()
            .map_err(|e| e.to_string())?;
    let judge = ClientVerifier {
        chain: judge,
        trust_domain,
        aliases: aliases.to_vec(),
    };
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(|e| e.to_string())?
        .with_client_cert_verifier(Arc::new(judge))
        .with_single_cert(chain.clone(), key.clone_key())
        .map_err(|e| e.to_string())?;
    server.alpn_protocols = vec![H2.to_vec()];
    // No peer resumes: a ticket would outlive a change of identity or roots.
    server.send_tls13_tickets = 0;
    server.session_storage = Arc::new(NoServerSessionStorage {});
    let no_one = ServerVerifier {
        roots: Arc::clone(anchors),
        algorithms: provider.signature_verification_algorithms,
        expected: [].into(),
    };
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(no_one))
        .with_client_auth_cert(chain, key)
        .map_err(|e| e.to_string())?;
    client.alpn_protocols = vec![H2.to_vec()];
    client.enable_sni = false;
    client.resumption = Resumption::disabled();
    Ok((server, client))
}

/// Every certificate in these texts, with its facts.
fn parse<'a>(
    texts: impl IntoIterator<Item = &'a str>,
) -> Result<Vec<(CertificateDer<'static>, Certificate)>, BadCredential> {
    const END: &str = "-----END CERTIFICATE-----";
    let mut found = Vec::new();
    for text in texts {
        let mut rest = text;
        while let Some(end) = rest.find(END) {
            let (block, after) = rest.split_at(end + END.len());
            let der = CertificateDer::from_pem_slice(block.as_bytes())
                .map_err(|_| BadCredential::Malformed)?;
            let (_, parsed) =
                X509Certificate::from_der(&der).map_err(|_| BadCredential::Malformed)?;
            let facts = Certificate {
                pem: format!("{}\n", block.trim()),
                ..Certificate::of(&parsed)
            };
            found.push((der.clone(), facts));
            rest = after;
        }
        if !rest.trim().is_empty() {
            return Err(BadCredential::Malformed);
        }
    }
    Ok(found)
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential({}, serial {})", self.identity, self.serial())
    }
}

impl fmt::Display for BadCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Incomplete => f.write_str("the answer lacks a certificate or the roots after it"),
            Self::Malformed => f.write_str("a certificate in the answer cannot be read"),
            Self::BadSan(why) => write!(f, "the certificate names no one: {why}"),
            Self::WrongIdentity { got, asked } => {
                write!(f, "the certificate is for {got}, asked for was {asked}")
            }
            Self::Expired => f.write_str("the certificate has already expired"),
            Self::NotYetValid => f.write_str("the certificate is not valid yet (check the clocks)"),
            Self::Unusable(why) => write!(f, "the certificate cannot be used: {why}"),
        }
    }
}

impl std::error::Error for BadCredential {}
