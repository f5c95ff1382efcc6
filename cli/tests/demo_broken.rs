//! Every check of `ambit demo` fails when what it claims is not true: each claim is broken once, on purpose.
//!
//! Each test runs the executable with a directory of its own, so that they run side by side. All need root.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::process::Command;

use serde_json::Value;

use place::{Place, text};

#[path = "demo/place.rs"]
mod place;

/// Breaks one thing, runs one check, and expects exit code 1 with that check named, for the reason given.
fn broken(test: &str, fault: &str, check: &str, reason: &str) {
    let Some(place) = Place::new(test) else {
        return;
    };
    let output = place.demo(&["--once", "--break", fault, "--check", check, "-o", "json"]);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{out}{err}");
    assert!(
        err.contains(&format!("1 of 1 checks failed: {check}")),
        "{out}{err}"
    );
    let result: Value = serde_json::from_str(&out).unwrap();
    let error = result["checks"][0]["error"].as_str().unwrap();
    assert!(error.contains(reason), "{error}");
    place.nothing_is_left();
}

macro_rules! broken {
    ($($test:ident: $fault:literal, $check:literal, $reason:literal;)*) => {
        $(#[test]
        fn $test() {
            broken(stringify!($test), $fault, $check, $reason);
        })*

        /// The checks that are broken here.
        const BROKEN: &[&str] = &[$($check),*];
    };
}

broken! {
    missing_rules_are_noticed: "capture", "pods-captured", "the capture rules of shop/web do not stand";
    plaintext_on_the_link_is_noticed: "capture", "wire-encrypted", "the string was in";
    a_blind_sniffer_is_noticed: "outsider", "wire-encrypted", "the sniffer did not catch the string";
    another_identity_is_noticed: "identity", "service-across-nodes", "shop/sa/catalog";
    a_service_without_endpoint_is_noticed: "endpoint", "service-same-node", "web → 10.96.0.11:80";
    a_missing_ipv6_route_is_noticed: "route-v6", "ipv6", "fd71:0:0:2::10";
    a_lost_client_address_is_noticed: "relay", "client-address", "but the client is 10.71.1.10";
    an_allow_for_somebody_else_is_noticed: "allow", "policy-allow", "web → 10.96.0.20:80";
    a_denial_that_is_not_there_is_noticed: "deny", "policy-deny", "batch → 10.96.0.10:80 was answered";
    a_bank_that_takes_plaintext_is_noticed: "strict", "strict", "legacy → 10.71.1.20:8080 was answered";
    a_shop_that_takes_none_is_noticed: "permissive", "permissive", "legacy → 10.71.2.10:8080";
    an_edit_that_nobody_reads_is_noticed: "control", "edit-takes-effect", "the connection is still open";
    certificates_that_are_not_renewed_are_noticed: "rotation", "certificate-rotation", "no renewal within";
    a_canary_that_gets_too_much_is_noticed: "weights", "canary", "of 1000 requests went to v2, and 100 should have";
    a_header_that_leads_nowhere_is_noticed: "testers", "header-route", "requests with the header went to v1";
    weights_that_nobody_reads_are_noticed: "control", "weights-under-load", "requests go to v2";
    a_method_that_is_not_allowed_is_noticed: "methods", "l7-allow", "web: GET /: status 403";
    a_path_that_is_not_denied_is_noticed: "admin", "l7-deny", "web: GET /admin/users: status 200";
    another_rewrite_is_noticed: "rewrite", "rewrite", "the application saw \"GET /v1/items/7?all\"";
    another_redirect_is_noticed: "redirect", "redirect", "location http://orders.shop/newer/page";
    an_answer_that_is_waited_for_is_noticed: "timeout", "timeout", "GET /delay/4s: status 200";
    a_client_that_is_not_judged_is_noticed: "clients", "l4-behind-waypoint", "batch: GET /: status 200";
    a_service_that_does_without_is_noticed: "unbound", "waypoint-killed", "the waypoint is away, and orders-v";
    an_open_way_around_is_noticed: "around", "around-waypoint", "was answered with status 200";
    a_hop_that_nobody_wants_is_noticed: "everywhere", "no-waypoint", "no call went straight to cart";
}

#[test]
fn no_check_is_left_whole() {
    let help = Command::new(place::AMBIT).args(["demo", "--help"]).output();
    let help = text(&help.unwrap().stdout);
    let listed = help.split("--check <ID>").nth(1).unwrap();
    let listed = listed.split("[possible values: ").nth(1).unwrap();
    let listed: Vec<_> = listed.split(']').next().unwrap().split(", ").collect();
    assert!(listed.len() > 20, "{listed:?}");
    for id in listed {
        assert!(BROKEN.contains(&id.trim()), "{id}");
    }
}
