//! Tables: every way out of a pod, and every reason not to take it.
#![allow(clippy::too_many_lines, reason = "a table is as long as it has rows")]

use std::net::IpAddr;

use proto::{
    security::Authorization,
    workload::{
        self as wire, IpFamilies, LoadBalancing, NetworkAddress, TunnelProtocol, WeightedWaypoint,
        address::Type, load_balancing, service::Visibility,
    },
};

use super::*;
use crate::fixture::{
    addresses, authorizations, bytes, endpoint_of, gateway, generation, key, port, service, store,
    uid, workload,
};

const OWN: &str = "10.0.0.1";

fn source() -> Source {
    let none = Name::EMPTY;
    Source {
        identity: Identity::new("cluster.local", "shop", "client"),
        network: none,
        node: "n1".into(),
        cluster: "Kubernetes".into(),
        locality: Locality {
            region: none,
            zone: none,
            subzone: none,
        },
    }
}

/// Plans a flow from 10.0.0.1 in `shop`, or from its IPv6 address if that is where `to` is.
fn planned(generation: &Generation, to: &str) -> Outcome<Plan> {
    planned_from(generation, &source(), to, 0, &[])
}

fn planned_from(
    generation: &Generation,
    source: &Source,
    to: &str,
    seed: u64,
    tried: &[Arc<str>],
) -> Outcome<Plan> {
    let to: SocketAddr = to.parse().unwrap();
    let own = match to.ip().to_canonical() {
        IpAddr::V4(_) => OWN,
        IpAddr::V6(_) => "fd00::1",
    };
    let from: IpAddr = own.parse().unwrap();
    plan(
        generation,
        &Flow {
            source,
            from: SocketAddr::new(from, 40_000),
            to,
            seed,
            tried,
        },
    )
}

/// What happens, in a word: `tunnel <authority>`, `direct <address>`, `passthrough <address>` or the refusal.
fn outcome(generation: &Generation, to: &str) -> String {
    said(planned(generation, to))
}

fn said(outcome: Outcome<Plan>) -> String {
    match outcome {
        Outcome::Ask(question) => format!("ask {question}"),
        Outcome::Do(Plan::Direct { to, .. }) => format!("direct {to}"),
        Outcome::Do(Plan::Passthrough { to }) => format!("passthrough {to}"),
        Outcome::Do(Plan::Tunnel(hop)) => format!("tunnel {}", hop.authority),
        Outcome::Refuse(refusal) => format!("{refusal:?}"),
    }
}

fn tcp(workload: wire::Workload) -> wire::Workload {
    wire::Workload {
        tunnel_protocol: TunnelProtocol::None.into(),
        ..workload
    }
}

#[test]
fn what_is_not_of_the_mesh_passes_through() {
    let mesh = generation(
        &[workload("a", &["10.0.0.2"])],
        &[service("s", &["10.96.0.1"])],
        &[],
    );
    for (to, expected) in [
        ("1.2.3.4:443", "passthrough 1.2.3.4:443"),
        ("[2001:db8::1]:443", "passthrough [2001:db8::1]:443"),
        ("[::ffff:1.2.3.4]:443", "passthrough 1.2.3.4:443"),
        ("10.0.0.3:80", "passthrough 10.0.0.3:80"),
        ("127.0.0.1:80", "passthrough 127.0.0.1:80"),
    ] {
        assert_eq!(outcome(&mesh, to), expected);
    }
}

#[test]
fn a_workload_is_reached_at_the_address_and_port_that_were_asked_for() {
    let mesh = generation(
        &[
            workload("a", &["10.0.0.2", "fd00::2"]),
            tcp(workload("b", &["10.0.0.3"])),
        ],
        &[],
        &[],
    );
    for (to, expected) in [
        ("10.0.0.2:80", "tunnel 10.0.0.2:80"),
        ("[::ffff:10.0.0.2]:80", "tunnel 10.0.0.2:80"),
        ("[fd00::2]:80", "tunnel [fd00::2]:80"),
        ("10.0.0.3:80", "direct 10.0.0.3:80"),
    ] {
        assert_eq!(outcome(&mesh, to), expected);
    }
}

#[test]
fn a_tunnel_expects_the_workload_and_whom_its_service_names() {
    let mut s = service("s", &["10.96.0.1"]);
    s.subject_alt_names = vec![
        "spiffe://cluster.local/ns/shop/sa/other".to_owned(),
        "spiffe://cluster.local/ns/shop/sa/a".to_owned(),
        "not.an.identity".to_owned(),
    ];
    let mesh = generation(
        &[endpoint_of(workload("a", &["10.0.0.2"]), "s", &[])],
        &[s],
        &[],
    );
    let (a, other) = (
        Identity::new("cluster.local", "shop", "a"),
        Identity::new("cluster.local", "shop", "other"),
    );
    for (to, service, identities, authority) in [
        ("10.0.0.2:81", None, vec![a], "10.0.0.2:81"),
        (
            "10.96.0.1:80",
            Some(key("s")),
            vec![a, other],
            "10.0.0.2:8080",
        ),
    ] {
        let Outcome::Do(plan @ Plan::Tunnel(hop)) = &planned(&mesh, to) else {
            panic!("no tunnel to {to}")
        };
        assert_eq!(hop.identities, identities);
        assert_eq!(hop.address.to_string(), "10.0.0.2:15008");
        assert_eq!(hop.authority.to_string(), authority);
        assert_eq!(*hop.workload.uid, *uid("a"));
        assert_eq!(plan.service().map(|s| s.key.to_string()), service);
        assert_eq!(plan.address(), hop.address);
        assert_eq!(plan.workload(), Some(&hop.workload));
    }
}

#[test]
fn a_service_leads_to_an_endpoint_and_its_port() {
    let mut s = service("s", &["10.96.0.1"]);
    s.ports.extend([port(81, 0), port(82, 8082), port(83, 0)]);
    let a = endpoint_of(workload("a", &["10.0.0.2"]), "s", &[(81, 9081), (82, 9082)]);
    let mesh = generation(&[a], &[s, service("none", &["10.96.0.2"])], &[]);
    let no_port = |port| Refusal::NoSuchPort {
        service: (&*key("s")).into(),
        port,
    };
    let nobody = |name| format!("{:?}", Refusal::NoHealthyEndpoint((&*key(name)).into()));
    for (to, expected) in [
        ("10.96.0.1:80", "tunnel 10.0.0.2:8080".to_owned()),
        ("10.96.0.1:81", "tunnel 10.0.0.2:9081".to_owned()),
        ("10.96.0.1:82", "tunnel 10.0.0.2:9082".to_owned()),
        ("10.96.0.1:83", nobody("s")),
        ("10.96.0.1:8080", format!("{:?}", no_port(8080))),
        ("10.96.0.2:80", nobody("none")),
    ] {
        assert_eq!(outcome(&mesh, to), expected, "{to}");
    }
    let Outcome::Do(Plan::Direct {
        service: Some(s),
        workload,
        ..
    }) = planned(
        &generation(
            &[tcp(endpoint_of(workload("a", &["10.0.0.2"]), "s", &[]))],
            &[service("s", &["10.96.0.1"])],
            &[],
        ),
        "10.96.0.1:80",
    )
    else {
        panic!("not direct")
    };
    assert_eq!((s.key.as_str(), &*workload.uid), (&*key("s"), &*uid("a")));
}

#[test]
fn an_address_that_is_both_a_service_and_a_pod_is_the_service() {
    let a = workload("a", &["10.0.0.2"]);
    let b = endpoint_of(workload("b", &["10.0.0.3"]), "s", &[]);
    let mesh = generation(&[a, b], &[service("s", &["10.0.0.2"])], &[]);
    assert_eq!(outcome(&mesh, "10.0.0.2:80"), "tunnel 10.0.0.3:8080");
}

#[test]
fn an_address_of_a_pod_within_the_range_of_a_service_is_the_pod() {
    let a = workload("a", &["10.0.0.2"]);
    let b = endpoint_of(workload("b", &["10.1.0.3"]), "s", &[]);
    let mesh = generation(&[a, b], &[service("s", &["10.0.0.0/16"])], &[]);
    assert_eq!(outcome(&mesh, "10.0.0.2:80"), "tunnel 10.0.0.2:80");
    assert_eq!(outcome(&mesh, "10.0.0.9:80"), "tunnel 10.1.0.3:8080");
    assert_eq!(outcome(&mesh, "10.2.0.9:80"), "passthrough 10.2.0.9:80");
}

/// A service of a namespace, and the workload that is its endpoint; the workload's port tells which service was found.
fn claim(name: &str, namespace: &str, vip: &str) -> (wire::Service, wire::Workload) {
    let mut s = service(name, &[vip]);
    s.namespace = namespace.to_owned();
    let mut w = workload(name, &["10.0.0.2"]);
    w.services.insert(
        format!("{namespace}/{}", s.hostname),
        wire::PortList {
            ports: vec![port(80, 8080)],
        },
    );
    (s, w)
}

/// The name of the service that a client in `shop` finds.
fn found(services: &[(wire::Service, wire::Workload)], to: &str) -> String {
    let (services, workloads): (Vec<_>, Vec<_>) = services.iter().cloned().unzip();
    match planned(&generation(&workloads, &services, &[]), to) {
        Outcome::Do(plan) => plan
            .service()
            .map(|s| s.name.to_string())
            .unwrap_or_default(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn of_services_that_claim_an_address_the_closest_is_found() {
    let canonical = |(s, w): (wire::Service, wire::Workload)| {
        (
            wire::Service {
                canonical: true,
                ..s
            },
            w,
        )
    };
    let exact = "10.96.0.1";
    for (claims, expected) in [
        // One address: own namespace, then the platform's, then the name.
        ([claim("a", "bank", exact), claim("b", "shop", exact)], "b"),
        (
            [
                canonical(claim("a", "bank", exact)),
                claim("b", "shop", exact),
            ],
            "b",
        ),
        (
            [
                claim("a", "bank", exact),
                canonical(claim("b", "bank", exact)),
            ],
            "b",
        ),
        (
            [
                claim("a", "shop", exact),
                canonical(claim("b", "shop", exact)),
            ],
            "b",
        ),
        ([claim("a", "bank", exact), claim("b", "bank", exact)], "a"),
        // One address against a range.
        (
            [
                claim("a", "bank", exact),
                claim("b", "shop", "10.96.0.0/31"),
            ],
            "a",
        ),
        // Ranges: own namespace, then the longest, then the platform's, then the name.
        (
            [
                claim("a", "bank", "10.96.0.0/24"),
                claim("b", "shop", "10.0.0.0/8"),
            ],
            "b",
        ),
        (
            [
                claim("a", "bank", "10.96.0.0/16"),
                claim("b", "bank", "10.96.0.0/24"),
            ],
            "b",
        ),
        (
            [
                canonical(claim("a", "bank", "10.96.0.0/16")),
                claim("b", "bank", "10.96.0.0/24"),
            ],
            "b",
        ),
        (
            [
                claim("a", "bank", "10.96.0.0/24"),
                canonical(claim("b", "bank", "10.96.0.0/24")),
            ],
            "b",
        ),
        (
            [
                claim("a", "bank", "10.96.0.0/24"),
                claim("b", "bank", "10.96.0.0/24"),
            ],
            "a",
        ),
        // A range of one is an address.
        (
            [
                claim("a", "shop", "10.96.0.0/24"),
                claim("b", "bank", "10.96.0.1/32"),
            ],
            "b",
        ),
    ] {
        let [a, b] = claims;
        let names = format!("{a:?} {b:?}");
        assert_eq!(
            found(&[a.clone(), b.clone()], "10.96.0.1:80"),
            expected,
            "{names}"
        );
        assert_eq!(found(&[b, a], "10.96.0.1:80"), expected, "reversed {names}");
    }
}

#[test]
fn a_service_of_another_namespace_that_is_not_for_all_is_not_seen() {
    for vip in ["10.96.0.1", "10.96.0.0/24"] {
        for (namespace, visibility, expected) in [
            ("shop", Visibility::Namespace, "tunnel 10.0.0.2:8080"),
            ("bank", Visibility::Namespace, "passthrough 10.96.0.1:80"),
            ("bank", Visibility::Public, "tunnel 10.0.0.2:8080"),
        ] {
            let (s, w) = claim("a", namespace, vip);
            let s = wire::Service {
                visibility: visibility.into(),
                ..s
            };
            assert_eq!(
                outcome(&generation(&[w], &[s], &[]), "10.96.0.1:80"),
                expected
            );
        }
    }
}

#[test]
fn a_dual_stack_endpoint_is_reached_in_the_family_that_was_asked_for_if_the_service_has_it() {
    let pod = || endpoint_of(workload("a", &["10.0.0.2", "fd00::2"]), "s", &[]);
    let v4_only = || endpoint_of(workload("a", &["10.0.0.2"]), "s", &[]);
    let none = format!("{:?}", Refusal::NoHealthyEndpoint((&*key("s")).into()));
    let (v4, v6) = (
        "tunnel 10.0.0.2:8080".to_owned(),
        "tunnel [fd00::2]:8080".to_owned(),
    );
    let (ask_v4, ask_v6) = ("10.96.0.1:80", "[fd96::1]:80");
    for (workload, families, to, expected) in [
        (pod(), IpFamilies::Automatic, ask_v4, &v4),
        (pod(), IpFamilies::Automatic, ask_v6, &v6),
        (pod(), IpFamilies::Dual, ask_v4, &v4),
        (pod(), IpFamilies::Dual, ask_v6, &v6),
        (pod(), IpFamilies::Ipv4Only, ask_v6, &v4),
        (pod(), IpFamilies::Ipv6Only, ask_v4, &v6),
        (v4_only(), IpFamilies::Dual, ask_v6, &v4),
        (v4_only(), IpFamilies::Ipv6Only, ask_v6, &none),
        (v4_only(), IpFamilies::Ipv6Only, ask_v4, &none),
    ] {
        let s = wire::Service {
            ip_families: families.into(),
            ..service("s", &["10.96.0.1", "fd96::1"])
        };
        assert_eq!(
            &outcome(&generation(&[workload], &[s], &[]), to),
            expected,
            "{families:?} {to}"
        );
    }
}

#[test]
fn what_is_not_served_is_refused_by_name() {
    let pod = || workload("a", &["10.0.0.2"]);
    let part = || endpoint_of(pod(), "s", &[]);
    let s = || service("s", &["10.96.0.1"]);
    let weighted = WeightedWaypoint {
        destination: Some(gateway()),
        weight: 1,
    };
    let of_service = Refusal::WeightedWaypoints(key("s"));
    let of_workload = Refusal::WorkloadWaypoint(uid("a"));
    let hostname = wire::Workload {
        hostname: "example.com".into(),
        addresses: vec![],
        ..part()
    };
    let nobody = Refusal::NoHealthyEndpoint((&*key("s")).into());
    for (workload, service, to, expected) in [
        (
            part(),
            wire::Service {
                weighted_waypoints: vec![weighted],
                ..s()
            },
            "10.96.0.1:80",
            &of_service,
        ),
        (
            wire::Workload {
                waypoint: Some(gateway()),
                ..pod()
            },
            s(),
            "10.0.0.2:80",
            &of_workload,
        ),
        (
            wire::Workload {
                network_gateway: Some(gateway()),
                ..pod()
            },
            s(),
            "10.0.0.2:80",
            &Refusal::ForeignNetwork(Name::EMPTY),
        ),
        (
            wire::Workload {
                network: "far".into(),
                ..part()
            },
            s(),
            "10.96.0.1:80",
            &Refusal::ForeignNetwork("far".into()),
        ),
        (
            hostname,
            s(),
            "10.96.0.1:80",
            &Refusal::HostnameWorkload(uid("a")),
        ),
        (
            wire::Workload {
                addresses: vec![],
                ..part()
            },
            s(),
            "10.96.0.1:80",
            &nobody,
        ),
        (
            wire::Workload {
                status: wire::WorkloadStatus::Unhealthy.into(),
                ..part()
            },
            s(),
            "10.96.0.1:80",
            &nobody,
        ),
    ] {
        let mesh = generation(&[workload], &[service], &[]);
        assert_eq!(
            planned(&mesh, to),
            Outcome::Refuse(expected.clone()),
            "{to}"
        );
    }
}

#[test]
fn a_waypoint_of_a_workload_is_not_for_its_services() {
    let a = wire::Workload {
        waypoint: Some(gateway()),
        ..endpoint_of(workload("a", &["10.0.0.2"]), "s", &[])
    };
    let mesh = generation(&[a], &[service("s", &["10.96.0.1"])], &[]);
    assert_eq!(outcome(&mesh, "10.96.0.1:80"), "tunnel 10.0.0.2:8080");
}

#[test]
fn a_service_that_keeps_the_destination_passes_through() {
    let keep = LoadBalancing {
        mode: load_balancing::Mode::Passthrough.into(),
        ..Default::default()
    };
    let s = wire::Service {
        load_balancing: Some(keep),
        ..service("s", &["10.96.0.0/24"])
    };
    let a = workload("a", &["10.96.0.2"]);
    let mesh = generation(&[a], &[s], &[]);
    assert_eq!(outcome(&mesh, "10.96.0.1:443"), "passthrough 10.96.0.1:443");
    assert_eq!(outcome(&mesh, "10.96.0.2:443"), "tunnel 10.96.0.2:443");
}

#[test]
fn a_service_that_keeps_the_destination_keeps_a_pod_in_its_tunnel() {
    let keep = LoadBalancing {
        mode: load_balancing::Mode::Passthrough.into(),
        ..Default::default()
    };
    let s = wire::Service {
        load_balancing: Some(keep),
        ..service("s", &["10.0.0.2"])
    };
    let mesh = generation(&[workload("a", &["10.0.0.2"])], &[s], &[]);
    assert_eq!(outcome(&mesh, "10.0.0.2:443"), "tunnel 10.0.0.2:443");
}

#[test]
fn a_resource_that_could_not_be_understood_is_not_gone_around() {
    let legacy = wire::Workload {
        tunnel_protocol: TunnelProtocol::LegacyIstioMtls.into(),
        ..workload("a", &["10.0.0.2", "fd00::2"])
    };
    let odd = wire::Service {
        visibility: 9,
        ..service("s", &["10.96.0.1", "10.97.0.0/16"])
    };
    let mut store = store();
    store.apply(&addresses([Type::Workload(legacy), Type::Service(odd)]));
    store.apply(&authorizations([]));
    let mesh = store.current();
    for (to, name) in [
        ("10.0.0.2:80", uid("a")),
        ("[fd00::2]:80", uid("a")),
        ("10.96.0.1:80", key("s")),
        ("10.97.0.0:80", key("s")),
        ("10.97.255.1:80", key("s")),
    ] {
        assert_eq!(
            planned(&mesh, to),
            Outcome::Refuse(Refusal::Unusable(name)),
            "{to}"
        );
    }
    assert_eq!(outcome(&mesh, "10.98.0.1:80"), "passthrough 10.98.0.1:80");
}

#[test]
fn an_address_on_another_network_is_another_address() {
    let far = |name: &str, address: &str, length| wire::Service {
        addresses: vec![NetworkAddress {
            network: "far".into(),
            address: bytes(address),
            length,
        }],
        ..service(name, &[])
    };
    let odd = wire::Service {
        visibility: 9,
        ..far("odd", "10.98.0.1", None)
    };
    let a = wire::Workload {
        network: "far".into(),
        ..endpoint_of(workload("a", &["10.0.0.2"]), "range", &[])
    };
    let a = endpoint_of(a, "one", &[]);
    let mut store = store();
    store.apply(&addresses([
        Type::Workload(a),
        Type::Service(far("one", "10.96.0.1", None)),
        Type::Service(far("range", "10.97.0.0", Some(16))),
        Type::Service(odd),
    ]));
    store.apply(&authorizations([]));
    let mesh = store.current();
    let there = Source {
        network: "far".into(),
        ..source()
    };
    let unusable = format!("{:?}", Refusal::Unusable(key("odd")));
    for (to, found) in [
        ("10.0.0.2:80", "tunnel 10.0.0.2:80"),
        ("10.96.0.1:80", "tunnel 10.0.0.2:8080"),
        ("10.97.0.1:80", "tunnel 10.0.0.2:8080"),
        ("10.98.0.1:80", &unusable),
    ] {
        assert_eq!(outcome(&mesh, to), format!("passthrough {to}"));
        assert_eq!(said(planned_from(&mesh, &there, to, 0, &[])), found);
    }
}

#[test]
fn nothing_comes_back_to_the_proxy_it_left() {
    // Before anything is known, and where it would be a workload.
    let meshes = [
        store().current(),
        generation(&[workload("client", &[OWN])], &[], &[]),
    ];
    for mesh in meshes {
        for ip in [
            "10.0.0.1",
            "[::ffff:10.0.0.1]",
            "127.0.0.1",
            "127.9.9.9",
            "[::1]",
            "[fd00::1]",
        ] {
            for port in PROXY_PORTS {
                let to = format!("{ip}:{port}");
                let refused = Outcome::Refuse(Refusal::Loop(canonical(&to)));
                assert_eq!(planned(&mesh, &to), refused, "{to}");
            }
        }
        let to = "[::ffff:127.0.0.1]:15001";
        assert_eq!(
            planned(&mesh, to),
            Outcome::Refuse(Refusal::Loop(canonical(to)))
        );
    }
}

fn canonical(text: &str) -> SocketAddr {
    let to: SocketAddr = text.parse().unwrap();
    SocketAddr::new(to.ip().to_canonical(), to.port())
}

#[test]
fn the_ports_of_the_proxy_are_free_elsewhere_and_others_here() {
    let mesh = generation(
        &[workload("client", &[OWN]), workload("a", &["10.0.0.2"])],
        &[],
        &[],
    );
    for (to, expected) in [
        ("10.0.0.2:15001", "tunnel 10.0.0.2:15001"),
        ("1.2.3.4:15008", "passthrough 1.2.3.4:15008"),
        ("10.0.0.1:80", "tunnel 10.0.0.1:80"),
        ("127.0.0.1:15000", "passthrough 127.0.0.1:15000"),
    ] {
        assert_eq!(outcome(&mesh, to), expected);
    }
}

#[test]
fn the_first_state_is_asked_for() {
    let no_policies: [Authorization; 0] = [];
    let first = Outcome::Ask(Question::FirstState);
    let mut store = store();
    assert_eq!(planned(&store.current(), "1.2.3.4:80"), first);
    store.apply(&addresses([]));
    assert_eq!(planned(&store.current(), "1.2.3.4:80"), first);
    store.apply(&authorizations(no_policies));
    assert_eq!(
        outcome(&store.current(), "1.2.3.4:80"),
        "passthrough 1.2.3.4:80"
    );
}

#[test]
fn the_same_seed_chooses_the_same_and_what_was_tried_is_left_out() {
    let pods = ["a", "b", "c"].map(|name| {
        endpoint_of(
            workload(name, &[&format!("10.0.0.{}", 10 + name.as_bytes()[0])]),
            "s",
            &[],
        )
    });
    let mesh = generation(&pods, &[service("s", &["10.96.0.1"])], &[]);
    let chosen = |seed, tried: &[Arc<str>]| match planned_from(
        &mesh,
        &source(),
        "10.96.0.1:80",
        seed,
        tried,
    ) {
        Outcome::Do(plan) => Arc::clone(&plan.workload().unwrap().uid),
        other => panic!("{other:?}"),
    };
    for seed in [0, 1, 2, 7, u64::MAX] {
        let first = chosen(seed, &[]);
        assert_eq!(chosen(seed, &[]), first);
        let second = chosen(seed, std::slice::from_ref(&first));
        let third = chosen(seed, &[first.clone(), second.clone()]);
        let mut all = vec![first, second, third];
        all.sort();
        assert_eq!(all, ["a", "b", "c"].map(|name| uid(name).into()));
        let none = planned_from(&mesh, &source(), "10.96.0.1:80", seed, &all);
        assert_eq!(
            none,
            Outcome::Refuse(Refusal::NoHealthyEndpoint((&*key("s")).into()))
        );
    }
}

#[test]
fn questions_are_asked_in_words() {
    assert_eq!(Question::FirstState.to_string(), "its first state");
    assert_eq!(
        Question::OwnWorkload.to_string(),
        "the workload of this pod"
    );
}
