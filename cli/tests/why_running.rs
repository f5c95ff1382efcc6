//! `ambit why` about a mesh that runs says what that mesh does: asked and tried side by side. Needs root.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::Value;
use sys::netns::Netns;

use place::{Place, text};

#[path = "demo/place.rs"]
mod place;

const PATIENCE: Duration = Duration::from_secs(10);
const ORDERS: &str = "10.96.0.30:80";

#[test]
fn a_mesh_that_runs_does_what_is_said_of_it() {
    let Some(place) = Place::new("why") else {
        return;
    };
    let demo = place.stays_up();
    let facts = asked(&place, "web", ORDERS, "GET", "/");
    let facts = facts["facts"].to_string();
    assert!(
        facts.contains("All its proxies hold exactly that"),
        "{facts}"
    );
    for (from, method, path, status) in [
        ("web", "GET", "/", 200),
        ("cart", "GET", "/any/path", 200),
        ("web", "POST", "/checkout/7", 200),
        ("cart", "POST", "/checkout/7", 403),
        ("web", "GET", "/x/../admin/users", 403),
        ("web", "GET", "/a%2f..%2fadmin", 403),
        ("web", "GET", "/api/v1/admin", 403),
        ("web", "GET", "/administration", 200),
        ("web", "GET", "/old/page", 301),
        ("web", "GET", "/api/v1/items/7?all", 200),
        ("batch", "GET", "/", 403),
        ("legacy", "GET", "/", 0),
    ] {
        agree(&place, from, ORDERS, (method, path), status);
    }
    for (from, to, status) in [
        ("web", "10.71.1.13:8080", 0),
        ("web", "10.96.0.31:80", 0),
        ("legacy", "10.71.2.12:8080", 0),
        ("legacy", "10.71.1.20:8080", 0),
        ("legacy", "10.71.2.10:8080", 200),
        ("web", "10.96.0.10:80", 200),
        ("batch", "10.96.0.10:80", 0),
        ("audit", "10.96.0.20:80", 0),
    ] {
        agree(&place, from, to, ("GET", "/"), status);
    }
    let file = place.0.join("manifests/orders.yaml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(
        &file,
        text.replace("/admin, /admin/*, /api/v1/admin, /api/v1/admin/*", "/other"),
    )
    .unwrap();
    // It waits for the proxies itself.
    agree(&place, "web", ORDERS, ("GET", "/admin"), 200);
    agree(&place, "web", ORDERS, ("GET", "/other"), 403);
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("action: DENY", "action: DENIES")).unwrap();
    let question = ["why", "web", ORDERS];
    let output = place.ambit(&question).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.starts_with("Cannot tell: "), "{said}");
    drop(demo);
    place.nothing_is_left();
}

/// What `why` says: outcome and status of each way.
fn said(place: &Place, from: &str, to: &str, method: &str, path: &str) -> Vec<(String, u64)> {
    let answer = asked(place, from, to, method, path);
    let ways = answer["ways"].as_array().unwrap().iter();
    let each = ways.map(|way| {
        let end = &way["end"];
        let outcome = end["outcome"].as_str().unwrap().to_owned();
        (outcome, end["status"].as_u64().unwrap_or_default())
    });
    each.collect()
}

fn asked(place: &Place, from: &str, to: &str, method: &str, path: &str) -> Value {
    let question = [
        "why", from, to, "--method", method, "--path", path, "-o", "json",
    ];
    let output = place.ambit(&question).output().unwrap();
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", text(&output.stderr)))
}

/// What the mesh does: the status, 0 if there is no answer.
fn done(place: &Place, from: &str, to: &str, method: &str, path: &str) -> u64 {
    let to: SocketAddr = to.parse().unwrap();
    let netns = Netns::open(place.0.join("netns").join(from)).unwrap();
    let Ok(mut stream) = netns.within(|| TcpStream::connect_timeout(&to, PATIENCE)) else {
        return 0;
    };
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {to}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    );
    let mut answer = Vec::new();
    let _ = stream.write_all(request.as_bytes());
    let _ = stream.read_to_end(&mut answer);
    let answer = text(&answer);
    let status = answer.split(' ').nth(1);
    status.map_or(0, |status| status.parse().unwrap())
}

/// Says and does the same.
fn agree(place: &Place, from: &str, to: &str, (method, path): (&str, &str), status: u64) {
    let said = said(place, from, to, method, path);
    let done = done(place, from, to, method, path);
    let what = format!("{from} → {to}: {method} {path}: said {said:?}, done {done}");
    assert_eq!(done, status, "{what}");
    // An application answers 200; a connection that is closed has no status.
    let as_done = |(outcome, said): &(String, u64)| match outcome.as_str() {
        "reaches the application" => done == 200,
        _ => *said == done,
    };
    assert!(said.iter().all(as_done), "{what}");
}
