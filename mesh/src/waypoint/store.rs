//! Applies what the control plane says, one response after the other.
//!
//! A table is in force once its routes and policies are there in exactly the versions that it names, and its backends in
//! any; a backend once its policies are. Until then the one that was in force stays, with what it had. So the order in which
//! resources arrive makes no difference once they are all there, and no request sees half a change.
//!
//! Endpoints and layer 4 policies have no such versions: the newest is in force, as in the store of a node proxy. Where
//! backends tell of one workload differently, who told last is believed; the control plane tells them all the same.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use crate::{
    delta::{Delta, Resource},
    http::{
        authorize,
        route::{Kind, Route},
        select,
    },
    name::Name,
    waypoint::{
        Backend, Generation, Port, Rejected, Routes, Table,
        generation::Index,
        parse::{self, Reference, ToldBackend, ToldPolicy, ToldPort, ToldTable},
    },
};

/// The writer's side.
#[derive(Debug)]
pub struct Store {
    /// Layer 4 policies of this namespace are for the mesh where nothing better can be read.
    root_namespace: Name,
    current: Arc<Generation>,
    tables: BTreeMap<String, Told<ToldTable>>,
    backends: BTreeMap<String, Told<ToldBackend>>,
    routes: HashMap<Reference, Result<Arc<Route>, String>>,
    policies: HashMap<Reference, Arc<authorize::Policy>>,
    /// The versions by which routes and policies are kept.
    versions: [HashMap<String, String>; 2],
    /// What tables in force were made of.
    in_force: HashMap<Name, ToldTable>,
    /// What backends in force put into the mesh.
    held: HashMap<Name, Held>,
    /// How many backends list a workload, and how many hold a service.
    workloads: HashMap<Arc<str>, usize>,
    services: HashMap<Name, usize>,
    answered: [bool; 4],
    /// Tables that the first answers named and that were not in force yet.
    awaited: Option<BTreeSet<String>>,
}

/// A resource as it was told last, and whether that is in force.
#[derive(Debug)]
struct Told<T> {
    told: T,
    settled: bool,
}

#[derive(Debug, Default)]
struct Held {
    workloads: BTreeSet<Arc<str>>,
    services: HashSet<Name>,
}

/// The four types, by their places in what is kept of each.
const TYPES: [&str; 4] = [
    proto::ROUTE_TYPE,
    proto::POLICY_TYPE,
    proto::BACKEND_TYPE,
    proto::TABLE_TYPE,
];
const ROUTE: usize = 0;
const POLICY: usize = 1;

impl Store {
    /// An empty store. Layer 4 policies of the root namespace are for the whole mesh where nothing better can be read.
    pub fn new(root_namespace: Name) -> Self {
        Self {
            root_namespace,
            current: Arc::default(),
            tables: BTreeMap::new(),
            backends: BTreeMap::new(),
            routes: HashMap::new(),
            policies: HashMap::new(),
            versions: Default::default(),
            in_force: HashMap::new(),
            held: HashMap::new(),
            workloads: HashMap::new(),
            services: HashMap::new(),
            answered: [false; 4],
            awaited: None,
        }
    }

    /// The newest generation.
    pub fn current(&self) -> &Arc<Generation> {
        &self.current
    }

    /// Applies one response and publishes once. What is not acceptable is told by name and reason; all else is in force, or
    /// waits for what it needs.
    pub fn apply(&mut self, delta: &Delta) -> Vec<Rejected> {
        let Some(kind) = TYPES.iter().position(|url| *url == delta.type_url) else {
            let reason = format!("unknown type {}", delta.type_url);
            let name = String::new();
            return vec![Rejected { name, reason }];
        };
        let mut next = Generation::clone(&self.current);
        next.number += 1;
        next.mesh.number = next.number;
        self.answered[kind] = true;
        for name in &delta.removed {
            self.remove(kind, name, &mut next);
        }
        let mut rejected = Vec::new();
        for resource in &delta.resources {
            let reasons = self.put(kind, resource, &mut next);
            rejected.extend(reasons.into_iter().map(|reason| Rejected {
                name: resource.name.clone(),
                reason,
            }));
        }
        self.settle_backends(&mut next);
        self.settle_tables(&mut next);
        self.let_go(&mut next);
        self.settle_readiness(&mut next);
        self.current = Arc::new(next);
        rejected
    }

    fn remove(&mut self, kind: usize, name: &str, next: &mut Generation) {
        match TYPES[kind] {
            proto::TABLE_TYPE => {
                self.tables.remove(name);
            }
            proto::BACKEND_TYPE => {
                self.backends.remove(name);
            }
            _ => {
                self.forget(kind, name);
                if let Some((parse::Prefix::Connection, name)) = parse::prefixed(name)
                    && kind == POLICY
                    && let Some(name) = Name::existing(name)
                {
                    next.mesh.remove_policy(name);
                }
            }
        }
    }

    /// Takes a resource in; why not all of it can be used.
    fn put(&mut self, kind: usize, resource: &Resource, next: &mut Generation) -> Vec<String> {
        let Resource { name, bytes, .. } = resource;
        match TYPES[kind] {
            proto::TABLE_TYPE => {
                let told = parse::table(name, bytes);
                let refused = told.refused.iter().cloned();
                let ports = told.ports.iter().filter_map(|port| {
                    let why = port.refused.as_ref()?;
                    Some(format!("port {}: {why}", port.number))
                });
                let reasons = refused.chain(ports).collect();
                put_told(&mut self.tables, name, told);
                reasons
            }
            proto::BACKEND_TYPE => {
                let (told, reasons) = parse::backend(name, bytes);
                put_told(&mut self.backends, name, told);
                reasons
            }
            proto::ROUTE_TYPE => {
                let reference = self.version(ROUTE, resource);
                let (route, reasons) = match parse::route(bytes) {
                    Ok((route, reasons)) => (Ok(Arc::new(route)), reasons),
                    Err(why) => (Err(why.clone()), vec![why]),
                };
                self.routes.insert(reference, route);
                reasons
            }
            _ => {
                let (told, reason) = parse::policy(name, bytes, self.root_namespace);
                match told {
                    ToldPolicy::Connection(policy) => next.mesh.put_policy(Arc::new(policy)),
                    ToldPolicy::Request(policy) => {
                        let reference = self.version(POLICY, resource);
                        self.policies.insert(reference, Arc::new(policy));
                    }
                }
                reason.into_iter().collect()
            }
        }
    }

    /// The reference to a route or policy, whose older version is kept no more but by the tables in force.
    fn version(&mut self, kind: usize, resource: &Resource) -> Reference {
        self.forget(kind, &resource.name);
        let Resource { name, version, .. } = resource;
        self.versions[kind].insert(name.clone(), version.clone());
        Reference {
            name: name.clone(),
            version: version.clone(),
        }
    }

    fn forget(&mut self, kind: usize, name: &str) {
        let Some((name, version)) = self.versions[kind].remove_entry(name) else {
            return;
        };
        let reference = Reference { name, version };
        self.routes.remove(&reference);
        self.policies.remove(&reference);
    }

    fn settle_backends(&mut self, next: &mut Generation) {
        let mut backends = std::mem::take(&mut self.backends);
        for entry in backends.values_mut().filter(|entry| !entry.settled) {
            let told = &entry.told;
            let Some(policies) = self.policies_of(&told.policies) else {
                continue;
            };
            let old = next.backends.get(&told.key);
            let kept = |new: &Option<Arc<_>>, old: Option<&Option<Arc<_>>>| match old {
                Some(old) if old == new => old.clone(),
                _ => new.clone(),
            };
            let backend = Backend {
                key: told.key,
                service: kept(&told.service, old.map(|old| &old.service)),
                protocols: told.protocols.clone(),
                policies,
                waypoint: kept(&told.waypoint, old.map(|old| &old.waypoint)),
                refused: told.refused.as_deref().map(Into::into),
            };
            self.hold(&backend, told, next);
            Arc::make_mut(&mut next.backends).insert(told.key, Arc::new(backend));
            entry.settled = true;
        }
        self.backends = backends;
    }

    /// Puts a backend's services and workloads into the mesh, in place of those that it held before.
    fn hold(&mut self, backend: &Backend, told: &ToldBackend, next: &mut Generation) {
        let mut held = Held::default();
        for service in [&backend.service, &backend.waypoint].into_iter().flatten() {
            if held.services.insert(service.key) {
                *self.services.entry(service.key).or_default() += 1;
            }
            if next.mesh.service(service.key) != Some(service) {
                next.mesh.put_service(Arc::clone(service));
            }
        }
        for workload in &told.workloads {
            if held.workloads.insert(Arc::clone(&workload.uid)) {
                *self.workloads.entry(Arc::clone(&workload.uid)).or_default() += 1;
            }
            if next.mesh.workload(&workload.uid) != Some(workload) {
                next.mesh.put_workload(Arc::clone(workload));
            }
        }
        if let Some(old) = self.held.insert(told.key, held) {
            self.release(&old, next);
        }
    }

    /// Takes out of the mesh what nobody holds any more.
    fn release(&mut self, held: &Held, next: &mut Generation) {
        for uid in &held.workloads {
            if is_last(&mut self.workloads, uid) {
                next.mesh.remove_address(uid);
            }
        }
        for service in &held.services {
            if is_last(&mut self.services, service) {
                next.mesh.remove_address(service.as_str());
            }
        }
    }

    fn settle_tables(&mut self, next: &mut Generation) {
        let mut changed = false;
        let mut tables = std::mem::take(&mut self.tables);
        for entry in tables.values_mut() {
            let key = entry.told.key;
            let old = next.tables.get(key.as_str());
            // Its service may change without it.
            let moved = old.is_some_and(|old| {
                let service = next.backend(key).and_then(|own| own.service.as_ref());
                service.is_some_and(|service| *service != old.service)
            });
            if entry.settled && !moved {
                continue;
            }
            let table = if entry.settled {
                old.and_then(|old| moved_table(old, next))
            } else {
                self.table(&entry.told, next)
            };
            let Some(table) = table else {
                // What it was made of is still the old one.
                if let Some(table) = old.filter(|_| moved).and_then(|old| moved_table(old, next)) {
                    Arc::make_mut(&mut next.tables).insert(key.as_str(), Arc::new(table));
                    changed = true;
                }
                continue;
            };
            Arc::make_mut(&mut next.tables).insert(key.as_str(), Arc::new(table));
            if !entry.settled {
                self.in_force.insert(key, entry.told.clone());
                entry.settled = true;
            }
            changed = true;
        }
        let gone: Vec<&str> = next
            .tables
            .keys()
            .copied()
            .filter(|key| !tables.contains_key(*key))
            .collect();
        for key in gone {
            Arc::make_mut(&mut next.tables).remove(key);
            self.in_force.remove(&Name::new(key));
            changed = true;
        }
        self.tables = tables;
        if changed {
            next.index = Arc::new(Index::new(next.tables.values()));
        }
    }

    /// A table of what was told, if all of it is there.
    fn table(&self, told: &ToldTable, next: &Generation) -> Option<Table> {
        let is_there = |name: &Name| {
            let told = self.backends.contains_key(name.as_str());
            told && next.backend(*name).is_some()
        };
        if !told.backends.iter().all(is_there) {
            return None;
        }
        let own = next.backend(told.key)?;
        let old = self.in_force.get(&told.key).zip(next.table(told.key));
        let service = match (&own.service, old) {
            (Some(service), _) => Arc::clone(service),
            // The backend says why; the table still decides who may be told so.
            (None, Some((_, old))) => Arc::clone(&old.service),
            (None, None) => return None,
        };
        let ports = told.ports.iter().map(|port| {
            // What names the same versions is the same.
            let same = old.and_then(|(was, old)| {
                let at = was.ports.iter().position(|was| was == port)?;
                old.ports.get(at).cloned()
            });
            same.or_else(|| self.port(port))
        });
        Some(Table {
            key: told.key,
            service,
            ports: ports.collect::<Option<_>>()?,
            policies: self.policies_of(&told.policies)?,
            tells_identity: told.tells_identity,
            gateways: told.gateways.as_slice().into(),
            waypoints: told.waypoints.as_slice().into(),
            refused: told.refused.as_deref().map(Into::into),
        })
    }

    fn port(&self, told: &ToldPort) -> Option<Port> {
        let routes = told
            .routes
            .iter()
            .map(|it| self.routes.get(it).map(|route| (it, route)));
        let routes: Vec<_> = routes.collect::<Option<_>>()?;
        Some(Port {
            number: told.number,
            name: told.name.clone(),
            protocol: told.protocol,
            routes: match (&told.refused, of_one_kind(&routes)) {
                (Some(why), _) => Routes::Refused(why.as_str().into()),
                (None, Err(why)) => Routes::Refused(why.into()),
                (None, Ok(routes)) => routes,
            },
        })
    }

    fn policies_of(&self, references: &[Reference]) -> Option<Box<[Arc<authorize::Policy>]>> {
        let policy = |reference| self.policies.get(reference).cloned();
        references.iter().map(policy).collect()
    }

    /// Backends that are told no more go when no table in force leads to them.
    fn let_go(&mut self, next: &mut Generation) {
        let gone = |key: &&Name| !self.backends.contains_key(key.as_str());
        let gone: HashSet<Name> = self.held.keys().filter(gone).copied().collect();
        if gone.is_empty() {
            return;
        }
        let led_to = self.in_force.values().flat_map(|table| &table.backends);
        let led_to: HashSet<Name> = led_to.copied().collect();
        for key in gone.difference(&led_to) {
            Arc::make_mut(&mut next.backends).remove(key);
            if let Some(held) = self.held.remove(key) {
                self.release(&held, next);
            }
        }
    }

    fn settle_readiness(&mut self, next: &mut Generation) {
        if next.ready || self.answered.contains(&false) {
            return;
        }
        next.mesh.complete();
        let awaited = self
            .awaited
            .get_or_insert_with(|| self.tables.keys().cloned().collect());
        awaited.retain(|name| {
            self.tables.contains_key(name) && !next.tables.contains_key(name.as_str())
        });
        next.ready = awaited.is_empty();
    }
}

/// The same table for a service that changed.
fn moved_table(old: &Table, next: &Generation) -> Option<Table> {
    Some(Table {
        key: old.key,
        service: next.backend(old.key)?.service.clone()?,
        ports: old.ports.clone(),
        policies: old.policies.clone(),
        tells_identity: old.tells_identity,
        gateways: old.gateways.clone(),
        waypoints: old.waypoints.clone(),
        refused: old.refused.clone(),
    })
}

/// Takes in what was told; what is in force already stays as it is.
fn put_told<T: PartialEq>(all: &mut BTreeMap<String, Told<T>>, name: &str, told: T) {
    if all.get(name).is_none_or(|old| old.told != told) {
        let settled = false;
        all.insert(name.to_owned(), Told { told, settled });
    }
}

/// Counts one less; whether that was the last.
fn is_last<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) -> bool {
    let Some(count) = counts.get_mut(key) else {
        return false;
    };
    *count -= 1;
    let last = *count == 0;
    if last {
        counts.remove(key);
    }
    last
}

/// Kinds are never mixed: which of them would win is nothing that a user could tell.
fn of_one_kind(routes: &[(&Reference, &Result<Arc<Route>, String>)]) -> Result<Routes, String> {
    let mut read = Vec::with_capacity(routes.len());
    for (reference, route) in routes {
        let route = route.as_ref();
        read.push(Arc::clone(
            route.map_err(|why| format!("route {:?}: {why}", reference.name))?,
        ));
    }
    let Some(kind) = read.first().map(|route| route.kind) else {
        return Ok(Routes::None);
    };
    if let Some(other) = read
        .iter()
        .map(|route| route.kind)
        .find(|other| *other != kind)
    {
        return Err(format!(
            "has routes of two kinds, {} and {}",
            kind.as_str(),
            other.as_str()
        ));
    }
    if kind != Kind::Tcp {
        return Ok(Routes::Http(Arc::new(select::Table::new(read))));
    }
    read.sort_by(|one, other| {
        let rank = |route: &Route| (route.created, route.namespace.as_str(), route.name.clone());
        rank(one).cmp(&rank(other))
    });
    Ok(Routes::Tcp(read.into()))
}

#[cfg(test)]
mod tests;
