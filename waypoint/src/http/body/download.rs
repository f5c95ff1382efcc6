//! The body of an answer on its way to the client.

use std::{
    error::Error,
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use mesh::waypoint::Answer;
use tokio::time::{Instant, Sleep, sleep_until};

use super::trim;
use crate::http::{answer::trailers, exchange::Exchange, judged::Side};

/// An answer's body, ours or an endpoint's. With it ends what is remembered of the request.
pub(in crate::http) struct Download {
    inner: Inner,
    exchange: Option<Box<Exchange>>,
    late: Option<Pin<Box<Sleep>>>,
}

enum Inner {
    /// One piece, or none.
    Own(Option<Bytes>),
    Endpoint(Incoming),
}

/// Why an answer did not come to its end.
#[derive(Clone, Copy, Debug)]
pub(in crate::http) enum Broken {
    /// The rules have changed, and deny it.
    Denied,
    /// The rule's time is over.
    Late,
    /// The endpoint broke it off.
    Endpoint,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Denied => "the rules have changed, and deny it",
            Self::Late => "the time that the rule gives is over",
            Self::Endpoint => "the endpoint broke its answer off",
        })
    }
}

impl Error for Broken {}

impl Download {
    pub(in crate::http) fn own(body: Bytes, exchange: Box<Exchange>) -> Self {
        Self {
            inner: Inner::Own(Some(body).filter(|body| !body.is_empty())),
            exchange: Some(exchange),
            late: None,
        }
    }

    pub(in crate::http) fn endpoint(
        body: Incoming,
        exchange: Box<Exchange>,
        deadline: Option<Instant>,
    ) -> Self {
        Self {
            inner: Inner::Endpoint(body),
            exchange: Some(exchange),
            late: deadline.map(|at| Box::pin(sleep_until(at))),
        }
    }

    /// Nothing, and nothing to tell: somebody else tells.
    pub(in crate::http) fn none() -> Self {
        Self {
            inner: Inner::Own(None),
            exchange: None,
            late: None,
        }
    }

    /// Breaks it off. A call over HTTP/2 is told in trailers, after which there is nothing that would look whole.
    fn end_early(
        &mut self,
        why: Broken,
        answer: Answer,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let tells = self.size_hint().exact().is_none();
        let Some(exchange) = &mut self.exchange else {
            return self.broke(why);
        };
        let trailers = (tells && exchange.takes_status()).then(|| trailers(&answer));
        if let Some(trailers) = &trailers {
            exchange.trailers(trailers);
        }
        match why {
            Broken::Denied => exchange.cut(answer),
            Broken::Late | Broken::Endpoint => exchange.broke(why),
        }
        let Some(trailers) = trailers else {
            return self.broke(why);
        };
        *self = Self::none();
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    /// Whether the rules do not let it go on any more; if they do, it is woken when that ends.
    fn poll_cut(&self, cx: &Context<'_>) -> Poll<Answer> {
        match (&self.inner, &self.exchange) {
            (Inner::Endpoint(_), Some(exchange)) => match &exchange.judged {
                Some(judged) => judged.poll_cut(cx, Side::Download),
                None => Poll::Pending,
            },
            _ => Poll::Pending,
        }
    }

    fn broke(&mut self, why: Broken) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if let Some(exchange) = &mut self.exchange {
            exchange.broke(why);
        }
        self.exchange = None;
        Poll::Ready(Some(Err(why)))
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = &mut *self;
        let late = this.late.as_mut().map(|late| late.as_mut().poll(cx));
        if let Some(Poll::Ready(())) = late {
            return this.end_early(Broken::Late, Answer::Timeout);
        }
        if let Poll::Ready(answer) = this.poll_cut(cx) {
            return this.end_early(Broken::Denied, answer);
        }
        let frame = match &mut this.inner {
            Inner::Own(piece) => Poll::Ready(piece.take().map(|data| Ok(Frame::data(data)))),
            Inner::Endpoint(body) => Pin::new(body).poll_frame(cx),
        };
        match frame {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(mut frame))) => {
                let mut last = false;
                if let Some(exchange) = &mut this.exchange {
                    if let Some(data) = frame.data_ref() {
                        exchange.sent += data.len() as u64;
                        if let Some(messages) = &mut exchange.messages {
                            messages.take(data);
                        }
                    } else if let Some(trailers) = frame.trailers_mut() {
                        trim(trailers);
                        exchange.trailers(trailers);
                        last = true;
                    }
                }
                if last || this.is_end_stream() {
                    this.end();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(_))) => this.broke(Broken::Endpoint),
            Poll::Ready(None) => {
                this.end();
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Inner::Own(piece) => piece.is_none(),
            Inner::Endpoint(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::Own(piece) => {
                SizeHint::with_exact(piece.as_ref().map_or(0, |piece| piece.len() as u64))
            }
            Inner::Endpoint(body) => body.size_hint(),
        }
    }
}

impl Download {
    /// All is there: the connection that it came on is free again.
    fn end(&mut self) {
        if let Some(exchange) = &mut self.exchange {
            exchange.end();
        }
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        // What had no body ends without being asked for one.
        if self.is_end_stream() {
            self.end();
        }
    }
}
