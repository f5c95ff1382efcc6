//! What the control plane said, in generations that never change.
//!
//! `Store` is the writer: it applies one response after the other and makes a new [`Generation`] of
//! each. Readers hold a generation as long as they like; generations share what did not change.

mod generation;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashSet},
    hash::Hash,
    sync::Arc,
};

pub use generation::{Endpoint, Generation, Known};

use crate::{
    delta::{Delta, Resource},
    identity::Identity,
    model::{Effect as PolicyEffect, Policy, Protocol, Scope, Service, Vip, Workload},
    name::Name,
    parse::{self, Address, Rejected},
    table::Table,
};

/// The writer's side.
#[derive(Debug)]
pub struct Store {
    /// Policies of this namespace are for the mesh where nothing better can be read.
    root_namespace: Name,
    /// Whose workloads' certificates are fetched ahead.
    node: Name,
    current: Arc<Generation>,
}

/// What must follow a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The last workload of this node with this identity is gone, or takes no tunnels any more:
    /// nobody needs its certificate.
    Forget(Identity),
    /// These workloads are gone, or somebody else now: tunnels to them are of no use.
    Gone(Vec<Arc<str>>),
    /// A workload of this node takes tunnels with this identity: its certificate will be needed.
    Prefetch(Identity),
    /// Open flows may not be allowed any more, or lead somewhere else: decide them again.
    Recheck,
}

impl Store {
    /// An empty store for a node.
    pub fn new(node: Name, root_namespace: Name) -> Self {
        Self {
            root_namespace,
            node,
            current: Arc::default(),
        }
    }

    /// The newest generation.
    pub fn current(&self) -> Arc<Generation> {
        Arc::clone(&self.current)
    }

    /// Applies one response and publishes once. What is not acceptable is told by name and reason;
    /// all else is in force.
    pub fn apply(&mut self, delta: &Delta) -> (Vec<Rejected>, Vec<Effect>) {
        let mut next = Generation::clone(&self.current);
        next.number += 1;
        let rejected = match delta.type_url.as_str() {
            proto::ADDRESS_TYPE => {
                next.addresses_known = true;
                apply_addresses(&mut next, delta)
            }
            proto::AUTHORIZATION_TYPE => {
                next.policies_known = true;
                apply_policies(&mut next, delta, self.root_namespace)
            }
            other => {
                let reason = format!("unknown type {other}");
                return (
                    vec![Rejected {
                        name: String::new(),
                        reason,
                    }],
                    vec![],
                );
            }
        };
        let effects = self.effects(delta, &next);
        self.current = Arc::new(next);
        (rejected, effects)
    }

    fn effects(&self, delta: &Delta, next: &Generation) -> Vec<Effect> {
        let mut effects = vec![Effect::Recheck];
        if delta.type_url != proto::ADDRESS_TYPE {
            return effects;
        }
        let changed = delta
            .resources
            .iter()
            .map(|r| &r.name)
            .chain(&delta.removed);
        let changed: BTreeSet<&str> = changed.map(String::as_str).collect();
        let mut gone = Vec::new();
        let mut lost = BTreeSet::new();
        let here = |w: &&Arc<Workload>| {
            let ours = w.node == self.node && !self.node.is_empty();
            ours && w.protocol == Protocol::Hbone && !w.native_tunnel
        };
        for name in changed {
            let (old, new) = (self.current.workload(name), next.workload(name));
            let same = |old: &Workload, new: &Workload| {
                (old.identity, &old.addresses) == (new.identity, &new.addresses)
            };
            if let Some(old) = old.filter(|old| new.is_none_or(|new| !same(old, new))) {
                gone.push(Arc::clone(&old.uid));
            }
            let was = old.filter(here).map(|w| w.identity);
            let is = new.filter(here).map(|w| w.identity);
            if was != is {
                effects.extend(is.map(Effect::Prefetch));
                lost.extend(was.map(|identity| identity.to_string()));
            }
        }
        if !lost.is_empty() {
            let held = next
                .workloads()
                .filter(here)
                .map(|w| w.identity.to_string());
            let held: HashSet<String> = held.collect();
            let lost = lost.iter().filter(|id| !held.contains(*id));
            effects.extend(lost.filter_map(|id| id.parse().ok()).map(Effect::Forget));
        }
        if !gone.is_empty() {
            effects.push(Effect::Gone(gone));
        }
        effects
    }
}

fn apply_addresses(next: &mut Generation, delta: &Delta) -> Vec<Rejected> {
    let mut rejected = Vec::new();
    for name in &delta.removed {
        next.remove_address(name);
    }
    for Resource { name, bytes, .. } in &delta.resources {
        match parse::address(name, bytes) {
            Ok(Address::Workload(workload)) => next.put_workload(Arc::new(workload)),
            Ok(Address::Service(service)) => {
                // In force, but without the trust.
                rejected.extend(service.distrust.as_ref().map(|reason| Rejected {
                    name: name.clone(),
                    reason: reason.to_string(),
                }));
                next.put_service(Arc::new(service));
            }
            Err(reason) => {
                // Its last good version stays. Where it wants to be now is still no stranger's.
                next.put_unusable(name, Address::reach(bytes));
                rejected.push(Rejected {
                    name: name.clone(),
                    reason,
                });
            }
        }
    }
    rejected
}

fn apply_policies(next: &mut Generation, delta: &Delta, root_namespace: Name) -> Vec<Rejected> {
    let mut rejected = Vec::new();
    for name in &delta.removed {
        if let Some(name) = Name::existing(name) {
            next.remove_policy(name);
        }
    }
    for Resource { name, bytes, .. } in &delta.resources {
        let policy = parse::authorization(name, bytes, root_namespace);
        if let PolicyEffect::DenyAll(reason) = &policy.effect {
            rejected.push(Rejected {
                name: name.clone(),
                reason: reason.clone(),
            });
        }
        next.put_policy(Arc::new(policy));
    }
    rejected
}

/// Edits for those that make generations of their own.
impl Generation {
    /// Nothing is missing any more.
    pub(crate) fn complete(&mut self) {
        self.addresses_known = true;
        self.policies_known = true;
    }

    pub(crate) fn put_workload(&mut self, workload: Arc<Workload>) {
        self.remove_address(&workload.uid);
        let addresses = if workload.host_network {
            &[][..]
        } else {
            &workload.addresses
        };
        for address in addresses {
            edit(
                &mut self.by_address,
                (workload.network, *address),
                Vec::is_empty,
                |claims| {
                    claims.push(Arc::clone(&workload));
                },
            );
        }
        for membership in &workload.services {
            let ports = membership.ports.clone();
            let endpoint = Endpoint {
                workload: Arc::clone(&workload),
                ports,
            };
            edit(
                &mut self.endpoints,
                membership.service,
                |all| all.is_empty(),
                |all| {
                    Arc::make_mut(all).push(endpoint);
                },
            );
        }
        self.workloads.insert(Arc::clone(&workload.uid), workload);
    }

    pub(crate) fn put_service(&mut self, service: Arc<Service>) {
        self.remove_address(service.key.as_str());
        for vip in &service.vips {
            if vip.is_single() {
                edit(
                    &mut self.by_vip,
                    (vip.network, vip.address),
                    Vec::is_empty,
                    |claims| {
                        claims.push(Arc::clone(&service));
                    },
                );
            } else {
                Arc::make_mut(&mut self.by_range).push((*vip, Arc::clone(&service)));
            }
        }
        self.services.insert(service.key, service);
    }

    fn put_unusable(&mut self, name: &str, reach: Vec<Vip>) {
        Arc::make_mut(&mut self.unusable).insert(name.into(), reach);
    }

    pub(crate) fn remove_address(&mut self, name: &str) {
        if self.unusable.contains_key(name) {
            Arc::make_mut(&mut self.unusable).remove(name);
        }
        if let Some(old) = self.workloads.remove(name) {
            self.forget_workload(&old);
        }
        // Most names are uids, which must not be kept for good.
        let service = Name::existing(name).and_then(|name| self.services.remove(&name));
        if let Some(old) = service {
            self.forget_service(&old);
        }
    }

    fn forget_workload(&mut self, old: &Workload) {
        for address in &old.addresses {
            edit(
                &mut self.by_address,
                (old.network, *address),
                Vec::is_empty,
                |claims| {
                    claims.retain(|w| w.uid != old.uid);
                },
            );
        }
        for membership in &old.services {
            edit(
                &mut self.endpoints,
                membership.service,
                |all| all.is_empty(),
                |all| {
                    Arc::make_mut(all).retain(|e| e.workload.uid != old.uid);
                },
            );
        }
    }

    fn forget_service(&mut self, old: &Service) {
        for vip in &old.vips {
            edit(
                &mut self.by_vip,
                (vip.network, vip.address),
                Vec::is_empty,
                |claims| {
                    claims.retain(|s| s.key != old.key);
                },
            );
        }
        if self.by_range.iter().any(|(_, s)| s.key == old.key) {
            Arc::make_mut(&mut self.by_range).retain(|(_, s)| s.key != old.key);
        }
    }

    pub(crate) fn put_policy(&mut self, policy: Arc<Policy>) {
        self.remove_policy(policy.name);
        let scopes = Arc::make_mut(&mut self.scopes);
        match policy.scope {
            Scope::Mesh => scopes.mesh.push(Arc::clone(&policy)),
            Scope::Namespace(namespace) => {
                scopes
                    .namespaces
                    .entry(namespace)
                    .or_default()
                    .push(Arc::clone(&policy));
            }
            Scope::Selected => {}
        }
        self.policies.insert(policy.name, policy);
    }

    pub(crate) fn remove_policy(&mut self, name: Name) {
        let Some(old) = self.policies.remove(&name) else {
            return;
        };
        let scopes = Arc::make_mut(&mut self.scopes);
        scopes.mesh.retain(|p| p.name != name);
        if let Scope::Namespace(namespace) = old.scope
            && let Some(policies) = scopes.namespaces.get_mut(&namespace)
        {
            policies.retain(|p| p.name != name);
            if policies.is_empty() {
                scopes.namespaces.remove(&namespace);
            }
        }
    }
}

/// Changes one value of a table, which is made if it is not there and taken out if it is empty then.
fn edit<K: Hash + Eq + Clone, V: Clone + Default>(
    table: &mut Table<K, V>,
    key: K,
    is_empty: impl Fn(&V) -> bool,
    change: impl FnOnce(&mut V),
) {
    // Taken out, so that a value that this generation alone holds is changed in place.
    let mut value = table.remove(&key).unwrap_or_default();
    change(&mut value);
    if !is_empty(&value) {
        table.insert(key, value);
    }
}
