//! Which version of `orders` a request gets to.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{Evidence, load, restored::Restored, service, want};
use crate::{
    demo::manifests::ORDERS,
    http::{Connection, Request},
    mesh::{MANIFESTS, Mesh},
};

const REQUESTS: usize = 1000;
/// On one connection: a route is chosen for each request, not for each connection.
const PER_CONNECTION: usize = 50;
const LOAD: &str = "load-weights";
/// How long an edit may take, with a number of requests in which to see it.
const LONGEST: Duration = Duration::from_secs(5);

/// Requests answered by v1 and by v2.
struct Split {
    v1: usize,
    v2: usize,
}

/// By chance v2 has fewer than 60 or more than 140 of 1,000 once in 30,000 times.
pub(super) fn shares(mesh: &Mesh, evidence: &mut Evidence) -> Result<(), String> {
    let Split { v1, v2 } = split(mesh, REQUESTS, &Request::get("/"))?;
    evidence.note(
        "1,000 requests",
        format!("{v1} to v1 and {v2} to v2, with weights 90 and 10"),
    );
    want((60..=140).contains(&v2), || {
        format!("{v2} of {REQUESTS} requests went to v2, and 100 should have")
    })
}

pub(super) fn by_header(mesh: &Mesh, evidence: &mut Evidence) -> Result<(), String> {
    let tester = Request {
        headers: &[("User-Agent", "tester/1.0")],
        ..Request::get("/")
    };
    let Split { v1, v2 } = split(mesh, 100, &tester)?;
    evidence.note(
        "User-Agent: tester/1.0",
        format!("{v1} of 100 requests to v1, {v2} to v2"),
    );
    want(v1 == 0, || {
        format!("{v1} of 100 requests with the header went to v1")
    })?;
    let other = Request {
        headers: &[("User-Agent", "browser/1.0")],
        ..Request::get("/")
    };
    let Split { v1, v2 } = split(mesh, 100, &other)?;
    evidence.note(
        "User-Agent: browser/1.0",
        format!("{v1} of 100 requests to v1, {v2} to v2"),
    );
    want(v1 > v2, || {
        format!("{v2} of 100 requests with another value went to v2")
    })
}

/// Edits the weights while requests are under way.
pub(super) fn reweighted(mesh: &Mesh, evidence: &mut Evidence) -> Result<(), String> {
    let before = split(mesh, 200, &Request::get("/"))?;
    let often = ["--connections", "8", "--rate", "400", "--duration", "60s"];
    load::start(mesh, LOAD, service::ORDERS, &often)?;
    // Some load on the old weights first.
    thread::sleep(Duration::from_millis(500));
    let outcome = halved(mesh);
    // And some on the new ones.
    thread::sleep(Duration::from_millis(500));
    let counted = load::finish(mesh, LOAD);
    let (after, took) = outcome?;
    let counted = counted?;
    evidence.note(
        "200 requests before",
        format!("{} to v1, {} to v2", before.v1, before.v2),
    );
    evidence.note(
        "200 requests after",
        format!(
            "{} to v1, {} to v2; weights 50 and 50 were seen {:.1} s after they were saved",
            after.v1,
            after.v2,
            took.as_secs_f64()
        ),
    );
    let load::Counted {
        ok, failed, median, ..
    } = counted;
    evidence.note(
        "meanwhile",
        format!("{ok} requests answered, {failed} failed; median {median:.1} ms"),
    );
    counted.all_answered()
}

/// What 200 requests get to once the edit is in force, and how long that took. By chance v2 has fewer than 70 of 200 once
/// in 100,000 times, and more than 50 without the edit even less.
fn halved(mesh: &Mesh) -> Result<(Split, Duration), String> {
    let file = Restored::new(mesh.path(MANIFESTS).join(ORDERS))?;
    let edited = file
        .text
        .replace("weight: 90", "weight: 50")
        .replace("weight: 10", "weight: 50");
    want(edited != file.text, || {
        format!("{ORDERS} has no weights 90 and 10")
    })?;
    file.write(&edited)?;
    let saved = Instant::now();
    loop {
        let split = split(mesh, 200, &Request::get("/"))?;
        if (70..=130).contains(&split.v2) {
            return Ok((split, saved.elapsed()));
        }
        want(saved.elapsed() < LONGEST, || {
            format!(
                "weights 50 and 50 were saved {LONGEST:?} ago, and {} of 200 requests go to v2",
                split.v2
            )
        })?;
    }
}

/// Sends requests from `web`, all of which must be answered by one or the other.
fn split(mesh: &Mesh, number: usize, request: &Request<'_>) -> Result<Split, String> {
    let mut split = Split { v1: 0, v2: 0 };
    let failed = |error: std::io::Error| format!("web → {}: {error}", service::ORDERS);
    for at in (0..number).step_by(PER_CONNECTION) {
        let stream = mesh.connect("web", service::ORDERS).map_err(failed)?;
        let mut connection = Connection::over(stream, "orders.shop");
        for _ in at..number.min(at + PER_CONNECTION) {
            let answer = connection.ask(request).map_err(failed)?;
            match (answer.status, answer.header("x-pod")) {
                (200, Some("orders-v1")) => split.v1 += 1,
                (200, Some("orders-v2")) => split.v2 += 1,
                (status, pod) => {
                    return Err(format!(
                        "web → {}: status {status} from {}, not 200 from a version of orders",
                        service::ORDERS,
                        pod.unwrap_or("nobody")
                    ));
                }
            }
        }
    }
    Ok(split)
}
