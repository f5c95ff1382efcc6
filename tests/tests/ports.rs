//! A client outside the mesh and the proxy that speaks in its name use the same address; their ports must not meet.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use cli::lab::Node;
use sys::{netns::privileged, sysctl};
use tests::{driven::Driven, pod::Pod};

#[test]
fn a_plain_client_is_carried_whatever_ports_it_has_in_use() {
    if !privileged("a_plain_client_is_carried_whatever_ports_it_has_in_use") {
        return;
    }
    let pods = [
        Pod::new("legacy", Node::One, 11).outside(),
        Pod::new("cart", Node::Two, 10),
    ];
    let world = Driven::new(tests::place!(), "ports", &pods, &[]);
    // So few ports that both sides come to use the same ones.
    for pod in ["legacy", "cart"] {
        let few = || sysctl::write("net/ipv4/ip_local_port_range", "40000 40063");
        world.netns(pod).within(few).unwrap();
    }
    let mut open = Vec::new();
    for at in 0..30 {
        let mut talk = world
            .open("legacy", world.ip("cart"))
            .unwrap_or_else(|error| panic!("connection {at}: {error}"));
        talk.say(b"through").unwrap();
        open.push(talk);
    }
    for talk in &mut open {
        talk.say(b"still there").unwrap();
    }
}
