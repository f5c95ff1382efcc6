//! The driver of delta discovery: keeps one stream to the control plane and passes on what comes.
//!
//! What to send and what to answer is decided in `mesh::session`; what a change means, by the store behind the
//! callback. The session outlives streams, so nothing that is held is sent again.

use std::{future::Future, net::IpAddr, ops::ControlFlow, time::Duration};

use mesh::{
    delta::Delta,
    parse::Rejected,
    session::{Session, Violation},
};
use prost::Message;
use proto::{
    core::Node,
    discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Channel};

use crate::{
    channel::{Caller, ChannelError, cause},
    clock::chance,
    stubs::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
};

/// The pause after a first failure; each further one doubles it …
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// … up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// After a stream that lived this long, counting of failures begins anew.
const SETTLED: Duration = Duration::from_secs(5);
/// A stream that the server closes after at least this much time is opened again without a pause.
const AGED: Duration = Duration::from_secs(1);
/// The largest response that is taken.
const MAX_MESSAGE: usize = 200 << 20;

/// What is counted. Names of series: `istio_xds_connection_terminations_total`, `istio_xds_message_total`,
/// `istio_xds_message_bytes_total`.
pub trait Counters {
    /// A stream has ended.
    fn ended(&self, reason: Ended);
    /// A response of this type has come.
    fn received(&self, type_url: &str, bytes: usize);
}

/// Why a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ended {
    /// No connection could be made.
    ConnectionError,
    /// It broke, or the server has refused it.
    GrpcError,
    /// The server has closed it in good order, as it does when a connection has its age.
    Complete,
    /// The server has broken the protocol.
    Violation,
}

/// How it stands with the control plane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// A stream is open.
    pub connected: bool,
    /// Every type was received once; stays true.
    pub synced: bool,
    /// Why the last stream ended, until the next one brings something.
    pub error: Option<String>,
    /// When something was last received, time since 1970.
    pub received: Option<Duration>,
}

/// What a proxy says of itself on the stream.
#[derive(Clone, Debug)]
pub struct Instance {
    /// `POD_NAME`.
    pub name: String,
    /// `POD_NAMESPACE`.
    pub namespace: String,
    /// `INSTANCE_IP` or `POD_IP`.
    pub ip: IpAddr,
}

impl Instance {
    /// As the stream carries it. `role` is `ztunnel` or `waypoint`; `more` are further metadata.
    pub fn node(&self, role: &str, domain: &str, more: &[(&str, &str)]) -> Node {
        let Self {
            name,
            namespace,
            ip,
        } = self;
        let ips = ip.to_string();
        let own = [
            ("NAME", &**name),
            ("NAMESPACE", namespace),
            ("INSTANCE_IPS", &ips),
        ];
        let text = |text: &str| prost_types::Value {
            kind: Some(prost_types::value::Kind::StringValue(text.to_owned())),
        };
        let fields = own
            .iter()
            .chain(more)
            .map(|(key, value)| ((*key).to_owned(), text(value)))
            .collect();
        Node {
            id: format!("{role}~{ip}~{name}.{namespace}~{namespace}.svc.{domain}"),
            cluster: role.to_owned(),
            metadata: Some(prost_types::Struct { fields }),
        }
    }
}

/// One client of one control plane.
pub struct Discovery<C> {
    /// Who we are.
    pub node: Node,
    /// Token and headers.
    pub caller: Caller,
    /// What is counted.
    pub counters: C,
    /// What others see.
    pub state: watch::Sender<State>,
}

impl<C: Counters> Discovery<C> {
    /// Follows the control plane until dropped. `dial` makes a connected channel; `apply` carries out each change and
    /// returns what it rejects.
    pub async fn run<D, F>(
        self,
        types: &[&'static str],
        dial: D,
        mut apply: impl FnMut(Delta) -> Vec<Rejected>,
    ) where
        D: Fn() -> F,
        F: Future<Output = Result<Channel, ChannelError>>,
    {
        let mut session = Session::new(types);
        let mut failures = 0u32;
        loop {
            let (begun, shown) = (Instant::now(), self.caller.token());
            let (reason, why) = self.stream(&dial, &mut session, &mut apply).await;
            self.counters.ended(reason);
            self.state.send_modify(|state| {
                state.connected = false;
                state.error = Some(why.clone());
            });
            if reason == Ended::Complete && begun.elapsed() >= AGED {
                tracing::debug!("the control plane has closed the stream; opening another");
                failures = 0;
                continue;
            }
            failures = if begun.elapsed() >= SETTLED {
                1
            } else {
                failures + 1
            };
            let pause = pause(failures, chance());
            tracing::warn!(error = %why, retry_in = ?pause, "no stream to the control plane");
            tokio::select! {
                () = sleep(pause) => {}
                _ = self.caller.renewed(shown.as_deref()) => failures = 0,
            }
        }
    }

    /// One stream, from dialing to its end.
    async fn stream<D, F>(
        &self,
        dial: &D,
        session: &mut Session,
        apply: &mut impl FnMut(Delta) -> Vec<Rejected>,
    ) -> (Ended, String)
    where
        D: Fn() -> F,
        F: Future<Output = Result<Channel, ChannelError>>,
    {
        let (requests, mut responses) = match self.open(dial, session).await {
            Ok(open) => open,
            Err(ended) => return ended,
        };
        self.state.send_modify(|state| state.connected = true);
        loop {
            let response = match responses.message().await {
                Ok(Some(response)) => response,
                Ok(None) => {
                    return (
                        Ended::Complete,
                        "the control plane has closed the stream".into(),
                    );
                }
                Err(status) => return ended(&status),
            };
            if let ControlFlow::Break(violation) =
                self.received(response, session, apply, &requests).await
            {
                return (Ended::Violation, violation.to_string());
            }
        }
    }

    /// Dials, and sends the first requests.
    async fn open<D, F>(
        &self,
        dial: &D,
        session: &Session,
    ) -> Result<
        (
            mpsc::Sender<DeltaDiscoveryRequest>,
            Streaming<DeltaDiscoveryResponse>,
        ),
        (Ended, String),
    >
    where
        D: Fn() -> F,
        F: Future<Output = Result<Channel, ChannelError>>,
    {
        let failed = |error: ChannelError| (Ended::ConnectionError, error.to_string());
        let channel = dial().await.map_err(failed)?;
        let first = session.start(&self.node);
        // Room for what begins the stream and for one answer: a server that does not read is not read from.
        let (requests, outgoing) = mpsc::channel(first.len() + 1);
        for request in first {
            // There is room.
            requests.try_send(request).ok();
        }
        let request = self
            .caller
            .request(ReceiverStream::new(outgoing))
            .map_err(failed)?;
        let mut client =
            AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        let responses = client
            .delta_aggregated_resources(request)
            .await
            .map_err(|status| ended(&status))?;
        Ok((requests, responses.into_inner()))
    }

    async fn received(
        &self,
        response: DeltaDiscoveryResponse,
        session: &mut Session,
        apply: &mut impl FnMut(Delta) -> Vec<Rejected>,
        requests: &mpsc::Sender<DeltaDiscoveryRequest>,
    ) -> ControlFlow<Violation> {
        self.counters
            .received(&response.type_url, response.encoded_len());
        let told = |delta| {
            let rejected = apply(delta);
            for Rejected { name, reason } in &rejected {
                tracing::warn!(resource = name, reason, "a resource is refused");
            }
            rejected
        };
        let answer = match session.on_response(response, told) {
            Ok(answer) => answer,
            Err(violation) => return ControlFlow::Break(violation),
        };
        if let Some(detail) = &answer.error_detail {
            tracing::warn!(
                type_url = answer.type_url,
                error = detail.message,
                "resources rejected"
            );
        }
        // Fails only when the stream is over, which the next read tells.
        requests.send(answer).await.ok();
        self.state.send_modify(|state| {
            state.synced = session.synced();
            state.error = None;
            state.received = Some(crate::clock::wall());
        });
        ControlFlow::Continue(())
    }
}

/// A status that says how the stream ended. A server that closes a connection of age says so by GOAWAY, which arrives
/// as an unavailable or internal status of our own transport's making.
fn ended(status: &Status) -> (Ended, String) {
    let aged = status.code() == Code::Unavailable && status.message().contains("max_age");
    // The library's debug text of all that is behind it.
    let closed = status.to_string().contains("NO_ERROR");
    (
        if aged || closed {
            Ended::Complete
        } else {
            Ended::GrpcError
        },
        cause(status),
    )
}

fn pause(failures: u32, chance: f64) -> Duration {
    // 2^11 × 10 ms is more than the longest pause.
    let length = (FIRST_PAUSE * (1 << failures.saturating_sub(1).min(11))).min(LONGEST_PAUSE);
    length.mul_f64(0.8 + 0.4 * chance).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests;
