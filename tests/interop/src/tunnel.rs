//! Tunnels by hand: HTTP/2 CONNECT inside mutual TLS 1.3 on port 15008.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::{Method, Request, Response, StatusCode, Uri};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{
        CryptoProvider, aws_lc_rs::default_provider, verify_tls12_signature, verify_tls13_signature,
    },
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use sys::netns::Netns;
use tokio::net::{TcpListener, TcpSocket};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// What the proxy's own packets carry.
const MARK: u32 = 0x539;
/// Where tunnels come in.
const PORT: u16 = 15008;

/// A certificate as it was issued, with its key.
#[derive(Clone, Debug)]
pub struct Credential {
    /// PEM: leaf, intermediates, and last the root.
    pub chain: Vec<String>,
    /// PEM.
    pub key: String,
}

impl Credential {
    fn own(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let (_, own) = self.chain.split_last().expect("a root");
        let own = own.iter().map(|pem| certificate(pem)).collect();
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("a key");
        (own, key)
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        let root = self.chain.last().expect("a root");
        roots.add(certificate(root)).expect("a root");
        roots
    }
}

/// The first certificate of a PEM.
pub fn certificate(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate")
}

/// Whether a certificate names this identity anywhere: an alternative name is text in it.
pub fn names(certificate: &[u8], identity: &str) -> bool {
    let wanted = identity.as_bytes();
    certificate.windows(wanted.len()).any(|it| it == wanted)
}

/// Opens a tunnel from a pod to another one, whose proxy has to be of this identity, and asks for a stream to `to`: the status,
/// and what came back for what was said.
///
/// # Errors
/// If there is no tunnel, or the stream breaks.
pub async fn through(
    netns: &Netns,
    own: &Credential,
    to: SocketAddr,
    expected: &str,
    say: &'static [u8],
) -> Result<(u16, Vec<u8>), String> {
    let at = SocketAddr::new(to.ip(), PORT);
    let socket = netns.within(|| sys::socket::stream(at, None, Some(MARK)));
    let socket = TcpSocket::from_std_stream(socket.map_err(text)?);
    let stream = socket.connect(at).await.map_err(text)?;
    let verifier = Expecting {
        identity: expected.to_owned(),
        provider: Arc::new(default_provider()),
    };
    let (chain, key) = own.own();
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let config = config.with_protocol_versions(&[&rustls::version::TLS13]);
    let config = config.map_err(text)?.dangerous();
    let config = config.with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = config.with_client_auth_cert(chain, key).map_err(text)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    let name = ServerName::IpAddress(to.ip().into());
    let tls = connector.connect(name, stream).await.map_err(text)?;
    let (send, connection) = h2::client::handshake(tls).await.map_err(text)?;
    let driven = tokio::spawn(async move { connection.await.ok() });
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = to.to_string().parse::<Uri>().map_err(text)?;
    let mut send = send.ready().await.map_err(text)?;
    let (response, mut body) = send.send_request(request, false).map_err(text)?;
    let response = response.await.map_err(text)?;
    let status = response.status().as_u16();
    let mut back = Vec::new();
    if status == 200 {
        body.send_data(Bytes::from_static(say), true)
            .map_err(text)?;
        let mut answer = response.into_body();
        while let Some(data) = answer.data().await {
            let data = data.map_err(text)?;
            answer
                .flow_control()
                .release_capacity(data.len())
                .map_err(text)?;
            back.extend_from_slice(&data);
        }
    }
    driven.abort();
    Ok((status, back))
}

/// Takes tunnels to a pod in its proxy's place, and sends back what comes on their streams.
///
/// # Panics
/// If that is not possible.
pub fn echoes(netns: &Netns, own: &Credential) {
    let provider = Arc::new(default_provider());
    let roots = Arc::new(own.roots());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider));
    let verifier = verifier.build().expect("roots");
    let (chain, key) = own.own();
    let config = ServerConfig::builder_with_provider(provider);
    let config = config.with_protocol_versions(&[&rustls::version::TLS13]);
    let config = config
        .expect("a version")
        .with_client_cert_verifier(verifier);
    let mut config = config.with_single_cert(chain, key).expect("a certificate");
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let any = SocketAddr::from(([0; 4], PORT));
    let options = sys::socket::Options {
        mark: Some(MARK),
        reuse_address: true,
        ..Default::default()
    };
    let listener = netns.within(|| sys::socket::listen(any, options));
    let listener = TcpListener::from_std(listener.expect("a free port")).expect("a runtime");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let tls = acceptor.accept(stream).await.ok()?;
                let mut connection = h2::server::handshake(tls).await.ok()?;
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let mut response = Response::new(());
                    if request.method() != Method::CONNECT {
                        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
                    }
                    let send = respond.send_response(response, false).ok()?;
                    tokio::spawn(echo(request.into_body(), send));
                }
                Some(())
            });
        }
    });
}

async fn echo(mut from: RecvStream, mut to: SendStream<Bytes>) {
    while let Some(Ok(data)) = from.data().await {
        from.flow_control().release_capacity(data.len()).ok();
        if to.send_data(data, false).is_err() {
            return;
        }
    }
    to.send_data(Bytes::new(), true).ok();
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Lets only one identity answer. That an authority vouches for it is another test's.
#[derive(Debug)]
struct Expecting {
    identity: String,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Expecting {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if names(leaf, &self.identity) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::General(format!("it is not {}", self.identity)))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let all = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, all)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let all = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, all)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let all = &self.provider.signature_verification_algorithms;
        all.supported_schemes()
    }
}
