//! Packets between the agent and node proxies. What they say is decided in [`zds`](super).

use std::{collections::BTreeMap, io, os::fd::BorrowedFd, path::Path, sync::Arc, time::Duration};

use sys::seqpacket::{Connection, Listener};
use tokio::{io::unix::AsyncFd, sync::mpsc, task::AbortHandle};
use tracing::{info, warn};

use super::Id;
use crate::readiness;

/// At most five proxies a second: one that fails at once must not keep the agent busy.
const PACE: Duration = Duration::from_millis(200);

/// A proxy's packets are small.
const LARGEST_PACKET: usize = 64 << 10;

/// Packets that may wait for the agent.
const QUEUE: usize = 64;

/// What proxies do.
#[derive(Debug)]
pub enum Event {
    /// One has connected.
    Connected(Id, Peer),
    /// One has sent a packet.
    Received(Id, Vec<u8>),
    /// One has gone, and why.
    Closed(Id, String),
}

/// A connected proxy. The connection ends when this is dropped.
#[derive(Debug)]
pub struct Peer {
    socket: Arc<AsyncFd<Connection>>,
    reader: AbortHandle,
}

/// Listens for proxies at a path; only root and this process's own user may connect.
#[derive(Debug)]
pub struct Server {
    accepting: AbortHandle,
    events: mpsc::Receiver<Event>,
    peers: BTreeMap<Id, Peer>,
}

impl Server {
    /// Begins to listen. Needs a tokio runtime.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let listener = readiness::of(Listener::bind(path, 0o600)?)?;
        let (sender, events) = mpsc::channel(QUEUE);
        let accepting = tokio::spawn(accept(listener, sender)).abort_handle();
        Ok(Self {
            accepting,
            events,
            peers: BTreeMap::new(),
        })
    }

    /// What happens next. May be cancelled.
    pub async fn next(&mut self) -> io::Result<Event> {
        // The sender ends only with the accepting task, which ends only with this.
        self.events
            .recv()
            .await
            .ok_or_else(|| io::Error::other("the proxy socket is no longer served"))
    }

    /// Remembers a proxy that has connected.
    pub fn keep(&mut self, id: Id, peer: Peer) {
        self.peers.insert(id, peer);
    }

    /// Ends a connection, if it has not ended already.
    pub fn close(&mut self, id: Id) {
        self.peers.remove(&id);
    }

    /// Sends a packet. A proxy that does not take it at once is too slow to live: it is given one at a time.
    pub fn send(&self, id: Id, packet: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        match self.peers.get(&id) {
            Some(peer) => peer.socket.get_ref().send(packet, fd),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn accept(listener: AsyncFd<Listener>, sender: mpsc::Sender<Event>) {
    let mut id = 0;
    loop {
        match accept_one(&listener).await {
            Ok(connection) => {
                id += 1;
                if let Err(error) = welcome(id, connection, &sender).await {
                    warn!(error = %error, "a node proxy's connection is refused");
                }
            }
            Err(error) => warn!(%error, "cannot accept a node proxy"),
        }
        tokio::time::sleep(PACE).await;
    }
}

async fn accept_one(listener: &AsyncFd<Listener>) -> io::Result<Connection> {
    loop {
        let mut ready = listener.readable().await?;
        if let Ok(accepted) = ready.try_io(|listener| listener.get_ref().accept()) {
            return accepted;
        }
    }
}

async fn welcome(id: Id, connection: Connection, sender: &mpsc::Sender<Event>) -> io::Result<()> {
    let peer = connection.peer()?;
    // The kernel keeps /proc/self as the owner that this process acts as.
    let own = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self")?);
    if peer.uid != 0 && peer.uid != own {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("user {} may not connect", peer.uid),
        ));
    }
    info!(
        connection = id,
        pid = peer.pid,
        "a node proxy has connected"
    );
    let socket = Arc::new(readiness::of(connection)?);
    // The reader starts once the agent knows of the connection: events come in order.
    let (known, knows) = tokio::sync::oneshot::channel();
    let reader = tokio::spawn(read(id, Arc::clone(&socket), sender.clone(), knows)).abort_handle();
    let told = sender
        .send(Event::Connected(id, Peer { socket, reader }))
        .await;
    // If either end is gone, so is the agent.
    let _ = told.map(|()| known.send(()));
    Ok(())
}

async fn read(
    id: Id,
    socket: Arc<AsyncFd<Connection>>,
    sender: mpsc::Sender<Event>,
    known: tokio::sync::oneshot::Receiver<()>,
) {
    if known.await.is_err() {
        return;
    }
    let mut buffer = vec![0; LARGEST_PACKET];
    let why = loop {
        match read_one(&socket, &mut buffer).await {
            Ok(0) => break "it closed the connection".to_owned(),
            Ok(length) => {
                if sender
                    .send(Event::Received(id, buffer[..length].to_vec()))
                    .await
                    .is_err()
                {
                    return;
                }
            }
            Err(error) => break error.to_string(),
        }
    };
    // As above: without a receiver the agent is gone.
    let _ = sender.send(Event::Closed(id, why)).await;
}

async fn read_one(socket: &AsyncFd<Connection>, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        let mut ready = socket.readable().await?;
        let Ok(received) = ready.try_io(|socket| socket.get_ref().receive(buffer)) else {
            continue;
        };
        let received = received?;
        if received.truncated {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "it sent a packet that is too long",
            ));
        }
        return Ok(received.bytes);
    }
}
