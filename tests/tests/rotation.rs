//! Certificates are renewed while pods talk, and nobody notices.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{collections::BTreeSet, net::SocketAddr};

use cli::lab::Node;
use sys::netns::privileged;
use tests::{driven::Driven, pod::Pod, traffic::during, world::HTTP};

#[test]
fn no_request_fails_while_both_ends_get_new_certificates_twice() {
    if !privileged("no_request_fails_while_both_ends_get_new_certificates_twice") {
        return;
    }
    let pods = [
        Pod::new("web", Node::One, 10),
        Pod::new("looker", Node::One, 11).outside(),
        Pod::new("cart", Node::Two, 10),
    ];
    // Renewed at half of it, some seconds from now.
    let env = [("SECRET_TTL", "8s")];
    let world = Driven::new(tests::place!(), "rotation", &pods, &env);
    let at = |port| SocketAddr::new(world.ip("cart"), port);
    let (web, cart) = (world.pod("web"), world.pod("cart"));
    let looker = world.script.peer(&world, "looker", web.identity());
    let shown = || looker.serial_of(at(15008), cart.identity()).unwrap();
    let first = world.serial(cart).unwrap();
    assert_eq!(shown(), first, "a new tunnel shows what is held");
    let mut open = world.open("web", world.ip("cart")).unwrap();
    during(&world, ("web", at(HTTP), "cart"), |traffic| {
        let mut seen = [web, cart].map(|_| BTreeSet::new());
        world.until("both have had three certificates", || {
            traffic.holds();
            for (seen, pod) in seen.iter_mut().zip([web, cart]) {
                seen.insert(world.serial(pod).expect("there always is one"));
            }
            seen.iter().all(|serials| serials.len() >= 3)
        });
    });
    // What was open before is still carried, and the next tunnel shows the newest certificate.
    open.say(b"still there").unwrap();
    assert_ne!(shown(), first);
    world.until("a tunnel shows what is held", || {
        world.serial(cart) == Some(shown())
    });
}
