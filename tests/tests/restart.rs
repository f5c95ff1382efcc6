//! The control plane is killed and started again while pods talk.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::SocketAddr;

use cli::lab::Node;
use sys::netns::privileged;
use tests::{
    mesh::{Mesh, policy},
    pod::Pod,
    traffic::during,
    world::HTTP,
};

#[test]
fn nobody_notices_that_the_control_plane_was_killed_and_came_back() {
    if !privileged("nobody_notices_that_the_control_plane_was_killed_and_came_back") {
        return;
    }
    let pods = [
        Pod::new("web", Node::One, 10),
        Pod::new("cart", Node::Two, 10),
        Pod::new("catalog", Node::Two, 11),
    ];
    let mesh = Mesh::new(tests::place!(), "restart", &pods, &[], &[]);
    let [cart, catalog, web] = ["cart", "catalog", "web"].map(|pod| mesh.ip(pod));
    let mut open = mesh.open("web", cart).unwrap();
    during(
        &mesh,
        ("web", SocketAddr::new(cart, HTTP), "cart"),
        |traffic| {
            let marks = Node::ALL.map(|node| (node, mesh.mark(node)));
            mesh.processes.kill("control").unwrap();
            for (node, mark) in marks {
                mesh.record(node, mark, |it| {
                    it.get("message").contains("no stream to the control plane")
                });
            }
            traffic.goes_on();
            // Tunnels that were not there before.
            mesh.open("web", catalog).unwrap();
            mesh.open("catalog", web).unwrap();
            // What changes meanwhile is in force once it is back, and not before.
            let deny = policy("no-web", "catalog", "DENY", "cluster.local/ns/shop/sa/web");
            mesh.put("deny", &deny);
            mesh.open("web", catalog).unwrap();
            mesh.start_control();
            mesh.refuses("web", catalog);
            traffic.goes_on();
            mesh.take("deny");
            mesh.until("the policy is gone", || mesh.open("web", catalog).is_ok());
            open.say(b"still there").unwrap();
            // Nothing was forgotten: the pods are captured as before.
            mesh.settled();
        },
    );
}
