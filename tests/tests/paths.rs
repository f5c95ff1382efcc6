//! A request between any two pods arrives, with the identities that it should have, and as little as possible in clear.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{net::SocketAddr, sync::LazyLock};

use cli::lab::{Node, PEER, sniffer::Sniffer};
use sys::netns::privileged;
use tests::{mesh::Mesh, pod::Pod, world::HTTP};

const MANIFESTS: &str = "apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec:
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10, \"fd96::10\"]
  ipFamilies: [IPv4, IPv6]
  ipFamilyPolicy: RequireDualStack
  selector: {app: cart}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: bank}
spec:
  mtls: {mode: STRICT}
";

static MESH: LazyLock<Mesh> = LazyLock::new(|| {
    let pods = [
        Pod::new("web", Node::One, 10).dual_stack(),
        Pod::new("catalog", Node::One, 11),
        Pod::new("cart", Node::Two, 10).dual_stack(),
        Pod::new("ledger", Node::Two, 11).of("bank"),
        Pod::new("legacy", Node::One, 12).outside(),
        Pod::new("archive", Node::Two, 12).outside(),
    ];
    Mesh::new(
        tests::place!(),
        "paths",
        &pods,
        &[("services", MANIFESTS)],
        &[],
    )
});

/// One request from a pod to a port of the other one, with both ends' records.
#[track_caller]
fn carried(from: &str, to: SocketAddr, by: &str) {
    let (client, server) = (MESH.pod(from), MESH.pod(by));
    let marks = Node::ALL.map(|node| MESH.mark(node));
    let answer = MESH.get(from, to).unwrap();
    assert_eq!((answer.status, answer.pod.as_str()), (200, by));
    let (client_ip, seen): (_, SocketAddr) = (answer.client, answer.seen.parse().unwrap());
    assert_eq!(
        seen.ip(),
        client_ip.ip(),
        "the application sees its client's own address"
    );
    let mark = |node: Node| marks[Node::ALL.iter().position(|it| *it == node).unwrap()];
    let out = MESH.record(client.node, mark(client.node), |it| {
        it.outbound() && it.is("src.addr", client_ip)
    });
    assert!(
        out.is("src.identity", client.identity()) && out.is("dst.identity", server.identity()),
        "{out:?}"
    );
    assert!(out.get("dst.addr").ends_with(":15008"), "{out:?}");
    let hbone = out.get("dst.hbone_addr").to_owned();
    let inside = MESH.record(server.node, mark(server.node), |it| {
        it.inbound() && it.is("dst.hbone_addr", &hbone) && it.is("src.workload", from)
    });
    assert!(
        inside.is("src.identity", client.identity())
            && inside.is("dst.identity", server.identity()),
        "{inside:?}"
    );
    assert_eq!(
        (inside.get("error"), out.get("error")),
        ("", ""),
        "{inside:?} {out:?}"
    );
}

/// A link on which a canary may be heard.
#[derive(Clone, Copy)]
enum Link {
    /// Between the nodes.
    Nodes,
    /// Of a pod.
    Pod(&'static str),
}

/// That a canary is sung in a connection, and heard on these links only if it is sung in clear.
#[track_caller]
fn sung(from: &str, to: &str, family: usize, links: &[Link], in_clear: bool) {
    let to_address = MESH.pod(to).addresses[family];
    // Other tests have connections on the same links: this one's canary is its own.
    let canary = format!("the canary from {from} to {to_address} sings");
    let sniffers = links.iter().map(|link| {
        let (netns, interface) = match link {
            Link::Nodes => (MESH.lab.node(Node::One), PEER),
            Link::Pod(pod) => (MESH.netns(pod), "eth0"),
        };
        Sniffer::start(netns, interface, canary.as_bytes()).unwrap()
    });
    let sniffers: Vec<_> = sniffers.collect();
    let mut talk = MESH.open(from, to_address).unwrap();
    talk.say(canary.as_bytes()).unwrap();
    talk.finish().unwrap();
    for sniffer in sniffers {
        let seen = sniffer.finish().unwrap();
        assert_eq!(seen.lost, 0);
        assert!(!seen.flows.is_empty(), "the sniffer is deaf");
        assert_eq!(seen.canaries > 0, in_clear, "{seen:?}");
        let between = seen
            .flows
            .keys()
            .filter(|flow| flow.involves(MESH.pod(from).addresses[family]))
            .filter(|flow| flow.involves(to_address));
        let ports: Vec<_> = between.map(|flow| flow.touches(15008)).collect();
        assert!(!ports.is_empty() && ports.iter().all(|tunnel| *tunnel != in_clear));
    }
}

#[test]
fn a_request_crosses_nodes_in_a_tunnel() {
    if !privileged("a_request_crosses_nodes_in_a_tunnel") {
        return;
    }
    carried("web", SocketAddr::new(MESH.ip("cart"), HTTP), "cart");
    carried("web", "10.96.0.10:80".parse().unwrap(), "cart");
    sung("web", "cart", 0, &[Link::Nodes, Link::Pod("web")], false);
}

#[test]
fn a_request_on_one_node_goes_in_a_tunnel_too() {
    if !privileged("a_request_on_one_node_goes_in_a_tunnel_too") {
        return;
    }
    carried("web", SocketAddr::new(MESH.ip("catalog"), HTTP), "catalog");
    sung(
        "web",
        "catalog",
        0,
        &[Link::Pod("web"), Link::Pod("catalog")],
        false,
    );
}

#[test]
fn ipv6_is_carried_like_ipv4() {
    if !privileged("ipv6_is_carried_like_ipv4") {
        return;
    }
    let to = MESH.pod("cart").addresses[1];
    assert!(to.is_ipv6());
    carried("web", SocketAddr::new(to, HTTP), "cart");
    carried("web", "[fd96::10]:80".parse().unwrap(), "cart");
    sung("web", "cart", 1, &[Link::Nodes, Link::Pod("cart")], false);
}

#[test]
fn a_client_outside_the_mesh_is_let_in_where_plaintext_is_permitted() {
    if !privileged("a_client_outside_the_mesh_is_let_in_where_plaintext_is_permitted") {
        return;
    }
    let mark = MESH.mark(Node::Two);
    let answer = MESH
        .get("legacy", SocketAddr::new(MESH.ip("cart"), HTTP))
        .unwrap();
    assert_eq!((answer.status, answer.pod.as_str()), (200, "cart"));
    assert_eq!(
        answer.seen.parse::<SocketAddr>().unwrap().ip(),
        MESH.ip("legacy")
    );
    let inside = MESH.record(Node::Two, mark, |it| {
        it.inbound() && it.is("src.addr", answer.client)
    });
    // It was carried, and nobody was proved.
    assert_eq!((inside.get("src.identity"), inside.get("error")), ("", ""));
    sung("legacy", "cart", 0, &[Link::Nodes], true);
}

#[test]
fn a_client_outside_the_mesh_is_refused_under_strict() {
    if !privileged("a_client_outside_the_mesh_is_refused_under_strict") {
        return;
    }
    let mark = MESH.mark(Node::Two);
    let to = SocketAddr::new(MESH.ip("ledger"), HTTP);
    MESH.get("legacy", to).unwrap_err();
    let inside = MESH.record(Node::Two, mark, |it| it.inbound() && it.is("dst.addr", to));
    assert!(
        inside.get("policy").starts_with("ambit-system/"),
        "{inside:?}"
    );
    assert!(inside.get("error").contains("policy"), "{inside:?}");
    // From the mesh it answers.
    carried("web", to, "ledger");
}

#[test]
fn a_server_outside_the_mesh_gets_what_it_would_get_without_one() {
    if !privileged("a_server_outside_the_mesh_gets_what_it_would_get_without_one") {
        return;
    }
    let mark = MESH.mark(Node::One);
    let to = SocketAddr::new(MESH.ip("archive"), HTTP);
    let answer = MESH.get("web", to).unwrap();
    assert_eq!((answer.status, answer.pod.as_str()), (200, "archive"));
    assert_eq!(
        answer.seen.parse::<SocketAddr>().unwrap().ip(),
        MESH.ip("web")
    );
    let out = MESH.record(Node::One, mark, |it| {
        it.outbound() && it.is("src.addr", answer.client)
    });
    assert!(
        out.is("dst.addr", to) && out.get("dst.hbone_addr").is_empty(),
        "{out:?}"
    );
    sung("web", "archive", 0, &[Link::Nodes], true);
    assert_eq!(
        MESH.open("web", MESH.ip("archive")).unwrap().from().ip(),
        MESH.ip("web")
    );
}
