//! ServiceEntries: each of their hosts is a service, as long as the endpoints have addresses that are written down.
//!
//! What is not served yet is reached like anything outside the mesh; but if a policy is, or may be, for it, its addresses lead
//! nowhere: `binding` says so. The older of two that say the same of a host is meant, and a Service is older than any.
//! `workloads` are the endpoints, and WorkloadEntries.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    net::IpAddr,
    sync::Arc,
};

use proto::workload::{self, NetworkAddress, service::Visibility};

use super::{Compiled, Derived, Scope, Settings, octets, services::is_served};
use crate::{
    manifest::{
        Kind, Labels, Meta, Object, ObjectRef, Service, ServiceEntry,
        authorization::Block,
        mesh::Visible,
        service_entry::{Members, Resolution, is_single},
        workload_entry::Address,
    },
    world::{Key, World, host},
};

mod status;
mod workloads;

pub(super) use self::{
    status::tell,
    workloads::{Pods, SERVICE, WORKLOAD},
};

/// All hosts of all ServiceEntries that anybody sees.
#[derive(Default)]
pub(super) struct Entries<'a> {
    services: BTreeMap<Key, Arc<Service>>,
    entries: BTreeMap<Key, Entry<'a>>,
}

/// A host of a ServiceEntry.
pub(super) struct Entry<'a> {
    /// As a service.
    pub(super) key: Key,
    /// Whose.
    written: &'a ServiceEntry,
    /// Who sees it.
    pub(super) visible: Visible,
    /// It is what everybody means by the host.
    canonical: bool,
    /// Those that are no Service's.
    pub(super) addresses: Vec<Block>,
    /// Why it is not served.
    pub(super) lack: Option<Lack>,
}

/// Why a host is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lack {
    /// Nobody knows what it is.
    Refused,
    /// Its endpoints would have to be found by their names, or are none.
    Resolution(Resolution),
    /// All its endpoints would have to be found by their names.
    Names,
    /// Another object has the host, in the same namespace.
    Taken(String),
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("it cannot be understood"),
            Self::Resolution(resolution) => {
                write!(f, "resolution {} is not served yet", resolution.as_str())
            }
            Self::Names => {
                f.write_str("none of its endpoints has an address, and names are not resolved yet")
            }
            Self::Taken(other) => write!(f, "{other} has the same host"),
        }
    }
}

impl<'a> Entries<'a> {
    /// `made` are the Services that Gateways have to get.
    pub(super) fn new(
        world: &'a World,
        settings: &Settings,
        made: &BTreeMap<Key, Arc<Service>>,
    ) -> Self {
        let mut entries = Self::default();
        if world.service_entries.is_empty() && world.refused.is_empty() {
            return entries;
        }
        let derived = Derived::default();
        let scope = Scope {
            world,
            settings,
            derived: &derived,
        };
        let addresses = service_addresses(world);
        let mut names = Names::new(scope, made);
        for (reference, written, refused) in all(world, scope) {
            let visible = visible(scope, &reference.namespace);
            let lack = if refused {
                Some(Lack::Refused)
            } else {
                lack(written)
            };
            for host in &written.hosts {
                let taken = names.take(&reference, host);
                let lack = lack.clone().or_else(|| taken.clone().map(Lack::Taken));
                // A name of its own, for what of it has to be refused.
                let own = format!("{host}.{}.invalid", reference.name);
                let host_name = if taken.is_some() { &own } else { host };
                let key = host::key(&reference.namespace, &reference.name, host_name);
                if entries.entries.contains_key(&key) {
                    continue;
                }
                let blocks = written.addresses.iter();
                let blocks = blocks.filter(|it| !is_of_service(&addresses, it));
                let entry = Entry {
                    canonical: visible == Visible::Public && lack.is_none() && names.first(host),
                    key: key.clone(),
                    written,
                    visible,
                    addresses: blocks.copied().collect(),
                    lack,
                };
                entries
                    .services
                    .insert(key.clone(), Arc::new(entry.service()));
                entries.entries.insert(key, entry);
            }
        }
        entries
    }

    pub(super) fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    pub(super) fn service(&self, key: &Key) -> Option<&Arc<Service>> {
        self.services.get(key)
    }

    pub(super) fn of(&self, key: &Key) -> Option<&Entry<'a>> {
        self.entries.get(key)
    }

    /// The hosts of a ServiceEntry.
    pub(super) fn hosts(&self, namespace: &str, name: &str) -> impl Iterator<Item = &Entry<'a>> {
        let all = host::all(namespace, name);
        // Others may begin with its name.
        let hosts = self.entries.range(host::key(namespace, name, "")..);
        let own = hosts.take_while(move |(key, _)| host::widened(key) == all);
        own.map(|(_, entry)| entry)
    }
}

impl Entry<'_> {
    fn service(&self) -> Service {
        let written = self.written;
        let selector = match &written.members {
            Members::Selected(labels) => labels.clone(),
            Members::Listed(_) | Members::Unknown => Labels::new(),
        };
        Service {
            meta: Meta {
                namespace: self.key.0.clone(),
                name: self.key.1.clone(),
                ..written.meta.clone()
            },
            addresses: self.addresses.iter().map(|it| it.address).collect(),
            ports: written.ports.clone(),
            selector,
            ..Service::default()
        }
    }

    /// The host, as written.
    fn host(&self) -> &str {
        let parts = host::parts(&self.key.1);
        parts.and_then(|(_, host)| host).unwrap_or_default()
    }

    /// Whether it stands for all names below it.
    fn is_wild(&self) -> bool {
        self.host().starts_with("*.")
    }

    /// What becomes of what is sent there, if that is to be refused.
    pub(super) fn refusal(&self) -> &'static str {
        match self.addresses.is_empty() {
            true => {
                "it has no address by which anybody could be refused, so nobody is kept to a policy that is for it"
            }
            false => "what is sent to its addresses is refused",
        }
    }

    /// Says of the resource what a Service does not have.
    pub(super) fn describe(&self, resource: &mut workload::Service) {
        let object = host::object(&self.key);
        let address = |block: &Block| NetworkAddress {
            network: String::new(),
            address: octets(block.address),
            length: (!is_single(block)).then(|| block.length.into()),
        };
        resource.name = object.name;
        resource.addresses = self.addresses.iter().map(address).collect();
        resource
            .subject_alt_names
            .clone_from(&self.written.identities);
        resource.canonical = self.canonical;
        if self.visible == Visible::Namespace {
            resource.visibility = Visibility::Namespace.into();
        }
    }
}

/// Which hosts there are already.
struct Names {
    /// By namespace and host: whose it is.
    own: HashMap<Key, String>,
    /// Those that somebody is meant by.
    meant: BTreeSet<String>,
}

impl Names {
    fn new(scope: Scope<'_>, made: &BTreeMap<Key, Arc<Service>>) -> Self {
        let mut names = Self {
            own: HashMap::new(),
            meant: BTreeSet::new(),
        };
        let services = scope.world.services.values().chain(made.values());
        for service in services.filter(|it| is_served(scope, it)) {
            let Meta {
                namespace, name, ..
            } = &service.meta;
            let hostname = scope.hostname(namespace, name);
            names.meant.insert(hostname.clone());
            let words = host::words(&(namespace.clone(), name.clone()));
            names.own.insert((namespace.clone(), hostname), words);
        }
        names
    }

    /// Who has a host of this namespace already, if it is another.
    fn take(&mut self, entry: &ObjectRef, host: &str) -> Option<String> {
        let words = host::words(&host::all(&entry.namespace, &entry.name));
        let key = (entry.namespace.clone(), host.to_owned());
        let holder = self.own.entry(key).or_insert_with(|| words.clone());
        (*holder != words).then(|| holder.clone())
    }

    /// Whether nobody was meant by a host until now.
    fn first(&mut self, host: &str) -> bool {
        self.meant.insert(host.to_owned())
    }
}

/// All ServiceEntries that anybody sees, the oldest first; then what could be read of those that cannot be understood.
fn all<'a>(world: &'a World, scope: Scope<'_>) -> Vec<(ObjectRef, &'a ServiceEntry, bool)> {
    let good = world.service_entries.values();
    let mut good: Vec<_> = good.collect();
    good.sort_by_key(|it| (it.meta.created, &it.meta.namespace, &it.meta.name));
    let good = good.into_iter().map(|it| {
        let reference = ObjectRef::new(Kind::ServiceEntry, &it.meta.namespace, &it.meta.name);
        (reference, it, false)
    });
    let refused = world.refused.iter().filter_map(|(reference, object)| {
        let Object::ServiceEntry(entry) = object else {
            return None;
        };
        let is_there = world.object(reference).is_some();
        (!is_there).then(|| (reference.clone(), entry, true))
    });
    let seen = good.chain(refused).filter(|(it, ..)| {
        scope.sees(&it.namespace) && visible(scope, &it.namespace) != Visible::Nobody
    });
    seen.collect()
}

/// Who sees the ServiceEntries of a namespace.
fn visible(scope: Scope<'_>, namespace: &str) -> Visible {
    let Some(visibility) = scope.mesh().and_then(|mesh| mesh.visibility.as_ref()) else {
        return Visible::Public;
    };
    let none = Labels::new();
    let namespace = scope.world.namespaces.get(namespace);
    visibility.of(namespace.map_or(&none, |it| &it.meta.labels))
}

/// Why a ServiceEntry is not served, whatever its hosts.
fn lack(entry: &ServiceEntry) -> Option<Lack> {
    let resolution = entry.resolution;
    let unresolved = || Some(Lack::Resolution(resolution));
    match (resolution, &entry.members) {
        (Resolution::None | Resolution::DynamicDns, _) => unresolved(),
        (_, Members::Selected(_) | Members::Unknown) => None,
        (Resolution::Static, Members::Listed(all)) if all.is_empty() => None,
        (_, Members::Listed(all)) if all.is_empty() => unresolved(),
        (_, Members::Listed(all)) => {
            let mut all = all.iter();
            let has_address = all.any(|it| matches!(it.address, Address::Ip(_)));
            (!has_address).then_some(Lack::Names)
        }
    }
}

/// The addresses of Services, each with one that has it.
fn service_addresses(world: &World) -> HashMap<IpAddr, &Arc<Service>> {
    let services = world.services.values();
    let all = services.flat_map(|it| it.addresses.iter().map(move |address| (*address, it)));
    all.collect()
}

/// Who may write a ServiceEntry has no say over what the address of a Service is.
fn is_of_service(addresses: &HashMap<IpAddr, &Arc<Service>>, block: &Block) -> bool {
    is_single(block) && addresses.contains_key(&block.address)
}

/// Whether a service is a host of a ServiceEntry that is not served.
pub(super) fn is_lacking(scope: Scope<'_>, service: &Service) -> bool {
    let key = (service.meta.namespace.clone(), service.meta.name.clone());
    let entry = host::parts(&key.1).and_then(|_| scope.entry(&key));
    entry.is_some_and(|it| it.lack.is_some())
}

/// The endpoints of ServiceEntries, and WorkloadEntries.
pub(super) fn compile(scope: Scope<'_>, compiled: &mut Compiled) {
    workloads::compile(scope, compiled);
}
