//! In which order the changes of one push are sent, so that no moment in between allows what neither the old nor the
//! new state allows.
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

/// The steps of a push, each one type; a step may be empty.
pub(super) fn steps(
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
    let only = |upserts| Change {
        upserts,
        removed: Vec::new(),
    };
    let gone = Change {
        upserts: Vec::new(),
        removed: policies.removed,
    };
    let steps = [
        (Kind::Authorization, only(first)),
        (Kind::Address, interim),
        (Kind::Authorization, only(rest)),
        (Kind::Address, last),
        (Kind::Authorization, gone),
    ];
    joined(steps)
}

/// Drops empty steps, and joins those of one type that come to stand next to each other.
fn joined(steps: [(Kind, Change); 5]) -> Vec<(Kind, Change)> {
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
