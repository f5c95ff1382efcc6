//! What to do where the answer is no: which object to change, and whose identity it has to name.

use control::manifest::{Kind, ObjectRef};
use mesh::{
    decide,
    http::authorize,
    identity::Identity,
    model::is_generated,
    name::Name,
    refusal::{Lack, Refusal},
    waypoint::{Answer, Denial},
};

use super::{
    facts::Facts,
    trace::{End, Outcome},
};

/// A name under `invalid` is nobody's (RFC 2606 §2): a service that has it is to reach no waypoint.
const NOWHERE: &str = ".invalid";
/// What says of a Service whether it is behind its waypoint.
const BOUND: &str = "istio.io/WaypointBound";
/// And whether all that is listed of it may be its endpoint.
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
        Answer::InvalidBackend(_) | Answer::NoBackend => {
            "correct the backendRefs of the rule; the route's status says more".to_owned()
        }
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
    match denial {
        decide::Denial::Denied(policy) if is_generated(policy) => generated(policy, asker),
        decide::Denial::Denied(policy) => denies(policy, None, asker),
        decide::Denial::NotAllowed(policy) => allow(policy, "connect", asker),
        decide::Denial::NotUnderstood(policy) | decide::Denial::Unknown(policy) => correct(policy),
    }
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
    match (name.starts_with("ambit_waypoint_"), asker.identity) {
        (true, _) if nobody => {
            "no waypoint may come there either: give the service that the policy is for an address and a waypoint, or take the policy away"
        }
        (true, Some(_)) => {
            "ask the service that has the waypoint, by its address; or annotate it with ambit.dev/waypoint-bypass: allowed"
        }
        (true, None) => {
            "enrol the client's pod, and ask the service that has the waypoint, by its address"
        }
        (false, _) => {
            "enrol the client's pod, so that it comes with an identity; or make the PeerAuthentication PERMISSIVE"
        }
    }
    .to_owned()
}

/// What a service says of a condition that does not hold.
fn lacking(service: Name, kind: &str, facts: &Facts) -> Option<String> {
    let (namespace, host) = service.as_str().split_once('/')?;
    let name = host.split('.').next()?;
    let reference = ObjectRef::new(Kind::Service, namespace, name);
    let status = facts.statuses.get(&reference)?;
    let mut conditions = status.conditions.iter();
    let condition = conditions.find(|it| it.kind == kind && !it.holds)?;
    Some(format!(
        "change what {kind} says of Service {namespace}/{name}: {}",
        condition.message
    ))
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
                return lacking(*service, BOUND, asker.facts);
            }
            Lack::Unknown => format!(
                "make the Gateway whose waypoint {waypoint} is, or correct the label istio.io/use-waypoint of {service}"
            ),
            Lack::NoHealthyEndpoint => {
                format!("see why the waypoint {waypoint} has no ready pod")
            }
            _ => return None,
        },
        Refusal::NoHealthyEndpoint(service) => endpointless(*service, asker.facts),
        Refusal::NoSuchPort { service, .. } => format!("ask for a port that {service} has"),
        Refusal::Unusable(name) => format!("correct {name}"),
        Refusal::Tunnel { .. } => "see the log of who does not answer".to_owned(),
        _ => return None,
    })
}
