//! Facts about what a subscriber is sent, and in which order.

use proptest::{collection::vec, prelude::*};
use proto::{
    discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    rpc, security,
    workload::{Address, Service, Workload, address::Type},
};

use super::*;

mod waypoint;

const CART: &str = "Kubernetes//Pod/shop/cart";

fn workload(uid: &str, policies: &[&str]) -> (String, Address) {
    let authorization_policies = policies.iter().map(|name| (*name).to_owned()).collect();
    let workload = Workload {
        uid: uid.to_owned(),
        authorization_policies,
        ..Default::default()
    };
    (
        uid.to_owned(),
        Address {
            r#type: Some(Type::Workload(workload)),
        },
    )
}

fn service(name: &str, padding: usize) -> (String, Address) {
    let service = Service {
        hostname: "x".repeat(padding),
        ..Default::default()
    };
    (
        name.to_owned(),
        Address {
            r#type: Some(Type::Service(service)),
        },
    )
}

fn policy(
    name: &str,
    scope: security::Scope,
    action: security::Action,
) -> (String, security::Authorization) {
    let policy = security::Authorization {
        name: name.to_owned(),
        scope: scope as i32,
        action: action as i32,
        ..Default::default()
    };
    (format!("shop/{name}"), policy)
}

fn named(name: &str) -> (String, security::Authorization) {
    policy(
        name,
        security::Scope::WorkloadSelector,
        security::Action::Allow,
    )
}

fn wide(name: &str) -> (String, security::Authorization) {
    policy(name, security::Scope::Namespace, security::Action::Allow)
}

fn snapshot(
    addresses: &[(String, Address)],
    policies: &[(String, security::Authorization)],
) -> Arc<Snapshot> {
    let addresses = addresses.iter().cloned().collect();
    let compiled = compiled(addresses, policies.iter().cloned().collect());
    Arc::new(Snapshot::new(&compiled, &Snapshot::default()))
}

fn compiled(
    addresses: BTreeMap<String, Address>,
    authorizations: BTreeMap<String, security::Authorization>,
) -> Compiled {
    let addresses = addresses.into_iter();
    Compiled {
        addresses: addresses.map(|(name, it)| (name, Arc::new(it))).collect(),
        authorizations,
        ..Compiled::default()
    }
}

/// A node's stream.
fn stream() -> Stream {
    Stream::new(Subject::Node("n1".to_owned()))
}

/// The kinds that it is served.
const NODE: [Kind; 2] = [Kind::Address, Kind::Authorization];

fn request(kind: Kind) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: kind.type_url().to_owned(),
        ..Default::default()
    }
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// A subscriber to everything that holds this state.
fn subscribed(snapshot: &Arc<Snapshot>) -> Stream {
    let mut stream = stream();
    for kind in NODE {
        stream.request(request(kind)).unwrap();
    }
    stream.push(snapshot);
    stream
}

/// A push in short: `A+name` for an address sent, `P-name` for a policy removed; responses are parted by `|`.
fn short(responses: &[DeltaDiscoveryResponse]) -> String {
    let one = |response: &DeltaDiscoveryResponse| {
        let kind = if response.type_url == ADDRESS_TYPE {
            "A"
        } else {
            "P"
        };
        let sent = response.resources.iter().map(|resource| {
            let mut text = format!("{kind}+{}", resource.name);
            if let Some(Type::Workload(workload)) = decode(resource) {
                text += &format!("({})", workload.authorization_policies.join(","));
            }
            text
        });
        let removed = response
            .removed_resources
            .iter()
            .map(|name| format!("{kind}-{name}"));
        let all: Vec<String> = sent.chain(removed).collect();
        if all.is_empty() {
            format!("{kind} nothing")
        } else {
            all.join(" ")
        }
    };
    responses.iter().map(one).collect::<Vec<_>>().join(" | ")
}

fn decode(resource: &proto::discovery::Resource) -> Option<Type> {
    let any = resource.resource.as_ref()?;
    if any.type_url == ADDRESS_TYPE {
        Address::decode(any.value.as_slice()).ok()?.r#type
    } else {
        None
    }
}

#[test]
fn the_first_request_of_each_type_is_answered_even_with_nothing() {
    let mut stream = stream();
    let empty = snapshot(&[], &[]);
    assert_eq!(short(&stream.push(&empty)), "");
    stream.request(request(Kind::Address)).unwrap();
    assert_eq!(short(&stream.push(&empty)), "A nothing");
    stream.request(request(Kind::Authorization)).unwrap();
    assert_eq!(short(&stream.push(&empty)), "P nothing");
    assert_eq!(short(&stream.push(&empty)), "");
}

#[test]
fn only_what_changed_is_sent() {
    let before = snapshot(
        &[workload("a", &[]), workload("b", &[]), service("s", 1)],
        &[wide("p")],
    );
    let after = snapshot(
        &[workload("a", &[]), service("s", 2), service("t", 1)],
        &[wide("p")],
    );
    let mut stream = subscribed(&before);
    assert_eq!(short(&stream.push(&before)), "");
    assert_eq!(short(&stream.push(&after)), "A+s A+t A-b");
    assert_eq!(short(&stream.push(&after)), "");
}

#[test]
fn a_slow_subscriber_skips_states() {
    let states = [
        &[workload("a", &[])][..],
        &[workload("b", &[])],
        &[workload("c", &[])],
    ]
    .map(|state| snapshot(state, &[]));
    let mut stream = subscribed(&states[0]);
    assert_eq!(short(&stream.push(&states[2])), "A+c() A-a");
}

/// Each row: before, after, and the push in between. A workload that names an unknown policy denies.
#[test]
fn no_moment_of_a_push_is_more_open_than_both_its_ends() {
    let changed = |(name, mut policy): (String, security::Authorization)| {
        policy.dry_run = true;
        (name, policy)
    };
    let rows = [
        (
            "a policy for a workload is known before it is named",
            (&[][..], vec![]),
            (&["shop/p"][..], vec![named("p")]),
            "P+shop/p | A+a(shop/p)",
        ),
        (
            "a policy goes after nothing names it",
            (&["shop/p"], vec![named("p")]),
            (&[], vec![]),
            "A+a() | P-shop/p",
        ),
        (
            "one policy replaces another",
            (&["shop/p"], vec![named("p")]),
            (&["shop/q"], vec![named("q")]),
            "P+shop/q | A+a(shop/q) | P-shop/p",
        ),
        (
            "a wide and a named policy replace a named one",
            (&["shop/p"], vec![named("p")]),
            (&["shop/d"], vec![wide("q"), named("d")]),
            "P+shop/d | A+a(shop/d,shop/p) | P+shop/q | A+a(shop/d) | P-shop/p",
        ),
        (
            "a wide policy replaces a named one",
            (&["shop/p"], vec![named("p")]),
            (&[], vec![wide("q")]),
            "P+shop/q | A+a() | P-shop/p",
        ),
        (
            "a policy's selector is removed",
            (&["shop/p"], vec![named("p")]),
            (&[], vec![wide("p")]),
            "P+shop/p | A+a()",
        ),
        (
            "a policy gets a selector",
            (&[], vec![wide("p")]),
            (&["shop/p"], vec![named("p")]),
            "A+a(shop/p) | P+shop/p",
        ),
        (
            "a wide policy comes with a named one",
            (&[], vec![]),
            (&["shop/d"], vec![wide("q"), named("d")]),
            "P+shop/d | A+a(shop/d) | P+shop/q",
        ),
        (
            "a policy with new rules leaves a workload",
            (&["shop/p"], vec![named("p")]),
            (&["shop/q"], vec![changed(named("p")), named("q")]),
            "P+shop/q | A+a(shop/q) | P+shop/p",
        ),
    ];
    for (fact, (names, policies), (new_names, new_policies), expected) in rows {
        let before = snapshot(&[workload("a", names)], &policies);
        let after = snapshot(&[workload("a", new_names)], &new_policies);
        let mut stream = subscribed(&before);
        assert_eq!(short(&stream.push(&after)), expected, "{fact}");
        assert_eq!(short(&stream.push(&after)), "", "{fact}");
    }
}

#[test]
fn a_reconnect_costs_what_changed_in_both_types() {
    let before = snapshot(
        &[workload("a", &[]), workload("b", &[])],
        &[wide("p"), wide("q")],
    );
    let after = snapshot(&[workload("a", &[]), workload("c", &[])], &[wide("p")]);
    let mut stream = stream();
    for kind in NODE {
        let held = before
            .nodes()
            .set(kind)
            .iter()
            .map(|(name, resource)| (name.to_string(), resource.version.to_string()));
        stream
            .request(DeltaDiscoveryRequest {
                initial_resource_versions: held.collect(),
                ..request(kind)
            })
            .unwrap();
    }
    assert_eq!(short(&stream.push(&after)), "A+c() A-b | P-shop/q");
    // Made anew from the same resources, as after a restart: nothing differs.
    let again = snapshot(&[workload("a", &[]), workload("c", &[])], &[wide("p")]);
    assert_eq!(short(&stream.push(&again)), "");
}

#[test]
fn versions_that_we_never_gave_are_replaced() {
    let state = snapshot(&[workload("a", &[])], &[]);
    let real = state.nodes().set(Kind::Address)["a"].version.to_string();
    for claimed in [
        "",
        "1",
        "ffffffffffffffff",
        &real.to_uppercase(),
        "+123456789012345",
        "zzzzzzzzzzzzzzzz",
    ] {
        if claimed == real {
            continue;
        }
        let mut stream = stream();
        let claims = [
            ("a".to_owned(), claimed.to_owned()),
            ("ghost".to_owned(), claimed.to_owned()),
        ]
        .into();
        stream
            .request(DeltaDiscoveryRequest {
                initial_resource_versions: claims,
                ..request(Kind::Address)
            })
            .unwrap();
        assert_eq!(short(&stream.push(&state)), "A+a() A-ghost", "{claimed:?}");
    }
}

#[test]
fn names_can_be_subscribed_to_alone() {
    let state = snapshot(&[workload("a", &[]), workload("b", &[])], &[]);
    let mut stream = stream();
    let ask = |subscribe: &[&str], unsubscribe: &[&str]| DeltaDiscoveryRequest {
        resource_names_subscribe: strings(subscribe),
        resource_names_unsubscribe: strings(unsubscribe),
        ..request(Kind::Address)
    };
    stream.request(ask(&["*"], &["*"])).unwrap();
    assert_eq!(short(&stream.push(&state)), "A nothing");
    stream.request(ask(&["a", "ghost"], &[])).unwrap();
    assert_eq!(short(&stream.push(&state)), "A+a() A-ghost");
    assert_eq!(short(&stream.push(&state)), "");
    // Asked again, told again.
    stream.request(ask(&["a", "ghost"], &[])).unwrap();
    assert_eq!(short(&stream.push(&state)), "A+a() A-ghost");
    let later = snapshot(&[workload("b", &[]), workload("ghost", &[])], &[]);
    assert_eq!(short(&stream.push(&later)), "A+ghost() A-a");
    stream.request(ask(&[], &["ghost"])).unwrap();
    assert_eq!(short(&stream.push(&state)), "A+a()");
    stream.request(ask(&["*"], &[])).unwrap();
    assert_eq!(short(&stream.push(&state)), "A+b()");
}

#[test]
fn answers_move_the_progress_and_bogus_ones_do_not() {
    let state = snapshot(&[workload("a", &[])], &[]);
    let mut stream = subscribed(&state);
    let answer = |nonce: &str, error: Option<&str>| DeltaDiscoveryRequest {
        response_nonce: nonce.to_owned(),
        error_detail: error.map(|message| rpc::Status {
            message: message.to_owned(),
            ..Default::default()
        }),
        ..request(Kind::Address)
    };
    for nonce in ["0", "99", "-1", "x", "18446744073709551616", ""] {
        assert_eq!(
            stream.request(answer(nonce, Some("forged"))),
            Ok(None),
            "{nonce:?}"
        );
    }
    let progress = stream.progress(Kind::Address).unwrap().clone();
    assert_eq!((progress.accepted, progress.rejections), (None, 0));
    assert_eq!(progress.sent, state.nodes().version(Kind::Address));

    let nonce = stream.sent();
    let of_address = (1..=nonce)
        .find(|nonce| stream.awaits(Kind::Address, *nonce))
        .unwrap()
        .to_string();
    assert_eq!(stream.request(answer(&of_address, None)), Ok(None));
    assert_eq!(
        stream.progress(Kind::Address).unwrap().accepted,
        state.nodes().version(Kind::Address)
    );
    // Answered once, it is answered.
    assert_eq!(stream.request(answer(&of_address, Some("late"))), Ok(None));
    assert_eq!(
        short(&stream.push(&state)),
        "",
        "an answer asks for nothing"
    );

    let next = snapshot(&[workload("b", &[])], &[]);
    let sent = stream.push(&next);
    let said = stream
        .request(answer(&sent[0].nonce, Some("b: bad\naddress")))
        .unwrap();
    assert_eq!(said.as_deref(), Some("b: bad address"));
    let progress = stream.progress(Kind::Address).unwrap();
    assert_eq!(
        (progress.rejections, progress.rejected.as_deref()),
        (1, Some("b: bad address"))
    );
    assert_eq!(progress.accepted, state.nodes().version(Kind::Address));
    assert_eq!(
        short(&stream.push(&next)),
        "",
        "what was refused is not sent again until it changes"
    );
}

#[test]
fn hostile_requests_end_the_stream_or_are_ignored() {
    type Expected = fn(&Malformed) -> bool;
    let rows: [(DeltaDiscoveryRequest, Expected); 4] = [
        (
            DeltaDiscoveryRequest {
                type_url: "type.googleapis.com/envoy.config.cluster.v3.Cluster".to_owned(),
                ..Default::default()
            },
            |e| matches!(e, Malformed::UnknownType(..)),
        ),
        (DeltaDiscoveryRequest::default(), |e| {
            matches!(e, Malformed::UnknownType(..))
        }),
        (
            DeltaDiscoveryRequest {
                resource_names_subscribe: vec!["x".repeat(2000)],
                ..request(Kind::Address)
            },
            |e| *e == Malformed::LongName(2000),
        ),
        (
            DeltaDiscoveryRequest {
                resource_names_subscribe: (0..70_000).map(|n| n.to_string()).collect(),
                ..request(Kind::Address)
            },
            |e| *e == Malformed::TooManyNames,
        ),
    ];
    for (request, expected) in rows {
        let refused = stream().request(request).unwrap_err();
        assert!(expected(&refused), "{refused}");
    }
    let mut stream = stream();
    for round in 0..70 {
        let names = (0..1000).map(|n| format!("{round}-{n}")).collect();
        let asked = stream.request(DeltaDiscoveryRequest {
            resource_names_subscribe: names,
            ..request(Kind::Address)
        });
        assert_eq!(asked.is_err(), round >= 65, "{round}");
    }
}

#[test]
fn unanswered_responses_take_bounded_memory() {
    let states = [
        snapshot(&[workload("a", &[])], &[]),
        snapshot(&[workload("b", &[])], &[]),
    ];
    let mut stream = subscribed(&states[0]);
    for round in 0..10_000 {
        stream.push(&states[round % 2]);
    }
    assert!(stream.unanswered(Kind::Address) <= 256);
}

#[test]
fn a_large_state_comes_in_several_responses_removals_last() {
    let services: Vec<_> = (0..40)
        .map(|n| service(&format!("s{n:02}"), 300_000))
        .collect();
    let state = snapshot(&services, &[]);
    let mut stream = subscribed(&snapshot(&[workload(CART, &[])], &[]));
    let responses = stream.push(&state);
    assert!(responses.len() > 4);
    assert!(
        responses
            .iter()
            .all(|response| response.encoded_len() < 4 * 1024 * 1024)
    );
    assert_eq!(
        responses
            .iter()
            .map(|response| response.resources.len())
            .sum::<usize>(),
        40
    );
    let removals: Vec<_> = responses
        .iter()
        .map(|response| response.removed_resources.len())
        .collect();
    assert_eq!(removals.last(), Some(&1));
    assert_eq!(removals.iter().sum::<usize>(), 1);
}

#[test]
fn unchanged_resources_are_shared_between_states() {
    let addresses: BTreeMap<_, _> = [workload("a", &[]), workload("b", &[])].into();
    let first = Snapshot::new(
        &compiled(addresses.clone(), BTreeMap::new()),
        &Snapshot::default(),
    );
    let mut changed = addresses;
    changed.extend([workload("b", &["shop/p"])]);
    let second = Snapshot::new(&compiled(changed, BTreeMap::new()), &first);
    assert!(Arc::ptr_eq(
        &first.nodes().set(Kind::Address)["a"],
        &second.nodes().set(Kind::Address)["a"]
    ));
    assert_ne!(
        first.nodes().set(Kind::Address)["b"].version,
        second.nodes().set(Kind::Address)["b"].version
    );
    assert_ne!(
        first.nodes().version(Kind::Address),
        second.nodes().version(Kind::Address)
    );
    assert_eq!(
        first.nodes().version(Kind::Authorization),
        second.nodes().version(Kind::Authorization)
    );
    assert_eq!(
        Version::parse(&first.nodes().version(Kind::Address).unwrap().to_string()),
        first.nodes().version(Kind::Address)
    );
}

/// What goes on at a subscriber and around it.
#[derive(Clone, Debug)]
enum Event {
    /// A state: of each resource, which version there is.
    State(Vec<(usize, u8)>),
    /// The subscriber is brought to what is there.
    Push,
    Ask {
        kind: Kind,
        more: Vec<usize>,
        less: Vec<usize>,
    },
    /// What was is forgotten, as by another control plane.
    Forget,
}

fn event() -> impl Strategy<Value = Event> {
    let names = || vec(0..7_usize, 0..3);
    let kind = prop_oneof![Just(Kind::Address), Just(Kind::Authorization)];
    prop_oneof![
        6 => vec((0..12_usize, 0..3_u8), 0..4).prop_map(Event::State),
        6 => Just(Event::Push),
        2 => (kind, names(), names()).prop_map(|(kind, more, less)| Event::Ask { kind, more, less }),
        1 => Just(Event::Forget),
    ]
}

fn asked_name(i: usize) -> String {
    match i {
        6 => "*".to_owned(),
        i => format!("r{i}"),
    }
}

/// Of resources with names `r0` to `r5` in both kinds: the version of each, 0 where it is not there.
fn state(versions: &[u8; 12]) -> Compiled {
    let there = |i: usize| versions.iter().enumerate().skip(i).take(6);
    let there = |i| there(i).filter(|(_, version)| **version > 0);
    let addresses = there(0).map(|(i, version)| {
        let policies: &[&str] = if *version == 1 {
            &["r0"]
        } else {
            &["r1", "r2"]
        };
        (format!("r{i}"), workload(&format!("r{i}"), policies).1)
    });
    let policies = there(6).map(|(i, version)| {
        let scope = match *version {
            1 => security::Scope::WorkloadSelector,
            _ => security::Scope::Namespace,
        };
        let (_, policy) = policy("p", scope, security::Action::Deny);
        (format!("r{}", i - 6), policy)
    });
    compiled(addresses.collect(), policies.collect())
}

proptest! {
    #[test]
    fn who_is_told_what_has_changed_is_told_the_same_as_who_is_compared_with_all(events in vec(event(), 0..40)) {
        let mut versions = [0; 12];
        let mut snapshot = Snapshot::default();
        let mut streams = [(); 2].map(|()| Stream::new(Subject::Node("n1".to_owned())));
        for event in events {
            match event {
                Event::State(changes) => {
                    for (i, version) in changes {
                        versions[i] = version;
                    }
                    snapshot = Snapshot::new(&state(&versions), &snapshot);
                }
                Event::Forget => snapshot = Snapshot::new(&state(&versions), &Snapshot::default()),
                Event::Push => {
                    streams[1].unsettle();
                    let [one, other] = &mut streams;
                    prop_assert_eq!(one.push(&snapshot), other.push(&snapshot));
                }
                Event::Ask { kind, more, less } => {
                    let request = DeltaDiscoveryRequest {
                        type_url: kind.type_url().to_owned(),
                        resource_names_subscribe: more.into_iter().map(asked_name).collect(),
                        resource_names_unsubscribe: less.into_iter().map(asked_name).collect(),
                        ..DeltaDiscoveryRequest::default()
                    };
                    for stream in &mut streams {
                        stream.request(request.clone()).unwrap();
                    }
                }
            }
        }
    }
}
