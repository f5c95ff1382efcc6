//! What a sequence of responses leaves behind, and what must follow each.

mod model;

use std::net::IpAddr;

use proto::{
    security::{Action, Authorization, Scope as WireScope},
    workload::{self as wire, TunnelProtocol, address::Type},
};

use super::*;
use crate::{
    fixture::{
        NODE, addresses, authorizations, endpoint_of, key, policy, removing, service, store,
        to_port, uid, workload,
    },
    identity::Identity,
};

const SHARED: &str = "10.0.0.2";

/// A workload of our node.
fn local(name: &str, ips: &[&str]) -> wire::Workload {
    wire::Workload {
        node: NODE.to_owned(),
        ..workload(name, ips)
    }
}

fn identity(account: &str) -> Identity {
    Identity::new("cluster.local", "shop", account)
}

fn workloads<const N: usize>(workloads: [wire::Workload; N]) -> Delta {
    addresses(workloads.map(Type::Workload))
}

fn gone(names: &[&str]) -> Effect {
    Effect::Gone(names.iter().map(|name| uid(name).into()).collect())
}

/// What stands at an address, for a client in `shop`, in a word.
fn at(generation: &Generation, address: &str) -> String {
    let address: IpAddr = address.parse().unwrap();
    match generation.lookup(Name::EMPTY, address, "shop".into()) {
        Known::Nothing => "nothing".to_owned(),
        Known::Service(s) => s.name.to_string(),
        Known::Unusable(name) => format!("unusable {name}"),
        Known::Workload(w) => w.name.to_string(),
    }
}

fn effects(store: &mut Store, delta: &Delta) -> Vec<Effect> {
    let (rejected, effects) = store.apply(delta);
    assert_eq!(rejected, []);
    effects
}

/// One that does not parse.
fn bad(workload: wire::Workload) -> wire::Workload {
    wire::Workload {
        tunnel_protocol: TunnelProtocol::LegacyIstioMtls.into(),
        ..workload
    }
}

#[test]
fn what_comes_first_makes_no_difference() {
    let mut server = endpoint_of(workload("server", &[SHARED]), "s", &[(80, 9090)]);
    server
        .authorization_policies
        .push("shop/selected".to_owned());
    let deltas = [
        workloads([server]),
        addresses([Type::Service(service("s", &["10.96.0.1"]))]),
        authorizations([
            policy(
                "selected",
                WireScope::WorkloadSelector,
                Action::Deny,
                &[to_port(1)],
            ),
            policy("all", WireScope::Namespace, Action::Deny, &[to_port(2)]),
        ]),
    ];
    for order in [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ] {
        let mut store = store();
        for (applied, next) in order.into_iter().enumerate() {
            let complete = store.current().is_complete();
            assert!(!complete || applied == 2, "{order:?}");
            effects(&mut store, &deltas[next]);
        }
        let mesh = store.current();
        assert!(mesh.is_complete());
        assert_eq!(
            (at(&mesh, SHARED), at(&mesh, "10.96.0.1")),
            ("server".into(), "s".into())
        );
        let endpoints = mesh.endpoints((&*key("s")).into());
        assert_eq!(endpoints.len(), 1);
        assert_eq!(*endpoints[0].workload.uid, *uid("server"));
        assert_eq!(
            (endpoints[0].ports[0].service, endpoints[0].ports[0].target),
            (80, 9090)
        );
        let server = mesh.workload(&uid("server")).unwrap();
        assert_eq!(*server.policies, [Name::from("shop/selected")]);
        assert!(mesh.policy("shop/selected".into()).is_some());
        let unlisted: Vec<_> = mesh
            .unlisted_policies("shop".into())
            .map(|p| p.name)
            .collect();
        assert_eq!(unlisted, [Name::from("shop/all")]);
    }
}

#[test]
fn an_address_is_whoevers_claims_it_last_and_goes_back_when_they_leave() {
    let mut store = store();
    effects(&mut store, &workloads([workload("old", &[SHARED])]));
    let both = effects(&mut store, &workloads([workload("new", &[SHARED])]));
    assert_eq!(
        (at(&store.current(), SHARED), both),
        ("new".into(), vec![Effect::Recheck])
    );
    // The one that had it leaves late: the address is still the new one's.
    let left = effects(&mut store, &removing(addresses([]), &[&uid("old")]));
    assert_eq!(at(&store.current(), SHARED), "new");
    assert_eq!(left, [Effect::Recheck, gone(&["old"])]);
    effects(&mut store, &workloads([workload("third", &[SHARED])]));
    effects(&mut store, &removing(addresses([]), &[&uid("third")]));
    assert_eq!(at(&store.current(), SHARED), "new");
}

#[test]
fn an_address_changes_hands_within_one_response() {
    let mut store = store();
    effects(&mut store, &workloads([workload("old", &[SHARED])]));
    let delta = removing(workloads([workload("new", &[SHARED])]), &[&uid("old")]);
    assert_eq!(
        effects(&mut store, &delta),
        [Effect::Recheck, gone(&["old"])]
    );
    let mesh = store.current();
    assert_eq!(at(&mesh, SHARED), "new");
    assert!(mesh.workload(&uid("old")).is_none());
}

#[test]
fn what_moves_leaves_nothing_behind() {
    let mut store = store();
    let part = |ip, service| endpoint_of(workload("a", &[ip]), service, &[]);
    effects(&mut store, &workloads([part(SHARED, "s")]));
    let moved = effects(&mut store, &workloads([part("10.0.0.3", "t")]));
    let mesh = store.current();
    assert_eq!(moved, [Effect::Recheck, gone(&["a"])]);
    assert_eq!(
        (at(&mesh, SHARED), at(&mesh, "10.0.0.3")),
        ("nothing".into(), "a".into())
    );
    let endpoints = |service: &str| mesh.endpoints((&*key(service)).into()).len();
    assert_eq!((endpoints("s"), endpoints("t")), (0, 1));

    effects(
        &mut store,
        &addresses([Type::Service(service("s", &["10.96.0.1", "10.97.0.0/24"]))]),
    );
    effects(
        &mut store,
        &addresses([Type::Service(service("s", &["10.96.0.2", "10.98.0.0/24"]))]),
    );
    let mesh = store.current();
    let found = ["10.96.0.1", "10.97.0.1", "10.96.0.2", "10.98.0.1"].map(|ip| at(&mesh, ip));
    assert_eq!(found, ["nothing", "nothing", "s", "s"]);
    effects(&mut store, &removing(addresses([]), &[&key("s")]));
    assert_eq!(
        ["10.96.0.2", "10.98.0.1"].map(|ip| at(&store.current(), ip)),
        ["nothing"; 2]
    );
    assert!(store.current().service((&*key("s")).into()).is_none());
}

#[test]
fn what_is_removed_and_sent_in_one_response_is_there() {
    let mut store = store();
    let deny = || policy("p", WireScope::Namespace, Action::Deny, &[to_port(80)]);
    for _ in 0..2 {
        let items = [
            Type::Workload(endpoint_of(workload("a", &[SHARED]), "s", &[])),
            Type::Service(service("s", &["10.96.0.1"])),
        ];
        let delta = removing(addresses(items), &[&uid("a"), &key("s")]);
        assert_eq!(effects(&mut store, &delta), [Effect::Recheck]);
        effects(&mut store, &removing(authorizations([deny()]), &["shop/p"]));
        let mesh = store.current();
        assert_eq!(
            (at(&mesh, SHARED), at(&mesh, "10.96.0.1")),
            ("a".into(), "s".into())
        );
        assert_eq!(mesh.endpoints((&*key("s")).into()).len(), 1);
        assert_eq!(mesh.unlisted_policies("shop".into()).count(), 1);
    }
}

#[test]
fn names_that_nobody_knows_are_removed_in_silence() {
    let mut store = store();
    effects(&mut store, &removing(addresses([]), &["a/b", "", "nobody"]));
    effects(
        &mut store,
        &removing(authorizations([]), &["a/b", "", "nobody"]),
    );
    assert!(store.current().is_complete());
}

#[test]
fn certificates_are_wanted_for_what_takes_tunnels_on_this_node() {
    let a = || local("a", &[SHARED]);
    let prefetch = |account| Effect::Prefetch(identity(account));
    let forget = |account| Effect::Forget(identity(account));
    let mut store = store();
    for (delta, expected) in [
        (workloads([workload("far", &["10.0.0.3"])]), vec![]),
        (workloads([a()]), vec![prefetch("a")]),
        (workloads([a()]), vec![]),
        // Another identity of the same pod: it is somebody else now.
        (
            workloads([wire::Workload {
                service_account: "b".into(),
                ..a()
            }]),
            vec![prefetch("b"), forget("a"), gone(&["a"])],
        ),
        // Two with one identity: it is needed until both are gone.
        (
            workloads([wire::Workload {
                service_account: "b".into(),
                ..local("b", &[])
            }]),
            vec![prefetch("b")],
        ),
        (removing(addresses([]), &[&uid("a")]), vec![gone(&["a"])]),
        (
            removing(addresses([]), &[&uid("b")]),
            vec![forget("b"), gone(&["b"])],
        ),
        // What moves to another node is not ours any more.
        (workloads([a()]), vec![prefetch("a")]),
        (workloads([workload("a", &[SHARED])]), vec![forget("a")]),
        // Nor is what takes no tunnels, or ends them itself.
        (workloads([a()]), vec![prefetch("a")]),
        (
            workloads([wire::Workload {
                tunnel_protocol: TunnelProtocol::None.into(),
                ..a()
            }]),
            vec![forget("a")],
        ),
        (
            workloads([wire::Workload {
                native_tunnel: true,
                ..a()
            }]),
            vec![],
        ),
        (
            removing(workloads([a()]), &[&uid("a")]),
            vec![prefetch("a")],
        ),
    ] {
        let expected: Vec<_> = std::iter::once(Effect::Recheck).chain(expected).collect();
        assert_eq!(effects(&mut store, &delta), expected);
    }
}

#[test]
fn a_proxy_without_a_node_has_no_workloads_of_its_own() {
    let mut store = Store::new(Name::EMPTY, "ambit-system".into());
    let nowhere = wire::Workload {
        node: String::new(),
        ..workload("a", &[SHARED])
    };
    assert_eq!(
        effects(&mut store, &workloads([nowhere])),
        [Effect::Recheck]
    );
}

#[test]
fn a_change_of_policy_has_flows_decided_again() {
    let mut store = store();
    let deny = policy("p", WireScope::Namespace, Action::Deny, &[to_port(80)]);
    assert_eq!(
        effects(&mut store, &authorizations([deny])),
        [Effect::Recheck]
    );
    assert_eq!(
        effects(&mut store, &removing(authorizations([]), &["shop/p"])),
        [Effect::Recheck]
    );
}

#[test]
fn what_is_refused_keeps_its_last_good_version_and_hinders_nobody() {
    let mut store = store();
    effects(&mut store, &workloads([local("a", &[SHARED])]));
    let delta = workloads([bad(local("a", &["10.0.0.9"])), local("b", &["10.0.0.3"])]);
    let (rejected, followed) = store.apply(&delta);
    let mesh = store.current();
    let reasons: Vec<_> = rejected.iter().map(ToString::to_string).collect();
    let reason = "tunnel protocol LEGACY_ISTIO_MTLS is not supported";
    assert_eq!(reasons, [format!("{}: {reason}", uid("a"))]);
    assert_eq!(followed, [Effect::Recheck, Effect::Prefetch(identity("b"))]);
    assert_eq!(
        (at(&mesh, SHARED), at(&mesh, "10.0.0.3")),
        ("a".into(), "b".into())
    );
    // Where it wants to be now is not open either.
    assert_eq!(at(&mesh, "10.0.0.9"), format!("unusable {}", uid("a")));

    effects(&mut store, &workloads([local("a", &["10.0.0.9"])]));
    let mesh = store.current();
    assert_eq!(
        (at(&mesh, SHARED), at(&mesh, "10.0.0.9")),
        ("nothing".into(), "a".into())
    );
}

#[test]
fn what_never_had_a_good_version_is_not_taken_for_a_stranger() {
    let mut store = store();
    let odd = wire::Service {
        visibility: 9,
        ..service("s", &["10.96.0.1", "10.97.0.0/24"])
    };
    let host = wire::NetworkMode::HostNetwork.into();
    let delta = addresses([
        Type::Workload(bad(workload("a", &[SHARED]))),
        Type::Workload(bad(wire::Workload {
            network_mode: host,
            ..workload("b", &["10.0.0.4"])
        })),
        Type::Service(odd),
    ]);
    assert_eq!(store.apply(&delta).0.len(), 3);
    let (a, s) = (
        format!("unusable {}", uid("a")),
        format!("unusable {}", key("s")),
    );
    let found = |store: &Store| {
        [SHARED, "10.0.0.4", "10.96.0.1", "10.97.0.9"].map(|ip| at(&store.current(), ip))
    };
    assert_eq!(found(&store), [&*a, "nothing", &*s, &*s]);
    // Somebody who can be understood at the same address is found.
    effects(&mut store, &workloads([workload("c", &[SHARED])]));
    assert_eq!(found(&store), ["c", "nothing", &*s, &*s]);
    effects(
        &mut store,
        &removing(addresses([]), &[&uid("c"), &key("s")]),
    );
    assert_eq!(found(&store), [&*a, "nothing", "nothing", "nothing"]);
    effects(&mut store, &workloads([workload("a", &["10.0.0.5"])]));
    assert_eq!(found(&store), ["nothing"; 4]);
}

#[test]
fn a_policy_that_is_not_understood_is_refused_and_denies_until_it_is() {
    let allow = || policy("p", WireScope::Namespace, Action::Allow, &[to_port(80)]);
    let mut store = store();
    effects(&mut store, &authorizations([allow()]));
    let other = policy("q", WireScope::Namespace, Action::Allow, &[to_port(80)]);
    let (rejected, _) = store.apply(&authorizations([
        Authorization {
            action: 9,
            ..allow()
        },
        other,
    ]));
    let denies = |store: &Store, name: &str| {
        let mesh = store.current();
        matches!(
            mesh.policy(name.into()).unwrap().effect,
            PolicyEffect::DenyAll(_)
        )
    };
    assert_eq!(rejected.len(), 1);
    assert_eq!(rejected[0].name, "shop/p");
    assert!(
        rejected[0].reason.contains("unknown value 9"),
        "{rejected:?}"
    );
    assert!(denies(&store, "shop/p") && !denies(&store, "shop/q"));
    assert_eq!(store.current().unlisted_policies("shop".into()).count(), 2);
    effects(&mut store, &authorizations([allow()]));
    assert!(!denies(&store, "shop/p"));
    assert_eq!(store.current().unlisted_policies("shop".into()).count(), 2);
}

#[test]
fn a_policy_whose_scope_changes_leaves_its_old_one() {
    use WireScope::{Global, Namespace, WorkloadSelector};
    let mut store = store();
    let unlisted = |store: &Store, namespace: &str| {
        store.current().unlisted_policies(namespace.into()).count()
    };
    for (scope, in_shop, in_bank) in [
        (Namespace, 1, 0),
        (WorkloadSelector, 0, 0),
        (Global, 1, 1),
        (Namespace, 1, 0),
        (Global, 1, 1),
        (WorkloadSelector, 0, 0),
        (Namespace, 1, 0),
    ] {
        let policy = policy("p", scope, Action::Deny, &[to_port(80)]);
        effects(&mut store, &authorizations([policy]));
        assert_eq!(
            (unlisted(&store, "shop"), unlisted(&store, "bank")),
            (in_shop, in_bank)
        );
    }
    effects(&mut store, &removing(authorizations([]), &["shop/p"]));
    assert_eq!((unlisted(&store, "shop"), unlisted(&store, "bank")), (0, 0));
}

#[test]
fn a_type_that_nobody_knows_changes_nothing() {
    let mut store = store();
    effects(&mut store, &workloads([workload("a", &[SHARED])]));
    let before = store.current();
    let delta = Delta {
        type_url: "type.googleapis.com/x".to_owned(),
        ..Delta::default()
    };
    let (rejected, effects) = store.apply(&delta);
    assert_eq!(rejected[0].reason, "unknown type type.googleapis.com/x");
    assert_eq!(effects, []);
    assert!(Arc::ptr_eq(&before, &store.current()));
}

#[test]
fn a_resource_under_a_name_that_is_not_its_own_is_refused() {
    let mut store = store();
    let mut delta = addresses([
        Type::Workload(workload("a", &[SHARED])),
        Type::Service(service("s", &["10.96.0.1"])),
    ]);
    delta
        .resources
        .iter_mut()
        .for_each(|r| r.name = "other".to_owned());
    let reasons: Vec<_> = store
        .apply(&delta)
        .0
        .into_iter()
        .map(|r| r.reason)
        .collect();
    let expected = [
        format!("holds the workload {:?}", uid("a")),
        format!("holds the service {:?}", key("s")),
    ];
    assert_eq!(reasons, expected);
    assert_eq!(
        store.current().workloads().count() + store.current().services().count(),
        0
    );
}

#[test]
fn uids_are_not_kept_for_good() {
    let mut store = store();
    effects(
        &mut store,
        &workloads([workload("comes-and-goes", &[SHARED])]),
    );
    effects(
        &mut store,
        &removing(addresses([]), &[&uid("comes-and-goes")]),
    );
    store.apply(&workloads([bad(workload("comes-and-goes", &[SHARED]))]));
    assert_eq!(Name::existing(&uid("comes-and-goes")), None);
}

#[test]
fn generations_count_up_and_stay_as_they_were() {
    let mut store = store();
    effects(
        &mut store,
        &workloads([endpoint_of(workload("a", &[SHARED]), "s", &[])]),
    );
    let first = store.current();
    effects(&mut store, &removing(addresses([]), &[&uid("a")]));
    assert_eq!((first.number, store.current().number), (1, 2));
    assert_eq!(
        (at(&first, SHARED), at(&store.current(), SHARED)),
        ("a".into(), "nothing".into())
    );
    assert_eq!(first.endpoints((&*key("s")).into()).len(), 1);
}
