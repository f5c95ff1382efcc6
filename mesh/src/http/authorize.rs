//! Layer 7 authorization: may this request pass?
//!
//! Whatever is in doubt counts against the request: in a DENY it matches, in an ALLOW it does not. So it is with
//! attributes that cannot be evaluated, with repeated headers of which only some match, and with hosts whose port may or
//! may not be meant. A path that servers read differently is decided in each reading, and has to pass in all.
//!
//! Who asks is matched by the evaluator of layer 4; only what a request has beside a connection is matched here.

mod condition;
mod policy;
mod template;

pub use condition::{Rejected, is_star_within};
pub(crate) use condition::{account, port, range};
pub use policy::{
    Action, Condition, Effect, Operation, PathPattern, Policy, Rule, Source, host, text,
};
pub use template::Template;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use crate::{
    decide::{self, match_matches},
    http::{head::Head, host::Host},
    identity::Identity,
    model::{Match, StringMatch},
    name::Name,
};

/// What is known of a request when it is to be decided.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Never what somebody says of the client.
    pub connection: Connection,
    /// What it asks.
    pub head: &'a Head<'a>,
}

/// What is known of a client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// From the client's certificate; none for plain text.
    pub peer: Option<Identity>,
    /// The client's address.
    pub source: IpAddr,
    /// The service's address that was asked for; none if nobody knows which: whatever is said of it is in doubt.
    pub destination: Option<IpAddr>,
    /// The service's port.
    pub port: u16,
}

/// What was decided, and by which policy and rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The decision.
    pub decision: Decision,
    /// What policies with `dry_run` would have denied.
    pub dry_run: Vec<Denial>,
    /// What AUDIT policies match.
    pub audit: Vec<Matched>,
}

/// A rule of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Matched {
    /// `<namespace>/<name>`.
    pub policy: Name,
    /// From 0, in the order of the object.
    pub rule: usize,
}

/// Yes or no, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It passes. The ALLOW rule that matched, if there is any ALLOW policy.
    Allow(Option<Matched>),
    /// It does not. The answer is 403, to gRPC 7.
    Deny(Denial),
}

/// Why a request is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Denial {
    /// A rule of a DENY policy matches.
    Denied(Matched),
    /// There are ALLOW policies, and none matches. One of them.
    NotAllowed(Name),
    /// The policy could not be understood, or nobody knows it.
    NotUnderstood(Name),
}

impl Denial {
    /// The policy that decided.
    pub fn policy(self) -> Name {
        match self {
            Self::Denied(matched) => matched.policy,
            Self::NotAllowed(name) | Self::NotUnderstood(name) => name,
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(Matched { policy, rule }) => {
                write!(f, "denied by policy {policy}, rule {rule}")
            }
            Self::NotAllowed(name) => write!(f, "no ALLOW policy matches, such as {name}"),
            Self::NotUnderstood(name) => {
                write!(f, "policy {name} could not be understood, so it denies")
            }
        }
    }
}

/// Decides by all policies that apply.
///
/// Any DENY that matches denies. Without any ALLOW policy all else passes; with some, one of them has to match.
pub fn decide<'p, P>(policies: P, request: &Request<'_>) -> Verdict
where
    P: IntoIterator<Item = &'p Policy> + Clone,
{
    let principal = request.connection.peer.map(|peer| peer.principal());
    let mut verdict = Verdict {
        decision: Decision::Allow(None),
        dry_run: Vec::new(),
        audit: Vec::new(),
    };
    let head = request.head;
    let readings = head.methods().flat_map(|method| {
        let paths = head.path.readings();
        paths.map(move |path| Asks { head, method, path })
    });
    for (at, asks) in readings.enumerate() {
        let asks = Some(asks);
        let seen = Seen::new(&request.connection, principal.as_deref(), asks);
        let one = decide_reading(policies.clone(), &seen);
        append_new(&mut verdict.dry_run, one.dry_run);
        append_new(&mut verdict.audit, one.audit);
        let denied = matches!(verdict.decision, Decision::Deny(_));
        if !denied && (at == 0 || matches!(one.decision, Decision::Deny(_))) {
            verdict.decision = one.decision;
        }
    }
    verdict
}

/// Decides a connection whose bytes nobody reads, so that nothing of a request is known. What asks about one does not
/// count in a rule that denies, which so denies more; a rule that allows and asks about one allows nothing.
pub fn decide_connection<'p>(
    policies: impl IntoIterator<Item = &'p Policy>,
    connection: &Connection,
) -> Verdict {
    let principal = connection.peer.map(|peer| peer.principal());
    decide_reading(policies, &Seen::new(connection, principal.as_deref(), None))
}

/// Adds what is not there yet.
pub(crate) fn append_new<T: PartialEq>(list: &mut Vec<T>, more: Vec<T>) {
    for one in more {
        if !list.contains(&one) {
            list.push(one);
        }
    }
}

/// A request in one reading of its method and of its path.
#[derive(Clone, Copy)]
struct Asks<'a> {
    head: &'a Head<'a>,
    method: &'a [u8],
    path: &'a str,
}

/// What is decided about: such a request, or a connection of which no request is known.
struct Seen<'a> {
    /// As layer 4 asks. Its destination counts only if it is known.
    connection: decide::Request,
    destination_known: bool,
    principal: Option<&'a str>,
    asks: Option<Asks<'a>>,
}

fn decide_reading<'p>(policies: impl IntoIterator<Item = &'p Policy>, seen: &Seen<'_>) -> Verdict {
    let (mut denied, mut allowed, mut not_allowed) = (None, None, None);
    let (mut would_deny, mut would_allow, mut would_not_allow) = (Vec::new(), false, Vec::new());
    let mut audit = Vec::new();
    for policy in policies {
        let name = policy.name;
        let (action, dry_run, rules) = match &policy.effect {
            Effect::DenyAll(_) => {
                denied = denied.or(Some(Denial::NotUnderstood(name)));
                continue;
            }
            Effect::Rules {
                action,
                dry_run,
                rules,
            } => (*action, *dry_run, rules),
        };
        let doubt = match action {
            Action::Allow => Doubt::Misses,
            Action::Deny | Action::Audit => Doubt::Matches,
        };
        let rule = rules.iter().position(|rule| seen.rule(rule, doubt));
        let matched = rule.map(|rule| Matched { policy: name, rule });
        match (action, matched, dry_run) {
            (Action::Allow, Some(matched), false) => allowed = allowed.or(Some(matched)),
            (Action::Allow, None, false) => not_allowed = not_allowed.or(Some(name)),
            (Action::Allow, Some(_), true) => would_allow = true,
            (Action::Allow, None, true) => would_not_allow.push(Denial::NotAllowed(name)),
            (Action::Deny, Some(matched), false) => {
                denied = denied.or(Some(Denial::Denied(matched)))
            }
            (Action::Deny, Some(matched), true) => would_deny.push(Denial::Denied(matched)),
            (Action::Audit, Some(matched), _) => audit.push(matched),
            (Action::Deny | Action::Audit, None, _) => {}
        }
    }
    // Were they enforced, what no ALLOW policy matches would not pass.
    if allowed.is_none() && !would_allow {
        would_deny.append(&mut would_not_allow);
    }
    let decision = match (denied, allowed, not_allowed) {
        (Some(denial), _, _) => Decision::Deny(denial),
        (None, None, Some(name)) => Decision::Deny(Denial::NotAllowed(name)),
        (None, allowed, _) => Decision::Allow(allowed),
    };
    Verdict {
        decision,
        dry_run: would_deny,
        audit,
    }
}

/// What becomes of what cannot be told for sure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doubt {
    Matches,
    Misses,
}

impl Doubt {
    /// For what is inside of a negation.
    fn opposite(self) -> Self {
        match self {
            Self::Matches => Self::Misses,
            Self::Misses => Self::Matches,
        }
    }
}

impl<'a> Seen<'a> {
    fn new(connection: &Connection, principal: Option<&'a str>, asks: Option<Asks<'a>>) -> Self {
        let Connection {
            peer,
            source,
            destination,
            port,
        } = *connection;
        let connection = decide::Request {
            peer,
            source,
            destination: destination.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            port,
        };
        Self {
            connection,
            destination_known: destination.is_some(),
            principal,
            asks,
        }
    }

    fn rule(&self, rule: &Rule, doubt: Doubt) -> bool {
        let from = || rule.from.iter().any(|source| self.source(source, doubt));
        let to = || {
            rule.to
                .iter()
                .any(|operation| self.operation(operation, doubt))
        };
        let told = self.asks.is_some() || doubt == Doubt::Matches || !rule.asks_about_requests();
        told && (rule.from.is_empty() || from())
            && (rule.to.is_empty() || to())
            && rule
                .when
                .iter()
                .all(|condition| self.condition(condition, doubt))
    }

    /// Nothing at all is nothing that can be understood.
    fn source(&self, source: &Source, doubt: Doubt) -> bool {
        let empty = source.peer == Match::default();
        let understood = !empty && source.unserved.is_none();
        (empty || self.peer(&source.peer, doubt)) && (understood || doubt == Doubt::Matches)
    }

    /// What asks about a destination asks about nothing else (`destination.ip`).
    fn peer(&self, peer: &Match, doubt: Doubt) -> bool {
        let destinations = [&peer.destination_ips, &peer.not_destination_ips];
        if !self.destination_known && destinations.iter().any(|list| !list.is_empty()) {
            return doubt == Doubt::Matches;
        }
        match_matches(peer, &self.connection, self.principal)
    }

    fn operation(&self, operation: &Operation, doubt: Doubt) -> bool {
        let Operation {
            hosts,
            not_hosts,
            ports,
            not_ports,
            methods,
            not_methods,
            paths,
            not_paths,
        } = operation;
        let port = self.connection.port;
        let understood = *operation != Operation::default();
        let connection = (ports.is_empty() || ports.contains(&port)) && !not_ports.contains(&port);
        let request = self.asks.is_none_or(|asks| {
            let head = asks.head;
            let method = |list: &[StringMatch]| {
                let mut list = list.iter();
                list.any(|pattern| pattern.matches_bytes(asks.method))
            };
            let path = |list: &[PathPattern]| list.iter().any(|pattern| pattern.matches(asks.path));
            (hosts.is_empty() || self.host(head, hosts, doubt))
                && (not_hosts.is_empty() || !self.host(head, not_hosts, doubt.opposite()))
                && (methods.is_empty() || method(methods))
                && !method(not_methods)
                && (paths.is_empty() || path(paths))
                && !path(not_paths)
        });
        connection && request && (understood || doubt == Doubt::Matches)
    }

    /// A host is compared as `name` and `name:port` where the port goes without saying, else only with its port. In doubt
    /// the port is not meant, or it is the one that the client connected to.
    fn host(&self, head: &Head<'_>, list: &[StringMatch], doubt: Doubt) -> bool {
        let Head { host, scheme, .. } = head;
        let Host { name, port } = host;
        let with = |port: u16| format!("{name}:{port}");
        let said = with(port.unwrap_or(scheme.port()));
        let doubtful = doubt == Doubt::Matches;
        let asked = doubtful.then(|| with(self.connection.port));
        let bare = port.is_none() || doubtful;
        list.iter().any(|pattern| {
            ignoring_case(pattern, &said)
                || bare && ignoring_case(pattern, name)
                || asked
                    .as_ref()
                    .is_some_and(|asked| ignoring_case(pattern, asked))
        })
    }

    fn condition(&self, condition: &Condition, doubt: Doubt) -> bool {
        match condition {
            Condition::Peer(peer) if *peer == Match::default() => doubt == Doubt::Matches,
            Condition::Peer(peer) => self.peer(peer, doubt),
            Condition::Operation(operation) => self.operation(operation, doubt),
            Condition::Header {
                name,
                values,
                not_values,
            } => {
                let understood = !values.is_empty() || !not_values.is_empty();
                let header = self.asks.is_none_or(|Asks { head, .. }| {
                    (values.is_empty() || has_header(head, name, values, doubt))
                        && (not_values.is_empty()
                            || !has_header(head, name, not_values, doubt.opposite()))
                });
                header && (understood || doubt == Doubt::Matches)
            }
            Condition::Unserved(_) => doubt == Doubt::Matches,
        }
    }
}

/// In doubt any value that matches will do; else all have to, and there has to be one.
fn has_header(head: &Head<'_>, name: &str, list: &[StringMatch], doubt: Doubt) -> bool {
    let matches = |value: &[u8]| list.iter().any(|pattern| pattern.matches_bytes(value));
    let mut values = head.values(name.as_bytes()).peekable();
    match doubt {
        Doubt::Matches => values.any(matches),
        Doubt::Misses => values.peek().is_some() && values.all(matches),
    }
}

/// Hosts have no case; `host` is ASCII.
fn ignoring_case(pattern: &StringMatch, host: &str) -> bool {
    let host = host.as_bytes();
    match pattern {
        StringMatch::Exact(text) => host.eq_ignore_ascii_case(text.as_bytes()),
        StringMatch::Prefix(text) => {
            let start = host.get(..text.len());
            start.is_some_and(|start| start.eq_ignore_ascii_case(text.as_bytes()))
        }
        StringMatch::Presence => !host.is_empty(),
        StringMatch::Suffix(text) => {
            let end = host.len().checked_sub(text.len()).map(|at| &host[at..]);
            end.is_some_and(|end| end.eq_ignore_ascii_case(text.as_bytes()))
        }
    }
}

#[cfg(test)]
mod tests;
