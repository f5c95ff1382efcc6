//! Links, addresses, routes and rules in namespaces made for each test.

use super::*;
use crate::{netns::privileged, socket, sysctl};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

const FOUR: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)),
];
const SIX: [IpAddr; 2] = [
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2)),
];

/// Two namespaces with one link between them.
fn linked() -> [Netns; 2] {
    let ends = [Netns::create().unwrap(), Netns::create().unwrap()];
    ends[0].within(|| veth("left", "right", &ends[1])).unwrap();
    for (at, (end, name)) in ends.iter().zip(["left", "right"]).enumerate() {
        end.within(|| {
            set_up("lo")?;
            add_address(name, FOUR[at], 24)?;
            add_address(name, SIX[at], 64)?;
            set_up(name)
        })
        .unwrap();
    }
    ends
}

#[test]
fn a_pair_carries_traffic_of_both_families() {
    if !privileged("a_pair_carries_traffic_of_both_families") {
        return;
    }
    let [left, right] = linked();
    for ip in [FOUR[1], SIX[1]] {
        let listener = right
            .within(|| std::net::TcpListener::bind((ip, 80)))
            .unwrap();
        let mut client = left.within(|| TcpStream::connect((ip, 80))).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(b"hello").unwrap();
        let mut got = [0; 5];
        server.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"hello");
    }
}

#[test]
fn links_and_addresses_are_listed() {
    if !privileged("links_and_addresses_are_listed") {
        return;
    }
    let [left, _right] = linked();
    left.within(|| {
        set_mtu("left", 9000)?;
        let links = links()?;
        let found = links.iter().find(|link| link.name == "left").unwrap();
        assert_eq!(
            (found.up, found.loopback, found.mtu, found.index),
            (true, false, 9000, index("left")?)
        );
        assert!(
            links
                .iter()
                .any(|link| link.name == "lo" && link.loopback && link.up)
        );
        let global: Vec<_> = addresses()?
            .into_iter()
            .filter(|address| address.global)
            .collect();
        let expected = [(FOUR[0], 24), (SIX[0], 64)];
        assert_eq!(
            global
                .iter()
                .map(|found| (found.ip, found.prefix))
                .collect::<Vec<_>>(),
            expected
        );
        assert!(
            global
                .iter()
                .all(|address| address.interface == found.index)
        );
        assert!(
            addresses()?
                .iter()
                .any(|address| address.ip.is_loopback() && !address.global)
        );
        set_down("left")?;
        assert!(
            super::links()?
                .iter()
                .any(|link| link.name == "left" && !link.up)
        );
        remove_link("left")?;
        assert_eq!(index("left").unwrap_err().kind(), io::ErrorKind::NotFound);
        Ok(())
    })
    .unwrap();
}

#[test]
fn routes_come_and_go() {
    if !privileged("routes_come_and_go") {
        return;
    }
    let [left, _right] = linked();
    left.within(|| {
        let before = routes()?;
        let lo = Some(index("lo")?);
        let (any4, any6) = (
            IpAddr::from(Ipv4Addr::UNSPECIFIED),
            IpAddr::from(Ipv6Addr::UNSPECIFIED),
        );
        let added = [
            Route {
                interface: lo,
                kind: Kind::Local,
                table: 100,
                protocol: 77,
                ..Route::to(any4, 0)
            },
            Route {
                interface: lo,
                kind: Kind::Local,
                table: 100,
                protocol: 77,
                ..Route::to(any6, 0)
            },
            Route {
                interface: Some(index("left")?),
                ..Route::default_via(FOUR[1])
            },
            Route {
                interface: Some(index("left")?),
                ..Route::default_via(SIX[1])
            },
            Route {
                interface: Some(index("left")?),
                table: 4000,
                ..Route::to([198, 51, 100, 0].into(), 24)
            },
        ];
        for route in &added {
            add_route(route)?;
            assert_eq!(
                add_route(route).unwrap_err().kind(),
                io::ErrorKind::AlreadyExists
            );
            assert!(routes()?.contains(route), "{route:?} in {:?}", routes()?);
        }
        for route in &added {
            remove_route(route)?;
            assert_eq!(
                remove_route(route).unwrap_err().kind(),
                io::ErrorKind::NotFound
            );
        }
        assert_eq!(routes()?, before);
        Ok(())
    })
    .unwrap();
}

#[test]
fn rules_come_and_go() {
    if !privileged("rules_come_and_go") {
        return;
    }
    Netns::create()
        .unwrap()
        .within(|| {
            let before = rules()?;
            for v6 in [false, true] {
                let rule = Rule {
                    v6,
                    priority: 32764,
                    mark: 0x111,
                    mask: 0xfff,
                    table: 100,
                    protocol: 77,
                };
                add_rule(&rule)?;
                assert_eq!(
                    add_rule(&rule).unwrap_err().kind(),
                    io::ErrorKind::AlreadyExists
                );
                assert!(rules()?.contains(&rule), "{:?}", rules()?);
                remove_rule(&rule)?;
                assert_eq!(
                    remove_rule(&rule).unwrap_err().kind(),
                    io::ErrorKind::NotFound
                );
            }
            assert_eq!(rules()?, before);
            Ok(())
        })
        .unwrap();
}

#[test]
fn packets_are_routed_on_behalf_of_others_when_told_to() {
    if !privileged("packets_are_routed_on_behalf_of_others_when_told_to") {
        return;
    }
    let [left, right] = linked();
    // The listener takes any address of a network that is routed to it, and the client has a foreign one.
    right
        .within(|| {
            sysctl::write("net/ipv4/conf/all/rp_filter", "0")?;
            add_route(&Route::default_via(FOUR[0]))
        })
        .unwrap();
    let listener = right
        .within(|| std::net::TcpListener::bind((FOUR[1], 80)))
        .unwrap();
    let from = IpAddr::from([203, 0, 113, 9]);
    left.within(|| {
        add_rule(&Rule {
            v6: false,
            priority: 9,
            mark: 0,
            mask: 0,
            table: 100,
            protocol: 4,
        })?;
        let lo = Some(index("lo")?);
        add_route(&Route {
            interface: lo,
            kind: Kind::Local,
            table: 100,
            ..Route::to(from, 32)
        })
    })
    .unwrap();
    let client = left
        .within(|| socket::stream(SocketAddr::new(FOUR[1], 80), Some(from), None))
        .unwrap();
    let socket = socket2::SockRef::from(&client);
    let _in_progress = socket.connect(&SocketAddr::new(FOUR[1], 80).into());
    let (_server, peer) = listener.accept().unwrap();
    assert_eq!(peer.ip(), from);
}

#[test]
fn a_missing_interface_is_named() {
    let error = set_up("no-such-link").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(error.to_string().contains("no-such-link"), "{error}");
}
