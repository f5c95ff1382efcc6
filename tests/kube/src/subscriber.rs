//! Subscribers of delta discovery that keep what they are told as it came, byte by byte: to compare, and to count.

use std::{
    collections::BTreeMap,
    fs,
    process::Command,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use net::channel::{Caller, Roots, Server, Token};
use proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use sys::netns::Netns;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, client::Grpc, codegen::http::uri::PathAndQuery};
use tonic_prost::ProstCodec;

use crate::{
    Cluster,
    mesh::NAMESPACE,
    program::{run, wait},
    token,
};

/// What node proxies are told.
pub const NODE: &[&str] = &[proto::ADDRESS_TYPE, proto::AUTHORIZATION_TYPE];

/// What waypoints are told.
pub const WAYPOINT: &[&str] = &[
    proto::TABLE_TYPE,
    proto::ROUTE_TYPE,
    proto::POLICY_TYPE,
    proto::BACKEND_TYPE,
];

/// Whom tokens are for.
pub const AUDIENCE: &str = "istio-ca";

const PATH: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
const SOON: Duration = Duration::from_secs(30);
/// What follows of a change comes sooner.
const QUIET: Duration = Duration::from_secs(2);

/// By type and name: the version, and the bytes.
pub type State = BTreeMap<(String, String), (String, Vec<u8>)>;

/// One open stream.
#[derive(Debug)]
pub struct Subscriber {
    told: Arc<Mutex<Told>>,
    // Its end is the stream's.
    _open: oneshot::Sender<()>,
}

/// What a subscriber was told until now.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// What there is.
    pub state: State,
    /// How many responses there were of each type.
    pub responses: BTreeMap<String, usize>,
    /// Why the stream ended.
    pub ended: Option<String>,
}

/// How a subscriber answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// Accepts whatever it is sent.
    Accepts,
    /// Says nothing.
    Silent,
}

/// A replica of the control plane as it is reached from a node.
#[derive(Debug)]
pub struct Replica {
    /// Name of its pod.
    pub name: String,
    /// Where that runs.
    pub node: String,
    /// Its address.
    pub address: String,
    server: Server,
}

impl Replica {
    /// All that run.
    ///
    /// # Panics
    /// If nobody knows the root yet.
    pub fn all(cluster: &Cluster) -> Vec<Self> {
        let roots = cluster.get(&["-n", NAMESPACE, "configmap", "istio-ca-root-cert"]);
        let roots = roots["data"]["root-cert.pem"]
            .as_str()
            .expect("it has a root");
        let pods = cluster.get(&["-n", NAMESPACE, "pods", "-l", "app=ambit-control"]);
        let pods = pods["items"].as_array().into_iter().flatten();
        let running = pods.filter(|pod| {
            let status = &pod["status"];
            status["phase"] == "Running" && pod["metadata"]["deletionTimestamp"].is_null()
        });
        let replica = |pod: &serde_json::Value| {
            let name = pod["metadata"]["name"].as_str()?.to_owned();
            let node = pod["spec"]["nodeName"].as_str()?.to_owned();
            let address = pod["status"]["podIP"].as_str()?.to_owned();
            let url = format!("https://{address}:15012");
            let server_name = format!("ambit-control.{NAMESPACE}.svc");
            let roots = Roots::Pem(roots.to_owned());
            let server = Server::new(&url, roots, Some(&server_name)).ok()?;
            Some(Self {
                name,
                node,
                address,
                server,
            })
        };
        running.filter_map(replica).collect()
    }

    /// The name of the one that writes.
    pub fn leader(cluster: &Cluster) -> String {
        let lease = cluster.get(&["-n", NAMESPACE, "lease", "ambit-control-leader"]);
        let holder = lease["spec"]["holderIdentity"].as_str();
        holder.unwrap_or_default().to_owned()
    }

    /// Kills its process, which gets to do nothing more.
    ///
    /// # Panics
    /// If it does not run on this machine.
    pub fn kill(&self) {
        let mine = format!("POD_NAME={}\0", self.name);
        let is_it = |pid: &str| {
            let of = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let environment = of("environ");
            let mut parts = environment.windows(mine.len());
            parts.any(|it| it == mine.as_bytes())
                && of("cmdline").starts_with(b"/usr/bin/ambit\0control\0")
        };
        let all = fs::read_dir("/proc").expect("there is one");
        let all = all.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let found = all.filter(|pid| pid.parse::<u32>().is_ok() && is_it(pid));
        let found: Vec<_> = found.collect();
        assert!(!found.is_empty(), "no process of {}", self.name);
        let killed = run(Command::new("kill").arg("-9").args(&found), "");
        killed.unwrap_or_else(|failed| panic!("{failed}"));
    }

    /// Kills it, and takes its pod away: another one takes its place, with another name.
    ///
    /// # Panics
    /// As [`Replica::kill`].
    pub fn remove(&self, cluster: &Cluster) {
        self.kill();
        let now = ["--force", "--grace-period=0"];
        let delete = ["-n", NAMESPACE, "delete", "pod", &self.name];
        cluster.does(&[&delete[..], &now].concat());
    }

    /// Subscribes to all of these types from a node.
    pub fn subscribe(
        &self,
        cluster: &Cluster,
        token: &str,
        types: &'static [&'static str],
        answers: Answers,
    ) -> Subscriber {
        let (open, closed) = oneshot::channel();
        let told = Arc::new(Mutex::new(Told::default()));
        let subscription = Subscription {
            server: self.server.clone(),
            token: token.to_owned(),
            types,
            answers,
            told: Arc::clone(&told),
        };
        let netns = cluster.netns("kn1");
        thread::spawn(move || subscription.run(&netns, closed));
        Subscriber { told, _open: open }
    }
}

/// A token of a node's proxy, or of a pod that is a waypoint.
pub fn token(cluster: &Cluster, account: (&str, &str), pod: &str) -> String {
    token::of(cluster, account, Some(pod), Some(AUDIENCE))
}

/// A token of the proxy of `kn1`.
pub fn node_token(cluster: &Cluster) -> String {
    let pod = token::pod_on(cluster, NAMESPACE, "ztunnel", "kn1");
    token(cluster, (NAMESPACE, "ztunnel"), &pod)
}

impl Subscriber {
    /// What it was told until now.
    pub fn told(&self) -> Told {
        lock(&self.told).clone()
    }

    /// What it was told, once nothing more comes.
    ///
    /// # Panics
    /// If there is no end to it.
    pub fn settled(&self) -> Told {
        let mut last = self.told();
        let mut since = Instant::now();
        wait("nothing more to be told", SOON, || {
            let told = self.told();
            if told.responses != last.responses {
                (last, since) = (told.clone(), Instant::now());
            }
            let quiet = since.elapsed() > QUIET;
            quiet
                .then_some(told)
                .ok_or_else(|| format!("{:?}", last.responses))
        })
    }

    /// What it was told, once it has all types.
    ///
    /// # Panics
    /// If that does not come.
    pub fn all(&self, types: &[&str]) -> State {
        wait("all types", SOON, || {
            let told = self.told();
            let has = types.iter().all(|it| told.responses.contains_key(*it));
            has.then_some(told.state)
                .ok_or_else(|| format!("{:?} {:?}", told.responses.keys(), told.ended))
        })
    }
}

struct Subscription {
    server: Server,
    token: String,
    types: &'static [&'static str],
    answers: Answers,
    told: Arc<Mutex<Told>>,
}

impl Subscription {
    fn run(self, netns: &Netns, closed: oneshot::Receiver<()>) {
        let told = Arc::clone(&self.told);
        let done = netns.within(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            Ok(runtime.block_on(async {
                tokio::select! {
                    ended = self.converse() => ended.err().map(|status| status.to_string()),
                    _ = closed => None,
                }
            }))
        });
        let ended = done.unwrap_or_else(|error| Some(error.to_string()));
        lock(&told).ended = Some(ended.unwrap_or_else(|| "closed".to_owned()));
    }

    async fn converse(self) -> Result<(), Status> {
        let (requests, receiver) = mpsc::channel(64);
        let send = |type_url: &str, nonce: String| {
            let request = DeltaDiscoveryRequest {
                type_url: type_url.to_owned(),
                response_nonce: nonce,
                ..DeltaDiscoveryRequest::default()
            };
            // Who is behind with reading has its stream ended by the timeouts of the other end.
            requests.try_send(request).is_ok()
        };
        for kind in self.types {
            send(kind, String::new());
        }
        let caller = Caller {
            token: Some(Token::Literal(self.token.clone())),
            cluster: "Kubernetes".to_owned(),
            headers: Vec::new(),
        };
        let request = caller.request(ReceiverStream::new(receiver));
        let request = request.map_err(|error| Status::internal(error.to_string()))?;
        let mut client = Grpc::new(self.server.lazy()).max_decoding_message_size(64 << 20);
        let ready = client.ready().await;
        ready.map_err(|error| Status::unavailable(error.to_string()))?;
        let codec = ProstCodec::<DeltaDiscoveryRequest, DeltaDiscoveryResponse>::default();
        let path = PathAndQuery::from_static(PATH);
        let mut responses = client.streaming(request, path, codec).await?.into_inner();
        while let Some(response) = responses.message().await? {
            if self.answers == Answers::Accepts {
                send(&response.type_url, response.nonce.clone());
            }
            self.take(response);
        }
        Ok(())
    }

    fn take(&self, response: DeltaDiscoveryResponse) {
        let mut told = lock(&self.told);
        let kind = response.type_url;
        for name in response.removed_resources {
            told.state.remove(&(kind.clone(), name));
        }
        for resource in response.resources {
            let body = resource.resource.map(|any| any.value).unwrap_or_default();
            let key = (kind.clone(), resource.name);
            told.state.insert(key, (resource.version, body));
        }
        *told.responses.entry(kind).or_default() += 1;
    }
}

fn lock(told: &Mutex<Told>) -> MutexGuard<'_, Told> {
    told.lock().unwrap_or_else(PoisonError::into_inner)
}
