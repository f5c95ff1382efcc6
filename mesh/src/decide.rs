//! Layer 4 authorization: may this peer talk to this port of this workload?

use std::{collections::HashSet, fmt, net::IpAddr, sync::Arc};

use crate::{
    identity::Identity,
    model::{
        Action, Effect, Group, IpRange, Match, Policy, Rule, StringMatch, Workload,
        WorkloadAccount, is_generated,
    },
    name::Name,
    store::Generation,
};

/// What is known of a connection when it is to be decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// From the peer's certificate; none for plain text.
    pub peer: Option<Identity>,
    /// The peer's address as seen on the socket.
    pub source: IpAddr,
    /// The pod's address.
    pub destination: IpAddr,
    /// The pod's port.
    pub port: u16,
}

/// What was decided, and by which policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The decision.
    pub decision: Decision,
    /// Policies with `dry_run` that would have denied it.
    pub dry_run: Vec<Name>,
}

/// Yes or no, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It passes. The ALLOW policy that matched, if there is any ALLOW policy.
    Allow(Option<Name>),
    /// It does not.
    Deny(Denial),
}

/// Why a connection is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Denial {
    /// A DENY policy matches.
    Denied(Name),
    /// There are ALLOW policies, and none matches. One of them.
    NotAllowed(Name),
    /// The policy could not be understood.
    NotUnderstood(Name),
    /// The workload names the policy, but nobody knows it.
    Unknown(Name),
}

impl Denial {
    /// The policy that decided.
    pub fn policy(self) -> Name {
        match self {
            Self::Denied(name)
            | Self::NotAllowed(name)
            | Self::NotUnderstood(name)
            | Self::Unknown(name) => name,
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(name) => write!(f, "denied by policy {name}"),
            Self::NotAllowed(name) => write!(f, "no ALLOW policy matches, such as {name}"),
            Self::NotUnderstood(name) => {
                write!(f, "policy {name} could not be understood, so it denies")
            }
            Self::Unknown(name) => {
                write!(
                    f,
                    "the workload names policy {name}, which is unknown, so it denies"
                )
            }
        }
    }
}

/// Which of the policies that apply are decided here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Every one.
    All,
    /// Those of the control plane's own making: somebody who is trusted to do so has decided the others.
    Generated,
    /// Those that somebody wrote: the workload's own proxy decides the others.
    Written,
}

impl Which {
    /// Whether a policy is among them, known or not.
    pub fn holds(self, policy: Name) -> bool {
        match self {
            Self::All => true,
            Self::Generated => is_generated(policy),
            Self::Written => !is_generated(policy),
        }
    }
}

/// Decides by the policies that apply to a workload: the mesh's, its namespace's, those it lists. Of them only `which`;
/// the others are as if they were not there, so `Generated` and `Written` both have to allow what `All` allows.
///
/// Any DENY that matches denies. Without any ALLOW policy all else passes; with some, one of them
/// has to match.
pub fn decide(
    generation: &Generation,
    workload: &Workload,
    request: &Request,
    which: Which,
) -> Verdict {
    let mut dry_run = Vec::new();
    let (mut allowed_by, mut not_allowed_by) = (None, None);
    let (mut would_allow, mut would_not_allow) = (false, Vec::new());
    let principal = request.peer.map(|peer| peer.principal());
    let unlisted = generation.unlisted_policies(workload.namespace()).map(Ok);
    let listed = workload
        .policies
        .iter()
        .map(|name| generation.policy(*name).ok_or(*name));
    let named = |policy: &Result<&Arc<Policy>, Name>| policy.map_or_else(|name| name, |p| p.name);
    for policy in unlisted.chain(listed).filter(|p| which.holds(named(p))) {
        let outcome = match policy {
            Ok(policy) => outcome(policy, request, principal.as_deref()),
            Err(name) => Outcome::Deny(Denial::Unknown(name)),
        };
        match outcome {
            Outcome::Allow(name) => allowed_by = allowed_by.or(Some(name)),
            Outcome::Deny(denial) => {
                return Verdict {
                    decision: Decision::Deny(denial),
                    dry_run,
                };
            }
            Outcome::MissedAllow(name) => not_allowed_by = not_allowed_by.or(Some(name)),
            Outcome::Nothing => {}
            Outcome::WouldAllow => would_allow = true,
            Outcome::WouldDeny(name) => dry_run.push(name),
            Outcome::WouldMissAllow(name) => would_not_allow.push(name),
        }
    }
    // Were they enforced, what no ALLOW policy matches would not pass.
    if allowed_by.is_none() && !would_allow {
        dry_run.append(&mut would_not_allow);
    }
    // A workload may list what is for its namespace anyway.
    let mut told = HashSet::new();
    dry_run.retain(|name| told.insert(*name));
    let decision = match (allowed_by, not_allowed_by) {
        (None, Some(name)) => Decision::Deny(Denial::NotAllowed(name)),
        (allowed_by, _) => Decision::Allow(allowed_by),
    };
    Verdict { decision, dry_run }
}

/// What one policy says of a request.
enum Outcome {
    Allow(Name),
    Deny(Denial),
    MissedAllow(Name),
    Nothing,
    WouldAllow,
    WouldDeny(Name),
    WouldMissAllow(Name),
}

fn outcome(policy: &Policy, request: &Request, principal: Option<&str>) -> Outcome {
    let (action, dry_run, groups) = match &policy.effect {
        Effect::DenyAll(_) => return Outcome::Deny(Denial::NotUnderstood(policy.name)),
        Effect::Rules {
            action,
            dry_run,
            groups,
        } => (*action, *dry_run, groups),
    };
    let matched = groups
        .iter()
        .any(|group| group_matches(group, request, principal));
    match (action, matched, dry_run) {
        (Action::Allow, true, false) => Outcome::Allow(policy.name),
        (Action::Allow, false, false) => Outcome::MissedAllow(policy.name),
        (Action::Deny, true, false) => Outcome::Deny(Denial::Denied(policy.name)),
        (Action::Allow, true, true) => Outcome::WouldAllow,
        (Action::Allow, false, true) => Outcome::WouldMissAllow(policy.name),
        (Action::Deny, true, true) => Outcome::WouldDeny(policy.name),
        (Action::Deny, false, _) => Outcome::Nothing,
    }
}

fn group_matches(group: &Group, request: &Request, principal: Option<&str>) -> bool {
    group
        .0
        .iter()
        .all(|rule| rule_matches(rule, request, principal))
}

fn rule_matches(rule: &Rule, request: &Request, principal: Option<&str>) -> bool {
    rule.0.is_empty()
        || rule
            .0
            .iter()
            .any(|one| match_matches(one, request, principal))
}

/// All attributes that are present have to match; an entirely empty match matches nothing. Layer 7 asks it, too.
pub(crate) fn match_matches(m: &Match, request: &Request, principal: Option<&str>) -> bool {
    let namespace = request.peer.map(|peer| peer.namespace.as_str());
    let port = |ports: &[u16]| ports.contains(&request.port);
    let checks = [
        positive(&m.namespaces, |list| text(list, namespace)),
        negative(&m.not_namespaces, |list| text(list, namespace)),
        positive(&m.principals, |list| text(list, principal)),
        negative(&m.not_principals, |list| text(list, principal)),
        positive(&m.source_ips, |list| inside(list, request.source)),
        negative(&m.not_source_ips, |list| inside(list, request.source)),
        positive(&m.destination_ips, |list| inside(list, request.destination)),
        negative(&m.not_destination_ips, |list| {
            inside(list, request.destination)
        }),
        positive(&m.destination_ports, port),
        negative(&m.not_destination_ports, port),
        positive(&m.service_accounts, |list| account(list, request.peer)),
        negative(&m.not_service_accounts, |list| account(list, request.peer)),
    ];
    checks.iter().all(|check| *check != Some(false)) && checks.iter().any(Option::is_some)
}

/// `None`: the attribute is not there.
fn positive<T>(list: &[T], matches: impl Fn(&[T]) -> bool) -> Option<bool> {
    (!list.is_empty()).then(|| matches(list))
}

fn negative<T>(list: &[T], matches: impl Fn(&[T]) -> bool) -> Option<bool> {
    (!list.is_empty()).then(|| !matches(list))
}

/// A peer without identity has no text, so nothing matches it: not even presence.
fn text(list: &[StringMatch], value: Option<&str>) -> bool {
    value.is_some_and(|value| list.iter().any(|pattern| pattern.matches(value)))
}

fn inside(list: &[IpRange], address: IpAddr) -> bool {
    list.iter().any(|range| range.contains(address))
}

fn account(list: &[WorkloadAccount], peer: Option<Identity>) -> bool {
    peer.is_some_and(
        |Identity {
             namespace,
             service_account,
             ..
         }| {
            list.contains(&WorkloadAccount {
                namespace,
                service_account,
            })
        },
    )
}

#[cfg(test)]
mod tests;
