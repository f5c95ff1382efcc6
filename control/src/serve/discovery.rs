//! Delta discovery: one task per subscriber, between its socket and its [`publish::Stream`](crate::publish::Stream).
//!
//! While a response waits for a slow subscriber nothing else is prepared for it; the next push is made from the state
//! that is current then.

use std::{sync::Arc, time::Duration};

use proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use tokio::{sync::mpsc, time::sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Hub, streams::Entry};
use crate::{
    publish::{Malformed, Stream},
    stubs::discovery::aggregated_discovery_service_server::AggregatedDiscoveryService,
};

/// Requests taken in before an answer is prepared: a subscriber sends one per type when it connects.
const AT_ONCE: usize = 8;
/// How long a new subscriber that has asked for one type is given to ask for the others: only then does the order of
/// what it is sent hold across the types.
const OTHERS: Duration = Duration::from_millis(20);

const NO_GATEWAY: &str = "the Gateway of this waypoint is not there any more";

pub(super) struct Discovery(pub(super) Arc<Hub>);

#[tonic::async_trait]
impl AggregatedDiscoveryService for Discovery {
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let subject = self.0.subject(&request, "discovery").await?;
        let entry =
            self.0.streams.enter(&subject).ok_or_else(|| {
                Status::resource_exhausted("this caller has too many streams open")
            })?;
        let (responses, receiver) = mpsc::channel(1);
        let subscriber = Subscriber {
            hub: Arc::clone(&self.0),
            entry,
            stream: Stream::new(subject),
        };
        tokio::spawn(subscriber.run(request.into_inner(), responses));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

struct Subscriber {
    hub: Arc<Hub>,
    entry: Entry,
    stream: Stream,
}

impl Subscriber {
    async fn run(
        mut self,
        requests: Streaming<DeltaDiscoveryRequest>,
        responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    ) {
        let subject = self.stream.subject().clone();
        tracing::info!(%subject, "a subscriber connected");
        let mut closing = self.hub.closing.subscribe();
        let ended = tokio::select! {
            ended = self.converse(requests, &responses) => ended,
            _ = closing.wait_for(|closing| *closing) => Err(Status::unavailable("the control plane ends")),
            () = responses.closed() => Ok(()),
        };
        match ended {
            Ok(()) => tracing::info!(%subject, "a subscriber left"),
            Err(status) => {
                tracing::info!(
                    %subject,
                    reason = status.message(),
                    "a subscriber's stream ended"
                );
                // Nobody may be there to hear it.
                let _ = responses.try_send(Err(status));
            }
        }
    }

    /// Ends with the stream: well, or with what to tell the subscriber.
    async fn converse(
        &mut self,
        mut requests: Streaming<DeltaDiscoveryRequest>,
        responses: &mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    ) -> Result<(), Status> {
        let mut mesh = self.hub.mesh.subscribe();
        let mut first = true;
        loop {
            tokio::select! {
                request = requests.message() => match request? {
                    Some(request) => self.take(request)?,
                    None => return Ok(()),
                },
                changed = mesh.changed() => if changed.is_err() {
                    return Err(Status::unavailable("the control plane ends"));
                },
            }
            let patience = sleep(OTHERS);
            tokio::pin!(patience);
            for _ in 1..AT_ONCE {
                let waits = first && self.stream.asked() && !self.stream.asked_for_all();
                tokio::select! {
                    biased;
                    request = requests.message() => match request? {
                        Some(request) => self.take(request)?,
                        None => return Ok(()),
                    },
                    () = &mut patience, if waits => break,
                    () = std::future::ready(()), if !waits => break,
                }
            }
            first = !self.stream.asked();
            let snapshot = Arc::clone(&mesh.borrow_and_update().snapshot);
            if !snapshot.knows(self.stream.subject()) {
                return Err(Status::permission_denied(NO_GATEWAY));
            }
            for response in self.stream.push(&snapshot) {
                self.hub.metrics.pushed(&response);
                if responses.send(Ok(response)).await.is_err() {
                    return Ok(());
                }
            }
            self.entry.progressed(&self.stream);
        }
    }

    fn take(&mut self, request: DeltaDiscoveryRequest) -> Result<(), Status> {
        if let Some(node) = &request.node {
            self.entry.named(&node.id);
        }
        let type_url = request.type_url.clone();
        match self.stream.request(request) {
            Ok(None) => Ok(()),
            Ok(Some(complaint)) => {
                tracing::warn!(
                    subject = %self.stream.subject(),
                    r#type = type_url,
                    reason = complaint,
                    "a subscriber did not accept resources"
                );
                self.hub.metrics.rejected(&type_url);
                Ok(())
            }
            Err(malformed) => {
                let subject = self.stream.subject();
                tracing::warn!(%subject, reason = %malformed, "a malformed discovery request");
                Err(match malformed {
                    Malformed::UnknownType(..) | Malformed::LongName(_) => {
                        Status::invalid_argument(malformed.to_string())
                    }
                    Malformed::TooManyNames => Status::resource_exhausted(malformed.to_string()),
                })
            }
        }
    }
}
