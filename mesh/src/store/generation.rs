//! One unchanging view of the mesh.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use crate::{
    model::{Policy, Port, Service, Vip, Visibility, Workload},
    name::Name,
    table::Table,
};

/// All that is known of the mesh at one moment.
#[derive(Clone, Debug, Default)]
pub struct Generation {
    /// Counts up with every response.
    pub number: u64,
    pub(super) addresses_known: bool,
    pub(super) policies_known: bool,
    pub(super) workloads: Table<Arc<str>, Arc<Workload>>,
    /// The newest claim last.
    pub(super) by_address: Table<(Name, IpAddr), Vec<Arc<Workload>>>,
    pub(super) services: Table<Name, Arc<Service>>,
    pub(super) by_vip: Table<(Name, IpAddr), Vec<Arc<Service>>>,
    pub(super) by_range: Arc<Vec<(Vip, Arc<Service>)>>,
    pub(super) endpoints: Table<Name, Arc<Vec<Endpoint>>>,
    pub(super) policies: Table<Name, Arc<Policy>>,
    pub(super) scopes: Arc<Scopes>,
    /// Resources whose newest version was refused, and where that says they are.
    pub(super) unusable: Arc<BTreeMap<Box<str>, Vec<Vip>>>,
}

/// Policies that workloads do not list.
#[derive(Clone, Debug, Default)]
pub(super) struct Scopes {
    pub(super) mesh: Vec<Arc<Policy>>,
    pub(super) namespaces: HashMap<Name, Vec<Arc<Policy>>>,
}

/// A workload as part of a service.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Who serves.
    pub workload: Arc<Workload>,
    /// Service port to its own port.
    pub ports: Box<[Port]>,
}

/// What stands behind an address.
#[derive(Clone, Copy, Debug)]
pub enum Known<'a> {
    /// Nothing of the mesh.
    Nothing,
    /// A service's virtual address.
    Service(&'a Arc<Service>),
    /// A resource that could not be understood, by name.
    Unusable(&'a str),
    /// A workload's own address.
    Workload(&'a Arc<Workload>),
}

impl Generation {
    /// Whether a first, complete answer is there for everything that decisions need.
    pub fn is_complete(&self) -> bool {
        self.addresses_known && self.policies_known
    }

    /// A workload by uid.
    pub fn workload(&self, uid: &str) -> Option<&Arc<Workload>> {
        self.workloads.get(uid)
    }

    /// A service by `<namespace>/<hostname>`.
    pub fn service(&self, key: Name) -> Option<&Arc<Service>> {
        self.services.get(&key)
    }

    /// A policy by `<namespace>/<name>`.
    pub fn policy(&self, name: Name) -> Option<&Arc<Policy>> {
        self.policies.get(&name)
    }

    /// Whether another generation of the same store has the very same policies. Never true of different ones.
    pub fn has_policies_of(&self, other: &Self) -> bool {
        // Whatever changes a policy writes there.
        Arc::ptr_eq(&self.scopes, &other.scopes)
    }

    /// The policies for all workloads of a namespace: those of the mesh and its own.
    pub fn unlisted_policies(&self, namespace: Name) -> impl Iterator<Item = &Arc<Policy>> {
        let own = self.scopes.namespaces.get(&namespace);
        self.scopes.mesh.iter().chain(own.into_iter().flatten())
    }

    /// A service's endpoints, ready or not.
    pub fn endpoints(&self, service: Name) -> &[Endpoint] {
        self.endpoints
            .get(&service)
            .map_or(&[], |endpoints| endpoints)
    }

    /// What an address stands for, to a client of `namespace`.
    ///
    /// A service's own address wins over a workload's, and that over a range of a service; so the
    /// same thing is found whatever the question is about. Where several services claim an address,
    /// the client's namespace, then the longest range, then the platform's own, then the name
    /// decides; of several workloads the one heard of last.
    pub fn lookup(&self, network: Name, address: IpAddr, namespace: Name) -> Known<'_> {
        let key = (network, address);
        let visible = |s: &Service| s.visibility == Visibility::Public || s.namespace == namespace;
        let exact = self
            .by_vip
            .get(&key)
            .into_iter()
            .flatten()
            .filter(|s| visible(s));
        let exact = exact.min_by_key(|s| (s.namespace != namespace, !s.canonical, s.key.as_str()));
        if let Some(service) = exact {
            return Known::Service(service);
        }
        if let Some(workload) = self.workload_at(network, address) {
            return Known::Workload(workload);
        }
        let holds = |vip: &Vip| vip.contains(network, address);
        let mut unusable = self.unusable.iter();
        if let Some((name, _)) = unusable.find(|(_, reach)| reach.iter().any(holds)) {
            return Known::Unusable(name);
        }
        let ranges = self
            .by_range
            .iter()
            .filter(|(vip, s)| holds(vip) && visible(s));
        let best = ranges.min_by_key(|(vip, s)| {
            (
                s.namespace != namespace,
                Reverse(vip.length),
                !s.canonical,
                s.key.as_str(),
            )
        });
        best.map_or(Known::Nothing, |(_, service)| Known::Service(service))
    }

    /// The workload with an address of its own, whatever services claim that too.
    pub fn workload_at(&self, network: Name, address: IpAddr) -> Option<&Arc<Workload>> {
        self.by_address
            .get(&(network, address))
            .and_then(|claims| claims.last())
    }

    /// All workloads, in no order.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.iter().map(|(_, w)| w)
    }

    /// All services, in no order.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.iter().map(|(_, s)| s)
    }

    /// All policies, in no order.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.policies.iter().map(|(_, p)| p)
    }
}
