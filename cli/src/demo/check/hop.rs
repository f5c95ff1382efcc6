//! That a waypoint stands where one is wanted, cannot be gone around, and stands nowhere else.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{Evidence, call, identity, millis, requests::WAYPOINT, service, want};
use crate::{
    http::Request,
    lab::Node,
    mesh::{Mesh, PATIENCE},
};

const CALLS: usize = 50;

/// No request gets past it while it is away.
pub(super) fn killed(mesh: &Mesh, evidence: &mut Evidence) -> Result<(), String> {
    served(mesh)?;
    let pod = mesh.pod(WAYPOINT)?;
    let mark = mesh.mark();
    mesh.processes
        .kill(&format!("waypoint-{WAYPOINT}"))
        .map_err(|error| format!("cannot kill the waypoint: {error}"))?;
    let mut last = String::new();
    for _ in 0..CALLS {
        last = match mesh.request("web", service::ORDERS, b"") {
            Err(error) => error.to_string(),
            Ok(answer) if answer.response.header("x-pod").is_none() => {
                format!("status {}", answer.response.status)
            }
            Ok(answer) => {
                return Err(format!(
                    "the waypoint is away, and {} answered",
                    answer.response.header("x-pod").unwrap_or_default()
                ));
            }
        };
    }
    let record = mesh.record(mark, Node::One, |it| {
        it.get("direction") == "outbound" && !it.get("error").is_empty()
    })?;
    evidence.note(
        "without the waypoint",
        format!(
            "{CALLS} requests, 0 answered by orders: {last}; the log says {:?}",
            record.get("error")
        ),
    );
    let begin = Instant::now();
    let started = mesh
        .start_waypoint(pod)
        .and_then(|()| mesh.wait_for_waypoint(pod));
    started.map_err(|failure| failure.to_string())?;
    let ready = begin.elapsed();
    let mut tries = 1;
    while let Err(error) = served(mesh) {
        want(begin.elapsed() < ready + PATIENCE, || {
            format!("the waypoint is ready again for {PATIENCE:?}: {error}")
        })?;
        tries += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    evidence.note(
        "started again",
        format!(
            "ready after {:.0} ms; answered at request {tries}, after {:.0} ms",
            millis(ready),
            millis(begin.elapsed())
        ),
    );
    Ok(())
}

/// Straight to a pod, by another service of the same pods, and without a tunnel.
pub(super) fn gone_around(mesh: &Mesh, evidence: &mut Evidence) -> Result<(), String> {
    served(mesh)?;
    let (one, two) = (mesh.pod("orders-v1")?.http(), mesh.pod("orders-v2")?.http());
    for (from, to, pod, node) in [
        ("web", one, "orders-v1", Node::One),
        ("web", two, "orders-v2", Node::Two),
        ("cart", service::ORDERS_V1, "orders-v1", Node::One),
        ("legacy", two, "orders-v2", Node::Two),
    ] {
        let (refused, policy) = refused(mesh, from, to, pod, node)?;
        want(policy.contains("ambit_waypoint_8080"), || {
            format!("{from} → {to}: the log names the policy {policy:?}")
        })?;
        evidence.note(
            "around the waypoint",
            format!("{from} → {to}: {refused}; the log of {pod}'s ztunnel names {policy}"),
        );
    }
    Ok(())
}

/// How a call fails that must not get through, and the policy that the destination names.
fn refused(
    mesh: &Mesh,
    from: &str,
    to: SocketAddr,
    pod: &str,
    node: Node,
) -> Result<(String, String), String> {
    let mark = mesh.mark();
    let refused = match mesh.request(from, to, b"") {
        Err(error) => error.to_string(),
        Ok(answer) => {
            return Err(format!(
                "{from} → {to} was answered with status {}",
                answer.response.status
            ));
        }
    };
    let record = mesh.record(mark, node, |it| {
        it.get("direction") == "inbound"
            && it.get("dst.workload") == pod
            && !it.get("error").is_empty()
    })?;
    Ok((refused, record.get("policy").to_owned()))
}

/// The waypoint is not told of others' services, and no request of theirs gets to it.
pub(super) fn none_elsewhere(mesh: &Mesh, evidence: &mut Evidence) -> Result<(), String> {
    let mark = mesh.waypoint_mark(WAYPOINT);
    served(mesh)?;
    mesh.waypoint_line(WAYPOINT, mark, |line| line.contains("\"GET / "))?;
    let (mark, logs) = (mesh.waypoint_mark(WAYPOINT), mesh.mark());
    for _ in 0..CALLS {
        call(mesh, "web", service::CART, "cart")?;
    }
    let record = mesh.record(logs, Node::One, |it| {
        it.get("direction") == "outbound" && it.get("dst.workload") == "cart"
    });
    let record = record.map_err(|error| format!("no call went straight to cart: {error}"))?;
    let peer = record.get("dst.identity");
    want(peer == identity("shop", "cart"), || {
        format!("calls to cart go to {peer}")
    })?;
    let lines = mesh.waypoint_lines(WAYPOINT, mark)?;
    want(lines.is_empty(), || {
        format!("the waypoint logged {} requests: {}", lines.len(), lines[0])
    })?;
    evidence.note(
        "web → cart",
        format!(
            "{CALLS} calls, each from ztunnel to ztunnel ({peer}); 0 lines in the waypoint's log"
        ),
    );
    let answer = mesh
        .ask("web", service::CART, &Request::get("/headers"))
        .map_err(|error| format!("web → {}: {error}", service::CART))?;
    let received: Value = serde_json::from_slice(&answer.response.body).unwrap_or_default();
    let headers = received["headers"].as_array().map_or(0, Vec::len);
    want(headers == 2, || {
        format!("cart got headers that web did not send: {received}")
    })?;
    evidence.note("what cart got", "the 2 headers that web sent");
    Ok(())
}

fn served(mesh: &Mesh) -> Result<(), String> {
    let answer = mesh
        .request("web", service::ORDERS, b"")
        .map_err(|error| format!("web → {}: {error}", service::ORDERS))?;
    let (status, pod) = (answer.response.status, answer.response.header("x-pod"));
    want(
        status == 200 && pod.is_some_and(|pod| pod.starts_with("orders-")),
        || {
            format!(
                "web → {}: status {status} from {}, not 200 from orders",
                service::ORDERS,
                pod.unwrap_or("nobody")
            )
        },
    )
}
