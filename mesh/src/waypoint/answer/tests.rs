//! How each answer looks from outside.
#![allow(clippy::too_many_lines, reason = "a table is as long as it has rows")]

use super::*;
use crate::{
    http::{authorize::Matched, path},
    refusal::Stage,
};

fn tunnel() -> Refusal {
    Refusal::Tunnel {
        to: "10.0.0.1:15008".parse().unwrap(),
        stage: Stage::Connect,
        reason: "refused".to_owned(),
    }
}

#[test]
fn each_answer_has_a_status_one_for_grpc_flags_and_details() {
    let text = || "x".to_owned();
    let redirect = Answer::Redirect {
        status: 301,
        location: b"/x".to_vec(),
        response_edits: vec![],
    };
    let not_allowed = decide::Denial::NotAllowed("shop/p".into());
    let denied = authorize::Denial::Denied(Matched {
        policy: "shop/p".into(),
        rule: 2,
    });
    let unknown = decide::Denial::Unknown("shop/p".into());
    for (answer, status, grpc, flags, details) in [
        (
            Answer::Denied(Denial::Request(denied)),
            403,
            7,
            "-",
            "rbac_access_denied_matched_policy[ns[shop]-policy[p]-rule[2]]",
        ),
        (
            Answer::Denied(Denial::Connection(not_allowed)),
            403,
            7,
            "-",
            "rbac_access_denied_matched_policy[none]",
        ),
        (
            Answer::Denied(Denial::Connection(unknown)),
            403,
            7,
            "-",
            "rbac_access_denied_matched_policy[ns[shop]-policy[p]]",
        ),
        (Answer::NoRoute, 404, 12, "NR", "route_not_found"),
        (Answer::NotServed(text()), 400, 13, "NR", "route_not_found"),
        (
            Answer::InvalidBackend(text()),
            500,
            14,
            "NC",
            "cluster_not_found",
        ),
        (Answer::NoBackend, 500, 14, "NC", "cluster_not_found"),
        (Answer::Unserved(text()), 500, 14, "NC", "cluster_not_found"),
        (
            Answer::NoEndpoint("shop/x".into()),
            503,
            14,
            "UH",
            "no_healthy_upstream",
        ),
        (Answer::Timeout, 504, 4, "UT", "response_timeout"),
        (Answer::Slow, 408, 4, "-", "request_overall_timeout"),
        (
            Answer::Malformed(Malformed::NoHost),
            400,
            13,
            "DPE",
            "missing_host_header",
        ),
        (
            Answer::Malformed(Malformed::Path(path::Malformed::Escape)),
            400,
            13,
            "DPE",
            "path_normalization_failed",
        ),
        (
            Answer::Unframed(text()),
            400,
            13,
            "DPE",
            "http1.codec_error",
        ),
        (
            Answer::TooLarge(TooLarge::Target),
            414,
            8,
            "-",
            "request_headers_too_large",
        ),
        (
            Answer::TooLarge(TooLarge::Bytes),
            431,
            8,
            "-",
            "request_headers_too_large",
        ),
        (
            Answer::Upstream(tunnel()),
            503,
            14,
            "UF",
            "upstream_reset_before_response_started{connection_failure}",
        ),
        (
            Answer::Upstream(Refusal::TooMany),
            503,
            14,
            "UO",
            "upstream_reset_before_response_started{overflow}",
        ),
        (
            Answer::Lost(text()),
            503,
            14,
            "UC",
            "upstream_reset_before_response_started{connection_termination}",
        ),
        (
            Answer::UpstreamProtocol(text()),
            502,
            14,
            "UPE",
            "upstream_reset_before_response_started{protocol_error}",
        ),
        (Answer::Loop(text()), 503, 14, "NR", "waypoint_loop"),
        (
            Answer::NotReady,
            503,
            14,
            "NR",
            "route_configuration_not_ready",
        ),
        (redirect, 301, 2, "-", "direct_response"),
    ] {
        let told = (
            answer.status(),
            answer.grpc_status(),
            answer.flags(),
            &*answer.details(),
        );
        assert_eq!(told, (status, grpc, flags, details), "{answer}");
    }
}

#[test]
fn a_denial_says_nothing_of_policies_to_the_client_and_all_to_the_operator() {
    let denied = Matched {
        policy: "shop/no-admin".into(),
        rule: 0,
    };
    let answer = Answer::Denied(Denial::Request(authorize::Denial::Denied(denied)));
    assert_eq!(answer.body(), "RBAC: access denied");
    assert_eq!(answer.to_string(), "denied by policy shop/no-admin, rule 0");
}
