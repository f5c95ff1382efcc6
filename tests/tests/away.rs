//! What still works while the control plane, its certificate authority, or both are away, and what does not and says so.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::process::Command;

use cli::lab::Node;
use sys::netns::privileged;
use tests::{
    agent::Agent,
    driven::Driven,
    pod::Pod,
    script::{CA, Script},
    world::World,
};

#[test]
fn without_a_first_certificate_a_flow_fails_with_a_reason_and_works_once_it_is_there() {
    if !privileged(
        "without_a_first_certificate_a_flow_fails_with_a_reason_and_works_once_it_is_there",
    ) {
        return;
    }
    let pods = [
        Pod::new("web", Node::One, 10),
        Pod::new("cart", Node::Two, 10),
    ];
    let world = World::new(tests::place!(), "away-ca", &pods);
    let script = Script::new(&world);
    script.tell_all(&world);
    let world = Driven::over(world, script, &[]);
    for node in Node::ALL {
        world.until("the ztunnel is ready", || world.ready(node));
    }
    let (mark, web) = (world.mark(Node::One), world.pod("web").identity());
    world.open("web", world.ip("cart")).unwrap_err();
    let record = world.record(Node::One, mark, |it| it.outbound());
    let why = record.get("error");
    assert!(
        why.contains(&format!("no certificate for {web}"))
            && why.contains("certificate authority cannot be reached"),
        "{record:?}"
    );
    world.script.issue(&world);
    world.until("it is carried", || {
        world.open("web", world.ip("cart")).is_ok()
    });
}

#[test]
fn without_a_first_state_a_flow_fails_with_a_reason() {
    if !privileged("without_a_first_state_a_flow_fails_with_a_reason") {
        return;
    }
    let pods = [
        Pod::new("web", Node::One, 10),
        Pod::new("legacy", Node::One, 11).outside(),
    ];
    let world = World::new(tests::place!(), "away-state", &pods);
    let _script = Script::issuing(&world);
    let mut agent = Agent::new(&world, Node::One);
    // Nobody is at that port.
    world.start_ztunnel(Node::One, 15099, CA, &[]);
    agent.greeted();
    agent.tell_all(&world, Node::One);
    assert!(!world.ready(Node::One), "without a state it is not ready");
    let mark = world.mark(Node::One);
    // Even to what is outside the mesh: nobody knows yet that it is.
    world.open("web", world.ip("legacy")).unwrap_err();
    world.open("legacy", world.ip("web")).unwrap_err();
    for direction in ["outbound", "inbound"] {
        let record = world.record(Node::One, mark, |it| {
            it.is_access() && it.is("direction", direction)
        });
        assert!(
            record
                .get("error")
                .contains("the control plane has not sent"),
            "{record:?}"
        );
    }
}

#[test]
fn what_is_held_keeps_serving_when_everything_else_is_away() {
    if !privileged("what_is_held_keeps_serving_when_everything_else_is_away") {
        return;
    }
    let pods = [
        Pod::new("web", Node::One, 10),
        Pod::new("cart", Node::Two, 10),
        Pod::new("catalog", Node::Two, 11),
        Pod::new("ledger", Node::One, 12),
    ];
    let world = Driven::new(tests::place!(), "away-all", &pods, &[]);
    let mut open = world.open("web", world.ip("cart")).unwrap();
    let marks = Node::ALL.map(|node| (node, world.mark(node)));
    let (world, agents) = world.forsaken();
    drop(agents);
    for (node, mark) in marks {
        world.record(node, mark, |it| {
            it.get("message").contains("no stream to the control plane")
        });
    }
    open.say(b"still there").unwrap();
    // New connections, and tunnels between pods that never talked before.
    for (from, to) in [
        ("web", "cart"),
        ("web", "catalog"),
        ("catalog", "ledger"),
        ("ledger", "web"),
    ] {
        world.open(from, world.ip(to)).unwrap();
    }
    assert!(world.ready(Node::One) && world.ready(Node::Two));
}

#[test]
fn a_fake_authority_is_refused_with_a_sentence() {
    let output = Command::new(tests::place!().component)
        .arg("ztunnel")
        .env_clear()
        .env("FAKE_CA", "true")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("FAKE_CA: there is no fake certificate authority here; give CA_ADDRESS"),
        "{said}"
    );
}
