//! The certificate service's client: one request, one credential or the reason why not.
//!
//! When to ask is not decided here: see [`crate::certificates`].

use std::{fmt, sync::Arc, time::Duration};

use mesh::{identity::Identity, name::Name};
use prost_types::{Struct, Value, value::Kind};
use proto::auth::IstioCertificateRequest;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use rustls::pki_types::PrivateKeyDer;
use tokio::{task, time::timeout};
use tonic::{Code, transport::Channel};

use crate::{
    certificates::Keeper,
    channel::{Caller, ChannelError, cause},
    stubs::certificate::istio_certificate_service_client::IstioCertificateServiceClient,
    tls::{BadCredential, Credential, Issued},
};

/// Longer than this the authority does not take.
const DEADLINE: Duration = Duration::from_secs(10);
/// The metadata key that names the pod's identity which a node proxy asks for.
const IMPERSONATED: &str = "ImpersonatedIdentity";

/// Asks for certificates in the name of this node's pods.
#[derive(Clone, Debug)]
pub struct Authority {
    /// To the certificate service; [`crate::channel::Server::lazy`] makes one.
    pub channel: Channel,
    /// Who asks.
    pub caller: Caller,
    /// The life that is asked for (`SECRET_TTL`).
    pub life: Duration,
    /// Trust domains whose clients count as our own.
    pub aliases: Vec<Name>,
    /// The time since 1970.
    pub now: fn() -> Duration,
}

/// Why there is no certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotIssued {
    /// The request could not be made.
    Request(String),
    /// Token, header or roots.
    Channel(ChannelError),
    /// The authority did not answer in time.
    Timeout,
    /// The authority could not be reached.
    Unreachable(String),
    /// The authority refused.
    Refused(Code, String),
    /// What it issued cannot be used.
    Bad(BadCredential),
}

impl Authority {
    /// Keeps certificates by asking this authority, in tasks of the thread's own. What failed by its token is asked for again
    /// as soon as there is a new one.
    pub fn keep(self, keeper: Keeper) {
        let (caller, certificates) = (self.caller.clone(), keeper.certificates());
        task::spawn_local(async move {
            let mut shown = caller.token();
            loop {
                shown = Some(caller.renewed(shown.as_deref()).await);
                tracing::info!("there is a new token for the certificate authority");
                certificates.again();
            }
        });
        let authority = Arc::new(self);
        task::spawn_local(keeper.run(move |identity| {
            let authority = Arc::clone(&authority);
            async move { authority.issue(identity).await }
        }));
    }

    /// Makes a key, asks for a certificate of this identity, and checks what comes.
    pub async fn issue(&self, identity: Identity) -> Result<Credential, NotIssued> {
        let (csr, key) =
            request(identity).map_err(|error| NotIssued::Request(error.to_string()))?;
        let kind = Some(Kind::StringValue(identity.to_string()));
        let message = IstioCertificateRequest {
            csr,
            validity_duration: i64::try_from(self.life.as_secs()).unwrap_or(i64::MAX),
            metadata: Some(Struct {
                fields: [(IMPERSONATED.to_owned(), Value { kind })].into(),
            }),
        };
        let request = self.caller.request(message).map_err(NotIssued::Channel)?;
        let mut client = IstioCertificateServiceClient::new(self.channel.clone());
        let answer = timeout(DEADLINE, client.create_certificate(request))
            .await
            .map_err(|_| NotIssued::Timeout)?;
        let chain = answer.map_err(refused)?.into_inner().cert_chain;
        let now = i64::try_from((self.now)().as_secs()).unwrap_or(i64::MAX);
        Credential::new(Issued { chain, key }, identity, &self.aliases, now).map_err(NotIssued::Bad)
    }
}

/// A request for this identity: P-256, no subject, so that the one URI SAN is critical (RFC 5280 §4.2.1.6).
fn request(identity: Identity) -> Result<(String, PrivateKeyDer<'static>), rcgen::Error> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into()?)];
    let csr = params.serialize_request(&key)?.pem()?;
    let der = PrivateKeyDer::try_from(key.serialize_der())
        .map_err(|_| rcgen::Error::CouldNotParseKeyPair)?;
    Ok((csr, der))
}

/// A status that our own transport made up says that nobody answered.
fn refused(status: tonic::Status) -> NotIssued {
    match std::error::Error::source(&status) {
        Some(_) => NotIssued::Unreachable(cause(&status)),
        None => NotIssued::Refused(status.code(), status.message().to_owned()),
    }
}

impl fmt::Display for NotIssued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(why) => write!(f, "the certificate request could not be made: {why}"),
            Self::Channel(why) => why.fmt(f),
            Self::Timeout => write!(
                f,
                "the certificate authority did not answer within {} s",
                DEADLINE.as_secs()
            ),
            Self::Unreachable(why) => {
                write!(f, "the certificate authority cannot be reached: {why}")
            }
            Self::Refused(code, why) => {
                write!(f, "the certificate authority refused ({code:?}): {why}")
            }
            Self::Bad(why) => write!(f, "the certificate authority's answer is of no use: {why}"),
        }
    }
}

impl std::error::Error for NotIssued {}

#[cfg(test)]
mod tests;
