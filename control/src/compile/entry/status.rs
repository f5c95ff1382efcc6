//! What is said of ServiceEntries and WorkloadEntries, beside which waypoint the former are behind: what of them is not served.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use super::{Entry, all, service_addresses, visible, workloads};
use crate::{
    compile::{Compiled, Scope, binding::Bindings, workloads::by_address},
    manifest::{Kind, ObjectRef, Service, ServiceEntry, mesh::Visible, service_entry::is_single},
    status::Condition,
};

/// The condition that says what of an object is not served.
const SERVED: &str = "ambit.dev/Served";
const UNSUPPORTED: &str = "UnsupportedValue";
const VISIBILITY: &str = "istio.io/VisibilityApplied";
const MISSING: &str = "istio.io/WaypointMissing";
const NO_ADDRESS: &str = "it has no addresses, and none are given to its hosts yet: what these resolve to is reached like anything outside the mesh";

/// After the conditions about waypoints are there.
pub(in crate::compile) fn tell(scope: Scope<'_>, bindings: &Bindings, compiled: &mut Compiled) {
    let world = scope.world;
    if world.service_entries.is_empty() && world.workload_entries.is_empty() {
        return;
    }
    let telling = Telling {
        scope,
        bindings,
        services: service_addresses(world),
        pods: by_address(scope),
    };
    let mut said: BTreeMap<ObjectRef, (i64, Vec<Condition>)> = BTreeMap::new();
    let written = all(world, scope).into_iter();
    for (reference, entry, _) in written.filter(|(.., refused)| !refused) {
        said.insert(reference, (entry.meta.generation, telling.of(entry)));
    }
    let workloads = world.workload_entries.values();
    for entry in workloads.filter(|it| scope.sees(&it.meta.namespace)) {
        let meta = &entry.meta;
        let reference = ObjectRef::new(Kind::WorkloadEntry, &meta.namespace, &meta.name);
        let conditions = workloads::conditions(scope, &telling.pods, entry);
        said.insert(reference, (meta.generation, conditions));
    }
    for (reference, (generation, conditions)) in said {
        if !conditions.is_empty() {
            let status = compiled.statuses.entry(reference).or_default();
            status.generation = generation;
            status.conditions.extend(conditions);
            status.conditions.sort_by_key(|it| it.kind);
        }
    }
}

/// What it takes to say it.
struct Telling<'a> {
    scope: Scope<'a>,
    bindings: &'a Bindings,
    services: HashMap<IpAddr, &'a Arc<Service>>,
    pods: workloads::ByAddress<'a>,
}

impl Telling<'_> {
    fn of(&self, entry: &ServiceEntry) -> Vec<Condition> {
        let (scope, meta) = (self.scope, &entry.meta);
        let hosts = scope.derived.entries.hosts(&meta.namespace, &meta.name);
        let hosts: Vec<_> = hosts.collect();
        let mut conditions = Vec::new();
        if scope.mesh().is_some_and(|mesh| mesh.visibility.is_some()) {
            let reason = match visible(scope, &meta.namespace) {
                Visible::Public => "Public",
                Visible::Namespace | Visible::Nobody => "Namespace",
            };
            conditions.push(Condition::holds(VISIBILITY, reason, ""));
        }
        if hosts
            .iter()
            .any(|it| it.is_wild() && !self.is_published(it))
        {
            let message = "only a waypoint tells the names below a wildcard apart";
            let reason = "NoWaypointForWildcardService";
            conditions.push(Condition::holds(MISSING, reason, message));
        }
        let mut notes = workloads::notes(&self.pods, entry);
        notes.extend(hosts.iter().filter_map(|it| self.lacking(it)));
        notes.extend(self.taken(entry));
        let served = hosts.iter().all(|it| it.lack.is_none());
        let by_name = hosts.iter().any(|it| !it.is_wild());
        if entry.addresses.is_empty() && served && by_name {
            notes.push(NO_ADDRESS.to_owned());
        }
        conditions.extend(not_served(notes));
        conditions
    }

    fn is_published(&self, entry: &Entry<'_>) -> bool {
        let binding = self.bindings.binding(&entry.key);
        binding.is_some_and(|it| it.published.is_some())
    }

    fn lacking(&self, entry: &Entry<'_>) -> Option<String> {
        let lack = entry.lack.as_ref()?;
        let effect = match self.is_published(entry) {
            true => entry.refusal(),
            false => {
                "what it names is reached like anything outside the mesh, past every waypoint, whatever its labels say"
            }
        };
        Some(format!("{lack}: {effect}"))
    }

    /// Of the addresses that are those of Services.
    fn taken(&self, entry: &ServiceEntry) -> impl Iterator<Item = String> {
        let single = entry.addresses.iter().filter(|it| is_single(it));
        single.filter_map(|block| {
            let address = block.address;
            let meta = &self.services.get(&address)?.meta;
            let (namespace, name) = (&meta.namespace, &meta.name);
            Some(format!(
                "{address} is the address of Service {namespace}/{name}, and so none of its own"
            ))
        })
    }
}

/// That something of an object is not served, if it is so.
pub(super) fn not_served(notes: Vec<String>) -> Option<Condition> {
    let mut seen = BTreeSet::new();
    let notes = notes.into_iter().filter(|it| seen.insert(it.clone()));
    let notes: Vec<_> = notes.collect();
    (!notes.is_empty()).then(|| Condition::fails(SERVED, UNSUPPORTED, notes.join("; ")))
}
