//! Messages and what is made of them: what is not known is refused where it stands, and denies where it is a policy.
#![allow(clippy::too_many_lines, reason = "a table is as long as it has rows")]

use prost::Message;
use proto::waypoint as wire;

use super::*;
use crate::{
    fixture::{self, key},
    http::{
        authorize::Effect,
        route::{PathMatch, Rule},
        weight::Target,
    },
    model,
    name::Name,
    waypoint::{
        Protocol,
        fixture::{rule, shop, to},
    },
};

/// A field of a number that no message has, as a newer sender would write it.
const UNKNOWN: [u8; 3] = [0xa0, 0x06, 0x01];

fn read(rule: wire::Rule) -> Rule {
    let message = wire::Route {
        kind: "HTTPRoute".to_owned(),
        rules: vec![rule],
        ..wire::Route::default()
    };
    let (route, _) = route(&message.encode_to_vec()).unwrap();
    route.rules[0].clone()
}

fn why(rule: wire::Rule) -> String {
    read(rule).invalid.map(String::from).unwrap_or_default()
}

fn matching(matched: wire::Match) -> wire::Rule {
    wire::Rule {
        matches: vec![matched],
        ..wire::Rule::default()
    }
}

fn filtering(filters: Vec<wire::filter::Filter>) -> wire::Rule {
    crate::waypoint::fixture::with(rule("/", &[]), filters)
}

fn redirect(redirect: wire::Redirect) -> wire::Rule {
    filtering(vec![wire::filter::Filter::Redirect(redirect)])
}

#[test]
fn a_rule_that_cannot_be_read_is_invalid_and_matches_what_can_be_read_of_it() {
    use wire::{filter::Filter, r#match::Path};
    let path = |path| wire::Match {
        path: Some(path),
        ..wire::Match::default()
    };
    let header = |value| wire::Match {
        headers: vec![wire::Field {
            name: "x".to_owned(),
            value,
        }],
        ..wire::Match::default()
    };
    let rewrite = || Filter::Rewrite(wire::Rewrite::default());
    let regex = |text: &str| wire::Text {
        text: Some(wire::text::Text::Regex(text.to_owned())),
    };
    let edit = |path| wire::Redirect {
        path: Some(wire::PathEdit { edit: path }),
        ..wire::Redirect::default()
    };
    let grpc = |service| {
        let method = None;
        path(Path::Grpc(wire::GrpcCall { service, method }))
    };
    for (rule, expected) in [
        (
            matching(path(Path::Regex("(".to_owned()))),
            "\"(\": not a regular expression",
        ),
        (
            matching(path(Path::Exact("x".to_owned()))),
            "path \"x\": the path does not begin",
        ),
        (
            matching(path(Path::Prefix("/%".to_owned()))),
            "path \"/%\": the path holds a %",
        ),
        (matching(grpc(Some(regex("(")))), "\"(\": not a regular"),
        (matching(grpc(Some(wire::Text::default()))), "says nothing"),
        (
            matching(header(Some(regex("(")))),
            "\"x\": \"(\": not a regular",
        ),
        (matching(header(None)), "\"x\": has no value"),
        (
            filtering(vec![rewrite(), rewrite()]),
            "redirects and rewrites more than once",
        ),
        (
            redirect(wire::Redirect {
                status: 200,
                ..Default::default()
            }),
            "redirects with the status 200",
        ),
        (
            redirect(wire::Redirect {
                scheme: "ftp".to_owned(),
                ..Default::default()
            }),
            "redirects to the scheme",
        ),
        (
            redirect(wire::Redirect {
                port: 65_536,
                ..Default::default()
            }),
            "65536 is no port",
        ),
        (redirect(edit(None)), "has a path edit that is not known"),
        (
            redirect(edit(Some(wire::path_edit::Edit::Full("x".to_owned())))),
            "path \"x\": the path does not",
        ),
        (
            wire::Rule {
                filters: vec![wire::Filter::default()],
                ..Default::default()
            },
            "has a filter that is not known",
        ),
        (
            wire::Rule {
                requires: vec!["magic".to_owned()],
                ..Default::default()
            },
            "requires \"magic\"",
        ),
        (
            wire::Rule {
                invalid: "said".to_owned(),
                ..Default::default()
            },
            "said",
        ),
    ] {
        let why = why(rule.clone());
        assert!(why.starts_with(expected), "{rule:?}: {why}");
    }
    let broken = read(matching(wire::Match {
        method: "GET".to_owned(),
        ..path(Path::Regex("(".to_owned()))
    }));
    assert_eq!(broken.matches[0].path, PathMatch::prefix("/").unwrap());
    assert_eq!(broken.matches[0].method.as_deref(), Some("GET"));
    assert_eq!(why(rule("/a", &[("orders", 1)])), "");
}

#[test]
fn a_backend_that_cannot_be_read_takes_its_share_only() {
    let bad_filter = wire::Filter {
        filter: Some(wire::filter::Filter::Rewrite(wire::Rewrite::default())),
    };
    let mut port = to("orders", 1);
    port.target = Some(wire::weighted_backend::Target::Destination(
        wire::Destination {
            backend: key("orders"),
            port: 0,
        },
    ));
    for backend in [
        wire::WeightedBackend {
            target: None,
            ..to("orders", 1)
        },
        wire::WeightedBackend {
            filters: vec![bad_filter],
            ..to("orders", 1)
        },
        port,
    ] {
        let mut message = rule("/", &[("orders", 1)]);
        message.backends.push(backend);
        let rule = read(message);
        assert_eq!(rule.invalid, None);
        let targets = [&rule.backends[0].target, &rule.backends[1].target];
        assert!(matches!(
            targets,
            [Target::Service { .. }, Target::Invalid(_)]
        ));
    }
}

#[test]
fn what_a_route_holds_beyond_what_is_known_makes_its_rules_invalid() {
    let message = |requires: &[&str]| wire::Route {
        kind: "HTTPRoute".to_owned(),
        rules: vec![rule("/a", &[]), rule("/b", &[])],
        requires: requires.iter().map(|it| (*it).to_owned()).collect(),
        ..wire::Route::default()
    };
    let newer = [&message(&[]).encode_to_vec(), &UNKNOWN[..]].concat();
    let requires = message(&["magic"]).encode_to_vec();
    for (bytes, expected) in [
        (newer, "holds something that is not known here"),
        (requires, "requires \"magic\", which is not here"),
    ] {
        let (route, reasons) = route(&bytes).unwrap();
        assert_eq!(reasons, [expected]);
        assert!(
            route
                .rules
                .iter()
                .all(|rule| rule.invalid.as_deref() == Some(expected))
        );
    }
    let kind = wire::Route {
        kind: "UDPRoute".to_owned(),
        ..wire::Route::default()
    };
    assert_eq!(
        route(&kind.encode_to_vec()).unwrap_err(),
        "is of the unknown kind \"UDPRoute\""
    );
    assert!(route(&[0xff]).is_err());
}

fn effect_of(name: &str, bytes: &[u8]) -> Effect {
    match policy(name, bytes, "ambit-system".into()) {
        (ToldPolicy::Request(policy), reason) => {
            let denies = matches!(&policy.effect, Effect::DenyAll(_));
            assert_eq!(denies, reason.is_some());
            policy.effect
        }
        (ToldPolicy::Connection(policy), _) => panic!("{policy:?}"),
    }
}

fn http(policy: wire::Authorization) -> wire::Policy {
    wire::Policy {
        policy: Some(wire::policy::Policy::Http(policy)),
        ..wire::Policy::default()
    }
}

fn with_rule(rule: wire::AuthorizationRule) -> wire::Authorization {
    wire::Authorization {
        namespace: "shop".to_owned(),
        name: "p".to_owned(),
        rules: vec![rule],
        ..wire::Authorization::default()
    }
}

#[test]
fn a_policy_that_cannot_be_understood_denies_everything() {
    let texts = |texts: &[&str]| texts.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
    let from = |source| wire::AuthorizationRule {
        from: vec![source],
        ..Default::default()
    };
    let to = |operation| wire::AuthorizationRule {
        to: vec![operation],
        ..Default::default()
    };
    let when = |key: &str, values: &[&str]| wire::AuthorizationRule {
        when: vec![wire::AuthorizationCondition {
            key: key.to_owned(),
            values: texts(values),
            not_values: vec![],
        }],
        ..Default::default()
    };
    let good = with_rule(to(wire::AuthorizationOperation {
        paths: texts(&["/a"]),
        ..Default::default()
    }));
    let bytes = http(good.clone()).encode_to_vec();
    assert!(matches!(
        effect_of("http/shop/p", &bytes),
        Effect::Rules { .. }
    ));
    let newer = [&bytes[..], &UNKNOWN].concat();
    let requires = wire::Policy {
        requires: texts(&["magic"]),
        ..http(good.clone())
    };
    let rules = [
        from(wire::AuthorizationSource {
            ip_blocks: texts(&["10.0.0.0/33"]),
            ..Default::default()
        }),
        from(wire::AuthorizationSource {
            service_accounts: texts(&["a/b/c"]),
            ..Default::default()
        }),
        to(wire::AuthorizationOperation {
            ports: texts(&["http"]),
            ..Default::default()
        }),
        to(wire::AuthorizationOperation {
            paths: texts(&["/{x}"]),
            ..Default::default()
        }),
        to(wire::AuthorizationOperation {
            not_paths: texts(&["/%"]),
            ..Default::default()
        }),
        when("source.ip", &["here"]),
        when("source.ip", &[]),
    ];
    let bad = rules
        .into_iter()
        .map(|rule| http(with_rule(rule)).encode_to_vec());
    let action = http(wire::Authorization {
        action: 9,
        ..good.clone()
    })
    .encode_to_vec();
    let other = http(wire::Authorization {
        name: "q".to_owned(),
        ..good.clone()
    })
    .encode_to_vec();
    let rest = [
        newer,
        requires.encode_to_vec(),
        action,
        other,
        vec![],
        vec![0xff],
        wire::Policy::default().encode_to_vec(),
    ];
    for bytes in bad.chain(rest) {
        assert!(
            matches!(effect_of("http/shop/p", &bytes), Effect::DenyAll(_)),
            "{bytes:?}"
        );
    }
    // Under a name that says nothing, too.
    assert!(matches!(
        effect_of("shop/p", &http(good).encode_to_vec()),
        Effect::DenyAll(_)
    ));
}

#[test]
fn a_policy_that_is_said_to_deny_everything_is_no_fault_of_the_message() {
    let policy = wire::Authorization {
        deny_all: "it says so".to_owned(),
        ..with_rule(Default::default())
    };
    let (told, reason) = super::policy("http/shop/p", &http(policy).encode_to_vec(), Name::EMPTY);
    assert_eq!(reason, None);
    let ToldPolicy::Request(policy) = told else {
        panic!()
    };
    assert_eq!(policy.effect, Effect::DenyAll("it says so".to_owned()));
}

#[test]
fn what_of_a_source_is_not_served_is_kept_as_such() {
    let source = wire::AuthorizationSource {
        unserved: vec!["requestPrincipals".to_owned()],
        namespaces: vec!["a*b".to_owned()],
        ..Default::default()
    };
    let rule = wire::AuthorizationRule {
        from: vec![source],
        ..Default::default()
    };
    let Effect::Rules { rules, .. } =
        effect_of("http/shop/p", &http(with_rule(rule)).encode_to_vec())
    else {
        panic!()
    };
    assert_eq!(
        rules[0].from[0].unserved.as_deref(),
        Some("requestPrincipals, a*b")
    );
    assert_eq!(rules[0].from[0].peer, model::Match::default());
}

#[test]
fn a_layer_4_policy_denies_in_its_scope_where_it_cannot_be_understood() {
    use proto::security::{Action, Scope};
    let held = fixture::policy(
        "l4",
        Scope::Namespace,
        Action::Allow,
        &[fixture::to_port(1)],
    );
    let message = wire::Policy {
        policy: Some(wire::policy::Policy::Connection(held)),
        ..wire::Policy::default()
    };
    let read = |name: &str, bytes: &[u8]| match policy(name, bytes, "ambit-system".into()) {
        (ToldPolicy::Connection(policy), reason) => (policy, reason),
        (ToldPolicy::Request(policy), _) => panic!("{policy:?}"),
    };
    let bytes = message.encode_to_vec();
    let (policy, reason) = read("connection/shop/l4", &bytes);
    assert_eq!((policy.name, reason), ("shop/l4".into(), None));
    assert_eq!(policy.scope, model::Scope::Namespace("shop".into()));
    let newer = [&bytes[..], &UNKNOWN].concat();
    let requires = wire::Policy {
        requires: vec!["magic".to_owned()],
        ..message
    };
    let http = http(with_rule(Default::default()));
    for bytes in [
        newer,
        requires.encode_to_vec(),
        http.encode_to_vec(),
        vec![0xff],
        vec![],
    ] {
        let (policy, reason) = read("connection/shop/l4", &bytes);
        assert!(reason.is_some() && matches!(policy.effect, model::Effect::DenyAll(_)));
        assert_eq!(policy.scope, model::Scope::Namespace("shop".into()));
    }
}

#[test]
fn a_table_that_cannot_be_understood_serves_nothing() {
    let name = key("orders");
    let message = shop().tables[&name].clone();
    let bytes = message.encode_to_vec();
    assert_eq!(table(&name, &bytes).refused, None);
    let twice = wire::Table {
        ports: [&message.ports[..], &message.ports].concat(),
        ..message.clone()
    };
    let port = wire::Table {
        ports: vec![wire::Port::default()],
        ..message.clone()
    };
    let other = wire::Table {
        backend: key("orders-v1"),
        ..message.clone()
    };
    let requires = wire::Table {
        requires: vec!["magic".to_owned()],
        ..message.clone()
    };
    let gateway = wire::Table {
        gateways: vec!["edge/gateway".to_owned()],
        ..message.clone()
    };
    let waypoint = wire::Table {
        waypoints: vec!["edge/gateway".to_owned()],
        ..message
    };
    let newer = [&bytes[..], &UNKNOWN].concat();
    let rest = [twice, port, other, requires, gateway, waypoint].map(|it| it.encode_to_vec());
    for bytes in rest.into_iter().chain([newer, vec![0xff]]) {
        assert!(table(&name, &bytes).refused.is_some());
    }
}

#[test]
fn a_backend_that_cannot_be_used_is_there_and_says_why() {
    let name = key("orders");
    let message = shop().backends[&name].clone();
    let bytes = message.encode_to_vec();
    let (told, reasons) = backend(&name, &bytes);
    assert_eq!(
        (told.refused, reasons, told.workloads.len()),
        (None, vec![], 2)
    );
    let none = wire::Backend {
        service: None,
        ..message.clone()
    };
    let requires = wire::Backend {
        requires: vec!["magic".to_owned()],
        ..message.clone()
    };
    let waypoint = wire::Backend {
        waypoint_service: message.service.clone(),
        ..message.clone()
    };
    let newer = [&bytes[..], &UNKNOWN].concat();
    let rest = [none, requires, waypoint].map(|it| it.encode_to_vec());
    for bytes in rest.into_iter().chain([newer, vec![0xff]]) {
        let (told, reasons) = backend(&name, &bytes);
        assert!(told.refused.is_some() && reasons.len() == 1);
    }
    let (told, _) = backend(&key("orders-v1"), &bytes);
    assert!(told.refused.unwrap().starts_with("holds the service"));
    // One endpoint that cannot be read is left out; the others serve.
    let mut one = message.clone();
    one.workloads[0].tunnel_protocol = 99;
    let (told, reasons) = backend(&name, &one.encode_to_vec());
    assert_eq!(
        (told.refused, told.workloads.len(), reasons.len()),
        (None, 1, 1)
    );
    // What services and workloads hold beside is theirs.
    let mut service = message.service.clone().unwrap();
    service.ports[0].app_protocol = proto::workload::AppProtocol::Grpc.into();
    let (told, _) = backend(
        &name,
        &wire::Backend {
            service: Some(service),
            ..message
        }
        .encode_to_vec(),
    );
    assert_eq!(&*told.protocols, [(80, Protocol::Http2)]);
}
