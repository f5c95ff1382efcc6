//! What routes are attached to, and which of them hold there.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use proto::workload::AppProtocol;

use super::{
    super::{Scope, gateway, protocol::declared},
    Candidate,
};
use crate::{
    manifest::{Route, RouteKind, core::ServicePort, route::ParentRef},
    world::Key,
};

/// At most so many routes of a namespace for services of others.
pub(super) const MOST_CONSUMERS: usize = 64;
/// And at most so many bytes of them.
pub(super) const LARGEST_CONSUMERS: usize = 256 << 10;

const GATEWAY: &str = "gateway.networking.k8s.io";

/// Where a parentRef that is ours to serve leads: a service and its ports, or why nowhere.
pub(super) struct Place {
    service: Option<Key>,
    ports: Result<Vec<u16>, (&'static str, String)>,
}

/// How a route fares at a parent.
pub(super) struct Outcome {
    /// The service, if there is one.
    pub(super) service: Option<Key>,
    /// Why it does not hold there: a reason for programs, and in words.
    pub(super) refusal: Option<(&'static str, String)>,
    /// What is worth knowing although it does.
    pub(super) note: String,
}

/// Which routes hold for a port.
#[derive(Default)]
pub(super) struct Holding {
    /// The kind of those of the service's own namespace.
    pub(super) kind: Option<RouteKind>,
    /// Indices of candidates.
    pub(super) candidates: BTreeSet<usize>,
}

/// All routes at all ports.
pub(super) struct Attached<'a> {
    ports: BTreeMap<(Key, u16), Holding>,
    indices: BTreeMap<(RouteKind, &'a str, &'a str), usize>,
    /// Why a route does not hold for a port.
    refusals: BTreeMap<(usize, Key, u16), (&'static str, String)>,
}

/// `None` if the parent is somebody else's.
pub(super) fn place(scope: Scope<'_>, route: &Route, parent: &ParentRef) -> Option<Place> {
    let group = parent.group.as_deref().unwrap_or(GATEWAY);
    let kind = parent.kind.as_deref().unwrap_or("Gateway");
    let namespace = parent.namespace.as_ref().unwrap_or(&route.meta.namespace);
    let key = (namespace.clone(), parent.name.clone());
    let refused = |reason, message: String| {
        Some(Place {
            service: None,
            ports: Err((reason, message)),
        })
    };
    match (group, kind) {
        ("", "Service") => Some(at_service(scope, route, parent, key)),
        (GATEWAY, "Gateway") => {
            let gateway = scope.world.gateways.get(&key)?;
            if !gateway::serves(scope, &gateway.class) {
                return None;
            }
            refused(
                "NotAllowedByListeners",
                "a waypoint has no routes of its own: name the Service as parent".to_owned(),
            )
        }
        (GATEWAY, "Service") => refused(
            "InvalidKind",
            format!("a Service has group \"\", not {GATEWAY}"),
        ),
        _ => None,
    }
}

fn at_service(scope: Scope<'_>, route: &Route, parent: &ParentRef, key: Key) -> Place {
    let words = format!("Service {}/{}", key.0, key.1);
    let service = scope.world.services.get(&key);
    let Some(service) = service.filter(|service| scope.sees(&service.meta.namespace)) else {
        return Place {
            service: None,
            ports: Err(("NoMatchingParent", format!("{words} is not there"))),
        };
    };
    let meant = |port: &&ServicePort| {
        let section = parent.section.as_ref();
        !port.udp
            && parent.port.is_none_or(|number| number == port.port)
            && section.is_none_or(|name| *name == port.name)
    };
    let meant: Vec<_> = service.ports.iter().filter(meant).collect();
    let fitting = meant.iter().filter(|port| fits(route.kind, port));
    let fitting: Vec<_> = fitting.map(|port| port.port).collect();
    let ports = if service.external_name || service.addresses.is_empty() {
        let what = match service.external_name {
            true => "is a name for something outside",
            false => "has no address of its own",
        };
        let message = format!("{words} {what}: clients go straight to where it leads");
        Err(("UnsupportedValue", message))
    } else if meant.is_empty() {
        let all = service.ports.iter().filter(|port| !port.udp);
        let all = all.map(|port| match port.name.as_str() {
            "" => port.port.to_string(),
            name => format!("{} ({name})", port.port),
        });
        let message = format!(
            "{words} has no TCP port as its parentRef names it: it has {}",
            all.collect::<Vec<_>>().join(", ")
        );
        Err(("NoMatchingParent", message))
    } else if fitting.is_empty() {
        let message = format!(
            "{words}: a {} is not for the protocol that is declared there",
            route.kind.as_str()
        );
        Err(("UnsupportedProtocol", message))
    } else {
        Ok(fitting)
    };
    Place {
        service: Some(key),
        ports,
    }
}

/// The kind of routes that a port's declared protocol asks for. `None`: nobody says what it speaks.
pub(super) fn natural(port: &ServicePort) -> Option<RouteKind> {
    Some(match declared(port)? {
        AppProtocol::Http11 | AppProtocol::Http2 => RouteKind::Http,
        AppProtocol::Grpc => RouteKind::Grpc,
        AppProtocol::Tcp | AppProtocol::Tls | AppProtocol::Unknown => RouteKind::Tcp,
    })
}

/// Whether a route of that kind can hold for a port: what is declared is not for a route to change.
fn fits(kind: RouteKind, port: &ServicePort) -> bool {
    let tcp = kind == RouteKind::Tcp;
    natural(port).is_none_or(|natural| (natural == RouteKind::Tcp) == tcp)
}

impl<'a> Attached<'a> {
    pub(super) fn new(scope: Scope<'_>, candidates: &[Candidate<'a>]) -> Self {
        let mut attached = Self {
            ports: BTreeMap::new(),
            indices: BTreeMap::new(),
            refusals: BTreeMap::new(),
        };
        // Of each port those who want it, by namespace.
        let mut wanting: BTreeMap<(Key, u16), BTreeMap<&str, BTreeSet<usize>>> = BTreeMap::new();
        let beyond = beyond(scope, candidates);
        for (index, Candidate { route, converted }) in candidates.iter().enumerate() {
            let meta = &route.meta;
            let key = (route.kind, meta.namespace.as_str(), meta.name.as_str());
            attached.indices.insert(key, index);
            for (service, port) in wanted(scope, route) {
                if beyond.contains(&(index, service.clone())) {
                    let message = format!(
                        "namespace {} has more than {MOST_CONSUMERS} routes, or {LARGEST_CONSUMERS} bytes of them, for services of other namespaces: the newest are not in force",
                        meta.namespace
                    );
                    attached.refuse(index, &service, port, "TooManyRoutes", message);
                } else if converted.takes_part() {
                    let of_port = wanting.entry((service, port)).or_default();
                    of_port.entry(&meta.namespace).or_default().insert(index);
                }
            }
        }
        for ((service, port), mut by_namespace) in wanting {
            for own in by_namespace.values_mut() {
                attached.shut(candidates, &service, port, own);
            }
            let own = by_namespace.remove(service.0.as_str()).unwrap_or_default();
            let kind = attached.settle(candidates, &service, port, own);
            attached
                .ports
                .entry((service.clone(), port))
                .or_default()
                .kind = kind;
            let kind = kind.or_else(|| natural_at(scope, &service, port));
            let theirs = by_namespace.into_values().flatten();
            attached.settle_consumers(candidates, &service, port, kind, theirs);
        }
        attached
            .ports
            .retain(|_, holding| !holding.candidates.is_empty());
        attached
    }

    pub(super) fn ports(&self) -> &BTreeMap<(Key, u16), Holding> {
        &self.ports
    }

    /// Of those of one namespace who want a port, one may leave nothing to the others.
    fn shut(
        &mut self,
        candidates: &[Candidate<'_>],
        service: &Key,
        port: u16,
        wanting: &mut BTreeSet<usize>,
    ) {
        let mut shutting = wanting.iter().filter(|&&it| candidates[it].converted.shuts);
        let Some(&first) = shutting.next() else {
            return;
        };
        let route = candidates[first].route;
        let message = format!(
            "port {port} is answered with 500: {} {} cannot be understood, and nobody can tell which requests it guards",
            route.kind.as_str(),
            route.meta.name
        );
        wanting.retain(|&index| {
            let stays = candidates[index].converted.shuts;
            if !stays {
                self.refuse(index, service, port, "Conflicted", message.clone());
            }
            stays
        });
    }

    /// Of those who want a port, those of the kind that prevails hold there.
    fn settle(
        &mut self,
        candidates: &[Candidate<'_>],
        service: &Key,
        port: u16,
        wanting: BTreeSet<usize>,
    ) -> Option<RouteKind> {
        let kind = wanting.iter().map(|&it| candidates[it].route.kind).min()?;
        for index in wanting {
            if candidates[index].route.kind == kind {
                let holding = self.ports.entry((service.clone(), port)).or_default();
                holding.candidates.insert(index);
            } else {
                let message = format!("port {port} has a {}, which prevails", kind.as_str());
                self.refuse(index, service, port, "Conflicted", message);
            }
        }
        Some(kind)
    }

    /// Those of other namespaces hold if they are of the kind that is there without them: a port has one kind, and none of
    /// them may decide for others.
    fn settle_consumers(
        &mut self,
        candidates: &[Candidate<'_>],
        service: &Key,
        port: u16,
        kind: Option<RouteKind>,
        wanting: impl Iterator<Item = usize>,
    ) {
        for index in wanting {
            if kind == Some(candidates[index].route.kind) {
                let holding = self.ports.entry((service.clone(), port)).or_default();
                holding.candidates.insert(index);
                continue;
            }
            let why = match kind {
                None => "does not declare its protocol".to_owned(),
                Some(kind) => format!("takes {}s", kind.as_str()),
            };
            let message =
                format!("port {port} {why}, and a route of another namespace does not change that");
            self.refuse(index, service, port, "Conflicted", message);
        }
    }

    fn refuse(
        &mut self,
        index: usize,
        service: &Key,
        port: u16,
        reason: &'static str,
        message: String,
    ) {
        let key = (index, service.clone(), port);
        self.refusals.insert(key, (reason, message));
    }

    /// How a route fares where one of its parentRefs leads.
    pub(super) fn outcome(&self, route: &Route, place: Place) -> Outcome {
        let Place { service, ports } = place;
        let (Ok(ports), Some(key)) = (&ports, &service) else {
            return Outcome {
                refusal: ports.err(),
                service,
                note: String::new(),
            };
        };
        let meta = &route.meta;
        let index = self
            .indices
            .get(&(route.kind, meta.namespace.as_str(), meta.name.as_str()))
            .copied()
            .unwrap_or_default();
        let refusal = |&port: &u16| self.refusals.get(&(index, key.clone(), port));
        let refusals: Vec<_> = ports.iter().filter_map(refusal).collect();
        let words: Vec<_> = refusals.iter().map(|(_, words)| words.as_str()).collect();
        let words = words.join("; ");
        let all = refusals.len() == ports.len();
        let first = refusals.first().filter(|_| all);
        Outcome {
            refusal: first.map(|(reason, _)| (*reason, words.clone())),
            note: if all { String::new() } else { words },
            service,
        }
    }
}

/// The ports that a route is attached to, each once.
fn wanted(scope: Scope<'_>, route: &Route) -> BTreeSet<(Key, u16)> {
    let places = route
        .parents
        .iter()
        .filter_map(|parent| place(scope, route, parent));
    let ports = places.filter_map(|place| Some((place.service?, place.ports.ok()?)));
    ports
        .flat_map(|(service, ports)| ports.into_iter().map(move |port| (service.clone(), port)))
        .collect()
}

fn natural_at(scope: Scope<'_>, service: &Key, number: u16) -> Option<RouteKind> {
    let ports = &scope.world.services.get(service)?.ports;
    natural(ports.iter().find(|port| port.port == number && !port.udp)?)
}

/// Which routes are too many of their namespace for services of others, or too large; the oldest count first.
fn beyond(scope: Scope<'_>, candidates: &[Candidate<'_>]) -> BTreeSet<(usize, Key)> {
    let mut consumers = Vec::new();
    for (index, Candidate { route, converted }) in candidates.iter().enumerate() {
        let meta = &route.meta;
        let services = wanted(scope, route).into_iter().map(|(service, _)| service);
        let others: BTreeSet<_> = services.filter(|it| it.0 != meta.namespace).collect();
        for service in others.into_iter().filter(|_| converted.takes_part()) {
            consumers.push((meta.created, &meta.namespace, &meta.name, service, index));
        }
    }
    consumers.sort();
    let mut spent: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    let mut beyond = BTreeSet::new();
    for (_, namespace, _, service, index) in consumers {
        let candidate = &candidates[index];
        let (_, resource) = super::resource(candidate.route, &candidate.converted, &service);
        let (count, bytes) = spent.entry(namespace).or_default();
        (*count, *bytes) = (*count + 1, *bytes + resource.encoded_len());
        if *count > MOST_CONSUMERS || *bytes > LARGEST_CONSUMERS {
            beyond.insert((index, service));
        }
    }
    beyond
}
