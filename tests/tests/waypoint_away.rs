//! What happens while a waypoint, the control plane, or both are away: nothing goes around.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use cli::{http::Request, lab::Node};
use sys::netns::privileged;
use tests::{
    gateway::{Gateway, methods, service, through},
    mesh::Mesh,
    pod::Pod,
};

const GATEWAY: Gateway = Gateway::new("away", Node::Two, 200);

fn to() -> SocketAddr {
    SocketAddr::new(IpAddr::from(Ipv4Addr::new(10, 96, 0, 60)), 80)
}

/// The status of a request from `web`, and whether a waypoint stood between.
fn asked(world: &Mesh) -> Option<(u16, bool)> {
    let answer = world.ask("web", to(), &Request::get("/headers")).ok()?;
    let body = String::from_utf8(answer.body).unwrap();
    Some((answer.status, body.contains("x-forwarded-for")))
}

fn control_answers(world: &Mesh) -> bool {
    let admin = SocketAddr::from(([127, 0, 0, 1], 15014));
    let stream = world
        .lab
        .connect(world.lab.control(), admin, tests::world::PATIENCE);
    let answer = stream.and_then(|stream| {
        cli::http::Connection::over(stream, "control").send("GET", "/healthz/ready", b"")
    });
    answer.is_ok_and(|answer| answer.status == 200)
}

fn without_control(world: &Mesh) {
    world.processes.kill("control").unwrap();
}

fn with_control(world: &Mesh) {
    world.start_control();
    world.until("the control plane answers", || control_answers(world));
}

/// Asks several times, so that a node that has just heard something has done so.
fn stays_closed(world: &Mesh) {
    for _ in 0..20 {
        assert_eq!(asked(world), None);
    }
}

#[test]
fn a_bound_service_stays_closed_whoever_is_away() {
    if !privileged("a_bound_service_stays_closed_whoever_is_away") {
        return;
    }
    let pods = [
        Pod::new("web", Node::One, 10),
        Pod::new("orders", Node::Two, 10),
    ];
    // Bound by its label alone: no policy makes the endpoints refuse who goes around, so that it would be seen.
    let orders = service("orders", 60, "orders", &through(GATEWAY.name));
    let manifests = [("orders", orders.as_str())];
    let mut world = Mesh::new(tests::place!(), "waypoint-away", &pods, &manifests, &[]);
    world.until("what was never ready is not waited for", || {
        asked(&world) == Some((200, false))
    });
    world.run_gateway(&GATEWAY);
    let world = world;
    let through = Some((200, true));
    world.until("it is bound", || asked(&world) == through);

    // The waypoint restarts.
    world.kill_waypoint(&GATEWAY);
    stays_closed(&world);
    world.start_waypoint(&GATEWAY);
    world.until("it is served again", || asked(&world) == through);

    // The control plane restarts while it is away, and so does a node proxy, which knows of nothing.
    world.kill_waypoint(&GATEWAY);
    without_control(&world);
    stays_closed(&world);
    with_control(&world);
    stays_closed(&world);
    world.processes.kill("ztunnel-n1").unwrap();
    world.start_ztunnel(Node::One, tests::mesh::PORT, tests::mesh::PORT, &[]);
    world.until("the node proxy is ready", || world.ready(Node::One));
    world.until("the client is served again", || {
        world.open("web", world.ip("orders")).is_ok()
    });
    stays_closed(&world);
    world.start_waypoint(&GATEWAY);
    world.until("it is served again", || asked(&world) == through);

    // The control plane is away while the waypoint starts.
    without_control(&world);
    assert_eq!(asked(&world), through, "what is known stays in force");
    world.kill_waypoint(&GATEWAY);
    world.start_waypoint(&GATEWAY);
    // It takes connections, and has no certificate to show: whoever asks waits for a while.
    assert_eq!(asked(&world), None);
    assert!(!world.waypoint_ready(&GATEWAY));
    with_control(&world);
    world.until("it is served again", || asked(&world) == through);

    // What was bound by a policy stays so too: it is read again before anything is told.
    world.put("methods", &methods("orders", "orders", "GET"));
    let straight = SocketAddr::new(world.ip("orders"), tests::world::HTTP);
    world.until("nobody goes around", || world.get("web", straight).is_err());
    world.kill_waypoint(&GATEWAY);
    without_control(&world);
    with_control(&world);
    stays_closed(&world);
    assert!(world.get("web", straight).is_err());
    world.start_waypoint(&GATEWAY);
    world.until("it is served again", || asked(&world) == through);
}
