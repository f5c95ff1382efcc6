//! A connection that leads back to the proxy that carries it ends, and is told.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    io::Write as _,
    net::{IpAddr, SocketAddr},
};

use cli::lab::Node;
use sys::netns::privileged;
use tests::{driven::Driven, pod::Pod, talk::Talk, world::ztunnel};

const SONG: &[u8] = b"around and around and around";

#[test]
fn a_connection_that_leads_back_to_the_proxy_ends() {
    if !privileged("a_connection_that_leads_back_to_the_proxy_ends") {
        return;
    }
    let pods = [
        Pod::new("web", Node::One, 10).dual_stack(),
        Pod::new("cart", Node::Two, 10),
    ];
    let world = Driven::new(tests::place!(), "loops", &pods, &[]);
    let [v4, v6] = world.pod("web").addresses[..] else {
        panic!("two addresses");
    };
    let own: [IpAddr; 4] = [v4, v6, [127, 0, 0, 1].into(), "::1".parse().unwrap()];
    let mark = world.mark(Node::One);
    let mut tried = 0;
    for ip in own.into_iter().chain([world.ip("cart")]) {
        for port in [15001, 15006, 15008] {
            let to = SocketAddr::new(ip, port);
            // Refused at once is as good as closed.
            if let Ok(mut stream) = world.connect("web", to) {
                let _ = stream.write_all(SONG);
                let said = Talk::over(stream).ended();
                assert!(!said.windows(SONG.len()).any(|part| part == SONG), "{to}");
            }
            tried += 1;
        }
    }
    let looped = world.record(Node::One, mark, |it| {
        it.outbound() && it.get("error").contains(&format!("{v4}:15001 leads back"))
    });
    assert!(looped.is("src.workload", "web"), "{looped:?}");
    world.record(Node::One, mark, |it| {
        it.get("error").contains("127.0.0.1:15001 leads back")
    });
    // Each attempt was at most a flow out and a flow in: nothing goes around.
    let logged = world
        .records(Node::One, mark)
        .iter()
        .filter(|it| it.is_access())
        .count();
    assert!(
        logged <= 2 * tried,
        "{logged} connections for {tried} attempts"
    );
    assert!(world.processes.id(&ztunnel(Node::One)).is_some());
    world.open("web", world.ip("cart")).unwrap();
}
