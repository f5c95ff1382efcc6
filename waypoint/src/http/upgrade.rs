//! A connection that speaks something else from now on: bytes both ways, whatever they are.
//!
//! The request that opened it is judged again whenever the rules change: what may not go on is cut.

use std::{pin::pin, rc::Rc, sync::Arc};

use http::request::Parts;
use mesh::waypoint::{Answer, Generation};
use net::carry::{Broken, Counts, Socket, carry};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::oneshot,
};

use super::{exchange::Exchange, request, session::Session};
use crate::{
    detect::Ahead,
    recheck::{self, Place},
    upstream::{Handover, Io},
};

/// What a client's connection becomes once its 101 is out.
pub(super) struct Upgraded {
    endpoint: Handover,
    opening: Box<Opening>,
    exchange: Box<Exchange>,
}

/// The request that opened it.
pub(super) struct Opening {
    /// As its client sent it.
    head: Parts,
    /// What chose among backends.
    seed: u64,
}

impl Opening {
    pub(super) fn new(head: &Parts, seed: u64) -> Self {
        let mut head = head.clone();
        head.extensions.clear();
        Self { head, seed }
    }

    /// Why it may not go on where it leads, if it may not by this generation.
    fn denied(
        &self,
        session: &Session,
        generation: &Generation,
        place: Option<&Place>,
    ) -> Option<Answer> {
        let (table, number) = (session.connection.table, session.connection.port);
        let gone = || Some(Answer::NotServed(format!("{table}:{number}")));
        let Some(table) = generation.table(table) else {
            return gone();
        };
        let Some(port) = table.port(number) else {
            return gone();
        };
        let others = place.map(|place| place.others(generation));
        let others = others.unwrap_or_default();
        let served = (&**table, port);
        let judged = request::decide(session, generation, served, &self.head, self.seed, &others);
        recheck::cut(judged.and_then(|judgement| judgement.outcome.map(drop)))
    }
}

impl Upgraded {
    pub(super) fn new(endpoint: Handover, opening: Box<Opening>, exchange: Box<Exchange>) -> Self {
        Self {
            endpoint,
            opening,
            exchange,
        }
    }

    /// Carries bytes until both sides have ended, or one breaks, or it may not go on.
    pub(super) async fn carry<IO: AsyncRead + AsyncWrite + Unpin>(self, client: IO) {
        let Self {
            endpoint,
            opening,
            mut exchange,
        } = self;
        let Ok((endpoint, first)) = endpoint.await else {
            return;
        };
        let session = Rc::clone(&exchange.session);
        let at = exchange.backend.as_ref().zip(exchange.workload.as_ref());
        let place = at.map(|(backend, workload)| Place {
            backend: backend.key,
            endpoint: Arc::clone(&workload.uid),
        });
        let (stop, stopped) = oneshot::channel();
        let counts = Counts::default();
        let client = Socket::new(client);
        let carried = async {
            match endpoint {
                Io::Plain(io) => {
                    let end = Ahead::new(first, Socket::tcp(io));
                    carry(client, end, &counts, stopped).await
                }
                Io::Tunnelled(io, place) => {
                    let end = Ahead::new(first, Socket::new(io));
                    let result = carry(client, end, &counts, stopped).await;
                    drop(place);
                    result
                }
            }
        };
        let mut carried = pin!(carried);
        let (ended, cut) = tokio::select! {
            biased;
            answer = denied(&session, &opening, place.as_ref()) => {
                // Both sides see that it was cut.
                stop.send(Broken::Ended).ok();
                (carried.await, Some(answer))
            }
            ended = &mut carried => (ended, None),
        };
        exchange.received += counts.forth.get();
        exchange.sent += counts.back.get();
        match cut {
            Some(answer) => exchange.answer = Some(answer),
            None if ended.is_ok() => exchange.end(),
            None => {}
        }
    }
}

/// Until the rules do not let it go on.
async fn denied(session: &Session, opening: &Opening, place: Option<&Place>) -> Answer {
    let front = &session.front;
    loop {
        let changed = front.changed();
        if let Some(answer) = opening.denied(session, &front.generation(), place) {
            return answer;
        }
        changed.await;
    }
}
