//! Many connections at once, and nothing left of them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{collections::BTreeMap, sync::LazyLock, thread};

use cli::lab::Node;
use sys::netns::{Netns, privileged};
use tests::{
    driven::Driven,
    pod::Pod,
    world::{World, ztunnel},
};

const CONNECTIONS: usize = 200;

static WORLD: LazyLock<Driven> = LazyLock::new(|| {
    let pods = [
        Pod::new("web", Node::One, 10),
        Pod::new("legacy", Node::One, 11).outside(),
        Pod::new("cart", Node::Two, 10),
    ];
    // Tunnels that nobody uses go soon, so that what is left can be counted.
    let env = [("POOL_UNUSED_RELEASE_TIMEOUT", "1s")];
    Driven::new(tests::place!(), "many", &pods, &env)
});

#[test]
fn two_hundred_connections_at_once_leave_nothing_behind() {
    if !privileged("two_hundred_connections_at_once_leave_nothing_behind") {
        return;
    }
    // What a worker opens once for good is open then.
    storm();
    let (before, tasks) = (files(&WORLD), tasks(&WORLD));
    storm();
    assert_eq!(files(&WORLD), before);
    assert_eq!(self::tasks(&WORLD), tasks);
    // What was counted as begun was counted as ended.
    for (node, expected) in [(Node::One, 2 * CONNECTIONS), (Node::Two, 4 * CONNECTIONS)] {
        for name in ["opened", "closed"] {
            let counted = WORLD.metric(node, &format!("istio_tcp_connections_{name}_total"));
            assert_eq!(counted, expected as f64, "{name} on {}", node.name());
        }
    }
}

/// All connections at once, in tunnels and then as they are, until nothing is left of them.
fn storm() {
    for from in ["web", "legacy"] {
        let opening: Vec<_> = (0..CONNECTIONS)
            .map(|_| thread::spawn(move || WORLD.open(from, WORLD.ip("cart")).unwrap()))
            .collect();
        let mut talks: Vec<_> = opening.into_iter().map(|it| it.join().unwrap()).collect();
        assert_eq!(WORLD.flows(Node::Two), CONNECTIONS, "{from}");
        for talk in &mut talks {
            talk.say(b"all of us").unwrap();
        }
        // Some end well, some are dropped in the middle.
        for (at, talk) in talks.into_iter().enumerate() {
            if at % 2 == 0 {
                talk.finish().unwrap();
            }
        }
        quiet();
    }
}

/// Waits until no flow and no tunnel is left, nor a connection of those who asked for them.
fn quiet() {
    WORLD.until("no flow is left", || {
        Node::ALL.iter().all(|node| WORLD.flows(*node) == 0)
    });
    let tunnels = |pod| sockets(WORLD.netns(pod), 15008);
    let asked = |node| sockets(WORLD.lab.node(node), 15000);
    WORLD.until("no connection is left", || {
        tunnels("web") + tunnels("cart") + asked(Node::One) + asked(Node::Two) == 0
    });
}

/// Files of both ztunnels.
fn files(world: &World) -> [BTreeMap<String, usize>; 2] {
    Node::ALL.map(|node| world.open_files(world.processes.id(&ztunnel(node)).unwrap()))
}

/// Tasks of both ztunnels' data paths.
fn tasks(world: &Driven) -> [f64; 2] {
    Node::ALL.map(|node| world.metric(node, "ambit_tasks"))
}

/// Connections with this port at one end in a namespace, as long as a process has them.
fn sockets(netns: &Netns, port: u16) -> usize {
    let list = || {
        let mut found = std::fs::read_to_string("/proc/thread-self/net/tcp")?;
        found += &std::fs::read_to_string("/proc/thread-self/net/tcp6")?;
        Ok(found)
    };
    let port = format!(":{port:04X}");
    // Columns: number, local, remote, state. 06 is TIME_WAIT, which nobody has, and 0A is LISTEN.
    let held = |line: &&str| {
        let mut columns = line.split_whitespace().skip(1);
        let (Some(local), Some(remote), Some(state)) =
            (columns.next(), columns.next(), columns.next())
        else {
            return false;
        };
        (local.ends_with(&port) || remote.ends_with(&port)) && state != "06" && state != "0A"
    };
    let listed = netns.within(list).unwrap();
    listed.lines().filter(held).count()
}
