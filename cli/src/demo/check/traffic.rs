//! Where calls go, and what both ztunnels say of them.

use std::net::SocketAddr;

use super::{Evidence, call, identity, millis, service, want};
use crate::{lab::Node, mesh::Mesh};

const TUNNEL: u16 = 15008;

pub(super) fn across_nodes(mesh: &Mesh, evidence: &mut Evidence) -> Result<(), String> {
    tunnelled(mesh, evidence, service::CART, "cart", Node::Two)
}

pub(super) fn same_node(mesh: &Mesh, evidence: &mut Evidence) -> Result<(), String> {
    tunnelled(mesh, evidence, service::CATALOG, "catalog", Node::One)
}

pub(super) fn v6(mesh: &Mesh, evidence: &mut Evidence) -> Result<(), String> {
    let cart = mesh.pod("cart")?.http_v6()?;
    tunnelled(mesh, evidence, cart, "cart", Node::Two)?;
    let answer = call(mesh, "web", service::CART_V6, "cart")?;
    evidence.note(
        "service address",
        format!(
            "{} answered by cart in {:.1} ms",
            service::CART_V6,
            millis(answer.took)
        ),
    );
    Ok(())
}

/// A call by `web`, with the record of it on both sides.
fn tunnelled(
    mesh: &Mesh,
    evidence: &mut Evidence,
    to: SocketAddr,
    by: &str,
    node: Node,
) -> Result<(), String> {
    let mark = mesh.mark();
    let answer = call(mesh, "web", to, by)?;
    evidence.note(
        "call",
        format!(
            "web ({}) → {to}, answered by {by} in {:.1} ms",
            answer.client,
            millis(answer.took)
        ),
    );
    let client = answer.client.to_string();
    let left = mesh.record(mark, Node::One, |it| {
        it.get("direction") == "outbound" && it.get("src.addr") == client
    })?;
    let came = mesh.record(mark, node, |it| {
        it.get("direction") == "inbound"
            && it.get("dst.workload") == by
            && same_ip(it.get("src.addr"), answer.client)
    })?;
    for (side, record) in [("client's ztunnel", &left), ("server's ztunnel", &came)] {
        let (source, destination) = (record.get("src.identity"), record.get("dst.identity"));
        want(
            source == identity("shop", "web") && destination == identity("shop", by),
            || {
                format!(
                    "the {side} says {source:?} → {destination:?}, not {} → {}",
                    identity("shop", "web"),
                    identity("shop", by)
                )
            },
        )?;
        let through = record.get("dst.addr");
        want(
            through
                .parse::<SocketAddr>()
                .is_ok_and(|it| it.port() == TUNNEL),
            || format!("the {side} says that it went to {through:?}, which is not port {TUNNEL}"),
        )?;
        want(record.get("error").is_empty(), || {
            format!("the {side} says {}", record.get("error"))
        })?;
        let sentence = format!("{source} → {destination} through {through}");
        evidence.note(
            if side.starts_with('c') {
                "client's ztunnel"
            } else {
                "server's ztunnel"
            },
            sentence,
        );
    }
    Ok(())
}

fn same_ip(address: &str, client: SocketAddr) -> bool {
    address
        .parse::<SocketAddr>()
        .is_ok_and(|it| it.ip().to_canonical() == client.ip())
}

pub(super) fn client_address(mesh: &Mesh, evidence: &mut Evidence) -> Result<(), String> {
    let v6 = mesh.pod("cart")?.http_v6()?;
    for (to, by) in [
        (service::CART, "cart"),
        (service::CATALOG, "catalog"),
        (v6, "cart"),
    ] {
        let answer = call(mesh, "web", to, by)?;
        let seen = answer.response.header("x-client").unwrap_or_default();
        want(same_ip(seen, answer.client), || {
            format!("{by} saw {seen}, but the client is {}", answer.client)
        })?;
        evidence.note(
            "seen",
            format!("{} by {by}, called at {to}", answer.client.ip()),
        );
    }
    Ok(())
}
