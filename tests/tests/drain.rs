//! A proxy that is told to end takes nothing new and lets what is open go on, until it is done or the time is up.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use cli::lab::Node;
use sys::netns::privileged;
use tests::{
    driven::Driven,
    pod::Pod,
    world::{World, ztunnel},
};

/// A world whose proxies give open flows this long.
fn world(name: &str, patience: &str) -> Driven {
    let pods = [
        Pod::new("web", Node::One, 10),
        Pod::new("cart", Node::Two, 10),
    ];
    let env = [("CONNECTION_TERMINATION_DEADLINE", patience)];
    Driven::new(tests::place!(), name, &pods, &env)
}

/// Tells the destination's proxy to end.
fn terminate(world: &World) {
    let process = world.processes.id(&ztunnel(Node::Two)).unwrap();
    sys::process::terminate(process).unwrap();
}

/// How the destination's proxy ended; nobody else may have.
fn ended(world: &World) -> i32 {
    let mut code = None;
    world.until("the proxy has ended", || {
        if let Some((name, status)) = world.processes.ended().unwrap() {
            assert_eq!(name, ztunnel(Node::Two));
            code = status.code();
            return true;
        }
        false
    });
    code.unwrap()
}

#[test]
fn open_flows_go_on_until_they_have_ended_and_nothing_new_is_taken() {
    if !privileged("open_flows_go_on_until_they_have_ended_and_nothing_new_is_taken") {
        return;
    }
    let world = world("drain", "60s");
    let mut open = world.open("web", world.ip("cart")).unwrap();
    terminate(&world);
    world.until("nothing new is taken", || {
        world.open("web", world.ip("cart")).is_err()
    });
    open.say(b"still there").unwrap();
    open.finish().unwrap();
    // Long before its time is up: there was nothing left to wait for.
    assert_eq!(ended(&world), 0);
}

#[test]
fn what_is_still_open_when_the_time_is_up_is_cut() {
    if !privileged("what_is_still_open_when_the_time_is_up_is_cut") {
        return;
    }
    let world = world("cut", "1s");
    let mut open = world.open("web", world.ip("cart")).unwrap();
    open.say(b"hello").unwrap();
    terminate(&world);
    assert_eq!(ended(&world), 0);
    open.closed();
}
