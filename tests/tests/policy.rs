//! Policy, on new connections and on those that are open when it changes.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{net::SocketAddr, sync::LazyLock};

use cli::lab::Node;
use sys::netns::privileged;
use tests::{
    driven::Driven,
    peer::connect,
    pod::{Pod, guarded, no_peer, no_port},
    talk::Talk,
    world::{ECHO, HTTP, Mark},
};

/// Each test has a server of its own on n2, called by `web` in a tunnel and by `legacy` in plain text, both of n1.
static WORLD: LazyLock<Driven> = LazyLock::new(|| {
    let pods = [
        Pod::new("web", Node::One, 10),
        Pod::new("legacy", Node::One, 11).outside(),
        Pod::new("cart", Node::Two, 10),
        Pod::new("catalog", Node::Two, 11),
        Pod::new("ledger", Node::Two, 12),
    ];
    Driven::new(tests::place!(), "policy", &pods, &[])
});

/// Open connections to a pod: from a tunnel, and as they are.
struct Open {
    to: &'static str,
    mark: Mark,
    talks: [Talk; 2],
}

impl Open {
    fn new(to: &'static str) -> Self {
        let mark = WORLD.mark(Node::Two);
        let talks = ["web", "legacy"].map(|from| WORLD.open(from, WORLD.ip(to)).unwrap());
        Self { to, mark, talks }
    }

    fn goes_on(&mut self) {
        for talk in &mut self.talks {
            talk.say(b"still there").unwrap();
        }
    }

    /// Both are closed, both records name the policy, and nobody gets in again.
    fn is_cut(&mut self, policy: &str) {
        for (talk, tunnelled) in self.talks.iter_mut().zip([true, false]) {
            talk.closed();
            let record = WORLD.record(Node::Two, self.mark, |it| {
                it.inbound()
                    && it.is("dst.workload", self.to)
                    && it.get("dst.hbone_addr").is_empty() != tunnelled
                    && !it.get("error").is_empty()
            });
            assert!(
                record.is("policy", policy) && record.get("error").contains(policy),
                "{record:?}"
            );
        }
        for from in ["web", "legacy"] {
            WORLD.refuses(from, WORLD.ip(self.to));
        }
    }
}

fn opens_again(to: &'static str) {
    WORLD.until("connections are let in again", || {
        WORLD.open("web", WORLD.ip(to)).is_ok()
    });
    Open::new(to).goes_on();
}

#[test]
fn a_denied_peer_gets_401_and_the_log_names_the_policy() {
    if !privileged("a_denied_peer_gets_401_and_the_log_names_the_policy") {
        return;
    }
    let (script, ledger, web) = (&WORLD.script, WORLD.pod("ledger"), WORLD.pod("web"));
    script.accepted(
        &WORLD,
        &script.policies(&[no_peer("no-web", web.identity())]),
    );
    script.accepted(
        &WORLD,
        &script.addresses(&[guarded(ledger, &["shop/no-web"])]),
    );
    let mark = Node::ALL.map(|node| WORLD.mark(node));
    let asked = SocketAddr::new(WORLD.ip("ledger"), HTTP);
    let tunnel = SocketAddr::new(WORLD.ip("ledger"), 15008);
    let ask = |identity| {
        let peer = WORLD.script.peer(&WORLD, "legacy", identity);
        let request = connect(&asked.to_string());
        peer.ask(tunnel, ledger.identity(), vec![request])
    };
    // Each worker takes the new state at its next turn.
    WORLD.until("web is refused", || ask(web.identity()) == Ok(vec![401]));
    assert_eq!(ask(WORLD.pod("cart").identity()), Ok(vec![200]));
    let record = WORLD.record(Node::Two, mark[1], |it| {
        it.inbound()
            && it.is("src.identity", web.identity())
            && it.is("dst.identity", ledger.identity())
    });
    assert!(record.is("policy", "shop/no-web"), "{record:?}");

    // An application of that pod learns no more than that there is no connection.
    WORLD.get("web", asked).unwrap_err();
    let record = WORLD.record(Node::One, mark[0], |it| {
        it.outbound() && it.is("dst.hbone_addr", asked)
    });
    assert!(record.get("error").contains("401"), "{record:?}");
}

#[test]
fn a_deny_cuts_open_connections_once_a_workload_names_it() {
    if !privileged("a_deny_cuts_open_connections_once_a_workload_names_it") {
        return;
    }
    let (script, cart) = (&WORLD.script, WORLD.pod("cart"));
    let mut open = Open::new("cart");
    script.accepted(&WORLD, &script.policies(&[no_port("no-echo", ECHO)]));
    open.goes_on();
    script.addresses(&[guarded(cart, &["shop/no-echo"])]);
    open.is_cut("shop/no-echo");
    // Only what it denies.
    let http = SocketAddr::new(WORLD.ip("cart"), HTTP);
    assert_eq!(WORLD.get("web", http).unwrap().status, 200);
    script.accepted(&WORLD, &script.addresses(&[guarded(cart, &[])]));
    opens_again("cart");
}

#[test]
fn a_policy_that_is_named_but_unknown_denies_until_it_comes() {
    if !privileged("a_policy_that_is_named_but_unknown_denies_until_it_comes") {
        return;
    }
    let (script, catalog) = (&WORLD.script, WORLD.pod("catalog"));
    let mut open = Open::new("catalog");
    script.addresses(&[guarded(catalog, &["shop/later"])]);
    open.is_cut("shop/later");
    // It comes, and is about something else.
    script.accepted(&WORLD, &script.policies(&[no_port("later", 1)]));
    opens_again("catalog");
    // It changes, and is about this.
    let mut open = Open::new("catalog");
    open.goes_on();
    script.policies(&[no_port("later", ECHO)]);
    open.is_cut("shop/later");
    // It goes, and is unknown again.
    script.accepted(
        &WORLD,
        &script.say(proto::AUTHORIZATION_TYPE, Vec::new(), &["shop/later"]),
    );
    WORLD.refuses("web", WORLD.ip("catalog"));
}
