//! What node proxies do with a service that has a waypoint: at the client's end they go through it or nowhere, and at the
//! other end they believe it, and nobody else, that the policies somebody wrote have been decided. The waypoint is scripted.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::LazyLock,
    thread,
};

use cli::lab::Node;
use mesh::identity::Identity;
use prost::Message as _;
use proto::{
    security::{Action, Authorization, Group, Match, Rules, Scope, StringMatch, string_match},
    workload::{
        Address, Extension, GatewayAddress, NamespacedHostname, NetworkAddress, Port, PortList,
        Service, TunnelProtocol, Workload, address::Type, gateway_address::Destination,
    },
};
use sys::netns::privileged;
use tests::{
    driven::Driven,
    peer::connect,
    pod::{Pod, address},
    record::Record,
    waypoint::{Manner, Waypoint},
    world::{ECHO, HTTP},
};

/// Each test has a server on n2 and waypoints of its own, which are not captured.
static WORLD: LazyLock<Driven> = LazyLock::new(|| {
    let pods = [
        Pod::new("web", Node::One, 10),
        Pod::new("cart", Node::Two, 10),
        Pod::new("ledger", Node::Two, 11),
        Pod::new("wp-a", Node::Two, 20).outside(),
        Pod::new("wp-b", Node::One, 21).outside(),
        Pod::new("wp-c", Node::Two, 22).outside(),
        Pod::new("wp-d", Node::Two, 23).outside(),
        Pod::new("wp-e", Node::One, 24).outside(),
    ];
    Driven::new(tests::place!(), "waypoint", &pods, &[])
});

const WELL: Manner = Manner {
    streams: 100,
    status: 200,
};

fn vip(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 96, 0, last).into()
}

fn host(name: &str) -> String {
    format!("{name}.shop.svc.cluster.local")
}

/// A service with the ports of every application, at a virtual address if it has one, behind the waypoint `through`.
fn service(name: &str, last: Option<u8>, through: Option<&str>, trusted: &[Identity]) -> Address {
    let port = |number: u16| Port {
        service_port: number.into(),
        target_port: number.into(),
        app_protocol: 0,
    };
    let address = last.map(|last| NetworkAddress {
        address: vec![10, 96, 0, last],
        ..NetworkAddress::default()
    });
    let waypoint = through.map(|name| GatewayAddress {
        destination: Some(Destination::Hostname(NamespacedHostname {
            namespace: "shop".to_owned(),
            hostname: host(name),
        })),
        hbone_mtls_port: 15008,
    });
    let trust = proto::waypoint::Trust {
        identities: trusted.iter().map(ToString::to_string).collect(),
    };
    let extension = Extension {
        name: proto::TRUST_EXTENSION.to_owned(),
        config: Some(prost_types::Any {
            type_url: proto::TRUST_TYPE.to_owned(),
            value: trust.encode_to_vec(),
        }),
    };
    let ports = if last.is_some() { ECHO } else { 15008 };
    Address {
        r#type: Some(Type::Service(Service {
            name: name.to_owned(),
            namespace: "shop".to_owned(),
            hostname: host(name),
            addresses: address.into_iter().collect(),
            ports: vec![port(ports)],
            waypoint,
            extensions: (!trusted.is_empty())
                .then_some(extension)
                .into_iter()
                .collect(),
            ..Service::default()
        })),
    }
}

/// A pod as an endpoint of a service.
fn endpoint(pod: &str, service: &str, policies: &[&str]) -> Workload {
    let key = format!("shop/{}", host(service));
    Workload {
        services: BTreeMap::from([(key, PortList::default())]),
        authorization_policies: policies.iter().map(|name| (*name).to_owned()).collect(),
        ..WORLD.pod(pod).workload()
    }
}

/// A pod as an endpoint of a waypoint.
fn waypoint(pod: &str, service: &str) -> Address {
    address(Workload {
        tunnel_protocol: TunnelProtocol::Hbone.into(),
        native_tunnel: true,
        ..endpoint(pod, service, &[])
    })
}

fn told(all: &[Address]) {
    WORLD.script.accepted(&WORLD, &WORLD.script.addresses(all));
}

fn at_work(pod: &str, manner: Manner) -> Waypoint {
    let identity = WORLD.pod(pod).identity();
    WORLD.script.peer(&WORLD, pod, identity).waypoint(manner)
}

/// Waits for the record of a connection from `web` that failed as wanted.
fn refused(to: IpAddr, wanted: &str) -> Record {
    let mark = WORLD.mark(Node::One);
    WORLD.until("it is refused for that reason", || {
        WORLD.open("web", to).unwrap_err();
        WORLD
            .records(Node::One, mark)
            .iter()
            .any(|it| it.outbound() && it.get("error").contains(wanted))
    });
    WORLD.record(Node::One, mark, |it| {
        it.outbound() && it.get("error").contains(wanted)
    })
}

#[test]
fn a_stream_goes_to_the_waypoint_which_is_asked_for_the_service() {
    if !privileged("a_stream_goes_to_the_waypoint_which_is_asked_for_the_service") {
        return;
    }
    let waypoint_here = at_work("wp-a", WELL);
    told(&[
        waypoint("wp-a", "gw-a"),
        service("gw-a", None, None, &[]),
        address(endpoint("cart", "orders", &[])),
        service("orders", Some(50), Some("gw-a"), &[]),
    ]);
    let mark = WORLD.mark(Node::One);
    let mut talk = WORLD.open("web", vip(50)).unwrap();
    talk.say(b"and more").unwrap();
    let asked = waypoint_here.asked().pop().unwrap();
    assert_eq!(asked.peer, WORLD.pod("web").identity());
    assert_eq!(asked.authority, format!("10.96.0.50:{ECHO}"));
    let header = |name| asked.headers[name].to_str().unwrap().to_owned();
    assert_eq!(
        header("forwarded"),
        format!("for=\"{}\";host={}", talk.from(), host("orders"))
    );
    assert!(header("baggage").contains("k8s.namespace.name=shop"));
    assert!(header("traceparent").starts_with("00-"));
    talk.finish().unwrap();
    let record = WORLD.record(Node::One, mark, |it| {
        it.outbound() && it.is("dst.workload", "wp-a") && !it.get("duration").is_empty()
    });
    assert!(
        record.is("dst.service", host("orders"))
            && record.is("dst.hbone_addr", &asked.authority)
            && record.is("dst.identity", WORLD.pod("wp-a").identity())
            && record.is("dst.addr", SocketAddr::new(WORLD.ip("wp-a"), 15008))
            && record.get("error").is_empty(),
        "{record:?}"
    );
    // Who asks for a pod gets the pod.
    WORLD.open("web", WORLD.ip("cart")).unwrap();
    assert_eq!(waypoint_here.asked().len(), 1);
}

#[test]
fn a_waypoint_that_is_away_is_not_gone_around() {
    if !privileged("a_waypoint_that_is_away_is_not_gone_around") {
        return;
    }
    let key = format!("shop/{}", host("gw-b"));
    let one = at_work("wp-c", WELL);
    told(&[
        waypoint("wp-b", "gw-b"),
        waypoint("wp-c", "gw-b"),
        service("gw-b", None, None, &[]),
        address(endpoint("cart", "orders", &[])),
        service("bills", Some(51), Some("gw-b"), &[]),
    ]);
    // One of two is there: it is found.
    for _ in 0..8 {
        WORLD.open("web", vip(51)).unwrap();
    }
    assert_eq!(one.asked().len(), 8);
    drop(one);
    let record = refused(vip(51), "no tunnel to");
    assert!(record.is("dst.service", host("bills")), "{record:?}");
    assert!(record.get("dst.workload").starts_with("wp-"), "{record:?}");
    // Somebody else at its address is not the waypoint.
    let other = WORLD.pod("cart").identity();
    let impostor = WORLD.script.peer(&WORLD, "wp-c", other).waypoint(WELL);
    refused(vip(51), &other.to_string());
    assert_eq!(impostor.asked().len(), 0);
    let gone = ["wp-b", "wp-c"].map(|pod| WORLD.pod(pod).uid());
    let gone: Vec<&str> = gone.iter().map(String::as_str).collect();
    let say = |gone: &[&str]| WORLD.script.say(proto::ADDRESS_TYPE, Vec::new(), gone);
    WORLD.script.accepted(&WORLD, &say(&gone));
    let record = refused(vip(51), "it has no healthy endpoint");
    assert!(record.get("error").contains(&key), "{record:?}");
    WORLD.script.accepted(&WORLD, &say(&[&key]));
    let record = refused(vip(51), "it is unknown");
    assert!(record.get("error").contains(&key), "{record:?}");
}

#[test]
fn a_waypoint_that_refuses_is_named() {
    if !privileged("a_waypoint_that_refuses_is_named") {
        return;
    }
    let manner = Manner {
        status: 403,
        ..WELL
    };
    let waypoint_here = at_work("wp-d", manner);
    told(&[
        waypoint("wp-d", "gw-d"),
        service("gw-d", None, None, &[]),
        service("rates", Some(52), Some("gw-d"), &[]),
    ]);
    let wanted = format!("waypoint {} at", WORLD.pod("wp-d").uid());
    let record = refused(vip(52), &wanted);
    assert!(record.get("error").ends_with("answered 403"), "{record:?}");
    // An answer is an answer: nobody else is asked.
    let count = waypoint_here.asked().len();
    WORLD.open("web", vip(52)).unwrap_err();
    assert_eq!(waypoint_here.asked().len(), count + 1);
}

#[test]
fn a_waypoint_that_grants_few_streams_gets_more_tunnels() {
    if !privileged("a_waypoint_that_grants_few_streams_gets_more_tunnels") {
        return;
    }
    let manner = Manner { streams: 2, ..WELL };
    let waypoint_here = at_work("wp-e", manner);
    told(&[
        waypoint("wp-e", "gw-e"),
        service("gw-e", None, None, &[]),
        service("stock", Some(53), Some("gw-e"), &[]),
    ]);
    // At once, so that most of them are there before the waypoint has said what it grants.
    let mut talks: Vec<_> = thread::scope(|scope| {
        let opening = [(); 7].map(|()| scope.spawn(|| WORLD.open("web", vip(53)).unwrap()));
        opening.map(|talk| talk.join().unwrap()).into()
    });
    for talk in &mut talks {
        talk.say(b"all at once").unwrap();
    }
    let mut tunnels = BTreeMap::<usize, usize>::new();
    for asked in waypoint_here.asked() {
        *tunnels.entry(asked.tunnel).or_default() += 1;
    }
    assert!(tunnels.values().all(|streams| *streams <= 2), "{tunnels:?}");
    assert_eq!(tunnels.values().sum::<usize>(), 7);
}

/// What a policy of `shop` says of the echo port: everybody but this one, or nobody but this one.
fn about(name: &str, action: Action, found: Match) -> Authorization {
    let rules = vec![Rules {
        matches: vec![found],
    }];
    Authorization {
        name: name.to_owned(),
        namespace: "shop".to_owned(),
        scope: Scope::WorkloadSelector.into(),
        action: action.into(),
        groups: vec![Group { rules }],
        ..Authorization::default()
    }
}

/// A policy against whoever goes around the waypoint, and one that allows `web` alone.
fn made_and_written(trusted: Identity, web: Identity) -> [Authorization; 2] {
    let exactly = |identity: Identity| StringMatch {
        match_type: Some(string_match::MatchType::Exact(identity.principal())),
    };
    let around = Match {
        not_principals: vec![exactly(trusted)],
        destination_ports: vec![ECHO.into()],
        ..Match::default()
    };
    let only_web = Match {
        principals: vec![exactly(web)],
        ..Match::default()
    };
    [
        about("ambit_waypoint_9090_0", Action::Deny, around),
        about("only-web", Action::Allow, only_web),
    ]
}

#[test]
fn written_policies_are_decided_again_only_for_who_is_not_trusted() {
    if !privileged("written_policies_are_decided_again_only_for_who_is_not_trusted") {
        return;
    }
    let identity = |name| Identity::new("cluster.local", "shop", name);
    let (trusted, web) = (identity("the-waypoint"), identity("web"));
    let (made, written) = ("shop/ambit_waypoint_9090_0", "shop/only-web");
    let script = &WORLD.script;
    let policies = made_and_written(trusted, web);
    script.accepted(&WORLD, &script.policies(&policies));
    let ledger = || address(endpoint("ledger", "books", &[made, written]));
    told(&[
        ledger(),
        service("books", Some(54), Some("nobody"), &[trusted]),
    ]);
    let pod = WORLD.pod("ledger").identity();
    let tunnel = SocketAddr::new(WORLD.ip("ledger"), 15008);
    let to = |port| SocketAddr::new(WORLD.ip("ledger"), port);
    let ask = |who, port| {
        let peer = script.peer(&WORLD, "wp-a", who);
        peer.ask(tunnel, pod, vec![connect(&to(port).to_string())])
    };
    let allowed = || WORLD.until("it enters", || ask(trusted, ECHO) == Ok(vec![200]));
    allowed();
    for (who, port, expected) in [
        // On a port that the service does not lead to it is a client as any other.
        (trusted, HTTP, 401),
        (web, HTTP, 200),
        // Whom the written policy allows, but who goes around.
        (web, ECHO, 401),
        (identity("the-waypoint2"), ECHO, 401),
        (
            Identity::new("cluster.local", "bank", "the-waypoint"),
            ECHO,
            401,
        ),
    ] {
        assert_eq!(ask(who, port), Ok(vec![expected]), "{who} {port}");
    }
    let mark = WORLD.mark(Node::Two);
    WORLD.open("web", WORLD.ip("ledger")).unwrap_err();
    let record = WORLD.record(Node::Two, mark, |it| {
        it.inbound() && it.is("dst.workload", "ledger") && it.is("src.workload", "web")
    });
    assert!(record.is("policy", made), "{record:?}");

    // Trust is taken back: what the waypoint has open is decided again.
    let mark = WORLD.mark(Node::Two);
    let peer = script.peer(&WORLD, "wp-a", trusted);
    let cut = peer.until_cut(tunnel, pod, connect(&to(ECHO).to_string()), || {
        script.addresses(&[service("books", Some(54), Some("nobody"), &[])]);
    });
    assert_eq!(cut, Ok(()));
    let record = WORLD.record(Node::Two, mark, |it| {
        it.inbound() && it.is("dst.workload", "ledger") && !it.get("error").is_empty()
    });
    assert!(record.is("policy", written), "{record:?}");

    // And what is said of it in a way that nobody understands is no trust, and is told.
    told(&[service("books", Some(54), Some("nobody"), &[trusted])]);
    allowed();
    let mut garbled = service("books", Some(54), Some("nobody"), &[trusted]);
    if let Some(Type::Service(service)) = &mut garbled.r#type {
        service.extensions[0]
            .config
            .as_mut()
            .unwrap()
            .value
            .push(0xff);
    }
    let nonce = script.addresses(&[garbled]);
    let complaint = script.answer(&WORLD, "n2", &nonce).unwrap();
    assert!(complaint.contains(&host("books")) && complaint.contains(proto::TRUST_EXTENSION));
    WORLD.until("it is not trusted", || ask(trusted, ECHO) == Ok(vec![401]));
    // Trusted or not, the generated policy is decided.
    told(&[service("books", Some(54), Some("nobody"), &[trusted, web])]);
    allowed();
    assert_eq!(ask(web, ECHO), Ok(vec![401]));
}
