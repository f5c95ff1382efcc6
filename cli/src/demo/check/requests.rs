//! What becomes of single requests: who may send which, what the application gets to see of them, how long they may take.

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;

use super::{Evidence, millis, service, want};
use crate::{
    http::Request,
    mesh::{Answer, Mesh},
};

/// The pod of the waypoint that stands before `orders`.
pub(super) const WAYPOINT: &str = "waypoint";
const DENIED: &[u8] = b"RBAC: access denied";
/// What the route `slow` allows, and the most that an answer may be late by.
const TIMEOUT: Duration = Duration::from_millis(500);
const LATE: Duration = Duration::from_millis(1000);

pub(super) fn allowed(mesh: &Mesh, evidence: &mut Evidence) -> Result<(), String> {
    for (from, method, path) in [
        ("web", "GET", "/"),
        ("cart", "GET", "/any/path"),
        ("web", "POST", "/checkout/7"),
    ] {
        let answer = served(mesh, from, method, path)?;
        evidence.note(
            "allowed by shop/orders-api",
            format!(
                "{from}: {method} {path} → 200 from {} in {:.1} ms",
                pod(&answer),
                millis(answer.took)
            ),
        );
    }
    let answer = denied(mesh, "cart", "POST", "/checkout/7", "none")?;
    evidence.note("not allowed by it", answer);
    Ok(())
}

/// By any way to write the path.
pub(super) fn denied_by_path(mesh: &Mesh, evidence: &mut Evidence) -> Result<(), String> {
    for path in [
        "/admin",
        "/admin/users",
        "/x/../admin/users",
        "/%61dmin",
        "/api/v1/admin",
    ] {
        let answer = denied(mesh, "web", "GET", path, "ns[shop]-policy[orders-no-admin]")?;
        evidence.note("denied by shop/orders-no-admin", answer);
    }
    let answer = served(mesh, "web", "GET", "/administration")?;
    evidence.note(
        "not denied",
        format!("web: GET /administration → 200 from {}", pod(&answer)),
    );
    Ok(())
}

/// The policy names the clients alone, and what reaches the application comes from the waypoint.
pub(super) fn real_client(mesh: &Mesh, evidence: &mut Evidence) -> Result<(), String> {
    let answer = served(mesh, "web", "GET", "/headers")?;
    let peer = answer.response.header("x-client").unwrap_or_default();
    let waypoint = mesh.pod(WAYPOINT)?.addresses[0];
    want(
        peer.parse::<SocketAddr>()
            .is_ok_and(|peer| peer.ip() == waypoint),
        || format!("the application is called by {peer}, not by the waypoint at {waypoint}"),
    )?;
    let forwarded = received(&answer, "x-forwarded-for");
    want(forwarded == [answer.client.ip().to_string()], || {
        format!(
            "x-forwarded-for says {forwarded:?}, but the client is {}",
            answer.client.ip()
        )
    })?;
    evidence.note(
        "allowed by shop/orders-clients",
        format!(
            "web: GET → 200, although it is the waypoint that calls {}, for {}",
            pod(&answer),
            forwarded[0]
        ),
    );
    let answer = denied(mesh, "batch", "GET", "/", "none")?;
    evidence.note("not allowed by it, but by every layer 7 policy", answer);
    Ok(())
}

/// The values of a header that the application says it got.
fn received(answer: &Answer, name: &str) -> Vec<String> {
    let page: Value = serde_json::from_slice(&answer.response.body).unwrap_or_default();
    let all = page["headers"].as_array().map(Vec::as_slice);
    let named = all
        .unwrap_or_default()
        .iter()
        .filter(|header| header[0] == name);
    named
        .map(|header| header[1].as_str().unwrap_or_default().to_owned())
        .collect()
}

pub(super) fn rewritten(mesh: &Mesh, evidence: &mut Evidence) -> Result<(), String> {
    for (path, expected) in [
        ("/api/v1/items/7?all", "GET /items/7?all"),
        ("/api/v1", "GET /"),
        ("/api/v10/items", "GET /api/v10/items"),
    ] {
        let answer = served(mesh, "web", "GET", path)?;
        let seen = answer.response.header("x-request").unwrap_or_default();
        want(seen == expected, || {
            format!("of GET {path} the application saw {seen:?}, not {expected:?}")
        })?;
        evidence.note(
            "web asked, orders saw",
            format!("GET {path} → {seen}, answered by {}", pod(&answer)),
        );
    }
    Ok(())
}

pub(super) fn redirected(mesh: &Mesh, evidence: &mut Evidence) -> Result<(), String> {
    let request = Request {
        headers: &[("Host", "orders.shop")],
        ..Request::get("/old/page")
    };
    let answer = ask(mesh, "web", &request)?;
    let (status, location) = (answer.response.status, answer.response.header("location"));
    let location = location.unwrap_or("none");
    want(
        status == 301 && location == "http://orders.shop/new/page",
        || format!("GET /old/page: status {status}, location {location}"),
    )?;
    want(answer.response.header("x-pod").is_none(), || {
        format!("{} answered the redirect", pod(&answer))
    })?;
    evidence.note(
        "GET /old/page",
        format!("{status}, location {location}, by the waypoint itself"),
    );
    Ok(())
}

pub(super) fn timed_out(mesh: &Mesh, evidence: &mut Evidence) -> Result<(), String> {
    let answer = served(mesh, "web", "GET", "/delay/50ms")?;
    evidence.note(
        "GET /delay/50ms",
        format!("200 after {:.0} ms", millis(answer.took)),
    );
    let answer = ask(mesh, "web", &Request::get("/delay/4s"))?;
    let (status, took) = (answer.response.status, answer.took);
    want(status == 504, || {
        format!("GET /delay/4s: status {status} after {took:?}, not 504")
    })?;
    want(took >= TIMEOUT && took < TIMEOUT + LATE, || {
        format!("GET /delay/4s: 504 after {took:?}, not {TIMEOUT:?}")
    })?;
    evidence.note("GET /delay/4s", format!("504 after {:.0} ms", millis(took)));
    Ok(())
}

fn pod(answer: &Answer) -> &str {
    answer.response.header("x-pod").unwrap_or("nobody")
}

fn ask(mesh: &Mesh, from: &str, request: &Request<'_>) -> Result<Answer, String> {
    let asked = mesh.ask(from, service::ORDERS, request);
    asked.map_err(|error| format!("{from}: {} {}: {error}", request.method, request.path))
}

/// A request that `orders` has to answer.
fn served(mesh: &Mesh, from: &str, method: &str, path: &str) -> Result<Answer, String> {
    let request = Request {
        method,
        ..Request::get(path)
    };
    let answer = ask(mesh, from, &request)?;
    let status = answer.response.status;
    want(status == 200 && pod(&answer).starts_with("orders-"), || {
        format!(
            "{from}: {method} {path}: status {status} from {}, not 200 from orders",
            pod(&answer)
        )
    })?;
    Ok(answer)
}

/// A request that the waypoint has to refuse; what was answered, and what its log says. The policy is as the log names it, or
/// none if it is that no policy allows the request.
fn denied(
    mesh: &Mesh,
    from: &str,
    method: &str,
    path: &str,
    policy: &str,
) -> Result<String, String> {
    let mark = mesh.waypoint_mark(WAYPOINT);
    let request = Request {
        method,
        ..Request::get(path)
    };
    let answer = ask(mesh, from, &request)?;
    let status = answer.response.status;
    want(status == 403 && answer.response.body == DENIED, || {
        format!(
            "{from}: {method} {path}: status {status} from {}, not 403",
            pod(&answer)
        )
    })?;
    let asked = format!("\"{method} {path} HTTP/1.1\" 403 ");
    let line = mesh.waypoint_line(WAYPOINT, mark, |line| line.contains(&asked))?;
    let details = line
        .split_whitespace()
        .find(|word| word.starts_with("rbac_access_denied"));
    let details = details.ok_or_else(|| format!("the log gives no reason: {line}"))?;
    want(details.contains(policy), || {
        format!("the log says {details}, and does not name {policy}")
    })?;
    Ok(format!(
        "{from}: {method} {path} → 403; the log says {details}"
    ))
}
