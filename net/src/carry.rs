//! Moving a flow's bytes both ways between two ends, until both have finished or something breaks.
//!
//! No buffer belongs to a flow: what is read goes through a buffer that the whole thread shares, and
//! only what the other end does not take at once is kept. No task belongs to a direction either.

use std::{
    cell::{Cell, RefCell},
    fmt,
    future::{Future, poll_fn},
    io,
    pin::pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{BufMut, Bytes, BytesMut};
use mesh::refusal::Refusal;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    sync::oneshot,
    time::Sleep,
};

/// How much is read at once from a socket.
const READ: usize = 64 << 10;
/// What the thread's buffer grows by.
const BLOCK: usize = 256 << 10;
/// Reads below this are copied out, so that a few bytes that wait do not hold a large buffer.
const SMALL: usize = 4 << 10;
/// How long one end may stay silent after the other has finished.
pub const HALF_CLOSED: Duration = Duration::from_secs(300);

/// How often an end whose bytes nobody takes is looked at, whether it is still there.
const LOOK: Duration = Duration::from_secs(1);

thread_local! {
    static BUFFER: RefCell<BytesMut> = RefCell::default();
}

/// Why a flow ended before both ends had finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The socket of the application, or of what is outside the mesh.
    Socket(io::ErrorKind),
    /// The tunnel.
    Tunnel(String),
    /// The other proxy gave the stream up.
    TunnelReset(String),
    /// One end had finished, and the other said nothing for too long.
    HalfClosed,
    /// It may not go on.
    Refused(Refusal),
    /// The pod is gone, or the proxy ends.
    Ended,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(kind) => write!(f, "{kind}"),
            Self::Tunnel(reason) => write!(f, "tunnel: {reason}"),
            Self::TunnelReset(reason) => write!(f, "the other proxy reset the stream: {reason}"),
            Self::HalfClosed => f.write_str("half closed for too long"),
            Self::Refused(refusal) => write!(f, "{refusal}"),
            Self::Ended => f.write_str("the pod is gone or the proxy ends"),
        }
    }
}

/// Bytes carried so far; read by others while the flow is open.
#[derive(Debug, Default)]
pub struct Counts {
    /// From the first end to the second.
    pub forth: Cell<u64>,
    /// From the second end to the first.
    pub back: Cell<u64>,
}

/// One end of a flow. All methods are those of a poll: `Pending` wakes the task when it is worth another try.
pub trait End {
    /// The next bytes from this end; `None` when it has finished.
    fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Broken>>;
    /// Bytes that were taken from this end have arrived at the other.
    fn taken(&mut self, bytes: usize);
    /// Gives it bytes; leaves in `data` what it has not taken yet.
    fn poll_give(&mut self, cx: &mut Context<'_>, data: &mut Bytes) -> Poll<Result<(), Broken>>;
    /// Tells it that there is no more.
    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>>;
    /// Whether it is gone for good, even behind bytes that nobody takes. Wakes nobody.
    fn gone(&mut self, cx: &mut Context<'_>) -> Option<Broken>;
    /// Gives it up, so that its peer learns that something failed.
    fn abort(&mut self);
}

/// A plain socket as an end.
#[derive(Debug)]
pub struct Socket<S> {
    io: S,
    /// Makes the close a reset.
    reset: fn(&S),
    /// What broke it, if anything has, also behind bytes that nobody takes. Wakes nobody.
    gone: fn(&mut S, &mut Context<'_>) -> Option<io::Error>,
}

impl Socket<tokio::net::TcpStream> {
    /// A TCP connection.
    pub fn tcp(io: tokio::net::TcpStream) -> Self {
        Self {
            io,
            reset: |io| {
                // Nothing is lost if it fails: the close is a plain one then.
                sys::socket::reset(io).ok();
            },
            gone: |io, _| io.take_error().unwrap_or_else(Some),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    /// Any stream; its abort is a plain close.
    pub fn new(io: S) -> Self {
        Self::watched(io, |_, _| None)
    }

    /// The same, of which it can be known whether it is gone, also behind bytes that nobody takes.
    pub fn watched(io: S, gone: fn(&mut S, &mut Context<'_>) -> Option<io::Error>) -> Self {
        Self {
            io,
            reset: |_| {},
            gone,
        }
    }
}

fn socket(error: &io::Error) -> Broken {
    Broken::Socket(error.kind())
}

impl<S: AsyncRead + AsyncWrite + Unpin> End for Socket<S> {
    fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Broken>> {
        BUFFER.with_borrow_mut(|buffer| {
            if buffer.capacity() < READ {
                buffer.reserve(BLOCK);
            }
            let mut window = (&mut *buffer).limit(READ);
            let read = pin!(self.io.read_buf(&mut window)).poll(cx);
            match ready!(read).map_err(|error| socket(&error))? {
                0 => Poll::Ready(Ok(None)),
                n if n < SMALL => {
                    let data = Bytes::copy_from_slice(buffer);
                    buffer.clear();
                    Poll::Ready(Ok(Some(data)))
                }
                _ => Poll::Ready(Ok(Some(buffer.split().freeze()))),
            }
        })
    }

    fn taken(&mut self, _: usize) {}

    fn poll_give(&mut self, cx: &mut Context<'_>, data: &mut Bytes) -> Poll<Result<(), Broken>> {
        while !data.is_empty() {
            let write = std::pin::Pin::new(&mut self.io).poll_write(cx, data);
            match ready!(write).map_err(|error| socket(&error))? {
                0 => return Poll::Ready(Err(Broken::Socket(io::ErrorKind::WriteZero))),
                n => drop(data.split_to(n)),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let shutdown = std::pin::Pin::new(&mut self.io).poll_shutdown(cx);
        match ready!(shutdown) {
            // It has closed already: it does not want to know.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            result => Poll::Ready(result.map_err(|error| socket(&error))),
        }
    }

    fn gone(&mut self, cx: &mut Context<'_>) -> Option<Broken> {
        (self.gone)(&mut self.io, cx).map(|error| socket(&error))
    }

    fn abort(&mut self) {
        (self.reset)(&self.io);
    }
}

/// Where one direction is.
enum Direction {
    /// Bytes flow; these wait for the other end.
    Open(Bytes),
    /// One end has finished and the other is being told.
    Finishing,
    Done,
    /// The second end takes no more, for this reason.
    Lost(Broken),
}

impl Direction {
    /// Bytes of its first end wait for the second one: the first is not read, and so not heard.
    fn waits(&self) -> bool {
        matches!(self, Self::Open(data) if !data.is_empty())
    }

    fn lost(&self) -> Option<&Broken> {
        match self {
            Self::Lost(why) => Some(why),
            Self::Open(_) | Self::Finishing | Self::Done => None,
        }
    }

    /// Why the first end of the other direction has not finished although it says no more: its reset came as the answer to
    /// what was given to it. One that had finished before does not say that it is reset (Linux: EPIPE).
    fn reset(&self) -> Option<Broken> {
        let reset = Broken::Socket(io::ErrorKind::ConnectionReset);
        self.lost().filter(|why| **why == reset).cloned()
    }

    /// Goes on as far as it can. `Ready` when the direction is done, or its second end takes no more: what that one still
    /// says may be the answer, so only a first end that breaks, or was `reset` while it was given something, is an error.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        (from, reset): (&mut impl End, Option<Broken>),
        to: &mut impl End,
        count: &Cell<u64>,
    ) -> Poll<Result<(), Broken>> {
        loop {
            match self {
                Self::Open(data) if !data.is_empty() => {
                    let before = data.len();
                    let given = to.poll_give(cx, data);
                    let now = before - data.len();
                    from.taken(now);
                    count.set(count.get() + now as u64);
                    if let Err(why) = ready!(given) {
                        *self = Self::Lost(why);
                    }
                }
                Self::Open(data) => match ready!(from.poll_take(cx))? {
                    Some(more) => *data = more,
                    None => match &reset {
                        Some(reset) => return Poll::Ready(Err(reset.clone())),
                        None => *self = Self::Finishing,
                    },
                },
                Self::Finishing => {
                    *self = match ready!(to.poll_finish(cx)) {
                        Ok(()) => Self::Done,
                        Err(why) => Self::Lost(why),
                    };
                }
                Self::Done | Self::Lost(_) => return Poll::Ready(Ok(())),
            }
        }
    }
}

/// Carries a flow until both ends have finished, or something breaks, or `stop` says so. Then an end that has not
/// finished is given up with a reset.
pub async fn carry(
    mut one: impl End,
    mut other: impl End,
    counts: &Counts,
    mut stop: oneshot::Receiver<Broken>,
) -> Result<(), Broken> {
    let mut forth = Direction::Open(Bytes::new());
    let mut back = Direction::Open(Bytes::new());
    let mut look: Option<std::pin::Pin<Box<Sleep>>> = None;
    let mut patience: Option<(u64, std::pin::Pin<Box<Sleep>>)> = None;
    let result = poll_fn(|cx| {
        if let Poll::Ready(reason) = pin!(&mut stop).poll(cx) {
            return Poll::Ready(Err(reason.unwrap_or(Broken::Ended)));
        }
        let (forth_done, back_done) = (
            forth.poll(cx, (&mut one, back.reset()), &mut other, &counts.forth)?,
            back.poll(cx, (&mut other, forth.reset()), &mut one, &counts.back)?,
        );
        if forth.waits() || back.waits() {
            let look = look.get_or_insert_with(|| Box::pin(tokio::time::sleep(LOOK)));
            while look.as_mut().poll(cx).is_ready() {
                let lost = forth.waits().then(|| one.gone(cx)).flatten();
                let lost = lost.or_else(|| back.waits().then(|| other.gone(cx)).flatten());
                if let Some(lost) = lost {
                    return Poll::Ready(Err(lost));
                }
                look.as_mut().reset(tokio::time::Instant::now() + LOOK);
            }
        }
        match (forth_done, back_done) {
            (Poll::Ready(()), Poll::Ready(())) => {
                let lost = forth.lost().or_else(|| back.lost());
                return Poll::Ready(lost.map_or(Ok(()), |why| Err(why.clone())));
            }
            (Poll::Pending, Poll::Pending) => return Poll::Pending,
            _ => {}
        }
        // Half closed: every byte buys the other end more time.
        let carried = counts.forth.get() + counts.back.get();
        let (at, sleep) =
            patience.get_or_insert_with(|| (carried, Box::pin(tokio::time::sleep(HALF_CLOSED))));
        if *at != carried {
            *at = carried;
            sleep
                .as_mut()
                .reset(tokio::time::Instant::now() + HALF_CLOSED);
        }
        sleep.as_mut().poll(cx).map(|()| Err(Broken::HalfClosed))
    })
    .await;
    if result.is_err() {
        // What was given last is still on its way out of a tunnel, where a reset would overtake it.
        for _ in 0..2 {
            tokio::task::yield_now().await;
        }
        one.abort();
        other.abort();
    }
    result
}

#[cfg(test)]
mod tests;
