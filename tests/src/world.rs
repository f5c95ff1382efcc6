//! The place where a test happens: two nodes, pods with an application in each, and the processes that run in them.
//!
//! Processes are started by a thread of their own that lives as long as this process, because they die with the thread
//! that started them. Namespaces have no names. So nothing is left, whatever ends a test.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use cli::{
    http::{Connection, Request, Response},
    lab::{
        CONTROL, Lab, Node,
        process::{Log, Processes},
    },
    zc,
};
use serde_json::Value;
use sys::netns::Netns;

use crate::{pod::Pod, record::Record, talk::Talk};

mod starter;

use starter::Starter;

/// Longer than anything here may take on a busy machine. No test waits for this long, except to fail.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Port of every application's HTTP server.
pub const HTTP: u16 = 8080;
/// Port where every application sends bytes back.
pub const ECHO: u16 = 9090;

/// What Cargo built: see [`place!`](crate::place).
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The executable with all components.
    pub component: &'static str,
    /// A directory for files.
    pub scratch: &'static str,
}

/// Nodes, pods and processes.
#[derive(Debug)]
pub struct World {
    /// The namespaces.
    pub lab: Lab,
    /// What runs in them.
    pub processes: Arc<Processes>,
    pods: Vec<Pod>,
    room: PathBuf,
    component: &'static str,
    starter: Starter,
}

/// What an application says of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The pod that answered.
    pub pod: String,
    /// The client as the application's socket saw it.
    pub seen: String,
    /// The client's own address.
    pub client: SocketAddr,
}

/// A place in a node's log.
#[derive(Clone, Copy, Debug)]
pub struct Mark(u64);

impl World {
    /// Two nodes with these pods, an application in each. No mesh yet. `name` is unique among test files.
    ///
    /// # Panics
    /// If that cannot be done: a test can say nothing then.
    pub fn new(place: Place, name: &str, pods: &[Pod]) -> Self {
        let room = room(Path::new(place.scratch), name);
        let processes = Arc::new(Processes::new(&room.join("log")));
        let lab = Lab::create().expect("root makes namespaces");
        let mut world = Self {
            lab,
            processes,
            pods: Vec::new(),
            room,
            component: place.component,
            starter: Starter::new(),
        };
        for pod in pods {
            world.add_pod(pod.clone());
        }
        world
    }

    /// Makes a pod's namespace and starts its application.
    pub fn add_pod(&mut self, pod: Pod) {
        self.lab
            .add_pod(pod.name, pod.node, &pod.addresses)
            .expect("a pod's namespace");
        let path = self.room.join("netns").join(pod.name);
        cli::lab::publish(self.netns(pod.name), &path).expect("a link to a namespace");
        let mut echo = self.command("echo");
        echo.args(["--name", pod.name]);
        echo.args(["--http", &HTTP.to_string(), "--tcp", &ECHO.to_string()]);
        self.start(&format!("app-{}", pod.name), self.netns(pod.name), echo);
        for port in [HTTP, ECHO] {
            let local = SocketAddr::from(([127, 0, 0, 1], port));
            self.until("the application listens", || {
                self.lab
                    .connect(self.netns(pod.name), local, PATIENCE)
                    .is_ok()
            });
        }
        self.pods.push(pod);
    }

    /// Ends a pod's application and takes its namespace off the node.
    pub fn remove_pod(&mut self, name: &str) {
        self.processes
            .kill(&format!("app-{name}"))
            .expect("a child can be killed");
        fs::remove_file(self.room.join("netns").join(name)).expect("the link is there");
        self.lab.remove_pod(name).expect("the pod is there");
        self.pods.retain(|pod| pod.name != name);
    }

    /// All pods.
    pub fn pods(&self) -> &[Pod] {
        &self.pods
    }

    /// A pod.
    pub fn pod(&self, name: &str) -> &Pod {
        let found = self.pods.iter().find(|pod| pod.name == name);
        found.unwrap_or_else(|| panic!("no pod {name}"))
    }

    /// A pod's network namespace.
    pub fn netns(&self, pod: &str) -> &Netns {
        let found = self.lab.pod(pod);
        &found.unwrap_or_else(|| panic!("no pod {pod}")).netns
    }

    /// A pod's first address.
    pub fn ip(&self, pod: &str) -> IpAddr {
        self.pod(pod).addresses[0]
    }

    /// A path in the world's own directory, which goes with it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.room.join(name)
    }

    /// The executable as a component. It runs in the world's directory, so that paths of sockets are short.
    pub fn command(&self, component: &str) -> Command {
        let mut command = Command::new(self.component);
        command.arg(component).env_clear().current_dir(&self.room);
        command.env("RUST_BACKTRACE", "1").env("RUST_LOG", "info");
        command
    }

    /// Starts a process in a namespace, under a name that no running one has. Returns its id.
    pub fn start(&self, name: &str, netns: &Netns, command: Command) -> u32 {
        let netns = netns.try_clone().expect("a second handle");
        let (processes, name) = (Arc::clone(&self.processes), name.to_owned());
        let mut command = command;
        let started = self
            .starter
            .call(move || processes.start(&name, &netns, &mut command));
        started.expect("a process starts")
    }

    /// Starts the ztunnel of a node. It asks the control plane at these ports; `more` are further variables.
    pub fn start_ztunnel(&self, node: Node, xds: u16, ca: u16, more: &[(&str, &str)]) -> u32 {
        let mut command = self.command("ztunnel");
        let name = node.name();
        command.env("NODE_NAME", name).env("LOG_FORMAT", "json");
        command.env("INSTANCE_IP", node.address().to_string());
        command.env("INPOD_UDS", format!("zds/{name}"));
        command.env("AUTH_TOKEN", format!("state/tokens/{name}"));
        command.env("ZTUNNEL_WORKER_THREADS", "2");
        for (kind, port) in [("XDS", xds), ("CA", ca)] {
            command.env(
                format!("{kind}_ADDRESS"),
                format!("https://{CONTROL}:{port}"),
            );
            command.env(format!("{kind}_ROOT_CA"), "state/root-cert.pem");
        }
        command.envs(more.iter().copied());
        self.start(&ztunnel(node), self.lab.node(node), command)
    }

    /// A connection from a pod, as one of its programs would make it.
    pub fn connect(&self, from: &str, to: SocketAddr) -> io::Result<TcpStream> {
        self.lab.connect(self.netns(from), to, PATIENCE)
    }

    /// A connection from a pod to another one's echo port, over which some bytes have gone and come back.
    pub fn open(&self, from: &str, to: IpAddr) -> io::Result<Talk> {
        let mut talk = Talk::over(self.connect(from, SocketAddr::new(to, ECHO))?);
        talk.say(b"hello").map(|()| talk)
    }

    /// Waits until a pod's connections to another one's echo port are not carried any more.
    pub fn refuses(&self, from: &str, to: IpAddr) {
        self.until("no connection is carried", || self.open(from, to).is_err());
    }

    /// Any request on a connection of its own.
    pub fn ask(&self, from: &str, to: SocketAddr, request: &Request<'_>) -> io::Result<Response> {
        Connection::over(self.connect(from, to)?, to.to_string()).ask(request)
    }

    /// One request on a connection of its own.
    pub fn get(&self, from: &str, to: SocketAddr) -> io::Result<Answer> {
        let stream = self.connect(from, to)?;
        let client = stream.local_addr()?;
        let answer = Connection::over(stream, to.to_string()).send("GET", "/", b"")?;
        let header = |name| answer.header(name).unwrap_or_default().to_owned();
        Ok(Answer {
            status: answer.status,
            pod: header("x-pod"),
            seen: header("x-client"),
            client,
        })
    }

    /// What a ztunnel believes.
    pub fn dump(&self, node: Node) -> io::Result<Value> {
        let admin = SocketAddr::from(([127, 0, 0, 1], 15000));
        let stream = self.lab.connect(self.lab.node(node), admin, PATIENCE)?;
        zc::dump(stream, "localhost")
    }

    /// The sum of a metric of a node's ztunnel over all its labels.
    pub fn metric(&self, node: Node, name: &str) -> f64 {
        let to = SocketAddr::from(([127, 0, 0, 1], 15020));
        let stream = self.lab.connect(self.lab.node(node), to, PATIENCE);
        let answer = stream
            .and_then(|stream| Connection::over(stream, "localhost").send("GET", "/metrics", b""));
        let text = String::from_utf8(answer.expect("it answers").body).expect("text");
        let value = |line: &str| {
            let rest = line.strip_prefix(name)?;
            rest.starts_with(['{', ' ']).then_some(())?;
            rest.rsplit(' ').next()?.parse::<f64>().ok()
        };
        text.lines().filter_map(value).sum()
    }

    /// Whether the ztunnel of a node says that it is ready.
    pub fn ready(&self, node: Node) -> bool {
        let to = SocketAddr::from(([127, 0, 0, 1], 15021));
        let stream = self.lab.connect(self.lab.node(node), to, PATIENCE);
        let answer = stream.and_then(|stream| {
            Connection::over(stream, "localhost").send("GET", "/healthz/ready", b"")
        });
        answer.is_ok_and(|answer| answer.status == 200)
    }

    /// The files that a process has open, by kind (`socket`, `net`, a path), with how many there are of each.
    pub fn open_files(&self, process: u32) -> BTreeMap<String, usize> {
        let list = fs::read_dir(format!("/proc/{process}/fd")).expect("it runs");
        let mut all = BTreeMap::new();
        // What is closed in between is not open.
        for link in list
            .flatten()
            .filter_map(|file| fs::read_link(file.path()).ok())
        {
            let kind = link.to_string_lossy();
            let kind = kind.split(":[").next().unwrap_or_default();
            *all.entry(kind.to_owned()).or_default() += 1;
        }
        all
    }

    /// How many connections a ztunnel says that it carries.
    pub fn flows(&self, node: Node) -> usize {
        let dump = self.dump(node).expect("it answers");
        let pods = dump["workloadState"].as_object().into_iter().flatten();
        let count = |list: &Value| list.as_array().map_or(0, Vec::len);
        pods.map(|(_, pod)| {
            count(&pod["connections"]["inbound"]) + count(&pod["connections"]["outbound"])
        })
        .sum()
    }

    /// The serial number of the certificate that a ztunnel holds for a pod, if it holds one that is valid.
    pub fn serial(&self, pod: &Pod) -> Option<String> {
        let dump = self.dump(pod.node).ok()?;
        let all = dump["certificates"].as_array()?;
        let own = all
            .iter()
            .find(|it| it["identity"] == pod.identity().to_string().as_str())?;
        (own["state"] == "Available").then_some(())?;
        own["certChain"][0]["serialNumber"]
            .as_str()
            .map(str::to_owned)
    }

    /// Where the log of a node's ztunnel ends now.
    pub fn mark(&self, node: Node) -> Mark {
        Mark(self.log(node).length())
    }

    /// The lines of a node's ztunnel after a mark.
    pub fn records(&self, node: Node, since: Mark) -> Vec<Record> {
        let text = self.log(node).since(since.0).unwrap_or_default();
        text.lines().filter_map(Record::read).collect()
    }

    /// The first line after a mark that is as wanted; waits for it.
    pub fn record(&self, node: Node, since: Mark, wanted: impl Fn(&Record) -> bool) -> Record {
        let mut found = None;
        self.until("the ztunnel logs it", || {
            found = self.records(node, since).into_iter().find(&wanted);
            found.is_some()
        });
        found.expect("waited for")
    }

    /// Waits until something is so, while every process lives.
    ///
    /// # Panics
    /// If it does not come to be, with the last words of all that runs.
    pub fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds() {
            if let Ok(Some((name, status))) = self.processes.ended() {
                panic!(
                    "{name} ended by itself ({status}), its last words:\n{}",
                    self.processes.log(&name).tail(20)
                );
            }
            assert!(
                Instant::now() < deadline,
                "waited in vain until {what}\n{}",
                self.last_words()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn log(&self, node: Node) -> Log {
        self.processes.log(&ztunnel(node))
    }

    fn last_words(&self) -> String {
        let mut all = String::new();
        let components = ["control", "node-n1", "node-n2", "ztunnel-n1", "ztunnel-n2"];
        let pods = self.lab.pods().map(|(name, _)| format!("waypoint-{name}"));
        for name in components.map(str::to_owned).into_iter().chain(pods) {
            let log = self.processes.log(&name);
            if log.path().exists() {
                all += &format!("--- {name}\n{}\n", log.tail(12));
            }
        }
        all
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Nobody can do anything about it here; the next run looks after what is left.
        let _ = self.processes.end_all();
        if !thread::panicking() {
            let _ = fs::remove_dir_all(&self.room);
        }
    }
}

/// The name of a node's ztunnel among the processes.
pub fn ztunnel(node: Node) -> String {
    format!("ztunnel-{}", node.name())
}

/// A directory of this process alone; those that earlier ones left go.
fn room(scratch: &Path, name: &str) -> PathBuf {
    let prefix = format!("{name}-");
    for entry in fs::read_dir(scratch).into_iter().flatten().flatten() {
        let left = entry.file_name();
        let pid: Option<u32> = left
            .to_str()
            .and_then(|left| left.strip_prefix(&prefix)?.split('-').next()?.parse().ok());
        // Another file's world may begin with the same word.
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let room = (0..)
        .map(|turn| scratch.join(format!("{prefix}{}-{turn}", std::process::id())))
        .find(|room| !room.exists())
        .expect("numbers do not end");
    for part in ["log", "netns", "zds", "state", "manifests"] {
        fs::create_dir_all(room.join(part)).expect("the scratch directory can be written to");
    }
    room
}
