//! A node proxy as the control plane sees one: it asks for everything, and accepts it.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use net::channel::{Caller, Roots, Server, Token};
use proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use tests_kube::{Cluster, mesh::NAMESPACE, token};
use tokio::{
    sync::mpsc::{self, Receiver, Sender},
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, client::Grpc, codegen::http::uri::PathAndQuery};
use tonic_prost::ProstCodec;

use crate::{api::PROXY, process::Control};

const DISCOVERY: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// What it was told.
struct Told {
    at: Instant,
    names: Vec<String>,
    removed: Vec<String>,
}

/// One subscriber.
pub(crate) struct Subscriber {
    told: Receiver<Told>,
    held: HashSet<String>,
    responses: usize,
}

impl Subscriber {
    pub(crate) async fn connect(cluster: &Cluster, control: &Control) -> Self {
        let token = token::of(
            cluster,
            (NAMESPACE, "ztunnel"),
            Some(PROXY),
            Some("istio-ca"),
        );
        let roots = [
            "-n",
            NAMESPACE,
            "get",
            "configmap",
            "istio-ca-root-cert",
            "-o",
            "jsonpath={.data.root-cert\\.pem}",
        ];
        let begun = Instant::now();
        let roots = loop {
            match cluster.kubectl(&roots) {
                Ok(roots) if !roots.is_empty() => break roots,
                _ if begun.elapsed() > PATIENCE => {
                    panic!("no root: see /tmp/bench-kube-control.log")
                }
                _ => sleep(Duration::from_millis(200)).await,
            }
        };
        let name = format!("ambit-control.{NAMESPACE}.svc");
        let address = format!("https://{}", control.address);
        let server = Server::new(&address, Roots::Pem(roots), Some(&name)).expect("an address");
        let caller = Caller {
            token: Some(Token::Literal(token)),
            cluster: "Kubernetes".to_owned(),
            headers: Vec::new(),
        };
        let (sender, told) = mpsc::channel(1024);
        loop {
            match converse(&server, &caller).await {
                Ok((answers, requests)) => {
                    tokio::spawn(follow(answers, requests, sender));
                    break;
                }
                Err(status) if begun.elapsed() > PATIENCE => panic!("{status}"),
                Err(_) => sleep(Duration::from_millis(200)).await,
            }
        }
        Self {
            told,
            held: HashSet::new(),
            responses: 0,
        }
    }

    /// How often it was told anything.
    pub(crate) fn responses(&self) -> usize {
        self.responses
    }

    /// Until it has so many services and pods of the bench; when the last came.
    pub(crate) async fn until(&mut self, services: usize, pods: usize) -> Instant {
        loop {
            let at = self
                .next(PATIENCE)
                .await
                .expect("it is told of all of them");
            let of = |part: &str| self.held.iter().filter(|it| it.contains(part)).count();
            if of("/service-") >= services && of("//Pod/bench-") >= pods {
                return at;
            }
        }
    }

    /// Until it has a policy; when that came.
    pub(crate) async fn policy(&mut self, name: &str) -> Instant {
        loop {
            let at = self.next(PATIENCE).await.expect("it is told of the policy");
            if self.held.contains(name) {
                return at;
            }
        }
    }

    /// Until nothing has come for a while.
    pub(crate) async fn quiet(&mut self, wait: Duration) {
        while self.next(wait).await.is_some() {}
    }

    async fn next(&mut self, wait: Duration) -> Option<Instant> {
        let told = timeout(wait, self.told.recv()).await.ok()??;
        self.responses += 1;
        self.held.extend(told.names);
        for name in &told.removed {
            self.held.remove(name);
        }
        Some(told.at)
    }
}

type Conversation = (
    Streaming<DeltaDiscoveryResponse>,
    Sender<DeltaDiscoveryRequest>,
);

async fn converse(server: &Server, caller: &Caller) -> Result<Conversation, Status> {
    let (requests, queue) = mpsc::channel(1024);
    for type_url in [proto::ADDRESS_TYPE, proto::AUTHORIZATION_TYPE] {
        let first = DeltaDiscoveryRequest {
            type_url: type_url.to_owned(),
            ..DeltaDiscoveryRequest::default()
        };
        let _ = requests.send(first).await;
    }
    let request = caller.request(ReceiverStream::new(queue));
    let request = request.map_err(|error| Status::unauthenticated(error.to_string()))?;
    let mut client = Grpc::new(server.lazy()).max_decoding_message_size(64 << 20);
    let ready = client.ready().await;
    ready.map_err(|error| Status::unavailable(error.to_string()))?;
    let codec = ProstCodec::<DeltaDiscoveryRequest, DeltaDiscoveryResponse>::default();
    let path = PathAndQuery::from_static(DISCOVERY);
    let answers = client.streaming(request, path, codec).await?;
    Ok((answers.into_inner(), requests))
}

/// Accepts everything, and tells of it.
async fn follow(
    mut answers: Streaming<DeltaDiscoveryResponse>,
    requests: Sender<DeltaDiscoveryRequest>,
    told: Sender<Told>,
) {
    loop {
        let answer = match answers.message().await {
            Ok(Some(answer)) => answer,
            ended => {
                eprintln!("the stream ended: {ended:?}");
                return;
            }
        };
        let at = Instant::now();
        let accepted = DeltaDiscoveryRequest {
            type_url: answer.type_url,
            response_nonce: answer.nonce,
            ..DeltaDiscoveryRequest::default()
        };
        let names = answer.resources.into_iter().map(|it| it.name);
        let news = Told {
            at,
            names: names.collect(),
            removed: answer.removed_resources,
        };
        if requests.send(accepted).await.is_err() || told.send(news).await.is_err() {
            return;
        }
    }
}
