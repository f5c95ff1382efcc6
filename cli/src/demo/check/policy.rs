//! Who may talk to whom.

use std::net::SocketAddr;

use super::{Evidence, call, millis, service, want};
use crate::{
    lab::Node,
    mesh::{Mesh, access::Record},
};

pub(super) fn allowed(mesh: &Mesh, evidence: &mut Evidence) -> Result<(), String> {
    let answer = call(mesh, "web", service::LEDGER, "ledger")?;
    evidence.note(
        "allowed by bank/only-web",
        format!("web → ledger answered in {:.1} ms", millis(answer.took)),
    );
    let mark = mesh.mark();
    let refused = refused(mesh, "audit", service::LEDGER)?;
    let record = mesh.record(mark, Node::Two, |it| denial(it, "audit", "ledger"))?;
    evidence.note(
        "not allowed by it",
        format!(
            "audit → ledger: {refused}; the log says {:?}",
            record.get("error")
        ),
    );
    Ok(())
}

pub(super) fn denied(mesh: &Mesh, evidence: &mut Evidence) -> Result<(), String> {
    let answer = call(mesh, "web", service::CART, "cart")?;
    evidence.note(
        "not denied",
        format!("web → cart answered in {:.1} ms", millis(answer.took)),
    );
    let mark = mesh.mark();
    let refused = refused(mesh, "batch", service::CART)?;
    let record = mesh.record(mark, Node::Two, |it| denial(it, "batch", "cart"))?;
    let policy = record.get("policy");
    want(policy == "shop/no-batch", || {
        format!("the log names the policy {policy:?}, not shop/no-batch")
    })?;
    evidence.note(
        "denied",
        format!("batch → cart: {refused}; the log names {policy}"),
    );
    Ok(())
}

/// The port is a pod's own: a service address means nothing outside the mesh.
pub(super) fn strict(mesh: &Mesh, evidence: &mut Evidence) -> Result<(), String> {
    let answer = call(mesh, "web", service::AUDIT, "audit")?;
    evidence.note(
        "from the mesh",
        format!("web → audit answered in {:.1} ms", millis(answer.took)),
    );
    let mark = mesh.mark();
    let refused = refused(mesh, "legacy", mesh.pod("audit")?.http())?;
    let record = mesh.record(mark, Node::One, |it| denial(it, "legacy", "audit"))?;
    evidence.note(
        "from outside",
        format!(
            "legacy → audit: {refused}; the log names {}",
            record.get("policy")
        ),
    );
    Ok(())
}

pub(super) fn permissive(mesh: &Mesh, evidence: &mut Evidence) -> Result<(), String> {
    let cart = mesh.pod("cart")?.http();
    let answer = call(mesh, "legacy", cart, "cart")?;
    evidence.note(
        "from outside",
        format!("legacy → cart answered in {:.1} ms", millis(answer.took)),
    );
    Ok(())
}

/// How a call fails that must not get through.
fn refused(mesh: &Mesh, from: &str, to: SocketAddr) -> Result<String, String> {
    match mesh.request(from, to, b"") {
        Err(error) => Ok(error.to_string()),
        Ok(answer) => Err(format!(
            "{from} → {to} was answered with status {}",
            answer.response.status
        )),
    }
}

/// Plaintext clients are known by their address alone, so a record of them need not name a workload.
fn denial(record: &Record, from: &str, to: &str) -> bool {
    let source = record.get("src.workload");
    record.get("direction") == "inbound"
        && record.get("dst.workload") == to
        && (source == from || source.is_empty())
        && !record.get("error").is_empty()
}
