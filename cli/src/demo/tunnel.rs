//! A tunnel's handshake, made by the demo itself: which certificate does a pod show to the next peer that comes?
//!
//! It has to be a peer that the pod lets in, so it asks the certificate authority with a node's token, as that node's
//! ztunnel does.

use std::{
    io,
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use mesh::identity::Identity;
use net::{
    ca::Authority,
    channel::{Caller, Roots, Server, Token},
    tls,
};
use tokio::time::Instant;

use super::{
    manifests::Pod,
    mesh::{Mesh, PATIENCE},
};
use crate::lab::CONTROL;

const TUNNEL: u16 = 15008;

/// The serial number, decimal, of the certificate with which `server` answers a handshake by `client`. It is verified:
/// the chain, that `server` holds its key, and that it is who it should be.
pub(crate) fn serial(mesh: &Mesh, client: &Pod, server: &Pod) -> Result<String, String> {
    let node = mesh.lab.node(client.node);
    let identity = |pod: &Pod| {
        pod.identity
            .parse::<Identity>()
            .map_err(|error| format!("{}: {error}", pod.identity))
    };
    let (own, expected) = (identity(client)?, identity(server)?);
    let to = SocketAddr::new(server.addresses[0], TUNNEL);
    let stream = mesh
        .lab
        .connect(node, to, PATIENCE)
        .map_err(|error| format!("{to}: {error}"))?;
    let authority = authority(mesh, client)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    // The runtime has no thread but this one, so what it connects is connected from the node.
    let outcome =
        node.within(|| Ok(runtime.block_on(handshake(stream, &authority, own, expected))));
    outcome.map_err(|error| error.to_string())?
}

async fn handshake(
    stream: TcpStream,
    authority: &impl Fn() -> Authority,
    own: Identity,
    expected: Identity,
) -> Result<String, String> {
    let stream = into_tokio(stream).map_err(|error| error.to_string())?;
    let credential = authority()
        .issue(own)
        .await
        .map_err(|error| error.to_string())?;
    let peer = tls::connect(stream, &credential, &[expected], Instant::now() + PATIENCE).await;
    peer.map(|(_, peer)| peer.serial)
        .map_err(|error| format!("the handshake: {error}"))
}

fn into_tokio(stream: TcpStream) -> io::Result<tokio::net::TcpStream> {
    stream.set_nonblocking(true)?;
    tokio::net::TcpStream::from_std(stream)
}

/// Made within the runtime that it is used in.
fn authority(mesh: &Mesh, client: &Pod) -> Result<impl Fn() -> Authority, String> {
    let roots = Roots::File(mesh.room.join("state/root-cert.pem"));
    let server = Server::new(&format!("https://{CONTROL}:15012"), roots, None)
        .map_err(|error| error.to_string())?;
    let token = Token::File(mesh.room.join("state/tokens").join(client.node.name()));
    Ok(move || Authority {
        channel: server.lazy(),
        caller: Caller {
            token: Some(token.clone()),
            cluster: "Kubernetes".to_owned(),
            headers: Vec::new(),
        },
        life: Duration::from_secs(60),
        aliases: Vec::new(),
        now: net::clock::wall,
    })
}
