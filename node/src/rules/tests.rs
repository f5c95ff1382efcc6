//! The rules, run over packets without a kernel.

use super::*;
use sys::nft::Base;

/// A first packet of a connection.
#[derive(Clone)]
struct Packet {
    tcp: bool,
    /// It asks for a connection.
    opening: bool,
    mark: u32,
    connection_mark: u32,
    into: &'static str,
    out: &'static str,
    from: IpAddr,
    to: IpAddr,
    port: u16,
}

fn packet(from: &str, to: &str, port: u16) -> Packet {
    let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
    Packet {
        tcp: true,
        opening: true,
        mark: 0,
        connection_mark: 0,
        into: "eth0",
        out: "eth0",
        from,
        to,
        port,
    }
}

fn inside(address: IpAddr, ip: IpAddr, prefix: u8, is: bool) -> bool {
    assert_eq!(prefix, whole(ip), "only single addresses are in our rules");
    address.is_ipv4() == ip.is_ipv4() && (address == ip) == is
}

fn holds(condition: &Match, packet: &Packet) -> bool {
    match condition {
        Match::Tcp => packet.tcp,
        Match::Opening => packet.opening,
        Match::Mark { mark, mask, is } => (packet.mark & mask == *mark) == *is,
        Match::ConnectionMark { mark, mask, is } => (packet.connection_mark & mask == *mark) == *is,
        Match::In { name, is } => (packet.into == name) == *is,
        Match::Out { name, is } => (packet.out == name) == *is,
        Match::Source { ip, prefix, is } => inside(packet.from, *ip, *prefix, *is),
        Match::Destination { ip, prefix, is } => inside(packet.to, *ip, *prefix, *is),
        Match::Port { port, is } => (packet.port == *port) == *is,
        Match::Group(_) => panic!("pods know no control groups"),
    }
}

/// What the chain of this name does with a packet; nothing if no rule matches.
fn run(chain: &str, v6: bool, packet: &Packet) -> Option<Action> {
    let table = table(v6, &[8080].into());
    let chain = table
        .chains
        .iter()
        .find(|found| found.name == chain)
        .unwrap();
    let rule = chain
        .rules
        .iter()
        .find(|rule| rule.when.iter().all(|condition| holds(condition, packet)));
    rule.map(|rule| rule.then)
}

const IN: Option<Action> = Some(Action::Redirect(INBOUND_PLAINTEXT));
const OUT: Option<Action> = Some(Action::Redirect(OUTBOUND));
const LEFT_ALONE: Option<Action> = Some(Action::Accept);

#[test]
fn what_arrives_is_taken_save_tunnels_probes_and_the_proxys_own() {
    let probe6 = PROBE6.to_string();
    for (from, to, port, mark, expected) in [
        ("10.0.0.1", "10.0.0.2", 8080, 0, IN),
        ("10.0.0.1", "10.0.0.2", 15008, 0, None),
        ("10.0.0.1", "10.0.0.2", 15001, 0, IN),
        ("10.0.0.1", "10.0.0.2", 8080, 0x539, None),
        ("10.0.0.1", "10.0.0.2", 8080, 0x7000_0539, None),
        ("10.0.0.1", "10.0.0.2", 8080, 0x53a, IN),
        ("10.0.0.1", "10.0.0.2", 8080, 0x111, IN),
        ("169.254.7.127", "10.0.0.2", 8080, 0, LEFT_ALONE),
        ("169.254.7.127", "10.0.0.2", 8081, 0, IN),
        ("169.254.7.128", "10.0.0.2", 8080, 0, IN),
        ("10.0.0.1", "127.0.0.1", 8080, 0, None),
        ("10.0.0.1", "127.0.0.2", 8080, 0, IN),
        ("fd00::1", "fd00::2", 8080, 0, IN),
        ("fd00::1", "fd00::2", 15008, 0, None),
        ("fd00::1", "fd00::2", 8080, 0x539, None),
        (&probe6, "fd00::2", 8080, 0, LEFT_ALONE),
        (&probe6, "fd00::2", 8081, 0, IN),
        ("fd00::1", "::1", 8080, 0, None),
    ] {
        let packet = Packet {
            mark,
            ..packet(from, to, port)
        };
        assert_eq!(
            run("nat-prerouting", true, &packet),
            expected,
            "{from} to {to}:{port} marked {mark:#x}"
        );
    }
}

#[test]
fn connections_that_are_open_are_left_alone() {
    for chain in ["nat-prerouting", "nat-output", "filter-input"] {
        let packet = Packet {
            opening: false,
            ..packet("10.0.0.1", "10.0.0.2", 8080)
        };
        assert_eq!(run(chain, true, &packet), None, "{chain}");
    }
}

#[test]
fn what_is_opened_past_the_proxy_is_dropped() {
    let probe6 = PROBE6.to_string();
    let gone = Some(Action::Drop);
    for (from, to, port, mark, into, expected) in [
        ("10.0.0.1", "10.0.0.2", 8080, 0, "eth0", gone),
        ("10.0.0.1", "10.0.0.2", 15001, 0, "eth0", gone),
        ("10.0.0.1", "10.0.0.2", 15006, 0, "eth0", None),
        ("10.0.0.1", "10.0.0.2", 15008, 0, "eth0", None),
        ("10.0.0.1", "10.0.0.2", 8080, 0x539, "eth0", None),
        ("10.0.0.2", "10.0.0.2", 8080, 0, "lo", None),
        ("169.254.7.127", "10.0.0.2", 8080, 0, "eth0", LEFT_ALONE),
        ("169.254.7.127", "10.0.0.2", 8081, 0, "eth0", gone),
        ("fd00::1", "fd00::2", 8080, 0, "eth0", gone),
        (&probe6, "fd00::2", 8080, 0, "eth0", LEFT_ALONE),
    ] {
        let packet = Packet {
            mark,
            into,
            ..packet(from, to, port)
        };
        let found = run("filter-input", true, &packet);
        assert_eq!(
            found, expected,
            "{from} to {to}:{port} by {into} marked {mark:#x}"
        );
    }
}

#[test]
fn what_leaves_is_taken_save_loopback_probes_and_the_proxys_own() {
    let probe6 = PROBE6.to_string();
    for (to, port, mark, out, expected) in [
        ("10.0.0.2", 8080, 0, "eth0", OUT),
        ("10.0.0.2", 15008, 0, "eth0", OUT),
        ("10.0.0.2", 8080, 0x539, "eth0", None),
        ("10.0.0.2", 8080, 0x111, "eth0", LEFT_ALONE),
        ("10.0.0.2", 8080, 0x1111, "eth0", LEFT_ALONE),
        ("169.254.7.127", 8080, 0, "eth0", LEFT_ALONE),
        ("127.0.0.1", 8080, 0, "lo", None),
        ("127.0.0.2", 8080, 0, "lo", LEFT_ALONE),
        ("10.0.0.1", 8080, 0, "lo", LEFT_ALONE),
        ("fd00::2", 8080, 0, "eth0", OUT),
        ("fd00::2", 8080, 0x539, "eth0", None),
        ("fd00::2", 8080, 0x111, "eth0", LEFT_ALONE),
        (&probe6, 8080, 0, "eth0", LEFT_ALONE),
        ("::1", 8080, 0, "lo", None),
        ("fd00::1", 8080, 0, "lo", LEFT_ALONE),
    ] {
        let from = if to.contains(':') {
            "fd00::1"
        } else {
            "10.0.0.1"
        };
        let packet = Packet {
            mark,
            out,
            ..packet(from, to, port)
        };
        assert_eq!(
            run("nat-output", true, &packet),
            expected,
            "to {to}:{port} by {out} marked {mark:#x}"
        );
    }
}

#[test]
fn only_tcp_is_taken() {
    for chain in ["nat-prerouting", "nat-output"] {
        for (from, to) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            let packet = Packet {
                tcp: false,
                ..packet(from, to, 53)
            };
            assert_eq!(run(chain, true, &packet), None);
        }
    }
}

#[test]
fn without_ipv6_its_packets_are_left_alone() {
    let packet = packet("fd00::1", "fd00::2", 8080);
    for chain in ["nat-prerouting", "nat-output"] {
        assert_eq!(run(chain, false, &packet), None);
    }
    assert_eq!((routes(false, 1).len(), routing_rules(false).len()), (1, 1));
    assert_eq!((routes(true, 1).len(), routing_rules(true).len()), (2, 2));
}

#[test]
fn the_proxys_connections_are_marked_and_their_replies_too() {
    let plain = packet("10.0.0.1", "10.0.0.2", 8080);
    let marked = Action::MarkConnection {
        mark: CONNECTION_MARK,
        mask: MASK,
    };
    for (mark, expected) in [
        (0x539, Some(marked)),
        (0x1539, Some(marked)),
        (0, None),
        (0x111, None),
    ] {
        assert_eq!(
            run(
                "mangle-prerouting",
                true,
                &Packet {
                    mark,
                    ..plain.clone()
                }
            ),
            expected,
            "{mark:#x}"
        );
    }
    let apart = Some(Action::TrackApart(PROXY_ZONE));
    for (mark, expected) in [(0x539, apart), (0, None), (0x111, None)] {
        let packet = Packet {
            mark,
            ..plain.clone()
        };
        assert_eq!(run("raw-output", true, &packet), expected, "{mark:#x}");
    }
    let restored = Some(Action::RestoreMark);
    for (connection_mark, expected) in [
        (0x111, restored),
        (0x1111, restored),
        (0, None),
        (0x539, None),
    ] {
        let packet = Packet {
            connection_mark,
            ..plain.clone()
        };
        assert_eq!(
            run("mangle-output", true, &packet),
            expected,
            "{connection_mark:#x}"
        );
    }
}

fn listed(family: u8, table: &str, kind: &str, hook: Hook, priority: i32, rules: usize) -> Listed {
    let base = Some(Base {
        kind: kind.into(),
        hook: hook as u32,
        priority,
    });
    Listed {
        family,
        table: table.into(),
        chain: "some".into(),
        base,
        rules: vec![vec![]; rules],
    }
}

#[test]
fn rules_of_others_are_in_the_way_where_they_redirect_or_mark() {
    for (chain, expected) in [
        (listed(2, "nat", "nat", Hook::Output, -100, 1), true),
        (listed(10, "nat", "nat", Hook::Prerouting, -100, 1), true),
        (listed(1, "other", "route", Hook::Output, -150, 1), true),
        (
            listed(2, "mangle", "filter", Hook::Prerouting, -150, 1),
            true,
        ),
        (listed(2, "nat", "nat", Hook::Output, -100, 0), false),
        (listed(2, "nat", "nat", Hook::Postrouting, 100, 1), false),
        (listed(2, "filter", "filter", Hook::Output, 0, 1), false),
        (listed(7, "bridge", "nat", Hook::Output, -100, 1), false),
        (listed(1, TABLE, "nat", Hook::Output, -100, 1), false),
        (listed(2, TABLE, "nat", Hook::Output, -100, 1), true),
        (
            Listed {
                base: None,
                ..listed(2, "nat", "nat", Hook::Output, -100, 1)
            },
            false,
        ),
    ] {
        let found = obstacle(std::slice::from_ref(&chain));
        assert_eq!(found.is_some(), expected, "{chain:?}");
        assert!(found.is_none_or(|text| text.contains(&chain.table)));
    }
}

#[test]
fn routes_and_rules_of_others_are_in_the_way_where_ours_belong() {
    let theirs = route::Route {
        table: ROUTING_TABLE,
        ..route::Route::to(PROBE.into(), 32)
    };
    assert!(routing_obstacle(&[theirs], &[]).is_some());
    assert!(routing_obstacle(&routes(true, 1), &routing_rules(true)).is_none());
    let mut rule = routing_rules(false)[0];
    rule.protocol = 4;
    assert!(routing_obstacle(&[], &[rule]).is_some());
    rule.priority += 1;
    assert!(routing_obstacle(&[], &[rule]).is_none());
}
