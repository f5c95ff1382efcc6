//! Another proxy of the mesh, good or bad: it has a certificate and speaks HTTP/2 inside TLS, and asks for what it likes.

use std::{
    future::Future,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread::{self, JoinHandle},
    time::{SystemTime, UNIX_EPOCH},
};

use ::mesh::identity::Identity;
use bytes::Bytes;
use http::{Method, Request, Uri};
use net::tls::{self, Credential, Issued};
use sys::netns::Netns;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::Instant,
};

use crate::{
    waypoint::{Manner, Waypoint},
    world::PATIENCE,
};

/// A proxy in a namespace.
#[derive(Debug)]
pub struct Peer {
    netns: Netns,
    credential: Arc<Credential>,
}

impl Peer {
    /// In this namespace, with what was issued for `identity`.
    pub fn new(netns: &Netns, issued: Issued, identity: Identity) -> Self {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("after 1970")
            .as_secs();
        let now = i64::try_from(now).expect("before the end of time");
        let credential = Credential::new(issued, identity, &[], now).expect("a certificate");
        Self {
            netns: netns.try_clone().expect("a second handle"),
            credential: Arc::new(credential),
        }
    }

    /// Opens a tunnel to a proxy of one of these identities and asks for each of these, one after the other: the
    /// statuses. `Err`: there is no tunnel, and why.
    pub fn ask(
        &self,
        to: SocketAddr,
        expected: Identity,
        requests: Vec<Request<()>>,
    ) -> Result<Vec<u16>, String> {
        self.tunnel(to, expected, async |send| {
            let mut statuses = Vec::new();
            for request in requests {
                let mut send = send.clone().ready().await.map_err(text)?;
                // What is open ends with the tunnel.
                let (response, _body) = send.send_request(request, false).map_err(text)?;
                let response = tokio::time::timeout(PATIENCE, response)
                    .await
                    .map_err(text)?;
                statuses.push(response.map_err(text)?.status().as_u16());
            }
            Ok(statuses)
        })
    }

    /// Opens a tunnel and asks for one stream. Once that is open, does `then`, and waits until the stream is cut. `Err`:
    /// it was not opened, or ended in peace.
    pub fn until_cut(
        &self,
        to: SocketAddr,
        expected: Identity,
        request: Request<()>,
        then: impl FnOnce(),
    ) -> Result<(), String> {
        self.tunnel(to, expected, async |send| {
            let mut send = send.ready().await.map_err(text)?;
            let (response, _body) = send.send_request(request, false).map_err(text)?;
            let response = response.await.map_err(text)?;
            if response.status() != http::StatusCode::OK {
                return Err(response.status().to_string());
            }
            then();
            let mut body = response.into_body();
            loop {
                match body.data().await {
                    Some(Ok(_)) => {}
                    Some(Err(_)) => return Ok(()),
                    None => return Err("it ended as if all had been said".to_owned()),
                }
            }
        })
    }

    /// Is a waypoint from now on, at the port of tunnels in its namespace.
    pub fn waypoint(&self, manner: Manner) -> Waypoint {
        Waypoint::start(&self.netns, Arc::clone(&self.credential), manner)
    }

    /// Opens TLS, says these bytes instead of HTTP/2, and waits until the other end closes.
    pub fn blurt(&self, to: SocketAddr, expected: Identity, bytes: &[u8]) -> Result<(), String> {
        run(async {
            let stream = self.connect(to)?;
            let deadline = Instant::now() + PATIENCE;
            let (mut stream, _) = tls::connect(stream, &self.credential, &[expected], deadline)
                .await
                .map_err(text)?;
            stream.write_all(bytes).await.map_err(text)?;
            // However it closes, it closes.
            let _ = stream.read_to_end(&mut Vec::new()).await;
            Ok(())
        })
    }

    /// The serial number of the certificate that a proxy shows now.
    pub fn serial_of(&self, at: SocketAddr, expected: Identity) -> Result<String, String> {
        run(async {
            let stream = self.connect(at)?;
            let deadline = Instant::now() + PATIENCE;
            let (_, peer) = tls::connect(stream, &self.credential, &[expected], deadline)
                .await
                .map_err(text)?;
            Ok(peer.serial)
        })
    }

    /// Answers one tunnel at the port of tunnels in its namespace, and says how its handshake went.
    pub fn answer_one(&self) -> JoinHandle<Result<Identity, String>> {
        let listener = self
            .netns
            .within(|| TcpListener::bind("[::]:15008"))
            .expect("the port is free");
        let credential = Arc::clone(&self.credential);
        thread::spawn(move || {
            run(async {
                let (stream, _) = listener.accept().map_err(text)?;
                stream.set_nonblocking(true).map_err(text)?;
                let stream = tokio::net::TcpStream::from_std(stream).map_err(text)?;
                let accepted = tls::accept(stream, &credential, Instant::now() + PATIENCE).await;
                let (stream, peer) = accepted.map_err(text)?;
                // A client that refuses us says so after its handshake.
                let mut tunnel = h2::server::handshake(stream).await.map_err(text)?;
                match tunnel.accept().await {
                    Some(Ok(_)) => Ok(peer.identity),
                    Some(Err(error)) => Err(error.to_string()),
                    None => Err("closed".to_owned()),
                }
            })
        })
    }

    fn connect(&self, to: SocketAddr) -> Result<tokio::net::TcpStream, String> {
        let stream = self
            .netns
            .within(|| TcpStream::connect_timeout(&to, PATIENCE))
            .map_err(text)?;
        stream.set_nonblocking(true).map_err(text)?;
        tokio::net::TcpStream::from_std(stream).map_err(text)
    }

    fn tunnel<T>(
        &self,
        to: SocketAddr,
        expected: Identity,
        inside: impl AsyncFnOnce(h2::client::SendRequest<Bytes>) -> Result<T, String>,
    ) -> Result<T, String> {
        run(async {
            let stream = self.connect(to)?;
            let deadline = Instant::now() + PATIENCE;
            let (stream, _) = tls::connect(stream, &self.credential, &[expected], deadline)
                .await
                .map_err(text)?;
            let (send, connection) = h2::client::handshake(stream).await.map_err(text)?;
            tokio::select! {
                done = inside(send) => done,
                ended = connection => Err(ended.err().map_or_else(|| "closed".to_owned(), text)),
            }
        })
    }
}

/// A CONNECT for this authority.
pub fn connect(authority: &str) -> Request<()> {
    let uri = Uri::builder()
        .authority(authority)
        .build()
        .expect("HTTP takes it");
    request(Method::CONNECT, uri)
}

/// A request that is none for a tunnel.
pub fn request(method: Method, uri: Uri) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    request
}

fn run<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        match tokio::time::timeout(PATIENCE, work).await {
            Ok(done) => done,
            Err(_) => Err("nothing came in time".to_owned()),
        }
    })
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
