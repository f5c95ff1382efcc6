//! What is put into a pod's namespace so that the node proxy gets its TCP, as values.
//!
//! Nothing here touches a kernel; [`capture`](crate::capture) does. The meaning of marks, ports and addresses is shared
//! with the node proxy, and with other implementations of ambient capture.
//!
//! A connection that the proxy makes carries [`PACKET_MARK`] and is left alone. It may have the address of a far client
//! as its source, so the pod's replies to it must come back to the proxy instead of leaving the pod: its connection gets
//! [`CONNECTION_MARK`], replies get that mark again, and marked packets are routed by a table where every address is local.
//! Of two connections with the same addresses, the client's own and the proxy's, the ports may be the same too: the
//! proxy's is tracked in a zone apart.
//!
//! Only openings of connections are redirected: those that are open when a pod is captured go on as they were.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use sys::{
    nft::{self, Action, Chain, Hook, Kind, Listed, Match, Rule, Table},
    route,
};

/// Marks the proxy's own packets.
pub const PACKET_MARK: u32 = 0x539;
/// Marks connections that the proxy made, and the replies on them.
pub const CONNECTION_MARK: u32 = 0x111;
/// The bits of marks that count.
pub const MASK: u32 = 0xfff;
/// The zone where the proxy's connections are tracked, apart from those of the clients whose addresses it uses.
pub const PROXY_ZONE: u16 = 0x111;
/// Where the proxy takes what the pod sends.
pub const OUTBOUND: u16 = 15001;
/// Where the proxy takes plaintext that is sent to the pod.
pub const INBOUND_PLAINTEXT: u16 = 15006;
/// Where the proxy takes tunnels: reached by its own port, so never redirected.
pub const TUNNEL: u16 = 15008;
/// The source that the node gives to its probes of pods.
pub const PROBE: Ipv4Addr = Ipv4Addr::new(169, 254, 7, 127);
/// As [`PROBE`], for IPv6.
pub const PROBE6: Ipv6Addr = Ipv6Addr::new(
    0xfd16, 0x9254, 0x7127, 0x1337, 0xffff, 0xffff, 0xffff, 0xffff,
);
/// The nftables table, of family inet.
pub const TABLE: &str = "ambit";
/// The routing table where every address is local.
pub const ROUTING_TABLE: u32 = 100;
/// Where the routing rule stands: before the table of ordinary routes.
pub const ROUTING_PRIORITY: u32 = 32764;
/// Who made our routes and routing rules: removal touches no others.
pub const PROTOCOL: u8 = 77;

/// Before connection tracking.
const RAW: i32 = -300;
/// Before address translation, after connection tracking.
const MANGLE: i32 = -150;
/// Where address translation of destinations stands.
const NAT: i32 = -100;
/// After all of that.
const FILTER: i32 = 0;

/// TCP ports of a pod that the node asks how the pod is.
pub type Probed = BTreeSet<u16>;

/// The packet rules for a namespace, with those for IPv6 if it has IPv6. What comes from [`PROBE`] goes past the proxy to the
/// ports that are probed, and to no others.
pub fn table(v6: bool, probed: &Probed) -> Table {
    let chain = |name: &str, kind, hook, priority, rules| Chain {
        name: name.into(),
        kind,
        hook,
        priority,
        rules,
    };
    Table {
        family: nft::Family::Inet,
        name: TABLE.into(),
        chains: vec![
            chain(
                "raw-output",
                Kind::Filter,
                Hook::Output,
                RAW,
                vec![track_apart()],
            ),
            chain(
                "mangle-prerouting",
                Kind::Filter,
                Hook::Prerouting,
                MANGLE,
                vec![mark_connection()],
            ),
            // Of kind route, so that a packet that gets a mark is routed again.
            chain(
                "mangle-output",
                Kind::Route,
                Hook::Output,
                MANGLE,
                vec![restore_mark()],
            ),
            chain(
                "nat-prerouting",
                Kind::Nat,
                Hook::Prerouting,
                NAT,
                arriving(v6, probed),
            ),
            chain("nat-output", Kind::Nat, Hook::Output, NAT, leaving(v6)),
            chain(
                "filter-input",
                Kind::Filter,
                Hook::Input,
                FILTER,
                opened(v6, probed),
            ),
        ],
    }
}

/// The routes of [`ROUTING_TABLE`]; `lo` is the loopback interface's number.
pub fn routes(v6: bool, lo: u32) -> Vec<route::Route> {
    families(v6)
        .map(|family| route::Route {
            interface: Some(lo),
            kind: route::Kind::Local,
            table: ROUTING_TABLE,
            protocol: PROTOCOL,
            ..route::Route::to(family.any, 0)
        })
        .collect()
}

/// The rules that send marked packets to [`ROUTING_TABLE`].
pub fn routing_rules(v6: bool) -> Vec<route::Rule> {
    families(v6)
        .map(|family| route::Rule {
            v6: family.any.is_ipv6(),
            priority: ROUTING_PRIORITY,
            mark: CONNECTION_MARK,
            mask: MASK,
            table: ROUTING_TABLE,
            protocol: PROTOCOL,
        })
        .collect()
}

/// Another tool's packet rules that would take traffic before ours or change our marks, in words; none if there are none.
pub fn obstacle(listed: &[Listed]) -> Option<String> {
    let ours = table(true, &Probed::new());
    let hooks = [Hook::Prerouting as u32, Hook::Output as u32];
    listed
        .iter()
        .filter(|chain| !ours.owns(chain) && !chain.rules.is_empty())
        .find_map(|chain| {
            let base = chain.base.as_ref()?;
            let family = family_name(chain.family)?;
            let in_the_way =
                matches!(base.kind.as_str(), "nat" | "route") || base.priority == MANGLE;
            (hooks.contains(&base.hook) && in_the_way).then(|| {
                format!(
                    "nftables chain {} of table {family} {} has rules of another tool",
                    chain.chain, chain.table
                )
            })
        })
}

/// As [`obstacle`], for routes and routing rules.
pub fn routing_obstacle(routes: &[route::Route], rules: &[route::Rule]) -> Option<String> {
    if routes
        .iter()
        .any(|route| route.table == ROUTING_TABLE && route.protocol != PROTOCOL)
    {
        return Some(format!(
            "routing table {ROUTING_TABLE} has routes of another tool"
        ));
    }
    let taken =
        |rule: &&route::Rule| rule.priority == ROUTING_PRIORITY && rule.protocol != PROTOCOL;
    rules
        .iter()
        .find(taken)
        .map(|_| format!("a routing rule of another tool has preference {ROUTING_PRIORITY}"))
}

/// What differs between the families.
struct Family {
    any: IpAddr,
    not_loopback: Match,
    probe: IpAddr,
}

fn families(v6: bool) -> impl Iterator<Item = Family> {
    let family = |any: IpAddr, loopback: IpAddr, probe: IpAddr| {
        let not_loopback = Match::Destination {
            ip: loopback,
            prefix: whole(loopback),
            is: false,
        };
        Family {
            any,
            not_loopback,
            probe,
        }
    };
    let four = family(
        Ipv4Addr::UNSPECIFIED.into(),
        Ipv4Addr::LOCALHOST.into(),
        PROBE.into(),
    );
    let six = family(
        Ipv6Addr::UNSPECIFIED.into(),
        Ipv6Addr::LOCALHOST.into(),
        PROBE6.into(),
    );
    [Some(four), v6.then_some(six)].into_iter().flatten()
}

/// The prefix length that means this address alone.
fn whole(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

fn mark(mark: u32, is: bool) -> Match {
    Match::Mark {
        mark,
        mask: MASK,
        is,
    }
}

/// A client's own connection to the pod, which was redirected, and the proxy's in its name may have the same ports.
fn track_apart() -> Rule {
    Rule {
        when: vec![mark(PACKET_MARK, true)],
        then: Action::TrackApart(PROXY_ZONE),
    }
}

fn mark_connection() -> Rule {
    let then = Action::MarkConnection {
        mark: CONNECTION_MARK,
        mask: MASK,
    };
    Rule {
        when: vec![mark(PACKET_MARK, true)],
        then,
    }
}

fn restore_mark() -> Rule {
    let when = vec![Match::ConnectionMark {
        mark: CONNECTION_MARK,
        mask: MASK,
        is: true,
    }];
    Rule {
        when,
        then: Action::RestoreMark,
    }
}

/// First packets of connections that arrive.
fn arriving(v6: bool, probed: &Probed) -> Vec<Rule> {
    let mut rules = Vec::new();
    for family in families(v6) {
        rules.extend(probes(&family, probed));
        let other = Match::Port {
            port: TUNNEL,
            is: false,
        };
        let when = vec![
            family.not_loopback,
            Match::Tcp,
            Match::Opening,
            other,
            mark(PACKET_MARK, false),
        ];
        rules.push(Rule {
            when,
            then: Action::Redirect(INBOUND_PLAINTEXT),
        });
    }
    rules
}

/// What the node sends to ask how the pod is.
fn probes(family: &Family, probed: &Probed) -> Vec<Rule> {
    let probe = Match::Source {
        ip: family.probe,
        prefix: whole(family.probe),
        is: true,
    };
    let rules = probed.iter().map(|port| Rule {
        when: vec![
            probe.clone(),
            Match::Tcp,
            Match::Port {
                port: *port,
                is: true,
            },
        ],
        then: Action::Accept,
    });
    rules.collect()
}

/// Connections that are opened to this pod, where they end: what redirection has missed, as where the kernel took a stray packet
/// for the first one of the connection, reaches nobody.
fn opened(v6: bool, probed: &Probed) -> Vec<Rule> {
    let mut rules: Vec<_> = families(v6)
        .flat_map(|family| probes(&family, probed))
        .collect();
    let not_to = |port| Match::Port { port, is: false };
    let arrives = Match::In {
        name: "lo".into(),
        is: false,
    };
    rules.push(Rule {
        when: vec![
            Match::Tcp,
            Match::Opening,
            arrives,
            not_to(INBOUND_PLAINTEXT),
            not_to(TUNNEL),
            mark(PACKET_MARK, false),
        ],
        then: Action::Drop,
    });
    rules
}

/// First packets of connections that the pod makes.
fn leaving(v6: bool) -> Vec<Rule> {
    let mut rules = Vec::new();
    for family in families(v6) {
        let probe = Match::Destination {
            ip: family.probe,
            prefix: whole(family.probe),
            is: true,
        };
        rules.push(Rule {
            when: vec![probe, Match::Tcp],
            then: Action::Accept,
        });
    }
    rules.push(Rule {
        when: vec![Match::Tcp, mark(CONNECTION_MARK, true)],
        then: Action::Accept,
    });
    for family in families(v6) {
        // The pod to itself, by its own address.
        let itself = vec![
            Match::Out {
                name: "lo".into(),
                is: true,
            },
            family.not_loopback.clone(),
        ];
        rules.push(Rule {
            when: itself,
            then: Action::Accept,
        });
        let when = vec![
            Match::Tcp,
            Match::Opening,
            family.not_loopback,
            mark(PACKET_MARK, false),
        ];
        rules.push(Rule {
            when,
            then: Action::Redirect(OUTBOUND),
        });
    }
    rules
}

/// The families whose packets are IP.
fn family_name(family: u8) -> Option<&'static str> {
    match family {
        1 => Some("inet"),
        2 => Some("ip"),
        10 => Some("ip6"),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
