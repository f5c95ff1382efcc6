//! Mutual TLS between proxies: who we are, who the peer must be, and a handshake with a deadline.
//!
//! TLS 1.3 only, AES-GCM, ALPN `h2`, a certificate from both sides, no server name, no resumption. A peer is its one
//! SPIFFE URI SAN: nothing else in a certificate counts, and a certificate without exactly one is nobody's. Where a
//! [`Credential`] comes from and when it is renewed is not decided here: see [`crate::certificates`].

#[cfg(test)]
pub(crate) mod authority;
mod credential;
mod error;
mod verify;

use std::{net::Ipv4Addr, sync::Arc};

use mesh::identity::Identity;
use rustls::{
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, timeout_at},
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

pub use self::{
    credential::{BadCredential, Certificate, Credential, Issued},
    error::{BadSan, TlsError},
};

/// Whom a handshake proved to be at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its one URI SAN.
    pub identity: Identity,
    /// Its certificate's serial number, decimal.
    pub serial: String,
    /// When its certificate ends, in seconds since 1970.
    pub not_after: i64,
}

/// Takes a peer's connection as its TLS server.
///
/// The peer's chain must lead to the credential's roots, be good for client authentication and name one identity of
/// the credential's trust domain or of an alias. Whatever fails, the peer is sent the alert for it. The stream is
/// dropped, with its handshake, at the deadline.
pub async fn accept<S>(
    io: S,
    credential: &Credential,
    deadline: Instant,
) -> Result<(server::TlsStream<S>, Peer), TlsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = TlsAcceptor::from(credential.server()).accept(io);
    let stream = timeout_at(deadline, handshake)
        .await
        .map_err(|_| TlsError::Timeout)??;
    let peer = peer(stream.get_ref().1.peer_certificates())?;
    Ok((stream, peer))
}

/// Opens TLS to a peer, which must prove to be one of `expected`.
///
/// In TLS 1.3 a client is done before the server has judged the client's certificate: a server's refusal is the error
/// of the first read, which [`TlsError::from`] names.
pub async fn connect<S>(
    io: S,
    credential: &Credential,
    expected: &[Identity],
    deadline: Instant,
) -> Result<(client::TlsStream<S>, Peer), TlsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // The name is never sent and never compared; the library wants one.
    let nobody = ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into());
    let handshake = TlsConnector::from(credential.client(expected)).connect(nobody, io);
    let stream = timeout_at(deadline, handshake)
        .await
        .map_err(|_| TlsError::Timeout)??;
    let peer = peer(stream.get_ref().1.peer_certificates())?;
    Ok((stream, peer))
}

fn peer(chain: Option<&[CertificateDer<'_>]>) -> Result<Peer, TlsError> {
    let leaf = chain
        .and_then(<[_]>::first)
        .ok_or(TlsError::NoCertificate)?;
    let (identity, certificate) = verify::named(leaf).map_err(TlsError::BadSan)?;
    Ok(Peer {
        identity,
        serial: certificate.serial,
        not_after: certificate.not_after,
    })
}

/// What we speak: two suites and three groups, with AES-256 and X25519 first.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
            aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
        ],
        kx_groups: vec![
            aws_lc_rs::kx_group::X25519,
            aws_lc_rs::kx_group::SECP256R1,
            aws_lc_rs::kx_group::SECP384R1,
        ],
        ..aws_lc_rs::default_provider()
    })
}

#[cfg(test)]
mod tests;
