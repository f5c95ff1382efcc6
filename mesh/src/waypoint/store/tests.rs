//! What is in force, whatever the order.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proto::waypoint::{Action, Authorization, AuthorizationRule, Rule};

use super::*;
use crate::{
    fixture::{key, uid},
    waypoint::{
        Answer,
        fixture::{Told as Shop, rule, shop},
    },
};

fn store() -> Store {
    Store::new("ambit-system".into())
}

fn apply_all(store: &mut Store, told: &Shop) {
    for delta in told.deltas() {
        assert_eq!(store.apply(&delta), []);
    }
}

/// Applies what is of one type.
fn apply(store: &mut Store, told: &Shop, type_url: &str) -> Vec<Rejected> {
    let deltas = told.deltas();
    let delta = deltas.iter().find(|delta| delta.type_url == type_url);
    store.apply(delta.unwrap())
}

fn removed(type_url: &str, names: &[&str]) -> Delta {
    Delta {
        type_url: type_url.to_owned(),
        removed: names.iter().map(|name| (*name).to_owned()).collect(),
        ..Delta::default()
    }
}

fn policy(name: &str, rules: usize) -> Authorization {
    Authorization {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        action: Action::Deny.into(),
        rules: vec![AuthorizationRule::default(); rules],
        ..Authorization::default()
    }
}

fn orders(store: &Store) -> Option<Arc<Table>> {
    store.current().table(Name::new(&key("orders"))).cloned()
}

/// Names of the rules of the table's routes.
fn rules(table: &Table) -> Vec<String> {
    let Routes::Http(routes) = &table.ports[0].routes else {
        return Vec::new();
    };
    let rules = routes.routes().iter().flat_map(|route| &route.rules);
    rules.map(|rule| rule.name.to_string()).collect()
}

fn named(name: &str) -> Rule {
    Rule {
        name: name.to_owned(),
        ..rule("/", &[("orders", 1)])
    }
}

#[test]
fn a_table_waits_for_all_that_it_names() {
    let told = shop().route("r", vec![named("one")]).policy(policy("p", 1));
    let types = [
        proto::TABLE_TYPE,
        proto::BACKEND_TYPE,
        proto::POLICY_TYPE,
        proto::ROUTE_TYPE,
    ];
    let mut store = store();
    for type_url in types {
        assert!(orders(&store).is_none() && !store.current().is_ready());
        assert_eq!(apply(&mut store, &told, type_url), []);
    }
    assert_eq!(rules(&orders(&store).unwrap()), ["one"]);
    assert!(store.current().is_ready());
}

#[test]
fn a_table_waits_for_each_backend_that_it_leads_to() {
    let mut store = store();
    let told = shop();
    let mut missing = told.clone();
    missing.backends.remove(&key("orders-v2"));
    apply_all(&mut store, &missing);
    assert!(orders(&store).is_none() && !store.current().is_ready());
    apply(&mut store, &told, proto::BACKEND_TYPE);
    assert!(orders(&store).is_some() && store.current().is_ready());
}

#[test]
fn the_newest_workload_is_in_force_and_older_versions_are_not_kept() {
    let mut store = store();
    let mut told = shop().route("r", vec![named("old")]).policy(policy("p", 1));
    apply_all(&mut store, &told);
    let backend = told.backends.get_mut(&key("orders")).unwrap();
    backend.workloads[0].authorization_policies = vec!["shop/new".to_owned()];
    apply_all(&mut store, &told);
    let workload = store.current().mesh.workload(&uid("v1")).unwrap();
    assert_eq!(*workload.policies, [Name::new("shop/new")]);
    apply_all(
        &mut store,
        &shop().route("r", vec![named("new")]).policy(policy("p", 2)),
    );
    assert_eq!((store.routes.len(), store.policies.len()), (1, 1));
    for type_url in [proto::ROUTE_TYPE, proto::POLICY_TYPE] {
        store.apply(&removed(type_url, &["r", "http/shop/p"]));
    }
    assert_eq!((store.routes.len(), store.policies.len()), (0, 0));
    // The table that is in force has its own.
    assert_eq!(rules(&orders(&store).unwrap()), ["new"]);
}

#[test]
fn a_table_changes_only_as_a_whole() {
    let mut store = store();
    let old = shop().route("r", vec![named("old")]).policy(policy("p", 1));
    apply_all(&mut store, &old);
    let new = shop().route("r", vec![named("new")]).policy(policy("p", 2));
    let is = |store: &Store| {
        let table = orders(store).unwrap();
        let rules_of_policy = match &table.policies[0].effect {
            authorize::Effect::Rules { rules, .. } => rules.len(),
            authorize::Effect::DenyAll(_) => 0,
        };
        (rules(&table), rules_of_policy)
    };
    let (one, other) = ((vec!["old".to_owned()], 1), (vec!["new".to_owned()], 2));
    for type_url in [proto::ROUTE_TYPE, proto::TABLE_TYPE] {
        apply(&mut store, &new, type_url);
        assert_eq!(is(&store), one);
    }
    apply(&mut store, &new, proto::POLICY_TYPE);
    assert_eq!(is(&store), other);
}

#[test]
fn what_did_not_change_is_shared() {
    let mut store = store();
    let old = shop().route("r", vec![named("old")]);
    apply_all(&mut store, &old);
    let before = orders(&store).unwrap();
    apply_all(&mut store, &old);
    assert!(Arc::ptr_eq(&before, &orders(&store).unwrap()));
    let new = old.policy(policy("p", 1));
    apply_all(&mut store, &new);
    let after = orders(&store).unwrap();
    let (Routes::Http(one), Routes::Http(other)) =
        (&before.ports[0].routes, &after.ports[0].routes)
    else {
        panic!();
    };
    assert!(Arc::ptr_eq(one, other) && Arc::ptr_eq(&before.service, &after.service));
}

#[test]
fn a_backend_stays_while_a_table_in_force_leads_to_it() {
    let mut store = store();
    let led = shop().route("r", vec![rule("/", &[("orders-v2", 1)])]);
    apply_all(&mut store, &led);
    let name = key("orders-v2");
    let gone = removed(proto::BACKEND_TYPE, &[&name]);
    let is_there = |store: &Store| store.current().backend(Name::new(&name)).is_some();
    store.apply(&gone);
    assert!(is_there(&store));
    let mut other = shop().route("r", vec![rule("/", &[("orders-v1", 1)])]);
    other.backends.remove(&name);
    let table = other.tables.get_mut(&key("orders")).unwrap();
    table.backends.retain(|backend| *backend != name);
    apply_all(&mut store, &other);
    assert!(!is_there(&store));
    let mesh = &store.current().mesh;
    assert!(mesh.service(Name::new(&name)).is_none());
    // The service itself still has that endpoint.
    assert!(mesh.workload(&uid("v2")).is_some());
}

#[test]
fn a_workload_goes_when_no_backend_lists_it() {
    let mut store = store();
    let mut told = shop();
    apply_all(&mut store, &told);
    told.backends
        .get_mut(&key("orders"))
        .unwrap()
        .workloads
        .pop();
    apply_all(&mut store, &told);
    assert!(store.current().mesh.workload(&uid("v2")).is_some());
    told.backends
        .get_mut(&key("orders-v2"))
        .unwrap()
        .workloads
        .pop();
    apply_all(&mut store, &told);
    assert!(store.current().mesh.workload(&uid("v2")).is_none());
    assert!(
        store
            .current()
            .mesh
            .endpoints(Name::new(&key("orders")))
            .len()
            == 1
    );
}

#[test]
fn a_table_that_is_told_no_more_is_served_no_more() {
    let mut store = store();
    apply_all(&mut store, &shop());
    assert!(store.current().served(Name::EMPTY, "10.1.0.1:80").is_ok());
    let name = key("orders");
    store.apply(&removed(proto::TABLE_TYPE, &[&name]));
    store.apply(&removed(proto::BACKEND_TYPE, &[&name]));
    let generation = store.current();
    assert_eq!(generation.tables().count(), 0);
    assert!(generation.backend(Name::new(&name)).is_none());
    let answer = generation.served(Name::EMPTY, "10.1.0.1:80").unwrap_err();
    assert_eq!(answer, Answer::NotServed("10.1.0.1:80".to_owned()));
}

#[test]
fn an_authority_is_an_address_or_a_host_name_and_a_port() {
    let mut told = shop();
    let backend = told.backends.get_mut(&key("orders")).unwrap();
    let six = crate::fixture::service("orders", &["10.1.0.1", "fd00::1"]);
    backend.service = Some(six);
    let generation = told.generation();
    for authority in [
        "10.1.0.1:80",
        "[fd00::1]:80",
        "[fd00:0::1]:80",
        "[::ffff:10.1.0.1]:80",
        "orders.shop.svc.cluster.local:80",
        "Orders.Shop.svc.cluster.local.:80",
    ] {
        let (table, port) = generation.served(Name::EMPTY, authority).unwrap();
        assert_eq!((table.key.as_str(), port.number), (&*key("orders"), 80));
    }
    for authority in [
        "",
        "10.1.0.1",
        "10.1.0.1:",
        "10.1.0.1:081",
        "10.1.0.1:080",
        "10.1.0.1:+80",
        "10.1.0.1:81",
        "10.1.0.2:80",
        "10.0.0.1:8080",
        "10.0.0.1:80",
        "fd00::1:80",
        "[fd00::1%0]:80",
        "[10.1.0.1]:80",
        "orders:80",
        "orders-v1.shop.svc.cluster.local:80",
    ] {
        let answer = generation.served(Name::EMPTY, authority);
        assert_eq!(answer.unwrap_err(), Answer::NotServed(authority.to_owned()));
    }
    assert!(generation.served("other".into(), "10.1.0.1:80").is_err());
    let unready = store();
    let answer = unready.current().served(Name::EMPTY, "10.1.0.1:80");
    assert_eq!(answer.unwrap_err(), Answer::NotReady);
}

#[test]
fn a_services_address_follows_its_backend() {
    let mut store = store();
    let mut told = shop().route("r", vec![named("one")]);
    apply_all(&mut store, &told);
    let moved = crate::fixture::service("orders", &["10.1.0.77"]);
    told.backends.get_mut(&key("orders")).unwrap().service = Some(moved);
    apply(&mut store, &told, proto::BACKEND_TYPE);
    let generation = store.current();
    assert!(generation.served(Name::EMPTY, "10.1.0.1:80").is_err());
    let (table, _) = generation.served(Name::EMPTY, "10.1.0.77:80").unwrap();
    assert_eq!(rules(table), ["one"]);
}

#[test]
fn ready_is_what_was_named_first_and_stays_so() {
    let mut store = store();
    let told = shop();
    for type_url in [proto::ROUTE_TYPE, proto::POLICY_TYPE, proto::TABLE_TYPE] {
        apply(&mut store, &told, type_url);
    }
    store.apply(&removed(proto::BACKEND_TYPE, &[]));
    assert!(!store.current().is_ready());
    apply(&mut store, &told, proto::BACKEND_TYPE);
    assert!(store.current().is_ready());
    let later = told.route("r", vec![named("one")]);
    apply(&mut store, &later, proto::TABLE_TYPE);
    assert!(store.current().is_ready());
    // A waypoint of nothing is ready, too.
    let mut empty = self::store();
    for type_url in TYPES {
        assert!(!empty.current().is_ready());
        empty.apply(&removed(type_url, &[]));
    }
    assert!(empty.current().is_ready());
}

#[test]
fn an_unknown_type_is_refused() {
    let rejected = store().apply(&removed("type.googleapis.com/x", &[]));
    assert_eq!(rejected[0].reason, "unknown type type.googleapis.com/x");
}

/// All that tests can see of a generation, in an order of its own.
fn seen(generation: &Generation) -> impl PartialEq + std::fmt::Debug + use<> {
    let mesh = &generation.mesh;
    let mut endpoints = BTreeMap::new();
    for service in mesh.services() {
        let of = mesh.endpoints(service.key).iter();
        let uids: BTreeSet<String> = of.map(|it| it.workload.uid.to_string()).collect();
        endpoints.insert(service.key.as_str(), uids);
    }
    let sorted = |lines: Vec<String>| lines.into_iter().collect::<BTreeSet<_>>();
    (
        endpoints,
        sorted(mesh.workloads().map(|it| format!("{it:?}")).collect()),
        sorted(mesh.policies().map(|it| format!("{it:?}")).collect()),
        sorted(generation.backends().map(|it| format!("{it:?}")).collect()),
        generation
            .tables()
            .map(|it| {
                (
                    it.key.as_str(),
                    rules(it),
                    format!("{:?}{:?}", it.policies, it.service),
                )
            })
            .collect::<Vec<_>>(),
        generation.is_ready(),
    )
}

/// A shop in one of a few states, by what a few numbers say.
fn state(bits: u8) -> Shop {
    let has = |bit: u8| bits & (1 << bit) != 0;
    let mut told = shop();
    let name = if has(0) { "even" } else { "odd" };
    told = told.route("r", vec![named(name)]);
    if has(1) {
        told = told.route("s", vec![named("more")]);
    }
    if has(2) {
        told = told.policy(policy("p", usize::from(has(0))));
    }
    if has(3) {
        told = told.policy_of("orders-v1", policy("q", usize::from(has(1))));
    }
    if has(4) {
        let any = crate::fixture::to_port(u32::from(bits));
        let action = proto::security::Action::Deny;
        let scope = proto::security::Scope::Namespace;
        told = told.connection(crate::fixture::policy("l4", scope, action, &[any]));
    }
    if has(5) {
        let name = key("orders-v2");
        told.backends.remove(&name);
        let table = told.tables.get_mut(&key("orders")).unwrap();
        table.backends.retain(|backend| *backend != name);
    }
    told
}

/// One resource that comes or goes.
fn steps(from: &Shop, to: &Shop) -> Vec<Delta> {
    let mut steps = Vec::new();
    for (old, new) in from.deltas().into_iter().zip(to.deltas()) {
        for resource in new
            .resources
            .iter()
            .filter(|it| !old.resources.contains(it))
        {
            steps.push(Delta {
                resources: vec![resource.clone()],
                ..removed(&new.type_url, &[])
            });
        }
        for old in &old.resources {
            if new.resources.iter().all(|new| new.name != old.name) {
                steps.push(removed(&new.type_url, &[&old.name]));
            }
        }
    }
    steps
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn any_order_ends_in_the_same_generation_and_no_table_mixes_states(
        bits in prop::collection::vec(0_u8..64, 2..4),
        orders in prop::collection::vec(any::<prop::sample::Index>(), 40),
    ) {
        let states: Vec<Shop> = std::iter::once(Shop::default())
            .chain(bits.iter().map(|bits| state(*bits)))
            .collect();
        let of = |told: &Shop| told.generation();
        let whole: Vec<_> = bits.iter().map(|bits| of(&state(*bits))).collect();
        let shape = |table: &Table| (rules(table), format!("{:?}", table.policies));
        let whole: Vec<_> = whole.iter().flat_map(|it| it.tables().map(|it| shape(it)).collect::<Vec<_>>()).collect();
        let mut store = store();
        let mut orders = orders.iter().cycle();
        for (at, pair) in states.windows(2).enumerate() {
            let mut steps = steps(&pair[0], &pair[1]);
            while !steps.is_empty() {
                let step = steps.remove(orders.next().unwrap().index(steps.len()));
                store.apply(&step);
                for table in store.current().tables() {
                    // The state before, or this one, as a whole.
                    let allowed = &whole[at.saturating_sub(1)..=at];
                    prop_assert!(allowed.contains(&shape(table)), "{:?} {allowed:?}", shape(table));
                }
            }
            // What a type has none of is answered, too.
            for type_url in TYPES {
                store.apply(&removed(type_url, &[]));
            }
            let expected = of(&pair[1]);
            prop_assert_eq!(format!("{:#?}", seen(store.current())), format!("{:#?}", seen(&expected)));
        }
    }
}
