//! Gateways: which are waypoints of ours, whom they admit, where they are reached, and what is said of them.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use proto::workload::{
    GatewayAddress, NamespacedHostname, NetworkAddress, gateway_address::Destination,
};

use super::{Compiled, Derived, Scope, octets, workloads};
use crate::{
    manifest::{
        Gateway, Kind, Labels, Meta, ObjectRef, Pod, Service,
        core::{Families, ServicePort, Target},
        gateway::Listener,
    },
    status::{CONTROLLER, Condition, ListenerStatus, Status},
    world::{Key, World},
};

/// The class of waypoints.
pub(super) const CLASS: &str = "ambit-waypoint";
/// The ecosystem's class and who serves it: ours where we say what is deployed.
const OTHER_CLASS: &str = "istio-waypoint";
const OTHER_CONTROLLER: &str = "istio.io/mesh-controller";
/// Pods of a Gateway name it by this label.
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
/// Services and pods that were made for a Gateway tell so by this label.
const MANAGED: &str = "gateway.istio.io/managed";
const MANAGERS: [&str; 2] = ["istio.io-mesh-controller", "istio.io-eastwest-controller"];
const WAYPOINT_FOR: &str = "istio.io/waypoint-for";
/// Applications behind a waypoint are told who their client is.
const TELLS_IDENTITY: &str = "ambient.istio.io/xfcc-include-client-identity";
/// Where tunnels are listened to.
const PORT: u16 = mesh::plan::HBONE_PORT;
const PROTOCOL: &str = "HBONE";

/// Whether Gateways of this class are ours to serve. A class that is not written down goes by its name.
pub(super) fn serves(scope: Scope<'_>, class: &str) -> bool {
    let deploys = scope.settings.deploys;
    match scope.world.gateway_classes.get(class) {
        Some(class) => {
            class.controller == CONTROLLER || deploys && class.controller == OTHER_CONTROLLER
        }
        None => class == CLASS || deploys && class == OTHER_CLASS,
    }
}

/// The names that mean the same class: both of ours, where we serve both.
pub(super) fn aliases<'a>(scope: Scope<'_>, class: &'a str) -> Vec<&'a str> {
    let own = [CLASS, OTHER_CLASS];
    if own.contains(&class) && own.into_iter().all(|class| serves(scope, class)) {
        own.into()
    } else {
        vec![class]
    }
}

/// Whether a class is one of waypoints, ours or not; `None` if it is not there.
pub(super) fn is_waypoint_class(scope: Scope<'_>, class: &str) -> Option<bool> {
    if [CLASS, OTHER_CLASS].contains(&class) {
        return Some(true);
    }
    let found = scope.world.gateway_classes.get(class)?;
    Some([CONTROLLER, OTHER_CONTROLLER].contains(&found.controller.as_str()))
}

/// The Gateway of this name, if its namespace is looked at.
pub(super) fn find<'a>(scope: Scope<'a>, gateway: &Key) -> Option<&'a Gateway> {
    let found = scope.world.gateways.get(gateway)?;
    scope.sees(&gateway.0).then_some(found)
}

/// The Gateways that are ours.
pub(super) fn ours(scope: Scope<'_>) -> impl Iterator<Item = (&Key, &Gateway)> {
    let gateways = scope.world.gateways.iter();
    gateways.filter(move |(key, gateway)| scope.sees(&key.0) && serves(scope, &gateway.class))
}

/// As which its waypoint is known to peers.
pub(super) fn identity(scope: Scope<'_>, (namespace, name): &Key) -> String {
    format!(
        "spiffe://{}/ns/{namespace}/sa/{name}",
        scope.settings.trust_domain
    )
}

/// The Gateways whose service account a pod that is not theirs runs as, each with the first such pod.
pub(super) fn shared(world: &World) -> BTreeMap<Key, String> {
    let mut shared = BTreeMap::new();
    if world.gateways.is_empty() {
        return shared;
    }
    for pod in world.pods.values().filter(|pod| !pod.over) {
        let key = (pod.meta.namespace.clone(), pod.service_account.clone());
        let own = pod.meta.labels.get(GATEWAY_NAME) == Some(&key.1);
        if !own && world.gateways.contains_key(&key) {
            let name = pod.meta.name.clone();
            shared.entry(key).or_insert(name);
        }
    }
    shared
}

/// Whether a pod is one of a Gateway's own.
pub(super) fn is_own(pod: &Pod, (namespace, name): &Key) -> bool {
    let named = pod.meta.labels.get(GATEWAY_NAME);
    pod.meta.namespace == *namespace && named == Some(name) && pod.service_account == *name
}

/// Whether a pod takes itself for one of a Gateway of ours by its label alone: it runs as somebody else than that Gateway's
/// pods do, so it is no endpoint of the Gateway's Service.
pub(super) fn is_impostor(scope: Scope<'_>, service: &Service, pod: &Pod) -> bool {
    pod.service_account != service.meta.name && is_guarded(scope, service)
}

/// Whether a Service is that of a Gateway of ours, so that only pods which run as its waypoint are endpoints of it.
pub(super) fn is_guarded(scope: Scope<'_>, service: &Service) -> bool {
    if scope.world.gateways.is_empty() {
        return false;
    }
    let key = (service.meta.namespace.clone(), service.meta.name.clone());
    let is_ours = find(scope, &key).is_some_and(|found| serves(scope, &found.class));
    is_ours && owns(scope, service)
}

/// The pods that take themselves for those of a Gateway, and as whom they run.
fn impostors(scope: Scope<'_>, (namespace, name): &Key) -> Vec<String> {
    let pods = scope.world.pods.range((namespace.clone(), String::new())..);
    let pods = pods.take_while(|((home, _), _)| home == namespace);
    let all = pods.filter(|(_, pod)| {
        let named = pod.meta.labels.get(GATEWAY_NAME);
        !pod.over && named == Some(name) && pod.service_account != *name
    });
    let told = all.map(|((_, pod), it)| format!("{pod} ({})", it.service_account));
    told.collect()
}

/// Whether applications behind its waypoint are told who their client is. They are not, unless it says so.
pub(super) fn tells_identity(gateway: &Gateway) -> bool {
    let said = gateway.meta.annotations.get(TELLS_IDENTITY);
    said.is_some_and(|said| said == "true")
}

/// Whether a Service is the one that a Gateway's own pods are reached by: it selects the Gateway's pods, and has the Gateway's
/// name or was made by who says so. A label alone does not keep a Service from being bound.
pub(super) fn owns(scope: Scope<'_>, service: &Service) -> bool {
    let meta = &service.meta;
    let managed = meta.labels.get(MANAGED);
    if managed.is_some_and(|by| MANAGERS.contains(&by.as_str())) {
        return service.selector.contains_key(GATEWAY_NAME);
    }
    selects_pods_of(service, &meta.name) && {
        let key = (meta.namespace.clone(), meta.name.clone());
        scope.world.gateways.contains_key(&key)
    }
}

fn selects_pods_of(service: &Service, gateway: &str) -> bool {
    let named = service.selector.get(GATEWAY_NAME);
    named.is_some_and(|name| name == gateway)
}

/// The Services that Gateways have to get, where we say what is deployed.
pub(super) fn made(world: &World, settings: &super::Settings) -> BTreeMap<Key, Arc<Service>> {
    let derived = Derived::default();
    let scope = Scope {
        world,
        settings,
        derived: &derived,
    };
    if !settings.deploys {
        return BTreeMap::new();
    }
    let without = ours(scope).filter(|(key, _)| !world.services.contains_key(*key));
    without
        .map(|(key, _)| (key.clone(), Arc::new(service(key))))
        .collect()
}

fn service((namespace, name): &Key) -> Service {
    let meta = Meta {
        name: name.clone(),
        namespace: namespace.clone(),
        ..Meta::default()
    };
    let port = ServicePort {
        name: "hbone".to_owned(),
        port: PORT,
        target: Target::Number(PORT),
        udp: false,
        app_protocol: Some("hbone".to_owned()),
    };
    Service {
        meta,
        external_name: false,
        addresses: Vec::new(),
        families: Families::default(),
        ports: vec![port],
        selector: Labels::from([(GATEWAY_NAME.to_owned(), name.clone())]),
        local: false,
        distribution: None,
        publish_not_ready: false,
    }
}

/// Why a Gateway does not serve a service that is labelled to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// It is not there, or its namespace is not looked at.
    Missing,
    /// Its listener does not admit the service's namespace.
    Denied,
    /// It is not for services.
    Unsupported,
    /// A pod that is not its own has its identity, so nobody can tell its waypoint from that.
    Shared,
    /// It is of another namespace than a ServiceEntry that only its own namespace sees.
    Hidden,
}

impl Obstacle {
    /// Whether it is there and does not serve the service.
    pub(super) const fn refuses(self) -> bool {
        !matches!(self, Self::Missing)
    }
}

/// Whether the Gateway serves services of a namespace.
pub(super) fn obstacle(scope: Scope<'_>, gateway: &Key, namespace: &str) -> Option<Obstacle> {
    let Some(found) = scope.world.gateways.get(gateway) else {
        return Some(Obstacle::Missing);
    };
    let none = Labels::new();
    let labels = scope.world.namespaces.get(namespace);
    let labels = labels.map_or(&none, |namespace| &namespace.meta.labels);
    let admits = match found.listeners.iter().find(|listener| is_tunnel(listener)) {
        Some(listener) => listener.from.admits(&gateway.0, namespace, labels),
        None => namespace == gateway.0,
    };
    if !admits {
        Some(Obstacle::Denied)
    } else if !scope.sees(&gateway.0) {
        Some(Obstacle::Missing)
    } else if scope.derived.shared.contains_key(gateway) {
        Some(Obstacle::Shared)
    } else if !is_for_services(scope, found) {
        Some(Obstacle::Unsupported)
    } else {
        None
    }
}

/// Whether the waypoint is for services; its class says if it does not itself.
pub(super) fn is_for_services(scope: Scope<'_>, gateway: &Gateway) -> bool {
    matches!(kinds(scope, gateway), None | Some("service" | "all"))
}

/// Whether the waypoint is for workloads, which are then reached by their own addresses. What cannot be understood may be.
pub(super) fn is_for_workloads(scope: Scope<'_>, gateway: &Gateway) -> bool {
    let class = ObjectRef::new(Kind::GatewayClass, "", &gateway.class);
    match kinds(scope, gateway) {
        Some(kinds) => matches!(kinds, "workload" | "all"),
        None => scope.world.hides(&class),
    }
}

fn kinds<'a>(scope: Scope<'a>, gateway: &'a Gateway) -> Option<&'a str> {
    let class = scope.world.gateway_classes.get(&gateway.class);
    let own = gateway.meta.labels.get(WAYPOINT_FOR);
    let kinds = own.or_else(|| class?.meta.labels.get(WAYPOINT_FOR));
    kinds.map(String::as_str)
}

fn is_tunnel(listener: &Listener) -> bool {
    listener.protocol == PROTOCOL && listener.port == PORT
}

/// Whether the waypoint of a Gateway was ready once, as far as anybody knows: that is recorded. Where nobody records it, or it
/// is not ours, it has an address; which is as good as given once its own Service has a ready endpoint.
pub(super) fn is_ready(scope: Scope<'_>, gateway: &Key) -> bool {
    let found = find(scope, gateway);
    let foreign = found.is_some_and(|found| !serves(scope, &found.class));
    match &scope.world.waypoints {
        Some(waypoints) if !foreign => waypoints.ready.contains(gateway),
        _ => found
            .is_some_and(|found| address_written(found).is_some() || has_endpoint(scope, gateway)),
    }
}

fn has_endpoint(scope: Scope<'_>, gateway: &Key) -> bool {
    let service = scope.service(gateway);
    service
        .filter(|service| selects_pods_of(service, &gateway.1))
        .is_some_and(|service| workloads::has_ready(scope, service))
}

/// Where the waypoint of a Gateway is reached: its first host name, else its first address, else the name of its Service.
pub(super) fn address(scope: Scope<'_>, gateway: &Key) -> GatewayAddress {
    let written = find(scope, gateway).and_then(address_written);
    let destination = match written {
        Some(Written::Address(address)) => Destination::Address(NetworkAddress {
            network: String::new(),
            address: octets(address),
            length: None,
        }),
        Some(Written::Hostname(hostname)) => named(&gateway.0, hostname.to_owned()),
        None => named(&gateway.0, scope.hostname(&gateway.0, &gateway.1)),
    };
    GatewayAddress {
        destination: Some(destination),
        hbone_mtls_port: PORT.into(),
    }
}

/// An address that leads nowhere, so that whoever goes by it refuses. Names under `invalid` are nobody's (RFC 2606 §2).
pub(super) fn nowhere(namespace: &str) -> GatewayAddress {
    GatewayAddress {
        destination: Some(named(namespace, "no-waypoint.invalid".to_owned())),
        hbone_mtls_port: PORT.into(),
    }
}

fn named(namespace: &str, hostname: String) -> Destination {
    Destination::Hostname(NamespacedHostname {
        namespace: namespace.to_owned(),
        hostname,
    })
}

enum Written<'a> {
    Hostname(&'a str),
    Address(IpAddr),
}

fn address_written(gateway: &Gateway) -> Option<Written<'_>> {
    let all = || gateway.addresses.iter();
    let name = all().find(|address| address.kind == "Hostname");
    let name = name.map(|address| Written::Hostname(&address.value));
    name.or_else(|| {
        let mut numbers = all().filter(|address| address.kind == "IPAddress");
        numbers.find_map(|address| address.value.parse().ok().map(Written::Address))
    })
}

/// Conditions of the Gateways that are ours; `attached` says how many services each is told of.
pub(super) fn statuses(
    scope: Scope<'_>,
    attached: impl Fn(&Key) -> usize,
    compiled: &mut Compiled,
) {
    for (key, gateway) in ours(scope) {
        let reference = ObjectRef::new(Kind::Gateway, &key.0, &key.1);
        compiled
            .statuses
            .insert(reference, status(scope, key, gateway, attached(key)));
    }
}

fn status(scope: Scope<'_>, key: &Key, gateway: &Gateway, attached: usize) -> Status {
    let has_tunnel = gateway.listeners.iter().any(is_tunnel);
    let accepted = match kinds(scope, gateway) {
        _ if !has_tunnel => {
            let message = format!(
                "no listener is {PROTOCOL} on port {PORT}: it serves its own namespace there all the same"
            );
            Condition::holds("Accepted", "ListenersNotValid", message)
        }
        Some("workload" | "all") => {
            let message = "waypoints of workloads are not served yet: what is for a pod's own address goes straight there, and \
                           is refused where a policy is attached to this Gateway or its class";
            Condition::holds("Accepted", "Accepted", message)
        }
        _ => Condition::holds("Accepted", "Accepted", ""),
    };
    let listener = |listener: &Listener| ListenerStatus {
        name: listener.name.clone(),
        attached: if is_tunnel(listener) { attached } else { 0 },
        conditions: listener_conditions(listener),
    };
    Status {
        generation: gateway.meta.generation,
        conditions: vec![accepted, warned(scope, key, programmed(scope, key))],
        listeners: gateway.listeners.iter().map(listener).collect(),
        ..Status::default()
    }
}

/// Adds what is said of pods that are not what they say.
fn warned(scope: Scope<'_>, key: &Key, mut condition: Condition) -> Condition {
    let impostors = impostors(scope, key);
    if !impostors.is_empty() {
        let separator = if condition.message.is_empty() {
            ""
        } else {
            "; "
        };
        condition.message += &format!(
            "{separator}these pods name it by {GATEWAY_NAME} and do not run as its service account {}, so they are no \
             endpoints of its waypoint: {}",
            key.1,
            impostors.join(", ")
        );
    }
    condition
}

fn programmed(scope: Scope<'_>, key: &Key) -> Condition {
    let kind = "Programmed";
    if let Some(pod) = scope.derived.shared.get(key) {
        let message = format!(
            "pod {}/{pod}, which is not one of its own ({GATEWAY_NAME}), runs as its service account: nobody can tell them \
             apart, so its waypoint is trusted with nothing and sent nothing",
            key.0
        );
        return Condition::fails(kind, "Invalid", message);
    }
    let stranger = scope.service(key);
    let stranger = stranger.filter(|service| !selects_pods_of(service, &key.1));
    if stranger.is_some() && !is_ready(scope, key) {
        let message = format!(
            "the Service of its name does not select its pods ({GATEWAY_NAME}: {}): nobody finds its waypoint",
            key.1
        );
        return Condition::fails(kind, "AddressNotUsable", message);
    }
    if is_ready(scope, key) {
        Condition::holds(kind, "Programmed", "")
    } else {
        Condition::fails(kind, "AddressNotAssigned", "its waypoint was not ready yet")
    }
}

fn listener_conditions(listener: &Listener) -> Vec<Condition> {
    if is_tunnel(listener) {
        return ["Accepted", "Programmed", "ResolvedRefs"]
            .map(|kind| Condition::holds(kind, kind, ""))
            .into();
    }
    let message = format!("a waypoint listens to {PROTOCOL} on port {PORT} only");
    let reason = if listener.protocol == PROTOCOL {
        "PortUnavailable"
    } else {
        "UnsupportedProtocol"
    };
    vec![
        Condition::fails("Accepted", reason, message),
        Condition::fails("Programmed", "Invalid", ""),
        Condition::holds("ResolvedRefs", "ResolvedRefs", ""),
    ]
}
