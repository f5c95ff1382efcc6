//! What an eavesdropper on the link between the nodes gets.

use std::{
    net::SocketAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use super::{Evidence, service, want};
use crate::{
    lab::{
        Node, PEER,
        frame::Flow,
        sniffer::{Seen, Sniffer},
    },
    mesh::Mesh,
};

const CALLS: usize = 20;
const TUNNEL: u16 = 15008;

/// The same sniffer first has to catch the string where there is no mesh, or its silence would say nothing.
pub(super) fn encrypted(mesh: &Mesh, evidence: &mut Evidence) -> Result<(), String> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let canary = format!("canary-{:x}-{:x}", std::process::id(), now.as_nanos());
    outside(mesh, &canary, evidence)?;
    inside(mesh, &canary, evidence)
}

fn outside(mesh: &Mesh, canary: &str, evidence: &mut Evidence) -> Result<(), String> {
    let cart = mesh.pod("cart")?.http();
    let (seen, answered) = sniffed(mesh, canary, || say(mesh, "legacy", cart, canary))?;
    answered?;
    let (canaries, frames) = (seen.canaries, seen.frames);
    want(canaries > 0, || {
        format!(
            "the sniffer did not catch the string from outside the mesh: it was in none of {frames} frames"
        )
    })?;
    evidence.note(
        "outside the mesh",
        format!("legacy → cart: the string was in {canaries} of {frames} frames"),
    );
    Ok(())
}

fn inside(mesh: &Mesh, canary: &str, evidence: &mut Evidence) -> Result<(), String> {
    let (legacy, cart) = (mesh.pod("legacy")?, mesh.pod("cart")?);
    let to = [
        cart.http(),
        cart.http_v6()?,
        service::CART,
        service::CART_V6,
        service::LEDGER,
    ];
    let (seen, answered) = sniffed(mesh, canary, || {
        let mut calls = (0..CALLS).flat_map(|_| to);
        calls.try_for_each(|to| say(mesh, "web", to, canary))
    })?;
    let (canaries, frames) = (seen.canaries, seen.frames);
    want(seen.lost == 0, || {
        format!("{} frames came too fast to be looked at", seen.lost)
    })?;
    want(canaries == 0, || {
        format!("the string was in {canaries} of {frames} frames")
    })?;
    let outsider = |flow: &Flow| {
        legacy
            .addresses
            .iter()
            .any(|address| flow.involves(*address))
    };
    let bare = seen
        .flows
        .keys()
        .find(|flow| !flow.touches(TUNNEL) && !outsider(flow));
    want(bare.is_none(), || {
        format!("TCP beside port {TUNNEL}: {bare:?}")
    })?;
    // Last: what was readable on the link says more than what was not answered.
    answered?;
    let segments: u64 = seen.flows.values().sum();
    want(segments > 0, || "no TCP was seen at all".to_owned())?;
    let calls = CALLS * to.len();
    evidence.note(
        "inside the mesh",
        format!("{calls} calls: {segments} TCP segments, all to or from port {TUNNEL}; the string was in 0 of {frames} frames"),
    );
    Ok(())
}

/// What was on the link between the nodes while `calls` were made, and what became of them.
fn sniffed(
    mesh: &Mesh,
    canary: &str,
    calls: impl FnOnce() -> Result<(), String>,
) -> Result<(Seen, Result<(), String>), String> {
    let failed = |error: std::io::Error| format!("the sniffer on the link: {error}");
    let sniffer =
        Sniffer::start(mesh.lab.node(Node::One), PEER, canary.as_bytes()).map_err(failed)?;
    let outcome = calls();
    Ok((sniffer.finish().map_err(failed)?, outcome))
}

/// Sends the string, and wants it back.
fn say(mesh: &Mesh, from: &str, to: SocketAddr, canary: &str) -> Result<(), String> {
    let answer = mesh
        .request(from, to, canary.as_bytes())
        .map_err(|error| format!("{from} → {to}: {error}"))?;
    want(answer.response.body == canary.as_bytes(), || {
        format!("{from} → {to}: the body did not come back")
    })
}
