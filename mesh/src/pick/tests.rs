//! Tables: which endpoints take part, and with what weight.
#![allow(clippy::too_many_lines, reason = "a table is as long as it has rows")]

use std::collections::BTreeMap;

use proto::workload::{
    self as wire, LoadBalancing, WorkloadStatus,
    load_balancing::{HealthPolicy, Mode as WireMode, Scope},
};

use super::*;
use crate::{
    fixture::{self, endpoint_of, generation, key},
    identity::Identity,
    model::Locality,
    name::Name,
    store::Generation,
};

/// A client on node n1 in west / a / 1.
fn source() -> Source {
    Source {
        identity: Identity::new("cluster.local", "shop", "client"),
        network: Name::EMPTY,
        node: "n1".into(),
        cluster: "Kubernetes".into(),
        locality: Locality {
            region: "west".into(),
            zone: "a".into(),
            subzone: "1".into(),
        },
    }
}

/// An endpoint of `s` at `<node>/<region>/<zone>/<subzone>`.
fn at(name: &str, place: &str) -> wire::Workload {
    let [node, region, zone, subzone] =
        <[&str; 4]>::try_from(place.split('/').collect::<Vec<_>>()).unwrap();
    let own = |text: &str| text.to_owned();
    let workload = endpoint_of(fixture::workload(name, &["10.0.0.2"]), "s", &[]);
    wire::Workload {
        node: own(node),
        locality: Some(wire::Locality {
            region: own(region),
            zone: own(zone),
            subzone: own(subzone),
        }),
        ..workload
    }
}

fn balanced(mode: WireMode, preference: &[Scope], health: HealthPolicy) -> wire::Service {
    let balancing = LoadBalancing {
        routing_preference: preference.iter().map(|scope| (*scope).into()).collect(),
        mode: mode.into(),
        health_policy: health.into(),
    };
    wire::Service {
        load_balancing: Some(balancing),
        ..fixture::service("s", &["10.96.0.1"])
    }
}

fn picked(mesh: &Generation, source: &Source, seed: u64, tried: &[Arc<str>]) -> Option<String> {
    let service = mesh.service((&*key("s")).into()).unwrap();
    let wanted = Wanted {
        source,
        address: "10.96.0.1".parse().unwrap(),
        port: Port {
            service: 80,
            target: 8080,
        },
        seed,
        tried,
    };
    let picked = pick(service, mesh.endpoints(service.key), &wanted)?;
    Some(picked.workload.name.to_string())
}

/// How often each endpoint is chosen by `seeds` consecutive seeds, wherever they begin.
fn shares_of(workloads: &[wire::Workload], service: wire::Service, seeds: u64) -> String {
    let mesh = generation(workloads, &[service], &[]);
    let count = |first: u64| {
        let mut counts = BTreeMap::<String, usize>::new();
        for seed in first..first + seeds {
            *counts
                .entry(picked(&mesh, &source(), seed, &[]).unwrap_or_default())
                .or_default() += 1;
        }
        counts
            .iter()
            .map(|(name, count)| format!("{name}{count}"))
            .collect::<Vec<_>>()
            .join(" ")
    };
    let counts = count(0);
    assert_eq!(count(u64::MAX / seeds / 2 * seeds + 1), counts);
    counts
}

#[test]
fn endpoints_share_by_capacity() {
    let with = |name, capacity| wire::Workload {
        capacity,
        ..at(name, "n2/east/x/1")
    };
    for (capacities, expected) in [
        ([None, None, None], "a2 b2 c2"),
        ([Some(1), Some(2), Some(3)], "a1 b2 c3"),
        ([Some(4), None, Some(1)], "a4 b1 c1"),
        // Nothing weighs nothing.
        ([Some(0), Some(2), Some(3)], "a1 b2 c3"),
    ] {
        let [a, b, c] = capacities;
        let workloads = [with("a", a), with("b", b), with("c", c)];
        let service = fixture::service("s", &["10.96.0.1"]);
        assert_eq!(
            shares_of(&workloads, service, 6),
            expected,
            "{capacities:?}"
        );
    }
}

#[test]
fn the_heaviest_endpoints_do_not_overflow() {
    let heavy = |name| wire::Workload {
        capacity: Some(u32::MAX),
        ..at(name, "n2/east/x/1")
    };
    let mesh = generation(
        &[heavy("a"), heavy("b"), heavy("c")],
        &[fixture::service("s", &["10.96.0.1"])],
        &[],
    );
    let one = u64::from(u32::MAX);
    let chosen = |seed| picked(&mesh, &source(), seed, &[]).unwrap();
    assert_eq!(chosen(one - 1), chosen(0));
    assert_eq!(chosen(2 * one - 1), chosen(one));
    assert_eq!(chosen(3 * one), chosen(0));
    assert_ne!(chosen(one), chosen(0));
}

#[test]
fn only_what_shares_most_with_the_client_takes_part() {
    use Scope::{Cluster, Network, Node, Region, Subzone, Zone};
    let all = [
        ("same node", "a", "n1/west/a/1"),
        ("same subzone", "b", "n2/west/a/1"),
        ("same zone", "c", "n3/west/a/2"),
        ("same region", "d", "n4/west/b/1"),
        ("elsewhere", "e", "n5/east/a/1"),
        ("unknown", "f", "///"),
    ];
    let workloads = |names: &str| -> Vec<_> {
        let named = all.iter().filter(|(_, name, _)| names.contains(name));
        named.map(|(_, name, place)| at(name, place)).collect()
    };
    let close = [Network, Region, Zone, Subzone, Node];
    for (mode, preference, present, expected) in [
        (
            WireMode::UnspecifiedMode,
            &close[..],
            "abcdef",
            "a1 b1 c1 d1 e1 f1",
        ),
        (WireMode::Failover, &[], "abcdef", "a1 b1 c1 d1 e1 f1"),
        (WireMode::Failover, &close, "abcdef", "a6"),
        (WireMode::Failover, &close, "bcdef", "b6"),
        (WireMode::Failover, &close, "cdef", "c6"),
        (WireMode::Failover, &close, "def", "d6"),
        (WireMode::Failover, &close, "ef", "e3 f3"),
        (WireMode::Failover, &[Region, Zone], "abcdef", "a2 b2 c2"),
        (
            WireMode::Failover,
            &[Network, Cluster],
            "abcdef",
            "a1 b1 c1 d1 e1 f1",
        ),
        // Only leading scopes count: sharing the zone does not help where the node comes first.
        (WireMode::Failover, &[Node, Zone], "bef", "b2 e2 f2"),
        (WireMode::Strict, &[Node], "abcdef", "a6"),
        (WireMode::Strict, &[Node], "bcdef", "6"),
        (WireMode::Strict, &[Region, Zone], "abcdef", "a2 b2 c2"),
        (WireMode::Strict, &[Subzone], "abcdef", "a3 b3"),
        (WireMode::Strict, &[Zone, Node], "bcdef", "6"),
        (WireMode::Strict, &[], "ef", "e3 f3"),
    ] {
        let service = balanced(mode, preference, HealthPolicy::OnlyHealthy);
        let mut workloads = workloads(present);
        for order in ["best first", "best last"] {
            let shares = shares_of(&workloads, service.clone(), 6);
            assert_eq!(
                shares, expected,
                "{mode:?} {preference:?} {present} {order}"
            );
            workloads.reverse();
        }
    }
}

#[test]
fn what_is_unknown_is_not_shared() {
    let nowhere = Locality {
        region: Name::EMPTY,
        zone: Name::EMPTY,
        subzone: Name::EMPTY,
    };
    let source = Source {
        node: Name::EMPTY,
        locality: nowhere,
        ..source()
    };
    for scope in [Scope::Node, Scope::Region, Scope::Zone, Scope::Subzone] {
        let service = balanced(WireMode::Strict, &[scope], HealthPolicy::OnlyHealthy);
        let mesh = generation(&[at("a", "///")], &[service], &[]);
        assert_eq!(picked(&mesh, &source, 0, &[]), None, "{scope:?}");
    }
}

#[test]
fn a_name_that_both_sides_lack_is_not_shared() {
    for (scope, unknown) in [
        (Scope::Region, "n2///"),
        (Scope::Zone, "n2/west//"),
        (Scope::Subzone, "n2/west/a/"),
    ] {
        let place: Vec<_> = unknown.split('/').collect();
        let [_, region, zone, subzone] = <[&str; 4]>::try_from(place).unwrap().map(Name::from);
        let locality = Locality {
            region,
            zone,
            subzone,
        };
        let source = Source {
            locality,
            ..source()
        };
        let service = balanced(WireMode::Strict, &[scope], HealthPolicy::OnlyHealthy);
        let mesh = generation(&[at("a", unknown)], &[service], &[]);
        assert_eq!(picked(&mesh, &source, 0, &[]), None, "{scope:?}");
    }
}

#[test]
fn who_shares_the_node_shares_all_around_it_labelled_or_not() {
    use Scope::{Cluster, Network, Node, Region, Subzone, Zone};
    let all = [Network, Cluster, Region, Zone, Subzone, Node];
    let service = balanced(WireMode::Failover, &all, HealthPolicy::OnlyHealthy);
    let nodes = [at("a", "n1///"), at("b", "n2///")];
    assert_eq!(shares_of(&nodes, service, 2), "a2");
    // A node of that name in another cluster is another node.
    let far = wire::Workload {
        cluster_id: "far".into(),
        ..at("a", "n1///")
    };
    let service = balanced(WireMode::Failover, &[Node], HealthPolicy::OnlyHealthy);
    assert_eq!(shares_of(&[far, at("b", "n2///")], service, 2), "a1 b1");
}

#[test]
fn a_network_or_cluster_is_shared_by_name() {
    for (scope, shared, elsewhere) in [
        (
            Scope::Network,
            at("a", "///"),
            wire::Workload {
                network: "far".into(),
                ..at("b", "///")
            },
        ),
        (
            Scope::Cluster,
            at("a", "///"),
            wire::Workload {
                cluster_id: "far".into(),
                ..at("b", "///")
            },
        ),
    ] {
        let service = balanced(WireMode::Failover, &[scope], HealthPolicy::OnlyHealthy);
        assert_eq!(
            shares_of(&[shared, elsewhere], service, 2),
            "a2",
            "{scope:?}"
        );
    }
}

#[test]
fn what_is_not_ready_takes_part_only_where_it_is_asked_for() {
    let sick = |w| wire::Workload {
        status: WorkloadStatus::Unhealthy.into(),
        ..w
    };
    let workloads = [at("a", "n1/west/a/1"), sick(at("b", "n1/west/a/1"))];
    for (health, expected) in [
        (HealthPolicy::OnlyHealthy, "a2"),
        (HealthPolicy::AllowAll, "a1 b1"),
    ] {
        let service = balanced(WireMode::UnspecifiedMode, &[], health);
        assert_eq!(shares_of(&workloads, service, 2), expected);
    }
    // A sick one nearby does not keep the client from a healthy one far away.
    let workloads = [sick(at("a", "n1/west/a/1")), at("b", "n5/east/a/1")];
    let service = balanced(
        WireMode::Failover,
        &[Scope::Node],
        HealthPolicy::OnlyHealthy,
    );
    assert_eq!(shares_of(&workloads, service, 2), "b2");
    let service = balanced(WireMode::UnspecifiedMode, &[], HealthPolicy::OnlyHealthy);
    assert_eq!(shares_of(&workloads[..1], service, 2), "2");
}

#[test]
fn the_next_best_follows_what_was_tried() {
    let service = balanced(
        WireMode::Failover,
        &[Scope::Node],
        HealthPolicy::OnlyHealthy,
    );
    let mesh = generation(&[at("a", "n1///"), at("b", "n2///")], &[service], &[]);
    let (a, b): (Arc<str>, Arc<str>) = (fixture::uid("a").into(), fixture::uid("b").into());
    assert_eq!(picked(&mesh, &source(), 1, &[]).as_deref(), Some("a"));
    assert_eq!(
        picked(&mesh, &source(), 1, std::slice::from_ref(&a)).as_deref(),
        Some("b")
    );
    assert_eq!(picked(&mesh, &source(), 1, &[b, a]), None);
}

#[test]
fn the_endpoints_own_port_comes_first_and_a_named_one_needs_it() {
    for (asked, own, expected) in [
        (
            Port {
                service: 80,
                target: 8080,
            },
            &[][..],
            Some(8080),
        ),
        (
            Port {
                service: 80,
                target: 8080,
            },
            &[(80, 9090)],
            Some(9090),
        ),
        (
            Port {
                service: 80,
                target: 8080,
            },
            &[(80, 0)],
            Some(8080),
        ),
        (
            Port {
                service: 80,
                target: 8080,
            },
            &[(81, 9090)],
            Some(8080),
        ),
        (
            Port {
                service: 80,
                target: 0,
            },
            &[(80, 9090)],
            Some(9090),
        ),
        (
            Port {
                service: 80,
                target: 0,
            },
            &[(81, 9090)],
            None,
        ),
        (
            Port {
                service: 80,
                target: 0,
            },
            &[(80, 0)],
            None,
        ),
        (
            Port {
                service: 80,
                target: 0,
            },
            &[],
            None,
        ),
    ] {
        let workload = endpoint_of(fixture::workload("a", &["10.0.0.2"]), "s", own);
        let mesh = generation(&[workload], &[fixture::service("s", &[])], &[]);
        let service = mesh.service((&*key("s")).into()).unwrap();
        let wanted = Wanted {
            source: &source(),
            address: "10.96.0.1".parse().unwrap(),
            port: asked,
            seed: 0,
            tried: &[],
        };
        let picked = pick(service, mesh.endpoints(service.key), &wanted);
        assert_eq!(picked.map(|p| p.port), expected, "{asked:?} {own:?}");
    }
}

#[test]
fn an_endpoint_without_an_address_takes_no_part() {
    let mut nowhere = at("a", "n1///");
    nowhere.addresses.clear();
    let service = fixture::service("s", &["10.96.0.1"]);
    assert_eq!(shares_of(&[nowhere, at("b", "n2///")], service, 2), "b2");
}

#[test]
fn a_pod_on_its_nodes_network_takes_part_though_its_address_does_not_name_it() {
    let host = wire::Workload {
        network_mode: wire::NetworkMode::HostNetwork.into(),
        ..at("a", "n1///")
    };
    let mesh = generation(&[host], &[fixture::service("s", &["10.96.0.1"])], &[]);
    assert_eq!(picked(&mesh, &source(), 0, &[]).as_deref(), Some("a"));
    assert!(
        mesh.workload_at(Name::EMPTY, "10.0.0.2".parse().unwrap())
            .is_none()
    );
}
