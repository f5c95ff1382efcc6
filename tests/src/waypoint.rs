//! A waypoint that a test drives: it takes tunnels and streams as every proxy does, remembers what it was asked for, and
//! sends the bytes of streams back instead of sending them on.

use std::{
    net::TcpListener,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
};

use ::mesh::identity::Identity;
use http::{HeaderMap, HeaderValue};
use net::{
    hbone::{self, Connect, Settings},
    tls::{self, Credential},
};
use sys::netns::Netns;
use tokio::{
    io::AsyncWriteExt as _,
    sync::oneshot,
    task::{LocalSet, spawn_local},
    time::Instant,
};

use crate::world::PATIENCE;

/// A waypoint at the port of tunnels; away when dropped.
#[derive(Debug)]
pub struct Waypoint {
    asked: Log,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What a waypoint does with the streams that it is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Streams that it grants in each tunnel.
    pub streams: u32,
    /// What it answers. With 200 it sends bytes back.
    pub status: u16,
}

/// A stream that somebody asked for.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Who opened the tunnel.
    pub peer: Identity,
    /// The tunnel's number.
    pub tunnel: usize,
    /// What was asked for.
    pub authority: String,
    /// What was said beside it.
    pub headers: HeaderMap<HeaderValue>,
}

type Log = Arc<Mutex<Vec<Asked>>>;

impl Waypoint {
    pub(crate) fn start(netns: &Netns, credential: Arc<Credential>, manner: Manner) -> Self {
        let listener = netns
            .within(|| TcpListener::bind("[::]:15008"))
            .expect("the port is free");
        listener.set_nonblocking(true).expect("a socket of ours");
        let (stop, stopped) = oneshot::channel();
        let asked = Log::default();
        let log = Arc::clone(&asked);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            LocalSet::new().block_on(&runtime, async move {
                tokio::select! {
                    () = accept(listener, credential, manner, log) => {}
                    _ = stopped => {}
                }
            });
        });
        Self {
            asked,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// The streams that it was asked for so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for Waypoint {
    fn drop(&mut self) {
        drop(self.stop.take());
        // It has ended when its sockets are closed.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, credential: Arc<Credential>, manner: Manner, log: Log) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("a socket of ours");
    for tunnel in 0.. {
        let Ok((stream, _)) = listener.accept().await else {
            return;
        };
        let (credential, log) = (Arc::clone(&credential), Arc::clone(&log));
        spawn_local(async move {
            let deadline = Instant::now() + PATIENCE;
            // Who does not get through hears of it, and a test hears of that.
            let Ok((stream, peer)) = tls::accept(stream, &credential, deadline).await else {
                return;
            };
            let settings = Settings {
                max_streams: manner.streams,
                ..Settings::default()
            };
            let peer = Rc::new(peer);
            let on_stream = move |connect: Connect| {
                log.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(Asked {
                        peer: peer.identity,
                        tunnel,
                        authority: connect.authority().to_owned(),
                        headers: connect.headers().clone(),
                    });
                match manner.status {
                    200 => drop(spawn_local(send_back(connect))),
                    status => connect.refuse(status),
                }
            };
            let _ = hbone::serve(stream, settings, std::future::pending(), on_stream).await;
        });
    }
}

async fn send_back(connect: Connect) {
    if let Ok(stream) = connect.accept(HeaderMap::new()) {
        let (mut read, mut write) = tokio::io::split(stream);
        let _ = tokio::io::copy(&mut read, &mut write).await;
        let _ = write.shutdown().await;
    }
}
