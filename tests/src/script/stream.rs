//! The streams of a scripted control plane: what each gets, and what each answers.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use control::{
    serve::accept,
    stubs::discovery::aggregated_discovery_service_server::AggregatedDiscoveryService,
};
use proto::{
    ADDRESS_TYPE, AUTHORIZATION_TYPE,
    discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::Nonce;

#[derive(Clone, Debug, Default)]
pub(super) struct Told(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
pub(super) struct Inner {
    pub(super) resources: BTreeMap<(&'static str, String), Vec<u8>>,
    pub(super) streams: Vec<Subscriber>,
    /// Node and nonce, with the reason if it was no.
    pub(super) answers: BTreeMap<(String, String), Option<String>>,
    sent: u64,
}

pub(super) type Responses = mpsc::UnboundedSender<Result<DeltaDiscoveryResponse, Status>>;

#[derive(Debug)]
pub(super) struct Subscriber {
    pub(super) node: String,
    pub(super) to: Responses,
}

impl Told {
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    pub(super) fn broadcast(&mut self, mut response: DeltaDiscoveryResponse) -> Nonce {
        let nonce = self.next();
        response.nonce.clone_from(&nonce);
        self.send(&response);
        Nonce(nonce)
    }

    pub(super) fn send(&mut self, response: &DeltaDiscoveryResponse) {
        self.streams
            .retain(|stream| stream.to.send(Ok(response.clone())).is_ok());
    }

    fn next(&mut self) -> String {
        self.sent += 1;
        self.sent.to_string()
    }

    /// The state of one type, for a stream that begins.
    fn first(&mut self, type_url: &str) -> DeltaDiscoveryResponse {
        let all = self
            .resources
            .iter()
            .filter(|((held, _), _)| *held == type_url);
        let all = all
            .map(|((_, name), bytes)| (name.clone(), bytes.clone()))
            .collect();
        let mut response = response(type_url, all);
        response.nonce = self.next();
        response
    }
}

pub(super) struct Discovery(pub(super) Told);

#[tonic::async_trait]
impl AggregatedDiscoveryService for Discovery {
    type DeltaAggregatedResourcesStream =
        UnboundedReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        if let Some(connection) = request.extensions().get::<accept::Caller>() {
            // Tokens are the real control plane's business; without this the connection would be let go.
            connection.is_known();
        }
        let (to, responses) = mpsc::unbounded_channel();
        tokio::spawn(converse(self.0.clone(), request.into_inner(), to));
        Ok(Response::new(UnboundedReceiverStream::new(responses)))
    }
}

/// A stream is subscribed to what is said once it has asked for both types, and then gets everything so far.
async fn converse(told: Told, mut requests: Streaming<DeltaDiscoveryRequest>, to: Responses) {
    let (mut node, mut asked) = (String::new(), 0);
    // Only the list of streams keeps it open, so that `hang_up` ends it.
    let mut fresh = Some(to);
    while let Ok(Some(request)) = requests.message().await {
        if let Some(name) = request.node.as_ref().and_then(node_name) {
            node = name;
        }
        let mut inner = told.lock();
        if request.response_nonce.is_empty() {
            asked += 1;
            if asked == 2
                && let Some(to) = fresh.take()
            {
                for type_url in [AUTHORIZATION_TYPE, ADDRESS_TYPE] {
                    // Whoever has gone does not need it.
                    let _ = to.send(Ok(inner.first(type_url)));
                }
                inner.streams.push(Subscriber {
                    node: node.clone(),
                    to,
                });
            }
        } else {
            let reason = request.error_detail.map(|status| status.message);
            inner
                .answers
                .insert((node.clone(), request.response_nonce), reason);
        }
    }
    told.lock().streams.retain(|stream| !stream.to.is_closed());
}

fn node_name(node: &proto::core::Node) -> Option<String> {
    match &node.metadata.as_ref()?.fields.get("NODE_NAME")?.kind {
        Some(prost_types::value::Kind::StringValue(name)) => Some(name.clone()),
        _ => None,
    }
}

pub(super) fn response(type_url: &str, changed: Vec<(String, Vec<u8>)>) -> DeltaDiscoveryResponse {
    let resources = changed.into_iter().map(|(name, value)| Resource {
        name,
        resource: Some(prost_types::Any {
            type_url: type_url.to_owned(),
            value,
        }),
        ..Resource::default()
    });
    DeltaDiscoveryResponse {
        type_url: type_url.to_owned(),
        resources: resources.collect(),
        ..DeltaDiscoveryResponse::default()
    }
}
