//! Renewal of certificates while they are used.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{Evidence, call, identity, service, want};
use crate::{
    demo::mesh::{Mesh, PATIENCE},
    lab::Node,
};

/// Longer than half a certificate's life, at which it is renewed, with what chance adds to it.
const LONGEST: Duration = Duration::from_secs(25);
const LOAD: &str = "load-rotation";

/// Calls all the time, on connections that stay and on fresh ones, until both ends have other certificates.
pub(super) fn rotate(mesh: &Mesh, evidence: &mut Evidence) -> Result<(), String> {
    let ends = [(Node::One, "web"), (Node::Two, "cart")];
    let before = serials(mesh, &ends)?;
    let mut load = mesh.component("load");
    load.args([
        &format!("http://{}/", service::CART),
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
        .map_err(|failure| failure.to_string())?;
    let begin = Instant::now();
    let outcome = renewed(mesh, &ends, &before, begin);
    mesh.processes
        .end(LOAD)
        .map_err(|error| format!("cannot end the load: {error}"))?;
    let counts = counted(mesh)?;
    let after = outcome?;
    let (ok, failed) = (
        counts["ok"].as_u64().unwrap_or(0),
        counts["failed"].as_u64().unwrap_or(u64::MAX),
    );
    for (at, (_, pod)) in ends.iter().enumerate() {
        let what = if at == 0 {
            "client's certificate"
        } else {
            "server's certificate"
        };
        evidence.note(
            what,
            format!("{pod}: serial {} → {}", before[at], after[at]),
        );
    }
    evidence.note(
        "renewed after",
        format!("{:.1} s", begin.elapsed().as_secs_f64()),
    );
    evidence.note(
        "requests meanwhile",
        format!(
            "{ok} answered, {failed} failed; median {:.1} ms",
            counts["p50_ms"].as_f64().unwrap_or(f64::NAN)
        ),
    );
    want(failed == 0 && ok > 0, || {
        format!(
            "{failed} of {} requests failed: {}",
            ok + failed,
            counts["error"]
        )
    })?;
    call(mesh, "web", service::CART, "cart").map(drop)
}

fn renewed(
    mesh: &Mesh,
    ends: &[(Node, &str); 2],
    before: &[String; 2],
    begin: Instant,
) -> Result<[String; 2], String> {
    loop {
        let now = serials(mesh, ends)?;
        if now.iter().zip(before).all(|(now, before)| now != before) {
            // Some more traffic on top of the new ones.
            thread::sleep(Duration::from_millis(500));
            return Ok(now);
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

/// The serial numbers of the leaves that ztunnels hold now.
fn serials(mesh: &Mesh, ends: &[(Node, &str); 2]) -> Result<[String; 2], String> {
    let serial = |(node, pod): (Node, &str)| {
        let dump = mesh
            .dump(node)
            .map_err(|error| format!("the ztunnel of {}: {error}", node.name()))?;
        let all = dump["certificates"].as_array().cloned().unwrap_or_default();
        let identity = identity("shop", pod);
        let leaf = all
            .iter()
            .find(|it| it["identity"] == identity.as_str())
            .map(|it| &it["certChain"][0]["serialNumber"]);
        leaf.and_then(Value::as_str)
            .map(str::to_owned)
            .ok_or_else(|| {
                format!(
                    "the ztunnel of {} holds no certificate for {identity}",
                    node.name()
                )
            })
    };
    Ok([serial(ends[0])?, serial(ends[1])?])
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
