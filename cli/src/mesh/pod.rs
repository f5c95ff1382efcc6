//! Pods as manifests describe them, as far as a lab needs it to make them.

use std::net::{IpAddr, SocketAddr};

use control::{manifest, world::World};

use crate::lab::Node;

/// The port on which a pod's application speaks HTTP.
pub const HTTP: u16 = 8080;
/// The port on which it sends every byte back.
pub const TCP: u16 = 9090;

/// The annotation that names a pod's network namespace.
pub(super) const NETNS: &str = "ambit.dev/netns";

/// The label that says which Gateway's waypoint a pod is.
pub(super) const GATEWAY: &str = "gateway.networking.k8s.io/gateway-name";

/// The label by which a service asks for a waypoint.
const USE_WAYPOINT: &str = "istio.io/use-waypoint";

/// A pod to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Of its network namespace, and in the demo's own words.
    pub netns: String,
    /// Kubernetes namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Where it runs.
    pub node: Node,
    /// At least one.
    pub addresses: Vec<IpAddr>,
    /// Who it is.
    pub identity: String,
    /// In the mesh.
    pub enrolled: bool,
    /// It is the waypoint of this Gateway of its namespace, instead of an application.
    pub gateway: Option<String>,
}

/// What a mesh is made from.
#[derive(Clone, Debug)]
pub struct Read {
    /// The pods, those of waypoints among them.
    pub pods: Vec<Pod>,
    /// Namespaces and names of the services whose label asks for a waypoint.
    pub bound: Vec<(String, String)>,
}

/// The pods of a world, and the services that are to have a waypoint.
///
/// # Errors
/// A sentence, if a pod lacks what the demo needs of it.
pub fn read(world: &World) -> Result<Read, String> {
    let bound = world.services.iter().filter(|(_, service)| {
        let waypoint = service.meta.labels.get(USE_WAYPOINT);
        waypoint.is_some_and(|waypoint| waypoint != "none")
    });
    let bound = bound.map(|(key, _)| key.clone()).collect();
    let pods = world.pods.values().map(|pod| of(world, pod));
    let pods = pods.collect::<Result<_, String>>()?;
    Ok(Read { pods, bound })
}

/// One pod of a world.
///
/// # Errors
/// A sentence, if it lacks what the demo needs of it.
pub(super) fn of(world: &World, pod: &manifest::Pod) -> Result<Pod, String> {
    let lacks = |what: &str| format!("pod {}/{}: {what}", pod.meta.namespace, pod.meta.name);
    let netns = pod.meta.annotations.get(NETNS);
    let netns = netns.ok_or_else(|| lacks(&format!("no annotation {NETNS}")))?;
    let node = Node::named(&pod.node).ok_or_else(|| lacks("spec.nodeName is neither n1 nor n2"))?;
    if pod.addresses.is_empty() {
        return Err(lacks("no status.podIPs"));
    }
    let none = manifest::Labels::new();
    let namespace = world.namespaces.get(&pod.meta.namespace);
    let namespace = namespace.map_or(&none, |namespace| &namespace.meta.labels);
    let facts = mesh::enrol::Pod {
        labels: &pod.meta.labels,
        annotations: &pod.meta.annotations,
        host_network: pod.host_network,
        ended: pod.over,
    };
    let namespace = mesh::enrol::Namespace { labels: namespace };
    let enrolled = mesh::enrol::enrolled(mesh::keys::Keys::Shared, namespace, facts);
    let account = if pod.service_account.is_empty() {
        "default"
    } else {
        &pod.service_account
    };
    Ok(Pod {
        netns: netns.clone(),
        namespace: pod.meta.namespace.clone(),
        name: pod.meta.name.clone(),
        node,
        addresses: pod.addresses.clone(),
        identity: format!(
            "spiffe://cluster.local/ns/{}/sa/{account}",
            pod.meta.namespace
        ),
        enrolled: enrolled == mesh::enrol::Enrolment::In,
        gateway: pod.meta.labels.get(GATEWAY).cloned(),
    })
}

impl Pod {
    /// Its first address with the port of the HTTP server.
    pub fn http(&self) -> SocketAddr {
        SocketAddr::new(self.addresses[0], HTTP)
    }

    /// Its IPv6 address with the port of the HTTP server.
    pub fn http_v6(&self) -> Result<SocketAddr, String> {
        let address = self.addresses.iter().copied().find(IpAddr::is_ipv6);
        address
            .map(|address| SocketAddr::new(address, HTTP))
            .ok_or_else(|| format!("pod {} has no IPv6 address", self.name))
    }
}
