//! gRPC by hand: requests of HTTP/2 inside TLS, messages with a length before them, a status in the trailers.

use std::{net::IpAddr, sync::Arc};

use bytes::{Buf as _, Bytes, BytesMut};
use h2::{
    RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::{HeaderMap, Method, Request};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Where discovery is.
pub const DISCOVERY: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// Where certificates are.
pub const CERTIFICATES: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";

/// A message as it goes over the wire: not compressed, its length, itself.
pub fn framed(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).expect("messages are small");
    let head = length.to_be_bytes();
    Bytes::from([&[0], &head[..], message].concat())
}

/// Messages that come in on a stream.
#[derive(Debug)]
pub struct Messages {
    body: RecvStream,
    held: BytesMut,
}

impl Messages {
    /// Of this body.
    pub fn of(body: RecvStream) -> Self {
        Self {
            body,
            held: BytesMut::new(),
        }
    }

    /// The next message; `None` at the end of the stream.
    ///
    /// # Errors
    /// If the stream breaks, or what comes is no message.
    pub async fn next(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            if let Some(head) = self.held.first_chunk::<5>() {
                let [compressed, length @ ..] = *head;
                if compressed != 0 {
                    return Err("a compressed message".to_owned());
                }
                let length = u32::from_be_bytes(length) as usize;
                if self.held.len() >= 5 + length {
                    self.held.advance(5);
                    return Ok(Some(self.held.split_to(length).freeze()));
                }
            }
            let Some(data) = self.body.data().await else {
                return Ok(None);
            };
            let data = data.map_err(|error| error.to_string())?;
            let taken = self.body.flow_control().release_capacity(data.len());
            taken.map_err(|error| error.to_string())?;
            self.held.extend_from_slice(&data);
        }
    }

    async fn trailers(&mut self) -> Option<HeaderMap> {
        self.body.trailers().await.ok().flatten()
    }
}

/// Why a call has failed: gRPC's status and what was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The number of the status, as text.
    pub code: String,
    /// The reason.
    pub said: String,
}

/// A connection to a server, and what is said of the caller with each call.
#[derive(Clone, Debug)]
pub struct Client {
    send: SendRequest<Bytes>,
    token: String,
}

impl Client {
    /// Begins TLS and HTTP/2 over a connection, with a server that these PEM roots vouch for under this address.
    ///
    /// # Errors
    /// If that fails.
    pub async fn over(
        stream: std::net::TcpStream,
        roots: &str,
        server: IpAddr,
        token: &str,
    ) -> Result<Self, String> {
        let mut store = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(roots.as_bytes()) {
            let root = root.map_err(|error| error.to_string())?;
            store.add(root).map_err(|error| error.to_string())?;
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| error.to_string())?;
        let mut config = builder.with_root_certificates(store).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        stream
            .set_nonblocking(true)
            .map_err(|error| error.to_string())?;
        let stream = TcpStream::from_std(stream).map_err(|error| error.to_string())?;
        let connector = TlsConnector::from(Arc::new(config));
        let name = ServerName::IpAddress(server.into());
        let tls = connector.connect(name, stream).await;
        let tls = tls.map_err(|error| error.to_string())?;
        let begun = h2::client::handshake(tls).await;
        let (send, connection) = begun.map_err(|error| error.to_string())?;
        tokio::spawn(async move {
            // Whoever uses it learns that it has ended.
            connection.await.ok();
        });
        Ok(Self {
            send,
            token: token.to_owned(),
        })
    }

    /// Begins a call.
    ///
    /// # Panics
    /// If the connection is gone.
    pub async fn begin(&self, path: &str) -> Call {
        let mut send = self.send.clone().ready().await.expect("a connection");
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("https://control{path}"))
            .header("te", "trailers")
            .header("content-type", "application/grpc")
            .header("authorization", format!("Bearer {}", self.token))
            .header("clusterid", "Kubernetes")
            .body(())
            .expect("a request");
        let (response, send) = send.send_request(request, false).expect("a connection");
        Call {
            send,
            answer: Answer::Awaited(response),
        }
    }

    /// A call with one message and one answer.
    ///
    /// # Errors
    /// If the server refuses it.
    pub async fn ask(&self, path: &str, message: &[u8]) -> Result<Bytes, Refused> {
        let mut call = self.begin(path).await;
        call.send
            .send_data(framed(message), true)
            .expect("a stream");
        call.next().await
    }
}

/// A call that is open.
#[derive(Debug)]
pub struct Call {
    send: SendStream<Bytes>,
    answer: Answer,
}

#[derive(Debug)]
enum Answer {
    Awaited(ResponseFuture),
    Begun(HeaderMap, Messages),
}

impl Call {
    /// Sends messages, several at once.
    ///
    /// # Panics
    /// If the stream is gone.
    pub fn say(&mut self, messages: &[&[u8]]) {
        let all: Vec<u8> = messages.iter().flat_map(|it| framed(it)).collect();
        self.send.send_data(all.into(), false).expect("a stream");
    }

    /// The next message of the server.
    ///
    /// # Errors
    /// If the server ends the call: with its status.
    pub async fn next(&mut self) -> Result<Bytes, Refused> {
        let broken = |said: String| Refused {
            code: "broken".to_owned(),
            said,
        };
        if let Answer::Awaited(response) = &mut self.answer {
            let response = response.await.map_err(|error| broken(error.to_string()))?;
            let (head, body) = response.into_parts();
            self.answer = Answer::Begun(head.headers, Messages::of(body));
        }
        let Answer::Begun(head, messages) = &mut self.answer else {
            return Err(broken("no answer".to_owned()));
        };
        if let Some(message) = messages.next().await.map_err(broken)? {
            return Ok(message);
        }
        let trailers = messages.trailers().await;
        let status = trailers.as_ref().unwrap_or(head);
        let field = |name| {
            let value = status.get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        Err(Refused {
            code: field("grpc-status"),
            said: field("grpc-message"),
        })
    }
}
