//! A pod goes, and another one with another identity gets its address.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::SocketAddr;

use cli::lab::Node;
use sys::netns::privileged;
use tests::{
    driven::Driven,
    mesh::{Mesh, policy},
    pod::{Pod, address},
    world::HTTP,
};

#[test]
fn who_gets_a_pods_address_gets_neither_its_connections_nor_its_name() {
    if !privileged("who_gets_a_pods_address_gets_neither_its_connections_nor_its_name") {
        return;
    }
    let pods = [
        Pod::new("web", Node::One, 10),
        Pod::new("cart", Node::Two, 10),
        Pod::new("ledger", Node::Two, 11),
    ];
    // The ledger is for cart alone.
    let allow = policy(
        "only-cart",
        "ledger",
        "ALLOW",
        "cluster.local/ns/shop/sa/cart",
    );
    let manifests = [("allow", allow.as_str())];
    let mut mesh = Mesh::new(tests::place!(), "reuse", &pods, &manifests, &[]);
    let ip = mesh.ip("cart");
    let to = SocketAddr::new(ip, HTTP);
    mesh.until("cart may call the ledger", || {
        mesh.open("cart", mesh.ip("ledger")).is_ok()
    });
    let mut open = mesh.open("web", ip).unwrap();

    mesh.take("pod-cart");
    open.closed();
    mesh.remove_pod("cart");
    let heir = Pod::new("heir", Node::Two, 10);
    mesh.add_pod(heir.clone());
    mesh.put("pod-heir", &heir.manifest());
    mesh.settled();

    let mark = mesh.mark(Node::One);
    mesh.until("the heir answers", || {
        mesh.get("web", to).is_ok_and(|answer| answer.pod == "heir")
    });
    let record = mesh.record(Node::One, mark, |it| {
        it.outbound() && it.get("error").is_empty() && it.is("dst.workload", "heir")
    });
    assert!(record.is("dst.identity", heir.identity()), "{record:?}");
    // What was allowed to the one is not allowed to the other, from the same address.
    let mark = mesh.mark(Node::Two);
    mesh.open("heir", mesh.ip("ledger")).unwrap_err();
    let record = mesh.record(Node::Two, mark, |it| {
        it.inbound() && it.is("src.identity", heir.identity())
    });
    assert!(!record.get("error").is_empty(), "{record:?}");
}

#[test]
fn who_still_believes_in_the_old_pod_does_not_talk_to_the_new_one() {
    if !privileged("who_still_believes_in_the_old_pod_does_not_talk_to_the_new_one") {
        return;
    }
    let pods = [
        Pod::new("web", Node::One, 10),
        Pod::new("cart", Node::Two, 10),
        // Has no part but to have had its certificate issued from the start.
        Pod::new("heir", Node::Two, 11),
    ];
    let mut world = Driven::new(tests::place!(), "reuse-stale", &pods, &[]);
    let ip = world.ip("cart");
    let mut open = world.open("web", ip).unwrap();
    assert_eq!(world.agent(Node::Two).remove("cart"), "");
    assert_eq!(world.agent(Node::Two).remove("heir"), "");
    open.closed();
    for gone in ["cart", "heir"] {
        world.remove_pod(gone);
    }
    let heir = Pod::new("heir", Node::Two, 10);
    world.add_pod(heir.clone());
    node::capture::install(world.netns("heir"), &node::rules::Probed::new()).unwrap();
    // The new pod's own node knows it; web's node has not heard of it.
    let complaint = {
        let added = prost::Message::encode_to_vec(&heir.added());
        let netns = world.netns("heir").try_clone().unwrap();
        world
            .agent(Node::Two)
            .say(&added, Some(std::os::fd::AsFd::as_fd(&netns)))
    };
    assert_eq!(complaint, "");
    world.until("the heir has its certificate", || {
        world.serial(&heir).is_some()
    });
    let mark = world.mark(Node::One);
    world.open("web", ip).unwrap_err();
    let record = world.record(Node::One, mark, |it| it.outbound());
    assert!(
        record.get("error").contains(&heir.identity().to_string()),
        "{record:?}"
    );
    // Then it hears.
    let cart = Pod::new("cart", Node::Two, 10).uid();
    let nonce = world.script.say(proto::ADDRESS_TYPE, Vec::new(), &[&cart]);
    world.script.accepted(&world, &nonce);
    let nonce = world.script.addresses(&[address(heir.workload())]);
    world.script.accepted(&world, &nonce);
    world.until("the heir is talked to", || world.open("web", ip).is_ok());
}
