//! How every refusal looks from outside.
#![allow(clippy::too_many_lines, reason = "a table is as long as it has rows")]

use super::*;

/// One of each, or more where what is inside matters: status, flag, blame, whether to retry, words.
fn all() -> Vec<(Refusal, u16, Flag, Blame, bool, &'static str)> {
    use {Blame::*, Refusal::*};
    let to: SocketAddr = "10.0.0.2:80".parse().unwrap();
    let text = || "x".to_owned();
    let name = Name::from("shop/p");
    let tunnel = |stage| Tunnel {
        to,
        stage,
        reason: text(),
    };
    let identity = Identity::new("cluster.local", "shop", "a");
    let no_waypoint = |address: &str, port, lack| NoWaypoint {
        service: name,
        waypoint: Gateway::Address {
            network: Name::EMPTY,
            address: address.parse().unwrap(),
            port,
        },
        lack,
    };
    let by_waypoint = |status| RefusedByWaypoint {
        waypoint: text(),
        peer: to,
        status,
    };
    vec![
        (
            ApplicationTunnel,
            503,
            Flag::Connect,
            Mesh,
            false,
            "the workload wants an application tunnel, which is not served",
        ),
        (
            BadAuthority(text()),
            400,
            Flag::Connect,
            Client,
            false,
            "authority \"x\" is not an address and a port",
        ),
        (
            BadMethod(text()),
            400,
            Flag::Connect,
            Client,
            false,
            "method \"x\" is not CONNECT",
        ),
        (
            Denied(Denial::Denied(name)),
            401,
            Flag::Deny,
            Client,
            false,
            "connection closed due to policy rejection: denied by policy shop/p",
        ),
        (
            ForeignNetwork("far".into()),
            503,
            Flag::Connect,
            Mesh,
            false,
            "the destination is on network \"far\", which is not served",
        ),
        (
            HostnameWorkload(text()),
            503,
            Flag::Connect,
            Mesh,
            false,
            "workload x has a host name to resolve, which is not served",
        ),
        (
            Loop(to),
            503,
            Flag::Connect,
            Client,
            false,
            "10.0.0.2:80 leads back to this proxy",
        ),
        (
            NoAddress(text()),
            503,
            Flag::Connect,
            Mesh,
            false,
            "workload x has no address that can be used",
        ),
        (
            NoCertificate {
                identity,
                reason: text(),
            },
            503,
            Flag::Identity,
            Mesh,
            false,
            "no certificate for spiffe://cluster.local/ns/shop/sa/a: x",
        ),
        (
            NoHealthyEndpoint(name),
            503,
            Flag::Connect,
            Server,
            false,
            "no healthy endpoint in service shop/p",
        ),
        (
            NoSuchPort {
                service: name,
                port: 81,
            },
            503,
            Flag::Connect,
            Client,
            false,
            "service shop/p has no port 81",
        ),
        (
            NotKnownYet(text()),
            503,
            Flag::Connect,
            Mesh,
            false,
            "the control plane has not sent x yet",
        ),
        (
            NotThisPod {
                authority: text(),
                pod: to,
            },
            400,
            Flag::Connect,
            Client,
            false,
            "ip mismatch: authority x is not 10.0.0.2:80",
        ),
        (
            ProxyPort(15_008),
            503,
            Flag::Connect,
            Client,
            false,
            "port 15008 belongs to the proxy",
        ),
        (
            RefusedByPeer {
                peer: to,
                status: 401,
            },
            503,
            Flag::Deny,
            Server,
            false,
            "10.0.0.2:80 answered 401",
        ),
        (
            RefusedByPeer {
                peer: to,
                status: 503,
            },
            503,
            Flag::Connect,
            Server,
            false,
            "10.0.0.2:80 answered 503",
        ),
        (
            TooMany,
            503,
            Flag::Connect,
            Client,
            false,
            "too many connections of this workload",
        ),
        (
            tunnel(Stage::Connect),
            503,
            Flag::Connect,
            Mesh,
            true,
            "no tunnel to 10.0.0.2:80: tcp: x",
        ),
        (
            tunnel(Stage::Tls),
            503,
            Flag::Tls,
            Mesh,
            false,
            "no tunnel to 10.0.0.2:80: tls: x",
        ),
        (
            tunnel(Stage::Http2),
            503,
            Flag::Http2,
            Mesh,
            false,
            "no tunnel to 10.0.0.2:80: http/2: x",
        ),
        (
            Unreachable { to, reason: text() },
            503,
            Flag::Connect,
            Server,
            true,
            "no connection to 10.0.0.2:80: x",
        ),
        (
            Unusable(text()),
            503,
            Flag::Connect,
            Mesh,
            false,
            "resource x could not be understood, so nothing goes there",
        ),
        (
            WeightedWaypoints(text()),
            503,
            Flag::Connect,
            Mesh,
            false,
            "service x has weighted waypoints, which is not served; nothing goes around it",
        ),
        (
            WorkloadWaypoint(text()),
            503,
            Flag::Connect,
            Mesh,
            false,
            "workload x has a waypoint, which is not served; nothing goes around it",
        ),
        (
            no_waypoint("10.0.0.9", 15_008, Lack::Unknown),
            503,
            Flag::Connect,
            Mesh,
            false,
            "service shop/p has waypoint 10.0.0.9, and nothing goes around it: it is unknown",
        ),
        (
            no_waypoint("fd00::9", 1, Lack::NoHealthyEndpoint),
            503,
            Flag::Connect,
            Mesh,
            false,
            "service shop/p has waypoint fd00::9 port 1, and nothing goes around it: it has no healthy endpoint",
        ),
        (
            no_waypoint("10.0.0.9", 15_008, Lack::ForeignNetwork("far".into())),
            503,
            Flag::Connect,
            Mesh,
            false,
            "service shop/p has waypoint 10.0.0.9, and nothing goes around it: it is on network \"far\", which is not served",
        ),
        (
            no_waypoint("10.0.0.9", 15_008, Lack::Itself),
            503,
            Flag::Connect,
            Mesh,
            false,
            "service shop/p has waypoint 10.0.0.9, and nothing goes around it: the client is that waypoint itself",
        ),
        (
            no_waypoint("10.0.0.9", 15_008, Lack::NotUnderstood),
            503,
            Flag::Connect,
            Mesh,
            false,
            "service shop/p has waypoint 10.0.0.9, and nothing goes around it: what it says of itself could not be understood",
        ),
        (
            by_waypoint(503),
            503,
            Flag::Connect,
            Server,
            false,
            "waypoint x at 10.0.0.2:80 answered 503",
        ),
        (
            by_waypoint(401),
            503,
            Flag::Deny,
            Server,
            false,
            "waypoint x at 10.0.0.2:80 answered 401",
        ),
        (
            by_waypoint(403),
            503,
            Flag::Deny,
            Server,
            false,
            "waypoint x at 10.0.0.2:80 answered 403",
        ),
    ]
}

#[test]
fn every_refusal_has_one_look_from_outside() {
    for (refusal, status, flag, blame, retryable, words) in all() {
        let look = (
            refusal.status(),
            refusal.flag(),
            refusal.blame(),
            refusal.retryable(),
        );
        assert_eq!(look, (status, flag, blame, retryable), "{refusal:?}");
        assert_eq!(refusal.to_string(), words);
    }
}

#[test]
fn only_a_denial_names_a_policy() {
    for (refusal, ..) in all() {
        let expected = matches!(refusal, Refusal::Denied(_)).then(|| "shop/p".into());
        assert_eq!(refusal.policy(), expected, "{refusal:?}");
    }
}

#[test]
fn what_a_peer_writes_is_escaped() {
    let nasty = "a\n\u{1b}[31m\0".to_owned();
    for refusal in [
        Refusal::BadAuthority(nasty.clone()),
        Refusal::BadMethod(nasty),
    ] {
        assert!(
            refusal.to_string().chars().all(|c| !c.is_control()),
            "{refusal}"
        );
    }
}
