//! A control plane that is not ours: it serves what a test gives it, signs by an intermediate authority, and remembers what it
//! was sent, byte by byte.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use cli::lab::{CONTROL, Node};
use h2::{RecvStream, SendStream, server::SendResponse};
use http::{HeaderMap, HeaderValue, Request, Response};
use prost::Message as _;
use prost_types::value::Kind;
use proto::{
    auth::{IstioCertificateRequest, IstioCertificateResponse},
    discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource},
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs::default_provider,
    pki_types::{PrivateKeyDer, pem::PemObject as _},
};
use tests::world::World;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    grpc::{CERTIFICATES, DISCOVERY, Messages, framed},
    tunnel::certificate,
};

/// Where it serves.
pub const PORT: u16 = 15012;

/// What one proxy has sent on one discovery stream.
#[derive(Clone, Debug, Default)]
pub struct Session {
    /// The call's headers.
    pub headers: HeaderMap,
    /// Its messages.
    pub messages: Vec<Bytes>,
}

/// A request for a certificate, with the headers of its call.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The call's headers.
    pub headers: HeaderMap,
    /// The message.
    pub request: IstioCertificateRequest,
}

/// The control plane.
#[derive(Debug)]
pub struct Control {
    shared: Arc<Shared>,
    _runtime: tokio::runtime::Runtime,
}

#[derive(Debug)]
struct Shared {
    authority: Authority,
    heard: Mutex<Heard>,
}

#[derive(Debug, Default)]
struct Heard {
    sessions: Vec<Session>,
    asked: Vec<Asked>,
    /// Name and bytes by type: what a stream is told first.
    resources: Vec<(String, String, Vec<u8>)>,
    /// Where to tell more; `None` ends the stream.
    open: Vec<mpsc::UnboundedSender<Option<DeltaDiscoveryResponse>>>,
    said: u64,
}

impl Control {
    /// Serves in a world, whose proxies find its root and their tokens where they look.
    ///
    /// # Panics
    /// If that is not possible.
    pub fn serving(world: &World) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let authority = Authority::new();
        let state = world.path("state");
        fs::create_dir_all(state.join("tokens")).expect("the world's own directory");
        fs::write(state.join("root-cert.pem"), &authority.root).expect("a file");
        for node in Node::ALL {
            let token = format!("foreign-token-{}", node.name());
            fs::write(state.join("tokens").join(node.name()), token).expect("a file");
        }
        let acceptor = authority.acceptor(CONTROL.into());
        let shared = Arc::new(Shared {
            authority,
            heard: Mutex::default(),
        });
        let at = SocketAddr::from((CONTROL, PORT));
        let options = sys::socket::Options::default();
        let listen = || sys::socket::listen(at, options);
        let listener = world.lab.control().within(listen).expect("a free port");
        let serving = Arc::clone(&shared);
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("a listener");
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(connection(Arc::clone(&serving), acceptor.clone(), stream));
            }
        });
        Self {
            shared,
            _runtime: runtime,
        }
    }

    /// Puts a resource in force, or takes it away: on every stream, and on those to come.
    pub fn tell(&self, type_url: &str, name: &str, value: Option<Vec<u8>>) {
        let mut heard = self.shared.heard();
        heard
            .resources
            .retain(|(kind, known, _)| (kind.as_str(), known.as_str()) != (type_url, name));
        let mut all = Vec::new();
        let mut removed = Vec::new();
        match value {
            Some(value) => {
                let new = (type_url.to_owned(), name.to_owned(), value);
                all.push(resource(&new));
                heard.resources.push(new);
            }
            None => removed.push(name.to_owned()),
        }
        let response = heard.response(type_url, all, removed);
        heard
            .open
            .retain(|stream| stream.send(Some(response.clone())).is_ok());
    }

    /// Ends all discovery streams in good order, as a control plane does when connections have their age.
    pub fn end_streams(&self) {
        for stream in self.shared.heard().open.drain(..) {
            stream.send(None).ok();
        }
    }

    /// What was sent on each stream, in their order.
    pub fn sessions(&self) -> Vec<Session> {
        self.shared.heard().sessions.clone()
    }

    /// Certificates that were asked for.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.heard().asked.clone()
    }
}

impl Shared {
    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Heard {
    fn response(
        &mut self,
        type_url: &str,
        resources: Vec<Resource>,
        removed_resources: Vec<String>,
    ) -> DeltaDiscoveryResponse {
        self.said += 1;
        DeltaDiscoveryResponse {
            type_url: type_url.to_owned(),
            nonce: format!("foreign/{}", self.said),
            resources,
            removed_resources,
            ..DeltaDiscoveryResponse::default()
        }
    }
}

fn resource((type_url, name, value): &(String, String, Vec<u8>)) -> Resource {
    Resource {
        name: name.clone(),
        version: format!("v{}", value.len()),
        resource: Some(prost_types::Any {
            type_url: type_url.clone(),
            value: value.clone(),
        }),
        ..Resource::default()
    }
}

async fn connection(shared: Arc<Shared>, acceptor: TlsAcceptor, stream: TcpStream) -> Option<()> {
    let tls = acceptor.accept(stream).await.ok()?;
    let mut connection = h2::server::handshake(tls).await.ok()?;
    while let Some(Ok((request, respond))) = connection.accept().await {
        let shared = Arc::clone(&shared);
        match request.uri().path() {
            DISCOVERY => drop(tokio::spawn(discovery(shared, request, respond))),
            CERTIFICATES => drop(tokio::spawn(certificates(shared, request, respond))),
            other => panic!("nothing is at {other}"),
        }
    }
    Some(())
}

fn begin(mut respond: SendResponse<Bytes>) -> Option<SendStream<Bytes>> {
    let response = Response::builder().header("content-type", "application/grpc");
    let response = response.body(()).expect("a response");
    respond.send_response(response, false).ok()
}

fn finish(mut send: SendStream<Bytes>) {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    // A caller that is gone needs none.
    send.send_trailers(trailers).ok();
}

async fn discovery(
    shared: Arc<Shared>,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
) -> Option<()> {
    let (tell, mut told) = mpsc::unbounded_channel();
    let number = {
        let mut heard = shared.heard();
        heard.sessions.push(Session {
            headers: request.headers().clone(),
            messages: Vec::new(),
        });
        heard.open.push(tell);
        heard.sessions.len() - 1
    };
    let mut send = begin(respond)?;
    let mut messages = Messages::of(request.into_body());
    loop {
        tokio::select! {
            message = messages.next() => {
                let message = message.ok()??;
                let read = DeltaDiscoveryRequest::decode(message.clone()).expect("a request");
                let mut heard = shared.heard();
                heard.sessions[number].messages.push(message);
                // Whatever has no nonce asks for the type.
                if read.response_nonce.is_empty() {
                    let of_type = heard.resources.iter().filter(|(kind, ..)| *kind == read.type_url);
                    let all = of_type.map(resource).collect();
                    let response = heard.response(&read.type_url, all, Vec::new());
                    send.send_data(framed(&response.encode_to_vec()), false).ok()?;
                }
            }
            response = told.recv() => match response.flatten() {
                Some(response) => send.send_data(framed(&response.encode_to_vec()), false).ok()?,
                None => {
                    finish(send);
                    return None;
                }
            },
        }
    }
}

async fn certificates(
    shared: Arc<Shared>,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
) -> Option<()> {
    let headers = request.headers().clone();
    let message = Messages::of(request.into_body()).next().await.ok()??;
    let request = IstioCertificateRequest::decode(message).expect("a request");
    let fields = request.metadata.as_ref().map(|it| &it.fields);
    let asked = fields.and_then(|fields| fields.get("ImpersonatedIdentity")?.kind.clone());
    let Some(Kind::StringValue(identity)) = asked else {
        panic!("whom for? {request:?}");
    };
    let cert_chain = shared.authority.sign(&request.csr, &identity);
    shared.heard().asked.push(Asked { headers, request });
    let mut send = begin(respond)?;
    let answer = IstioCertificateResponse { cert_chain };
    send.send_data(framed(&answer.encode_to_vec()), false)
        .ok()?;
    finish(send);
    Some(())
}

/// A root, and an intermediate authority that signs in its place.
#[derive(Debug)]
struct Authority {
    root: String,
    intermediate: String,
    params: CertificateParams,
    key: KeyPair,
}

impl Authority {
    fn new() -> Self {
        let authority = |name: &str| {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            params
        };
        let key = || KeyPair::generate().expect("a key");
        let (top, root_key) = (authority("foreign root"), key());
        let root = top.self_signed(&root_key).expect("a certificate").pem();
        let top = Issuer::new(top, root_key);
        let (params, key) = (authority("foreign intermediate"), key());
        let intermediate = params.signed_by(&key, &top).expect("a certificate").pem();
        Self {
            root,
            intermediate,
            params,
            key,
        }
    }

    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }

    /// Leaf, intermediate, root.
    fn sign(&self, csr: &str, identity: &str) -> Vec<String> {
        let mut request = CertificateSigningRequestParams::from_pem(csr).expect("a CSR");
        let name = identity.try_into().expect("a name");
        request.params.subject_alt_names = vec![SanType::URI(name)];
        let leaf = request.signed_by(&self.issuer()).expect("a certificate");
        vec![leaf.pem(), self.intermediate.clone(), self.root.clone()]
    }

    fn acceptor(&self, address: IpAddr) -> TlsAcceptor {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::IpAddress(address)];
        let key = KeyPair::generate().expect("a key");
        let leaf = params
            .signed_by(&key, &self.issuer())
            .expect("a certificate");
        let chain = vec![leaf.der().clone(), certificate(&self.intermediate)];
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()));
        let config = config.with_safe_default_protocol_versions();
        let config = config.expect("versions").with_no_client_auth();
        let mut config = config.with_single_cert(chain, key).expect("a certificate");
        config.alpn_protocols = vec![b"h2".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }
}
