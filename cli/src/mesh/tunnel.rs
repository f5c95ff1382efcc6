//! A tunnel's handshake, made by ourselves: which certificate does a pod show to the next peer that comes?
//!
//! It has to be a peer that the pod lets in, so it asks the certificate authority with a node's token, as that node's
//! ztunnel does.

use std::{
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

use super::{Mesh, PATIENCE, pod::Pod};
use crate::lab::CONTROL;

const TUNNEL: u16 = 15008;

/// The serial number, decimal, of the certificate with which `server` answers a handshake by `client`. It is verified:
/// the chain, that `server` holds its key, and that it is who it should be.
pub fn serial(mesh: &Mesh, client: &Pod, server: &Pod) -> Result<String, String> {
    let node = mesh.lab.node(client.node);
    let to = SocketAddr::new(server.addresses[0], TUNNEL);
    let stream = mesh
        .lab
        .connect(node, to, PATIENCE)
        .map_err(|error| format!("{to}: {error}"))?;
    stream
        .set_nonblocking(true)
        .map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    // The runtime has no thread but this one, so what it connects is connected from the node.
    let outcome = node.within(|| Ok(runtime.block_on(handshake(mesh, stream, client, server))));
    outcome.map_err(|error| error.to_string())?
}

async fn handshake(
    mesh: &Mesh,
    stream: TcpStream,
    client: &Pod,
    server: &Pod,
) -> Result<String, String> {
    let identity = |pod: &Pod| {
        pod.identity
            .parse::<Identity>()
            .map_err(|error| format!("{}: {error}", pod.identity))
    };
    let stream = tokio::net::TcpStream::from_std(stream).map_err(|error| error.to_string())?;
    let credential = authority(mesh, client)?
        .issue(identity(client)?)
        .await
        .map_err(|error| error.to_string())?;
    let peer = tls::connect(
        stream,
        &credential,
        &[identity(server)?],
        Instant::now() + PATIENCE,
    )
    .await;
    peer.map(|(_, peer)| peer.serial)
        .map_err(|error| format!("the handshake: {error}"))
}

fn authority(mesh: &Mesh, client: &Pod) -> Result<Authority, String> {
    let roots = Roots::File(mesh.root_certificate());
    let server = Server::new(&format!("https://{CONTROL}:15012"), roots, None)
        .map_err(|error| error.to_string())?;
    let token = Some(Token::File(mesh.token(client.node)));
    Ok(Authority {
        channel: server.lazy(),
        caller: Caller {
            token,
            cluster: "Kubernetes".to_owned(),
            headers: Vec::new(),
        },
        life: Duration::from_secs(60),
        aliases: Vec::new(),
        now: net::clock::wall,
    })
}
