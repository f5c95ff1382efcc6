//! Rules in namespaces made for each test, and what connections make of them.

use super::*;
use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
};
use sys::{
    netlink::{Message, Reply, Socket},
    netns::privileged,
    socket::{self, Options},
};

/// A pod and the world outside, with a link of both families between them.
struct Lab {
    pod: Netns,
    world: Netns,
}

const POD: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const WORLD: [&str; 2] = ["192.0.2.2", "2001:db8::2"];

fn lab() -> Lab {
    let (pod, world) = (Netns::create().unwrap(), Netns::create().unwrap());
    pod.within(|| route::veth("eth0", "world", &world)).unwrap();
    for (netns, name, ips) in [(&pod, "eth0", POD), (&world, "world", WORLD)] {
        netns
            .within(|| {
                route::set_up("lo")?;
                route::add_address(name, ips[0].parse().unwrap(), 24)?;
                route::add_address(name, ips[1].parse().unwrap(), 64)?;
                route::set_up(name)
            })
            .unwrap();
    }
    // As pods have: without a route to where a reply goes, it is not even made.
    for ip in WORLD {
        pod.within(|| route::add_route(&route::Route::default_via(ip.parse().unwrap())))
            .unwrap();
    }
    Lab { pod, world }
}

/// Everything that the kernel tells of a namespace's packet rules, routing rules and routes.
fn everything(netns: &Netns) -> (Vec<(u8, String)>, Vec<nft::Listed>, Vec<Reply>) {
    netns
        .within(|| {
            let mut replies = Vec::new();
            for kind in [26, 34] {
                // RTM_GETROUTE, RTM_GETRULE
                for family in [2, 10] {
                    let mut header = [0; 12];
                    header[0] = family;
                    let asked = Message::new(kind, 0).raw(&header);
                    let mut socket = Socket::open(nix::sys::socket::SockProtocol::NetlinkRoute)?;
                    for mut reply in socket.dump(&asked)? {
                        reply.sequence = 0;
                        replies.push(reply);
                    }
                }
            }
            Ok((nft::tables()?, nft::list()?, replies))
        })
        .unwrap()
}

fn listen(netns: &Netns, address: &str, transparent: bool) -> TcpListener {
    let options = Options {
        transparent,
        mark: transparent.then_some(rules::PACKET_MARK),
        ..Options::default()
    };
    let listener = netns
        .within(|| socket::listen(address.parse().unwrap(), options))
        .unwrap();
    listener.set_nonblocking(false).unwrap();
    listener
}

fn connect(netns: &Netns, to: SocketAddr) -> TcpStream {
    netns.within(|| TcpStream::connect(to)).unwrap()
}

fn echo(one: &mut TcpStream, two: &mut TcpStream) {
    one.write_all(b"there").unwrap();
    two.write_all(b"back!").unwrap();
    let (mut there, mut back) = ([0; 5], [0; 5]);
    two.read_exact(&mut there).unwrap();
    one.read_exact(&mut back).unwrap();
    assert_eq!((&there, &back), (b"there", b"back!"));
}

#[test]
fn removal_leaves_no_trace() {
    if !privileged("removal_leaves_no_trace") {
        return;
    }
    let lab = lab();
    let foreign = nft::Table {
        family: nft::Family::Inet,
        name: "theirs".into(),
        chains: vec![nft::Chain {
            name: "input".into(),
            kind: nft::Kind::Filter,
            hook: nft::Hook::Input,
            priority: 0,
            rules: vec![nft::Rule {
                when: vec![nft::Match::Tcp],
                then: nft::Action::Accept,
            }],
        }],
    };
    lab.pod.within(|| nft::replace(&foreign)).unwrap();
    let before = everything(&lab.pod);
    assert_eq!(verify(&lab.pod, &Probed::new()).unwrap(), State::Absent);
    remove(&lab.pod).unwrap();
    install(&lab.pod, &Probed::new()).unwrap();
    assert_eq!(verify(&lab.pod, &Probed::new()).unwrap(), State::Whole);
    assert_ne!(everything(&lab.pod), before);
    install(&lab.pod, &Probed::new()).unwrap();
    assert_eq!(verify(&lab.pod, &Probed::new()).unwrap(), State::Whole);
    remove(&lab.pod).unwrap();
    assert_eq!(everything(&lab.pod), before);
    assert_eq!(verify(&lab.pod, &Probed::new()).unwrap(), State::Absent);
}

#[test]
fn whatever_is_taken_away_is_seen_and_put_back() {
    if !privileged("whatever_is_taken_away_is_seen_and_put_back") {
        return;
    }
    let lab = lab();
    for v6 in [false, true] {
        let thefts: [fn(usize) -> io::Result<()>; 3] = [
            |_| nft::remove(nft::Family::Inet, rules::TABLE),
            |at| route::remove_rule(&rules::routing_rules(true)[at]),
            |at| route::remove_route(&rules::routes(true, route::index("lo")?)[at]),
        ];
        for steal in thefts {
            install(&lab.pod, &Probed::new()).unwrap();
            lab.pod.within(|| steal(usize::from(v6))).unwrap();
            assert_eq!(verify(&lab.pod, &Probed::new()).unwrap(), State::Partly);
            install(&lab.pod, &Probed::new()).unwrap();
            assert_eq!(verify(&lab.pod, &Probed::new()).unwrap(), State::Whole);
        }
    }
}

#[test]
fn another_tools_rules_are_named_and_nothing_is_changed() {
    if !privileged("another_tools_rules_are_named_and_nothing_is_changed") {
        return;
    }
    let lab = lab();
    let foreign = nft::Table {
        family: nft::Family::Inet,
        name: "theirs".into(),
        chains: vec![nft::Chain {
            name: "redirect".into(),
            kind: nft::Kind::Nat,
            hook: nft::Hook::Output,
            priority: -100,
            rules: vec![nft::Rule {
                when: vec![nft::Match::Tcp],
                then: nft::Action::Redirect(9999),
            }],
        }],
    };
    lab.pod.within(|| nft::replace(&foreign)).unwrap();
    let before = everything(&lab.pod);
    let Err(Error::Obstacle { what: text, .. }) = install(&lab.pod, &Probed::new()) else {
        panic!("installed")
    };
    assert!(text.contains("redirect of table inet theirs"), "{text}");
    assert_eq!(everything(&lab.pod), before);
    // It is seen too when it comes later.
    lab.pod
        .within(|| nft::remove(nft::Family::Inet, "theirs"))
        .unwrap();
    install(&lab.pod, &Probed::new()).unwrap();
    lab.pod.within(|| nft::replace(&foreign)).unwrap();
    assert!(matches!(
        verify(&lab.pod, &Probed::new()),
        Err(Error::Obstacle { .. })
    ));
}

#[test]
fn without_ipv6_only_ipv4_is_captured() {
    if !privileged("without_ipv6_only_ipv4_is_captured") {
        return;
    }
    let lab = lab();
    lab.pod
        .within(|| sysctl::write("net/ipv6/conf/lo/disable_ipv6", "1"))
        .unwrap();
    install(&lab.pod, &Probed::new()).unwrap();
    assert_eq!(verify(&lab.pod, &Probed::new()).unwrap(), State::Whole);
    lab.pod
        .within(|| sysctl::write("net/ipv6/conf/lo/disable_ipv6", "0"))
        .unwrap();
    assert_eq!(verify(&lab.pod, &Probed::new()).unwrap(), State::Partly);
}

#[test]
fn what_the_pod_sends_and_gets_reaches_the_proxy_with_its_destination() {
    if !privileged("what_the_pod_sends_and_gets_reaches_the_proxy_with_its_destination") {
        return;
    }
    let lab = lab();
    install(&lab.pod, &Probed::new()).unwrap();
    let outbound = listen(&lab.pod, "[::]:15001", true);
    let inbound = listen(&lab.pod, "[::]:15006", true);
    for at in [0, 1] {
        // Nobody listens there: the connection never leaves the pod.
        let to = SocketAddr::new(WORLD[at].parse().unwrap(), 80);
        let mut client = connect(&lab.pod, to);
        let (mut server, from) = outbound.accept().unwrap();
        assert_eq!(socket::original_destination(&server).unwrap(), to);
        assert_eq!(from.ip().to_canonical(), client.local_addr().unwrap().ip());
        echo(&mut client, &mut server);

        let to = SocketAddr::new(POD[at].parse().unwrap(), 8080);
        let mut client = connect(&lab.world, to);
        let (mut server, from) = inbound.accept().unwrap();
        assert_eq!(socket::original_destination(&server).unwrap(), to);
        assert_eq!(
            from.ip().to_canonical(),
            WORLD[at].parse::<IpAddr>().unwrap()
        );
        echo(&mut client, &mut server);
    }
}

#[test]
fn tunnels_and_loopback_and_the_pods_own_address_are_not_redirected() {
    if !privileged("tunnels_and_loopback_and_the_pods_own_address_are_not_redirected") {
        return;
    }
    let lab = lab();
    install(&lab.pod, &Probed::new()).unwrap();
    let tunnel = listen(&lab.pod, "[::]:15008", true);
    let app = listen(&lab.pod, "[::]:8080", false);
    for (at, loopback) in [(0, "127.0.0.1"), (1, "::1")] {
        let to = SocketAddr::new(POD[at].parse().unwrap(), 15008);
        let _client = connect(&lab.world, to);
        let (_server, from) = tunnel.accept().unwrap();
        assert_eq!(
            from.ip().to_canonical(),
            WORLD[at].parse::<IpAddr>().unwrap()
        );
        for ip in [loopback, POD[at]] {
            let _client = connect(&lab.pod, SocketAddr::new(ip.parse().unwrap(), 8080));
            app.accept().unwrap();
        }
    }
}

#[test]
fn the_proxy_reaches_the_world_and_speaks_to_the_app_as_the_client() {
    if !privileged("the_proxy_reaches_the_world_and_speaks_to_the_app_as_the_client") {
        return;
    }
    let lab = lab();
    install(&lab.pod, &Probed::new()).unwrap();
    let outside = listen(&lab.world, "[::]:80", false);
    let app = listen(&lab.pod, "[::]:8080", false);
    let dial = |to: SocketAddr, from: Option<IpAddr>| {
        let stream = lab
            .pod
            .within(|| socket::stream(to, from, Some(rules::PACKET_MARK)))
            .unwrap();
        stream.set_nonblocking(false).unwrap();
        let socket = socket2::SockRef::from(&stream);
        socket.connect(&to.into()).unwrap();
        stream
    };
    let far6 = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 9));
    for (at, far) in [(0, "203.0.113.9".parse().unwrap()), (1, far6)] {
        let mut client = dial(SocketAddr::new(WORLD[at].parse().unwrap(), 80), None);
        let (mut server, from) = outside.accept().unwrap();
        assert_eq!(from.ip().to_canonical(), POD[at].parse::<IpAddr>().unwrap());
        echo(&mut client, &mut server);

        // The app's replies go to a far address, and must come back to the proxy all the same.
        let mut client = dial(SocketAddr::new(POD[at].parse().unwrap(), 8080), Some(far));
        let (mut server, from) = app.accept().unwrap();
        assert_eq!(from.ip().to_canonical(), far);
        echo(&mut client, &mut server);
    }
}

#[test]
fn connections_that_are_open_go_on() {
    if !privileged("connections_that_are_open_go_on") {
        return;
    }
    let lab = lab();
    let (app, outside) = (
        listen(&lab.pod, "[::]:8080", false),
        listen(&lab.world, "[::]:80", false),
    );
    let mut open = Vec::new();
    for at in [0, 1] {
        let client = connect(&lab.world, SocketAddr::new(POD[at].parse().unwrap(), 8080));
        open.push((client, app.accept().unwrap().0));
        let client = connect(&lab.pod, SocketAddr::new(WORLD[at].parse().unwrap(), 80));
        open.push((client, outside.accept().unwrap().0));
    }
    let mut all_echo = || {
        for (client, server) in &mut open {
            echo(client, server);
            echo(server, client);
        }
    };
    install(&lab.pod, &Probed::new()).unwrap();
    all_echo();
    remove(&lab.pod).unwrap();
    all_echo();
}

#[test]
fn an_opening_that_is_not_redirected_ends_nowhere() {
    if !privileged("an_opening_that_is_not_redirected_ends_nowhere") {
        return;
    }
    let lab = lab();
    let app = listen(&lab.pod, "[::]:8080", false);
    let passes = |without: &[&str]| {
        let mut table = rules::table(true, &Probed::new());
        table
            .chains
            .retain(|chain| !without.contains(&chain.name.as_str()));
        lab.pod.within(|| nft::replace(&table)).unwrap();
        let passes = |ip: &str| {
            let to = SocketAddr::new(ip.parse().unwrap(), 8080);
            let connect = || TcpStream::connect_timeout(&to, std::time::Duration::from_millis(300));
            lab.world.within(connect).map(|_| app.accept()).is_ok()
        };
        POD.map(passes)
    };
    assert_eq!(passes(&["nat-prerouting"]), [false; 2]);
    assert_eq!(
        passes(&["nat-prerouting", "filter-input"]),
        [true; 2],
        "so it was that chain"
    );
}
