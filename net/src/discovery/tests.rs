//! A control plane in memory, scripted.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::{Arc, Mutex},
};

use prost_types::Any;
use proto::{ADDRESS_TYPE, AUTHORIZATION_TYPE, discovery::Resource};
use tokio::task::LocalSet;
use tokio_stream::StreamExt;
use tonic::{Request, Response, async_trait};

use super::*;
use crate::channel::{Token, memory};

#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic
)]
mod served {
    include!("../../../control/src/gen/envoy.service.discovery.v3.rs");
}
use served::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};

/// One stream as the server sees it: what came, and a way to answer.
struct Seen {
    metadata: tonic::metadata::MetadataMap,
    requests: Streaming<DeltaDiscoveryRequest>,
    responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
}

struct Service(mpsc::UnboundedSender<Seen>);

#[async_trait]
impl AggregatedDiscoveryService for Service {
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (responses, outgoing) = mpsc::channel(16);
        let metadata = request.metadata().clone();
        self.0
            .send(Seen {
                metadata,
                requests: request.into_inner(),
                responses,
            })
            .unwrap();
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}

#[derive(Clone, Default)]
struct Counts(Arc<Mutex<Counted>>);

#[derive(Default)]
struct Counted {
    ended: Vec<Ended>,
    received: Vec<(String, usize)>,
}

impl Counters for Counts {
    fn ended(&self, reason: Ended) {
        self.0.lock().unwrap().ended.push(reason);
    }

    fn received(&self, type_url: &str, bytes: usize) {
        self.0
            .lock()
            .unwrap()
            .received
            .push((type_url.to_owned(), bytes));
    }
}

struct Peer {
    streams: mpsc::UnboundedReceiver<Seen>,
    state: watch::Receiver<State>,
    counts: Counts,
    deltas: Rc<RefCell<Vec<Delta>>>,
    /// The next connections fail.
    away: Rc<RefCell<u32>>,
    dials: Rc<RefCell<Vec<Instant>>>,
}

/// A client that runs, rejecting resources named `bad`, and its control plane.
fn start() -> Peer {
    start_with(Token::Literal("t".into()))
}

fn start_with(token: Token) -> Peer {
    let (dialer, incoming) = memory::pair();
    let (sender, streams) = mpsc::unbounded_channel();
    let server = tonic::transport::Server::builder()
        .add_service(AggregatedDiscoveryServiceServer::new(Service(sender)));
    tokio::spawn(server.serve_with_incoming(incoming));
    let (state, watched) = watch::channel(State::default());
    let counts = Counts::default();
    let caller = Caller {
        token: Some(token),
        cluster: "Kubernetes".into(),
        headers: vec![],
    };
    let node = Node {
        id: "ztunnel~1.1.1.1~a.b~b.svc.cluster.local".into(),
        ..Node::default()
    };
    let discovery = Discovery {
        node,
        caller,
        counters: counts.clone(),
        state,
    };
    let deltas = Rc::new(RefCell::new(Vec::<Delta>::new()));
    let (away, dials) = (Rc::new(RefCell::new(0)), Rc::new(RefCell::new(Vec::new())));
    let (seen, failing, dialed) = (Rc::clone(&deltas), Rc::clone(&away), Rc::clone(&dials));
    tokio::task::spawn_local(async move {
        let dial = || {
            dialed.borrow_mut().push(Instant::now());
            let refuse = *failing.borrow() > 0;
            *failing.borrow_mut() -= u32::from(refuse);
            let channel = dialer.lazy();
            async move {
                if refuse {
                    Err(ChannelError::Unreachable("away".into()))
                } else {
                    Ok(channel)
                }
            }
        };
        let apply = |delta: Delta| {
            let bad = delta.resources.iter().filter(|r| r.name == "bad");
            let rejected = bad
                .map(|r| Rejected {
                    name: r.name.clone(),
                    reason: "is wrong".into(),
                })
                .collect();
            seen.borrow_mut().push(delta);
            rejected
        };
        discovery
            .run(&[ADDRESS_TYPE, AUTHORIZATION_TYPE], dial, apply)
            .await;
    });
    Peer {
        streams,
        state: watched,
        counts,
        deltas,
        away,
        dials,
    }
}

impl Seen {
    async fn next(&mut self) -> DeltaDiscoveryRequest {
        self.requests.next().await.unwrap().unwrap()
    }

    async fn send(&self, type_url: &str, nonce: &str, names: &[&str]) {
        let resource = |name: &&str| Resource {
            name: (*name).into(),
            version: "v".into(),
            resource: Some(Any {
                type_url: type_url.into(),
                value: vec![],
            }),
            aliases: vec![],
        };
        let response = DeltaDiscoveryResponse {
            type_url: type_url.into(),
            nonce: nonce.into(),
            resources: names.iter().map(resource).collect(),
            ..DeltaDiscoveryResponse::default()
        };
        self.responses.send(Ok(response)).await.unwrap();
    }
}

/// Runs a test in one thread, as the main thread does.
fn alone(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(LocalSet::new().run_until(test));
}

#[test]
fn a_stream_asks_applies_and_answers() {
    alone(async {
        let mut peer = start();
        let mut stream = peer.streams.recv().await.unwrap();
        assert_eq!(stream.metadata.get("authorization").unwrap(), "Bearer t");
        assert_eq!(stream.metadata.get("clusterid").unwrap(), "Kubernetes");
        let (first, second) = (stream.next().await, stream.next().await);
        assert_eq!(
            (first.type_url.as_str(), second.type_url.as_str()),
            (ADDRESS_TYPE, AUTHORIZATION_TYPE)
        );
        assert!(first.node.is_some() && second.node.is_some());
        assert!(peer.state.wait_for(|state| state.connected).await.is_ok());

        stream.send(ADDRESS_TYPE, "n1", &["a", "bad"]).await;
        let nack = stream.next().await;
        assert_eq!(
            (
                nack.response_nonce.as_str(),
                nack.error_detail.unwrap().message.as_str()
            ),
            ("n1", "bad: is wrong")
        );
        assert!(!peer.state.borrow().synced);
        stream.send(AUTHORIZATION_TYPE, "n2", &[]).await;
        let ack = stream.next().await;
        assert_eq!(
            (ack.response_nonce.as_str(), ack.error_detail),
            ("n2", None)
        );
        assert!(peer.state.wait_for(|state| state.synced).await.is_ok());
        assert_eq!(peer.deltas.borrow().len(), 2);
        let counts = peer.counts.0.lock().unwrap();
        assert_eq!(
            counts
                .received
                .iter()
                .map(|c| c.0.as_str())
                .collect::<Vec<_>>(),
            [ADDRESS_TYPE, AUTHORIZATION_TYPE]
        );
        assert!(counts.received[0].1 > ADDRESS_TYPE.len());
    });
}

#[test]
fn a_stream_that_the_server_closes_is_opened_again_at_once_with_what_is_held() {
    alone(async {
        let mut peer = start();
        let mut stream = peer.streams.recv().await.unwrap();
        stream.send(ADDRESS_TYPE, "n1", &["a", "b"]).await;
        for _ in 0..3 {
            stream.next().await;
        }
        sleep(AGED).await;
        let closed = Instant::now();
        drop(stream);
        let mut stream = peer.streams.recv().await.unwrap();
        assert_eq!(closed.elapsed(), Duration::ZERO);
        let first = stream.next().await;
        let held: Vec<_> = first.initial_resource_versions.into_iter().collect();
        assert_eq!(
            held,
            [
                ("a".to_owned(), "v".to_owned()),
                ("b".to_owned(), "v".to_owned())
            ]
        );
        assert_eq!(peer.counts.0.lock().unwrap().ended, [Ended::Complete]);
    });
}

#[test]
fn a_server_that_closes_every_stream_is_not_asked_without_end() {
    alone(async {
        let mut peer = start();
        let begun = Instant::now();
        for nonce in 0..12 {
            let stream = peer.streams.recv().await.unwrap();
            stream
                .send(ADDRESS_TYPE, &format!("n{nonce}"), &["a"])
                .await;
        }
        // 10 ms, 20 ms … 2.56 s, 5 s, 5 s, less a fifth.
        assert!(
            begun.elapsed() > Duration::from_secs(12),
            "{:?}",
            begun.elapsed()
        );
    });
}

#[test]
fn failures_are_followed_by_pauses_that_double() {
    alone(async {
        let peer = start();
        *peer.away.borrow_mut() = 14;
        let mut peer = peer;
        peer.streams.recv().await.unwrap();
        let dials = peer.dials.borrow();
        let pauses: Vec<_> = dials
            .windows(2)
            .map(|pair| (pair[1] - pair[0]).as_secs_f64())
            .collect();
        assert_eq!(pauses.len(), 14);
        for (i, pause) in pauses.iter().enumerate() {
            let length = (0.01 * f64::from(1 << i)).min(5.0);
            assert!(
                (length * 0.79..length * 1.21).contains(pause),
                "{i}: {pause}"
            );
        }
        assert_eq!(
            peer.counts.0.lock().unwrap().ended,
            [Ended::ConnectionError; 14]
        );
        let error = peer.state.borrow().error.clone().unwrap();
        assert!(error.contains("away"), "{error}");
    });
}

#[test]
fn a_new_token_is_tried_at_once() {
    alone(async {
        let path = std::env::temp_dir().join(format!("ambit-discovery-{}", std::process::id()));
        std::fs::write(&path, "old").unwrap();
        let mut peer = start_with(Token::File(path.clone()));
        let refuse = async |stream: Seen| {
            let refused = Err(Status::unauthenticated("who are you"));
            stream.responses.send(refused).await.unwrap();
        };
        for _ in 0..12 {
            refuse(peer.streams.recv().await.unwrap()).await;
        }
        let error = peer.state.wait_for(|state| state.error.is_some());
        error.await.unwrap();
        let begun = Instant::now();
        std::fs::write(&path, "new").unwrap();
        let stream = peer.streams.recv().await.unwrap();
        assert_eq!(stream.metadata.get("authorization").unwrap(), "Bearer new");
        assert!(
            begun.elapsed() <= Duration::from_secs(1),
            "{:?}",
            begun.elapsed()
        );
        // And what fails now begins with short pauses again.
        refuse(stream).await;
        peer.streams.recv().await.unwrap();
        assert!(begun.elapsed() <= Duration::from_secs(1));
        std::fs::remove_file(&path).unwrap();
    });
}

#[test]
fn a_stream_that_breaks_is_counted_and_pauses() {
    alone(async {
        let mut peer = start();
        let stream = peer.streams.recv().await.unwrap();
        stream
            .responses
            .send(Err(Status::unauthenticated("who are you")))
            .await
            .unwrap();
        let stream = peer.streams.recv().await.unwrap();
        stream.send("type.googleapis.com/x.Y", "n", &[]).await;
        peer.streams.recv().await.unwrap();
        assert_eq!(
            peer.counts.0.lock().unwrap().ended,
            [Ended::GrpcError, Ended::Violation]
        );
        assert!(peer.deltas.borrow().is_empty());
        assert!(peer.state.borrow().error.as_ref().unwrap().contains("x.Y"));
    });
}

#[test]
fn a_server_that_is_gone_without_a_word_is_noticed() {
    alone(async {
        // Nobody answers this channel's PINGs.
        let (dialer, mut incoming) = memory::pair();
        let (state, mut watched) = watch::channel(State::default());
        let caller = Caller {
            token: None,
            cluster: "Kubernetes".into(),
            headers: vec![],
        };
        let discovery = Discovery {
            node: Node::default(),
            caller,
            counters: Counts::default(),
            state,
        };
        let dial = move || {
            let channel = dialer.lazy();
            async move { Ok(channel) }
        };
        tokio::task::spawn_local(
            async move { discovery.run(&[ADDRESS_TYPE], dial, |_| vec![]).await },
        );
        let begun = Instant::now();
        let _silent = incoming.next().await.unwrap().unwrap();
        watched
            .wait_for(|state| state.error.is_some())
            .await
            .unwrap();
        assert!(
            begun.elapsed() <= Duration::from_secs(41),
            "{:?}",
            begun.elapsed()
        );
    });
}
