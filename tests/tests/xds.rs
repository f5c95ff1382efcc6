//! A control plane that sends what cannot be understood: it is told by name, what can be understood is in force, and
//! what cannot be is closed, not open.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::SocketAddr;

use cli::lab::Node;
use prost::Message as _;
use proto::{
    ADDRESS_TYPE, AUTHORIZATION_TYPE,
    discovery::{DeltaDiscoveryResponse, Resource},
    security::{Authorization, Scope},
    workload::Workload,
};
use sys::netns::privileged;
use tests::{
    driven::Driven,
    pod::{Pod, address, guarded, no_port},
    world::{ECHO, HTTP},
};

fn pods() -> [Pod; 4] {
    [
        Pod::new("web", Node::One, 10),
        Pod::new("cart", Node::Two, 10),
        Pod::new("catalog", Node::Two, 11),
        Pod::new("ledger", Node::Two, 12).of("bank"),
    ]
}

/// That connections from `web` come to be let in by these pods, and not by the others.
fn opens(world: &Driven, expected: &[&str]) {
    world.until(&format!("exactly {expected:?} let web in"), || {
        ["cart", "catalog", "ledger"]
            .iter()
            .all(|pod| world.open("web", world.ip(pod)).is_ok() == expected.contains(pod))
    });
}

#[test]
fn a_policy_that_cannot_be_understood_is_nacked_by_name_and_denies_its_scope() {
    if !privileged("a_policy_that_cannot_be_understood_is_nacked_by_name_and_denies_its_scope") {
        return;
    }
    let world = Driven::new(tests::place!(), "xds-policy", &pods(), &[]);
    let script = &world.script;
    opens(&world, &["cart", "catalog", "ledger"]);

    // What is good in the same response is in force: the bank's own policy.
    let mut open = world.open("web", world.ip("cart")).unwrap();
    let mark = world.mark(Node::Two);
    let bank = Authorization {
        namespace: "bank".to_owned(),
        scope: Scope::Namespace.into(),
        ..no_port("no-echo", ECHO)
    };
    let broken = ("shop/broken".to_owned(), vec![0xff, 0xff]);
    let good = ("bank/no-echo".to_owned(), bank.encode_to_vec());
    let nonce = script.say(AUTHORIZATION_TYPE, vec![broken, good], &[]);
    for node in ["n1", "n2"] {
        let reason = script.answer(&world, node, &nonce).expect("a NACK");
        assert!(
            reason.contains("shop/broken") && !reason.contains("bank/no-echo"),
            "{reason}"
        );
    }
    // Nothing of it can be read but its name: it denies the namespace of that, on open connections too.
    open.closed();
    let record = world.record(Node::Two, mark, |it| it.is("policy", "shop/broken"));
    assert!(record.is("dst.workload", "cart"), "{record:?}");
    opens(&world, &[]);
    let ledger = SocketAddr::new(world.ip("ledger"), HTTP);
    assert_eq!(world.get("web", ledger).unwrap().status, 200);
    world
        .get("web", SocketAddr::new(world.ip("cart"), HTTP))
        .unwrap_err();

    // It is mended, and the other one goes.
    let mended = (
        "shop/broken".to_owned(),
        no_port("broken", 1).encode_to_vec(),
    );
    let nonce = script.say(AUTHORIZATION_TYPE, vec![mended], &["bank/no-echo"]);
    script.accepted(&world, &nonce);
    opens(&world, &["cart", "catalog", "ledger"]);
}

#[test]
fn a_policy_whose_scope_can_be_read_denies_no_further_than_that() {
    if !privileged("a_policy_whose_scope_can_be_read_denies_no_further_than_that") {
        return;
    }
    let world = Driven::new(tests::place!(), "xds-scope", &pods(), &[]);
    let script = &world.script;
    script.accepted(
        &world,
        &script.addresses(&[guarded(world.pod("cart"), &["shop/odd"])]),
    );
    let odd = Authorization {
        action: 77,
        ..no_port("odd", 1)
    };
    let nonce = script.policies(&[odd]);
    let reason = script.answer(&world, "n2", &nonce).expect("a NACK");
    assert!(reason.contains("shop/odd"), "{reason}");
    opens(&world, &["catalog", "ledger"]);
    // A field that nobody here knows may be the one that matters.
    let mut bytes = no_port("odd", 1).encode_to_vec();
    bytes.extend([0xc0, 0x3e, 0x01]);
    let nonce = script.say(
        AUTHORIZATION_TYPE,
        vec![("shop/odd".to_owned(), bytes)],
        &[],
    );
    assert!(script.answer(&world, "n2", &nonce).is_some());
    opens(&world, &["catalog", "ledger"]);
    let nonce = script.policies(&[no_port("odd", 1)]);
    script.accepted(&world, &nonce);
    opens(&world, &["cart", "catalog", "ledger"]);

    // One of the root namespace denies the mesh.
    let nonce = script.say(
        AUTHORIZATION_TYPE,
        vec![("ambit-system/broken".to_owned(), vec![0xff])],
        &[],
    );
    assert!(script.answer(&world, "n2", &nonce).is_some());
    opens(&world, &[]);
    let nonce = script.say(AUTHORIZATION_TYPE, Vec::new(), &["ambit-system/broken"]);
    script.accepted(&world, &nonce);
    opens(&world, &["cart", "catalog", "ledger"]);
}

#[test]
fn a_workload_that_cannot_be_understood_is_nacked_by_name_and_nothing_goes_there() {
    if !privileged("a_workload_that_cannot_be_understood_is_nacked_by_name_and_nothing_goes_there")
    {
        return;
    }
    let world = Driven::new(tests::place!(), "xds-workload", &pods(), &[]);
    let script = &world.script;
    let strange = Pod::new("strange", Node::Two, 99);
    let odd = Workload {
        tunnel_protocol: 77,
        ..strange.workload()
    };
    // `ledger` moves to another label in the same response, and that is in force.
    let renamed = Workload {
        canonical_name: "renamed".to_owned(),
        ..world.pod("ledger").workload()
    };
    let mut open = world.open("web", world.ip("cart")).unwrap();
    let nonce = script.say(
        ADDRESS_TYPE,
        vec![
            (strange.uid(), address(odd).encode_to_vec()),
            ("Kubernetes//Pod/shop/garbage".to_owned(), vec![0xff]),
            (world.pod("ledger").uid(), address(renamed).encode_to_vec()),
        ],
        &[],
    );
    for node in ["n1", "n2"] {
        let reason = script.answer(&world, node, &nonce).expect("a NACK");
        assert!(
            reason.contains(&strange.uid())
                && reason.contains("Kubernetes//Pod/shop/garbage")
                && !reason.contains("bank/ledger"),
            "{reason}"
        );
    }
    let dump = world.dump(Node::One).unwrap().to_string();
    assert!(dump.contains("\"renamed\""), "{dump}");
    open.say(b"still there").unwrap();
    opens(&world, &["cart", "catalog", "ledger"]);
    let mark = world.mark(Node::One);
    let there = SocketAddr::new(strange.addresses[0], HTTP);
    world.get("web", there).unwrap_err();
    let record = world.record(Node::One, mark, |it| it.is("dst.addr", there));
    assert!(
        record.get("error").contains(&strange.uid())
            && record.get("error").contains("could not be understood"),
        "{record:?}"
    );
}

#[test]
fn a_response_that_breaks_the_protocol_ends_its_stream_and_nothing_else() {
    if !privileged("a_response_that_breaks_the_protocol_ends_its_stream_and_nothing_else") {
        return;
    }
    let world = Driven::new(tests::place!(), "xds-protocol", &pods(), &[]);
    let script = &world.script;
    let mut open = world.open("web", world.ip("cart")).unwrap();
    let of = |type_url: &str| DeltaDiscoveryResponse {
        type_url: type_url.to_owned(),
        ..DeltaDiscoveryResponse::default()
    };
    let cases = [
        (
            of("type.googleapis.com/nobody.asked.For"),
            true,
            "not asked for",
        ),
        (of(ADDRESS_TYPE), false, "without a nonce"),
    ];
    for (response, nonce, why) in cases {
        let marks = Node::ALL.map(|node| (node, world.mark(node)));
        script.blurt(response, nonce);
        for (node, mark) in marks {
            world.record(node, mark, |it| it.get("error").contains(why));
        }
        open.say(b"still there").unwrap();
        opens(&world, &["cart", "catalog", "ledger"]);
        // The nodes come again, and listen.
        script.connected(&world, 2);
        let nonce = script.policies(&[no_port("whatever", 1)]);
        script.accepted(&world, &nonce);
    }

    // What contradicts itself is refused by name.
    let body = |type_url: &str, bytes| {
        Some(prost_types::Any {
            type_url: type_url.to_owned(),
            value: bytes,
        })
    };
    let policy = no_port("twice", 1).encode_to_vec();
    let twice = |resource| Resource {
        name: "shop/twice".to_owned(),
        resource,
        ..Resource::default()
    };
    for resources in [
        vec![
            twice(body(AUTHORIZATION_TYPE, policy.clone())),
            twice(body(AUTHORIZATION_TYPE, policy.clone())),
        ],
        vec![twice(body(ADDRESS_TYPE, policy))],
        vec![twice(None)],
    ] {
        let response = DeltaDiscoveryResponse {
            resources,
            ..of(AUTHORIZATION_TYPE)
        };
        let nonce = script.blurt(response, true);
        let reason = script.answer(&world, "n2", &nonce).expect("a NACK");
        assert!(reason.contains("shop/twice"), "{reason}");
        // It is a policy that nobody understands.
        opens(&world, &["ledger"]);
    }
    let nonce = script.say(AUTHORIZATION_TYPE, Vec::new(), &["shop/twice"]);
    script.accepted(&world, &nonce);
    opens(&world, &["cart", "catalog", "ledger"]);
}
