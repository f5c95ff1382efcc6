//! A session and what a control plane may say to it.

use proptest::prelude::*;
use prost_types::Any;

use super::*;

const A: &str = proto::ADDRESS_TYPE;
const Z: &str = proto::AUTHORIZATION_TYPE;

fn node() -> Node {
    Node {
        id: "ztunnel~1.1.1.1~a.b~b.svc.cluster.local".into(),
        ..Node::default()
    }
}

fn resource(type_url: &str, name: &str, version: &str) -> discovery::Resource {
    discovery::Resource {
        name: name.into(),
        version: version.into(),
        resource: Some(Any {
            type_url: type_url.into(),
            value: name.as_bytes().to_vec(),
        }),
        aliases: vec![],
    }
}

fn response(
    nonce: &str,
    resources: Vec<discovery::Resource>,
    removed: &[&str],
) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: A.into(),
        nonce: nonce.into(),
        resources,
        removed_resources: removed.iter().map(|&name| name.to_owned()).collect(),
        ..DeltaDiscoveryResponse::default()
    }
}

fn rejected(name: &str, reason: &str) -> Rejected {
    Rejected {
        name: name.into(),
        reason: reason.into(),
    }
}

/// Names and versions that the next stream claims for `A`.
fn claimed(session: &Session) -> Vec<(String, String)> {
    session.start(&node())[0]
        .initial_resource_versions
        .clone()
        .into_iter()
        .collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|&(name, version)| (name.into(), version.into()))
        .collect()
}

#[test]
fn a_stream_begins_with_one_request_a_type() {
    let session = Session::new(&[A, Z]);
    let first = session.start(&node());
    let want = |url: &str| DeltaDiscoveryRequest {
        node: Some(node()),
        type_url: url.into(),
        ..DeltaDiscoveryRequest::default()
    };
    assert_eq!(first, [want(A), want(Z)]);
}

#[test]
fn an_ack_carries_type_and_nonce_alone() {
    let mut session = Session::new(&[A, Z]);
    let answer = session.on_response(
        response("n1", vec![resource(A, "w", "1")], &["x"]),
        |delta| {
            let one = Resource {
                name: "w".into(),
                version: "1".into(),
                bytes: b"w".to_vec(),
            };
            assert_eq!(
                delta,
                Delta {
                    type_url: A.into(),
                    resources: vec![one],
                    removed: vec!["x".into()]
                }
            );
            vec![]
        },
    );
    let want = DeltaDiscoveryRequest {
        type_url: A.into(),
        response_nonce: "n1".into(),
        ..DeltaDiscoveryRequest::default()
    };
    assert_eq!(answer, Ok(want));
}

#[test]
fn a_nack_names_what_was_rejected_and_the_rest_is_held() {
    let mut session = Session::new(&[A]);
    let all = ["a", "b", "c"].map(|name| resource(A, name, "1")).to_vec();
    let answer = session.on_response(response("n1", all, &[]), |_| {
        vec![rejected("a", "no such mode"), rejected("c", "no address")]
    });
    let answer = answer.unwrap();
    assert_eq!(answer.response_nonce, "n1");
    let detail = answer.error_detail.unwrap();
    assert_eq!(
        (detail.code, detail.message.as_str()),
        (3, "a: no such mode; c: no address")
    );
    assert_eq!(
        claimed(&session),
        pairs(&[("a", REJECTED), ("b", "1"), ("c", REJECTED)])
    );
    // Once it is accepted it is held, once it is removed it is not.
    session
        .on_response(
            response("n2", vec![resource(A, "a", "2")], &["c"]),
            |_| vec![],
        )
        .unwrap();
    assert_eq!(claimed(&session), pairs(&[("a", "2"), ("b", "1")]));
}

#[test]
fn a_reconnect_claims_what_is_held() {
    let mut session = Session::new(&[A, Z]);
    let all = vec![resource(A, "a", "1"), resource(A, "b", "")];
    session
        .on_response(response("n1", all, &[]), |_| vec![])
        .unwrap();
    session
        .on_response(
            response("n2", vec![resource(A, "a", "2")], &["zz"]),
            |_| vec![],
        )
        .unwrap();
    assert_eq!(claimed(&session), pairs(&[("a", "2"), ("b", "")]));
    assert!(
        session.start(&node())[1]
            .initial_resource_versions
            .is_empty()
    );
    assert_eq!(
        (session.held(A), session.held(Z), session.held("x")),
        (2, 0, 0)
    );
}

#[test]
fn the_state_is_whole_when_each_type_was_answered() {
    let mut session = Session::new(&[A, Z]);
    assert!(!session.synced());
    session
        .on_response(response("n1", vec![], &[]), |_| vec![])
        .unwrap();
    assert!(!session.synced());
    let other = DeltaDiscoveryResponse {
        type_url: Z.into(),
        ..response("n2", vec![], &[])
    };
    session.on_response(other, |_| vec![]).unwrap();
    assert!(session.synced());
}

#[test]
fn what_breaks_the_protocol_is_not_applied() {
    let mut session = Session::new(&[A]);
    let never = |_: Delta| -> Vec<Rejected> { panic!("applied") };
    assert_eq!(
        session.on_response(response("", vec![resource(A, "a", "1")], &[]), never),
        Err(Violation::NoNonce)
    );
    let other = DeltaDiscoveryResponse {
        type_url: Z.into(),
        ..response("n", vec![], &[])
    };
    assert_eq!(
        session.on_response(other, never),
        Err(Violation::UnknownType(Z.into()))
    );
    assert_eq!((session.held(A), session.synced()), (0, false));
}

#[test]
fn what_cannot_be_read_is_rejected_and_passed_on_as_such() {
    let mut session = Session::new(&[A]);
    session
        .on_response(
            response("n0", vec![resource(A, "both", "1")], &[]),
            |_| vec![],
        )
        .unwrap();
    let empty = discovery::Resource {
        resource: None,
        ..resource(A, "empty", "1")
    };
    let all = vec![
        resource(A, "fine", "1"),
        resource(A, "twice", "1"),
        empty,
        resource(Z, "other", "1"),
        resource(A, "twice", "2"),
        resource(A, "both", "2"),
        resource(A, "", "1"),
    ];
    let answer = session.on_response(response("n1", all, &["both", "gone", "gone"]), |delta| {
        let names: Vec<_> = delta
            .resources
            .iter()
            .map(|r| (r.name.as_str(), r.bytes.as_slice()))
            .collect();
        let odd = |name| (name, &UNREADABLE[..]);
        assert_eq!(
            names,
            [
                ("fine", &b"fine"[..]),
                odd("twice"),
                odd("empty"),
                odd("other"),
                odd("both")
            ]
        );
        assert_eq!(delta.removed, ["gone"]);
        // Its own reason is the better one.
        vec![
            rejected("twice", "cannot be decoded"),
            rejected("fine", "is not"),
        ]
    });
    let more = "occurs more than once in the response";
    let message = format!(
        "twice: {more}; empty: has no content; other: is of type {Z:?}; both: {more}; : has no name; fine: is not"
    );
    assert_eq!(answer.unwrap().error_detail.unwrap().message, message);
    let claims = ["both", "empty", "fine", "other", "twice"].map(|name| (name, REJECTED));
    assert_eq!(claimed(&session), pairs(&claims));
}

#[test]
fn the_stand_in_for_what_cannot_be_read_is_no_message() {
    use prost::Message;
    assert!(proto::workload::Address::decode(&UNREADABLE[..]).is_err());
    assert!(proto::security::Authorization::decode(&UNREADABLE[..]).is_err());
}

#[test]
fn a_long_refusal_is_cut() {
    let mut session = Session::new(&[A]);
    let all = (0..2000)
        .map(|i| resource(A, &format!("resource-{i}"), "1"))
        .collect();
    let answer = session.on_response(response("n", all, &[]), |delta| {
        delta
            .resources
            .iter()
            .map(|item| rejected(&item.name, "is wrong"))
            .collect()
    });
    let message = answer.unwrap().error_detail.unwrap().message;
    assert!(
        message.len() <= LONGEST_REASON + 100 && message.ends_with(" more"),
        "{}",
        message.len()
    );
}

fn any_response() -> impl Strategy<Value = DeltaDiscoveryResponse> {
    let name = || prop::sample::select(vec!["", "a", "b", "c", "ns/d"]).prop_map(str::to_owned);
    let url = || prop::sample::select(vec![A, Z, "", "x"]).prop_map(str::to_owned);
    let body = (url(), prop::collection::vec(any::<u8>(), 0..4));
    let one = (name(), ".{0,3}", prop::option::of(body)).prop_map(|(name, version, body)| {
        discovery::Resource {
            name,
            version,
            resource: body.map(|(type_url, value)| Any { type_url, value }),
            aliases: vec![],
        }
    });
    (
        url(),
        "[n]{0,2}",
        prop::collection::vec(one, 0..6),
        prop::collection::vec(name(), 0..4),
    )
        .prop_map(
            |(type_url, nonce, resources, removed_resources)| DeltaDiscoveryResponse {
                type_url,
                nonce,
                resources,
                removed_resources,
                ..DeltaDiscoveryResponse::default()
            },
        )
}

proptest! {
    /// Whatever comes: nothing panics, every name is in at most one place, and each name that came and was not
    /// removed is held afterwards.
    #[test]
    fn any_sequence_is_survived(responses in prop::collection::vec(any_response(), 0..8), odd in any::<bool>()) {
        let mut session = Session::new(&[A, Z]);
        for response in responses {
            let (url, nonce) = (response.type_url.clone(), response.nonce.clone());
            let mut given = None;
            let answer = session.on_response(response, |delta| {
                let rejected = delta.resources.iter().skip(usize::from(odd)).map(|i| rejected(&i.name, "no")).collect();
                given = Some(delta);
                rejected
            });
            prop_assert_eq!(answer.is_ok(), (url == A || url == Z) && !nonce.is_empty());
            let Some(delta) = given else { continue };
            let mut names = HashSet::new();
            let all = delta.resources.iter().map(|i| &i.name).chain(&delta.removed);
            prop_assert!(all.clone().all(|name| names.insert(name)));
            let first = session.start(&node()).into_iter().find(|r| r.type_url == url).unwrap();
            prop_assert!(delta.resources.iter().all(|i| first.initial_resource_versions.contains_key(&i.name)));
            prop_assert!(delta.removed.iter().all(|name| !first.initial_resource_versions.contains_key(name)));
        }
    }
}
