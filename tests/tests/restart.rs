//! The control plane is killed and started again while pods talk.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    net::SocketAddr,
    sync::{
        LazyLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use cli::lab::Node;
use sys::netns::privileged;
use tests::{
    mesh::{Mesh, policy},
    pod::Pod,
    world::HTTP,
};

static MESH: LazyLock<Mesh> = LazyLock::new(|| {
    let pods = [
        Pod::new("web", Node::One, 10),
        Pod::new("cart", Node::Two, 10),
        Pod::new("catalog", Node::Two, 11),
    ];
    Mesh::new(tests::place!(), "restart", &pods, &[], &[])
});

#[test]
fn nobody_notices_that_the_control_plane_was_killed_and_came_back() {
    if !privileged("nobody_notices_that_the_control_plane_was_killed_and_came_back") {
        return;
    }
    let cart = SocketAddr::new(MESH.ip("cart"), HTTP);
    let (stop, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut open = MESH.open("web", MESH.ip("cart")).unwrap();
    thread::scope(|scope| {
        let traffic = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let answer = MESH.get("web", cart).unwrap();
                assert_eq!((answer.status, answer.pod.as_str()), (200, "cart"));
                answered.fetch_add(1, Ordering::Relaxed);
            }
        });
        let more = |what: &str| {
            let so_far = answered.load(Ordering::Relaxed);
            MESH.until(what, || {
                traffic.is_finished() || answered.load(Ordering::Relaxed) > so_far + 20
            });
        };
        more("requests are answered");
        let marks = Node::ALL.map(|node| (node, MESH.mark(node)));
        MESH.processes.kill("control").unwrap();
        for (node, mark) in marks {
            MESH.record(node, mark, |it| {
                it.get("message").contains("no stream to the control plane")
            });
        }
        more("requests are answered without a control plane");
        // A tunnel that was not there before.
        MESH.open("web", MESH.ip("catalog")).unwrap();
        MESH.open("catalog", MESH.ip("web")).unwrap();
        // What changes meanwhile is in force once it is back, and not before.
        let deny = policy("no-web", "catalog", "DENY", "cluster.local/ns/shop/sa/web");
        MESH.put("deny", &deny);
        MESH.open("web", MESH.ip("catalog")).unwrap();
        MESH.start_control();
        MESH.refuses("web", MESH.ip("catalog"));
        more("requests are answered as before");
        MESH.take("deny");
        MESH.until("the policy is gone", || {
            MESH.open("web", MESH.ip("catalog")).is_ok()
        });
        open.say(b"still there").unwrap();
        // Nothing was forgotten: the pods are captured as before.
        MESH.settled();
        stop.store(true, Ordering::Relaxed);
        traffic.join().unwrap();
    });
}
