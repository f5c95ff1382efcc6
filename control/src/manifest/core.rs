//! The Kubernetes kinds that say what runs where.
//!
//! Only what the mesh acts on is read, all else is ignored, but for slips in the case of what is read. Where the API server would fill in a default, it is filled
//! in here, because a manifest in a directory has met no API server.

use std::{collections::BTreeSet, net::IpAddr};

use mesh::manifest::POD_SPEC;

use super::{
    Labels, Meta,
    read::{At, Faults},
};

/// A namespace: its labels and annotations are defaults for what is in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Namespace {
    /// Metadata.
    pub meta: Meta,
}

/// A node: its labels say where its pods are.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Metadata.
    pub meta: Meta,
}

/// A service account.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceAccount {
    /// Metadata.
    pub meta: Meta,
}

/// A pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Pod {
    /// Metadata.
    pub meta: Meta,
    /// Whether a controller made up its name (`metadata.generateName`).
    pub generated: bool,
    /// The owner that controls it.
    pub controller: Option<Owner>,
    /// Empty until it is scheduled.
    pub node: String,
    /// May be empty.
    pub service_account: String,
    /// Whether it shares its node's addresses.
    pub host_network: bool,
    /// Named TCP ports, those of containers before those of sidecars (init containers that keep running).
    pub ports: Vec<NamedPort>,
    /// Succeeded or failed: it will never run again.
    pub over: bool,
    /// In the order of `status.podIPs`.
    pub addresses: Vec<IpAddr>,
    /// Whether its condition `Ready` is true.
    pub ready: bool,
}

/// The owner that controls an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
}

/// A container port with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPort {
    /// Name.
    pub name: String,
    /// Number.
    pub port: u16,
}

/// A service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Service {
    /// Metadata.
    pub meta: Meta,
    /// An alias for a name outside, which has no endpoints of its own.
    pub external_name: bool,
    /// Cluster addresses; none for a headless service.
    pub addresses: Vec<IpAddr>,
    /// Whether it serves IPv4, IPv6; neither if nothing says so.
    pub families: Families,
    /// Ports.
    pub ports: Vec<ServicePort>,
    /// Labels of its pods; without any, its endpoints are listed by hand.
    pub selector: Labels,
    /// `internalTrafficPolicy: Local`.
    pub local: bool,
    /// `trafficDistribution`.
    pub distribution: Option<String>,
    /// Endpoints that are not ready serve too.
    pub publish_not_ready: bool,
}

/// Address families.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Families {
    /// IPv4.
    pub v4: bool,
    /// IPv6.
    pub v6: bool,
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Empty if it has none.
    pub name: String,
    /// Number.
    pub port: u16,
    /// Where it leads.
    pub target: Target,
    /// Neither TCP nor SCTP.
    pub udp: bool,
    /// `appProtocol`.
    pub app_protocol: Option<String>,
}

/// Where a service's port leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The same port of every endpoint.
    Number(u16),
    /// Each endpoint's own port of this name.
    Name(String),
}

/// Endpoints of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointSlice {
    /// Metadata.
    pub meta: Meta,
    /// Name of the service, in the slice's namespace.
    pub service: Option<String>,
    /// Name and number of each port.
    pub ports: Vec<NamedPort>,
    /// Endpoints; none if they are names instead of addresses.
    pub endpoints: Vec<Endpoint>,
}

/// One endpoint of a slice.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// At least one.
    pub addresses: Vec<IpAddr>,
    /// Unknown counts as ready (EndpointConditions).
    pub ready: bool,
    /// The pod that it is, if it is one.
    pub pod: Option<PodTarget>,
}

/// Which pod an endpoint is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodTarget {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Tells apart pods that had the same name one after the other.
    pub uid: String,
}

/// What is read of `spec`.
const SERVICE_SPEC: [&str; 9] = [
    "type",
    "selector",
    "internalTrafficPolicy",
    "trafficDistribution",
    "publishNotReadyAddresses",
    "clusterIP",
    "clusterIPs",
    "ipFamilies",
    "ports",
];

pub(super) fn pod(meta: Meta, root: &At<'_>, faults: &mut Faults) -> Pod {
    let mut pod = Pod {
        meta,
        generated: false,
        controller: None,
        node: String::new(),
        service_account: String::new(),
        host_network: false,
        ports: Vec::new(),
        over: false,
        addresses: Vec::new(),
        ready: false,
    };
    if let Some(at) = root.mapping("metadata", faults) {
        pod.generated = at
            .text("generateName", faults)
            .is_some_and(|name| !name.is_empty());
        pod.controller = controller(&at, faults);
    }
    root.in_case(&["spec", "status"], faults);
    if let Some(spec) = root.mapping("spec", faults) {
        spec.in_case(&POD_SPEC, faults);
        spec.text("nodeName", faults)
            .unwrap_or_default()
            .clone_into(&mut pod.node);
        spec.text("serviceAccountName", faults)
            .unwrap_or_default()
            .clone_into(&mut pod.service_account);
        pod.host_network = spec.flag("hostNetwork", faults);
        for container in spec.items("containers", faults) {
            container_ports(&container, &mut pod.ports, faults);
        }
        for container in spec.items("initContainers", faults) {
            if container.peek("restartPolicy") == Some("Always") {
                container_ports(&container, &mut pod.ports, faults);
            }
        }
        names_are_segments(&spec, &pod, faults);
    }
    if let Some(status) = root.mapping("status", faults) {
        pod.over = matches!(status.text("phase", faults), Some("Succeeded" | "Failed"));
        pod.addresses = pod_addresses(&status, faults);
        let conditions = status.items("conditions", faults);
        pod.ready = conditions
            .iter()
            .any(|at| at.peek("type") == Some("Ready") && at.peek("status") == Some("True"));
    }
    pod
}

/// Both become part of ids, where a '/' would change their meaning.
fn names_are_segments(spec: &At<'_>, pod: &Pod, faults: &mut Faults) {
    for (key, name) in [
        ("nodeName", &pod.node),
        ("serviceAccountName", &pod.service_account),
    ] {
        if !name.is_empty() && !super::meta::is_subdomain(name) {
            faults.add(
                spec,
                key,
                format!("{name:?} is not a DNS subdomain (a-z, 0-9, '-', '.')"),
            );
        }
    }
}

fn controller(metadata: &At<'_>, faults: &mut Faults) -> Option<Owner> {
    let owners = metadata.items("ownerReferences", faults);
    let owner = owners.iter().find(|at| at.flag("controller", faults))?;
    Some(Owner {
        kind: owner.text("kind", faults)?.to_owned(),
        name: owner.text("name", faults)?.to_owned(),
    })
}

fn container_ports(container: &At<'_>, ports: &mut Vec<NamedPort>, faults: &mut Faults) {
    for at in container.items("ports", faults) {
        let tcp = matches!(at.text("protocol", faults), None | Some("TCP"));
        if let (true, Some(name), Some(port)) = (
            tcp,
            at.text("name", faults),
            at.port("containerPort", faults),
        ) {
            ports.push(NamedPort {
                name: name.to_owned(),
                port,
            });
        }
    }
}

fn pod_addresses(status: &At<'_>, faults: &mut Faults) -> Vec<IpAddr> {
    let listed: Vec<_> = status
        .items("podIPs", faults)
        .iter()
        .filter_map(|at| at.get("ip"))
        .collect();
    let all = if listed.is_empty() {
        status.get("podIP").into_iter().collect()
    } else {
        listed
    };
    // An address is empty until the pod has one.
    all.iter()
        .filter(|at| !at.is_empty_text())
        .filter_map(|at| at.as_address(faults))
        .collect()
}

pub(super) fn service(meta: Meta, root: &At<'_>, faults: &mut Faults) -> Service {
    let mut service = Service {
        meta,
        ..Service::default()
    };
    root.in_case(&["spec"], faults);
    let Some(spec) = root.mapping("spec", faults) else {
        return service;
    };
    spec.in_case(&SERVICE_SPEC, faults);
    service.external_name = spec.text("type", faults) == Some("ExternalName");
    service.selector = spec.labels("selector", faults);
    service.local = spec.text("internalTrafficPolicy", faults) == Some("Local");
    service.distribution = spec.text("trafficDistribution", faults).map(str::to_owned);
    service.publish_not_ready = spec.flag("publishNotReadyAddresses", faults);
    service.addresses = cluster_addresses(&spec, faults);
    service.families = families(&spec, &service.addresses, faults);
    let mut seen = BTreeSet::new();
    for at in spec.items("ports", faults) {
        let Some((port, protocol)) = service_port(&at, faults) else {
            continue;
        };
        if !seen.insert((port.port, protocol.to_owned())) {
            faults.add(&at, "port", format!("{} is there twice", port.port));
        }
        service.ports.push(port);
    }
    service
}

/// What counts of a faulty Service: its selector, empty if that may be another.
pub(super) fn selecting(service: Service, root: &At<'_>) -> Service {
    let mut faults = Faults::default();
    root.in_case(&["spec"], &mut faults);
    let spec = root.mapping("spec", &mut faults);
    let selector = spec.map(|spec| {
        spec.in_case(&["selector"], &mut faults);
        spec.labels("selector", &mut faults)
    });
    Service {
        meta: service.meta,
        selector: selector.filter(|_| faults.is_empty()).unwrap_or_default(),
        ..Service::default()
    }
}

fn cluster_addresses(spec: &At<'_>, faults: &mut Faults) -> Vec<IpAddr> {
    let listed = spec.items("clusterIPs", faults);
    let all = if listed.is_empty() {
        spec.get("clusterIP").into_iter().collect()
    } else {
        listed
    };
    let texts: Vec<_> = all
        .iter()
        .filter_map(|at| Some((at, at.as_text(faults)?)))
        .collect();
    let given = texts
        .into_iter()
        .filter(|(_, text)| !matches!(*text, "" | "None"));
    given.filter_map(|(at, _)| at.as_address(faults)).collect()
}

fn families(spec: &At<'_>, addresses: &[IpAddr], faults: &mut Faults) -> Families {
    let mut families = Families::default();
    for (at, family) in spec.texts("ipFamilies", faults) {
        match family {
            "IPv4" => families.v4 = true,
            "IPv6" => families.v6 = true,
            _ => faults.add(&at, "", format!("{family:?} is neither IPv4 nor IPv6")),
        }
    }
    if families == Families::default() {
        families.v4 = addresses.iter().any(IpAddr::is_ipv4);
        families.v6 = addresses.iter().any(IpAddr::is_ipv6);
    }
    families
}

/// A port with its protocol.
fn service_port<'a>(at: &At<'a>, faults: &mut Faults) -> Option<(ServicePort, &'a str)> {
    let Some(number) = at.get("port") else {
        faults.add(at, "port", "a port number is required");
        return None;
    };
    let port = number.as_port(faults)?;
    let target = match at.get("targetPort") {
        None => Target::Number(port),
        Some(target) if target.is_number() => Target::Number(target.as_port(faults)?),
        Some(target) => Target::Name(target.as_text(faults)?.to_owned()),
    };
    let protocol = at.text("protocol", faults).unwrap_or("TCP");
    let port = ServicePort {
        name: at.text("name", faults).unwrap_or_default().to_owned(),
        port,
        target,
        udp: protocol == "UDP",
        app_protocol: at.text("appProtocol", faults).map(str::to_owned),
    };
    Some((port, protocol))
}

pub(super) fn endpoint_slice(meta: Meta, root: &At<'_>, faults: &mut Faults) -> EndpointSlice {
    let service = meta.labels.get("kubernetes.io/service-name").cloned();
    let mut slice = EndpointSlice {
        service,
        ports: Vec::new(),
        endpoints: Vec::new(),
        meta,
    };
    for at in root.items("ports", faults) {
        if let Some(port) = at.port("port", faults) {
            slice.ports.push(NamedPort {
                name: at.text("name", faults).unwrap_or_default().to_owned(),
                port,
            });
        }
    }
    match root.text("addressType", faults) {
        Some("IPv4" | "IPv6") => {}
        // Names, not addresses.
        Some("FQDN") => return slice,
        other => faults.add(
            root,
            "addressType",
            format!(
                "{:?} is none of IPv4, IPv6, FQDN",
                other.unwrap_or_default()
            ),
        ),
    }
    slice.endpoints = root
        .items("endpoints", faults)
        .iter()
        .map(|at| endpoint(at, &slice.meta, faults))
        .collect();
    slice
}

fn endpoint(at: &At<'_>, meta: &Meta, faults: &mut Faults) -> Endpoint {
    let addresses: Vec<_> = at
        .items("addresses", faults)
        .iter()
        .filter_map(|at| at.as_address(faults))
        .collect();
    if addresses.is_empty() {
        faults.add(at, "addresses", "at least one address is required");
    }
    let conditions = at.mapping("conditions", faults);
    let ready = conditions.is_none_or(|at| at.get("ready").is_none() || at.flag("ready", faults));
    let target = at
        .mapping("targetRef", faults)
        .filter(|at| at.peek("kind") == Some("Pod"));
    let pod = target.map(|at| PodTarget {
        namespace: at
            .text("namespace", faults)
            .unwrap_or(&meta.namespace)
            .to_owned(),
        name: at.text("name", faults).unwrap_or_default().to_owned(),
        uid: at.text("uid", faults).unwrap_or_default().to_owned(),
    });
    Endpoint {
        addresses,
        ready,
        pod,
    }
}
