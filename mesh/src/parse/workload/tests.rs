//! What workloads and services mean, and why one is refused.
#![allow(clippy::too_many_lines, reason = "a table is as long as it has rows")]

use proptest::prelude::*;

use super::*;
use crate::fixture::{self, bytes, endpoint_of, gateway, key, port as wire_port, trust, uid};

fn encoded(item: wire::address::Type) -> Vec<u8> {
    wire::Address { r#type: Some(item) }.encode_to_vec()
}

fn read_workload(w: wire::Workload) -> Result<Workload, String> {
    match address(&w.uid.clone(), &encoded(wire::address::Type::Workload(w)))? {
        Address::Workload(w) => Ok(w),
        Address::Service(s) => panic!("a service: {s:?}"),
    }
}

fn read_service(s: wire::Service) -> Result<Service, String> {
    let name = format!("{}/{}", s.namespace, s.hostname);
    match address(&name, &encoded(wire::address::Type::Service(s)))? {
        Address::Service(s) => Ok(s),
        Address::Workload(w) => panic!("a workload: {w:?}"),
    }
}

fn pod() -> wire::Workload {
    fixture::workload("a", &["10.0.0.2"])
}

#[test]
fn what_a_workload_leaves_out_has_a_default() {
    let bare = wire::Workload {
        uid: "u".to_owned(),
        namespace: "shop".to_owned(),
        ..Default::default()
    };
    let none = Name::EMPTY;
    let expected = Workload {
        uid: "u".into(),
        name: "".into(),
        identity: Identity::new("cluster.local", "shop", "default"),
        addresses: Box::default(),
        hostname: None,
        network: none,
        protocol: Protocol::Tcp,
        native_tunnel: false,
        waypoint: None,
        network_gateway: None,
        application_tunnel: None,
        services: Box::default(),
        policies: Box::default(),
        health: Health::Healthy,
        host_network: false,
        node: none,
        cluster: "Kubernetes".into(),
        locality: Locality {
            region: none,
            zone: none,
            subzone: none,
        },
        capacity: 1,
        workload_name: none,
        workload_type: WorkloadType::Deployment,
        canonical_name: none,
        canonical_revision: none,
    };
    assert_eq!(read_workload(bare), Ok(expected));
}

#[test]
fn what_a_workload_says_is_read() {
    let locality = wire::Locality {
        region: "r".into(),
        zone: "z".into(),
        subzone: "s".into(),
    };
    let tunnel = wire::ApplicationTunnel {
        protocol: 1,
        port: 15_088,
    };
    let network_gateway = wire::GatewayAddress {
        destination: Some(wire::gateway_address::Destination::Address(
            wire::NetworkAddress {
                network: "far".into(),
                address: bytes("::ffff:10.9.9.9"),
                length: None,
            },
        )),
        hbone_mtls_port: 0,
    };
    let full = wire::Workload {
        addresses: ["::ffff:10.0.0.2", "fd00::2"].map(bytes).to_vec(),
        hostname: "example.com".into(),
        network: "far".into(),
        trust_domain: "other".into(),
        service_account: "b".into(),
        waypoint: Some(gateway()),
        network_gateway: Some(network_gateway),
        node: "n1".into(),
        canonical_name: "c".into(),
        canonical_revision: "v1".into(),
        workload_type: wire::WorkloadType::Job.into(),
        workload_name: "j".into(),
        native_tunnel: true,
        application_tunnel: Some(tunnel),
        authorization_policies: vec!["shop/p".into(), "shop/q".into()],
        status: wire::WorkloadStatus::Unhealthy.into(),
        cluster_id: "k".into(),
        locality: Some(locality),
        network_mode: wire::NetworkMode::HostNetwork.into(),
        capacity: Some(7),
        ..endpoint_of(endpoint_of(pod(), "t", &[(80, 1), (81, 0)]), "s", &[])
    };
    let ports = [
        Port {
            service: 80,
            target: 1,
        },
        Port {
            service: 81,
            target: 0,
        },
    ];
    let membership = |name: &str, ports: &[Port]| Membership {
        service: (&*key(name)).into(),
        ports: ports.into(),
    };
    let expected = Workload {
        uid: uid("a").into(),
        name: "a".into(),
        identity: Identity::new("other", "shop", "b"),
        addresses: ["10.0.0.2", "fd00::2"].map(|ip| ip.parse().unwrap()).into(),
        hostname: Some("example.com".into()),
        network: "far".into(),
        protocol: Protocol::Hbone,
        native_tunnel: true,
        waypoint: Some(Gateway::Hostname {
            service: "shop/gateway".into(),
            port: 15_008,
        }),
        network_gateway: Some(Gateway::Address {
            network: "far".into(),
            address: "10.9.9.9".parse().unwrap(),
            port: 15_008,
        }),
        application_tunnel: Some(ApplicationTunnel {
            proxy_protocol: true,
            port: Some(15_088),
        }),
        services: [membership("s", &[]), membership("t", &ports)].into(),
        policies: ["shop/p", "shop/q"].map(Name::from).into(),
        health: Health::Unhealthy,
        host_network: true,
        node: "n1".into(),
        cluster: "k".into(),
        locality: Locality {
            region: "r".into(),
            zone: "z".into(),
            subzone: "s".into(),
        },
        capacity: 7,
        workload_name: "j".into(),
        workload_type: WorkloadType::Job,
        canonical_name: "c".into(),
        canonical_revision: "v1".into(),
    };
    assert_eq!(read_workload(full), Ok(expected));
}

#[test]
fn a_workload_that_cannot_be_right_is_refused_with_its_reason() {
    let list = |service_port, target_port| wire::PortList {
        ports: vec![wire_port(service_port, target_port)],
    };
    let member = |ports| wire::Workload {
        services: [(key("s"), ports)].into(),
        ..pod()
    };
    let via = |gateway: wire::GatewayAddress| wire::Workload {
        waypoint: Some(gateway),
        ..pod()
    };
    let no_identity = |id: &str| {
        format!(
            "{id:?} is not of the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>"
        )
    };
    let tunnel = |protocol, port| wire::Workload {
        application_tunnel: Some(wire::ApplicationTunnel { protocol, port }),
        ..pod()
    };
    for (workload, reason) in [
        (
            wire::Workload {
                uid: String::new(),
                ..pod()
            },
            "has no uid".to_owned(),
        ),
        (
            wire::Workload {
                addresses: vec![vec![10, 0, 0]],
                ..pod()
            },
            "an address has 3 bytes, not 4 or 16".to_owned(),
        ),
        (
            wire::Workload {
                tunnel_protocol: 2,
                ..pod()
            },
            "tunnel protocol LEGACY_ISTIO_MTLS is not supported".to_owned(),
        ),
        (
            wire::Workload {
                tunnel_protocol: 9,
                ..pod()
            },
            "unknown tunnel protocol 9".to_owned(),
        ),
        (
            wire::Workload { status: 9, ..pod() },
            "unknown status 9".to_owned(),
        ),
        (
            wire::Workload {
                network_mode: 9,
                ..pod()
            },
            "unknown network mode 9".to_owned(),
        ),
        (
            wire::Workload {
                namespace: String::new(),
                ..pod()
            },
            no_identity("spiffe://cluster.local/ns//sa/a"),
        ),
        (
            wire::Workload {
                service_account: "a/b".into(),
                ..pod()
            },
            no_identity("spiffe://cluster.local/ns/shop/sa/a/b"),
        ),
        (
            wire::Workload {
                trust_domain: "a b".into(),
                ..pod()
            },
            no_identity("spiffe://a b/ns/shop/sa/a"),
        ),
        (
            member(list(65_536, 1)),
            "service port 65536 is more than 65535".to_owned(),
        ),
        (
            member(list(1, 65_536)),
            "target port 65536 is more than 65535".to_owned(),
        ),
        (
            via(wire::GatewayAddress::default()),
            "a gateway has neither hostname nor address".to_owned(),
        ),
        (
            via(wire::GatewayAddress {
                hbone_mtls_port: 65_536,
                ..gateway()
            }),
            "gateway port 65536 is more than 65535".to_owned(),
        ),
        (
            via(wire::GatewayAddress {
                destination: Some(wire::gateway_address::Destination::Address(
                    Default::default(),
                )),
                ..gateway()
            }),
            "an address has 0 bytes, not 4 or 16".to_owned(),
        ),
        (
            wire::Workload {
                network_gateway: Some(Default::default()),
                ..pod()
            },
            "a gateway has neither hostname nor address".to_owned(),
        ),
        (
            tunnel(9, 0),
            "unknown application tunnel protocol 9".to_owned(),
        ),
        (
            tunnel(1, 65_536),
            "application tunnel port 65536 is more than 65535".to_owned(),
        ),
    ] {
        assert_eq!(read_workload(workload), Err(reason));
    }
}

#[test]
fn a_workload_type_that_is_new_costs_no_workload() {
    use wire::WorkloadType as Wire;
    for (number, expected) in [
        (Wire::Deployment.into(), WorkloadType::Deployment),
        (Wire::Cronjob.into(), WorkloadType::CronJob),
        (Wire::Pod.into(), WorkloadType::Pod),
        (Wire::Job.into(), WorkloadType::Job),
        (9, WorkloadType::Pod),
    ] {
        let workload = read_workload(wire::Workload {
            workload_type: number,
            ..pod()
        });
        assert_eq!(workload.unwrap().workload_type, expected);
    }
}

#[test]
fn a_capacity_is_at_least_one() {
    for (capacity, expected) in [
        (None, 1),
        (Some(0), 1),
        (Some(1), 1),
        (Some(u32::MAX), u32::MAX),
    ] {
        let workload = read_workload(wire::Workload { capacity, ..pod() });
        assert_eq!(workload.unwrap().capacity, expected);
    }
}

#[test]
fn what_a_service_says_is_read() {
    let balancing = wire::LoadBalancing {
        routing_preference: (1..=6).collect(),
        mode: wire::load_balancing::Mode::Failover.into(),
        health_policy: wire::load_balancing::HealthPolicy::AllowAll.into(),
    };
    let sans = ["spiffe://other/ns/a/sa/b", "dns.name", "spiffe://x"].map(str::to_owned);
    let full = wire::Service {
        ports: vec![wire_port(80, 8080), wire_port(81, 0)],
        subject_alt_names: sans.to_vec(),
        waypoint: Some(gateway()),
        load_balancing: Some(balancing),
        ip_families: wire::IpFamilies::Dual.into(),
        canonical: true,
        weighted_waypoints: vec![wire::WeightedWaypoint::default()],
        visibility: wire::service::Visibility::Namespace.into(),
        ..fixture::service(
            "s",
            &[
                "10.96.0.1",
                "::ffff:10.96.0.2",
                "fd96::/64",
                "::ffff:10.0.0.0/104",
            ],
        )
    };
    let vip = |address: &str, length| Vip {
        network: Name::EMPTY,
        address: address.parse().unwrap(),
        length,
    };
    let scopes = {
        use LocalityScope::{Cluster, Network, Node, Region, Subzone, Zone};
        [Region, Zone, Subzone, Node, Cluster, Network]
    };
    let expected = Service {
        key: (&*key("s")).into(),
        name: "s".into(),
        namespace: "shop".into(),
        hostname: "s.shop.svc.cluster.local".into(),
        vips: [
            vip("10.96.0.1", 32),
            vip("10.96.0.2", 32),
            vip("fd96::", 64),
            vip("10.0.0.0", 8),
        ]
        .into(),
        ports: [
            Port {
                service: 80,
                target: 8080,
            },
            Port {
                service: 81,
                target: 0,
            },
        ]
        .into(),
        identities: [Identity::new("other", "a", "b")].into(),
        waypoint: Some(Gateway::Hostname {
            service: "shop/gateway".into(),
            port: 15_008,
        }),
        weighted_waypoints: true,
        trusted: Box::default(),
        distrust: None,
        balancing: Balancing {
            preference: scopes.into(),
            mode: Mode::Failover,
            unhealthy_too: true,
        },
        families: Families::Dual,
        canonical: true,
        visibility: Visibility::Namespace,
    };
    assert_eq!(read_service(full), Ok(expected));
}

#[test]
fn a_service_trusts_whom_its_extension_names() {
    let read = |extensions: Vec<wire::Extension>| {
        let s = read_service(wire::Service {
            extensions,
            ..fixture::service("s", &["10.96.0.1"])
        })
        .unwrap();
        let trusted: Vec<_> = s.trusted.iter().map(ToString::to_string).collect();
        (trusted, s.distrust.map(String::from))
    };
    let (a, b) = (
        "spiffe://cluster.local/ns/shop/sa/a",
        "spiffe://x/ns/y/sa/b",
    );
    let other = wire::Extension {
        name: "example.com/other".into(),
        config: None,
    };
    let both = vec![a.to_owned(), b.to_owned()];
    assert_eq!(read(vec![]), (vec![], None));
    assert_eq!(read(vec![other.clone()]), (vec![], None));
    assert_eq!(read(vec![trust(&[])]), (vec![], None));
    assert_eq!(read(vec![trust(&[a, b])]), (both.clone(), None));
    assert_eq!(read(vec![other, trust(&[a, b])]), (both, None));
}

#[test]
fn trust_that_is_not_understood_to_the_last_byte_is_none_and_says_why() {
    let a = "spiffe://cluster.local/ns/shop/sa/a";
    let with = |change: &dyn Fn(&mut prost_types::Any)| {
        let mut extension = trust(&[a]);
        change(extension.config.as_mut().unwrap());
        vec![extension]
    };
    let empty = wire::Extension {
        config: None,
        ..trust(&[])
    };
    for (extensions, reason) in [
        (vec![empty], "holds nothing"),
        (vec![trust(&[a]), trust(&[a])], "is there twice"),
        (
            with(&|any| any.type_url = "type.googleapis.com/other".into()),
            "holds a \"type.googleapis.com/other\"",
        ),
        (with(&|any| any.value = vec![0xff]), "is not a Trust"),
        (
            with(&|any| any.value.extend([0x10, 0x01])),
            "holds more than is known here",
        ),
        (
            vec![trust(&[a, "spiffe://cluster.local/ns/shop"])],
            "trusts",
        ),
        (vec![trust(&[a, ""])], "trusts"),
        (vec![trust(&["cluster.local/ns/shop/sa/a"])], "trusts"),
        (vec![trust(&["*"])], "trusts"),
    ] {
        let s = read_service(wire::Service {
            extensions: extensions.clone(),
            ..fixture::service("s", &["10.96.0.1"])
        })
        .unwrap();
        assert_eq!(s.trusted.len(), 0, "{extensions:?}");
        let told = s.distrust.unwrap();
        assert!(
            told.starts_with("extension \"ambit.dev/waypoint\"") && told.contains(reason),
            "{told}"
        );
    }
}

#[test]
fn what_a_service_leaves_out_has_a_default() {
    let s = read_service(wire::Service {
        ports: vec![],
        ..fixture::service("s", &[])
    })
    .unwrap();
    let standard = Balancing {
        preference: Box::default(),
        mode: Mode::Standard,
        unhealthy_too: false,
    };
    assert_eq!((s.balancing, s.families), (standard, Families::Automatic));
    assert_eq!(
        (s.visibility, s.canonical, s.weighted_waypoints),
        (Visibility::Public, false, false)
    );
    assert_eq!(
        (s.vips.len(), s.ports.len(), s.identities.len(), s.waypoint),
        (0, 0, 0, None)
    );
}

#[test]
fn modes_and_families_have_their_names() {
    for (at, expected) in [
        Mode::Standard,
        Mode::Strict,
        Mode::Failover,
        Mode::Passthrough,
    ]
    .into_iter()
    .enumerate()
    {
        let balancing = wire::LoadBalancing {
            mode: number(at),
            ..Default::default()
        };
        let s = wire::Service {
            load_balancing: Some(balancing),
            ..fixture::service("s", &[])
        };
        assert_eq!(read_service(s).unwrap().balancing.mode, expected);
    }
    for (at, expected) in [
        Families::Automatic,
        Families::V4,
        Families::V6,
        Families::Dual,
    ]
    .into_iter()
    .enumerate()
    {
        let ip_families = number(at);
        let s = wire::Service {
            ip_families,
            ..fixture::service("s", &[])
        };
        assert_eq!(read_service(s).unwrap().families, expected);
    }
}

fn number(at: usize) -> i32 {
    i32::try_from(at).unwrap()
}

#[test]
fn a_service_that_cannot_be_right_is_refused_with_its_reason() {
    let plain = || fixture::service("s", &[]);
    let balanced = |balancing| wire::Service {
        load_balancing: Some(balancing),
        ..plain()
    };
    let at = |address: &[u8], length| wire::Service {
        addresses: vec![wire::NetworkAddress {
            network: String::new(),
            address: address.into(),
            length,
        }],
        ..plain()
    };
    for (service, reason) in [
        (
            wire::Service {
                hostname: String::new(),
                ..plain()
            },
            "has no hostname",
        ),
        (
            wire::Service {
                ip_families: 9,
                ..plain()
            },
            "unknown address families 9",
        ),
        (
            wire::Service {
                visibility: 9,
                ..plain()
            },
            "unknown visibility 9",
        ),
        (
            balanced(wire::LoadBalancing {
                mode: 9,
                ..Default::default()
            }),
            "unknown load balancing mode 9",
        ),
        (
            balanced(wire::LoadBalancing {
                health_policy: 9,
                ..Default::default()
            }),
            "unknown health policy 9",
        ),
        (
            balanced(wire::LoadBalancing {
                routing_preference: vec![1, 9],
                ..Default::default()
            }),
            "unknown locality scope 9",
        ),
        (
            balanced(wire::LoadBalancing {
                routing_preference: vec![0],
                ..Default::default()
            }),
            "unknown locality scope 0",
        ),
        (
            wire::Service {
                waypoint: Some(Default::default()),
                ..plain()
            },
            "a gateway has neither hostname nor address",
        ),
        (
            wire::Service {
                ports: vec![wire_port(65_536, 1)],
                ..plain()
            },
            "service port 65536 is more than 65535",
        ),
        (
            wire::Service {
                ports: vec![wire_port(1, 65_536)],
                ..plain()
            },
            "target port 65536 is more than 65535",
        ),
        (at(&[], None), "an address has 0 bytes, not 4 or 16"),
        (
            at(&[10, 0, 0, 1], Some(33)),
            "10.0.0.1 has a prefix of more than 32 bits",
        ),
        (
            at(&bytes("::ffff:10.0.0.1"), Some(90)),
            "::ffff:10.0.0.1/90 spans IPv4 and IPv6",
        ),
    ] {
        assert_eq!(read_service(service), Err(reason.to_owned()));
    }
}

#[test]
fn what_is_no_address_resource_is_refused() {
    let reason = |name: &str, bytes: &[u8]| address(name, bytes).unwrap_err();
    assert_eq!(reason("u", &[]), "neither a workload nor a service");
    assert!(reason("u", &[0xff; 5]).starts_with("not an Address: "));
    let a = encoded(wire::address::Type::Workload(pod()));
    assert_eq!(
        reason("other", &a),
        format!("holds the workload {:?}", uid("a"))
    );
    let s = encoded(wire::address::Type::Service(fixture::service("s", &[])));
    assert_eq!(
        reason("other", &s),
        format!("holds the service {:?}", key("s"))
    );
}

#[test]
fn even_what_is_refused_says_where_it_is() {
    let vip = |text: &str, length| Vip {
        network: "far".into(),
        address: text.parse().unwrap(),
        length,
    };
    let on_far = |text: &str, length| wire::NetworkAddress {
        network: "far".into(),
        address: bytes(text),
        length,
    };
    let w = wire::Workload {
        network: "far".into(),
        addresses: vec![bytes("::ffff:10.0.0.2"), vec![1], bytes("fd00::2")],
        ..pod()
    };
    let s = wire::Service {
        addresses: vec![
            on_far("10.96.0.1", None),
            on_far("10.97.0.0", Some(16)),
            on_far("10.98.0.1", Some(99)),
            on_far("fd96::1", None),
            wire::NetworkAddress::default(),
        ],
        ..fixture::service("s", &[])
    };
    let host = wire::Workload {
        network_mode: 1,
        ..w.clone()
    };
    for (item, expected) in [
        (
            wire::address::Type::Workload(w),
            vec![vip("10.0.0.2", 32), vip("fd00::2", 128)],
        ),
        (wire::address::Type::Workload(host), vec![]),
        (
            wire::address::Type::Service(s),
            vec![
                vip("10.96.0.1", 32),
                vip("10.97.0.0", 16),
                vip("10.98.0.1", 32),
                vip("fd96::1", 128),
            ],
        ),
    ] {
        assert_eq!(Address::reach(&encoded(item)), expected);
    }
    assert_eq!(Address::reach(&[0xff; 5]), []);
    assert_eq!(Address::reach(&[]), []);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_damage_panics(at in 0usize..200, to in any::<u8>(), cut in 0usize..200, service in any::<bool>()) {
        let mut bytes = if service {
            encoded(wire::address::Type::Service(wire::Service {
                waypoint: Some(gateway()),
                ..fixture::service("s", &["10.96.0.1", "10.97.0.0/16"])
            }))
        } else {
            encoded(wire::address::Type::Workload(endpoint_of(pod(), "s", &[(80, 1)])))
        };
        let at = at % bytes.len();
        bytes[at] = to;
        bytes.truncate(bytes.len() - cut % bytes.len() / 2);
        for name in [uid("a"), key("s")] {
            let _ = address(&name, &bytes);
        }
        Address::reach(&bytes);
    }
}
