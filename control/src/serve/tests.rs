//! Whole calls against the services, over pipes in memory: no ports, no TLS (which has its own test at the end).

use std::{collections::BTreeMap, io, time::SystemTime};

use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use proto::{
    auth::{IstioCertificateRequest, IstioCertificateResponse},
    discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    node::{PodReport, ReportRequest, ReportResponse},
    rpc, security,
    workload::{Address, Service, Workload, address::Type},
};
use tokio::{
    io::DuplexStream,
    sync::{Semaphore, mpsc},
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Request, Streaming, client::Grpc, metadata::MetadataValue, transport::Channel,
    transport::Endpoint,
};
use tonic_prost::ProstCodec;

use super::*;

mod waypoint;
use crate::{
    compile::Compiled,
    publish::Kind,
    state::{StateDir, scratch::Scratch},
};

const SIGN: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";
const REPORT: &str = "/ambit.node.v1.NodeService/Report";
const DISCOVER: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// A test that waits for this long has failed.
const PATIENCE: Duration = Duration::from_secs(20);
const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";

/// A control plane on a state directory: pod shop/cart on n1, shop/till on n2.
struct Control {
    hub: Arc<Hub>,
    connections: mpsc::Sender<io::Result<accept::Connection<DuplexStream>>>,
    served: tokio::task::JoinHandle<Result<(), tonic::transport::Error>>,
}

impl Control {
    fn start(scratch: &Scratch) -> Self {
        let state = Arc::new(StateDir::open(scratch.path()).unwrap());
        let hub = Arc::new(Hub {
            authority: Authority::open(&state, "cluster.local", SystemTime::now()).unwrap(),
            trust_domain: "cluster.local".to_owned(),
            longest_life: Duration::from_hours(24),
            callers: Callers::Tokens(Tokens::open(Arc::clone(&state)).unwrap()),
            reports: Reports::open(state).unwrap(),
            mesh: watch::Sender::new(Arc::new(Mesh::default())),
            streams: Streams::default(),
            metrics: Metrics::default(),
            closing: watch::Sender::new(false),
        });
        for node in ["n1", "n2"] {
            hub.tokens()
                .unwrap()
                .ensure(&Subject::Node(node.to_owned()))
                .unwrap();
        }
        let (connections, accepted) = mpsc::channel(1);
        let served = tokio::spawn(serve(Arc::clone(&hub), ReceiverStream::new(accepted)));
        let control = Self {
            hub,
            connections,
            served,
        };
        control.publish(&[("shop/a", 1)], &["shop/p"]);
        control
    }

    /// Publishes services of these names and sizes, and policies of these names.
    fn publish(&self, services: &[(&str, usize)], policies: &[&str]) {
        let addresses: BTreeMap<_, _> = services
            .iter()
            .map(|(name, size)| {
                let service = Service {
                    hostname: "x".repeat(*size),
                    ..Default::default()
                };
                (
                    (*name).to_owned(),
                    Arc::new(Address {
                        r#type: Some(Type::Service(service)),
                    }),
                )
            })
            .collect();
        let policies: BTreeMap<_, _> = policies
            .iter()
            .map(|name| {
                (
                    (*name).to_owned(),
                    security::Authorization {
                        name: (*name).to_owned(),
                        ..Default::default()
                    },
                )
            })
            .collect();
        let compiled = Compiled {
            addresses,
            authorizations: policies,
            ..Compiled::default()
        };
        self.tell(&compiled);
    }

    /// Publishes what was compiled, with pods in their places.
    fn tell(&self, compiled: &Compiled) {
        let mut placements = Placements::default();
        placements.add("n1", "shop", "cart", "cart");
        placements.add("n2", "shop", "till", "till");
        let previous = Arc::clone(&self.hub.mesh.borrow().snapshot);
        let snapshot = Arc::new(Snapshot::new(compiled, &previous));
        for gateway in compiled.told.keys() {
            let waypoint = Subject::Waypoint(gateway.clone());
            self.hub.tokens().unwrap().ensure(&waypoint).unwrap();
        }
        self.hub.mesh.send_replace(Arc::new(Mesh {
            snapshot,
            placements,
            ..Mesh::default()
        }));
    }

    async fn connect(&self) -> Channel {
        let connections = self.connections.clone();
        let connector = tower::service_fn(move |_: http::Uri| {
            let connections = connections.clone();
            async move {
                let (client, server) = tokio::io::duplex(64 * 1024);
                let permit = Arc::new(Semaphore::new(1))
                    .try_acquire_owned()
                    .map_err(io::Error::other)?;
                let server = accept::Connection::new(server, permit);
                connections
                    .send(Ok(server))
                    .await
                    .map_err(io::Error::other)?;
                Ok::<_, io::Error>(TokioIo::new(client))
            }
        });
        Endpoint::from_static("http://control")
            .connect_with_connector(connector)
            .await
            .unwrap()
    }

    async fn client(&self, scratch: &Scratch, node: &str) -> Client {
        self.with_token(scratch, &format!("tokens/{node}")).await
    }

    /// A client that shows the token of this file.
    async fn with_token(&self, scratch: &Scratch, file: &str) -> Client {
        let token = std::fs::read_to_string(scratch.path().join(file)).unwrap();
        Client {
            grpc: Grpc::new(self.connect().await),
            token: Some(format!("Bearer {token}")),
        }
    }

    fn progress(&self, kind: Kind) -> crate::publish::Progress {
        let subscriber = &self.hub.streams.list()[0];
        subscriber
            .progress
            .iter()
            .find(|(of, _)| *of == kind)
            .unwrap()
            .1
            .clone()
    }
}

struct Client {
    grpc: Grpc<Channel>,
    token: Option<String>,
}

impl Client {
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request
                .metadata_mut()
                .insert("authorization", MetadataValue::try_from(token).unwrap());
        }
        request
    }

    async fn call<Q, A>(&mut self, path: &'static str, message: Q) -> Result<A, Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        self.grpc.ready().await.unwrap();
        let request = self.request(message);
        let codec = ProstCodec::<Q, A>::default();
        Ok(self
            .grpc
            .unary(request, PathAndQuery::from_static(path), codec)
            .await?
            .into_inner())
    }

    async fn sign(
        &mut self,
        request: IstioCertificateRequest,
    ) -> Result<IstioCertificateResponse, Status> {
        self.call(SIGN, request).await
    }

    async fn report(&mut self, pods: Vec<PodReport>) -> Result<ReportResponse, Status> {
        self.call(REPORT, ReportRequest { pods }).await
    }

    async fn discover(&mut self) -> Result<Session, Status> {
        self.grpc.ready().await.unwrap();
        let (requests, receiver) = mpsc::channel(16);
        let request = self.request(ReceiverStream::new(receiver));
        let codec = ProstCodec::<DeltaDiscoveryRequest, DeltaDiscoveryResponse>::default();
        let responses = self
            .grpc
            .streaming(request, PathAndQuery::from_static(DISCOVER), codec)
            .await?
            .into_inner();
        Ok(Session {
            requests,
            responses,
        })
    }
}

struct Session {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Session {
    async fn send(&self, kind: Kind, change: impl FnOnce(&mut DeltaDiscoveryRequest)) {
        let mut request = DeltaDiscoveryRequest {
            type_url: kind.type_url().to_owned(),
            ..Default::default()
        };
        change(&mut request);
        self.requests.send(request).await.unwrap();
    }

    async fn next(&mut self) -> DeltaDiscoveryResponse {
        let response = timeout(PATIENCE, self.responses.message()).await;
        response
            .expect("a response comes")
            .unwrap()
            .expect("a response")
    }

    /// The status that the stream ends with.
    async fn end(&mut self) -> Status {
        loop {
            match timeout(PATIENCE, self.responses.message())
                .await
                .expect("the stream ends")
            {
                Ok(Some(_)) => {}
                Ok(None) => return Status::ok(""),
                Err(status) => return status,
            }
        }
    }
}

fn names(response: &DeltaDiscoveryResponse) -> Vec<&str> {
    response
        .resources
        .iter()
        .map(|resource| resource.name.as_str())
        .collect()
}

fn csr() -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    rcgen::CertificateParams::default()
        .serialize_request(&key)
        .unwrap()
        .pem()
        .unwrap()
}

fn asking(identity: Option<&str>) -> IstioCertificateRequest {
    let metadata = identity.map(|identity| {
        let kind = prost_types::value::Kind::StringValue(identity.to_owned());
        let value = prost_types::Value { kind: Some(kind) };
        prost_types::Struct {
            fields: [("ImpersonatedIdentity".to_owned(), value)].into(),
        }
    });
    IstioCertificateRequest {
        csr: csr(),
        validity_duration: 3600,
        metadata,
    }
}

fn pod(name: &str) -> PodReport {
    let addresses = vec![vec![10, 0, 0, 1]];
    PodReport {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        addresses,
        captured: true,
        ..Default::default()
    }
}

#[tokio::test]
async fn without_a_nodes_token_no_service_answers() {
    let scratch = Scratch::new();
    let control = Control::start(&scratch);
    for (token, reason) in [
        (None, "no bearer token"),
        (Some("Bearer wrong"), "nobody has this bearer token"),
        (Some("Bearer tab\tbed"), "a character that no token has"),
        (Some("Basic bjE6"), "not `Bearer <token>`"),
    ] {
        let mut client = Client {
            grpc: Grpc::new(control.connect().await),
            token: token.map(str::to_owned),
        };
        let refused = [
            client.sign(asking(Some(CART))).await.unwrap_err(),
            client.report(vec![]).await.unwrap_err(),
            client.discover().await.err().expect("refused"),
        ];
        for status in refused {
            assert_eq!(status.code(), Code::Unauthenticated, "{token:?}");
            assert!(
                status.message().contains(reason),
                "{token:?}: {}",
                status.message()
            );
        }
    }
    assert_eq!(control.hub.metrics.refused_callers.get(), 12);
    assert!(control.hub.reports.watch().borrow().is_empty());
}

#[tokio::test]
async fn a_node_gets_its_pods_certificate_and_the_root() {
    let scratch = Scratch::new();
    let control = Control::start(&scratch);
    let mut client = control.client(&scratch, "n1").await;
    let chain = client.sign(asking(Some(CART))).await.unwrap().cert_chain;
    assert_eq!(chain.len(), 2);
    assert_eq!(chain[1], control.hub.authority.roots());
    let (_, pem) = x509_parser::pem::parse_x509_pem(chain[0].as_bytes()).unwrap();
    let leaf = pem.parse_x509().unwrap();
    let uri = x509_parser::extensions::GeneralName::URI(CART);
    assert_eq!(
        leaf.subject_alternative_name()
            .unwrap()
            .unwrap()
            .value
            .general_names,
        [uri]
    );
}

#[tokio::test]
async fn a_life_beyond_the_longest_is_cut() {
    let scratch = Scratch::new();
    let control = Control::start(&scratch);
    let mut client = control.client(&scratch, "n1").await;
    for (asked, hours) in [(3600, 1), (0, 24), (365 * 24 * 3600, 24), (i64::MAX, 24)] {
        let request = IstioCertificateRequest {
            validity_duration: asked,
            ..asking(Some(CART))
        };
        let chain = client.sign(request).await.unwrap().cert_chain;
        let (_, pem) = x509_parser::pem::parse_x509_pem(chain[0].as_bytes()).unwrap();
        let validity = pem.parse_x509().unwrap().validity().clone();
        let seconds = validity.not_after.timestamp() - validity.not_before.timestamp();
        assert_eq!(seconds, hours * 3600 + 120, "{asked}");
    }
}

#[tokio::test]
async fn what_is_not_the_nodes_is_not_signed() {
    let scratch = Scratch::new();
    let control = Control::start(&scratch);
    let mut client = control.client(&scratch, "n1").await;
    let asked = asking(Some(CART));
    for (request, code, reason) in [
        (
            asking(Some("spiffe://cluster.local/ns/shop/sa/till")),
            Code::PermissionDenied,
            "no pod on the caller's node",
        ),
        (
            asking(Some("spiffe://cluster.local/ns/shop/sa/nobody")),
            Code::PermissionDenied,
            "no pod on the caller's node",
        ),
        (
            asking(Some("spiffe://evil.example/ns/shop/sa/cart")),
            Code::PermissionDenied,
            "evil.example is not ours",
        ),
        (
            asking(Some("cart")),
            Code::PermissionDenied,
            "not of the form",
        ),
        (
            asking(None),
            Code::PermissionDenied,
            "no ImpersonatedIdentity",
        ),
        (
            IstioCertificateRequest {
                csr: "nonsense".to_owned(),
                ..asked.clone()
            },
            Code::InvalidArgument,
            "not a PKCS#10 request",
        ),
        (
            IstioCertificateRequest {
                validity_duration: -1,
                ..asked.clone()
            },
            Code::InvalidArgument,
            "-1 seconds",
        ),
    ] {
        let status = client.sign(request).await.unwrap_err();
        assert_eq!(
            (status.code(), status.message().contains(reason)),
            (code, true),
            "{}",
            status.message()
        );
    }
    // The same request, from the node where the pod does not run.
    let status = control
        .client(&scratch, "n2")
        .await
        .sign(asked)
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    let page = control.hub.metrics.text(&control.hub);
    assert!(
        page.contains("certificates_total{result=\"refused\"} 8"),
        "{page}"
    );
}

#[tokio::test]
async fn a_subscriber_gets_the_state_and_every_change() {
    let scratch = Scratch::new();
    let control = Control::start(&scratch);
    let mut session = control
        .client(&scratch, "n1")
        .await
        .discover()
        .await
        .unwrap();
    session.send(Kind::Address, |_| {}).await;
    let addresses = session.next().await;
    assert_eq!(
        (addresses.type_url.as_str(), names(&addresses)),
        (Kind::Address.type_url(), vec!["shop/a"])
    );
    session.send(Kind::Authorization, |_| {}).await;
    let policies = session.next().await;
    assert_eq!(names(&policies), ["shop/p"]);

    session
        .send(Kind::Address, |request| {
            request.response_nonce = addresses.nonce
        })
        .await;
    let error = rpc::Status {
        code: 3,
        message: "shop/p: no".to_owned(),
        ..Default::default()
    };
    session
        .send(Kind::Authorization, |request| {
            request.response_nonce = policies.nonce;
            request.error_detail = Some(error);
        })
        .await;
    control.publish(&[("shop/a", 1), ("shop/b", 1)], &["shop/p"]);
    let change = session.next().await;
    assert_eq!(
        (names(&change), change.removed_resources.len()),
        (vec!["shop/b"], 0)
    );
    control.publish(&[("shop/b", 1)], &["shop/p"]);
    let change = session.next().await;
    assert_eq!(names(&change), Vec::<&str>::new());
    assert_eq!(change.removed_resources, ["shop/a"]);

    // An answer's effect shows at the latest once a later request has been answered.
    session
        .send(Kind::Address, |request| {
            request.resource_names_subscribe = vec!["shop/b".to_owned()]
        })
        .await;
    session.next().await;
    let (address, policy) = (
        control.progress(Kind::Address),
        control.progress(Kind::Authorization),
    );
    assert!(address.accepted.is_some() && address.rejections == 0);
    assert_eq!(
        (
            policy.accepted,
            policy.rejections,
            policy.rejected.as_deref()
        ),
        (None, 1, Some("shop/p: no"))
    );
}

#[tokio::test(start_paused = true)]
async fn the_order_of_the_types_does_not_depend_on_which_is_asked_for_first() {
    let scratch = Scratch::new();
    let control = Control::start(&scratch);
    let workload = Workload {
        authorization_policies: vec!["shop/p".to_owned()],
        ..Default::default()
    };
    let address = Address {
        r#type: Some(Type::Workload(workload)),
    };
    let policy = security::Authorization {
        scope: security::Scope::WorkloadSelector as i32,
        ..Default::default()
    };
    let compiled = Compiled {
        addresses: [("w".to_owned(), Arc::new(address))].into(),
        authorizations: [("shop/p".to_owned(), policy)].into(),
        ..Compiled::default()
    };
    let snapshot = Arc::new(Snapshot::new(&compiled, &Snapshot::default()));
    control.hub.mesh.send_replace(Arc::new(Mesh {
        snapshot,
        ..Default::default()
    }));
    let mut session = control
        .client(&scratch, "n1")
        .await
        .discover()
        .await
        .unwrap();
    session.send(Kind::Address, |_| {}).await;
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    session.send(Kind::Authorization, |_| {}).await;
    assert_eq!(names(&session.next().await), ["shop/p"]);
    assert_eq!(names(&session.next().await), ["w"]);
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_says_nothing_stays_subscribed() {
    let scratch = Scratch::new();
    let control = Control::start(&scratch);
    let mut session = control
        .client(&scratch, "n1")
        .await
        .discover()
        .await
        .unwrap();
    session.send(Kind::Address, |_| {}).await;
    session.next().await;
    sleep(Duration::from_hours(2)).await;
    control.publish(&[("shop/b", 1)], &[]);
    assert_eq!(names(&session.next().await), ["shop/b"]);
}

#[tokio::test]
async fn a_malformed_request_ends_its_stream_alone() {
    let scratch = Scratch::new();
    let control = Control::start(&scratch);
    let mut good = control
        .client(&scratch, "n1")
        .await
        .discover()
        .await
        .unwrap();
    good.send(Kind::Address, |_| {}).await;
    good.next().await;
    let mut bad = control
        .client(&scratch, "n2")
        .await
        .discover()
        .await
        .unwrap();
    bad.send(Kind::Address, |request| {
        request.type_url = "type.googleapis.com/google.protobuf.Empty".to_owned()
    })
    .await;
    let status = bad.end().await;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(
        status.message().contains("is not served to this caller"),
        "{}",
        status.message()
    );
    control.publish(&[("shop/b", 1)], &[]);
    assert_eq!(names(&good.next().await), ["shop/b"]);
}

#[tokio::test]
async fn a_slow_subscriber_is_brought_to_the_latest_state() {
    let scratch = Scratch::new();
    let control = Control::start(&scratch);
    let mut session = control
        .client(&scratch, "n1")
        .await
        .discover()
        .await
        .unwrap();
    session.send(Kind::Address, |_| {}).await;
    session.next().await;
    for size in 0..50 {
        control.publish(&[("shop/a", 500_000 + size)], &[]);
        tokio::task::yield_now().await;
    }
    let latest = control
        .hub
        .mesh
        .borrow()
        .snapshot
        .nodes()
        .set(Kind::Address)["shop/a"]
        .version
        .to_string();
    let mut responses = 0;
    loop {
        responses += 1;
        if session.next().await.resources[0].version == latest {
            break;
        }
    }
    assert!(
        responses < 10,
        "{responses} responses for 50 states that nobody read"
    );
}

#[tokio::test]
async fn a_restart_keeps_the_root_the_tokens_and_the_versions() {
    let scratch = Scratch::new();
    let control = Control::start(&scratch);
    let mut client = control.client(&scratch, "n1").await;
    let before = client
        .sign(asking(Some(CART)))
        .await
        .unwrap()
        .cert_chain
        .pop();
    client.report(vec![pod("cart")]).await.unwrap();
    let reports = control.hub.reports.watch().borrow().clone();
    let mut session = client.discover().await.unwrap();
    session.send(Kind::Address, |_| {}).await;
    let held = session
        .next()
        .await
        .resources
        .into_iter()
        .map(|resource| (resource.name, resource.version))
        .collect();
    control.hub.closing.send_replace(true);
    assert_eq!(session.end().await.code(), Code::Unavailable);
    drop((session, client, control.connections));
    control.served.await.unwrap().unwrap();
    drop(control.hub);

    let control = Control::start(&scratch);
    let mut client = control.client(&scratch, "n1").await;
    assert_eq!(
        client
            .sign(asking(Some(CART)))
            .await
            .unwrap()
            .cert_chain
            .pop(),
        before
    );
    assert_eq!(*control.hub.reports.watch().borrow(), reports);
    let mut session = client.discover().await.unwrap();
    session
        .send(Kind::Address, |request| {
            request.initial_resource_versions = held
        })
        .await;
    let response = session.next().await;
    assert_eq!(
        (names(&response), response.removed_resources.len()),
        (vec![], 0)
    );
}

#[tokio::test]
async fn a_report_is_taken_for_the_callers_node() {
    let scratch = Scratch::new();
    let control = Control::start(&scratch);
    let mut client = control.client(&scratch, "n2").await;
    client.report(vec![pod("till"), pod("cart")]).await.unwrap();
    let reports = control.hub.reports.watch().borrow().clone();
    assert_eq!(reports.keys().collect::<Vec<_>>(), ["n2"]);
    let malformed = PodReport {
        addresses: vec![vec![1]],
        ..pod("till")
    };
    assert_eq!(
        client.report(vec![malformed]).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    assert_eq!(*control.hub.reports.watch().borrow(), reports);
}

#[tokio::test]
async fn clients_that_trust_the_root_reach_the_server_by_its_names_alone() {
    let scratch = Scratch::new();
    let state = StateDir::open(scratch.path()).unwrap();
    let now = SystemTime::now();
    let authority = Authority::open(&state, "cluster.local", now).unwrap();
    let names = ["localhost", "127.0.0.1"].map(crate::ca::ServerName::new);
    let certificate = Arc::new(accept::Certificate::default());
    certificate
        .replace(
            authority
                .serve_as(&names, Duration::from_hours(1), now)
                .unwrap(),
        )
        .unwrap();
    let server = tokio_rustls::TlsAcceptor::from(Arc::new(accept::tls(certificate).unwrap()));

    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.root().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let client = tokio_rustls::TlsConnector::from(Arc::new(config));
    for (name, reached) in [
        ("localhost", true),
        ("127.0.0.1", true),
        ("elsewhere", false),
        ("127.0.0.2", false),
    ] {
        let (near, far) = tokio::io::duplex(16 * 1024);
        let name_of_server = name.to_owned().try_into().unwrap();
        let (near, far) = tokio::join!(client.connect(name_of_server, near), server.accept(far));
        assert_eq!(near.is_ok(), reached, "{name}");
        if let (Ok(near), Ok(_)) = (near, far) {
            assert_eq!(near.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
            assert_eq!(
                near.get_ref().1.protocol_version(),
                Some(rustls::ProtocolVersion::TLSv1_3)
            );
        }
    }
}
