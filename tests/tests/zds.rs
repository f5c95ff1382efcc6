//! A node agent that talks nonsense is told so, and nothing else happens.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    fs::File,
    net::{SocketAddr, TcpListener},
    os::fd::{AsFd as _, BorrowedFd},
};

use cli::lab::Node;
use prost::Message as _;
use proto::workload::zds::{AddWorkload, workload_request::Payload};
use sys::netns::privileged;
use tests::{
    agent::snapshot,
    driven::Driven,
    pod::Pod,
    world::{HTTP, ztunnel},
};

fn add(pod: &Pod, change: impl FnOnce(&mut AddWorkload)) -> Vec<u8> {
    let mut request = pod.added();
    if let Some(Payload::Add(add)) = &mut request.payload {
        change(add);
    }
    request.encode_to_vec()
}

#[test]
fn nonsense_of_the_agent_is_answered_and_disturbs_nobody() {
    if !privileged("nonsense_of_the_agent_is_answered_and_disturbs_nobody") {
        return;
    }
    let pods = [
        Pod::new("web", Node::One, 10),
        Pod::new("cart", Node::One, 11),
        Pod::new("late", Node::One, 12).outside(),
    ];
    let mut world = Driven::new(tests::place!(), "zds", &pods, &[]);
    let (late, to) = (world.pod("late").clone(), world.ip("cart"));
    let mut open = world.open("web", to).unwrap();
    let netns = world.netns("late").try_clone().unwrap();
    let null = File::open("/dev/null").unwrap();
    let (netns, null) = (Some(netns.as_fd()), Some(null.as_fd()));
    let unknown = vec![0x78, 0x01];
    let info = |change: fn(&mut proto::workload::zds::WorkloadInfo)| {
        add(&late, |add| change(add.workload_info.as_mut().unwrap()))
    };
    let cases: [(Vec<u8>, Option<BorrowedFd<'_>>, &str); 12] = [
        (vec![0xff; 3], None, "not a ZDS message"),
        (vec![0x0a, 0x7f], None, "not a ZDS message"),
        (unknown, None, "says nothing that is known"),
        (vec![0; 70_000], None, "longer than"),
        (add(&late, |_| {}), None, "without a network namespace"),
        (add(&late, |_| {}), null, "no network namespace"),
        (
            add(&late, |add| add.workload_info = None),
            netns,
            "without name",
        ),
        (add(&late, |add| add.uid.clear()), netns, "no uid"),
        (info(|info| info.name.clear()), netns, "no name"),
        (
            info(|info| info.service_account.clear()),
            netns,
            "no service account",
        ),
        (snapshot(), netns, "a message that has none"),
        (snapshot(), None, "a second snapshot"),
    ];
    for (packet, fd, why) in cases {
        let complaint = world.agent(Node::One).say(&packet, fd);
        assert!(complaint.contains(why), "{why}: {complaint:?}");
        open.say(b"still there").unwrap();
    }
    world.open("web", to).unwrap();

    // The connection is as good as before: a pod comes and goes.
    assert_eq!(world.agent(Node::One).say(&add(&late, |_| {}), netns), "");
    world.until("the pod is served", || serves(&world, "late"));
    assert_eq!(world.agent(Node::One).remove("late"), "");
    world.until("the pod is not served any more", || !serves(&world, "late"));
    open.say(b"still there").unwrap();
}

/// Whether anybody listens for tunnels in a pod.
fn serves(world: &Driven, pod: &str) -> bool {
    let local = SocketAddr::from(([127, 0, 0, 1], 15008));
    world.connect(pod, local).is_ok()
}

#[test]
fn a_pod_whose_ports_are_taken_is_told_and_served_once_they_are_free() {
    if !privileged("a_pod_whose_ports_are_taken_is_told_and_served_once_they_are_free") {
        return;
    }
    let pods = [
        Pod::new("web", Node::One, 10),
        Pod::new("late", Node::One, 12).outside(),
    ];
    let mut world = Driven::new(tests::place!(), "zds-taken", &pods, &[]);
    let (late, netns) = (
        world.pod("late").clone(),
        world.netns("late").try_clone().unwrap(),
    );
    let taken = netns.within(|| TcpListener::bind("0.0.0.0:15006")).unwrap();
    let packet = late.added().encode_to_vec();
    let complaint = world.agent(Node::One).say(&packet, Some(netns.as_fd()));
    assert!(
        complaint.contains("shop/late") && complaint.contains("in use"),
        "{complaint:?}"
    );
    assert!(!serves(&world, "late"));
    drop(taken);
    // Nobody has to say it again.
    world.until("the pod is served", || serves(&world, "late"));
}

#[test]
fn while_the_agent_is_away_pods_are_served_and_what_its_next_snapshot_lacks_is_not() {
    if !privileged(
        "while_the_agent_is_away_pods_are_served_and_what_its_next_snapshot_lacks_is_not",
    ) {
        return;
    }
    let pods = [
        Pod::new("web", Node::One, 10),
        Pod::new("cart", Node::One, 11),
        Pod::new("gone", Node::One, 12),
    ];
    let mut world = Driven::new(tests::place!(), "zds-away", &pods, &[]);
    let to = world.ip("cart");
    let mut open = world.open("web", to).unwrap();
    let mut lost = world.open("web", world.ip("gone")).unwrap();
    world.agent(Node::One).hang_up();
    open.say(b"still there").unwrap();
    lost.say(b"still there").unwrap();
    world.open("web", to).unwrap();
    world.agent(Node::One).greeted();
    for kept in ["web", "cart"] {
        assert_eq!(world.agent(Node::One).keep(kept), "");
    }
    assert_eq!(world.agent(Node::One).say(&snapshot(), None), "");
    lost.closed();
    world.until("the pod is not served any more", || !serves(&world, "gone"));
    open.say(b"still there").unwrap();
    let http = SocketAddr::new(to, HTTP);
    assert_eq!(world.get("web", http).unwrap().status, 200);
    assert!(world.processes.id(&ztunnel(Node::One)).is_some());
}
