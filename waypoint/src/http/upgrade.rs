//! A connection that speaks something else from now on: bytes both ways, whatever they are.
//!
//! The request that opened it is judged again whenever the rules change, as all are: what may not go on is cut.

use std::{pin::pin, rc::Rc};

use net::carry::{Broken, Counts, Socket, carry};
use tokio::sync::oneshot;

use super::{
    exchange::Exchange,
    guard::{self, Guard, Line},
    judged::Judged,
};
use crate::{
    detect::Ahead,
    upstream::{Handover, Io},
};

/// What a client's connection becomes once its 101 is out.
pub(super) struct Upgraded {
    endpoint: Handover,
    judged: Rc<Judged>,
    exchange: Box<Exchange>,
}

impl Upgraded {
    pub(super) fn new(endpoint: Handover, judged: Rc<Judged>, exchange: Box<Exchange>) -> Self {
        judged.upgrade();
        Self {
            endpoint,
            judged,
            exchange,
        }
    }

    /// Carries bytes until both sides have ended, or one breaks, or it may not go on.
    pub(super) async fn carry<IO: Line>(self, client: Guard<IO>) {
        let Self {
            endpoint,
            judged,
            mut exchange,
        } = self;
        let Ok((endpoint, first)) = endpoint.await else {
            return;
        };
        let (stop, stopped) = oneshot::channel();
        let counts = Counts::default();
        let client = Socket::watched(client, |client, cx| client.gone(cx));
        let carried = async {
            match endpoint {
                Io::Plain(io) => {
                    let end = Ahead::new(first, Socket::tcp(io));
                    carry(client, end, &counts, stopped).await
                }
                Io::Tunnelled(io, place) => {
                    let end = Ahead::new(first, Socket::watched(io, guard::given_up));
                    let result = carry(client, end, &counts, stopped).await;
                    drop(place);
                    result
                }
            }
        };
        let mut carried = pin!(carried);
        let (ended, cut) = tokio::select! {
            biased;
            answer = judged.until_cut() => {
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
