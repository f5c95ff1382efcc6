//! How the components and applications of a mesh are started, and when they are ready.

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use sys::netns::Netns;

use super::{
    MANIFESTS, Mesh, NETNS, PATIENCE, STATE, ZDS,
    pod::{HTTP, Pod, TCP},
};
use crate::{
    Failure,
    http::Connection,
    lab::{CONTROL, Node},
};

/// Tells a child's process, and any of its own, which mesh it belongs to.
const OWNER: &str = "AMBIT_RUN_DIR";
/// How long a start may take on a machine that does something else.
const START: Duration = Duration::from_secs(30);

impl Mesh {
    /// Starts everything, and tells `progress` what it waits for.
    pub fn start(&self, progress: &mut dyn FnMut(&str)) -> Result<(), Failure> {
        for pod in self.pods.iter().filter(|pod| pod.gateway.is_none()) {
            self.start_app(pod)?;
        }
        progress("the control plane");
        self.start_control()?;
        self.wait("the control plane answers", START, || {
            Ok(self.control_answers().then_some(()))
        })?;
        progress("node agents and ztunnels on n1 and n2");
        for node in Node::ALL {
            self.start_agent(node)?;
            self.start_ztunnel(node)?;
        }
        for pod in self.pods.iter().filter(|pod| pod.gateway.is_some()) {
            progress(&format!("the waypoint in {}", pod.netns));
            self.start_waypoint(pod)?;
        }
        progress("every enrolled pod to be captured, with a certificate");
        self.wait(
            "every enrolled pod is captured, with a certificate, and every waypoint is ready",
            START,
            || {
                let waypoints = self.pods.iter().filter(|pod| pod.gateway.is_some());
                let ready = waypoints.into_iter().all(|pod| self.waypoint_is_ready(pod));
                let missing = Node::ALL.map(|node| self.missing(node)).concat();
                Ok((ready && missing.is_empty()).then_some(()))
            },
        )
    }

    /// The control plane, `control`; also after it was ended.
    pub fn start_control(&self) -> Result<(), Failure> {
        let mut command = self.component("control");
        command.arg("--from").arg(self.path(MANIFESTS));
        command.arg("--state-dir").arg(self.path(STATE));
        command.args(["--listen", &format!("{CONTROL}:15012")]);
        self.run("control", self.lab.control(), &mut command)
    }

    /// A node's agent, `node-n1` or `node-n2`; also after it was ended.
    pub fn start_agent(&self, node: Node) -> Result<(), Failure> {
        let name = node.name();
        let mut agent = self.component("node");
        agent.args(["--node", name, "--control", &format!("{CONTROL}:15012")]);
        agent.arg("--manifests").arg(self.path(MANIFESTS));
        agent.arg("--netns-dir").arg(self.path(NETNS));
        agent.arg("--zds-socket").arg(self.path(ZDS).join(name));
        agent.arg("--control-root").arg(self.root_certificate());
        agent.arg("--control-token").arg(self.token(node));
        self.run(&format!("node-{name}"), self.lab.node(node), &mut agent)
    }

    /// A node's ztunnel, `ztunnel-n1` or `ztunnel-n2`; also after it was ended.
    pub fn start_ztunnel(&self, node: Node) -> Result<(), Failure> {
        let name = node.name();
        let mut ztunnel = self.component("ztunnel");
        ztunnel
            .env("NODE_NAME", name)
            .env("INSTANCE_IP", node.address().to_string());
        ztunnel
            .env("INPOD_UDS", self.path(ZDS).join(name))
            .env("AUTH_TOKEN", self.token(node));
        self.lead_to_control(&mut ztunnel);
        ztunnel
            .env("SECRET_TTL", &self.settings.certificates)
            .env("ZTUNNEL_WORKER_THREADS", "2");
        let further = self
            .settings
            .environment
            .iter()
            .filter(|(of, ..)| *of == node);
        ztunnel.envs(further.map(|(_, key, value)| (key, value)));
        self.run(
            &format!("ztunnel-{name}"),
            self.lab.node(node),
            &mut ztunnel,
        )
    }

    /// The waypoint of a Gateway in its pod, `waypoint-POD`; also after it was ended. Nothing if the pod is none.
    pub fn start_waypoint(&self, pod: &Pod) -> Result<(), Failure> {
        let Some(gateway) = &pod.gateway else {
            return Ok(());
        };
        let token = self.waypoint_token(&pod.namespace, gateway);
        self.wait("a waypoint has its credential", START, || {
            Ok(token.exists().then_some(()))
        })?;
        let mut waypoint = self.component("waypoint");
        waypoint
            .env("GATEWAY", gateway)
            .env("POD_NAMESPACE", &pod.namespace)
            .env("POD_NAME", &pod.name)
            .env("POD_IP", pod.addresses[0].to_string())
            .env("NODE_NAME", pod.node.name())
            .env("AUTH_TOKEN", &token)
            .env("SECRET_TTL", &self.settings.certificates);
        self.lead_to_control(&mut waypoint);
        let (name, netns) = (format!("waypoint-{}", pod.netns), self.netns(&pod.netns)?);
        self.run(&name, netns, &mut waypoint)
    }

    /// Until a waypoint has all that it is to be told.
    pub fn wait_for_waypoint(&self, pod: &Pod) -> Result<(), Failure> {
        let what = format!("the waypoint in {} is ready", pod.netns);
        self.wait(&what, START, || {
            Ok(self.waypoint_is_ready(pod).then_some(()))
        })
    }

    fn waypoint_is_ready(&self, pod: &Pod) -> bool {
        let page = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 15021);
        let stream = self.connect(&pod.netns, page);
        let answer = stream.and_then(|stream| {
            Connection::over(stream, "waypoint").send("GET", "/healthz/ready", b"")
        });
        answer.is_ok_and(|answer| answer.status == 200)
    }

    /// Where discovery and certificates come from.
    fn lead_to_control(&self, command: &mut Command) {
        for kind in ["XDS", "CA"] {
            command
                .env(
                    format!("{kind}_ADDRESS"),
                    format!("https://{CONTROL}:15012"),
                )
                .env(format!("{kind}_ROOT_CA"), self.root_certificate());
        }
    }

    /// A pod's application, `app-POD`.
    pub fn start_app(&self, pod: &Pod) -> Result<(), Failure> {
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

    /// The executable as a component, with an environment of its own.
    pub fn component(&self, name: &str) -> Command {
        let mut command = Command::new(&self.settings.executable);
        command
            .arg(name)
            .env_clear()
            .env(OWNER, &self.settings.root);
        for kept in ["PATH", "RUST_BACKTRACE", "LOG_FORMAT"] {
            command.envs(std::env::var_os(kept).map(|value| (kept, value)));
        }
        // Whatever else is wanted of the logs: connections and requests have to be in them.
        let wanted = std::env::var("RUST_LOG").unwrap_or_default();
        let wanted = if wanted.is_empty() { "info" } else { &wanted };
        command.env("RUST_LOG", format!("{wanted},access=info,request=info"));
        command
    }

    /// Starts a child in a namespace.
    pub fn run(&self, name: &str, netns: &Netns, command: &mut Command) -> Result<(), Failure> {
        let started = self.processes.start(name, netns, command);
        started
            .map(drop)
            .map_err(|error| Failure::Failed(error.to_string()))
    }

    /// Waits for something, as long as every child lives.
    pub fn wait<T>(
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
    pub fn alive(&self) -> Result<(), Failure> {
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
        let names = ["control", "node-n1", "node-n2", "ztunnel-n1", "ztunnel-n2"];
        let waypoints = self.pods.iter().filter(|pod| pod.gateway.is_some());
        let words = names
            .into_iter()
            .map(str::to_owned)
            .chain(waypoints.map(|pod| format!("waypoint-{}", pod.netns)))
            .map(|name| format!("-- {name} --\n{}", self.processes.log(&name).tail(4)));
        words.collect::<Vec<_>>().join("\n")
    }

    /// What is not yet as the manifests want it, as one ztunnel sees it.
    pub fn missing(&self, node: Node) -> Vec<String> {
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
        for (namespace, name) in &self.bound {
            let is =
                |it: &Value| it["name"] == name.as_str() && it["namespace"] == namespace.as_str();
            let service = all("services").into_iter().find(is);
            if service.is_none_or(|it| it["waypoint"]["destination"].is_null()) {
                missing.push(format!(
                    "no waypoint before {namespace}/{name}, says the ztunnel of {}",
                    node.name()
                ));
            }
        }
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

    fn control_answers(&self) -> bool {
        let admin = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 15014);
        let stream = self.lab.connect(self.lab.control(), admin, PATIENCE);
        let answer = stream.and_then(|stream| {
            Connection::over(stream, "control").send("GET", "/healthz/ready", b"")
        });
        answer.is_ok_and(|answer| answer.status == 200)
    }
}
