//! gRPC channels to the control plane: over our own TLS, to a server that proves its host name, with a bearer token.
//!
//! The files of roots and token are read whenever they are needed, so what is rotated on disk is used from the next
//! connection or request on. Who waits after a failure may ask to be told of a new token ([`Caller::renewed`]).

#[cfg(test)]
pub(crate) mod memory;

use std::{error::Error, fmt, fs, io, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
    version::TLS13,
};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{
    Status,
    metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap},
    transport::{Channel, Endpoint},
};
use tower::service_fn;

use crate::tls::{self, TlsError};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// HTTP/2 PING after this much time …
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// … whose answer must come within this.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the token is looked at by who waits for a new one.
const LOOK: Duration = Duration::from_millis(500);
const TCP_KEEPALIVE: (Duration, Duration, u32) =
    (Duration::from_secs(300), Duration::from_secs(75), 9);

/// A server of the control plane: where it is, and who vouches for it.
#[derive(Clone, Debug)]
pub struct Server {
    address: Uri,
    roots: Roots,
    name: ServerName<'static>,
}

/// Who vouches for a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Roots {
    /// A PEM file, read for every connection.
    File(PathBuf),
    /// PEM text.
    Pem(String),
}

/// The bearer token that we show.
#[derive(Clone, PartialEq, Eq)]
pub enum Token {
    /// A file, read for every request.
    File(PathBuf),
    /// The token itself.
    Literal(String),
}

/// Who we say we are in every request.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The token; without one, no `authorization` is sent.
    pub token: Option<Token>,
    /// Sent as `clusterid`.
    pub cluster: String,
    /// Further headers (`XDS_HEADER_*`, `CA_HEADER_*`).
    pub headers: Vec<(String, String)>,
}

/// Why a channel cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChannelError {
    /// The address is not `https://host[:port]`.
    BadAddress(String),
    /// A file cannot be read.
    File(PathBuf, io::ErrorKind),
    /// There is no usable root in what is configured.
    NoRoots(String),
    /// Token or header cannot be sent in a header line.
    BadHeader(String),
    /// The server's TLS failed.
    Tls(TlsError),
    /// The server cannot be reached.
    Unreachable(String),
}

impl Server {
    /// The server at `address` (`https://host:port`), known by the host's name unless `name` is given.
    pub fn new(address: &str, roots: Roots, name: Option<&str>) -> Result<Self, ChannelError> {
        let bad = || ChannelError::BadAddress(address.to_owned());
        let uri = Uri::from_str(address).map_err(|_| bad())?;
        if uri.scheme_str() != Some("https") {
            return Err(bad());
        }
        let host = host(&uri).ok_or_else(bad)?.to_owned();
        let name = name.map_or(host, str::to_owned);
        let name = ServerName::try_from(name).map_err(|_| bad())?;
        Ok(Self {
            address: uri,
            roots,
            name,
        })
    }

    /// A channel that connects when it is first used, and again after it broke.
    pub fn lazy(&self) -> Channel {
        let server = self.clone();
        endpoint(&self.address).connect_with_connector_lazy(service_fn(move |_| {
            let server = server.clone();
            async move { server.open().await.map(TokioIo::new) }
        }))
    }

    /// A channel that is connected.
    pub async fn connect(&self) -> Result<Channel, ChannelError> {
        let server = self.clone();
        let connector = service_fn(move |_| {
            let server = server.clone();
            async move { server.open().await.map(TokioIo::new) }
        });
        let connected = endpoint(&self.address)
            .connect_with_connector(connector)
            .await;
        connected.map_err(|error| ChannelError::Unreachable(cause(&error)))
    }

    async fn open(&self) -> Result<TlsStream<TcpStream>, ChannelError> {
        let host = host(&self.address).unwrap_or_default();
        let port = self.address.port_u16().unwrap_or(443);
        let unreachable = |error: io::Error| {
            ChannelError::Unreachable(format!("{} ({host}:{port})", in_words(&error)))
        };
        let tcp = TcpStream::connect((host, port))
            .await
            .map_err(unreachable)?;
        tcp.set_nodelay(true).map_err(unreachable)?;
        let (time, interval, retries) = TCP_KEEPALIVE;
        let keepalive = TcpKeepalive::new()
            .with_time(time)
            .with_interval(interval)
            .with_retries(retries);
        SockRef::from(&tcp)
            .set_tcp_keepalive(&keepalive)
            .map_err(unreachable)?;
        self.secure(tcp).await
    }

    /// TLS to the server over an open connection.
    pub(crate) async fn secure<S>(&self, io: S) -> Result<TlsStream<S>, ChannelError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let provider = tls::provider();
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(|e| ChannelError::Tls(TlsError::Other(e.to_string())))?
            .with_root_certificates(self.roots.read()?)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = Resumption::disabled();
        let connected = TlsConnector::from(Arc::new(config))
            .connect(self.name.clone(), io)
            .await;
        connected.map_err(|error| ChannelError::Tls(error.into()))
    }
}

/// How every channel behaves once it is there.
pub(crate) fn endpoint(address: &Uri) -> Endpoint {
    Endpoint::from(address.clone())
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
        // A full state of a large mesh is one message of many megabytes.
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20)
}

fn host(address: &Uri) -> Option<&str> {
    let host = address.host()?;
    Some(
        host.strip_prefix('[')
            .and_then(|v6| v6.strip_suffix(']'))
            .unwrap_or(host),
    )
}

impl Roots {
    /// Text that begins like PEM is PEM, anything else is a path (`XDS_ROOT_CA`, `CA_ROOT_CA`).
    pub fn from_setting(text: &str) -> Self {
        match text.trim_start().starts_with("-----BEGIN") {
            true => Self::Pem(text.to_owned()),
            false => Self::File(text.into()),
        }
    }

    fn read(&self) -> Result<RootCertStore, ChannelError> {
        let (pem, origin) = match self {
            Self::File(path) => (read(path)?, path.display().to_string()),
            Self::Pem(text) => (text.clone(), "the configured text".to_owned()),
        };
        let mut store = RootCertStore::empty();
        for der in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let added = der
                .map_err(|e| e.to_string())
                .and_then(|der| store.add(der).map_err(|e| e.to_string()));
            added.map_err(|why| ChannelError::NoRoots(format!("{origin}: {why}")))?;
        }
        if store.is_empty() {
            return Err(ChannelError::NoRoots(format!(
                "{origin}: no certificate in it"
            )));
        }
        Ok(store)
    }
}

impl Token {
    /// A token has no `/`, a path has (`AUTH_TOKEN`).
    pub fn from_setting(text: &str) -> Self {
        match text.contains('/') {
            true => Self::File(text.into()),
            false => Self::Literal(text.to_owned()),
        }
    }

    /// The token now, without the white space around it: an editor's newline would break the header.
    fn read(&self) -> Result<String, ChannelError> {
        match self {
            Self::File(path) => Ok(read(path)?.trim().to_owned()),
            Self::Literal(text) => Ok(text.trim().to_owned()),
        }
    }
}

impl Caller {
    /// A request with this message from this caller.
    pub fn request<T>(&self, message: T) -> Result<tonic::Request<T>, ChannelError> {
        let mut request = tonic::Request::new(message);
        self.sign(request.metadata_mut())?;
        Ok(request)
    }

    /// The token now, if it is in a file and can be read.
    pub fn token(&self) -> Option<String> {
        let token = self.token.as_ref();
        let file = token.filter(|token| matches!(token, Token::File(_)))?;
        // One that is being written is none.
        file.read().ok().filter(|text| !text.is_empty())
    }

    /// Until there is another token than this one, and it. Never, if it is not in a file.
    pub async fn renewed(&self, shown: Option<&str>) -> String {
        loop {
            match self.token() {
                Some(now) if Some(&*now) != shown => return now,
                Some(_) | None => tokio::time::sleep(LOOK).await,
            }
        }
    }

    fn sign(&self, metadata: &mut MetadataMap) -> Result<(), ChannelError> {
        let value = |name: &str, text: &str| {
            AsciiMetadataValue::from_str(text).map_err(|_| ChannelError::BadHeader(name.to_owned()))
        };
        if let Some(token) = &self.token {
            let mut bearer = value("authorization", &format!("Bearer {}", token.read()?))?;
            bearer.set_sensitive(true);
            metadata.insert("authorization", bearer);
        }
        metadata.insert("clusterid", value("clusterid", &self.cluster)?);
        for (name, text) in &self.headers {
            let key = AsciiMetadataKey::from_str(&name.to_ascii_lowercase());
            metadata.insert(
                key.map_err(|_| ChannelError::BadHeader(name.clone()))?,
                value(name, text)?,
            );
        }
        Ok(())
    }
}

fn read(path: &PathBuf) -> Result<String, ChannelError> {
    fs::read_to_string(path).map_err(|error| ChannelError::File(path.clone(), error.kind()))
}

/// Why something failed, in plain words: what the innermost cause says. The errors around it are the libraries', which
/// put debug text into theirs.
pub(crate) fn cause(error: &(dyn Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(next) = innermost.source() {
        innermost = next;
    }
    if let Some(ChannelError::Unreachable(why)) = innermost.downcast_ref() {
        // Whoever asks says by itself that nobody was reached.
        why.clone()
    } else if let Some(error) = innermost.downcast_ref() {
        in_words(error)
    } else if let Some(status) = innermost.downcast_ref::<Status>() {
        format!("{} ({:?})", status.message(), status.code())
    } else {
        innermost.to_string()
    }
}

/// The system's words without its number; the library's own word for a time that is over is of no use to a reader.
fn in_words(error: &io::Error) -> String {
    match (error.kind(), error.raw_os_error()) {
        (io::ErrorKind::TimedOut, _) => "timed out".to_owned(),
        (_, Some(number)) => {
            let text = error.to_string().to_lowercase();
            text.replace(&format!(" (os error {number})"), "")
        }
        (_, None) => error.to_string(),
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "Token({})", path.display()),
            Self::Literal(_) => f.write_str("Token(…)"),
        }
    }
}

impl fmt::Display for ChannelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadAddress(text) => write!(
                f,
                "{text:?} is not an address of the form https://host:port"
            ),
            Self::File(path, kind) => write!(f, "{} cannot be read: {kind}", path.display()),
            Self::NoRoots(why) => write!(f, "no root certificate can be used: {why}"),
            Self::BadHeader(name) => write!(
                f,
                "the value for header {name} has characters that no header may have"
            ),
            Self::Tls(TlsError::Other(why)) => write!(f, "TLS to the control plane failed: {why}"),
            Self::Tls(why) => write!(
                f,
                "TLS to the control plane failed, the control plane being the peer: {why}"
            ),
            Self::Unreachable(why) => write!(f, "the control plane cannot be reached: {why}"),
        }
    }
}

impl Error for ChannelError {}

#[cfg(test)]
mod tests;
