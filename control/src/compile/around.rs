//! Whoever goes around a waypoint: the workloads behind it deny him.
//!
//! A policy per namespace, port and set of waypoints, listed by the workloads that it is for. The port is the workload's own;
//! all services that lead to it count together, because a workload cannot tell which of them a peer meant. Pods that a policy
//! of a waypoint for workloads is for deny everybody on all ports that no waypoint of a service leads to.

use std::collections::{BTreeMap, BTreeSet};

use proto::{
    security::{
        Action, Authorization, Group, Match, Rules, Scope as Reach, StringMatch,
        string_match::MatchType,
    },
    workload::address::Type,
};

use super::{
    Compiled, Scope,
    binding::{Binding, Bindings, Denied},
    closed, gateway,
    policy::Attached,
};
use crate::publish::Version;

/// No object can have a name with a `_`.
const PREFIX: &str = "ambit_waypoint_";

/// In place of a port: every one.
const ALL: u32 = 0;

/// A service, as its workloads deny for its sake.
struct Bound<'a> {
    namespace: &'a str,
    binding: &'a Binding,
    /// On all ports.
    everywhere: bool,
}

/// Who may come to one port of a workload.
#[derive(Default)]
struct Port {
    denied: Denied,
    /// The waypoints of all services that lead there.
    waypoints: BTreeSet<String>,
}

pub(super) fn compile(
    scope: Scope<'_>,
    attached: &Attached,
    bindings: &Bindings,
    compiled: &mut Compiled,
) {
    let by_service: BTreeMap<_, _> = scope
        .services()
        .filter_map(|service| {
            let key = (service.meta.namespace.clone(), service.meta.name.clone());
            let binding = bindings.binding(&key)?;
            // Nobody comes to its ports for its sake, and nobody is kept from them.
            if binding.told.is_empty() && binding.denied == Denied::Nobody {
                return None;
            }
            let everywhere = service.ports.is_empty() && binding.denied == Denied::Everybody;
            let found = Bound {
                namespace: &service.meta.namespace,
                binding,
                everywhere,
            };
            Some((scope.service_key(&key.0, &key.1), found))
        })
        .collect();
    let Compiled {
        addresses,
        authorizations,
        ..
    } = compiled;
    let polices_gateways = attached.polices_gateways();
    if by_service.is_empty() && !polices_gateways {
        return;
    }
    for address in addresses.values_mut() {
        let Some(Type::Workload(workload)) = &address.r#type else {
            continue;
        };
        let mut ports: BTreeMap<u32, Port> = BTreeMap::new();
        for (service, list) in &workload.services {
            let Some(found) = by_service.get(service) else {
                continue;
            };
            // What another namespace writes neither opens a workload nor closes it.
            if found.namespace != workload.namespace {
                continue;
            }
            let targets = list.ports.iter().map(|port| port.target_port);
            // A service without ports leads to all of them.
            for port in targets.chain(found.everywhere.then_some(ALL)) {
                ports.entry(port).or_default().add(scope, found.binding);
            }
        }
        let policed = match polices_gateways {
            true => closed::policed(scope, attached, workload),
            false => None,
        };
        if let Some(gateway) = &policed {
            let own = gateway::identity(scope, gateway);
            let others = ports
                .values_mut()
                .filter(|it| !it.waypoints.is_empty() && !it.waypoints.contains(&own));
            others.for_each(|it| it.denied = it.denied.max(Denied::Around));
        }
        let rest = policed.map(|_| elsewhere(&workload.namespace, &ports));
        let namespace = &workload.namespace;
        let all = ports
            .iter()
            .filter_map(|(port, found)| found.policy(namespace, *port));
        let policies: Vec<_> = all.chain(rest).collect();
        super::name(address, &policies);
        for policy in policies {
            let name = format!("{}/{}", policy.namespace, policy.name);
            authorizations.entry(name).or_insert(policy);
        }
    }
}

/// Denies everybody on the ports of a workload that no waypoint leads to.
fn elsewhere(namespace: &str, ports: &BTreeMap<u32, Port>) -> Authorization {
    let led_to = ports
        .iter()
        .filter(|(_, found)| !found.waypoints.is_empty());
    let led_to: Vec<u32> = led_to.map(|(port, _)| *port).collect();
    let text: Vec<_> = led_to.iter().map(u32::to_string).collect();
    let hash = Version::of(text.join("\n").as_bytes());
    let found = Match {
        not_destination_ports: led_to,
        ..Match::default()
    };
    denial(namespace, format!("{PREFIX}pods_{hash}"), found)
}

fn denial(namespace: &str, name: String, found: Match) -> Authorization {
    // A match of nothing matches nobody, a group of no rules matches everybody.
    let rules = match found == Match::default() {
        true => Vec::new(),
        false => vec![Rules {
            matches: vec![found],
        }],
    };
    Authorization {
        name,
        namespace: namespace.to_owned(),
        scope: Reach::WorkloadSelector.into(),
        action: Action::Deny.into(),
        groups: vec![Group { rules }],
        ..Authorization::default()
    }
}

impl Port {
    fn add(&mut self, scope: Scope<'_>, binding: &Binding) {
        self.denied = self.denied.max(binding.denied);
        let waypoints = binding.told.iter().map(|key| gateway::identity(scope, key));
        self.waypoints.extend(waypoints);
    }

    fn policy(&self, namespace: &str, port: u32) -> Option<Authorization> {
        let waypoints: Vec<_> = match self.denied {
            Denied::Nobody => return None,
            Denied::Around => self.waypoints.iter().collect(),
            Denied::Everybody => Vec::new(),
        };
        // Without anybody to except it is about everybody.
        let except = |identity: &&String| StringMatch {
            match_type: Some(MatchType::Exact(
                identity
                    .strip_prefix("spiffe://")
                    .unwrap_or(identity)
                    .to_owned(),
            )),
        };
        let found = Match {
            not_principals: waypoints.iter().map(except).collect(),
            destination_ports: [port].into_iter().filter(|&port| port != ALL).collect(),
            ..Match::default()
        };
        let text: Vec<_> = waypoints.iter().map(|it| it.as_str()).collect();
        let hash = Version::of(text.join("\n").as_bytes());
        Some(denial(namespace, format!("{PREFIX}{port}_{hash}"), found))
    }
}
