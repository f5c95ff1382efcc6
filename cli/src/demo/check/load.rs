//! Load beside a check: the load generator in the pod `web`, and what it counted.

use std::{fs, net::SocketAddr};

use serde_json::Value;

use super::want;
use crate::mesh::Mesh;

/// What a load generator counted.
pub(super) struct Counted {
    pub(super) ok: u64,
    pub(super) failed: u64,
    /// Milliseconds.
    pub(super) median: f64,
    /// Why the last one failed.
    error: String,
}

/// Starts it, under a name that no check has used.
pub(super) fn start(mesh: &Mesh, name: &str, to: SocketAddr, more: &[&str]) -> Result<(), String> {
    let mut load = mesh.component("load");
    load.arg(format!("http://{to}/")).args(more);
    let netns = mesh.netns("web").map_err(|failure| failure.to_string())?;
    mesh.run(name, netns, &mut load)
        .map_err(|failure| failure.to_string())
}

/// Ends it.
pub(super) fn finish(mesh: &Mesh, name: &str) -> Result<Counted, String> {
    let ended = mesh.processes.end(name);
    ended.map_err(|error| format!("cannot end the load: {error}"))?;
    let text = fs::read_to_string(mesh.processes.log(name).path())
        .map_err(|error| format!("the load's log: {error}"))?;
    let mut lines = text.lines().rev();
    let last = lines.find_map(|line| serde_json::from_str::<Value>(line).ok());
    let last = last.filter(|line| line["done"] == true);
    let last = last.ok_or_else(|| format!("the load did not say what it counted: {text}"))?;
    Ok(Counted {
        ok: last["ok"].as_u64().unwrap_or(0),
        failed: last["failed"].as_u64().unwrap_or(u64::MAX),
        median: last["p50_ms"].as_f64().unwrap_or(f64::NAN),
        error: last["error"].to_string(),
    })
}

impl Counted {
    /// That requests were answered, and all of them.
    pub(super) fn all_answered(&self) -> Result<(), String> {
        let Self {
            ok, failed, error, ..
        } = self;
        want(*failed == 0 && *ok > 0, || {
            format!("{failed} of {} requests failed: {error}", ok + failed)
        })
    }
}
