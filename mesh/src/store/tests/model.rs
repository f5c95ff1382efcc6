//! Random responses, applied one by one, leave what their last words alone would: nothing of the past remains.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proto::{
    security::{Action, Authorization, Scope as WireScope},
    workload::{self as wire, TunnelProtocol, address::Type, service::Visibility},
};

use super::super::*;
use crate::fixture::{
    self, addresses, authorizations, endpoint_of, key, policy, removing, to_port, uid,
};

const PODS: [&str; 4] = ["a", "b", "c", "d"];
const SERVICES: [&str; 2] = ["s", "t"];
const POLICIES: [&str; 3] = ["p", "q", "r"];
const ADDRESSES: [&str; 5] = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.96.0.1", "fd00::1"];
const VIPS: [&str; 5] = [
    "10.0.0.1",
    "10.96.0.1",
    "10.0.0.0/30",
    "10.0.0.0/8",
    "fd00::/16",
];

/// One response, before it is encoded.
#[derive(Clone, Debug)]
enum Response {
    Addresses(Vec<Type>, Vec<String>),
    Policies(Vec<(Authorization, bool)>, Vec<String>),
}

/// The last words about everything, in the order in which they were said.
#[derive(Default)]
struct Last {
    good: Vec<Type>,
    bad: Vec<Type>,
    policies: Vec<(Authorization, bool)>,
}

fn is_bad(item: &Type) -> bool {
    match item {
        Type::Workload(w) => w.tunnel_protocol == i32::from(TunnelProtocol::LegacyIstioMtls),
        Type::Service(s) => s.visibility == 9,
    }
}

impl Last {
    fn hear(&mut self, response: &Response) {
        match response {
            Response::Addresses(items, removed) => {
                let kept = |item: &Type| !removed.contains(&fixture::name(item));
                self.good.retain(kept);
                self.bad.retain(kept);
                for item in items {
                    let other = |old: &Type| fixture::name(old) != fixture::name(item);
                    self.bad.retain(other);
                    if is_bad(item) {
                        self.bad.push(item.clone());
                    } else {
                        self.good.retain(other);
                        self.good.push(item.clone());
                    }
                }
            }
            Response::Policies(items, removed) => {
                self.policies
                    .retain(|(p, _)| !removed.contains(&format!("shop/{}", p.name)));
                for (item, damaged) in items {
                    self.policies.retain(|(p, _)| p.name != item.name);
                    self.policies.push((item.clone(), *damaged));
                }
            }
        }
    }

    fn store(self) -> Store {
        let mut store = fixture::store();
        store.apply(&addresses(self.good));
        store.apply(&addresses(self.bad));
        store.apply(&Response::Policies(self.policies, vec![]).delta());
        store
    }
}

impl Response {
    fn delta(&self) -> Delta {
        let names = |removed: &'_ [String]| removed.to_vec();
        match self {
            Self::Addresses(items, removed) => Delta {
                removed: names(removed),
                ..addresses(items.clone())
            },
            Self::Policies(items, removed) => {
                let mut delta = removing(authorizations(items.iter().map(|(p, _)| p.clone())), &[]);
                for (resource, (_, damaged)) in delta.resources.iter_mut().zip(items) {
                    resource
                        .bytes
                        .extend(damaged.then_some([0x7a, 0x01, 0x00]).into_iter().flatten());
                }
                delta.removed = names(removed);
                delta
            }
        }
    }
}

/// Everything that can be asked of a generation, in no order.
fn view(mesh: &Generation) -> BTreeSet<String> {
    let mut view = BTreeSet::new();
    for address in ADDRESSES.iter().chain(&["10.0.0.0", "10.9.9.9", "fd00::9"]) {
        for namespace in ["shop", "bank"] {
            let found = mesh.lookup(Name::EMPTY, address.parse().unwrap(), namespace.into());
            view.insert(format!("{address} from {namespace} {found:?}"));
        }
        let own = mesh.workload_at(Name::EMPTY, address.parse().unwrap());
        view.insert(format!("{address} is {own:?}"));
    }
    for service in SERVICES {
        let name = Name::new(&key(service));
        view.insert(format!("{:?}", mesh.service(name)));
        let endpoints = mesh.endpoints(name);
        view.insert(format!("{service} has {}", endpoints.len()));
        view.extend(
            endpoints
                .iter()
                .map(|endpoint| format!("{service} {endpoint:?}")),
        );
    }
    view.extend(PODS.map(|pod| format!("{pod} {:?}", mesh.workload(&uid(pod)))));
    view.extend(
        POLICIES.map(|name| format!("{:?}", mesh.policy(Name::new(&format!("shop/{name}"))))),
    );
    for namespace in ["shop", "bank"] {
        let unlisted = || mesh.unlisted_policies(namespace.into());
        view.insert(format!("{namespace} has {}", unlisted().count()));
        view.extend(unlisted().map(|policy| format!("{namespace} {policy:?}")));
    }
    let (w, s, p) = (
        mesh.workloads().count(),
        mesh.services().count(),
        mesh.policies().count(),
    );
    view.insert(format!("{w} {s} {p}"));
    view
}

/// Whose certificates this node needs.
fn needed(mesh: &Generation) -> BTreeSet<String> {
    let ours = |w: &&Arc<Workload>| {
        w.node.as_str() == fixture::NODE && w.protocol == Protocol::Hbone && !w.native_tunnel
    };
    mesh.workloads()
        .filter(ours)
        .map(|w| w.identity.to_string())
        .collect()
}

/// The uids that are somewhere or somebody else after a change, or gone.
fn left(before: &Generation, after: &Generation) -> BTreeSet<Arc<str>> {
    let is = |w: &Workload| (w.identity, w.addresses.clone());
    let stayed = |w: &Workload| after.workload(&w.uid).is_some_and(|now| is(now) == is(w));
    before
        .workloads()
        .filter(|w| !stayed(w))
        .map(|w| Arc::clone(&w.uid))
        .collect()
}

fn workload() -> impl Strategy<Value = Type> {
    let some = |all: &'static [&'static str], most| prop::sample::subsequence(all, 0..=most);
    (
        prop::sample::select(&PODS[..]),
        some(&ADDRESSES, 2),
        some(&SERVICES, 2),
        prop::sample::select(&["x", "y"][..]),
        prop::bool::ANY,
        prop::sample::select(&[0, 1, 1, 1, 2][..]),
        prop::bool::weighted(0.2),
    )
        .prop_map(|(name, ips, services, account, here, protocol, host)| {
            let workload = services
                .into_iter()
                .fold(fixture::workload(name, &ips), |w, service| {
                    endpoint_of(w, service, &[(80, 1)])
                });
            Type::Workload(wire::Workload {
                service_account: account.to_owned(),
                node: if here { fixture::NODE } else { "n2" }.to_owned(),
                tunnel_protocol: protocol,
                network_mode: host.into(),
                ..workload
            })
        })
}

fn service() -> impl Strategy<Value = Type> {
    let visibility = [Visibility::Public.into(), Visibility::Namespace.into(), 9];
    (
        prop::sample::select(&SERVICES[..]),
        prop::sample::subsequence(&VIPS[..], 0..3),
        prop::sample::select(visibility.to_vec()),
        prop::bool::ANY,
    )
        .prop_map(|(name, vips, visibility, canonical)| {
            Type::Service(wire::Service {
                visibility,
                canonical,
                ..fixture::service(name, &vips)
            })
        })
}

fn response() -> impl Strategy<Value = Response> {
    let items = prop::collection::vec(prop_oneof![3 => workload(), 1 => service()], 0..4);
    let names = PODS
        .map(uid)
        .into_iter()
        .chain(SERVICES.map(key))
        .collect::<Vec<_>>();
    let removed = prop::collection::vec(prop::sample::select(names), 0..3);
    let scopes = [
        WireScope::Global,
        WireScope::Namespace,
        WireScope::WorkloadSelector,
    ];
    let one = (
        prop::sample::select(&POLICIES[..]),
        prop::sample::select(scopes.to_vec()),
        1..3u32,
        prop::bool::weighted(0.2),
    );
    let one = one.prop_map(|(name, scope, port, damaged)| {
        (policy(name, scope, Action::Deny, &[to_port(port)]), damaged)
    });
    let gone = prop::sample::select(POLICIES.map(|name| format!("shop/{name}")).to_vec());
    prop_oneof![
        3 => (items, removed).prop_map(|(items, removed)| Response::Addresses(items, removed)),
        1 => (prop::collection::vec(one, 0..3), prop::collection::vec(gone, 0..2))
            .prop_map(|(items, removed)| Response::Policies(items, removed)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn step_by_step_is_the_same_as_at_once(responses in prop::collection::vec(response(), 1..12)) {
        let mut store = fixture::store();
        let mut last = Last::default();
        let mut generations = Vec::new();
        let mut held = BTreeSet::new();
        for response in &responses {
            last.hear(response);
            let before = store.current();
            let (rejected, effects) = store.apply(&response.delta());
            let refused = match response {
                Response::Addresses(items, _) => items.iter().filter(|item| is_bad(item)).count(),
                Response::Policies(items, _) => items.iter().filter(|(_, damaged)| *damaged).count(),
            };
            prop_assert_eq!(rejected.len(), refused);
            let mut gone = BTreeSet::new();
            for effect in effects {
                match effect {
                    Effect::Forget(identity) => drop(held.remove(&identity.to_string())),
                    Effect::Prefetch(identity) => drop(held.insert(identity.to_string())),
                    Effect::Gone(uids) => gone.extend(uids),
                    Effect::Recheck => {}
                }
            }
            let now = store.current();
            prop_assert_eq!(&held, &needed(&now));
            prop_assert_eq!(gone, left(&before, &now));
            generations.push((view(&now), now));
        }
        prop_assert_eq!(view(&last.store().current()), view(&store.current()));
        for (seen, generation) in generations {
            prop_assert_eq!(seen, view(&generation), "an old generation changed");
        }
    }
}
