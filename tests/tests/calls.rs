//! What a peer with a certificate may ask for, and who is no peer at all.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{net::SocketAddr, sync::LazyLock};

use cli::lab::Node;
use http::{Method, Request};
use mesh::identity::Identity;
use proto::workload::{Address, NetworkAddress, Port, PortList, Service, Workload, address::Type};
use sys::netns::privileged;
use tests::{
    driven::Driven,
    peer::{connect, request},
    pod::{Pod, address},
    talk::Talk,
    world::HTTP,
};

static WORLD: LazyLock<Driven> = LazyLock::new(|| {
    let pods = [
        Pod::new("web", Node::One, 10),
        Pod::new("attacker", Node::One, 11).outside(),
        Pod::new("cart", Node::Two, 10).dual_stack(),
        Pod::new("catalog", Node::Two, 11),
        // Said to be in the mesh; what answers there is the tests' own.
        Pod::new("other", Node::Two, 12).outside(),
        Pod::new("foreign", Node::Two, 13).outside(),
        Pod::new("right", Node::Two, 14).outside(),
    ];
    let driven = Driven::new(tests::place!(), "calls", &pods, &[]);
    let mut told: Vec<_> = ["other", "foreign", "right"]
        .map(|name| {
            let pod = Pod {
                enrolled: true,
                ..driven.pod(name).clone()
            };
            address(pod.workload())
        })
        .into();
    told.push(service());
    let port = Port {
        service_port: 80,
        target_port: HTTP.into(),
        app_protocol: 0,
    };
    told.push(address(Workload {
        services: [(
            "shop/cart.shop.svc.cluster.local".to_owned(),
            PortList { ports: vec![port] },
        )]
        .into(),
        ..driven.pod("cart").workload()
    }));
    let nonce = driven.script.addresses(&told);
    driven.script.accepted(&driven, &nonce);
    driven
});

fn service() -> Address {
    let port = Port {
        service_port: 80,
        target_port: HTTP.into(),
        app_protocol: 0,
    };
    let vip = NetworkAddress {
        address: vec![10, 96, 0, 10],
        ..NetworkAddress::default()
    };
    Address {
        r#type: Some(Type::Service(Service {
            name: "cart".to_owned(),
            namespace: "shop".to_owned(),
            hostname: "cart.shop.svc.cluster.local".to_owned(),
            addresses: vec![vip],
            ports: vec![port],
            ..Service::default()
        })),
    }
}

fn at(pod: &str, port: u16) -> SocketAddr {
    SocketAddr::new(WORLD.ip(pod), port)
}

/// Asks `cart` in the name of `web`, from outside.
fn ask(requests: Vec<Request<()>>) -> Result<Vec<u16>, String> {
    let peer = WORLD
        .script
        .peer(&WORLD, "attacker", WORLD.pod("web").identity());
    peer.ask(at("cart", 15008), WORLD.pod("cart").identity(), requests)
}

#[test]
fn a_peer_gets_nothing_but_the_pod_that_it_came_to() {
    if !privileged("a_peer_gets_nothing_but_the_pod_that_it_came_to") {
        return;
    }
    // The VIP is one: an application gets there by it.
    WORLD.until("the service is known", || {
        WORLD
            .get("web", "10.96.0.10:80".parse().unwrap())
            .is_ok_and(|answer| answer.pod == "cart")
    });
    let v6 = WORLD.pod("cart").addresses[1];
    let cases = [
        ("the application", at("cart", HTTP).to_string(), 200),
        (
            "a pod of the same node",
            at("catalog", HTTP).to_string(),
            400,
        ),
        ("a pod of another node", at("web", HTTP).to_string(), 400),
        (
            "the pod's other address",
            SocketAddr::new(v6, HTTP).to_string(),
            400,
        ),
        ("loopback", "127.0.0.1:8080".to_owned(), 400),
        ("loopback, IPv6", "[::1]:8080".to_owned(), 400),
        ("any address", "0.0.0.0:8080".to_owned(), 400),
        ("a VIP, even its own", "10.96.0.10:80".to_owned(), 400),
        (
            "a hostname",
            "cart.shop.svc.cluster.local:80".to_owned(),
            400,
        ),
        ("localhost by name", "localhost:8080".to_owned(), 400),
        ("no port", WORLD.ip("cart").to_string(), 400),
        ("port 0", at("cart", 0).to_string(), 400),
        ("the outbound port", at("cart", 15001).to_string(), 503),
        ("the plaintext port", at("cart", 15006).to_string(), 503),
        ("the tunnel port", at("cart", 15008).to_string(), 503),
        (
            "a port where nobody listens",
            at("cart", 1).to_string(),
            503,
        ),
        ("the application again", at("cart", HTTP).to_string(), 200),
    ];
    let mark = WORLD.mark(Node::Two);
    let requests = cases.iter().map(|(_, authority, _)| connect(authority));
    let statuses = ask(requests.collect()).unwrap();
    for ((what, authority, expected), got) in cases.iter().zip(statuses) {
        assert_eq!(got, *expected, "{what}: {authority}");
    }
    // Whoever looks finds it in the log.
    let other = at("catalog", HTTP);
    let record = WORLD.record(Node::Two, mark, |it| it.is("dst.hbone_addr", other));
    assert!(record.get("error").contains("ip mismatch"), "{record:?}");
    assert!(
        record.is("src.identity", WORLD.pod("web").identity()),
        "{record:?}"
    );
}

#[test]
fn a_peer_that_does_not_connect_gets_400() {
    if !privileged("a_peer_that_does_not_connect_gets_400") {
        return;
    }
    let uri = format!("http://{}/", at("cart", HTTP));
    let other = |method| request(method, uri.parse().unwrap());
    let requests = vec![
        other(Method::GET),
        other(Method::POST),
        other(Method::OPTIONS),
        connect(&at("cart", HTTP).to_string()),
    ];
    assert_eq!(ask(requests), Ok(vec![400, 400, 400, 200]));
}

#[test]
fn a_peer_that_speaks_no_http2_is_closed_and_others_go_on() {
    if !privileged("a_peer_that_speaks_no_http2_is_closed_and_others_go_on") {
        return;
    }
    let mut open = WORLD.open("web", WORLD.ip("cart")).unwrap();
    let web = WORLD.pod("web").identity();
    let peer = WORLD.script.peer(&WORLD, "attacker", web);
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let frame = |bytes: &[u8]| [&preface, bytes].concat();
    for (what, bytes) in [
        ("HTTP/1.1", b"GET / HTTP/1.1\r\nhost: cart\r\n\r\n".to_vec()),
        ("zeros", vec![0; 1024]),
        // RFC 9113: SETTINGS of a wrong length (6.5), a frame that is too long (4.2),
        // HEADERS that cannot be decompressed (4.3).
        ("short SETTINGS", frame(&[0, 0, 1, 4, 0, 0, 0, 0, 0, 0])),
        ("a long frame", frame(&[0xff, 0xff, 0xff, 4, 0, 0, 0, 0, 0])),
        (
            "HEADERS of nonsense",
            frame(&[
                0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 2, 1, 4, 0, 0, 0, 1, 0xff, 0xff,
            ]),
        ),
    ] {
        let closed = peer.blurt(at("cart", 15008), WORLD.pod("cart").identity(), &bytes);
        assert_eq!(closed, Ok(()), "{what}");
        open.say(b"still there").unwrap();
    }
}

#[test]
fn who_is_of_another_trust_domain_or_authority_gets_no_tunnel() {
    if !privileged("who_is_of_another_trust_domain_or_authority_gets_no_tunnel") {
        return;
    }
    let (script, web) = (&WORLD.script, WORLD.pod("web").identity());
    let foreign = Identity::new("evil.example", "shop", "web");
    let cases = [
        (script.peer(&WORLD, "attacker", foreign), "evil.example"),
        (
            script.stranger(&WORLD, "attacker", web),
            "not issued by a root",
        ),
    ];
    for (peer, why) in cases {
        let mark = WORLD.mark(Node::Two);
        let asked = vec![connect(&at("cart", HTTP).to_string())];
        let refused = peer.ask(at("cart", 15008), WORLD.pod("cart").identity(), asked);
        assert!(refused.is_err(), "{refused:?}");
        WORLD.record(Node::Two, mark, |it| {
            it.inbound() && it.is("dst.addr", at("cart", 15008)) && it.get("error").contains(why)
        });
    }
}

#[test]
fn what_is_no_tls_is_closed_and_told() {
    if !privileged("what_is_no_tls_is_closed_and_told") {
        return;
    }
    let stream = WORLD.connect("attacker", at("catalog", 15008)).unwrap();
    let (from, mark) = (stream.local_addr().unwrap(), WORLD.mark(Node::Two));
    let mut plain = Talk::over(stream);
    plain
        .say(b"GET / HTTP/1.1\r\nhost: catalog\r\n\r\n")
        .unwrap_err();
    let record = WORLD.record(Node::Two, mark, |it| it.is("src.addr", from));
    assert!(record.get("error").contains("tls"), "{record:?}");
}

#[test]
fn a_server_that_is_not_who_it_should_be_gets_no_byte() {
    if !privileged("a_server_that_is_not_who_it_should_be_gets_no_byte") {
        return;
    }
    let right = WORLD.pod("right").identity();
    let cases = [
        ("other", WORLD.pod("catalog").identity(), false),
        (
            "foreign",
            Identity::new("evil.example", "shop", "foreign"),
            false,
        ),
        // The very same server with the right certificate: it is the certificate that makes the difference.
        ("right", right, true),
    ];
    for (pod, identity, good) in cases {
        let mark = WORLD.mark(Node::One);
        let server = WORLD.script.peer(&WORLD, pod, identity).answer_one();
        WORLD.get("web", at(pod, HTTP)).unwrap_err();
        let answered = server.join().unwrap();
        let record = WORLD.record(Node::One, mark, |it| {
            it.outbound() && it.is("dst.addr", at(pod, 15008))
        });
        if good {
            assert_eq!(answered, Ok(WORLD.pod("web").identity()));
        } else {
            assert!(answered.is_err(), "{pod}: {answered:?}");
            assert!(
                record.get("error").contains(&identity.to_string()),
                "{record:?}"
            );
        }
    }
}
