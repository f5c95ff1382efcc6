//! Connections from the network: accepted, encrypted, counted. One connection's trouble never ends the loop.

use std::{
    fmt, io,
    pin::Pin,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Sleep, sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::transport::server::Connected;

use crate::ca::ServerCertificate;

/// Connections at once, handshakes included.
const CONNECTIONS: usize = 4096;
const HANDSHAKE: Duration = Duration::from_secs(5);
/// From the handshake to the first call with a token.
const SILENCE: Duration = Duration::from_secs(20);

/// The server's certificate, which may be replaced while connections are served.
#[derive(Default)]
pub struct Certificate(RwLock<Option<Arc<CertifiedKey>>>);

impl Certificate {
    /// From the next handshake on, shows this one.
    pub fn replace(&self, certificate: ServerCertificate) -> Result<(), rustls::Error> {
        let key = aws_lc_rs::default_provider()
            .key_provider
            .load_private_key(certificate.key)?;
        let certified = CertifiedKey::new(certificate.chain, key);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(certified));
        Ok(())
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").finish_non_exhaustive()
    }
}

/// TLS 1.3 and HTTP/2 only, nothing resumed. Clients show no certificate: they send a token.
pub fn tls(certificate: Arc<Certificate>) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Accepts until `connections` has no more receiver.
pub async fn accept(
    listener: TcpListener,
    config: ServerConfig,
    connections: mpsc::Sender<io::Result<Connection<TlsStream<TcpStream>>>>,
) {
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut backoff = Backoff::default();
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = connections.closed() => return,
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                backoff.wait("control", &error).await;
                continue;
            }
        };
        backoff = Backoff::default();
        let (acceptor, connections) = (acceptor.clone(), connections.clone());
        tokio::spawn(async move {
            // A socket without it is slower, not wrong.
            let _ = socket.set_nodelay(true);
            match timeout(HANDSHAKE, acceptor.accept(socket)).await {
                Ok(Ok(stream)) => {
                    let _ = connections.send(Ok(Connection::new(stream, permit))).await;
                }
                Ok(Err(error)) => tracing::debug!(%peer, %error, "a TLS handshake failed"),
                Err(_) => tracing::debug!(%peer, "a TLS handshake took too long"),
            }
        });
    }
}

/// Waits longer each time that accepting fails in a row, as it does while there are no descriptors left.
#[derive(Debug, Default)]
pub struct Backoff(u32);

impl Backoff {
    /// Logs the failure and waits: 10 ms, doubling up to a second.
    pub async fn wait(&mut self, listener: &str, error: &io::Error) {
        tracing::warn!(listener, %error, "a connection was not accepted");
        sleep(Duration::from_millis(10 << self.0.min(7)).min(Duration::from_secs(1))).await;
        self.0 += 1;
    }
}

/// One connection. It is let go if nobody with a token has called on it within [`SILENCE`], so that strangers
/// cannot use up the room.
#[derive(Debug)]
pub struct Connection<S> {
    stream: S,
    caller: Caller,
    /// Until the first call with a token.
    deadline: Option<Pin<Box<Sleep>>>,
    _permit: OwnedSemaphorePermit,
}

/// Who is at the other end of a connection, as far as is known.
#[derive(Clone, Debug, Default)]
pub struct Caller(Arc<AtomicBool>);

impl Caller {
    /// A call with a token came.
    pub fn is_known(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl<S> Connection<S> {
    pub(super) fn new(stream: S, permit: OwnedSemaphorePermit) -> Self {
        let deadline = Some(Box::pin(sleep(SILENCE)));
        Self {
            stream,
            caller: Caller::default(),
            deadline,
            _permit: permit,
        }
    }

    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.caller.0.load(Ordering::Relaxed) {
            self.deadline = None;
        }
        let deadline = self.deadline.as_mut();
        let late = deadline.is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready());
        if late {
            Err(io::ErrorKind::TimedOut.into())
        } else {
            Ok(())
        }
    }
}

impl<S> Connected for Connection<S> {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_a_known_call_is_let_go() {
        let room = Arc::new(Semaphore::new(2));
        for is_known in [false, true] {
            let (mut near, far) = tokio::io::duplex(64);
            let permit = Arc::clone(&room).acquire_owned().await.unwrap();
            let mut connection = Connection::new(far, permit);
            if is_known {
                connection.connect_info().is_known();
            }
            let late = tokio::spawn(async move {
                sleep(SILENCE * 2).await;
                // The other end may be gone.
                let _ = near.write_all(b"x").await;
                near
            });
            let read = connection.read_u8().await.map_err(|error| error.kind());
            assert_eq!(
                read,
                if is_known {
                    Ok(b'x')
                } else {
                    Err(io::ErrorKind::TimedOut)
                }
            );
            late.await.unwrap();
        }
        assert_eq!(room.available_permits(), 2);
    }
}
