//! Tables: through which waypoint a flow goes, and that none goes around one.
#![allow(clippy::too_many_lines, reason = "a table is as long as it has rows")]

use std::{net::SocketAddr, sync::Arc};

use proto::workload::{
    self as wire, GatewayAddress, LoadBalancing, NamespacedHostname, NetworkAddress,
    WeightedWaypoint, WorkloadStatus, address::Type, gateway_address::Destination, load_balancing,
    service::Visibility,
};

use crate::{
    fixture::{
        addresses, authorizations, bytes, endpoint_of, generation, key, port, service, store, uid,
        workload,
    },
    identity::Identity,
    model::{Gateway, Locality},
    name::Name,
    plan::{Flow, Hop, Outcome, Plan, Source, plan},
    refusal::{Lack, Refusal},
    store::Generation,
};

fn hostname(name: &str, port: u32) -> GatewayAddress {
    let hostname = NamespacedHostname {
        namespace: "shop".to_owned(),
        hostname: format!("{name}.shop.svc.cluster.local"),
    };
    GatewayAddress {
        destination: Some(Destination::Hostname(hostname)),
        hbone_mtls_port: port,
    }
}

fn at(network: &str, ip: &str) -> GatewayAddress {
    let address = NetworkAddress {
        network: network.to_owned(),
        address: bytes(ip),
        length: None,
    };
    GatewayAddress {
        destination: Some(Destination::Address(address)),
        hbone_mtls_port: 15_008,
    }
}

/// What is asked for: it has a healthy endpoint of its own, so whoever goes around the waypoint arrives.
fn asked(waypoint: GatewayAddress) -> wire::Service {
    wire::Service {
        waypoint: Some(waypoint),
        subject_alt_names: vec!["spiffe://cluster.local/ns/shop/sa/asked".to_owned()],
        ..service("s", &["10.96.0.1", "fd96::1"])
    }
}

fn pod() -> wire::Workload {
    endpoint_of(workload("a", &["10.0.0.2"]), "s", &[])
}

/// The service of the waypoint.
fn gateway() -> wire::Service {
    wire::Service {
        ports: vec![port(15_008, 15_008)],
        subject_alt_names: vec!["spiffe://cluster.local/ns/shop/sa/gw".to_owned()],
        ..service("gw", &["10.96.0.9"])
    }
}

fn endpoint(name: &str, ips: &[&str]) -> wire::Workload {
    wire::Workload {
        native_tunnel: true,
        ..endpoint_of(workload(name, ips), "gw", &[])
    }
}

fn mesh(
    waypoint: GatewayAddress,
    gateway: wire::Service,
    endpoints: &[wire::Workload],
) -> Arc<Generation> {
    let all = [&[pod()], endpoints].concat();
    generation(&all, &[asked(waypoint), gateway], &[])
}

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

fn planned_from(generation: &Generation, from: &str, to: &str, tried: &[&str]) -> Outcome<Plan> {
    let tried: Vec<Arc<str>> = tried.iter().map(|name| uid(name).into()).collect();
    let flow = Flow {
        source: &source(),
        from: SocketAddr::new(from.parse().unwrap(), 40_000),
        to: to.parse().unwrap(),
        seed: 0,
        tried: &tried,
    };
    plan(generation, &flow)
}

fn planned(generation: &Generation, to: &str) -> Outcome<Plan> {
    planned_from(generation, "10.0.0.1", to, &[])
}

fn hop(outcome: Outcome<Plan>) -> Hop {
    match outcome {
        Outcome::Do(Plan::Tunnel(hop)) => hop,
        other => panic!("{other:?}"),
    }
}

/// Why there is no waypoint.
fn lack(outcome: Outcome<Plan>) -> Lack {
    match outcome {
        Outcome::Refuse(Refusal::NoWaypoint { service, lack, .. }) => {
            assert_eq!(service.as_str(), key("s"));
            lack
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_service_is_reached_through_its_waypoint_which_is_asked_for_the_service() {
    let (w, gw) = (
        Identity::new("cluster.local", "shop", "w"),
        Identity::new("cluster.local", "shop", "gw"),
    );
    for (waypoint, identities) in [
        (hostname("gw", 15_008), vec![w, gw]),
        (hostname("gw", 0), vec![w, gw]),
        (at("", "10.96.0.9"), vec![w, gw]),
        // The workload alone: no service says who else may answer.
        (at("", "10.0.0.21"), vec![w]),
    ] {
        let mesh = mesh(
            waypoint.clone(),
            gateway(),
            &[endpoint("w", &["10.0.0.21"])],
        );
        for (to, authority) in [
            ("10.96.0.1:80", "10.96.0.1:80"),
            ("[::ffff:10.96.0.1]:80", "10.96.0.1:80"),
            ("[fd96::1]:80", "[fd96::1]:80"),
        ] {
            let hop = hop(planned(&mesh, to));
            assert!(hop.waypoint, "{waypoint:?}");
            assert_eq!(hop.address.to_string(), "10.0.0.21:15008", "{waypoint:?}");
            assert_eq!(hop.authority.to_string(), authority);
            assert_eq!(hop.identities, identities, "{waypoint:?}");
            assert_eq!(*hop.workload.uid, *uid("w"));
            assert_eq!(hop.service.map(|s| s.key.to_string()), Some(key("s")));
        }
        // A pod's own address is not the service's.
        let own = hop(planned(&mesh, "10.0.0.2:8080"));
        assert_eq!((*own.workload.uid).to_owned(), uid("a"));
        assert!(!own.waypoint);
    }
}

#[test]
fn the_port_that_takes_tunnels_is_what_the_waypoint_says() {
    let wrong = wire::Service {
        ports: vec![port(80, 15_008)],
        ..gateway()
    };
    let open = wire::Service {
        ports: vec![port(15_008, 0)],
        ..gateway()
    };
    let maps = |ports: &[(u32, u32)]| endpoint_of(endpoint("w", &["10.0.0.21"]), "gw", ports);
    for (reference, gateway, endpoint, expected) in [
        (hostname("gw", 15_008), gateway(), maps(&[]), Some(15_008)),
        (
            hostname("gw", 15_008),
            gateway(),
            maps(&[(15_008, 16_008)]),
            Some(16_008),
        ),
        (
            hostname("gw", 15_008),
            open.clone(),
            maps(&[(15_008, 15_008)]),
            Some(15_008),
        ),
        (
            hostname("gw", 15_008),
            wrong.clone(),
            maps(&[(15_008, 15_008)]),
            Some(15_008),
        ),
        // Nobody maps it: there is no such endpoint.
        (hostname("gw", 15_008), open, maps(&[]), None),
        (hostname("gw", 15_008), wrong.clone(), maps(&[]), None),
        (
            hostname("gw", 15_008),
            wrong.clone(),
            maps(&[(80, 15_008)]),
            None,
        ),
        (hostname("gw", 80), wrong, maps(&[]), Some(15_008)),
    ] {
        let mesh = mesh(reference, gateway, &[endpoint]);
        let outcome = planned(&mesh, "10.96.0.1:80");
        match expected {
            Some(port) => assert_eq!(hop(outcome).address.port(), port),
            None => assert_eq!(lack(outcome), Lack::NoHealthyEndpoint),
        }
    }
}

#[test]
fn without_its_waypoint_a_service_is_not_reached() {
    let well = || endpoint("w", &["10.0.0.21"]);
    let ill = || wire::Workload {
        status: WorkloadStatus::Unhealthy.into(),
        ..well()
    };
    let far = || wire::Workload {
        network: "far".into(),
        ..well()
    };
    let behind = || wire::Workload {
        network_gateway: Some(hostname("gw", 15_008)),
        ..well()
    };
    let hidden = || wire::Service {
        namespace: "bank".into(),
        visibility: Visibility::Namespace.into(),
        ..gateway()
    };
    let by_name = || hostname("gw", 15_008);
    let elsewhere = Lack::ForeignNetwork("far".into());
    for (reference, gateway, endpoints, expected) in [
        (hostname("other", 0), gateway(), vec![well()], Lack::Unknown),
        (at("", "10.96.0.8"), gateway(), vec![well()], Lack::Unknown),
        (at("", "10.96.0.9"), hidden(), vec![well()], Lack::Unknown),
        (at("far", "10.96.0.9"), gateway(), vec![well()], elsewhere),
        (by_name(), gateway(), vec![], Lack::NoHealthyEndpoint),
        (by_name(), gateway(), vec![ill()], Lack::NoHealthyEndpoint),
        (by_name(), gateway(), vec![far()], elsewhere),
        (
            by_name(),
            gateway(),
            vec![behind()],
            Lack::ForeignNetwork(Name::EMPTY),
        ),
        (
            at("", "10.0.0.21"),
            gateway(),
            vec![ill()],
            Lack::NoHealthyEndpoint,
        ),
        (
            at("", "10.0.0.21"),
            gateway(),
            vec![behind()],
            Lack::ForeignNetwork(Name::EMPTY),
        ),
        (at("", "10.0.0.21"), gateway(), vec![far()], Lack::Unknown),
        (
            by_name(),
            gateway(),
            vec![endpoint("w", &[])],
            Lack::NoHealthyEndpoint,
        ),
        // It is asked for by service address: what is at the address, but somebody else's, is none.
        (at("", "10.0.0.99"), gateway(), vec![well()], Lack::Unknown),
    ] {
        let mesh = mesh(reference.clone(), gateway, &endpoints);
        let found = lack(planned(&mesh, "10.96.0.1:80"));
        assert_eq!(found, expected, "{reference:?} {endpoints:?}");
    }
}

#[test]
fn a_waypoint_that_could_not_be_understood_is_not_gone_around() {
    let odd = wire::Service {
        visibility: 9,
        ..gateway()
    };
    for (reference, expected) in [
        (at("", "10.96.0.9"), Lack::NotUnderstood),
        (hostname("gw", 15_008), Lack::Unknown),
    ] {
        let mut store = store();
        store.apply(&addresses([
            Type::Workload(pod()),
            Type::Workload(endpoint("w", &["10.0.0.21"])),
            Type::Service(asked(reference)),
            Type::Service(odd.clone()),
        ]));
        store.apply(&authorizations([]));
        let found = lack(planned(&store.current(), "10.96.0.1:80"));
        assert_eq!(found, expected);
    }
}

#[test]
fn a_refusal_names_the_service_and_its_waypoint() {
    let mesh = mesh(hostname("gw", 15_008), gateway(), &[]);
    let Outcome::Refuse(refusal) = planned(&mesh, "10.96.0.1:80") else {
        panic!("it goes around")
    };
    let waypoint = Gateway::Hostname {
        service: (&*key("gw")).into(),
        port: 15_008,
    };
    let expected = Refusal::NoWaypoint {
        service: (&*key("s")).into(),
        waypoint,
        lack: Lack::NoHealthyEndpoint,
    };
    assert_eq!(refusal, expected);
    assert!(refusal.to_string().contains(&key("gw")), "{refusal}");
}

#[test]
fn a_port_that_the_service_does_not_have_is_refused_before_the_waypoint() {
    let keep = LoadBalancing {
        mode: load_balancing::Mode::Passthrough.into(),
        ..Default::default()
    };
    for balancing in [None, Some(keep)] {
        let asked = wire::Service {
            load_balancing: balancing,
            ..asked(hostname("gw", 15_008))
        };
        let mesh = generation(
            &[pod(), endpoint("w", &["10.0.0.21"])],
            &[asked, gateway()],
            &[],
        );
        let expected = Refusal::NoSuchPort {
            service: (&*key("s")).into(),
            port: 81,
        };
        assert_eq!(planned(&mesh, "10.96.0.1:81"), Outcome::Refuse(expected));
    }
}

#[test]
fn a_destination_that_is_to_be_kept_is_what_the_waypoint_is_asked_for() {
    let keep = LoadBalancing {
        mode: load_balancing::Mode::Passthrough.into(),
        ..Default::default()
    };
    let asked = wire::Service {
        load_balancing: Some(keep),
        waypoint: Some(hostname("gw", 15_008)),
        ..service("s", &["10.97.0.0/16"])
    };
    let endpoints = [endpoint("w", &["10.0.0.21"])];
    let mesh = generation(&endpoints, &[asked.clone(), gateway()], &[]);
    let hop = hop(planned(&mesh, "10.97.3.4:80"));
    assert_eq!(hop.authority.to_string(), "10.97.3.4:80");
    assert_eq!(*hop.workload.uid, *uid("w"));
    let mesh = generation(&[], &[asked, gateway()], &[]);
    let found = lack(planned(&mesh, "10.97.3.4:80"));
    assert_eq!(found, Lack::NoHealthyEndpoint);
}

#[test]
fn another_endpoint_of_the_waypoint_is_tried_and_never_the_service_itself() {
    let endpoints = [
        endpoint("w", &["10.0.0.21"]),
        endpoint("v", &["10.0.0.22"]),
        wire::Workload {
            network: "far".into(),
            ..endpoint("u", &["10.0.0.23"])
        },
    ];
    let mesh = mesh(hostname("gw", 15_008), gateway(), &endpoints);
    let to = "10.96.0.1:80";
    for (tried, expected) in [(["w", "a"], "v"), (["v", "a"], "w")] {
        let hop = hop(planned_from(&mesh, "10.0.0.1", to, &tried));
        assert_eq!(*hop.workload.uid, *uid(expected));
    }
    let found = lack(planned_from(&mesh, "10.0.0.1", to, &["v", "w"]));
    assert_eq!(found, Lack::NoHealthyEndpoint);
    // A waypoint by its own address is the only one there is.
    let mesh = self::mesh(at("", "10.0.0.21"), gateway(), &endpoints);
    let found = lack(planned_from(&mesh, "10.0.0.1", to, &["w"]));
    assert_eq!(found, Lack::NoHealthyEndpoint);
}

#[test]
fn a_waypoint_does_not_go_through_itself() {
    let endpoints = [
        endpoint("w", &["10.0.0.21", "fd00::21"]),
        endpoint("v", &["10.0.0.22"]),
    ];
    let to = "10.96.0.1:80";
    for reference in [hostname("gw", 15_008), at("", "10.96.0.9")] {
        let mesh = mesh(reference, gateway(), &endpoints);
        for from in ["10.0.0.21", "fd00::21", "::ffff:10.0.0.21", "10.0.0.22"] {
            assert_eq!(lack(planned_from(&mesh, from, to, &[])), Lack::Itself);
        }
        hop(planned_from(&mesh, "10.0.0.2", to, &[]));
    }
    let mesh = mesh(at("", "10.0.0.21"), gateway(), &endpoints);
    assert_eq!(
        lack(planned_from(&mesh, "10.0.0.21", to, &[])),
        Lack::Itself
    );
    // Another pod, even of the same service account.
    hop(planned_from(&mesh, "10.0.0.22", to, &[]));
    // What has the client's address on another network is not the client.
    let far = wire::Workload {
        network: "far".into(),
        ..endpoint("u", &["10.0.0.1"])
    };
    let endpoints = [endpoint("w", &["10.0.0.21"]), far];
    let mesh = self::mesh(hostname("gw", 15_008), gateway(), &endpoints);
    hop(planned(&mesh, to));
}

#[test]
fn a_waypoint_is_reached_in_the_family_that_was_asked_for_if_it_has_it() {
    for (ips, to, expected) in [
        (
            &["10.0.0.21", "fd00::21"][..],
            "10.96.0.1:80",
            "10.0.0.21:15008",
        ),
        (
            &["10.0.0.21", "fd00::21"],
            "[fd96::1]:80",
            "[fd00::21]:15008",
        ),
        (&["10.0.0.21"], "[fd96::1]:80", "10.0.0.21:15008"),
    ] {
        let mesh = mesh(hostname("gw", 15_008), gateway(), &[endpoint("w", ips)]);
        assert_eq!(hop(planned(&mesh, to)).address.to_string(), expected);
    }
}

#[test]
fn no_client_makes_the_address_of_a_waypoint_its_own() {
    // Somebody in the client's namespace claims the waypoint's address; the service is of another namespace.
    let claim = wire::Service {
        ports: vec![port(15_008, 15_008)],
        ..service("claim", &["10.96.0.9"])
    };
    let claimant = endpoint_of(workload("x", &["10.0.0.66"]), "claim", &[]);
    let asked = wire::Service {
        namespace: "bank".into(),
        ..asked(at("", "10.96.0.9"))
    };
    let gateway = wire::Service {
        namespace: "bank".into(),
        ..gateway()
    };
    let mut own = workload("w", &["10.0.0.21"]);
    let name = format!("bank/{}", gateway.hostname);
    own.services.insert(name, wire::PortList { ports: vec![] });
    let mesh = generation(&[claimant, own], &[claim, asked, gateway], &[]);
    assert_eq!(*hop(planned(&mesh, "10.96.0.1:80")).workload.uid, *uid("w"));
}

#[test]
fn waypoints_by_weight_are_refused_whatever_else_there_is() {
    let weighted = WeightedWaypoint {
        destination: Some(hostname("gw", 15_008)),
        weight: 1,
    };
    let asked = wire::Service {
        weighted_waypoints: vec![weighted],
        ..asked(hostname("gw", 15_008))
    };
    let mesh = generation(
        &[pod(), endpoint("w", &["10.0.0.21"])],
        &[asked, gateway()],
        &[],
    );
    for to in ["10.96.0.1:80", "10.96.0.1:81"] {
        let expected = Refusal::WeightedWaypoints(key("s"));
        assert_eq!(planned(&mesh, to), Outcome::Refuse(expected));
    }
}
