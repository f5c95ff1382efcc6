//! In which order the changes of one push are sent, so that no moment in between allows what neither the old nor the
//! new state allows.
//!
//! # To a node
//!
//! A subscriber applies one response at a time, and a response is of one type. A workload that names a policy it does not
//! know denies all, which is safe but cuts connections; a workload that no longer names a policy is no longer bound by
//! it. So, where both types change:
//!
//! 1. policies that are new and only bind whoever names them: without effect yet;
//! 2. workloads and services; a workload goes on naming a policy that ends or widens its scope, if step 3 has any;
//! 3. all other policies that are new or changed;
//! 4. those workloads again, now without the names kept for them;
//! 5. the policies that are gone.
//!
//! Most pushes need one or two of these steps.
//!
//! # To a waypoint
//!
//! A table is in force once all that it names is there in the versions that it names, so what is named comes first:
//! policies, backends, routes, tables; then what is gone. A policy for connections takes effect by itself, as on a node:
//! one that changes and binds only whoever names it comes after the backends, whose endpoints may stop naming it in the
//! same push and were not meant by its new rules.

use std::sync::Arc;

use prost::Message as _;
use proto::workload;

use super::{Kind, Resource, Role, Set, address_resource};

/// What differs in one type.
#[derive(Debug, Default)]
pub(super) struct Change {
    pub(super) upserts: Vec<(Arc<str>, Arc<Resource>)>,
    pub(super) removed: Vec<Arc<str>>,
}

impl Change {
    pub(super) fn is_empty(&self) -> bool {
        self.upserts.is_empty() && self.removed.is_empty()
    }
}

/// What the subscriber holds now, and the policies that it is to hold.
pub(super) struct Between<'a> {
    /// The addresses of the state that it was brought to last; empty if it has not been brought to any.
    pub(super) old_addresses: &'a Set,
    /// The policies it holds, by name.
    pub(super) held_policies: &'a dyn Fn(&str) -> bool,
    pub(super) new_policies: &'a Set,
}

/// What changes for a waypoint.
pub(super) struct Told {
    pub(super) tables: Change,
    pub(super) routes: Change,
    pub(super) policies: Change,
    pub(super) backends: Change,
}

/// The steps of a push to a waypoint, each one type.
pub(super) fn to_waypoint(told: Told, held: &dyn Fn(&str) -> bool) -> Vec<(Kind, Change)> {
    let late =
        |(name, policy): &(Arc<str>, Arc<Resource>)| policy.role == Role::NamedPolicy && held(name);
    let (changed, first): (Vec<_>, Vec<_>) = told.policies.upserts.into_iter().partition(late);
    joined([
        (Kind::Policy, upserted(first)),
        (Kind::Backend, upserted(told.backends.upserts)),
        (Kind::Policy, upserted(changed)),
        (Kind::Route, upserted(told.routes.upserts)),
        (Kind::Table, told.tables),
        (Kind::Route, removed(told.routes.removed)),
        (Kind::Backend, removed(told.backends.removed)),
        (Kind::Policy, removed(told.policies.removed)),
    ])
}

/// The steps of a push to a node, each one type; a step may be empty.
pub(super) fn to_node(
    addresses: Change,
    policies: Change,
    between: &Between<'_>,
) -> Vec<(Kind, Change)> {
    if addresses.is_empty() || policies.is_empty() {
        return vec![(Kind::Address, addresses), (Kind::Authorization, policies)];
    }
    let inert = |(name, policy): &(Arc<str>, Arc<Resource>)| {
        policy.role == Role::NamedPolicy && !(between.held_policies)(name)
    };
    let (first, rest): (Vec<_>, Vec<_>) = policies.upserts.into_iter().partition(inert);
    let changes = |name: &str| rest.iter().any(|(changed, _)| **changed == *name);
    let mut interim = Change {
        upserts: Vec::new(),
        removed: addresses.removed,
    };
    let mut last = Change::default();
    for (name, resource) in addresses.upserts {
        let old = between.old_addresses.get(&name);
        // Without other policies to come there is nothing to bridge.
        let bridged = old.filter(|_| !rest.is_empty());
        let kept = bridged.map_or_else(Vec::new, |old| {
            kept(old, &resource, between.new_policies, &changes)
        });
        match naming(&resource, kept) {
            None => interim.upserts.push((name, resource)),
            Some(both) => {
                if old.is_none_or(|old| old.version != both.version) {
                    interim.upserts.push((Arc::clone(&name), Arc::new(both)));
                }
                last.upserts.push((name, resource));
            }
        }
    }
    joined([
        (Kind::Authorization, upserted(first)),
        (Kind::Address, interim),
        (Kind::Authorization, upserted(rest)),
        (Kind::Address, last),
        (Kind::Authorization, removed(policies.removed)),
    ])
}

fn upserted(upserts: Vec<(Arc<str>, Arc<Resource>)>) -> Change {
    Change {
        upserts,
        removed: Vec::new(),
    }
}

fn removed(removed: Vec<Arc<str>>) -> Change {
    Change {
        upserts: Vec::new(),
        removed,
    }
}

/// Drops empty steps, and joins those of one type that come to stand next to each other.
fn joined<const N: usize>(steps: [(Kind, Change); N]) -> Vec<(Kind, Change)> {
    let mut all: Vec<(Kind, Change)> = Vec::new();
    for (kind, change) in steps.into_iter().filter(|(_, change)| !change.is_empty()) {
        match all.last_mut() {
            Some((last, joined)) if *last == kind => {
                joined.upserts.extend(change.upserts);
                joined.removed.extend(change.removed);
            }
            _ => all.push((kind, change)),
        }
    }
    all
}

/// The policies that a workload stops naming in this push and must be bound by until the others have arrived.
fn kept(
    old: &Resource,
    new: &Resource,
    policies: &Set,
    changes: &dyn Fn(&str) -> bool,
) -> Vec<String> {
    let (Role::Workload { policies: before }, Role::Workload { policies: after }) =
        (&old.role, &new.role)
    else {
        return Vec::new();
    };
    let ends = |name: &str| match policies.get(name) {
        // It still binds others, by changed rules that were not written for this workload.
        Some(policy) => policy.role == Role::WidePolicy || !changes(name),
        None => true,
    };
    before
        .iter()
        .filter(|name| !after.contains(name) && ends(name))
        .cloned()
        .collect()
}

/// A workload that also names the policies `kept`; `None` if there are none.
fn naming(resource: &Resource, kept: Vec<String>) -> Option<Resource> {
    if kept.is_empty() {
        return None;
    }
    let mut address = workload::Address::decode(resource.bytes.as_slice()).ok()?;
    let Some(workload::address::Type::Workload(workload)) = &mut address.r#type else {
        return None;
    };
    workload.authorization_policies.extend(kept);
    workload.authorization_policies.sort();
    Some(address_resource(&address))
}
