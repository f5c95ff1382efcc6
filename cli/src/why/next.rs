//! What to do where the answer is no: which object to change, and whose identity it has to name.

use std::collections::BTreeSet;

use control::{
    compile,
    manifest::{Kind, Object, ObjectRef, RouteKind},
    world::Key,
};
use mesh::{
    decide,
    http::{
        authorize, route,
        select::Selected,
        weight::{self, Target},
    },
    identity::Identity,
    model::is_generated,
    name::Name,
    refusal::{Lack, Refusal},
    waypoint::{Answer, Denial},
};

use super::{
    ends::short,
    facts::Facts,
    said,
    trace::{End, Outcome},
};

/// Of the Gateway API.
const GROUP: &str = "gateway.networking.k8s.io";
/// So do the names of generated policies against whoever goes around a waypoint begin, before the port.
const AROUND: &str = "ambit_waypoint_";
/// The names of routes begin so that stand in for objects: one of two of the same name, and a wish for TLS.
const REFUSED: &str = "refused_";
const NO_TLS: &str = "unserved_tls_";

/// A name under `invalid` is nobody's (RFC 2606 §2): a service that has it is to reach no waypoint.
const NOWHERE: &str = ".invalid";
/// What says of a Service whether all that is listed of it may be its endpoint.
const ENDPOINTS: &str = "ResolvedRefs";

/// Who came, as policies see it.
#[derive(Clone, Debug)]
pub(super) struct Asker<'f> {
    /// What is known.
    pub(super) facts: &'f Facts,
    /// None: it came in plain text.
    pub(super) identity: Option<Identity>,
    /// For whom it asks, if it is a waypoint.
    pub(super) is_waypoint: bool,
    /// What it asked for, for people.
    pub(super) what: String,
}

/// The end that a waypoint's answer is.
pub(super) fn answered(answer: &Answer, asker: &Asker<'_>, grpc: bool) -> End {
    let outcome = match answer {
        Answer::Denied(_) => Outcome::Denied,
        Answer::Redirect { .. } => Outcome::Redirected,
        Answer::Upstream(_) | Answer::Loop(_) | Answer::NotServed(_) | Answer::NotReady => {
            Outcome::Refused
        }
        _ => Outcome::Unrouted,
    };
    End {
        status: Some(answer.status()),
        grpc_status: grpc.then(|| answer.grpc_status()),
        flags: Some(answer.flags().to_owned()),
        details: Some(answer.details()),
        ..End::new(outcome, said(answer), of_answer(answer, asker))
    }
}

/// What to do about a rule that cannot be carried out; `None` if that is not why.
pub(super) fn of_rule(answer: &Answer, selected: Selected<'_>, facts: &Facts) -> Option<String> {
    let route = selected.route;
    let kind = match route.kind {
        route::Kind::Grpc => RouteKind::Grpc,
        route::Kind::Http => RouteKind::Http,
        route::Kind::Tcp => RouteKind::Tcp,
    };
    let name = route.name.strip_prefix(REFUSED).unwrap_or(&route.name);
    let reference = ObjectRef::new(Kind::Route(kind), route.namespace.as_str(), name);
    let words = format!("{} {}/{name}", kind.as_str(), route.namespace);
    let rule = format!("rule {} of {words}", selected.at);
    let why = match answer {
        Answer::NoBackend => {
            return Some(format!(
                "give a backendRef of {rule} a weight above 0: together they have none"
            ));
        }
        Answer::InvalidBackend(why) => why,
        _ => return None,
    };
    // Those that nobody wrote have a name that no object can have.
    if route.name.starts_with(NO_TLS) {
        return Some(format!(
            "take away what wants TLS, or let a route lead elsewhere: {why}"
        ));
    }
    let stands_in = name != &*route.name || facts.world.object(&reference).is_none();
    if stands_in && let Some(faults) = said::faults(facts, &reference) {
        return Some(format!(
            "correct {words}: {faults}. Until then what it wants guarded is refused"
        ));
    }
    if selected.rule.invalid.is_some() {
        return Some(format!(
            "change {rule}, so that it can be carried out: {why}"
        ));
    }
    let wrong = |it: &weight::Backend| matches!(&it.target, Target::Invalid(all) if **all == **why);
    let at = selected.rule.backends.iter().position(wrong);
    let place = at.map_or_else(|| rule.clone(), |at| format!("backendRefs[{at}] of {rule}"));
    Some(match lack(&reference, selected.at, at, facts) {
        Some(other) => format!("correct {place}, or {other}"),
        None => format!("correct {place}: {why}"),
    })
}

/// What else than the reference may be changed, so that it leads somewhere.
fn lack(route: &ObjectRef, rule: usize, at: Option<usize>, facts: &Facts) -> Option<String> {
    let Some(Object::Route(written)) = facts.world.object(route) else {
        return None;
    };
    let backend = written.rules.get(rule)?.backends.get(at?)?;
    if !backend.is_service() {
        return None;
    }
    let own = &route.namespace;
    let namespace = backend.namespace.as_ref().unwrap_or(own);
    let service = (namespace.clone(), backend.name.clone());
    let name = &backend.name;
    let mut grants = facts.world.reference_grants.values();
    let is_granted = grants.any(|it| {
        it.meta.namespace == *namespace && it.grants_service(GROUP, route.kind.as_str(), own, name)
    });
    if namespace != own && !is_granted {
        return Some(format!(
            "make a ReferenceGrant in namespace {namespace}, from {}s ({GROUP}) of namespace {own} to Service {name}",
            route.kind.as_str()
        ));
    }
    match facts.world.services.get(&service) {
        None => Some(format!("make Service {namespace}/{name}")),
        Some(found) => {
            let ports: Vec<_> = found.ports.iter().filter(|it| !it.udp).collect();
            let number = backend.port.unwrap_or_default();
            let has = ports.iter().any(|it| it.port == number);
            let listed: Vec<_> = ports.iter().map(|it| it.port.to_string()).collect();
            (!has).then(|| {
                format!(
                    "give Service {namespace}/{name} a port {number}: it has {}",
                    listed.join(", ")
                )
            })
        }
    }
}

/// In words that come after the outcome.
fn said(answer: &Answer) -> String {
    match answer {
        Answer::Redirect { location, .. } => format!("to {}", location.escape_ascii()),
        Answer::Denied(_) => {
            let words = answer.to_string();
            let rest = words.strip_prefix("denied ").map(str::to_owned);
            rest.unwrap_or(words)
        }
        _ => answer.to_string(),
    }
}

/// The end that a ztunnel's refusal is to the client, whose connection is closed.
pub(super) fn refused(refusal: &Refusal, asker: &Asker<'_>) -> End {
    let outcome = match refusal {
        Refusal::Denied(_) => Outcome::Denied,
        _ => Outcome::Refused,
    };
    End::new(outcome, refusal.to_string(), of_refusal(refusal, asker))
}

fn of_answer(answer: &Answer, asker: &Asker<'_>) -> Option<String> {
    Some(match answer {
        Answer::Denied(Denial::Request(denial)) => of_request(*denial, asker),
        Answer::Denied(Denial::Connection(denial)) => of_connection(*denial, asker),
        Answer::Upstream(refusal) => return of_refusal(refusal, asker),
        Answer::NoRoute => {
            "add a rule that matches the request to a route of the service".to_owned()
        }
        Answer::InvalidBackend(why) => format!("mend what leads there: {why}"),
        Answer::NoEndpoint(service) => endpointless(*service, asker.facts),
        Answer::NotServed(_) => "ask for a port that the service has".to_owned(),
        Answer::NotReady => "wait until the waypoint is told of the service".to_owned(),
        Answer::Loop(_) => {
            "let no route lead back to a service of a waypoint that it came from".to_owned()
        }
        Answer::Unserved(_) => "the object's status says what is not served".to_owned(),
        Answer::Malformed(_) | Answer::TooLarge(_) | Answer::Unframed(_) => {
            "send a request that has one reading".to_owned()
        }
        _ => return None,
    })
}

fn of_request(denial: authorize::Denial, asker: &Asker<'_>) -> String {
    match denial {
        authorize::Denial::Denied(matched) => denies(matched.policy, Some(matched.rule), asker),
        authorize::Denial::NotAllowed(policy) => allow(policy, &asker.what, asker),
        authorize::Denial::NotUnderstood(policy) => correct(policy),
    }
}

fn of_connection(denial: decide::Denial, asker: &Asker<'_>) -> String {
    let next = match denial {
        decide::Denial::Denied(policy) if is_generated(policy) => generated(policy, asker),
        decide::Denial::Denied(policy) => denies(policy, None, asker),
        decide::Denial::NotAllowed(policy) => allow(policy, "connect", asker),
        decide::Denial::NotUnderstood(policy) | decide::Denial::Unknown(policy) => correct(policy),
    };
    match beyond(denial.policy(), asker.facts) {
        Some(said) => format!("{next}. Of that policy: {said}"),
        None => next,
    }
}

/// What a policy wants that no node proxy sees.
fn beyond(policy: Name, facts: &Facts) -> Option<&str> {
    let (namespace, name) = policy.as_str().split_once('/')?;
    let reference = ObjectRef::new(Kind::AuthorizationPolicy, namespace, name);
    let condition = said::failing(facts, &reference, "ZtunnelAccepted")?;
    Some(&condition.message)
}

/// Of policies that nobody wrote. Their names say why they are there.
fn generated(policy: Name, asker: &Asker<'_>) -> String {
    let (namespace, name) = policy.as_str().split_once('/').unwrap_or_default();
    if let Some(service) = name.strip_prefix("refused_service_") {
        return format!(
            "correct Service {namespace}/{service}: it cannot be understood, so its pods refuse everybody for the sake of a policy"
        );
    }
    if name.starts_with("refused_namespace_") {
        return format!(
            "correct Namespace {namespace}: it cannot be understood, so its pods refuse everybody for the sake of a policy"
        );
    }
    if name.starts_with("ambit_waypoint_pods_") {
        return "take the label istio.io/use-waypoint from the pod, or the policy from the Gateway that it names: waypoints for workloads are not served".to_owned();
    }
    let nobody = asker.facts.closing.contains(policy.as_str());
    let service = behind(policy, asker.facts);
    match (name.starts_with(AROUND), asker.identity) {
        (true, _) if nobody => {
            "no waypoint may come there either: give the service that the policy is for an address and a waypoint, or take the policy away"
        }
        (true, Some(_)) => {
            return format!(
                "ask {service}, which has the waypoint, by its own name or address; or annotate it with \
                 ambit.dev/waypoint-bypass: allowed",
            );
        }
        (true, None) => {
            return format!(
                "enrol the client's pod, and ask {service}, which has the waypoint, by its own name or address"
            );
        }
        (false, _) => {
            "enrol the client's pod, so that it comes with an identity; or make the PeerAuthentication PERMISSIVE"
        }
    }
    .to_owned()
}

/// What a service says of a condition that does not hold.
fn lacking(service: Name, kind: &str, facts: &Facts) -> Option<String> {
    let (namespace, name) = key(service)?;
    let reference = ObjectRef::new(Kind::Service, &namespace, &name);
    let condition = said::failing(facts, &reference, kind)?;
    Some(format!(
        "mend what is in the way of Service {namespace}/{name} ({kind}): {}",
        condition.message
    ))
}

/// Namespace and name, of `namespace/hostname`.
fn key(service: Name) -> Option<Key> {
    let (namespace, host) = service.as_str().split_once('/')?;
    let name = host.split('.').next()?;
    Some((namespace.to_owned(), name.to_owned()))
}

/// What keeps a service from the waypoint that it is to have.
fn unbound(service: Name, facts: &Facts) -> Option<String> {
    let own = key(service)?;
    let reference = ObjectRef::new(Kind::Service, &own.0, &own.1);
    let condition = said::failing(facts, &reference, said::BOUND)?;
    let gateway = compile::gateway_of(&facts.world, &facts.settings, &own);
    match (condition.reason, gateway) {
        ("AttachmentDenied", Some((namespace, name))) => Some(format!(
            "let Gateway {namespace}/{name} admit services of namespace {}, by allowedRoutes.namespaces (from: All, or a \
             selector) of its listener for HBONE; or label Service {}/{} to a Gateway of its own namespace",
            own.0, own.0, own.1
        )),
        _ => lacking(service, said::BOUND, facts),
    }
}

/// Where it has no such port.
fn portless(service: Name, facts: &Facts) -> String {
    let found = facts.mesh.service(service);
    let ports = found.into_iter().flat_map(|it| &it.ports);
    let ports: Vec<_> = ports.map(|port| port.service.to_string()).collect();
    match ports.as_slice() {
        [] => format!("give {service} a port: it has none"),
        ports => format!("ask for a port that it has: {}", ports.join(", ")),
    }
}

/// The services with a waypoint that lead to the port that a generated policy is for, of the pods that have it.
fn behind(policy: Name, facts: &Facts) -> String {
    let port = policy.as_str().split_once(AROUND).map(|(_, rest)| rest);
    let port: Option<u16> = port.and_then(|rest| rest.split('_').next()?.parse().ok());
    let pods = facts.mesh.workloads();
    let pods = pods.filter(|pod| pod.policies.contains(&policy));
    let leads = pods.flat_map(|pod| &pod.services).filter(|it| {
        let mut targets = it.ports.iter().map(|port| port.target);
        port.is_none_or(|port| targets.any(|target| target == port))
    });
    let services = leads.filter_map(|it| facts.mesh.service(it.service));
    let bound = services.filter(|service| service.waypoint.is_some());
    let names: BTreeSet<_> = bound.map(short).collect();
    if names.is_empty() {
        return "the service".to_owned();
    }
    names.into_iter().collect::<Vec<_>>().join(" or ")
}

/// Where nobody serves it.
fn endpointless(service: Name, facts: &Facts) -> String {
    let said = lacking(service, ENDPOINTS, facts);
    said.unwrap_or_else(|| format!("see why no pod of {service} is ready"))
}

fn allow(policy: Name, what: &str, asker: &Asker<'_>) -> String {
    let Some(identity) = asker.identity else {
        return format!(
            "enrol the client's pod, so that it has an identity that {policy} can allow"
        );
    };
    let waypoint = if asker.is_waypoint {
        ", which is the waypoint that asks for the client"
    } else {
        ""
    };
    format!("allow {identity}{waypoint} to {what} in policy {policy}, or in another ALLOW policy",)
}

fn denies(policy: Name, rule: Option<usize>, asker: &Asker<'_>) -> String {
    let rule = rule.map_or_else(String::new, |rule| format!("rule {rule} of "));
    let who = match asker.identity {
        Some(identity) if asker.is_waypoint => format!("the waypoint {identity}"),
        Some(identity) => identity.to_string(),
        None => "a client without identity".to_owned(),
    };
    format!("change {rule}DENY policy {policy}, if {who} is to be let in")
}

fn correct(policy: Name) -> String {
    format!("correct policy {policy}: it denies for its scope as long as it cannot be understood")
}

fn of_refusal(refusal: &Refusal, asker: &Asker<'_>) -> Option<String> {
    Some(match refusal {
        Refusal::Denied(denial) => of_connection(*denial, asker),
        Refusal::NoWaypoint {
            service,
            waypoint,
            lack,
        } => match lack {
            Lack::Unknown if waypoint.to_string().ends_with(NOWHERE) => {
                return unbound(*service, asker.facts);
            }
            Lack::Unknown | Lack::NoHealthyEndpoint => {
                let own = key(*service);
                let gateway = own.and_then(|own| said::waypointless(asker.facts, &own));
                gateway
                    .unwrap_or_else(|| format!("see why the waypoint {waypoint} has no ready pod"))
            }
            _ => return None,
        },
        Refusal::NoHealthyEndpoint(service) => endpointless(*service, asker.facts),
        Refusal::NoSuchPort { service, .. } => portless(*service, asker.facts),
        Refusal::Unusable(name) => format!("correct {name}"),
        Refusal::Tunnel { .. } => "see the log of who does not answer".to_owned(),
        _ => return None,
    })
}
