//! Lines as they are written, with what clients may send in them.

use serde_json::{Value, json};

use super::*;

fn line() -> Line<'static> {
    Line {
        began: Duration::from_millis(1_767_225_600_123),
        method: "GET",
        path: b"/cart?id=1",
        protocol: "HTTP/2",
        status: 403,
        grpc_status: Some(7),
        flags: "-",
        details: "rbac_access_denied_matched_policy[none]",
        received: 3,
        sent: 17,
        duration: Duration::from_micros(5_900),
        upstream_time: Some(Duration::from_millis(4)),
        forwarded_for: b"10.0.0.1",
        user_agent: b"curl/8",
        request_id: b"7b",
        authority: b"orders",
        upstream: Some("10.0.1.2:8080".parse().unwrap()),
        cluster: "inbound-vip|80|http|orders.shop.svc.cluster.local",
        local: Some("10.96.0.9:80".parse().unwrap()),
        route: "shop/orders/0",
        principal: "spiffe://cluster.local/ns/shop/sa/cart",
        error: "denied",
        policy: "shop/viewer",
        rule: Some(1),
        ..Line::of("10.0.0.1:40302".parse().unwrap())
    }
}

/// The one line of the log that this makes.
fn written(line: &Line<'_>, format: Format) -> String {
    let mut lines = net::log::capture("info", format, || line.log(format)).unwrap();
    assert_eq!(lines.len(), 1, "{lines:?}");
    let line = lines.remove(0);
    let line = line.strip_suffix('\n').expect("a line ends");
    assert!(!line.chars().any(char::is_control), "{line:?}");
    line.to_owned()
}

fn object(line: &Line<'_>) -> Value {
    serde_json::from_str(&written(line, Format::Json)).expect("a line is an object")
}

#[test]
fn an_object_has_every_field_by_its_known_name() {
    let mut object = object(&line());
    // When it was written.
    assert!(object["time"].take().is_string());
    let want = json!({
        "level": "info",
        "time": null,
        "scope": "request",
        "start_time": "2026-01-01T00:00:00.123Z",
        "method": "GET",
        "path": "/cart?id=1",
        "protocol": "HTTP/2",
        "response_code": 403,
        "grpc_status": 7,
        "response_flags": "-",
        "response_code_details": "rbac_access_denied_matched_policy[none]",
        "bytes_received": 3,
        "bytes_sent": 17,
        "duration": 5,
        "upstream_service_time": 4,
        "x_forwarded_for": "10.0.0.1",
        "user_agent": "curl/8",
        "request_id": "7b",
        "authority": "orders",
        "upstream_host": "10.0.1.2:8080",
        "upstream_cluster": "inbound-vip|80|http|orders.shop.svc.cluster.local",
        "downstream_local_address": "10.96.0.9:80",
        "downstream_remote_address": "10.0.0.1:40302",
        "downstream_peer": "spiffe://cluster.local/ns/shop/sa/cart",
        "route_name": "shop/orders/0",
        "error": "denied",
        "policy": "shop/viewer",
        "rule": 1,
    });
    assert_eq!(object, want);
}

#[test]
fn an_object_says_nothing_of_what_is_not_known() {
    let object = object(&Line::of("10.0.0.1:40302".parse().unwrap()));
    let mut names: Vec<_> = object.as_object().unwrap().keys().collect();
    names.sort();
    let want = [
        "bytes_received",
        "bytes_sent",
        "downstream_remote_address",
        "duration",
        "level",
        "response_code",
        "scope",
        "start_time",
        "time",
    ];
    assert_eq!(names, want);
}

/// What was sent, of what is shown.
fn unescaped(shown: &str) -> Vec<u8> {
    let (mut sent, mut rest) = (Vec::new(), shown.as_bytes());
    while let [first, more @ ..] = rest {
        rest = more;
        match (first, more) {
            (b'\\', [b'x', high, low, more @ ..]) => {
                let digits = [*high, *low];
                let digits = str::from_utf8(&digits).unwrap();
                sent.push(u8::from_str_radix(digits, 16).unwrap());
                rest = more;
            }
            (b'\\', [b'\\', more @ ..]) => {
                sent.push(b'\\');
                rest = more;
            }
            _ => sent.push(*first),
        }
    }
    sent
}

#[test]
fn what_a_client_sends_stays_within_its_value() {
    for hostile in [
        "\" 200 \"",
        "a\\",
        "a\\\"b",
        "\r\n[2026-01-01T00:00:00.123Z] \"GET / HTTP/1.1\" 200",
        "\0\u{1b}[2J\u{7f}\u{85}\t",
        "grün \u{202e}",
        "\u{fffd}",
        "{\"level\":\"error\"}",
    ] {
        let line = Line {
            path: hostile.as_bytes(),
            user_agent: hostile.as_bytes(),
            authority: hostile.as_bytes(),
            request_id: hostile.as_bytes(),
            forwarded_for: hostile.as_bytes(),
            error: hostile,
            ..line()
        };
        let object = object(&line);
        for name in [
            "path",
            "user_agent",
            "authority",
            "request_id",
            "x_forwarded_for",
            "error",
        ] {
            let shown = object[name].as_str().unwrap();
            assert_eq!(unescaped(shown), hostile.as_bytes(), "{name}: {shown}");
        }
        assert_eq!(object["response_code"], 403);
        // Quotes that do not belong to a value are as many as ever.
        let text = written(&line, Format::Text);
        assert!(
            text.bytes().all(|byte| matches!(byte, b' '..=b'~')),
            "{text}"
        );
        let text = text.replace("\\\\", "").replace("\\\"", "");
        assert_eq!(text.matches('"').count(), 14, "{text}");
    }
}

#[test]
fn a_line_is_bounded_whatever_a_client_sends() {
    let all = "\"ü\u{1}".repeat(40_000);
    let long = all.as_bytes();
    let line = Line {
        path: long,
        user_agent: long,
        authority: long,
        request_id: long,
        forwarded_for: long,
        error: &all,
        ..line()
    };
    let object = object(&line);
    let path = object["path"].as_str().unwrap();
    assert!(long.starts_with(&unescaped(path)) && path.len() <= TEXT && path.len() > TEXT - 4);
    for format in [Format::Json, Format::Text] {
        let line = written(&line, format);
        // Within an object a backslash takes two bytes.
        assert!(line.len() < 6 * 2 * TEXT + 1024, "{}", line.len());
    }
}
