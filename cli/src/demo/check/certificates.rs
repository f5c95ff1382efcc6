//! Renewal of certificates while they are used.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{Evidence, identity, service, want};
use crate::{
    lab::Node,
    mesh::{Mesh, PATIENCE, tunnel},
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
    start_load(mesh)?;
    let outcome = renewed(mesh, &before, begin);
    mesh.processes
        .end(LOAD)
        .map_err(|error| format!("cannot end the load: {error}"))?;
    let after = outcome?;
    let counts = counted(mesh)?;
    evidence.note("web", format!("serial {} → {}", before[0], after[0]));
    evidence.note(
        "cart",
        format!(
            "serial {} → {}, which its next tunnel shows",
            before[1], after[1]
        ),
    );
    let (ok, failed) = (
        counts["ok"].as_u64().unwrap_or(0),
        counts["failed"].as_u64().unwrap_or(u64::MAX),
    );
    let median = counts["p50_ms"].as_f64().unwrap_or(f64::NAN);
    let took = begin.elapsed().as_secs_f64();
    evidence.note(
        "meanwhile",
        format!("{ok} requests answered, {failed} failed in {took:.1} s; median {median:.1} ms"),
    );
    want(failed == 0 && ok > 0, || {
        format!(
            "{failed} of {} requests failed: {}",
            ok + failed,
            counts["error"]
        )
    })
}

fn start_load(mesh: &Mesh) -> Result<(), String> {
    let mut load = mesh.component("load");
    load.arg(format!("http://{}/", service::CART));
    load.args([
        "--connections",
        "4",
        "--rate",
        "200",
        "--fresh",
        "--duration",
        "60s",
    ]);
    let netns = mesh.netns("web").map_err(|failure| failure.to_string())?;
    mesh.run(LOAD, netns, &mut load)
        .map_err(|failure| failure.to_string())
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

/// The last line of the load generator.
fn counted(mesh: &Mesh) -> Result<Value, String> {
    let log = mesh.processes.log(LOAD);
    let text =
        fs::read_to_string(log.path()).map_err(|error| format!("the load's log: {error}"))?;
    let last = text
        .lines()
        .rev()
        .find_map(|line| serde_json::from_str::<Value>(line).ok());
    let last = last.filter(|line| line["done"] == true);
    last.ok_or_else(|| {
        format!("the load generator did not say what it counted within {PATIENCE:?}: {text}")
    })
}
