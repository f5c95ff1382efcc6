//! What an eavesdropper on the link between the nodes gets.

use std::{
    net::SocketAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use super::{Evidence, service, want};
use crate::{
    demo::mesh::Mesh,
    lab::{Node, PEER, frame::Flow, sniffer::Sniffer},
};

const CALLS: usize = 20;
const TUNNEL: u16 = 15008;

/// The same sniffer first has to catch the string where there is no mesh, or its silence would say nothing.
pub(super) fn encrypted(mesh: &Mesh, evidence: &mut Evidence) -> Result<(), String> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let canary = format!("canary-{:x}-{:x}", std::process::id(), now.as_nanos()).into_bytes();
    let (legacy, cart) = (mesh.pod("legacy")?, mesh.pod("cart")?);
    let failed = |error: std::io::Error| format!("the sniffer on the link: {error}");
    let listen = || Sniffer::start(mesh.lab.node(Node::One), PEER, &canary).map_err(failed);
    let say = |from: &str, to: SocketAddr| {
        let answer = mesh
            .request(from, to, &canary)
            .map_err(|error| format!("{from} → {to}: {error}"))?;
        want(answer.response.body == canary, || {
            format!("{from} → {to}: the body did not come back")
        })
    };

    let sniffer = listen()?;
    say("legacy", cart.http())?;
    let open = sniffer.finish().map_err(failed)?;
    want(open.canaries > 0, || {
        format!(
            "the sniffer did not catch the string from {} outside the mesh: {} frames",
            legacy.name, open.frames
        )
    })?;
    evidence.note(
        "outside the mesh",
        format!(
            "legacy → cart: the string was in {} of {} frames",
            open.canaries, open.frames
        ),
    );

    let sniffer = listen()?;
    let calls = [
        ("web", cart.http()),
        ("web", cart.http_v6()?),
        ("web", service::CART),
        ("web", service::CART_V6),
        ("web", service::LEDGER),
    ];
    let mut all = (0..CALLS).flat_map(|_| calls);
    let answered = all.try_for_each(|(from, to)| say(from, to));
    let seen = sniffer.finish().map_err(failed)?;
    want(seen.lost == 0, || {
        format!("{} frames came too fast to be looked at", seen.lost)
    })?;
    want(seen.canaries == 0, || {
        format!(
            "the string was in {} of {} frames",
            seen.canaries, seen.frames
        )
    })?;
    let ours = |flow: &&Flow| {
        !legacy
            .addresses
            .iter()
            .any(|address| flow.involves(*address))
    };
    let bare: Vec<_> = seen
        .flows
        .keys()
        .filter(ours)
        .filter(|flow| !flow.touches(TUNNEL))
        .collect();
    want(bare.is_empty(), || {
        format!(
            "TCP beside port {TUNNEL}: {} → {}",
            bare[0].source, bare[0].destination
        )
    })?;
    // Last: what was readable on the link says more than what was not answered.
    answered?;
    let segments: u64 = seen.flows.values().sum();
    want(segments > 0, || "no TCP was seen at all".to_owned())?;
    evidence.note("inside the mesh", format!("{} calls: {} TCP segments, all to or from port {TUNNEL}; the string was in 0 of {} frames", CALLS * calls.len(), segments, seen.frames));
    Ok(())
}
