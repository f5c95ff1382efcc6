//! A control plane that a test drives: it says what it is told to say, when it is told to, right or wrong.
//!
//! Discovery and certificates are on two ports, so that one can be away without the other. Certificates are issued by
//! the real service; discovery is nothing but a list of resources, which every stream gets, and a record of what each
//! node answered.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use ::mesh::identity::Identity;
use cli::lab::CONTROL;
use control::{
    ca::{Authority, ServerName},
    placements::Placements,
    reports::Reports,
    serve::{
        self, Callers, Hub,
        accept::{self, Certificate},
        metrics::Metrics,
        streams::Streams,
    },
    state::StateDir,
    stubs::discovery::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer,
    subject::Subject,
    tokens::Tokens,
};
use prost::Message as _;
use proto::{
    ADDRESS_TYPE, AUTHORIZATION_TYPE,
    discovery::DeltaDiscoveryResponse,
    security::Authorization,
    workload::{Address, address::Type},
};
use rustls::pki_types::PrivateKeyDer;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};
use tokio_stream::wrappers::ReceiverStream;

use crate::{peer::Peer, pod::address, world::World};

mod stream;

use stream::{Discovery, Told, response};

/// Where discovery is.
pub const XDS: u16 = 15013;
/// Where certificates are.
pub const CA: u16 = 15012;

/// The control plane.
#[derive(Debug)]
pub struct Script {
    hub: Arc<Hub>,
    told: Told,
    runtime: tokio::runtime::Runtime,
}

/// A response that was sent, by which its answers are found.
#[derive(Clone, Debug)]
pub struct Nonce(String);

type Connection = accept::Connection<tokio_rustls::server::TlsStream<tokio::net::TcpStream>>;

impl Script {
    /// For the nodes and pods of a world, about which it says nothing yet. Certificates are issued only after
    /// [`issue`](Self::issue).
    pub fn new(world: &World) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let hub = Arc::new(hub(world));
        let script = Self {
            hub,
            told: Told::default(),
            runtime,
        };
        let server = AggregatedDiscoveryServiceServer::new(Discovery(script.told.clone()));
        let connections = script.listen(world, XDS);
        script.runtime.spawn(async move {
            let served = tonic::transport::Server::builder().add_service(server);
            served
                .serve_with_incoming(ReceiverStream::new(connections))
                .await
                .expect("it serves")
        });
        script
    }

    /// As [`new`](Self::new), with certificates.
    pub fn issuing(world: &World) -> Self {
        let script = Self::new(world);
        script.issue(world);
        script
    }

    /// Issues certificates from now on.
    pub fn issue(&self, world: &World) {
        let connections = self.listen(world, CA);
        let hub = Arc::clone(&self.hub);
        self.runtime.spawn(async move {
            let served = serve::serve(hub, ReceiverStream::new(connections));
            served.await.expect("it serves");
        });
    }

    /// Says these things of the pods of a world, and nothing of policies.
    pub fn tell_all(&self, world: &World) -> Nonce {
        self.policies(&[]);
        let all = world
            .pods()
            .iter()
            .map(|pod| address(pod.workload()))
            .collect::<Vec<_>>();
        self.addresses(&all)
    }

    /// Says that these workloads and services are so.
    pub fn addresses(&self, all: &[Address]) -> Nonce {
        let named = all.iter().map(|address| {
            let name = match &address.r#type {
                Some(Type::Workload(workload)) => workload.uid.clone(),
                Some(Type::Service(service)) => {
                    format!("{}/{}", service.namespace, service.hostname)
                }
                None => panic!("an address is a workload or a service"),
            };
            (name, address.encode_to_vec())
        });
        self.say(ADDRESS_TYPE, named.collect(), &[])
    }

    /// Says that these policies are so.
    pub fn policies(&self, all: &[Authorization]) -> Nonce {
        let named = all.iter().map(|policy| {
            let name = format!("{}/{}", policy.namespace, policy.name);
            (name, policy.encode_to_vec())
        });
        self.say(AUTHORIZATION_TYPE, named.collect(), &[])
    }

    /// Says that resources of a type are these bytes, and that others are gone.
    pub fn say(
        &self,
        type_url: &'static str,
        changed: Vec<(String, Vec<u8>)>,
        removed: &[&str],
    ) -> Nonce {
        let mut inner = self.told.lock();
        for name in removed {
            inner.resources.remove(&(type_url, (*name).to_owned()));
        }
        for (name, bytes) in &changed {
            inner
                .resources
                .insert((type_url, name.clone()), bytes.clone());
        }
        let mut response = response(type_url, changed);
        response.removed_resources = removed.iter().map(|name| (*name).to_owned()).collect();
        inner.broadcast(response)
    }

    /// Sends a response as it is, with a nonce unless `nonce` is false.
    pub fn blurt(&self, response: DeltaDiscoveryResponse, nonce: bool) -> Nonce {
        let mut inner = self.told.lock();
        if nonce {
            inner.broadcast(response)
        } else {
            inner.send(&response);
            Nonce(String::new())
        }
    }

    /// Ends all streams, as a control plane does that restarts.
    pub fn hang_up(&self) {
        self.told.lock().streams.clear();
    }

    /// Waits for a node's answer: `None` for yes, else its reason.
    pub fn answer(&self, world: &World, node: &str, nonce: &Nonce) -> Option<String> {
        let key = (node.to_owned(), nonce.0.clone());
        world.until("the node answers", || {
            self.told.lock().answers.contains_key(&key)
        });
        self.told.lock().answers[&key].clone()
    }

    /// Waits until all connected nodes have said yes.
    ///
    /// # Panics
    /// If one says no.
    pub fn accepted(&self, world: &World, nonce: &Nonce) {
        let nodes: Vec<_> = self
            .told
            .lock()
            .streams
            .iter()
            .map(|stream| stream.node.clone())
            .collect();
        assert!(!nodes.is_empty(), "nobody is there to answer");
        for node in nodes {
            assert_eq!(self.answer(world, &node, nonce), None, "{node}");
        }
    }

    /// Waits until this many nodes have a stream.
    pub fn connected(&self, world: &World, nodes: usize) {
        world.until("nodes connect", || {
            self.told
                .lock()
                .streams
                .iter()
                .filter(|stream| !stream.to.is_closed())
                .count()
                == nodes
        });
    }

    /// Another proxy, in a pod of the world, with a certificate of this identity.
    pub fn peer(&self, world: &World, pod: &str, identity: Identity) -> Peer {
        let issued = issue(&self.hub.authority, identity);
        Peer::new(world.netns(pod), issued, identity)
    }

    /// As [`peer`](Self::peer), with a certificate of an authority that nobody knows.
    pub fn stranger(&self, world: &World, pod: &str, identity: Identity) -> Peer {
        let state = StateDir::open(&world.path("stranger")).expect("a directory of its own");
        let authority =
            Authority::open(&state, "cluster.local", SystemTime::now()).expect("a new root");
        let mut issued = issue(&authority, identity);
        // It knows whom it talks to; they do not know it.
        issued.chain.pop();
        issued.chain.push(self.hub.authority.roots().to_owned());
        Peer::new(world.netns(pod), issued, identity)
    }

    fn listen(&self, world: &World, port: u16) -> mpsc::Receiver<io::Result<Connection>> {
        let listener = world.lab.control().within(|| {
            let address = SocketAddr::new(CONTROL.into(), port);
            let listener = std::net::TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        let listener = listener.expect("the port is free");
        let certificate = Arc::new(Certificate::default());
        let made = self.hub.authority.serve_as(
            &[ServerName::Ip(CONTROL.into())],
            Duration::from_hours(1),
            SystemTime::now(),
        );
        certificate
            .replace(made.expect("a certificate"))
            .expect("a key that can be used");
        let tls = accept::tls(certificate).expect("a configuration");
        let (connections, accepted) = mpsc::channel(16);
        self.runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("a socket of ours");
            accept::accept(listener, tls, connections).await;
        });
        accepted
    }
}

fn hub(world: &World) -> Hub {
    let state = Arc::new(StateDir::open(&world.path("state")).expect("a directory of its own"));
    let tokens = Tokens::open(Arc::clone(&state)).expect("a new directory");
    for node in ["n1", "n2"] {
        let node = Subject::Node(node.to_owned());
        tokens.ensure(&node).expect("a token");
    }
    let mut placements = Placements::default();
    for pod in world.pods() {
        placements.add(pod.node.name(), pod.namespace, pod.name, pod.name);
    }
    let mesh = serve::Mesh {
        placements,
        ..serve::Mesh::default()
    };
    Hub {
        authority: Authority::open(&state, "cluster.local", SystemTime::now()).expect("a root"),
        trust_domain: "cluster.local".to_owned(),
        longest_life: Duration::from_hours(24),
        callers: Callers::Tokens(tokens),
        reports: Reports::open(state).expect("a new directory"),
        mesh: watch::Sender::new(Arc::new(mesh)),
        streams: Streams::default(),
        metrics: Metrics::default(),
        closing: watch::Sender::new(false),
    }
}

fn issue(authority: &Authority, identity: Identity) -> net::tls::Issued {
    let key = rcgen::KeyPair::generate().expect("a key");
    let request = rcgen::CertificateParams::default()
        .serialize_request(&key)
        .and_then(|request| request.pem())
        .expect("a request");
    let life = Duration::from_hours(1);
    let issued = authority
        .sign(&request, identity, life, SystemTime::now())
        .expect("a certificate");
    net::tls::Issued {
        chain: vec![issued.leaf, authority.roots().to_owned()],
        key: PrivateKeyDer::try_from(key.serialize_der()).expect("PKCS#8"),
    }
}
