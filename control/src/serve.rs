//! The services on the wire: discovery, certificates, the nodes' reports, and the operator's local pages.
//!
//! Here requests meet decisions made elsewhere ([`crate::publish`], [`crate::placements`], [`crate::ca`]); nothing is
//! decided here. Every call needs a token, and who calls is the node or the waypoint of that token.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use tokio::{io::AsyncRead, io::AsyncWrite, sync::watch};
use tokio_stream::Stream;
use tonic::{Status, transport::server::Connected};

use crate::{
    ca::Authority,
    phase::Reached,
    placements::Placements,
    publish::Snapshot,
    reports::Reports,
    serve::{
        certificates::Certificates, discovery::Discovery, metrics::Metrics, nodes::Nodes,
        statuses::Statuses, streams::Streams,
    },
    stubs::{
        certificate::istio_certificate_service_server::IstioCertificateServiceServer,
        discovery::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer,
        node::node_service_server::NodeServiceServer,
    },
    subject::Subject,
    tokens::{NotAuthenticated, Tokens},
    world::{Key, Phase},
};

pub mod accept;
pub mod admin;
mod certificates;
mod discovery;
pub mod metrics;
mod nodes;
pub mod statuses;
pub mod streams;
#[cfg(test)]
mod tests;

/// A request with the names and versions of 100,000 resources.
const LARGEST_SUBSCRIPTION: usize = 16 * 1024 * 1024;
const LARGEST_REPORT: usize = 4 * 1024 * 1024;
const LARGEST_CERTIFICATE_REQUEST: usize = 64 * 1024;

/// One state of the mesh, as all services see it.
#[derive(Debug, Default)]
pub struct Mesh {
    /// The resources.
    pub snapshot: Arc<Snapshot>,
    /// Which pods run where.
    pub placements: Placements,
    /// How far the bindings of services to waypoints have come.
    pub bindings: BTreeMap<Key, Phase>,
    /// The status of every object, and the problems of the source.
    pub statuses: Statuses,
}

/// What the services share.
#[derive(Debug)]
pub struct Hub {
    /// Signs leaves.
    pub authority: Authority,
    /// Whom identities must belong to.
    pub trust_domain: String,
    /// The longest life of a leaf.
    pub longest_life: Duration,
    /// Who may call.
    pub callers: Callers,
    /// What nodes said.
    pub reports: Reports,
    /// The state to bring every subscriber to.
    pub mesh: watch::Sender<Arc<Mesh>>,
    /// Who subscribes.
    pub streams: Streams,
    /// Counts.
    pub metrics: Metrics,
    /// True once this process is to end.
    pub closing: watch::Sender<bool>,
}

/// How it is known who calls.
#[derive(Debug)]
pub enum Callers {
    /// By a token that was made here, for a directory's nodes and waypoints.
    Tokens(Tokens),
    /// By the token of a service account, which the API server reviews.
    #[cfg(feature = "kubernetes")]
    Reviews(crate::kubernetes::reviews::Reviews),
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Whom resources are for.
    Subject(Subject),
    /// Another service account, by namespace and name: it may have a certificate of its own, and nothing else.
    Account(Key),
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Subject(subject) => subject.fmt(f),
            Self::Account((namespace, name)) => write!(f, "service account {namespace}/{name}"),
        }
    }
}

impl Hub {
    /// How far everybody has come, as far as it is known.
    pub fn reached(&self) -> Reached {
        self.streams.reached()
    }

    /// The tokens, if they are made here.
    pub fn tokens(&self) -> Option<&Tokens> {
        match &self.callers {
            Callers::Tokens(tokens) => Some(tokens),
            #[cfg(feature = "kubernetes")]
            Callers::Reviews(_) => None,
        }
    }

    async fn caller<T>(
        &self,
        request: &tonic::Request<T>,
        call: &'static str,
    ) -> Result<Caller, Status> {
        let caller = self.known(request.metadata().as_ref()).await;
        let caller = caller.map_err(|refused| {
            tracing::warn!(call, reason = %refused, "refused a caller");
            self.metrics.refused_callers.inc();
            match refused.is_callers_fault() {
                true => Status::unauthenticated(refused.to_string()),
                false => Status::unavailable(refused.to_string()),
            }
        })?;
        if let Some(connection) = request.extensions().get::<accept::Caller>() {
            connection.is_known();
        }
        Ok(caller)
    }

    async fn known(&self, headers: &http::HeaderMap) -> Result<Caller, NotAuthenticated> {
        match &self.callers {
            Callers::Tokens(tokens) => tokens.caller(headers).map(Caller::Subject),
            #[cfg(feature = "kubernetes")]
            Callers::Reviews(reviews) => {
                let mesh = Arc::clone(&self.mesh.borrow());
                let caller = reviews.caller(headers, &mesh.placements).await?;
                Ok(match caller {
                    Caller::Account(account) => {
                        let waypoint = Subject::Waypoint(account.clone());
                        match mesh.snapshot.knows(&waypoint) {
                            true => Caller::Subject(waypoint),
                            false => Caller::Account(account),
                        }
                    }
                    subject => subject,
                })
            }
        }
    }

    /// As [`caller`](Self::caller), for what is told to nodes and waypoints alone.
    async fn subject<T>(
        &self,
        request: &tonic::Request<T>,
        call: &'static str,
    ) -> Result<Subject, Status> {
        match self.caller(request, call).await? {
            Caller::Subject(subject) => Ok(subject),
            caller @ Caller::Account(_) => {
                tracing::warn!(call, %caller, "refused a caller that is neither a node proxy nor a waypoint");
                self.metrics.refused_callers.inc();
                let reason =
                    format!("{caller} is neither a node proxy nor the waypoint of a Gateway");
                Err(Status::permission_denied(reason))
            }
        }
    }
}

/// Serves the three services on connections that are already encrypted, until `hub.closing` and the last call's end.
pub async fn serve<I, C>(hub: Arc<Hub>, connections: I) -> Result<(), tonic::transport::Error>
where
    I: Stream<Item = std::io::Result<C>>,
    C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let mut closing = hub.closing.subscribe();
    let closed = async move {
        let _ = closing.wait_for(|closing| *closing).await;
    };
    let discovery = AggregatedDiscoveryServiceServer::new(Discovery(Arc::clone(&hub)))
        .max_decoding_message_size(LARGEST_SUBSCRIPTION);
    let certificates = IstioCertificateServiceServer::new(Certificates(Arc::clone(&hub)))
        .max_decoding_message_size(LARGEST_CERTIFICATE_REQUEST);
    let nodes = NodeServiceServer::new(Nodes(hub)).max_decoding_message_size(LARGEST_REPORT);
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .http2_max_header_list_size(16 * 1024)
        .max_concurrent_streams(128)
        .add_service(discovery)
        .add_service(certificates)
        .add_service(nodes)
        .serve_with_incoming_shutdown(connections, closed)
        .await
}
