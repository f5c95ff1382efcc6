//! A node proxy is replaced by another one that listens beside it: no connection that begins meanwhile is lost.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use cli::lab::{CONTROL, Node};
use sys::netns::{Netns, privileged};
use tests::{
    agent::snapshot,
    driven::Driven,
    pod::Pod,
    script::{CA, XDS},
    world::{ECHO, PATIENCE, ztunnel},
};

/// Connections at a time, of each kind: so many that some are always on their way.
const CLIENTS: usize = 8;
/// Ports of the successor's pages, which has them on the same address.
const PAGES: [(&str, u16); 3] = [
    ("ADMIN_ADDRESS", 15100),
    ("METRICS_ADDRESS", 15120),
    ("READINESS_ADDRESS", 15121),
];

/// Starts a second proxy of the second node, which asks for the state at this port, and hands the node's pod to it.
fn succeeded(world: &mut Driven, xds: u16) {
    let name = Node::Two.name();
    let mut command = world.command("ztunnel");
    command.env("NODE_NAME", name).env("LOG_FORMAT", "json");
    command.env("INPOD_UDS", format!("zds/{name}"));
    command.env("AUTH_TOKEN", format!("state/tokens/{name}"));
    for (kind, port) in [("XDS", xds), ("CA", CA)] {
        let address = format!("https://{CONTROL}:{port}");
        command.env(format!("{kind}_ADDRESS"), address);
        command.env(format!("{kind}_ROOT_CA"), "state/root-cert.pem");
    }
    for (variable, port) in PAGES {
        command.env(variable, format!("127.0.0.1:{port}"));
    }
    world.start("successor", world.lab.node(Node::Two), command);
    let cart = world.pod("cart").clone();
    world.agent(Node::Two).greeted();
    let netns = world.netns("cart").try_clone().unwrap();
    let packet = prost::Message::encode_to_vec(&cart.added());
    let agent = world.agent(Node::Two);
    let fd = std::os::fd::AsFd::as_fd(&netns);
    assert_eq!(agent.say(&packet, Some(fd)), "");
    assert_eq!(agent.say(&snapshot(), None), "");
}

/// What the successor says of whether it is ready: status and text.
fn readiness(world: &Driven) -> io::Result<(u16, String)> {
    let to = SocketAddr::from(([127, 0, 0, 1], PAGES[2].1));
    let page = world.lab.connect(world.lab.node(Node::Two), to, PATIENCE)?;
    let mut page = cli::http::Connection::over(page, "localhost");
    let answer = page.send("GET", "/healthz/ready", b"")?;
    Ok((
        answer.status,
        String::from_utf8_lossy(&answer.body).into_owned(),
    ))
}

#[test]
fn a_successor_that_knows_nothing_takes_nothing_and_says_what_it_waits_for() {
    if !privileged("a_successor_that_knows_nothing_takes_nothing_and_says_what_it_waits_for") {
        return;
    }
    let pods = [
        Pod::new("legacy", Node::One, 11).outside(),
        Pod::new("cart", Node::Two, 10),
    ];
    let mut world = Driven::new(tests::place!(), "handover-early", &pods, &[]);
    let cart = world.ip("cart");
    world.until("pods talk", || world.open("legacy", cart).is_ok());
    // Nobody is there.
    succeeded(&mut world, 9);
    let why = "waiting for: state of the control plane";
    let (status, said) = readiness(&world).unwrap();
    assert!(status == 500 && said.contains(why), "{status} {said}");
    // Half of them would be the successor's, which could only let them wait.
    for _ in 0..50 {
        world.open("legacy", cart).unwrap();
    }
    world.until("its log says so too", || {
        world.processes.log("successor").tail(20).contains(why)
    });
}

/// One connection, over which a byte goes and comes back.
fn talk(from: &Netns, to: SocketAddr) -> io::Result<()> {
    let mut stream = from.within(|| TcpStream::connect_timeout(&to, PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0])
}

#[test]
fn what_begins_while_a_proxy_makes_way_for_another_is_carried() {
    if !privileged("what_begins_while_a_proxy_makes_way_for_another_is_carried") {
        return;
    }
    let pods = [
        Pod::new("web", Node::One, 10),
        Pod::new("legacy", Node::One, 11).outside(),
        Pod::new("cart", Node::Two, 10),
    ];
    let mut world = Driven::new(tests::place!(), "handover", &pods, &[]);
    // In and out of the pod: both begin at listeners of the second node's proxy.
    let kinds = [("legacy", "cart"), ("cart", "web"), ("web", "cart")];
    for (from, to) in kinds {
        let to = world.ip(to);
        world.until("pods talk", || world.open(from, to).is_ok());
    }
    succeeded(&mut world, XDS);
    world.until("the successor is ready", || {
        readiness(&world).is_ok_and(|(status, _)| status == 200)
    });
    let (stop, carried) = (AtomicBool::new(false), AtomicUsize::new(0));
    let old = world.processes.id(&ztunnel(Node::Two)).unwrap();
    thread::scope(|scope| {
        for (from, to) in kinds {
            for _ in 0..CLIENTS {
                let netns = world.netns(from).try_clone().unwrap();
                let to = SocketAddr::new(world.ip(to), ECHO);
                let (stop, carried) = (&stop, &carried);
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        talk(&netns, to).unwrap_or_else(|error| {
                            panic!("connection {carried:?} from {from} to {to}: {error}")
                        });
                        carried.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        }
        let many = |more: usize| {
            let begun = carried.load(Ordering::Relaxed);
            let deadline = std::time::Instant::now() + PATIENCE;
            while carried.load(Ordering::Relaxed) < begun + more
                && std::time::Instant::now() < deadline
            {
                thread::yield_now();
            }
        };
        many(300);
        sys::process::terminate(old).unwrap();
        let mut ended = false;
        let deadline = std::time::Instant::now() + PATIENCE;
        while !ended && std::time::Instant::now() < deadline {
            ended = matches!(world.processes.ended(), Ok(Some((name, _))) if name == ztunnel(Node::Two));
            thread::yield_now();
        }
        many(300);
        stop.store(true, Ordering::Relaxed);
        assert!(ended, "the proxy did not end");
    });
    println!("{carried:?} connections were carried");
}
