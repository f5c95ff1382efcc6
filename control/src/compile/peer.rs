//! PeerAuthentication as policies that deny peers without an identity.
//!
//! STRICT for a workload as a whole is one policy for all, [`STRICT`], which workloads refer to. Ports with a mode of
//! their own need a policy made for the occasion. The older of two on one level decides; undated ones are the oldest.

use std::{collections::BTreeMap, sync::Arc};

use proto::security::{
    Action, Authorization, Group, Match, Presence, Rules, Scope as Reach, StringMatch,
    string_match::MatchType,
};

use super::{Compiled, Scope};
use crate::manifest::{Labels, PeerAuthentication, peer::Mode};

/// Names that no object can have: a '_' is not part of one.
const STRICT: &str = "istio_converted_static_strict";
const CONVERTED: &str = "converted_peer_authentication_";

pub(super) fn compile(scope: Scope<'_>, compiled: &mut Compiled) {
    let modes = Modes::new(scope);
    if !modes.any {
        return;
    }
    let strict = Group {
        rules: vec![clause(unknown())],
    };
    let mut add = |namespace: &str, name: String, groups| {
        let authorization = Authorization {
            namespace: namespace.to_owned(),
            scope: Reach::WorkloadSelector.into(),
            action: Action::Deny.into(),
            groups,
            name,
            ..Authorization::default()
        };
        compiled
            .authorizations
            .insert(format!("{namespace}/{}", authorization.name), authorization);
    };
    add(
        &scope.settings.root_namespace,
        STRICT.to_owned(),
        vec![strict],
    );
    for policy in modes.by_selector.values().flatten() {
        let groups = converted(policy, modes.is_strict(&policy.meta.namespace));
        if !groups.is_empty() {
            add(
                &policy.meta.namespace,
                format!("{CONVERTED}{}", policy.meta.name),
                groups,
            );
        }
    }
}

/// Which modes are in force where.
pub(super) struct Modes<'a> {
    any: bool,
    root: &'a str,
    mesh: Mode,
    by_namespace: BTreeMap<&'a str, Mode>,
    /// Those for some workloads only, oldest first.
    by_selector: BTreeMap<&'a str, Vec<Arc<PeerAuthentication>>>,
}

impl<'a> Modes<'a> {
    pub(super) fn new(scope: Scope<'a>) -> Self {
        let all = scope.world.peer_authentications.values();
        let mut all: Vec<_> = all
            .filter(|policy| scope.sees(&policy.meta.namespace))
            .collect();
        all.sort_by_key(|policy| {
            (
                policy.meta.created,
                &policy.meta.namespace,
                &policy.meta.name,
            )
        });
        let mut by_namespace = BTreeMap::new();
        let mut by_selector: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for &policy in &all {
            let namespace = policy.meta.namespace.as_str();
            if policy
                .selector
                .as_ref()
                .is_none_or(|selector| selector.labels.is_empty())
            {
                by_namespace.entry(namespace).or_insert(policy.mode);
            } else if !scope.is_root(namespace) {
                let own = by_selector.entry(namespace).or_default();
                own.push(Arc::new(policy.clone()));
            }
        }
        let root = scope.settings.root_namespace.as_str();
        let mesh = by_namespace.remove(root).unwrap_or_default();
        Self {
            any: !all.is_empty(),
            root,
            mesh,
            by_namespace,
            by_selector,
        }
    }

    /// Whether workloads of a namespace are strict unless a policy for some of them says otherwise.
    fn is_strict(&self, namespace: &str) -> bool {
        match self.by_namespace.get(namespace) {
            None | Some(Mode::Unset) => self.mesh == Mode::Strict,
            Some(&mode) => mode == Mode::Strict,
        }
    }

    /// Those of one namespace.
    pub(super) fn of(&self, namespace: &str) -> OfNamespace {
        let own = self.by_selector.get(namespace).cloned();
        OfNamespace {
            strict: format!("{}/{STRICT}", self.root),
            outer: self.is_strict(namespace),
            by_selector: own.unwrap_or_default(),
        }
    }
}

/// Which modes are in force in one namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct OfNamespace {
    /// Name of the policy for workloads that are strict as a whole.
    strict: String,
    /// What is in force for whom no policy selects.
    outer: bool,
    /// Those for some workloads only, oldest first.
    by_selector: Vec<Arc<PeerAuthentication>>,
}

impl OfNamespace {
    /// Name of the policy that a workload refers to, if any.
    pub(super) fn name(&self, labels: &Labels) -> Option<String> {
        let selects = |policy: &&Arc<PeerAuthentication>| {
            policy
                .selector
                .as_ref()
                .is_some_and(|selector| selector.matches(labels))
        };
        let strict = match self.by_selector.iter().find(selects) {
            Some(policy)
                if refers(policy, self.outer) && !converted(policy, self.outer).is_empty() =>
            {
                let meta = &policy.meta;
                return Some(format!("{}/{CONVERTED}{}", meta.namespace, meta.name));
            }
            Some(policy) => is_strict(policy, self.outer),
            None => self.outer,
        };
        strict.then(|| self.strict.clone())
    }
}

fn is_strict(policy: &PeerAuthentication, outer: bool) -> bool {
    match policy.mode {
        Mode::Unset => outer,
        mode => mode == Mode::Strict,
    }
}

/// Whether the workloads of a policy are told of the one that was made for its ports. In a policy without a mode of its
/// own, under a strict one, `DISABLE` does not open a port; `PERMISSIVE` does, and then both do.
fn refers(policy: &PeerAuthentication, outer: bool) -> bool {
    let permissive = policy.ports.values().any(|&mode| mode == Mode::Permissive);
    policy.mode != Mode::Unset || !outer || permissive
}

/// The groups of the policy that a PeerAuthentication with ports of their own needs; none if its ports say nothing that
/// the rest does not say. Strict as a whole: deny whoever is unknown, but not on the open ports. Open as a whole: deny
/// whoever is unknown on each strict port.
fn converted(policy: &PeerAuthentication, outer: bool) -> Vec<Group> {
    if !is_strict(policy, outer) {
        let strict = policy
            .ports
            .iter()
            .filter(|&(_, &mode)| mode == Mode::Strict);
        let group = |(&port, _): (&u16, &Mode)| Group {
            rules: vec![clause(Match {
                destination_ports: vec![port.into()],
                ..unknown()
            })],
        };
        return strict.map(group).collect();
    }
    let open = policy
        .ports
        .iter()
        .filter(|&(_, &mode)| mode.is_open())
        .map(|(&port, _)| port);
    let elsewhere = open.map(|port| {
        clause(Match {
            not_destination_ports: vec![port.into()],
            ..Match::default()
        })
    });
    let elsewhere: Vec<_> = elsewhere.collect();
    if elsewhere.is_empty() {
        return Vec::new();
    }
    // Said once for the policy itself and once for what is around it: the same thing twice does no harm.
    let own = (policy.mode == Mode::Strict).then(|| clause(unknown()));
    let around = outer.then(|| clause(unknown()));
    vec![Group {
        rules: own.into_iter().chain(elsewhere).chain(around).collect(),
    }]
}

fn clause(found: Match) -> Rules {
    Rules {
        matches: vec![found],
    }
}

/// Matches a peer without an identity.
fn unknown() -> Match {
    let anybody = StringMatch {
        match_type: Some(MatchType::Presence(Presence {})),
    };
    Match {
        not_principals: vec![anybody],
        ..Match::default()
    }
}
