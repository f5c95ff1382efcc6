//! Which service is bound to which waypoint: labels, what a Gateway admits, which policies need a waypoint, and how far the
//! binding has come.
//!
//! Nothing here opens what was closed: once a service is bound, only taking its label away, or setting it to `none`,
//! unbinds it. A policy that needs a waypoint that cannot be had closes the service.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Compiled, Scope, Wanted,
    gateway::{self, Obstacle},
    policy::Attached,
};
use crate::{
    manifest::{Kind, Meta, Service, mesh::Visible},
    status::Condition,
    world::{Key, Phase, World, host},
};

mod entries;

pub(super) const USE_WAYPOINT: &str = "istio.io/use-waypoint";
const USE_WAYPOINT_NAMESPACE: &str = "istio.io/use-waypoint-namespace";
const CANARY: &str = "istio.io/use-waypoint-canary";
/// On a service: whoever goes around its waypoint is not denied.
const BYPASS: &str = "ambit.dev/waypoint-bypass";
const BYPASS_ALLOWED: &str = "allowed";
pub(super) const BOUND: &str = "istio.io/WaypointBound";

/// The bindings of all services.
pub(super) struct Bindings {
    by_service: BTreeMap<Key, Binding>,
    by_gateway: BTreeMap<Key, BTreeSet<Key>>,
}

/// The binding of one service. By default it is not bound.
#[derive(Debug, Default)]
pub(super) struct Binding {
    /// The gateway that its label names, if that one serves it.
    accepted: Option<Key>,
    /// The gateways whose waypoints are told of it. They have its policies, so they decide those.
    pub(super) told: BTreeSet<Key>,
    /// Of these, those that somebody may be sent to, now or a moment ago.
    pub(super) involved: BTreeSet<Key>,
    /// What the service is published with.
    pub(super) published: Option<Published>,
    /// Who is denied at its target ports.
    pub(super) denied: Denied,
    wanted: Option<Wanted>,
    /// A policy needs a waypoint that it cannot have, or may need one.
    closed: bool,
    condition: Option<Condition>,
}

/// What a service is published with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Published {
    /// The waypoint of a gateway.
    Gateway(Key),
    /// A waypoint that nobody can find.
    Nowhere,
}

/// Who is denied at the target ports of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Denied {
    /// Nobody, for its sake.
    #[default]
    Nobody,
    /// Whoever is not a waypoint of a service there.
    Around,
    /// All.
    Everybody,
}

impl Bindings {
    pub(super) fn new(scope: Scope<'_>, attached: &Attached) -> Self {
        let mut bindings = Self {
            by_service: BTreeMap::new(),
            by_gateway: BTreeMap::new(),
        };
        let services = scope
            .services()
            .filter(|service| super::services::is_served(scope, service));
        for service in services {
            let key = (service.meta.namespace.clone(), service.meta.name.clone());
            let binding = bind(Asked {
                scope,
                attached,
                service,
                key: &key,
            });
            for gateway in &binding.told {
                let told = bindings.by_gateway.entry(gateway.clone()).or_default();
                told.insert(key.clone());
            }
            bindings.by_service.insert(key, binding);
        }
        bindings
    }

    /// The gateway that a service is labelled to and that admits it, ready or not.
    pub(super) fn of(&self, service: &Key) -> Option<&Key> {
        self.by_service.get(service)?.accepted.as_ref()
    }

    /// The services that the waypoint of a gateway is told of.
    pub(super) fn services_of(&self, gateway: &Key) -> impl Iterator<Item = &Key> {
        self.by_gateway.get(gateway).into_iter().flatten()
    }

    /// All that is known of a service's binding; nothing of one that is not served.
    pub(super) fn binding(&self, service: &Key) -> Option<&Binding> {
        self.by_service.get(service)
    }

    /// Those that waypoints are involved in, by service.
    pub(super) fn involving(&self) -> impl Iterator<Item = (&Key, &Binding)> {
        let all = self.by_service.iter();
        all.filter(|(_, binding)| !binding.involved.is_empty())
    }

    /// What the services say of their bindings, and what those are to become.
    pub(super) fn tell(&self, scope: Scope<'_>, compiled: &mut Compiled) {
        let telling = |it: &Binding| it.wanted.is_some() || it.closed || it.condition.is_some();
        for (key, binding) in self.by_service.iter().filter(|(_, it)| telling(it)) {
            // All hosts of a ServiceEntry go the same way.
            let whole = host::widened(key);
            if let Some(wanted) = &binding.wanted {
                compiled.closed.remove(&whole);
                compiled.wanted.insert(whole, wanted.clone());
            } else if binding.closed && !compiled.wanted.contains_key(&whole) {
                compiled.closed.insert(whole);
            }
            if let Some(condition) = &binding.condition {
                let service = scope.service(key);
                let status = compiled.statuses.entry(host::object(key)).or_default();
                status.generation = service.map_or(0, |service| service.meta.generation);
                let said = status.conditions.iter_mut().find(|it| it.kind == BOUND);
                match said {
                    // Of another host of the same ServiceEntry: what does not hold for one is told.
                    Some(said) if said.holds => said.clone_from(condition),
                    Some(_) => {}
                    None => status.conditions.push(condition.clone()),
                }
            }
        }
        entries::hold(scope, compiled);
    }
}

/// A service whose binding is asked for.
#[derive(Clone, Copy)]
struct Asked<'a> {
    scope: Scope<'a>,
    attached: &'a Attached,
    service: &'a Service,
    key: &'a Key,
}

fn bind(asked: Asked<'_>) -> Binding {
    let label = label(asked.scope, &asked.service.meta);
    let named = asked.attached.polices_service(asked.key);
    if gateway::owns(asked.scope, asked.service) {
        // Namespaces label it like any other: that is nothing to tell.
        return closed(false, named, "it is the Service of a waypoint");
    }
    let entry = asked.scope.entry(asked.key);
    if let Some(lacks) = entry.and_then(|entry| Some((entry, entry.lack.as_ref()?))) {
        return entries::lacking(asked, label.as_ref(), named, lacks);
    }
    if asked.service.addresses.is_empty() {
        let reason = "it is headless, it has no address that could lead to a waypoint";
        // What a policy of its waypoint had closed does not open because its address is gone.
        let stays = |gateway: &Key| {
            let was = phase(asked).is_some_and(Phase::is_enforced);
            was && policed_by(asked, gateway)
        };
        let policed = named || label.as_ref().is_some_and(stays);
        let mut binding = closed(label.is_some(), policed, reason);
        let selects = !policed || !asked.service.selector.is_empty();
        if let (Some(condition), Some(entry), false) = (&mut binding.condition, entry, selects) {
            condition.message = entry.refusal().to_owned();
        }
        return binding;
    }
    match label {
        Some(gateway) => labelled(asked, gateway, named),
        None => unlabelled(asked, named),
    }
}

/// The gateway that the label of a service or pod, or of its namespace, names. Whose label it is also says in which
/// namespace.
pub(super) fn label(scope: Scope<'_>, meta: &Meta) -> Option<Key> {
    named(scope.world, meta)
}

/// The same, of a world of which nothing else matters.
pub(super) fn named(world: &World, meta: &Meta) -> Option<Key> {
    let own = &meta.labels;
    let labels = if own.contains_key(USE_WAYPOINT) {
        own
    } else {
        let namespace = world.namespaces.get(&meta.namespace)?;
        &namespace.meta.labels
    };
    let name = labels.get(USE_WAYPOINT).filter(|name| *name != "none")?;
    let namespace = labels.get(USE_WAYPOINT_NAMESPACE);
    let namespace = namespace.unwrap_or(&meta.namespace);
    Some((namespace.clone(), name.clone()))
}

/// A service that is never bound. A policy that names it has nobody who could judge it.
fn closed(labelled: bool, policed: bool, reason: &'static str) -> Binding {
    let effect = if policed {
        ": a policy is attached to it that nobody can judge, so its workloads refuse every peer on its target ports"
    } else {
        ": it is never bound to a waypoint"
    };
    let message = || format!("{reason}{effect}");
    Binding {
        denied: if policed {
            Denied::Everybody
        } else {
            Denied::Nobody
        },
        closed: policed,
        condition: (policed || labelled)
            .then(|| Condition::fails(BOUND, "UnsupportedTrafficType", message())),
        ..Binding::default()
    }
}

/// Why a gateway does not serve it.
fn obstacle(asked: Asked<'_>, gateway: &Key) -> Option<Obstacle> {
    let found = gateway::obstacle(asked.scope, gateway, &asked.key.0);
    let entry = asked.scope.entry(asked.key);
    let hidden =
        entry.is_some_and(|it| it.visible == Visible::Namespace) && gateway.0 != asked.key.0;
    match found {
        Some(Obstacle::Missing) | None if hidden => Some(Obstacle::Hidden),
        _ => found,
    }
}

/// A service without a label: on its way out of a binding, or closed because a policy needs one.
fn unlabelled(asked: Asked<'_>, policed: bool) -> Binding {
    let phase = phase(asked);
    let told = told(asked, phase, None);
    let involved = told.clone();
    if policed {
        let message = format!(
            "a policy that needs a waypoint is attached to it, and no label {} names one: \
             everything is refused until there is one or the policy is taken away",
            asked.scope.settings.keys.use_waypoint()
        );
        return Binding {
            told,
            involved,
            published: Some(Published::Nowhere),
            denied: around(asked),
            closed: true,
            condition: Some(Condition::fails(BOUND, "WaypointIsNotReady", message)),
            ..Binding::default()
        };
    }
    Binding {
        published: phase
            .and_then(Phase::published)
            .map(|gateway| published(asked, gateway)),
        told,
        involved,
        ..Binding::default()
    }
}

/// Whether a policy of the gateway, or of its class, applies to a service that is labelled to it; or did, while nobody can
/// tell now: a Gateway that is gone has no class.
fn policed_by(asked: Asked<'_>, gateway: &Key) -> bool {
    let Asked {
        scope, attached, ..
    } = asked;
    let obstacle = obstacle(asked, gateway);
    let untold = obstacle.is_some() || is_foreign(scope, gateway);
    let kept = untold && phase(asked).is_some_and(Phase::is_enforced);
    kept || obstacle != Some(Obstacle::Denied) && attached.polices_gateway(scope, gateway)
}

/// Whether it is somebody else's: nobody tells us how far its waypoint has come.
fn is_foreign(scope: Scope<'_>, gateway: &Key) -> bool {
    let found = gateway::find(scope, gateway);
    found.is_some_and(|found| !gateway::serves(scope, &found.class))
}

fn labelled(asked: Asked<'_>, gateway: Key, named: bool) -> Binding {
    let Asked { scope, service, .. } = asked;
    let obstacle = obstacle(asked, &gateway);
    let refused = obstacle.is_some_and(Obstacle::refuses);
    let foreign = is_foreign(scope, &gateway);
    let phase = phase(asked);
    let policed = named || policed_by(asked, &gateway);
    let recorded = scope.world.waypoints.is_some() && !foreign;
    let published = match phase.and_then(Phase::published) {
        Some(gateway) => Some(published(asked, gateway)),
        None if refused => policed.then_some(Published::Nowhere),
        None if recorded => None,
        None => {
            let bound = policed || gateway::is_ready(scope, &gateway);
            bound.then(|| Published::Gateway(gateway.clone()))
        }
    };
    let enforced = match phase {
        Some(phase) => phase.is_enforced(),
        None => !recorded || refused,
    };
    let around = around(asked);
    let denied = if policed && enforced {
        around
    } else {
        Denied::Nobody
    };
    // What nobody carries out does not begin; it does not end either. Nor does anything begin where all is denied.
    let untold = may_be_named(scope, &service.meta.namespace);
    let begins = !refused && !foreign && !untold;
    let bound = phase.is_some_and(|phase| *phase != Phase::Closed);
    let wanted = (begins || bound).then(|| Wanted {
        gateway: gateway.clone(),
        policed,
        deny: (policed || untold) && around != Denied::Nobody,
    });
    Binding {
        condition: Some(condition(asked, &gateway, obstacle, published.as_ref())),
        involved: told(
            asked,
            phase,
            (!recorded && published.is_some()).then_some(&gateway),
        ),
        told: told(asked, phase, Some(&gateway)),
        accepted: obstacle.is_none().then_some(gateway),
        closed: untold || policed && (refused || foreign),
        published,
        denied,
        wanted,
    }
}

/// Whether a policy of a namespace may name any of its services, while it denies all of it: nobody can tell what it is
/// attached to.
fn may_be_named(scope: Scope<'_>, namespace: &str) -> bool {
    let mut denials = scope.world.denials.iter();
    denials.any(|(policy, denial)| {
        policy.kind != Kind::PeerAuthentication
            && policy.namespace == namespace
            && denial.selector.is_none()
            && denial.targets.is_empty()
    })
}

fn phase<'a>(asked: Asked<'a>) -> Option<&'a Phase> {
    let phases = &asked.scope.world.waypoints.as_ref()?.phases;
    if phases.is_empty() {
        return None;
    }
    phases.get(&host::widened(asked.key))
}

/// Who is denied where a policy is enforced.
fn around(asked: Asked<'_>) -> Denied {
    if may_be_bypassed(asked.service) {
        Denied::Nobody
    } else {
        Denied::Around
    }
}

/// Whether whoever goes around the waypoint of a service is let in.
pub(super) fn may_be_bypassed(service: &Service) -> bool {
    let bypass = service.meta.annotations.get(BYPASS);
    bypass.is_some_and(|value| value == BYPASS_ALLOWED)
}

/// The waypoint of a gateway, unless that does not serve the service: then it is not even asked.
fn published(asked: Asked<'_>, gateway: &Key) -> Published {
    match obstacle(asked, gateway) {
        Some(obstacle) if obstacle.refuses() => Published::Nowhere,
        _ => Published::Gateway(gateway.clone()),
    }
}

/// Those that the binding involves, and that serve the service.
fn told(asked: Asked<'_>, phase: Option<&Phase>, label: Option<&Key>) -> BTreeSet<Key> {
    let involved = phase.into_iter().flat_map(Phase::told).chain(label);
    let serves = |gateway: &&Key| obstacle(asked, gateway).is_none();
    involved.filter(serves).cloned().collect()
}

fn condition(
    asked: Asked<'_>,
    gateway: &Key,
    obstacle: Option<Obstacle>,
    published: Option<&Published>,
) -> Condition {
    let Asked { scope, service, .. } = asked;
    let (namespace, name) = gateway;
    let effect = match published {
        Some(_) => "everything is refused until that changes",
        None => "until that changes, traffic goes straight to the endpoints",
    };
    let fails = |reason, what: &str| {
        let message = format!("waypoint {namespace}/{name} {what}: {effect}");
        Condition::fails(BOUND, reason, message)
    };
    match obstacle {
        Some(Obstacle::Missing) => fails("WaypointIsNotReady", "is not there"),
        Some(Obstacle::Denied) => fails(
            "AttachmentDenied",
            "does not admit services of this namespace (allowedRoutes)",
        ),
        Some(Obstacle::Unsupported) => fails(
            "UnsupportedTrafficType",
            "is not for services (istio.io/waypoint-for)",
        ),
        Some(Obstacle::Hidden) => fails(
            "CrossNamespaceWaypointForbidden",
            "is of another namespace, and only its own sees it (serviceEntryVisibility)",
        ),
        Some(Obstacle::Shared) => fails(
            "WaypointIsNotReady",
            "shares its service account with a pod that is not its own",
        ),
        None if !gateway::is_ready(scope, gateway) => {
            fails("WaypointIsNotReady", "was not ready yet")
        }
        None if published.is_none() => fails("WaypointIsNotReady", "is being told of it"),
        None => {
            let canary = scope.label(&service.meta.labels, &service.meta.namespace, CANARY);
            let message = canary.map_or(String::new(), |canary| {
                format!("canary waypoints are not served yet: nothing goes to {canary}")
            });
            Condition::holds(BOUND, "WaypointAccepted", message)
        }
    }
}
