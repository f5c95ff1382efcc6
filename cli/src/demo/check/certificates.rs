//! Renewal of certificates while they are used.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{Evidence, identity, load, service, want};
use crate::{
    lab::Node,
    mesh::{Mesh, tunnel},
};

/// Longer than half a certificate's life, at which it is renewed, with what chance adds to it.
const LONGEST: Duration = Duration::from_secs(20);
const LOAD: &str = "load-rotation";

/// Calls all the time, each on a connection of its own, until both ends have other certificates. What a server's next
/// tunnel shows is asked on the wire.
pub(super) fn rotate(mesh: &Mesh, evidence: &mut Evidence) -> Result<(), String> {
    let before = serials(mesh)?;
    let shown = tunnel::serial(mesh, mesh.pod("web")?, mesh.pod("cart")?)?;
    want(shown == before[1], || {
        format!(
            "cart shows serial {shown}, but its ztunnel says {}",
            before[1]
        )
    })?;
    let begin = Instant::now();
    let often = ["--connections", "4", "--rate", "200", "--fresh"];
    let often = [&often[..], &["--duration", "60s"]].concat();
    load::start(mesh, LOAD, service::CART, &often)?;
    let outcome = renewed(mesh, &before, begin);
    let counted = load::finish(mesh, LOAD);
    let after = outcome?;
    let counted = counted?;
    evidence.note("web", format!("serial {} → {}", before[0], after[0]));
    evidence.note(
        "cart",
        format!(
            "serial {} → {}, which its next tunnel shows",
            before[1], after[1]
        ),
    );
    let took = begin.elapsed().as_secs_f64();
    let load::Counted {
        ok, failed, median, ..
    } = counted;
    evidence.note(
        "meanwhile",
        format!("{ok} requests answered, {failed} failed in {took:.1} s; median {median:.1} ms"),
    );
    counted.all_answered()
}

/// Waits until both ends have other serial numbers, and the server's next tunnel shows its new one.
fn renewed(mesh: &Mesh, before: &[String; 2], begin: Instant) -> Result<[String; 2], String> {
    loop {
        let now = serials(mesh)?;
        if now.iter().zip(before).all(|(now, before)| now != before) {
            let shown = tunnel::serial(mesh, mesh.pod("web")?, mesh.pod("cart")?)?;
            want(shown != before[1], || {
                format!("the next tunnel still shows serial {shown}")
            })?;
            // Some more traffic on top of the new ones.
            thread::sleep(Duration::from_millis(500));
            return Ok([now[0].clone(), shown]);
        }
        want(begin.elapsed() < LONGEST, || {
            format!(
                "no renewal within {LONGEST:?}: the serial numbers are still {}",
                before.join(" and ")
            )
        })?;
        thread::sleep(Duration::from_millis(100));
    }
}

/// The serial numbers of the certificates that the ztunnels hold for `web` and `cart` now.
fn serials(mesh: &Mesh) -> Result<[String; 2], String> {
    let serial = |node: Node, pod: &str| {
        let dump = mesh
            .dump(node)
            .map_err(|error| format!("the ztunnel of {}: {error}", node.name()))?;
        let identity = identity("shop", pod);
        let all = dump["certificates"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        let held = all.iter().find(|it| it["identity"] == identity.as_str());
        let serial = held.and_then(|it| it["certChain"][0]["serialNumber"].as_str());
        serial.map(str::to_owned).ok_or_else(|| {
            format!(
                "the ztunnel of {} holds no certificate for {identity}",
                node.name()
            )
        })
    };
    Ok([serial(Node::One, "web")?, serial(Node::Two, "cart")?])
}
