//! A connection that speaks something else from now on: bytes both ways, whatever they are.

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy_bidirectional};

use super::exchange::Exchange;
use crate::upstream::Handover;

/// What a client's connection becomes once its 101 is out.
pub(super) struct Upgraded {
    endpoint: Handover,
    exchange: Box<Exchange>,
}

impl Upgraded {
    pub(super) fn new(endpoint: Handover, exchange: Box<Exchange>) -> Self {
        Self { endpoint, exchange }
    }

    /// Carries bytes until both sides have ended, or one breaks.
    pub(super) async fn carry<IO: AsyncRead + AsyncWrite + Unpin>(self, mut client: IO) {
        let mut exchange = self.exchange;
        let Ok((mut endpoint, first)) = self.endpoint.await else {
            return;
        };
        exchange.sent += first.len() as u64;
        let first: Bytes = first;
        if client.write_all(&first).await.is_err() {
            return;
        }
        drop(first);
        if let Ok((received, sent)) = copy_bidirectional(&mut client, &mut endpoint).await {
            exchange.received += received;
            exchange.sent += sent;
            exchange.end();
        }
    }
}
