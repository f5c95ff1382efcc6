//! AuthorizationPolicy (`security.istio.io/v1`): who may talk to whom.
//!
//! The whole API is known here, so that a field that a node proxy cannot judge (a method, a path, a token's claim) is
//! told apart from one that does not exist. The former are kept as texts, for waypoints, and as the bare fact that they are
//! there ([`Source::beyond`] and its like), for node proxies: [`crate::compile`] makes the rule narrower or wider, whichever
//! lets fewer peers in.

use std::net::IpAddr;

use super::{
    Meta, Selector,
    read::{At, Faults},
    selector::selector,
};

mod rule;

/// An AuthorizationPolicy without faults.
#[derive(Clone, Debug, PartialEq)]
pub struct AuthorizationPolicy {
    /// Metadata.
    pub meta: Meta,
    /// Which objects or workloads.
    pub target: PolicyTarget,
    /// What a match means.
    pub action: Action,
    /// Any that matches makes the policy match. `from: []` is no `from` at all.
    pub rules: Vec<Rule>,
}

/// What a policy is attached to.
#[derive(Clone, Debug, PartialEq)]
pub enum PolicyTarget {
    /// All of the namespace, or of the mesh in the root namespace.
    Everything,
    /// Workloads by label, of the namespace, or of the mesh in the root namespace.
    Workloads(Selector),
    /// Objects that a waypoint serves; never a node proxy's business.
    Objects(Vec<TargetRef>),
}

/// An object that a policy is attached to, in the policy's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetRef {
    /// Which kind.
    pub kind: TargetKind,
    /// Name.
    pub name: String,
}

/// The kinds that a policy can be attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is the kind of that name")]
pub enum TargetKind {
    Service,
    ServiceEntry,
    Gateway,
    GatewayClass,
}

/// What a match means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Action {
    /// Let in; whoever matches no ALLOW policy is then refused.
    #[default]
    Allow,
    /// Refuse.
    Deny,
    /// Note.
    Audit,
    /// Ask somebody else.
    Custom,
}

/// One rule: all of its parts must match.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rule {
    /// Any of them; none means every source.
    pub from: Vec<Source>,
    /// Any of them; none means every operation.
    pub to: Vec<Operation>,
    /// All of them.
    pub when: Vec<Condition>,
}

/// Values of which one must match, and values of which none may.
#[derive(Clone, Debug, PartialEq)]
pub struct Values<T> {
    /// One of them.
    pub any: Vec<T>,
    /// None of them.
    pub none: Vec<T>,
}

impl<T> Default for Values<T> {
    fn default() -> Self {
        Self {
            any: Vec::new(),
            none: Vec::new(),
        }
    }
}

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Source {
    /// SPIFFE ids without scheme; a `*` at one end is a wildcard.
    pub principals: Values<String>,
    /// Namespaces; a `*` at one end is a wildcard.
    pub namespaces: Values<String>,
    /// Namespace and name.
    pub service_accounts: Values<(String, String)>,
    /// Address ranges.
    pub blocks: Values<Block>,
    /// Fields that only a waypoint can judge, or that are not served yet.
    pub beyond: Vec<&'static str>,
}

/// What is asked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Operation {
    /// At a node proxy the workload's own ports, at a waypoint the service's.
    pub ports: Values<u16>,
    /// Host names; only a waypoint can judge them. A `*` at one end is a wildcard.
    pub hosts: Values<String>,
    /// Methods; only a waypoint can judge them. A `*` at one end is a wildcard.
    pub methods: Values<String>,
    /// Paths as [`mesh::http::authorize::PathPattern`] reads them; only a waypoint can judge them.
    pub paths: Values<String>,
    /// Names of the fields above that are there and that only a waypoint can judge.
    pub beyond: Vec<&'static str>,
}

/// A further condition.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// `source.ip`.
    SourceIp(Values<Block>),
    /// `source.namespace`.
    SourceNamespace(Values<String>),
    /// `source.principal`.
    SourcePrincipal(Values<String>),
    /// `destination.ip`.
    DestinationIp(Values<Block>),
    /// `destination.port`.
    DestinationPort(Values<u16>),
    /// A key that only a waypoint can judge, or that is not served yet, and its values as written.
    Beyond(String, Values<String>),
}

/// An address range as written: host bits are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Address.
    pub address: IpAddr,
    /// Prefix length.
    pub length: u8,
}

/// The API's own limit on rules and on sources in a rule.
const MOST: usize = 512;
/// The API's own limit on target references.
const MOST_TARGETS: usize = 16;

pub(super) fn authorization_policy(
    meta: Meta,
    root: &At<'_>,
    faults: &mut Faults,
) -> AuthorizationPolicy {
    root.only(
        &["apiVersion", "kind", "metadata", "spec", "status"],
        faults,
    );
    let mut policy = AuthorizationPolicy {
        meta,
        target: PolicyTarget::Everything,
        action: Action::Allow,
        rules: Vec::new(),
    };
    let Some(spec) = root.mapping("spec", faults) else {
        return policy;
    };
    spec.only(
        &[
            "selector",
            "targetRef",
            "targetRefs",
            "action",
            "provider",
            "rules",
        ],
        faults,
    );
    policy.action = action(&spec, faults);
    policy.target = target(&spec, faults);
    provider(&spec, policy.action, faults);
    let rules = spec.items("rules", faults);
    if rules.len() > MOST {
        faults.add(&spec, "rules", format!("more than {MOST} rules"));
    }
    policy.rules = rules
        .iter()
        .map(|at| rule::rule(at, &policy.meta.namespace, faults))
        .collect();
    policy
}

fn action(spec: &At<'_>, faults: &mut Faults) -> Action {
    match spec.text("action", faults) {
        None | Some("ALLOW") => Action::Allow,
        Some("DENY") => Action::Deny,
        Some("AUDIT") => Action::Audit,
        Some("CUSTOM") => Action::Custom,
        Some(other) => {
            faults.add(
                spec,
                "action",
                format!("{other:?} is none of ALLOW, DENY, AUDIT, CUSTOM"),
            );
            Action::Deny
        }
    }
}

fn provider(spec: &At<'_>, action: Action, faults: &mut Faults) {
    match (spec.mapping("provider", faults), action) {
        (Some(at), Action::Custom) => {
            at.only(&["name"], faults);
            if at.text("name", faults).is_none_or(str::is_empty) {
                faults.add(&at, "name", "a name is required");
            }
        }
        (Some(at), _) => faults.add(&at, "", "only with action CUSTOM"),
        (None, Action::Custom) => faults.add(spec, "provider", "action CUSTOM needs one"),
        (None, _) => {}
    }
}

pub(super) fn target(spec: &At<'_>, faults: &mut Faults) -> PolicyTarget {
    let selector = selector(spec, faults);
    let single = spec.mapping("targetRef", faults);
    let list = spec.items("targetRefs", faults);
    let ways = [selector.is_some(), single.is_some(), !list.is_empty()];
    if ways.into_iter().filter(|&way| way).count() > 1 {
        faults.add(spec, "", "at most one of selector, targetRef, targetRefs");
    }
    if list.len() > MOST_TARGETS {
        faults.add(spec, "targetRefs", format!("more than {MOST_TARGETS}"));
    }
    if let Some(selector) = selector {
        return PolicyTarget::Workloads(selector);
    }
    let all: Vec<_> = single.into_iter().chain(list).collect();
    if all.is_empty() {
        return PolicyTarget::Everything;
    }
    PolicyTarget::Objects(all.iter().filter_map(|at| target_ref(at, faults)).collect())
}

/// The objects that a policy with faults elsewhere is attached to; none if that is not without fault.
pub(super) fn peek(root: &At<'_>) -> Vec<TargetRef> {
    let mut faults = Faults::default();
    let spec = root.mapping("spec", &mut faults);
    match spec.map(|spec| target(&spec, &mut faults)) {
        Some(PolicyTarget::Objects(targets)) if faults.is_empty() => targets,
        _ => Vec::new(),
    }
}

fn target_ref(at: &At<'_>, faults: &mut Faults) -> Option<TargetRef> {
    at.only(&["group", "kind", "name", "namespace"], faults);
    let group = at.text("group", faults).unwrap_or_default();
    let kind = match (group, at.text("kind", faults).unwrap_or_default()) {
        ("" | "core", "Service") => TargetKind::Service,
        ("networking.istio.io", "ServiceEntry") => TargetKind::ServiceEntry,
        ("gateway.networking.k8s.io", "Gateway") => TargetKind::Gateway,
        ("gateway.networking.k8s.io", "GatewayClass") => TargetKind::GatewayClass,
        (group, kind) => {
            faults.add(
                at,
                "kind",
                format!("a policy cannot be attached to {group:?} {kind:?}"),
            );
            return None;
        }
    };
    if at
        .text("namespace", faults)
        .is_some_and(|namespace| !namespace.is_empty())
    {
        faults.add(
            at,
            "namespace",
            "a policy is attached to objects of its own namespace only: leave this out",
        );
    }
    let name = at.text("name", faults).unwrap_or_default().to_owned();
    if name.is_empty() {
        faults.add(at, "name", "a name is required");
    }
    Some(TargetRef { kind, name })
}
