//! That the lab connects what it says, and leaves nothing.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    thread,
};

use sys::netns::privileged;

use super::{sniffer::Sniffer, *};

const PATIENCE: Duration = Duration::from_secs(5);

/// Two dual-stack pods, one on each node.
fn lab() -> Lab {
    let mut lab = Lab::create().unwrap();
    lab.add_pod("a", Node::One, &[Node::One.v4(10), Node::One.v6(0x10)])
        .unwrap();
    lab.add_pod("b", Node::Two, &[Node::Two.v4(10), Node::Two.v6(0x10)])
        .unwrap();
    lab
}

/// A server in a pod that sends back what it gets on one connection, and says from where it came.
fn serve(lab: &Lab, pod: &str, port: u16) -> thread::JoinHandle<SocketAddr> {
    let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
    let listener = lab
        .pod(pod)
        .unwrap()
        .netns
        .within(|| TcpListener::bind(any))
        .unwrap();
    thread::spawn(move || {
        let (mut stream, from) = listener.accept().unwrap();
        let mut text = [0; 6];
        stream.read_exact(&mut text).unwrap();
        stream.write_all(&text).unwrap();
        SocketAddr::new(from.ip().to_canonical(), from.port())
    })
}

#[test]
fn pods_reach_each_other_over_the_link_that_the_sniffer_watches() {
    if !privileged("pods_reach_each_other_over_the_link_that_the_sniffer_watches") {
        return;
    }
    let lab = lab();
    for family in 0..2 {
        let server = serve(&lab, "b", 7000);
        let sniffer = Sniffer::start(lab.node(Node::One), PEER, b"canary").unwrap();
        let to = SocketAddr::new(lab.pod("b").unwrap().addresses[family], 7000);
        let mut client = lab
            .connect(&lab.pod("a").unwrap().netns, to, PATIENCE)
            .unwrap();
        client.write_all(b"canary").unwrap();
        let mut back = [0; 6];
        client.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"canary");
        assert_eq!(server.join().unwrap(), client.local_addr().unwrap());
        assert_eq!(
            client.local_addr().unwrap().ip(),
            lab.pod("a").unwrap().addresses[family]
        );
        let seen = sniffer.finish().unwrap();
        assert!(seen.canaries >= 2 && seen.lost == 0, "{seen:?}");
        assert!(seen.flows.keys().all(|flow| flow.touches(7000)), "{seen:?}");
    }
}

#[test]
fn nodes_reach_the_control_plane_and_no_pod_traffic_goes_there() {
    if !privileged("nodes_reach_the_control_plane_and_no_pod_traffic_goes_there") {
        return;
    }
    let lab = lab();
    let to = SocketAddr::new(CONTROL.into(), 15012);
    let listener = lab.control().within(|| TcpListener::bind(to)).unwrap();
    for node in Node::ALL {
        lab.connect(lab.node(node), to, PATIENCE).unwrap();
        listener.accept().unwrap();
    }
}

#[test]
fn an_address_must_belong_to_the_node_and_a_name_be_free() {
    if !privileged("an_address_must_belong_to_the_node_and_a_name_be_free") {
        return;
    }
    let mut lab = lab();
    let foreign = lab
        .add_pod("c", Node::One, &[Node::Two.v4(11)])
        .unwrap_err();
    assert_eq!(foreign.kind(), io::ErrorKind::InvalidInput);
    let taken = lab
        .add_pod("a", Node::One, &[Node::One.v4(11)])
        .unwrap_err();
    assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
}

#[test]
fn an_address_can_be_used_again_by_another_pod() {
    if !privileged("an_address_can_be_used_again_by_another_pod") {
        return;
    }
    let mut lab = lab();
    let before = lab.pod("b").unwrap().netns.id().unwrap();
    lab.remove_pod("b").unwrap();
    assert_eq!(
        lab.remove_pod("b").unwrap_err().kind(),
        io::ErrorKind::NotFound
    );
    lab.add_pod("c", Node::Two, &[Node::Two.v4(10)]).unwrap();
    assert_ne!(lab.pod("c").unwrap().netns.id().unwrap(), before);
    let server = serve(&lab, "c", 7000);
    let to = SocketAddr::new(Node::Two.v4(10), 7000);
    let mut client = lab
        .connect(&lab.pod("a").unwrap().netns, to, PATIENCE)
        .unwrap();
    client.write_all(b"hello!").unwrap();
    server.join().unwrap();
}

#[test]
fn a_published_namespace_can_be_opened_by_its_path() {
    if !privileged("a_published_namespace_can_be_opened_by_its_path") {
        return;
    }
    let lab = lab();
    let directory = std::env::temp_dir().join(format!("ambit-lab-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    lab.publish(&directory).unwrap();
    let opened = Netns::open(directory.join("a")).unwrap();
    assert_eq!(
        opened.id().unwrap(),
        lab.pod("a").unwrap().netns.id().unwrap()
    );
    std::fs::remove_dir_all(&directory).unwrap();
}
