//! What a waypoint of a small shop is told, for tests: service `orders` with a table, and what its routes lead to.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use prost::Message;
use proto::waypoint::{
    Authorization, Backend, Destination, Filter, Match, Policy, Port, Protocol, Reference, Route,
    Rule, Table, WeightedBackend, filter, r#match, policy, weighted_backend::Target,
};

use crate::{
    delta::{Delta, Resource},
    fixture::{endpoint_of, key, service, workload},
    waypoint::{Generation, Store},
};

/// Resources by name. References hold names only; their versions come when they are sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    pub(crate) tables: BTreeMap<String, Table>,
    pub(crate) routes: BTreeMap<String, Route>,
    pub(crate) policies: BTreeMap<String, Policy>,
    pub(crate) backends: BTreeMap<String, Backend>,
}

/// Services `orders` (10.1.0.1), `orders-v1` and `orders-v2` with a pod each, of which `orders` has both. A table for
/// `orders` with port 80, without routes or policies.
pub(crate) fn shop() -> Told {
    let pod = |name: &str, ip: &str, services: &[&str]| {
        let pod = workload(name, &[ip]);
        let join = |pod, service: &&str| endpoint_of(pod, service, &[]);
        services.iter().fold(pod, join)
    };
    let v1 = pod("v1", "10.0.0.1", &["orders", "orders-v1"]);
    let v2 = pod("v2", "10.0.0.2", &["orders", "orders-v2"]);
    let backend = |name, vip, workloads| Backend {
        service: Some(service(name, &[vip])),
        workloads,
        ..Backend::default()
    };
    let backends = [
        (
            "orders",
            backend("orders", "10.1.0.1", vec![v1.clone(), v2.clone()]),
        ),
        ("orders-v1", backend("orders-v1", "10.1.0.2", vec![v1])),
        ("orders-v2", backend("orders-v2", "10.1.0.3", vec![v2])),
    ];
    let port = Port {
        number: 80,
        protocol: Protocol::Http1.into(),
        ..Port::default()
    };
    let backends = backends.map(|(name, backend)| (key(name), backend));
    let table = Table {
        backend: key("orders"),
        ports: vec![port],
        backends: backends.iter().map(|(name, _)| name.clone()).collect(),
        ..Table::default()
    };
    Told {
        tables: BTreeMap::from([(key("orders"), table)]),
        backends: BTreeMap::from(backends),
        ..Told::default()
    }
}

impl Told {
    /// With a route for port 80 of `orders`.
    pub(crate) fn route(mut self, name: &str, rules: Vec<Rule>) -> Self {
        let route = Route {
            kind: "HTTPRoute".to_owned(),
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            rules,
            ..Route::default()
        };
        self.put_route(name, route);
        self
    }

    /// With a route for port 80 of `orders`.
    pub(crate) fn put_route(&mut self, name: &str, route: Route) {
        let refers = |name: &str| Reference {
            name: name.to_owned(),
            ..Reference::default()
        };
        let table = self.tables.get_mut(&key("orders")).unwrap();
        if !self.routes.contains_key(name) {
            table.ports[0].routes.push(refers(name));
        }
        self.routes.insert(name.to_owned(), route);
    }

    /// With a layer 7 policy for `orders`.
    pub(crate) fn policy(mut self, policy: Authorization) -> Self {
        let name = self.add_policy(policy);
        let table = self.tables.get_mut(&key("orders")).unwrap();
        table.policies.push(Reference {
            name,
            ..Reference::default()
        });
        self
    }

    /// With a layer 7 policy for another service, which the table only leads to.
    pub(crate) fn policy_of(mut self, service: &str, policy: Authorization) -> Self {
        let name = self.add_policy(policy);
        let backend = self.backends.get_mut(&key(service)).unwrap();
        backend.policies.push(Reference {
            name,
            ..Reference::default()
        });
        self
    }

    fn add_policy(&mut self, policy: Authorization) -> String {
        let name = format!("http/{}/{}", policy.namespace, policy.name);
        let policy = Policy {
            policy: Some(policy::Policy::Http(policy)),
            ..Policy::default()
        };
        self.policies.insert(name.clone(), policy);
        name
    }

    /// With a layer 4 policy.
    pub(crate) fn connection(mut self, policy: proto::security::Authorization) -> Self {
        let name = format!("connection/{}/{}", policy.namespace, policy.name);
        let policy = Policy {
            policy: Some(policy::Policy::Connection(policy)),
            ..Policy::default()
        };
        self.policies.insert(name, policy);
        self
    }

    /// All of it: routes, policies, backends, tables; each resource apart.
    pub(crate) fn deltas(&self) -> Vec<Delta> {
        let routes = encoded(&self.routes);
        let policies = encoded(&self.policies);
        let version = |reference: &mut Reference| {
            let mut all = routes.iter().chain(&policies);
            if let Some(resource) = all.find(|resource| resource.name == reference.name) {
                reference.version.clone_from(&resource.version);
            }
        };
        let mut backends = self.backends.clone();
        let mut tables = self.tables.clone();
        let of_backends = backends.values_mut().flat_map(|it| &mut it.policies);
        of_backends.for_each(version);
        for table in tables.values_mut() {
            table.policies.iter_mut().for_each(version);
            let of_ports = table.ports.iter_mut().flat_map(|port| &mut port.routes);
            of_ports.for_each(version);
        }
        let (backends, tables) = (encoded(&backends), encoded(&tables));
        [
            (proto::ROUTE_TYPE, routes),
            (proto::POLICY_TYPE, policies),
            (proto::BACKEND_TYPE, backends),
            (proto::TABLE_TYPE, tables),
        ]
        .map(|(type_url, resources)| Delta {
            type_url: type_url.to_owned(),
            resources,
            removed: Vec::new(),
        })
        .into()
    }

    /// The generation of all of it, none of which is refused.
    pub(crate) fn generation(&self) -> Arc<Generation> {
        let mut store = Store::new("ambit-system".into());
        for delta in self.deltas() {
            assert_eq!(store.apply(&delta), []);
        }
        assert!(store.current().is_ready());
        Arc::clone(store.current())
    }
}

fn encoded<M: Message>(all: &BTreeMap<String, M>) -> Vec<Resource> {
    let one = |(name, message): (&String, &M)| {
        let bytes = message.encode_to_vec();
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        Resource {
            name: name.clone(),
            version: format!("{:016x}", hasher.finish()),
            bytes,
        }
    };
    all.iter().map(one).collect()
}

/// A rule for paths below `prefix`, to services in `shop` by weight.
pub(crate) fn rule(prefix: &str, backends: &[(&str, u32)]) -> Rule {
    let matched = Match {
        path: Some(r#match::Path::Prefix(prefix.to_owned())),
        ..Match::default()
    };
    Rule {
        matches: vec![matched],
        backends: backends
            .iter()
            .map(|(name, weight)| to(name, *weight))
            .collect(),
        ..Rule::default()
    }
}

/// The same rule with filters.
pub(crate) fn with(mut rule: Rule, filters: Vec<filter::Filter>) -> Rule {
    let filter = |filter| Filter {
        filter: Some(filter),
    };
    rule.filters = filters.into_iter().map(filter).collect();
    rule
}

/// Port 80 of a service in `shop`.
pub(crate) fn to(name: &str, weight: u32) -> WeightedBackend {
    WeightedBackend {
        weight,
        target: Some(Target::Destination(Destination {
            backend: key(name),
            port: 80,
        })),
        ..WeightedBackend::default()
    }
}
