//! A gRPC server at the other end of a pipe, for tests.

use std::io;

use hyper_util::rt::TokioIo;
use tokio::{
    io::{DuplexStream, duplex},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};
use tokio_stream::{StreamExt, wrappers::UnboundedReceiverStream};
use tonic::transport::Channel;
use tower::service_fn;

/// What dials.
#[derive(Clone)]
pub(crate) struct Dialer(UnboundedSender<DuplexStream>);

/// What a `tonic` server listens on.
pub(crate) type Incoming =
    std::pin::Pin<Box<dyn tokio_stream::Stream<Item = io::Result<DuplexStream>> + Send>>;

pub(crate) fn pair() -> (Dialer, Incoming) {
    let (sender, receiver): (_, UnboundedReceiver<DuplexStream>) = unbounded_channel();
    (
        Dialer(sender),
        Box::pin(UnboundedReceiverStream::new(receiver).map(Ok)),
    )
}

impl Dialer {
    /// A channel as to a real server; every connection is a new pipe.
    pub(crate) fn lazy(&self) -> Channel {
        let dialer = self.clone();
        super::endpoint(&"https://memory:15012".parse().expect("an address"))
            .connect_with_connector_lazy(service_fn(move |_| {
                let (near, far) = duplex(1 << 20);
                let sent = dialer.0.send(far);
                async move {
                    sent.map(|()| TokioIo::new(near))
                        .map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused))
                }
            }))
    }
}
