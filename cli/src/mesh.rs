//! A mesh that runs on this machine: a lab, the components and applications in it, and the ways to ask them.
//!
//! All components are children of this process and run one executable, `ambit`. Nothing is decided here about what a mesh
//! ought to do: the demo's checks do that, and tests.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use sys::netns::Netns;

use crate::{
    Failure,
    http::{Connection, Request, Response},
    lab::{
        self, Lab, Node,
        process::{Log, Processes},
    },
    zc,
};

pub mod access;
mod deploy;
pub mod pod;
mod start;
pub mod tunnel;

use access::Record;
pub use deploy::Deployed;
use pod::Pod;

/// How long anything may take that should take milliseconds.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// The directory of manifests: `NAME.yaml` files that may be edited while the mesh runs.
pub const MANIFESTS: &str = "manifests";
/// The control plane's root, and the tokens of nodes and waypoints.
pub const STATE: &str = "state";
/// Links to the namespaces of pods and nodes, by name.
pub const NETNS: &str = "netns";
/// The link to the control plane's own.
pub const CONTROL: &str = "control";
/// What the children write, `NAME.log` each: `control`, `node-n1`, `ztunnel-n1`, `waypoint-POD`, `app-POD`.
pub const LOG: &str = "log";
/// Where agents and ztunnels meet.
pub const ZDS: &str = "zds";

/// What a mesh is made with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `ambit`.
    pub executable: PathBuf,
    /// A directory with the directories [`MANIFESTS`], [`STATE`], [`NETNS`], [`LOG`] and [`ZDS`] in it, all but the first
    /// empty.
    pub root: PathBuf,
    /// Life of the pods' certificates, such as `20s`.
    pub certificates: String,
    /// Further variables for the ztunnel of a node.
    pub environment: Vec<(Node, &'static str, String)>,
}

/// A mesh. Dropping it ends all of it.
#[derive(Debug)]
pub struct Mesh {
    /// The namespaces.
    pub lab: Lab,
    /// The children.
    pub processes: Arc<Processes>,
    /// In and outside the mesh.
    pub pods: Vec<Pod>,
    /// Namespaces and names of the services that ask for a waypoint.
    bound: Vec<(String, String)>,
    seen: deploy::Seen,
    settings: Settings,
}

/// An answer, and how it came.
#[derive(Debug)]
pub struct Answer {
    /// The answer itself.
    pub response: Response,
    /// The client's own address, as its socket says.
    pub client: SocketAddr,
    /// From before the connection was made until all of the answer was there.
    pub took: Duration,
}

/// A place in the logs of both ztunnels.
#[derive(Clone, Copy, Debug)]
pub struct Mark([u64; 2]);

impl Mesh {
    /// Builds the lab and the pods of the manifests, to which it adds those of waypoints. Nothing runs in it yet.
    pub fn lay_out(settings: Settings, processes: Arc<Processes>) -> Result<Self, Failure> {
        let failed =
            |what: &str, error: io::Error| Failure::Failed(format!("cannot {what}: {error}"));
        let manifests = settings.root.join(MANIFESTS);
        let (seen, pod::Read { pods, bound }) =
            deploy::Seen::first(&manifests).map_err(Failure::Failed)?;
        let mut lab = Lab::create().map_err(|error| failed("make network namespaces", error))?;
        for pod in &pods {
            let made = lab.add_pod(&pod.netns, pod.node, &pod.addresses);
            made.map_err(|error| failed("make a pod's namespace", error))?;
        }
        let directory = settings.root.join(NETNS);
        lab.publish(&directory)
            .map_err(|error| failed("publish the pods' namespaces", error))?;
        let published = lab::publish(lab.control(), &directory.join(CONTROL));
        published.map_err(|error| failed("publish the control plane's namespace", error))?;
        for node in Node::ALL {
            let published = lab::publish(lab.node(node), &directory.join(node.name()));
            published.map_err(|error| failed("publish a node's namespace", error))?;
        }
        Ok(Self {
            lab,
            processes,
            pods,
            bound,
            seen,
            settings,
        })
    }

    /// The file of the control plane's root.
    pub fn root_certificate(&self) -> PathBuf {
        self.path(STATE).join("root-cert.pem")
    }

    /// The file of a node's token.
    pub fn token(&self, node: Node) -> PathBuf {
        self.path(STATE).join("tokens").join(node.name())
    }

    /// The file of the token of a Gateway's waypoint.
    pub fn waypoint_token(&self, namespace: &str, gateway: &str) -> PathBuf {
        let name = format!("{namespace}.{gateway}");
        self.path(STATE).join("waypoint-tokens").join(name)
    }

    /// A path in the mesh's directory.
    pub fn path(&self, part: impl AsRef<Path>) -> PathBuf {
        self.settings.root.join(part)
    }

    /// A pod by the name that the demo has for it.
    pub fn pod(&self, name: &str) -> Result<&Pod, String> {
        self.pods
            .iter()
            .find(|pod| pod.netns == name)
            .ok_or_else(|| format!("no manifest has the pod {name}"))
    }

    /// The namespace of a pod.
    pub fn netns(&self, name: &str) -> Result<&Netns, Failure> {
        self.lab
            .pod(name)
            .map(|pod| &pod.netns)
            .ok_or_else(|| Failure::Failed(format!("there is no pod {name}")))
    }

    /// A connection from a pod.
    pub fn connect(&self, from: &str, to: SocketAddr) -> io::Result<TcpStream> {
        let netns = self
            .netns(from)
            .map_err(|failure| io::Error::other(failure.to_string()))?;
        self.lab.connect(netns, to, PATIENCE)
    }

    /// One request for `/` on a connection of its own, which is closed when this returns.
    pub fn request(&self, from: &str, to: SocketAddr, body: &[u8]) -> io::Result<Answer> {
        let method = if body.is_empty() { "GET" } else { "POST" };
        let request = Request {
            method,
            body,
            ..Request::get("/")
        };
        self.ask(from, to, &request)
    }

    /// Any request on a connection of its own, which is closed when this returns.
    pub fn ask(&self, from: &str, to: SocketAddr, request: &Request<'_>) -> io::Result<Answer> {
        let begin = Instant::now();
        let stream = self.connect(from, to)?;
        let client = stream.local_addr()?;
        let response = Connection::over(stream, to.to_string())
            .ask(request)
            .map_err(in_words)?;
        Ok(Answer {
            response,
            client,
            took: begin.elapsed(),
        })
    }

    /// What a ztunnel believes.
    pub fn dump(&self, node: Node) -> io::Result<Value> {
        let admin = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 15000);
        zc::dump(
            self.lab.connect(self.lab.node(node), admin, PATIENCE)?,
            "localhost",
        )
    }

    /// The end of both access logs.
    pub fn mark(&self) -> Mark {
        Mark(Node::ALL.map(|node| self.access_log(node).length()))
    }

    /// The first record after a mark that is as wanted, on one node; waits for it.
    pub fn record(
        &self,
        since: Mark,
        node: Node,
        wanted: impl Fn(&Record) -> bool,
    ) -> Result<Record, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = self
                .access_log(node)
                .since(since.0[node as usize])
                .map_err(|error| format!("cannot read a log: {error}"))?;
            if let Some(record) = text.lines().filter_map(access::parse).find(&wanted) {
                return Ok(record);
            }
            if Instant::now() >= deadline {
                return Err(format!(
                    "the ztunnel of {} logged no such connection: {}",
                    node.name(),
                    last(&text)
                ));
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// What the waypoint in a pod believes.
    pub fn waypoint_dump(&self, pod: &str) -> io::Result<Value> {
        let admin = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 15000);
        zc::dump(self.connect(pod, admin)?, "localhost")
    }

    /// The end of the log of the waypoint in a pod.
    pub fn waypoint_mark(&self, pod: &str) -> u64 {
        self.waypoint_log(pod).length()
    }

    /// What the waypoint in a pod has logged of requests and connections after a mark.
    pub fn waypoint_lines(&self, pod: &str, since: u64) -> Result<Vec<String>, String> {
        let text = self.waypoint_log(pod).since(since);
        let text = text.map_err(|error| format!("cannot read a log: {error}"))?;
        Ok(text.lines().filter_map(access::request).collect())
    }

    /// The first of these that is as wanted; waits for it.
    pub fn waypoint_line(
        &self,
        pod: &str,
        since: u64,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<String, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let lines = self.waypoint_lines(pod, since)?;
            if let Some(line) = lines.iter().find(|line| wanted(line)) {
                return Ok(line.clone());
            }
            if Instant::now() >= deadline {
                let last = lines.last().map_or("nothing at all", String::as_str);
                return Err(format!(
                    "the waypoint in {pod} logged no such request: {last}"
                ));
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn waypoint_log(&self, pod: &str) -> Log {
        self.processes.log(&format!("waypoint-{pod}"))
    }

    fn access_log(&self, node: Node) -> Log {
        self.processes.log(&format!("ztunnel-{}", node.name()))
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if let Err(error) = self.processes.end_all() {
            eprintln!("ambit: cannot end the children: {error}");
        }
    }
}

/// The kernel's word for a read that took too long is "temporarily unavailable".
fn in_words(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no answer within {PATIENCE:?}"),
        ),
        _ => error,
    }
}

/// The last line, for an error message.
fn last(text: &str) -> &str {
    text.lines()
        .rfind(|line| access::parse(line).is_some())
        .unwrap_or("its log has no connection since then")
}
