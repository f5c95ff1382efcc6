//! Tables: what may enter a pod, and all that may not.

use proto::{
    security::{
        Action, Authorization, Match, Presence, Scope, StringMatch, string_match::MatchType,
    },
    workload::{self as wire, address::Type},
};

use super::*;
use crate::{
    decide::Denial,
    fixture::{
        addresses, authorizations, endpoint_of, generation, policy, port, removing, service, store,
        to_port, trust, uid, workload,
    },
};

const OWN: &str = "10.0.0.2";

fn pod() -> Pod {
    Pod {
        uid: uid("server").into(),
        identity: Identity::new("cluster.local", "shop", "server"),
    }
}

fn client() -> Identity {
    Identity::new("cluster.local", "shop", "client")
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn server() -> wire::Workload {
    workload("server", &[OWN, "fd00::2"])
}

fn mesh(policies: &[Authorization]) -> Arc<Generation> {
    generation(
        &[server(), workload("other", &["10.0.0.3"])],
        &[service("s", &["10.96.0.1"])],
        policies,
    )
}

/// Asks for `authority` in a tunnel from 10.0.0.1 to `at`.
fn tunnelled(mesh: &Generation, at: &str, authority: &str) -> Outcome<Admission> {
    admit(
        mesh,
        &pod(),
        Arrival::Tunnelled {
            peer: client(),
            at: ip(at),
            authority,
        },
        ip("10.0.0.1"),
    )
}

fn plain(mesh: &Generation, to: &str) -> Outcome<Admission> {
    admit(
        mesh,
        &pod(),
        Arrival::Plain {
            to: to.parse().unwrap(),
        },
        ip("10.0.0.1"),
    )
}

fn admitted(outcome: Outcome<Admission>) -> Admission {
    match outcome {
        Outcome::Do(admission) => admission,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_authority_that_is_this_pod_enters_at_its_port() {
    for (at, authority, to) in [
        (OWN, "10.0.0.2:80", "10.0.0.2:80"),
        (OWN, "10.0.0.2:65535", "10.0.0.2:65535"),
        (OWN, "[::ffff:10.0.0.2]:80", "10.0.0.2:80"),
        ("::ffff:10.0.0.2", "10.0.0.2:80", "10.0.0.2:80"),
        ("fd00::2", "[fd00::2]:80", "[fd00::2]:80"),
        ("fd00::2", "[fd00:0:0::2]:80", "[fd00::2]:80"),
    ] {
        let admission = admitted(tunnelled(&mesh(&[]), at, authority));
        assert_eq!(admission.to, to.parse().unwrap(), "{authority}");
        assert_eq!(admission.from, Some(ip("10.0.0.1")));
        assert_eq!(*admission.workload.uid, *uid("server"));
        assert_eq!((admission.allowed_by, admission.dry_run), (None, vec![]));
    }
}

#[test]
fn an_authority_that_is_not_an_address_and_a_port_is_refused() {
    for authority in [
        "",
        ":80",
        "10.0.0.2",
        "10.0.0.2:",
        "10.0.0.2:0",
        "10.0.0.2:00",
        "10.0.0.2:080",
        "10.0.0.2:65536",
        "10.0.0.2:-1",
        "10.0.0.2:+80",
        "10.0.0.2:0x50",
        "10.0.0.2:http",
        "10.0.0.2:80:80",
        "10.0.0.2:80/",
        "10.0.0.2:80/path",
        "10.0.0.2:80?x",
        "10.0.0.2:80\0",
        " 10.0.0.2:80",
        "10.0.0.2:80 ",
        "10.0.0.2 :80",
        "10.0.0.2:\t80",
        "10.0.0.2:80\r\n",
        "010.0.0.2:80",
        "10.0.0.002:80",
        "10.0.2:80",
        "0xa.0.0.2:80",
        "167772162:80",
        "10.0.0.2.:80",
        "[10.0.0.2]:80",
        "user@10.0.0.2:80",
        "user:pass@10.0.0.2:80",
        "http://10.0.0.2:80",
        "localhost:80",
        "server:80",
        "s.shop.svc.cluster.local:80",
        "fd00::2:80",
        "[fd00::2]",
        "[fd00::2]:",
        "[fd00::2]:0",
        "[fd00::2]80",
        "[fd00::2%1]:80",
        "[fd00::2%0]:80",
        "[fd00::2%eth0]:80",
        "[fd00::2%25eth0]:80",
        "[fd00::2:80",
        "10.0.0.2:80,10.0.0.2:81",
        "１０.0.0.2:80",
    ] {
        for at in [OWN, "fd00::2"] {
            let refused = Outcome::Refuse(Refusal::BadAuthority(authority.to_owned()));
            assert_eq!(
                tunnelled(&mesh(&[]), at, authority),
                refused,
                "{authority:?}"
            );
        }
    }
}

#[test]
fn an_authority_that_is_not_this_pod_is_refused() {
    for authority in [
        "0.0.0.0:80",
        "127.0.0.1:80",
        "[::1]:80",
        "[::]:80",
        "[::ffff:127.0.0.1]:80",
        "[::ffff:10.0.0.3]:80",
        "[::10.0.0.2]:80",
        "10.0.0.3:80",
        "10.0.0.1:80",
        "169.254.169.254:80",
        "192.168.0.10:10250",
        "10.96.0.1:80",
        "255.255.255.255:80",
        "[fd00::2]:80",
        "[fe80::1]:80",
        "1.2.3.4:80",
    ] {
        let pod = SocketAddr::new(ip(OWN), authority.parse::<SocketAddr>().unwrap().port());
        let refusal = Refusal::NotThisPod {
            authority: authority.to_owned(),
            pod,
        };
        assert_eq!(refusal.status(), 400);
        // The other address of the pod came with another tunnel.
        assert_eq!(
            tunnelled(&mesh(&[]), OWN, authority),
            Outcome::Refuse(refusal),
            "{authority}"
        );
    }
}

#[test]
fn the_ports_of_the_proxy_do_not_lead_into_the_pod() {
    for port in PROXY_PORTS {
        let refused = Outcome::Refuse(Refusal::ProxyPort(port));
        // Whether anything is known or not.
        for mesh in [mesh(&[]), store().current()] {
            assert_eq!(tunnelled(&mesh, OWN, &format!("{OWN}:{port}")), refused);
            assert_eq!(plain(&mesh, &format!("{OWN}:{port}")), refused);
            assert_eq!(plain(&mesh, &format!("[::ffff:{OWN}]:{port}")), refused);
        }
    }
}

#[test]
fn plain_text_goes_where_it_was_going() {
    let admission = admitted(plain(&mesh(&[]), "10.0.0.2:80"));
    assert_eq!(
        (admission.to, admission.from),
        ("10.0.0.2:80".parse().unwrap(), Some(ip("10.0.0.1")))
    );
    let admission = admitted(plain(&mesh(&[]), "[::ffff:10.0.0.2]:80"));
    assert_eq!(admission.to, "10.0.0.2:80".parse().unwrap());
}

#[test]
fn a_client_in_the_pod_itself_is_not_impersonated() {
    let mesh = mesh(&[]);
    let arrival = |peer| Arrival::Tunnelled {
        peer,
        at: ip(OWN),
        authority: "10.0.0.2:80",
    };
    for (source, from) in [
        (OWN, None),
        ("::ffff:10.0.0.2", None),
        ("10.0.0.1", Some("10.0.0.1")),
        ("::ffff:10.0.0.1", Some("10.0.0.1")),
    ] {
        let admission = admitted(admit(&mesh, &pod(), arrival(client()), ip(source)));
        assert_eq!(admission.from, from.map(ip), "{source}");
        let plain = Arrival::Plain {
            to: "10.0.0.2:80".parse().unwrap(),
        };
        assert_eq!(
            admitted(admit(&mesh, &pod(), plain, ip(source))).from,
            from.map(ip)
        );
    }
}

#[test]
fn policy_sees_the_peer_its_address_and_the_port_in_the_pod() {
    let exact = |text: &str| StringMatch {
        match_type: Some(MatchType::Exact(text.to_owned())),
    };
    let range = |text: &str| proto::security::Address {
        address: crate::fixture::bytes(text),
        length: 32,
    };
    let all = Match {
        principals: vec![exact("cluster.local/ns/shop/sa/client")],
        source_ips: vec![range("10.0.0.1")],
        destination_ips: vec![range(OWN)],
        destination_ports: vec![80],
        ..Default::default()
    };
    let allow = policy("p", Scope::Namespace, Action::Allow, &[all]);
    let mesh = mesh(&[allow]);
    let name = Name::from("shop/p");
    assert_eq!(
        admitted(tunnelled(&mesh, OWN, "10.0.0.2:80")).allowed_by,
        Some(name)
    );
    let denied = Outcome::Refuse(Refusal::Denied(Denial::NotAllowed(name)));
    assert_eq!(tunnelled(&mesh, OWN, "10.0.0.2:81"), denied);
    assert_eq!(plain(&mesh, "10.0.0.2:80"), denied);
    let arrival = |peer| Arrival::Tunnelled {
        peer,
        at: ip(OWN),
        authority: "10.0.0.2:80",
    };
    assert_eq!(
        admit(&mesh, &pod(), arrival(client()), ip("10.0.0.9")),
        denied
    );
    assert_eq!(
        admit(&mesh, &pod(), arrival(pod().identity), ip("10.0.0.1")),
        denied
    );
    let mapped = ip("::ffff:10.0.0.1");
    assert_eq!(
        admitted(admit(&mesh, &pod(), arrival(client()), mapped)).allowed_by,
        Some(name)
    );
}

#[test]
fn a_denial_names_its_policy_and_answers_401() {
    let deny = policy("p", Scope::Namespace, Action::Deny, &[to_port(80)]);
    for outcome in [
        tunnelled(&mesh(std::slice::from_ref(&deny)), OWN, "10.0.0.2:80"),
        plain(&mesh(&[deny]), "10.0.0.2:80"),
    ] {
        let Outcome::Refuse(refusal) = outcome else {
            panic!("{outcome:?}")
        };
        assert_eq!(refusal, Refusal::Denied(Denial::Denied("shop/p".into())));
        assert_eq!(
            (refusal.status(), refusal.policy()),
            (401, Some("shop/p".into()))
        );
    }
}

#[test]
fn strict_shuts_out_plain_text() {
    let presence = StringMatch {
        match_type: Some(MatchType::Presence(Presence {})),
    };
    let nobody = Match {
        not_principals: vec![presence],
        ..Default::default()
    };
    let mesh = mesh(&[policy("strict", Scope::Namespace, Action::Deny, &[nobody])]);
    let denied = Outcome::Refuse(Refusal::Denied(Denial::Denied("shop/strict".into())));
    assert_eq!(plain(&mesh, "10.0.0.2:80"), denied);
    admitted(tunnelled(&mesh, OWN, "10.0.0.2:80"));
}

#[test]
fn what_a_dry_run_would_deny_is_told() {
    let deny = policy("p", Scope::Namespace, Action::Deny, &[to_port(80)]);
    let dry = Authorization {
        dry_run: true,
        ..deny
    };
    let admission = admitted(tunnelled(&mesh(&[dry]), OWN, "10.0.0.2:80"));
    assert_eq!(admission.dry_run, [Name::from("shop/p")]);
}

#[test]
fn nobody_enters_before_the_first_state() {
    let first = Outcome::Ask(Question::FirstState);
    let mut store = store();
    let asked = |store: &crate::store::Store| {
        let mesh = store.current();
        [
            tunnelled(&mesh, OWN, "10.0.0.2:80"),
            plain(&mesh, "10.0.0.2:80"),
        ]
    };
    assert_eq!(asked(&store), [first.clone(), first.clone()]);
    // The workload alone does not say what its policies are.
    store.apply(&addresses([Type::Workload(server())]));
    assert_eq!(asked(&store), [first.clone(), first]);
    store.apply(&authorizations([]));
    for outcome in asked(&store) {
        admitted(outcome);
    }
}

#[test]
fn nobody_enters_a_pod_whose_workload_is_not_known() {
    let own = Outcome::Ask(Question::OwnWorkload);
    let somebody_else = wire::Workload {
        service_account: "other".into(),
        ..server()
    };
    let elsewhere = wire::Workload {
        namespace: "bank".into(),
        ..server()
    };
    let foreign = wire::Workload {
        trust_domain: "other".into(),
        ..server()
    };
    for workloads in [
        vec![],
        // Another at the same address.
        vec![workload("other", &[OWN])],
        // The same uid, but somebody else.
        vec![somebody_else],
        vec![elsewhere],
        vec![foreign],
    ] {
        let mesh = generation(&workloads, &[], &[]);
        assert_eq!(tunnelled(&mesh, OWN, "10.0.0.2:80"), own, "{workloads:?}");
        assert_eq!(plain(&mesh, "10.0.0.2:80"), own, "{workloads:?}");
    }
    let mut store = store();
    store.apply(&addresses([Type::Workload(server())]));
    store.apply(&authorizations([]));
    store.apply(&removing(addresses([]), &[&uid("server")]));
    assert_eq!(tunnelled(&store.current(), OWN, "10.0.0.2:80"), own);
}

#[test]
fn an_application_tunnel_is_not_gone_around() {
    let tunnel = wire::ApplicationTunnel {
        protocol: 1,
        port: 15088,
    };
    let server = wire::Workload {
        application_tunnel: Some(tunnel),
        ..server()
    };
    let mesh = generation(&[server], &[], &[]);
    let refused = Outcome::Refuse(Refusal::ApplicationTunnel);
    assert_eq!(tunnelled(&mesh, OWN, "10.0.0.2:80"), refused);
    assert_eq!(plain(&mesh, "10.0.0.2:80"), refused);
}

const WAYPOINT: &str = "spiffe://cluster.local/ns/shop/sa/waypoint";

/// A service's name, its ports, and whom it trusts.
type Trusting<'a> = (&'a str, &'a [(u32, u32)], &'a [&'a str]);

/// A mesh with a written policy that denies every port, a generated one that denies port 82, and the pod as an endpoint of
/// services whose ports and trust are these.
fn trusting_mesh(services: &[Trusting<'_>], own: &[(u32, u32)]) -> Arc<Generation> {
    let range = |ports: std::ops::Range<u32>| Match {
        destination_ports: ports.collect(),
        ..Default::default()
    };
    let policies = [
        policy(
            "written",
            Scope::Namespace,
            Action::Deny,
            &[range(1..20_000)],
        ),
        policy("made_p", Scope::Namespace, Action::Deny, &[to_port(82)]),
    ];
    let mut server = server();
    let mut all = Vec::new();
    for (name, ports, trusted) in services {
        server = endpoint_of(server, name, own);
        all.push(wire::Service {
            ports: ports.iter().map(|(s, t)| port(*s, *t)).collect(),
            extensions: vec![trust(trusted)],
            ..service(name, &[])
        });
    }
    generation(&[server], &all, &policies)
}

/// Who denies `peer` at a port of the pod, or `in`.
fn met(mesh: &Generation, peer: &str, port: u16) -> String {
    let authority = format!("{OWN}:{port}");
    let arrival = Arrival::Tunnelled {
        peer: peer.parse().unwrap(),
        at: ip(OWN),
        authority: &authority,
    };
    match admit(mesh, &pod(), arrival, ip("10.0.0.1")) {
        Outcome::Do(admission) => {
            assert!(admission.trusted_by.is_some());
            "in".to_owned()
        }
        Outcome::Refuse(Refusal::Denied(denial)) => denial.policy().to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn written_policies_are_not_decided_again_for_a_trusted_waypoint_at_a_target_port() {
    let (written, made) = ("shop/written", "shop/made_p");
    let only = [WAYPOINT];
    let s: &[Trusting<'_>] = &[("s", &[(80, 8080), (82, 82)], &only)];
    let mesh = trusting_mesh(s, &[]);
    for (peer, port, expected) in [
        (WAYPOINT, 8080, "in"),
        // The generated ones are, at that port as at others.
        (WAYPOINT, 82, made),
        // Not the service's port, only what it leads to; and no other one.
        (WAYPOINT, 80, written),
        (WAYPOINT, 8081, written),
        (WAYPOINT, 15_000, written),
        // Only who is named.
        ("spiffe://cluster.local/ns/shop/sa/client", 8080, written),
        ("spiffe://cluster.local/ns/shop/sa/waypoint2", 8080, written),
        ("spiffe://cluster.local/ns/bank/sa/waypoint", 8080, written),
        ("spiffe://other/ns/shop/sa/waypoint", 8080, written),
        // Not even the pod itself.
        ("spiffe://cluster.local/ns/shop/sa/server", 8080, written),
    ] {
        assert_eq!(met(&mesh, peer, port), expected, "{peer} {port}");
    }
}

#[test]
fn a_target_port_is_the_workloads_own_before_the_services() {
    let (trusted, written) = ([WAYPOINT], "shop/written");
    let s: &[Trusting<'_>] = &[("s", &[(80, 8080), (81, 0)], &trusted)];
    for (own, port, expected) in [
        (&[][..], 8080, "in"),
        (&[], 81, written),
        (&[(80, 9090)], 9090, "in"),
        (&[(80, 9090)], 8080, written),
        (&[(81, 9091)], 9091, "in"),
        (&[(81, 9091)], 8080, "in"),
        (&[(80, 0)], 8080, "in"),
        // A port that the service does not have leads nowhere.
        (&[(99, 9099)], 9099, written),
    ] {
        let mesh = trusting_mesh(s, own);
        assert_eq!(met(&mesh, WAYPOINT, port), expected, "{own:?} {port}");
    }
}

#[test]
fn who_is_trusted_by_another_service_is_not_trusted_here() {
    let (trusted, written) = ([WAYPOINT], "shop/written");
    let other = "spiffe://cluster.local/ns/shop/sa/other";
    let others = [other];
    let two: &[Trusting<'_>] = &[
        ("s", &[(80, 8080)], &trusted),
        ("t", &[(80, 9090)], &others),
    ];
    let mesh = trusting_mesh(two, &[]);
    for (peer, port, expected) in [
        (WAYPOINT, 8080, "in"),
        (WAYPOINT, 9090, written),
        (other, 9090, "in"),
        (other, 8080, written),
    ] {
        assert_eq!(met(&mesh, peer, port), expected, "{peer} {port}");
    }
    // A service that the pod is no endpoint of, and one that nobody knows.
    let deny = policy("written", Scope::Namespace, Action::Deny, &[to_port(8080)]);
    let s = wire::Service {
        extensions: vec![trust(&trusted)],
        ..service("s", &[])
    };
    let elsewhere = generation(
        &[
            server(),
            endpoint_of(workload("a", &["10.0.0.3"]), "s", &[]),
        ],
        &[s],
        std::slice::from_ref(&deny),
    );
    assert_eq!(met(&elsewhere, WAYPOINT, 8080), written);
    let unknown = generation(&[endpoint_of(server(), "s", &[])], &[], &[deny]);
    assert_eq!(met(&unknown, WAYPOINT, 8080), written);
}

#[test]
fn trust_is_not_for_plain_text() {
    let trusted = [WAYPOINT];
    let mesh = trusting_mesh(&[("s", &[(80, 8080)], &trusted)], &[]);
    let denied = Denial::Denied("shop/written".into());
    assert_eq!(
        plain(&mesh, "10.0.0.2:8080"),
        Outcome::Refuse(Refusal::Denied(denied))
    );
}

#[test]
fn trust_that_is_taken_back_or_garbled_is_none() {
    let deny = policy("written", Scope::Namespace, Action::Deny, &[to_port(8080)]);
    let told = |extensions: Vec<wire::Extension>| {
        Type::Service(wire::Service {
            extensions,
            ..service("s", &[])
        })
    };
    let mut garbled = trust(&[WAYPOINT]);
    garbled.config.as_mut().unwrap().value.push(0xff);
    let mut store = store();
    store.apply(&addresses([Type::Workload(endpoint_of(
        server(),
        "s",
        &[],
    ))]));
    store.apply(&authorizations([deny]));
    for (extensions, expected, complaints) in [
        (vec![], "shop/written", 0),
        (vec![trust(&[WAYPOINT])], "in", 0),
        (vec![garbled], "shop/written", 1),
        (vec![trust(&[WAYPOINT])], "in", 0),
        (vec![trust(&[])], "shop/written", 0),
    ] {
        let (rejected, _) = store.apply(&addresses([told(extensions)]));
        assert_eq!(rejected.len(), complaints, "{rejected:?}");
        assert_eq!(met(&store.current(), WAYPOINT, 8080), expected);
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig {
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn nothing_but_this_pod_is_admitted(authority in "[\\[\\]:.%/@ 0-9a-f]{0,24}") {
        if let Outcome::Do(admission) = tunnelled(&mesh(&[]), OWN, &authority) {
            proptest::prop_assert_eq!(admission.to.ip(), ip(OWN));
        }
    }
}
