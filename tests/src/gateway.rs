//! Real waypoints in a mesh: for each a Gateway, a pod, and a process in it that can be ended and started again.

use std::{io, net::SocketAddr};

use ::mesh::identity::Identity;
use cli::{
    http::Connection,
    lab::{CONTROL, Node},
    zc,
};
use serde_json::Value;

use crate::{
    mesh::{Mesh, PORT},
    world::PATIENCE,
};

/// A Gateway with one pod, whose network namespace has its name too.
#[derive(Clone, Copy, Debug)]
pub struct Gateway {
    /// Unique in a world.
    pub name: &'static str,
    /// Its Kubernetes namespace.
    pub namespace: &'static str,
    /// Where its pod runs.
    pub node: Node,
    /// Last part of its pod's address.
    pub host: u8,
    /// The namespaces whose services it admits: `Same` or `All`.
    pub from: &'static str,
}

impl Gateway {
    /// Of the namespace `shop`, for services of that namespace.
    pub const fn new(name: &'static str, node: Node, host: u8) -> Self {
        Self {
            name,
            namespace: "shop",
            node,
            host,
            from: "Same",
        }
    }

    /// In another namespace, for services of all.
    pub const fn of(mut self, namespace: &'static str) -> Self {
        self.namespace = namespace;
        self.from = "All";
        self
    }

    /// Who its waypoint is.
    pub fn identity(&self) -> Identity {
        Identity::new("cluster.local", self.namespace, self.name)
    }

    /// Where its waypoint takes tunnels.
    pub fn tunnels(&self) -> SocketAddr {
        SocketAddr::new(self.node.v4(self.host), 15008)
    }

    /// The Gateway itself.
    pub fn manifest(&self) -> String {
        let Self {
            name,
            namespace,
            from,
            ..
        } = self;
        format!(
            "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  gatewayClassName: ambit-waypoint
  listeners:
  - {{name: mesh, port: 15008, protocol: HBONE, allowedRoutes: {{namespaces: {{from: {from}}}}}}}
"
        )
    }

    /// Its pod.
    fn pod(&self) -> String {
        let Self {
            name, namespace, ..
        } = self;
        format!(
            "apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: {namespace}
  labels:
    gateway.networking.k8s.io/gateway-name: {name}
    networking.istio.io/tunnel: http
    istio.io/dataplane-mode: none
  annotations: {{ambit.dev/netns: {name}}}
spec:
  nodeName: {}
  serviceAccountName: {name}
  containers: [{{name: waypoint, image: ambit}}]
status:
  podIPs: [{{ip: {}}}]
  conditions: [{{type: Ready, status: \"True\"}}]
",
            self.node.name(),
            self.node.v4(self.host)
        )
    }

    /// Path of its credential in the world's directory.
    pub fn token(&self) -> String {
        format!("state/waypoint-tokens/{}.{}", self.namespace, self.name)
    }

    fn process(&self) -> String {
        format!("waypoint-{}", self.name)
    }
}

impl Mesh {
    /// Puts a Gateway and its pod into the mesh. Nothing runs in the pod yet.
    pub fn add_gateway(&mut self, gateway: &Gateway) {
        let address = gateway.node.v4(gateway.host);
        self.lab
            .add_pod(gateway.name, gateway.node, &[address])
            .expect("a pod's namespace");
        let link = self.path("netns").join(gateway.name);
        cli::lab::publish(self.netns(gateway.name), &link).expect("a link to a namespace");
        self.put(&format!("waypoint-{}", gateway.name), &gateway.pod());
        self.put(&format!("gateway-{}", gateway.name), &gateway.manifest());
    }

    /// Starts the waypoint of a Gateway, also after it was ended.
    pub fn start_waypoint(&self, gateway: &Gateway) -> u32 {
        self.until("the waypoint has a credential", || {
            self.path(&gateway.token()).exists()
        });
        let mut command = self.command("waypoint");
        command
            .env("GATEWAY", gateway.name)
            .env("POD_NAMESPACE", gateway.namespace)
            .env("POD_NAME", gateway.name)
            .env("POD_IP", gateway.node.v4(gateway.host).to_string())
            .env("NODE_NAME", gateway.node.name())
            .env("AUTH_TOKEN", gateway.token());
        for kind in ["XDS", "CA"] {
            let address = format!("https://{CONTROL}:{PORT}");
            command
                .env(format!("{kind}_ADDRESS"), address)
                .env(format!("{kind}_ROOT_CA"), "state/root-cert.pem");
        }
        self.start(&gateway.process(), self.netns(gateway.name), command)
    }

    /// Puts a Gateway into the mesh with a waypoint that is ready.
    pub fn run_gateway(&mut self, gateway: &Gateway) {
        self.add_gateway(gateway);
        self.start_waypoint(gateway);
        self.until("the waypoint is ready", || self.waypoint_ready(gateway));
    }

    /// Kills the waypoint of a Gateway at once.
    pub fn kill_waypoint(&self, gateway: &Gateway) {
        self.processes
            .kill(&gateway.process())
            .expect("a child can be killed");
    }

    /// Whether the waypoint of a Gateway says that it is ready.
    pub fn waypoint_ready(&self, gateway: &Gateway) -> bool {
        let page = SocketAddr::from(([127, 0, 0, 1], 15021));
        let stream = self.lab.connect(self.netns(gateway.name), page, PATIENCE);
        let answer = stream.and_then(|stream| {
            Connection::over(stream, "waypoint").send("GET", "/healthz/ready", b"")
        });
        answer.is_ok_and(|answer| answer.status == 200)
    }

    /// What the waypoint of a Gateway believes.
    pub fn waypoint_dump(&self, gateway: &Gateway) -> io::Result<Value> {
        let admin = SocketAddr::from(([127, 0, 0, 1], 15000));
        let netns = self.netns(gateway.name);
        zc::dump(self.lab.connect(netns, admin, PATIENCE)?, "localhost")
    }

    /// Waits until both node proxies have heard of a service of the namespace `shop`. Before that its address is a
    /// stranger's, and whoever connects there waits for seconds.
    pub fn known(&self, service: &str) {
        let name = format!("\"{service}.shop.svc.cluster.local\"");
        self.until("the service is known", || {
            let mut dumps = Node::ALL.into_iter().map(|node| self.dump(node));
            dumps.all(|dump| dump.is_ok_and(|dump| dump.to_string().contains(&name)))
        });
    }

    /// All that the waypoint of a Gateway has logged.
    pub fn waypoint_log(&self, gateway: &Gateway) -> String {
        let log = self.processes.log(&gateway.process());
        log.since(0).unwrap_or_default()
    }
}

/// A service of the namespace `shop` with this virtual address 10.96.0.`host` for the pods with the label `app: TO`: its
/// port 80 leads to their HTTP servers, 9090 to where they send bytes back. `more` stands in its metadata.
pub fn service(name: &str, host: u8, to: &str, more: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop{more}}}
spec:
  clusterIP: 10.96.0.{host}
  selector: {{app: {to}}}
  ports:
  - {{name: http, port: 80, targetPort: 8080}}
  - {{name: tcp, port: 9090, targetPort: 9090}}
---
"
    )
}

/// The label of a service that asks for a waypoint, as `more` of [`service`].
pub fn through(gateway: &str) -> String {
    format!(", labels: {{istio.io/use-waypoint: {gateway}}}")
}

/// A policy of the namespace `shop` that allows a service these methods alone.
pub fn methods(name: &str, service: &str, methods: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: shop}}
spec:
  targetRefs: [{{group: \"\", kind: Service, name: {service}}}]
  action: ALLOW
  rules:
  - to:
    - operation: {{methods: [{methods}]}}
---
"
    )
}
