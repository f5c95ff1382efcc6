//! Certificates are renewed while pods talk, and nobody notices.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        LazyLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use cli::lab::Node;
use sys::netns::privileged;
use tests::{driven::Driven, pod::Pod, world::HTTP};

static WORLD: LazyLock<Driven> = LazyLock::new(|| {
    let pods = [
        Pod::new("web", Node::One, 10),
        Pod::new("looker", Node::One, 11).outside(),
        Pod::new("cart", Node::Two, 10),
    ];
    // Renewed at half of it, some seconds from now.
    let env = [("SECRET_TTL", "8s")];
    Driven::new(tests::place!(), "rotation", &pods, &env)
});

#[test]
fn no_request_fails_while_both_ends_get_new_certificates_twice() {
    if !privileged("no_request_fails_while_both_ends_get_new_certificates_twice") {
        return;
    }
    let to = SocketAddr::new(WORLD.ip("cart"), HTTP);
    let (web, cart) = (WORLD.pod("web"), WORLD.pod("cart"));
    let looker = WORLD.script.peer(&WORLD, "looker", web.identity());
    let shown = || {
        let at = SocketAddr::new(WORLD.ip("cart"), 15008);
        looker.serial_of(at, cart.identity()).unwrap()
    };
    let first = WORLD.serial(cart).unwrap();
    assert_eq!(shown(), first, "a new tunnel shows what is held");
    let (stop, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut open = WORLD.open("web", WORLD.ip("cart")).unwrap();
    thread::scope(|scope| {
        let traffic = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let answer = WORLD.get("web", to).unwrap();
                assert_eq!((answer.status, answer.pod.as_str()), (200, "cart"));
                answered.fetch_add(1, Ordering::Relaxed);
            }
        });
        let mut seen = [web, cart].map(|_| BTreeSet::new());
        WORLD.until("both have had three certificates", || {
            for (seen, pod) in seen.iter_mut().zip([web, cart]) {
                seen.insert(WORLD.serial(pod).expect("there always is one"));
            }
            traffic.is_finished() || seen.iter().all(|serials| serials.len() >= 3)
        });
        let so_far = answered.load(Ordering::Relaxed);
        assert!(so_far > 0);
        WORLD.until("requests go on with them", || {
            traffic.is_finished() || answered.load(Ordering::Relaxed) > so_far + 20
        });
        stop.store(true, Ordering::Relaxed);
        traffic.join().unwrap();
    });
    // What was open before is still carried, and the next tunnel shows the newest certificate.
    open.say(b"still there").unwrap();
    assert_ne!(shown(), first);
    let newest = || (WORLD.serial(cart).unwrap(), shown());
    WORLD.until("a tunnel shows what is held", || {
        let (held, shown) = newest();
        held == shown
    });
}
