//! What went wrong with a handshake, by name.

use std::{fmt, io};

use mesh::{
    identity::{Identity, NotAnIdentity},
    name::Name,
};
use rustls::{AlertDescription, CertificateError};

/// Why a handshake failed. Everything but `Refused`, `Closed` and `Io` is our judgement of the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsError {
    /// The peer did not finish the handshake in time.
    Timeout,
    /// The peer closed the connection in the middle of the handshake.
    Closed,
    /// The peer sent no certificate.
    NoCertificate,
    /// The peer's certificate has ended.
    Expired,
    /// The peer's certificate has not begun yet; clocks may differ.
    NotYetValid,
    /// No root that we trust vouches for the peer's certificate.
    UnknownIssuer,
    /// The peer's certificate is not for this role (client or server authentication).
    WrongPurpose,
    /// The peer's certificate does not name exactly one identity.
    BadSan(BadSan),
    /// The peer's identity belongs to a trust domain that is neither ours nor an alias of it.
    WrongTrustDomain {
        /// Who it is.
        peer: Identity,
        /// Our trust domain.
        ours: Name,
    },
    /// The peer is not who was expected at its address.
    UnexpectedIdentity {
        /// Who it is.
        peer: Identity,
        /// Who would have been accepted.
        expected: Vec<Identity>,
    },
    /// The peer speaks no TLS version, suite, group or protocol that we speak, or does not speak TLS.
    Incompatible(String),
    /// The peer refused us with this alert.
    Refused(String),
    /// The connection failed.
    Io(io::ErrorKind),
    /// Anything else that the TLS library reports.
    Other(String),
}

/// Why a certificate is nobody's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadSan {
    /// It is not a certificate that can be read.
    Malformed,
    /// It has this many URI SANs, not one.
    Count(usize),
    /// Its URI SAN is not an identity.
    NotAnIdentity(NotAnIdentity),
}

impl From<io::Error> for TlsError {
    fn from(error: io::Error) -> Self {
        if let Some(tls) = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        {
            return Self::from(tls);
        }
        match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe => Self::Closed,
            kind => Self::Io(kind),
        }
    }
}

impl From<&rustls::Error> for TlsError {
    fn from(error: &rustls::Error) -> Self {
        use rustls::Error;
        match error {
            Error::NoCertificatesPresented => Self::NoCertificate,
            Error::InvalidCertificate(reason) => Self::from(reason),
            Error::AlertReceived(AlertDescription::CertificateRequired) => {
                Self::Refused("certificate_required".into())
            }
            Error::AlertReceived(alert) => Self::Refused(format!("{alert:?}")),
            Error::PeerIncompatible(_)
            | Error::NoApplicationProtocol
            | Error::InvalidMessage(_) => Self::Incompatible(error.to_string()),
            _ => Self::Other(error.to_string()),
        }
    }
}

impl From<&CertificateError> for TlsError {
    fn from(reason: &CertificateError) -> Self {
        use CertificateError as C;
        match reason {
            C::Expired | C::ExpiredContext { .. } => Self::Expired,
            C::NotValidYet | C::NotValidYetContext { .. } => Self::NotYetValid,
            // A root of the same name with another key shows as a bad signature.
            C::UnknownIssuer | C::BadSignature => Self::UnknownIssuer,
            C::InvalidPurpose | C::InvalidPurposeContext { .. } => Self::WrongPurpose,
            C::BadEncoding => Self::BadSan(BadSan::Malformed),
            C::Other(other) => other
                .0
                .downcast_ref::<Self>()
                .cloned()
                .unwrap_or_else(|| Self::Other(other.to_string())),
            _ => Self::Other(reason.to_string()),
        }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str("the peer did not finish the TLS handshake in time"),
            Self::Closed => f.write_str("the peer closed the connection during the TLS handshake"),
            Self::NoCertificate => f.write_str("the peer sent no certificate"),
            Self::Expired => f.write_str("the peer's certificate has expired"),
            Self::NotYetValid => {
                f.write_str("the peer's certificate is not valid yet (check the clocks)")
            }
            Self::UnknownIssuer => {
                f.write_str("the peer's certificate was not issued by a root of this mesh")
            }
            Self::WrongPurpose => {
                f.write_str("the peer's certificate is not meant for this side of a TLS connection")
            }
            Self::BadSan(why) => write!(f, "the peer's certificate names no one: {why}"),
            Self::WrongTrustDomain { peer, ours } => {
                write!(
                    f,
                    "the peer {peer} is of another trust domain than {ours}, and not of an alias of it"
                )
            }
            Self::UnexpectedIdentity { peer, expected } => {
                write!(f, "the peer is {peer}, expected ")?;
                for (i, identity) in expected.iter().enumerate() {
                    write!(f, "{}{identity}", if i > 0 { " or " } else { "" })?;
                }
                if expected.is_empty() {
                    f.write_str("no one")
                } else {
                    Ok(())
                }
            }
            Self::Incompatible(why) => write!(f, "the peer does not speak our TLS: {why}"),
            Self::Refused(alert) => write!(f, "the peer refused the TLS connection: {alert}"),
            Self::Io(kind) => write!(f, "the connection failed: {kind}"),
            Self::Other(why) => write!(f, "TLS failed: {why}"),
        }
    }
}

impl std::error::Error for TlsError {}

impl fmt::Display for BadSan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("it cannot be read"),
            Self::Count(count) => write!(f, "it has {count} URI names instead of one"),
            Self::NotAnIdentity(name) => name.fmt(f),
        }
    }
}

impl std::error::Error for BadSan {}
