//! Whether a connection is HTTP, where nobody says: by its first bytes, if they come soon.
//!
//! What comes of it holds for that one connection. Only a server that speaks before its client teaches the port, because
//! there waiting can never help: see [`Taught`].

use std::{
    cell::RefCell,
    collections::HashSet,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use mesh::{http::head::is_token, name::Name};
use net::carry::{Broken, End};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::timeout,
};

use crate::http::Line;

/// How long a client is waited for.
const PATIENCE: Duration = Duration::from_millis(100);
/// A first line that is longer is not waited for.
const FIRST_LINE: usize = 8 << 10;
/// Ports that are remembered.
const PORTS: usize = 4096;

/// How an HTTP/2 client begins (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// With a path after one of these nobody waits for the end of the line.
const METHODS: [&[u8]; 8] = [
    b"GET", b"POST", b"PUT", b"HEAD", b"DELETE", b"PATCH", b"OPTIONS", b"TRACE",
];
/// The longest method that is looked for.
const METHOD: usize = 32;

/// What first bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spoken {
    /// HTTP of either version.
    Http,
    /// Something else.
    Other,
    /// That is not clear yet.
    Unclear,
}

/// What these first bytes of a connection are.
pub(crate) fn spoken(bytes: &[u8]) -> Spoken {
    if bytes.starts_with(PREFACE) {
        return Spoken::Http;
    }
    if PREFACE.starts_with(bytes) {
        return Spoken::Unclear;
    }
    let end = bytes.iter().position(|byte| !is_token(*byte));
    let method = &bytes[..end.unwrap_or(bytes.len())];
    if method.len() > METHOD {
        return Spoken::Other;
    }
    match end {
        None => Spoken::Unclear,
        Some(end) if end > 0 && bytes[end] == b' ' => {
            let target = &bytes[end + 1..];
            match target.first() {
                Some(b'/') if METHODS.contains(&method) => Spoken::Http,
                _ => line(target),
            }
        }
        Some(_) => Spoken::Other,
    }
}

/// Target and version of a first line.
fn line(rest: &[u8]) -> Spoken {
    let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
        let text = rest
            .iter()
            .all(|byte| byte.is_ascii_graphic() || b" \r".contains(byte));
        return if text && rest.len() < FIRST_LINE {
            Spoken::Unclear
        } else {
            Spoken::Other
        };
    };
    let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
    let version = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
    if version.starts_with(b"HTTP/1.") {
        Spoken::Http
    } else {
        Spoken::Other
    }
}

/// What a connection turned out to be, with what was read of it in front again.
pub(crate) struct Looked<S> {
    pub(crate) io: Ahead<S>,
    /// HTTP; if not, the rest says no more than that it is not, or not soon.
    pub(crate) http: bool,
    /// The client said nothing at all: its server may be the one to begin.
    pub(crate) silent: bool,
}

/// Reads until it is clear what a connection is, but not for long. The error of a connection that breaks meanwhile.
pub(crate) async fn look<S: End>(mut io: S) -> Result<Looked<S>, Broken> {
    let mut read = BytesMut::new();
    let looking = async {
        loop {
            match poll_fn(|cx| io.poll_take(cx)).await? {
                None => return Ok(Spoken::Other),
                Some(more) => read.extend_from_slice(&more),
            }
            match spoken(&read) {
                Spoken::Unclear => {}
                clear => return Ok(clear),
            }
        }
    };
    let http = match timeout(PATIENCE, looking).await {
        Ok(Ok(spoken)) => spoken == Spoken::Http,
        Ok(Err(broken)) => return Err(broken),
        Err(_) => false,
    };
    Ok(Looked {
        http,
        silent: read.is_empty(),
        io: Ahead::new(read.freeze(), io),
    })
}

/// A connection with bytes in front that were read before. Those count as taken only when somebody else takes them.
#[derive(Debug)]
pub(crate) struct Ahead<S> {
    ahead: Bytes,
    io: S,
}

impl<S> Ahead<S> {
    pub(crate) fn new(ahead: Bytes, io: S) -> Self {
        Self { ahead, io }
    }
}

impl<S: End> End for Ahead<S> {
    fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Broken>> {
        if self.ahead.is_empty() {
            self.io.poll_take(cx)
        } else {
            Poll::Ready(Ok(Some(std::mem::take(&mut self.ahead))))
        }
    }

    fn taken(&mut self, bytes: usize) {
        self.io.taken(bytes);
    }

    fn poll_give(&mut self, cx: &mut Context<'_>, data: &mut Bytes) -> Poll<Result<(), Broken>> {
        self.io.poll_give(cx, data)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.io.poll_finish(cx)
    }

    fn gone(&mut self, cx: &mut Context<'_>) -> Option<Broken> {
        self.io.gone(cx)
    }

    fn abort(&mut self) {
        self.io.abort();
    }
}

impl<S: AsyncRead + End + Unpin> AsyncRead for Ahead<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let room = self.ahead.len().min(buf.remaining());
        let now = self.ahead.split_to(room);
        buf.put_slice(&now);
        self.io.taken(room);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Ahead<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl<S: Line + End> Line for Ahead<S> {
    fn poll_given_up(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.io.poll_given_up(cx)
    }
}

/// Ports whose servers speak first, on one worker. Its connections are not looked at any more.
#[derive(Debug, Default)]
pub(crate) struct Taught(RefCell<HashSet<(Name, u16)>>);

impl Taught {
    /// Whether the server of a service's port speaks first.
    pub(crate) fn speaks_first(&self, service: Name, port: u16) -> bool {
        self.0.borrow().contains(&(service, port))
    }

    /// It does. Beyond a number of ports all begins anew, which costs each of them one more look.
    pub(crate) fn learn(&self, service: Name, port: u16) {
        let mut ports = self.0.borrow_mut();
        if ports.len() >= PORTS {
            ports.clear();
        }
        ports.insert((service, port));
    }

    /// Forgets what `keep` does not want, because the service has changed.
    pub(crate) fn retain(&self, keep: impl Fn(Name, u16) -> bool) {
        self.0
            .borrow_mut()
            .retain(|(service, port)| keep(*service, *port));
    }
}

#[cfg(test)]
mod tests {
    use net::carry::Socket;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[test]
    fn http_is_told_from_what_is_not() {
        for (bytes, want) in [
            (&b""[..], Spoken::Unclear),
            (b"G", Spoken::Unclear),
            (b"GET ", Spoken::Unclear),
            (b"GET /", Spoken::Http),
            (b"get /", Spoken::Unclear),
            (b"PURGE /x HTTP/1.1\r\n", Spoken::Http),
            (b"PURGE /x\r\n", Spoken::Other),
            (b"GET http://shop/ HTTP/1.1\r\n", Spoken::Http),
            (b"OPTIONS * HTTP/1.1\r\n", Spoken::Http),
            (b"CONNECT shop:80 HTTP/1.1\r\n", Spoken::Http),
            (b"PRI", Spoken::Unclear),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Spoken::Http),
            (b"PRI * HTTP/2.0\r\n\r\nXX", Spoken::Other),
            (b"PING\r\n", Spoken::Other),
            (b"SET key value\r\n", Spoken::Other),
            (b"*1\r\n$4\r\nPING\r\n", Spoken::Other),
            (b"\x16\x03\x01", Spoken::Other),
            (b" GET /", Spoken::Other),
            (b"\r\nGET /", Spoken::Other),
            (b"X \x00\x01", Spoken::Other),
            (&[b'A'; 33], Spoken::Other),
        ] {
            assert_eq!(spoken(bytes), want, "{}", bytes.escape_ascii());
        }
        let long = [&b"PURGE "[..], &[b'/'; FIRST_LINE]].concat();
        assert_eq!(spoken(&long), Spoken::Other);
    }

    #[test]
    fn more_bytes_never_turn_http_into_something_else() {
        let text = b"PURGE /x HTTP/1.1\r\nHost: a\r\n\r\n";
        let clear: Vec<_> = (0..=text.len()).map(|end| spoken(&text[..end])).collect();
        let first = clear.iter().position(|s| *s == Spoken::Http).unwrap();
        assert!(clear[..first].iter().all(|s| *s == Spoken::Unclear));
        assert!(clear[first..].iter().all(|s| *s == Spoken::Http));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_read_comes_again() {
        let (mut client, server) = duplex(1024);
        client.write_all(b"SET a").await.unwrap();
        let write = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            client.write_all(b" b\r\n").await.unwrap();
            client.shutdown().await.unwrap();
        };
        let (looked, ()) = tokio::join!(look(Socket::new(server)), write);
        let mut looked = looked.unwrap();
        assert!(!looked.http && !looked.silent);
        let mut all = Vec::new();
        while let Some(more) = poll_fn(|cx| looked.io.poll_take(cx)).await.unwrap() {
            all.extend_from_slice(&more);
        }
        assert_eq!(all, b"SET a b\r\n");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_not_waited_for_long() {
        let (mut client, server) = duplex(1024);
        let begun = tokio::time::Instant::now();
        let looked = look(Socket::new(server)).await.unwrap();
        assert!(!looked.http && looked.silent);
        assert_eq!(begun.elapsed(), PATIENCE);
        drop(looked);
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
    }

    #[test]
    fn ports_are_taught_and_forgotten() {
        let (taught, mail) = (Taught::default(), Name::new("shop/mail"));
        assert!(!taught.speaks_first(mail, 25));
        taught.learn(mail, 25);
        assert!(taught.speaks_first(mail, 25) && !taught.speaks_first(mail, 26));
        taught.retain(|_, port| port != 25);
        assert!(!taught.speaks_first(mail, 25));
        for number in 0..=PORTS {
            taught.learn(Name::new(&format!("shop/{number}")), 1);
        }
        assert!(taught.0.borrow().len() <= PORTS);
    }
}
