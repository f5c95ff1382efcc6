//! A running mesh: the lab, the components and applications in it, and the ways to ask them.
//!
//! All components are children of this process and run the same executable. Nothing is decided here about what a mesh
//! ought to do; the checks do that.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    path::PathBuf,
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use sys::netns::Netns;

use super::{
    access::{self, Record},
    fault::Fault,
    manifests::{self, Pod},
    room::{self, Room},
};
use crate::{
    Failure,
    http::{Connection, Response},
    lab::{CONTROL, Lab, Node, process::Processes},
    zc,
};

/// The directory of manifests.
pub(crate) const MANIFESTS: &str = "manifests";

/// How long anything may take that should take milliseconds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// How long a start may take on a machine that does something else.
const START: Duration = Duration::from_secs(30);
/// Life of the pods' certificates: short, so that a renewal can be watched.
const CERTIFICATES: &str = "20s";
const HTTP: u16 = 8080;
const TCP: u16 = 9090;

/// A mesh that runs. Dropping it ends all of it.
#[derive(Debug)]
pub(crate) struct Mesh {
    pub(crate) lab: Lab,
    pub(crate) processes: Arc<Processes>,
    /// In and outside the mesh.
    pub(crate) pods: Vec<Pod>,
    pub(crate) room: Room,
    executable: PathBuf,
}

/// An answer, and how it came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) response: Response,
    /// The client's own address, as its socket says.
    pub(crate) client: SocketAddr,
    pub(crate) took: Duration,
}

/// A place in the logs of both ztunnels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark([u64; 2]);

impl Mesh {
    /// Builds the lab and the pods of the manifests in the room. Nothing runs in it yet.
    pub(crate) fn lay_out(
        room: Room,
        processes: Arc<Processes>,
        fault: Option<Fault>,
    ) -> Result<Self, Failure> {
        let failed =
            |what: &str, error: io::Error| Failure::Failed(format!("cannot {what}: {error}"));
        let executable =
            std::env::current_exe().map_err(|error| failed("find this executable", error))?;
        let directory = room.join(MANIFESTS);
        manifests::write(&directory).map_err(|error| failed("write the manifests", error))?;
        if let Some(fault) = fault {
            fault
                .before(&directory)
                .map_err(|error| failed("break the manifests", error))?;
        }
        let pods = manifests::pods(&directory).map_err(Failure::Failed)?;
        let mut lab = Lab::create().map_err(|error| failed("make network namespaces", error))?;
        for pod in &pods {
            lab.add_pod(&pod.netns, pod.node, &pod.addresses)
                .map_err(|error| failed("make a pod's namespace", error))?;
        }
        lab.publish(&room.join("netns"))
            .map_err(|error| failed("publish the pods' namespaces", error))?;
        for node in Node::ALL {
            let path = room.join("netns").join(node.name());
            crate::lab::publish(lab.node(node), &path)
                .map_err(|error| failed("publish a node's namespace", error))?;
        }
        Ok(Self {
            lab,
            processes,
            pods,
            room,
            executable,
        })
    }

    /// Starts everything, and tells `progress` what it waits for.
    pub(crate) fn start(
        &self,
        fault: Option<Fault>,
        progress: &mut dyn FnMut(&str),
    ) -> Result<(), Failure> {
        for pod in &self.pods {
            self.start_app(pod)?;
        }
        progress("the control plane");
        self.start_control()?;
        self.wait("the control plane answers", START, || {
            let stream = self.lab.connect(
                self.lab.control(),
                SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 15014),
                PATIENCE,
            );
            let answer = stream.and_then(|stream| {
                Connection::over(stream, "control").send("GET", "/healthz/ready", b"")
            });
            Ok(answer
                .ok()
                .filter(|answer| answer.status == 200)
                .map(|_| ()))
        })?;
        progress("node agents and ztunnels on n1 and n2");
        for node in Node::ALL {
            self.start_node(node, fault)?;
        }
        progress("every enrolled pod to be captured, with a certificate");
        self.wait(
            "every enrolled pod is captured, with a certificate",
            START,
            || {
                let missing = Node::ALL.map(|node| self.missing(node)).concat();
                Ok(missing.is_empty().then_some(()))
            },
        )
    }

    /// The control plane; also after it was ended.
    pub(crate) fn start_control(&self) -> Result<(), Failure> {
        let mut command = self.component("control");
        command.arg("--from").arg(self.room.join(MANIFESTS));
        command.arg("--state-dir").arg(self.room.join("state"));
        command.args(["--listen", &format!("{CONTROL}:15012")]);
        self.run("control", self.lab.control(), &mut command)
    }

    fn start_node(&self, node: Node, fault: Option<Fault>) -> Result<(), Failure> {
        let name = node.name();
        let (root, token) = (
            self.room.join("state/root-cert.pem"),
            self.room.join("state/tokens").join(name),
        );
        let socket = self.room.join("zds").join(name);
        let server = format!("{CONTROL}:15012");
        let mut agent = self.component("node");
        agent.args(["--node", name, "--control", &server]);
        agent.arg("--manifests").arg(self.room.join(MANIFESTS));
        agent.arg("--netns-dir").arg(self.room.join("netns"));
        agent.arg("--zds-socket").arg(&socket);
        agent.arg("--control-root").arg(&root);
        agent.arg("--control-token").arg(&token);
        self.run(&format!("node-{name}"), self.lab.node(node), &mut agent)?;

        let mut ztunnel = self.component("ztunnel");
        ztunnel
            .env("NODE_NAME", name)
            .env("INSTANCE_IP", node.address().to_string());
        ztunnel.env("INPOD_UDS", &socket).env("AUTH_TOKEN", &token);
        for kind in ["XDS", "CA"] {
            ztunnel.env(format!("{kind}_ADDRESS"), format!("https://{server}"));
            ztunnel.env(format!("{kind}_ROOT_CA"), &root);
        }
        ztunnel
            .env("SECRET_TTL", CERTIFICATES)
            .env("ZTUNNEL_WORKER_THREADS", "2");
        if let Some(fault) = fault {
            ztunnel.envs(fault.environment(node));
        }
        self.run(
            &format!("ztunnel-{name}"),
            self.lab.node(node),
            &mut ztunnel,
        )
    }

    fn start_app(&self, pod: &Pod) -> Result<(), Failure> {
        let mut echo = self.component("echo");
        echo.args([
            "--name",
            &pod.name,
            "--http",
            &HTTP.to_string(),
            "--tcp",
            &TCP.to_string(),
        ]);
        self.run(
            &format!("app-{}", pod.netns),
            self.netns(&pod.netns)?,
            &mut echo,
        )
    }

    /// This executable as a component, with an environment of its own.
    pub(crate) fn component(&self, name: &str) -> Command {
        let mut command = Command::new(&self.executable);
        command.arg(name).env_clear();
        for kept in ["PATH", "RUST_BACKTRACE"] {
            command.envs(std::env::var_os(kept).map(|value| (kept, value)));
        }
        command.env(
            "RUST_LOG",
            std::env::var("RUST_LOG").unwrap_or_else(|_| "info".to_owned()),
        );
        // So that one can tell whose child a process is.
        command.env(room::VARIABLE, self.room.path());
        command
    }

    /// Starts a child in a namespace.
    pub(crate) fn run(
        &self,
        name: &str,
        netns: &Netns,
        command: &mut Command,
    ) -> Result<(), Failure> {
        self.processes
            .start(name, netns, command)
            .map(drop)
            .map_err(|error| Failure::Failed(error.to_string()))
    }

    /// What is not yet as the manifests want it, as one ztunnel sees it.
    pub(crate) fn missing(&self, node: Node) -> Vec<String> {
        let dump = match self.dump(node) {
            Ok(dump) => dump,
            Err(error) => return vec![format!("the ztunnel of {}: {error}", node.name())],
        };
        let all = |key: &str| dump[key].as_array().cloned().unwrap_or_default();
        let (workloads, certificates) = (all("workloads"), all("certificates"));
        let states: Vec<_> = dump["workloadState"]
            .as_object()
            .map(|it| it.values().cloned().collect())
            .unwrap_or_default();
        let mut missing = Vec::new();
        for pod in self.pods.iter().filter(|pod| pod.enrolled) {
            let mut want = |holds: bool, what: &str| {
                if !holds {
                    missing.push(format!(
                        "{what} {}/{}, says the ztunnel of {}",
                        pod.namespace,
                        pod.name,
                        node.name()
                    ));
                }
            };
            let is = |it: &Value| {
                it["name"] == pod.name.as_str() && it["namespace"] == pod.namespace.as_str()
            };
            want(
                workloads
                    .iter()
                    .any(|it| is(it) && it["protocol"] == "HBONE"),
                "no tunnel leads to",
            );
            if pod.node == node {
                want(
                    states
                        .iter()
                        .any(|it| is(&it["info"]) && it["state"] == "Up"),
                    "not serving",
                );
                let held = certificates.iter().any(|it| {
                    it["identity"] == pod.identity.as_str() && it["state"] == "Available"
                });
                want(held, "no certificate for");
            }
        }
        missing
    }

    /// A pod by the name that the demo has for it.
    pub(crate) fn pod(&self, name: &str) -> Result<&Pod, String> {
        self.pods
            .iter()
            .find(|pod| pod.netns == name)
            .ok_or_else(|| format!("no manifest has the pod {name}"))
    }

    /// The namespace of a pod.
    pub(crate) fn netns(&self, name: &str) -> Result<&Netns, Failure> {
        self.lab
            .pod(name)
            .map(|pod| &pod.netns)
            .ok_or_else(|| Failure::Failed(format!("there is no pod {name}")))
    }

    /// A connection from a pod.
    pub(crate) fn connect(&self, from: &str, to: SocketAddr) -> io::Result<TcpStream> {
        let netns = self
            .netns(from)
            .map_err(|failure| io::Error::other(failure.to_string()))?;
        self.lab.connect(netns, to, PATIENCE)
    }

    /// One request on a connection of its own, which is closed when this returns.
    pub(crate) fn request(&self, from: &str, to: SocketAddr, body: &[u8]) -> io::Result<Answer> {
        let begin = Instant::now();
        let stream = self.connect(from, to)?;
        let client = stream.local_addr()?;
        let method = if body.is_empty() { "GET" } else { "POST" };
        let response = Connection::over(stream, to.to_string())
            .send(method, "/", body)
            .map_err(in_words)?;
        Ok(Answer {
            response,
            client,
            took: begin.elapsed(),
        })
    }

    /// What a ztunnel believes.
    pub(crate) fn dump(&self, node: Node) -> io::Result<Value> {
        let admin = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 15000);
        zc::dump(
            self.lab.connect(self.lab.node(node), admin, PATIENCE)?,
            "localhost",
        )
    }

    /// The end of both access logs.
    pub(crate) fn mark(&self) -> Mark {
        Mark(Node::ALL.map(|node| self.access_log(node).length()))
    }

    /// The first record after a mark that is as wanted, on one node; waits for it.
    pub(crate) fn record(
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

    fn access_log(&self, node: Node) -> crate::lab::process::Log {
        self.processes.log(&format!("ztunnel-{}", node.name()))
    }

    /// Waits for something, as long as every child lives.
    pub(crate) fn wait<T>(
        &self,
        what: &str,
        patience: Duration,
        mut found: impl FnMut() -> Result<Option<T>, Failure>,
    ) -> Result<T, Failure> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(found) = found()? {
                return Ok(found);
            }
            self.alive()?;
            if Instant::now() >= deadline {
                let missing: Vec<_> = Node::ALL.map(|node| self.missing(node)).concat();
                let missing = if missing.is_empty() {
                    String::new()
                } else {
                    format!("\nmissing: {}", missing.join("\nmissing: "))
                };
                return Err(Failure::Failed(format!(
                    "waited {patience:?} until {what}, in vain{missing}\n{}",
                    self.last_words()
                )));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// That no child has ended by itself.
    pub(crate) fn alive(&self) -> Result<(), Failure> {
        match self.processes.ended() {
            Ok(None) => Ok(()),
            Ok(Some((name, status))) => {
                let words = self.processes.log(&name).tail(8);
                Err(Failure::Failed(format!(
                    "{name} ended by itself ({status}). Its last words:\n{words}"
                )))
            }
            Err(error) => Err(Failure::Failed(format!(
                "cannot ask for the children: {error}"
            ))),
        }
    }

    fn last_words(&self) -> String {
        let mut words = BTreeMap::new();
        for name in ["control", "node-n1", "node-n2", "ztunnel-n1", "ztunnel-n2"] {
            words.insert(name, self.processes.log(name).tail(4));
        }
        let words: Vec<_> = words
            .into_iter()
            .map(|(name, words)| format!("-- {name} --\n{words}"))
            .collect();
        words.join("\n")
    }
}

impl Pod {
    /// Its first IPv4 address with the port of the HTTP server.
    pub(crate) fn http(&self) -> SocketAddr {
        SocketAddr::new(self.addresses[0], HTTP)
    }

    /// Its IPv6 address with the port of the HTTP server.
    pub(crate) fn http_v6(&self) -> Result<SocketAddr, String> {
        let address = self.addresses.iter().copied().find(IpAddr::is_ipv6);
        address
            .map(|address| SocketAddr::new(address, HTTP))
            .ok_or_else(|| format!("pod {} has no IPv6 address", self.name))
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
