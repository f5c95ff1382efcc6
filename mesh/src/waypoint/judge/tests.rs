//! What becomes of requests and connections.

use proto::{
    security::Scope,
    waypoint::{
        Action, Authorization, AuthorizationCondition, AuthorizationOperation, AuthorizationRule,
        AuthorizationSource, Header, HeaderEdits as WireEdits, PathEdit, Redirect, Rewrite,
        Route as WireRoute, Rule, filter::Filter as Wire, path_edit, weighted_backend,
    },
    workload::{GatewayAddress, NamespacedHostname, gateway_address},
};

use super::*;
use crate::{
    fixture::{endpoint_of, gateway, key, policy as connection_policy, service, workload},
    http::{
        head::{Field, Raw},
        host::Scheme,
    },
    model::Locality,
    waypoint::fixture::{Told, rule, shop, to, with},
};

/// What somebody asks `orders` for.
#[derive(Clone, Copy)]
struct Question<'a> {
    namespace: &'a str,
    method: &'a str,
    target: &'a str,
    headers: &'a [(&'a str, &'a str)],
    seed: u64,
    tried: &'a [&'a str],
    /// The service's address, if not its name.
    asked: Option<&'a str>,
}

const GET: Question<'static> = Question {
    namespace: "shop",
    method: "GET",
    target: "/",
    headers: &[],
    seed: 0,
    tried: &[],
    asked: Some("10.1.0.1"),
};

/// What of a judgement tests look at.
#[derive(Debug)]
struct Said {
    outcome: Result<Sent, Answer>,
    route: Option<String>,
    backend: Option<String>,
    backend_port: Option<u16>,
    allowed_by: Option<String>,
    backend_allowed_by: Option<String>,
    dry_run: usize,
    audit: usize,
}

#[derive(Debug)]
struct Sent {
    plan: Plan,
    upstream: Protocol,
    target: Option<String>,
    host: Option<String>,
    request_edits: Vec<HeaderEdits>,
    response_edits: Vec<HeaderEdits>,
}

pub(super) fn source() -> Source {
    Source {
        identity: Identity::new("cluster.local", "shop", "waypoint"),
        network: Name::EMPTY,
        node: "n1".into(),
        cluster: "Kubernetes".into(),
        locality: Locality {
            region: Name::EMPTY,
            zone: Name::EMPTY,
            subzone: Name::EMPTY,
        },
    }
}

fn ask(told: &Told, question: Question<'_>) -> Said {
    asked(told, &question, true)
}

fn connect(told: &Told, question: Question<'_>) -> Said {
    asked(told, &question, false)
}

fn asked(told: &Told, question: &Question<'_>, is_http: bool) -> Said {
    let generation = told.generation();
    let table = generation.table(key("orders").as_str().into()).unwrap();
    let client = Client {
        peer: Some(Identity::new("cluster.local", question.namespace, "web")),
        address: "10.0.0.9:4000".parse().unwrap(),
        destination: question.asked.map(|asked| asked.parse().unwrap()),
    };
    let from = source();
    let tried = question
        .tried
        .iter()
        .map(|name| crate::fixture::uid(name).into());
    let tried: Vec<Arc<str>> = tried.collect();
    let load = |_: &Workload| Load::default();
    let asked = Asked {
        table,
        port: table.port(80).unwrap(),
        client: &client,
        from: &from,
        seed: question.seed,
        tried: &tried,
        load: &load,
    };
    let headers: Vec<Field<'_>> = question
        .headers
        .iter()
        .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
        .collect();
    let head = Head::read(&Raw {
        method: question.method.as_bytes(),
        scheme: Scheme::Http,
        authority: Some(b"orders"),
        target: question.target.as_bytes(),
        headers: &headers,
    });
    let judgement = if is_http {
        judge(&generation, &asked, &head.unwrap())
    } else {
        judge_connection(&generation, &asked)
    };
    let policy = |matched: Option<Matched>| matched.map(|m| format!("{} {}", m.policy, m.rule));
    let owned = |edits: Vec<&HeaderEdits>| edits.into_iter().cloned().collect();
    Said {
        outcome: judgement.outcome.map(|forward| Sent {
            plan: forward.plan,
            upstream: forward.upstream,
            target: forward
                .target
                .map(|target| String::from_utf8(target).unwrap()),
            host: forward.host.map(Into::into),
            request_edits: owned(forward.request_edits),
            response_edits: owned(forward.response_edits),
        }),
        route: judgement
            .route
            .map(|it| format!("{} {}", it.route.name, it.at)),
        backend: judgement.backend.map(|it| it.key.to_string()),
        backend_port: judgement.backend_port,
        allowed_by: policy(judgement.allowed_by),
        backend_allowed_by: policy(judgement.backend_allowed_by),
        dry_run: judgement.dry_run.len() + judgement.connection_dry_run.len(),
        audit: judgement.audit.len(),
    }
}

impl Said {
    /// The pod and the port that it went to.
    fn pod(&self) -> String {
        match &self.outcome {
            Ok(sent) => match &sent.plan {
                Plan::Tunnel(hop) => format!("{} {}", hop.workload.name, hop.authority),
                plan => format!("{plan:?}"),
            },
            Err(answer) => format!("{} {answer}", answer.status()),
        }
    }

    fn status(&self) -> u16 {
        self.outcome.as_ref().err().map_or(200, Answer::status)
    }

    fn target(&self) -> &str {
        self.outcome.as_ref().unwrap().target.as_deref().unwrap()
    }
}

/// A policy of `shop` with one rule.
pub(super) fn authorization(name: &str, action: Action, rule: AuthorizationRule) -> Authorization {
    Authorization {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        action: action.into(),
        rules: vec![rule],
        ..Authorization::default()
    }
}

pub(super) fn paths(paths: &[&str]) -> AuthorizationRule {
    let operation = AuthorizationOperation {
        paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        ..AuthorizationOperation::default()
    };
    AuthorizationRule {
        to: vec![operation],
        ..AuthorizationRule::default()
    }
}

pub(super) fn namespaces(namespaces: &[&str]) -> AuthorizationRule {
    let source = AuthorizationSource {
        namespaces: namespaces.iter().map(|it| (*it).to_owned()).collect(),
        ..AuthorizationSource::default()
    };
    AuthorizationRule {
        from: vec![source],
        ..AuthorizationRule::default()
    }
}

fn canary() -> Told {
    shop().route(
        "canary",
        vec![rule("/", &[("orders-v1", 90), ("orders-v2", 10)])],
    )
}

fn redirect_all() -> Told {
    let redirect = Redirect {
        hostname: "elsewhere".to_owned(),
        ..Redirect::default()
    };
    shop().route(
        "away",
        vec![with(rule("/", &[]), vec![Wire::Redirect(redirect)])],
    )
}

#[test]
fn without_routes_a_request_goes_to_the_services_own_endpoints() {
    let said = ask(&shop(), GET);
    assert!(["v1 10.0.0.1:8080", "v2 10.0.0.2:8080"].contains(&said.pod().as_str()));
    assert_eq!(said.backend, Some(key("orders")));
    assert_eq!(said.route, None);
    let Ok(Sent {
        plan: Plan::Tunnel(hop),
        upstream,
        ..
    }) = &said.outcome
    else {
        panic!("{said:?}");
    };
    assert_eq!(hop.address.port(), plan::HBONE_PORT);
    assert_eq!(hop.identities, [hop.workload.identity]);
    assert_eq!(*upstream, Protocol::Http1);
}

#[test]
fn requests_are_split_by_weight() {
    let seeds = (0..100_u64).map(|i| i * (u64::MAX / 100 + 1));
    let pods: Vec<_> = seeds
        .map(|seed| ask(&canary(), Question { seed, ..GET }).pod())
        .collect();
    let count = |pod: &str| pods.iter().filter(|it| *it == pod).count();
    assert_eq!(
        (count("v1 10.0.0.1:8080"), count("v2 10.0.0.2:8080")),
        (90, 10)
    );
}

#[test]
fn with_routes_what_none_matches_is_404() {
    let told = shop().route("api", vec![rule("/api", &[("orders", 1)])]);
    assert_eq!(
        ask(
            &told,
            Question {
                target: "/api/x",
                ..GET
            }
        )
        .status(),
        200
    );
    let said = ask(
        &told,
        Question {
            target: "/apix",
            ..GET
        },
    );
    assert_eq!(said.outcome.unwrap_err(), Answer::NoRoute);
}

#[test]
fn a_share_that_leads_nowhere_is_500() {
    let mut invalid = to("orders", 1);
    invalid.target = Some(weighted_backend::Target::Invalid(
        "no such service".to_owned(),
    ));
    let half = |backend| {
        let mut rule = rule("/", &[("orders-v1", 1)]);
        rule.backends.push(backend);
        shop().route("half", vec![rule])
    };
    let late = Question {
        seed: u64::MAX,
        ..GET
    };
    for (told, expected) in [
        (half(invalid), "the backend cannot be used: no such service"),
        (
            half(to("nobody", 1)),
            "the backend cannot be used: nobody knows shop/nobody.shop.svc.cluster.local",
        ),
    ] {
        assert_eq!(ask(&told, GET).status(), 200);
        assert_eq!(ask(&told, late).pod(), format!("500 {expected}"));
    }
    for rule in [rule("/", &[]), rule("/", &[("orders-v1", 0)])] {
        let said = ask(&shop().route("none", vec![rule]), GET);
        assert_eq!(said.outcome.unwrap_err(), Answer::NoBackend);
    }
}

#[test]
fn a_rule_that_cannot_be_carried_out_is_500() {
    let mut broken = rule("/x", &[("orders", 1)]);
    broken.invalid = "mirrors, which is not served".to_owned();
    let told = shop().route("broken", vec![broken, rule("/", &[("orders", 1)])]);
    assert_eq!(ask(&told, GET).status(), 200);
    let said = ask(
        &told,
        Question {
            target: "/x/y",
            ..GET
        },
    );
    assert_eq!(
        said.pod(),
        "500 the backend cannot be used: mirrors, which is not served"
    );
    assert!(said.route.is_some(), "it has matched all the same");
}

#[test]
fn without_an_endpoint_that_is_ready_and_not_tried_it_is_503() {
    let said = ask(
        &shop(),
        Question {
            tried: &["v1"],
            ..GET
        },
    );
    assert_eq!(said.pod(), "v2 10.0.0.2:8080");
    let said = ask(
        &shop(),
        Question {
            tried: &["v1", "v2"],
            ..GET
        },
    );
    let answer = said.outcome.unwrap_err();
    assert_eq!(answer, Answer::NoEndpoint(key("orders").as_str().into()));
    assert_eq!(
        (answer.status(), answer.flags(), answer.grpc_status()),
        (503, "UH", 14)
    );
}

#[test]
fn policy_is_decided_before_anything_is_answered_from_a_route() {
    let deny = authorization("no-strangers", Action::Deny, namespaces(&["abroad"]));
    let stranger = Question {
        namespace: "abroad",
        target: "/api",
        ..GET
    };
    let nothing = shop().route("other", vec![rule("/other", &[])]);
    for told in [
        redirect_all(),
        nothing,
        shop().route("none", vec![rule("/", &[])]),
    ] {
        let before = ask(&told, stranger).status();
        assert!([302, 404, 500].contains(&before));
        let said = ask(&told.policy(deny.clone()), stranger);
        assert_eq!(said.status(), 403);
        let answer = said.outcome.unwrap_err();
        assert_eq!(answer.body(), "RBAC: access denied");
        assert_eq!(
            answer.details(),
            "rbac_access_denied_matched_policy[ns[shop]-policy[no-strangers]-rule[0]]"
        );
    }
}

#[test]
fn a_namespace_with_a_star_within_is_in_doubt_wherever_it_stands() {
    let within = || vec!["sh*p".to_owned()];
    let source = |source| AuthorizationRule {
        from: vec![source],
        ..AuthorizationRule::default()
    };
    let when = |condition| AuthorizationRule {
        when: vec![condition],
        ..AuthorizationRule::default()
    };
    let condition = AuthorizationCondition {
        key: "source.namespace".to_owned(),
        ..AuthorizationCondition::default()
    };
    for rule in [
        namespaces(&["sh*p"]),
        namespaces(&["other", "*h*"]),
        source(AuthorizationSource {
            not_namespaces: within(),
            ..AuthorizationSource::default()
        }),
        when(AuthorizationCondition {
            values: within(),
            ..condition.clone()
        }),
        when(AuthorizationCondition {
            not_values: within(),
            ..condition
        }),
    ] {
        for action in [Action::Deny, Action::Allow] {
            let told = shop().policy(authorization("p", action, rule.clone()));
            assert_eq!(ask(&told, GET).status(), 403, "{action:?} {rule:?}");
        }
    }
}

#[test]
fn a_denied_path_is_denied_in_all_its_spellings() {
    for denied in ["/a@b", "/a%40b"] {
        let told = shop().policy(authorization("p", Action::Deny, paths(&[denied])));
        for target in ["/a@b", "/a%40b", "/x/..%2fa@b", "/a%2540b"] {
            let said = ask(&told, Question { target, ..GET });
            assert_eq!(said.status(), 403, "{denied} {target}");
        }
    }
}

#[test]
fn who_is_allowed_by_which_rule_is_told() {
    let allow = authorization("shop-only", Action::Allow, namespaces(&["shop"]));
    let told = shop().policy(allow);
    assert_eq!(
        ask(&told, GET).allowed_by,
        Some("shop/shop-only 0".to_owned())
    );
    let said = ask(
        &told,
        Question {
            namespace: "abroad",
            ..GET
        },
    );
    let answer = said.outcome.unwrap_err();
    assert_eq!(answer.details(), "rbac_access_denied_matched_policy[none]");
    assert_eq!((answer.status(), answer.grpc_status()), (403, 7));
}

#[test]
fn dry_run_and_audit_are_told_and_deny_nobody() {
    let mut dry = authorization("dry", Action::Deny, paths(&["/"]));
    dry.dry_run = true;
    let audit = authorization("audit", Action::Audit, paths(&["/"]));
    let mut layer4 = connection_policy("l4", Scope::Namespace, proto::security::Action::Deny, &[]);
    layer4.dry_run = true;
    let said = ask(&shop().policy(dry).policy(audit).connection(layer4), GET);
    assert_eq!((said.status(), said.dry_run, said.audit), (200, 2, 1));
}

#[test]
fn policies_see_the_address_that_was_asked_for_and_no_other() {
    let allow = |value: &str| {
        let rule = AuthorizationRule {
            when: vec![AuthorizationCondition {
                key: "destination.ip".to_owned(),
                values: vec![value.to_owned()],
                not_values: vec![],
            }],
            ..AuthorizationRule::default()
        };
        authorization("p", Action::Allow, rule)
    };
    let with = |vips: &[&str], value: &str| {
        let mut told = shop();
        told.backends.get_mut(&key("orders")).unwrap().service = Some(service("orders", vips));
        told.policy(allow(value))
    };
    let (one, both) = (
        &["10.1.0.1"][..],
        &["10.1.0.1", "10.1.0.9", "2001:db8::1"][..],
    );
    for (vips, asked, value, status) in [
        (one, Some("10.1.0.1"), "10.1.0.1", 200),
        // By name to the only one there is.
        (one, None, "10.1.0.1", 200),
        (both, Some("10.1.0.9"), "10.1.0.9", 200),
        (both, Some("10.1.0.9"), "10.1.0.1", 403),
        (both, Some("2001:db8::1"), "2001:db8::1", 200),
        (both, Some("2001:db8::1"), "0.0.0.0/0", 403),
        // By name to one of several, or to a service that has none.
        (both, None, "10.1.0.1", 403),
        (&[], None, "0.0.0.0/0", 403),
    ] {
        let told = with(vips, value);
        let question = Question { asked, ..GET };
        for said in [ask(&told, question), connect(&told, question)] {
            assert_eq!(said.status(), status, "{vips:?} {asked:?} {value}");
        }
    }
    // Nobody asked for the address of a service that a route leads to.
    for (value, status) in [("10.1.0.2", 200), ("10.1.0.1", 403)] {
        let told = canary().policy_of("orders-v1", allow(value));
        assert_eq!(ask(&told, GET).status(), status, "{value}");
    }
}

#[test]
fn an_authority_is_for_an_address_or_not() {
    for (authority, address) in [
        ("10.1.0.1:80", Some("10.1.0.1")),
        ("[2001:db8::1]:80", Some("2001:db8::1")),
        ("[::ffff:10.1.0.1]:80", Some("10.1.0.1")),
        ("orders.shop.svc.cluster.local:80", None),
        ("10.1.0.1", None),
    ] {
        let address = address.map(|text| text.parse().unwrap());
        assert_eq!(Client::asked(authority), address, "{authority}");
    }
}

#[test]
fn another_services_policy_is_decided_too_with_the_client() {
    let deny = authorization("v1-only-shop", Action::Allow, namespaces(&["shop"]));
    let told = canary().policy_of("orders-v1", deny);
    let said = ask(&told, GET);
    assert_eq!(
        said.backend_allowed_by,
        Some("shop/v1-only-shop 0".to_owned())
    );
    let abroad = Question {
        namespace: "abroad",
        ..GET
    };
    let said = ask(&told, abroad);
    assert_eq!((said.status(), said.backend), (403, Some(key("orders-v1"))));
    // The other share has no such policy.
    assert_eq!(
        ask(
            &told,
            Question {
                seed: u64::MAX,
                ..abroad
            }
        )
        .status(),
        200
    );
}

#[test]
fn another_services_policy_sees_what_is_forwarded_not_what_was_asked() {
    let edits = WireEdits {
        set: vec![Header {
            name: "x-role".to_owned(),
            value: "admin".to_owned(),
        }],
        ..WireEdits::default()
    };
    let path = PathEdit {
        edit: Some(path_edit::Edit::Prefix("/admin".to_owned())),
    };
    let rewrite = Rewrite {
        hostname: "inner".to_owned(),
        path: Some(path),
    };
    let filters = vec![Wire::Rewrite(rewrite), Wire::RequestHeaders(edits)];
    let told = shop().route(
        "in",
        vec![with(rule("/open", &[("orders-v1", 1)]), filters)],
    );
    let role = AuthorizationRule {
        when: vec![AuthorizationCondition {
            key: "request.headers[x-role]".to_owned(),
            values: vec!["admin".to_owned()],
            not_values: vec![],
        }],
        ..AuthorizationRule::default()
    };
    let host = AuthorizationRule {
        to: vec![AuthorizationOperation {
            hosts: vec!["inner".to_owned()],
            ..AuthorizationOperation::default()
        }],
        ..AuthorizationRule::default()
    };
    let asked = Question {
        target: "/open/x?q",
        headers: &[("x-role", "guest")],
        ..GET
    };
    assert_eq!(ask(&told, asked).target(), "/admin/x?q");
    for rule in [paths(&["/admin/*"]), role, host] {
        let deny = authorization("deny", Action::Deny, rule);
        assert_eq!(
            ask(&told.clone().policy_of("orders-v1", deny.clone()), asked).status(),
            403
        );
        // The service's own is asked about what the client said.
        assert_eq!(ask(&told.clone().policy(deny), asked).status(), 200);
    }
}

#[test]
fn the_endpoints_layer_4_policy_is_decided_with_the_client() {
    let shop_only = proto::security::Match {
        namespaces: vec![proto::security::StringMatch {
            match_type: Some(proto::security::string_match::MatchType::Exact(
                "shop".to_owned(),
            )),
        }],
        ..Default::default()
    };
    let allow = connection_policy(
        "l4",
        Scope::Namespace,
        proto::security::Action::Allow,
        &[shop_only],
    );
    let told = shop().connection(allow.clone());
    assert_eq!(ask(&told, GET).status(), 200);
    for question in [ask, connect] {
        let said = question(
            &told,
            Question {
                namespace: "abroad",
                ..GET
            },
        );
        let Err(Answer::Denied(Denial::Connection(denial))) = said.outcome else {
            panic!("{said:?}");
        };
        assert_eq!(denial.policy(), Name::new("shop/l4"));
    }
    // What the control plane made itself is the endpoint's own proxy's to decide.
    let mut generated = allow;
    generated.name = "ambit_waypoint_80_x".to_owned();
    let said = ask(
        &shop().connection(generated),
        Question {
            namespace: "abroad",
            ..GET
        },
    );
    assert_eq!(said.status(), 200);
}

#[test]
fn a_rule_edits_host_path_and_headers() {
    let edits = |name: &str| WireEdits {
        add: vec![Header {
            name: name.to_owned(),
            value: "1".to_owned(),
        }],
        ..WireEdits::default()
    };
    let rewrite = Rewrite {
        hostname: "inner".to_owned(),
        path: Some(PathEdit {
            edit: Some(path_edit::Edit::Full("/all".to_owned())),
        }),
    };
    let filters = vec![
        Wire::RequestHeaders(edits("x-rule")),
        Wire::Rewrite(rewrite),
        Wire::ResponseHeaders(edits("y-rule")),
    ];
    let mut rule = with(rule("/a", &[("orders-v1", 1)]), filters);
    let filters = vec![
        Wire::RequestHeaders(edits("x-backend")),
        Wire::ResponseHeaders(edits("y-backend")),
    ];
    rule.backends[0].filters = with(rule.clone(), filters).filters;
    let said = ask(
        &shop().route("edit", vec![rule]),
        Question {
            target: "/a/%62?q=%20",
            ..GET
        },
    );
    let sent = said.outcome.unwrap();
    assert_eq!(
        (sent.target.as_deref(), sent.host.as_deref()),
        (Some("/all?q=%20"), Some("inner"))
    );
    let names = |all: &[HeaderEdits]| -> Vec<String> {
        all.iter().map(|it| it.add[0].0.to_string()).collect()
    };
    assert_eq!(names(&sent.request_edits), ["x-rule", "x-backend"]);
    assert_eq!(names(&sent.response_edits), ["y-rule", "y-backend"]);
}

#[test]
fn a_redirect_is_an_answer_with_the_rules_edits() {
    let redirect = Redirect {
        scheme: "https".to_owned(),
        status: 301,
        ..Redirect::default()
    };
    let edits = WireEdits {
        remove: vec!["x".to_owned()],
        ..WireEdits::default()
    };
    let filters = vec![Wire::Redirect(redirect), Wire::ResponseHeaders(edits)];
    let told = shop().route("away", vec![with(rule("/", &[]), filters)]);
    let said = ask(
        &told,
        Question {
            target: "/a?b",
            ..GET
        },
    );
    let Err(Answer::Redirect {
        status,
        location,
        response_edits,
    }) = said.outcome
    else {
        panic!("{said:?}");
    };
    assert_eq!((status, &*location), (301, &b"https://orders/a?b"[..]));
    assert_eq!(response_edits.len(), 1);
}

#[test]
fn consumers_routes_are_for_their_namespace_by_identity() {
    let mut told = canary();
    let consumer = WireRoute {
        kind: "HTTPRoute".to_owned(),
        namespace: "abroad".to_owned(),
        name: "mine".to_owned(),
        consumer: "abroad".to_owned(),
        rules: vec![rule("/", &[("orders-v2", 1)])],
        ..WireRoute::default()
    };
    told.put_route("mine", consumer);
    assert_eq!(ask(&told, GET).route, Some("canary 0".to_owned()));
    let said = ask(
        &told,
        Question {
            namespace: "abroad",
            ..GET
        },
    );
    assert_eq!(
        (said.route, said.backend),
        (Some("mine 0".to_owned()), Some(key("orders-v2")))
    );
}

#[test]
fn a_route_of_other_clients_alone_is_no_route_for_the_rest() {
    for kind in ["HTTPRoute", "TCPRoute"] {
        let mut told = shop();
        let consumer = WireRoute {
            kind: kind.to_owned(),
            namespace: "abroad".to_owned(),
            name: "mine".to_owned(),
            consumer: "abroad".to_owned(),
            rules: vec![rule("/", &[("orders-v2", 1)])],
            ..WireRoute::default()
        };
        told.put_route("mine", consumer);
        for (namespace, route, backend) in [
            ("abroad", Some("mine 0"), "orders-v2"),
            ("shop", None, "orders"),
        ] {
            let said = asked(&told, &Question { namespace, ..GET }, kind == "HTTPRoute");
            let wanted = (route.map(str::to_owned), Some(key(backend)));
            assert_eq!((said.route, said.backend), wanted, "{kind} {namespace}");
        }
    }
}

#[test]
fn what_a_table_or_port_requires_and_is_not_here_is_500_after_policy() {
    let deny = authorization("deny", Action::Deny, namespaces(&["abroad"]));
    let told = shop().policy(deny);
    let mut table = told.clone();
    table.tables.get_mut(&key("orders")).unwrap().requires = vec!["magic".to_owned()];
    let mut port = told;
    port.tables.get_mut(&key("orders")).unwrap().ports[0].protocol = 99;
    for (told, why) in [
        (table, "requires \"magic\", which is not here"),
        (port, "unknown protocol 99"),
    ] {
        let mut store = crate::waypoint::Store::new("ambit-system".into());
        let rejected: Vec<_> = told
            .deltas()
            .iter()
            .flat_map(|delta| store.apply(delta))
            .collect();
        assert_eq!(rejected.len(), 1);
        assert!(rejected[0].to_string().ends_with(why), "{rejected:?}");
        let generation = Arc::clone(store.current());
        let table = generation.table(key("orders").as_str().into()).unwrap();
        let head = Head::read(&Raw {
            method: b"GET",
            scheme: Scheme::Http,
            authority: Some(b"orders"),
            target: b"/",
            headers: &[],
        })
        .unwrap();
        for (namespace, status) in [("shop", 500), ("abroad", 403)] {
            let client = Client {
                peer: Some(Identity::new("cluster.local", namespace, "web")),
                address: "10.0.0.9:4000".parse().unwrap(),
                destination: None,
            };
            let asked = Asked {
                table,
                port: table.port(80).unwrap(),
                client: &client,
                from: &source(),
                seed: 0,
                tried: &[],
                load: &|_| Load::default(),
            };
            let both = [
                judge(&generation, &asked, &head),
                judge_connection(&generation, &asked),
            ];
            for judgement in both {
                assert_eq!(judgement.outcome.unwrap_err().status(), status);
            }
        }
    }
}

#[test]
fn a_backend_of_another_waypoint_is_reached_through_it_and_decided_there() {
    let mut told = shop().route("there", vec![rule("/", &[("orders-v1", 1)])]);
    let hostname = NamespacedHostname {
        namespace: "shop".to_owned(),
        hostname: "other.shop.svc.cluster.local".to_owned(),
    };
    let other = GatewayAddress {
        destination: Some(gateway_address::Destination::Hostname(hostname)),
        hbone_mtls_port: 15008,
    };
    let mut waypoint = service("other", &["10.1.0.9"]);
    waypoint.ports = vec![crate::fixture::port(15008, 15008)];
    let mut pod = endpoint_of(workload("other", &["10.0.0.7"]), "other", &[]);
    pod.native_tunnel = true;
    let backend = told.backends.get_mut(&key("orders-v1")).unwrap();
    backend.service.as_mut().unwrap().waypoint = Some(other);
    backend.workloads = vec![pod];
    backend.waypoint_service = Some(waypoint);
    // Its endpoints' layer 4 policy is not ours to decide: we do not see them.
    let deny = connection_policy(
        "l4",
        Scope::Namespace,
        proto::security::Action::Allow,
        &[crate::fixture::to_port(1)],
    );
    let said = ask(&told.clone().connection(deny), GET);
    let Ok(Sent {
        plan: Plan::Tunnel(hop),
        ..
    }) = &said.outcome
    else {
        panic!("{said:?}");
    };
    assert_eq!(hop.address.to_string(), "10.0.0.7:15008");
    assert_eq!(hop.authority.to_string(), "10.1.0.2:80");
    assert_eq!(
        hop.identities,
        [Identity::new("cluster.local", "shop", "other")]
    );
    // Its policy for layer 7 is decided here, too.
    let allow = authorization("allow", Action::Allow, namespaces(&["nobody"]));
    assert_eq!(ask(&told.policy_of("orders-v1", allow), GET).status(), 403);
    // A waypoint that nobody knows is no reason to go around it.
    let mut unknown = shop().route("there", vec![rule("/", &[("orders-v1", 1)])]);
    let backend = unknown.backends.get_mut(&key("orders-v1")).unwrap();
    backend.service.as_mut().unwrap().waypoint = Some(gateway());
    assert_eq!(ask(&unknown, GET).status(), 503);
}

#[test]
fn a_connection_is_carried_by_the_oldest_tcp_route() {
    let mut told = shop();
    for (name, created, service, consumer) in [
        ("young", 2, "orders-v2", ""),
        ("old", 1, "orders-v1", ""),
        ("theirs", 0, "orders-v2", "abroad"),
        ("nobodys", 0, "orders-v2", "elsewhere"),
    ] {
        let mut rule = rule("/", &[(service, 1)]);
        rule.matches.clear();
        let route = WireRoute {
            kind: "TCPRoute".to_owned(),
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            created,
            consumer: consumer.to_owned(),
            rules: vec![rule],
            ..WireRoute::default()
        };
        told.put_route(name, route);
    }
    let said = connect(&told, GET);
    assert_eq!(
        (said.pod(), said.route),
        ("v1 10.0.0.1:8080".to_owned(), Some("old 0".to_owned()))
    );
    let abroad = Question {
        namespace: "abroad",
        ..GET
    };
    assert_eq!(connect(&told, abroad).route, Some("theirs 0".to_owned()));
    assert_eq!(
        connect(&shop(), GET).outcome.unwrap().upstream,
        Protocol::Tcp
    );
    // Rules for requests are not asked about bytes.
    assert_eq!(
        connect(&canary(), GET).outcome.unwrap_err(),
        Answer::NoRoute
    );
}

#[test]
fn of_a_connection_nothing_of_a_request_is_known() {
    let ports = |port: &str, mut rule: AuthorizationRule| {
        rule.to[0].ports = vec![port.to_owned()];
        rule
    };
    for (action, rule, status) in [
        // Denying asks only about what is known, and denies more.
        (Action::Deny, paths(&["/admin"]), 403),
        (Action::Deny, ports("80", paths(&["/admin"])), 403),
        (Action::Deny, ports("8080", paths(&["/admin"])), 200),
        // Allowing does not go by what is not known.
        (Action::Allow, paths(&["/*"]), 403),
        (Action::Allow, ports("80", paths(&["/*"])), 403),
        (Action::Allow, ports("80", paths(&[])), 200),
        // The port is the service's, not the pod's.
        (Action::Allow, ports("8080", paths(&[])), 403),
        (Action::Allow, namespaces(&["shop"]), 200),
    ] {
        let told = shop().policy(authorization("p", action, rule.clone()));
        assert_eq!(connect(&told, GET).status(), status, "{action:?} {rule:?}");
    }
}

/// A route of the clients' own namespace, `abroad`, for a service of `shop`.
pub(super) fn consumers(told: Told, rule: Rule) -> Told {
    consumers_of("HTTPRoute", told, rule)
}

fn consumers_of(kind: &str, mut told: Told, rule: Rule) -> Told {
    let route = WireRoute {
        kind: kind.to_owned(),
        namespace: "abroad".to_owned(),
        name: "mine".to_owned(),
        consumer: "abroad".to_owned(),
        rules: vec![rule],
        ..WireRoute::default()
    };
    told.put_route("mine", route);
    told
}

/// `orders` with a second port, 82 to 8082, that speaks HTTP/2.
fn two_ports() -> Told {
    let mut told = shop();
    let backend = told.backends.get_mut(&key("orders")).unwrap();
    let second = proto::workload::Port {
        app_protocol: proto::workload::AppProtocol::Http2.into(),
        ..crate::fixture::port(82, 8082)
    };
    backend.service.as_mut().unwrap().ports.push(second);
    told
}

fn to_port_82() -> Rule {
    let mut rule = rule("/", &[("orders", 1)]);
    let Some(weighted_backend::Target::Destination(to)) = &mut rule.backends[0].target else {
        panic!("{rule:?}");
    };
    to.port = 82;
    rule
}

#[test]
fn a_consumers_route_leads_nobody_around_the_services_own_policies() {
    let edits = |name: &str, value: &str| WireEdits {
        set: vec![Header {
            name: name.to_owned(),
            value: value.to_owned(),
        }],
        ..WireEdits::default()
    };
    let prefix = PathEdit {
        edit: Some(path_edit::Edit::Prefix("/x/../%61dmin".to_owned())),
    };
    let path = Rewrite {
        path: Some(prefix),
        ..Rewrite::default()
    };
    let host = Rewrite {
        hostname: "inner".to_owned(),
        ..Rewrite::default()
    };
    let header = |value: &str| AuthorizationRule {
        when: vec![AuthorizationCondition {
            key: "request.headers[x-role]".to_owned(),
            values: vec![value.to_owned()],
            not_values: vec![],
        }],
        ..AuthorizationRule::default()
    };
    let hosts = |hosts: &str| AuthorizationRule {
        to: vec![AuthorizationOperation {
            hosts: vec![hosts.to_owned()],
            ..AuthorizationOperation::default()
        }],
        ..AuthorizationRule::default()
    };
    let abroad = Question {
        namespace: "abroad",
        target: "/open/x",
        headers: &[("x-role", "guest")],
        ..GET
    };
    for (filter, forwarded, asked) in [
        (
            Wire::Rewrite(path),
            paths(&["/admin/*"]),
            paths(&["/open/*"]),
        ),
        (Wire::Rewrite(host), hosts("inner"), hosts("orders")),
        (
            Wire::RequestHeaders(edits("x-role", " admin\t")),
            header("admin"),
            header("guest"),
        ),
    ] {
        for backend in ["orders", "orders-v1"] {
            let rule = with(rule("/open", &[(backend, 1)]), vec![filter.clone()]);
            let told = consumers(shop(), rule.clone());
            assert_eq!(ask(&told, abroad).status(), 200);
            for (action, matched) in [
                (Action::Deny, &forwarded),
                (Action::Deny, &asked),
                (Action::Allow, &asked),
                (Action::Allow, &forwarded),
            ] {
                let policy = authorization("p", action, matched.clone());
                let said = ask(&told.clone().policy(policy.clone()), abroad);
                assert_eq!(said.status(), 403, "{backend} {action:?} {matched:?}");
                // The producer's own route does as its own namespace says.
                let own = shop().route("own", vec![rule.clone()]).policy(policy);
                let denies = (action == Action::Deny) == (*matched == asked);
                let status = if denies { 403 } else { 200 };
                assert_eq!(ask(&own, abroad).status(), status, "{action:?} {matched:?}");
            }
            let both = authorization("one", Action::Allow, asked.clone());
            let other = authorization("other", Action::Allow, forwarded.clone());
            let said = ask(&told.policy(both).policy(other), abroad);
            assert_eq!(said.status(), 200);
            assert_eq!(said.allowed_by, Some("shop/one 0".to_owned()));
        }
    }
}

#[test]
fn what_is_judged_twice_is_told_once() {
    let mut dry = authorization("dry", Action::Deny, namespaces(&["abroad"]));
    dry.dry_run = true;
    let audit = authorization("audit", Action::Audit, namespaces(&["abroad"]));
    let told = consumers(
        shop().policy(dry).policy(audit),
        rule("/", &[("orders", 1)]),
    );
    let abroad = Question {
        namespace: "abroad",
        ..GET
    };
    let said = ask(&told, abroad);
    assert_eq!((said.status(), said.dry_run, said.audit), (200, 1, 1));
}

#[test]
fn a_consumers_route_leads_to_no_port_that_its_client_may_not_ask_for() {
    let abroad = Question {
        namespace: "abroad",
        ..GET
    };
    for (kind, question) in [
        ("HTTPRoute", ask as fn(&Told, _) -> _),
        ("TCPRoute", connect),
    ] {
        let mut rule = to_port_82();
        if kind == "TCPRoute" {
            rule.matches.clear();
        }
        let told = consumers_of(kind, two_ports(), rule);
        assert_eq!(question(&told, abroad).status(), 200, "{kind}");
        let mut closed = paths(&[]);
        closed.to[0].ports = vec!["82".to_owned()];
        let deny = authorization("no-82", Action::Deny, closed);
        assert_eq!(question(&told.policy(deny), abroad).status(), 403, "{kind}");
    }
}

#[test]
fn another_port_of_the_service_is_spoken_to_as_it_says_itself() {
    let said = ask(&two_ports().route("82", vec![to_port_82()]), GET);
    let sent = said.outcome.unwrap();
    assert_eq!(sent.upstream, Protocol::Http2);
    assert_eq!(said.backend_port, Some(82));
    assert_eq!(ask(&two_ports(), GET).backend_port, Some(80));
}

#[test]
fn who_the_client_is_no_rule_says() {
    let edits = |name: &str| {
        let header = Header {
            name: name.to_owned(),
            value: "9.9.9.9".to_owned(),
        };
        Wire::RequestHeaders(WireEdits {
            set: vec![header.clone()],
            add: vec![header],
            remove: vec![name.to_owned()],
        })
    };
    for (name, count) in [
        ("x-role", 1),
        ("X-Forwarded-For", 0),
        ("x_forwarded_client_cert", 0),
    ] {
        let mut rule = with(rule("/", &[("orders", 1)]), vec![edits(name)]);
        rule.backends[0].filters = rule.filters.clone();
        let said = ask(&shop().route("edit", vec![rule]), GET);
        let edits = said.outcome.unwrap().request_edits;
        assert_eq!(edits.len(), 2 * count, "{name}");
    }
}

#[test]
fn a_method_is_judged_as_a_server_may_compare_it() {
    let method = |method: &str| AuthorizationRule {
        to: vec![AuthorizationOperation {
            methods: vec![method.to_owned()],
            ..AuthorizationOperation::default()
        }],
        ..AuthorizationRule::default()
    };
    for (action, pattern, asked, status) in [
        (Action::Deny, "POST", "post", 403),
        (Action::Deny, "post", "post", 403),
        (Action::Deny, "GET", "post", 200),
        (Action::Allow, "POST", "post", 403),
        (Action::Allow, "post", "post", 403),
        (Action::Allow, "purge", "purge", 200),
    ] {
        let told = shop().policy(authorization("p", action, method(pattern)));
        let question = Question {
            method: asked,
            ..GET
        };
        assert_eq!(
            ask(&told, question).status(),
            status,
            "{action:?} {pattern}"
        );
    }
}

#[test]
fn the_whole_server_is_below_no_prefix() {
    let whole = Question {
        method: "OPTIONS",
        target: "*",
        ..GET
    };
    assert_eq!(ask(&shop(), whole).target(), "*");
    assert_eq!(ask(&canary(), whole).outcome.unwrap_err(), Answer::NoRoute);
    for (pattern, status) in [("*", 403), ("/*", 200), ("/", 200)] {
        let deny = authorization("p", Action::Deny, paths(&[pattern]));
        assert_eq!(
            ask(&shop().policy(deny), whole).status(),
            status,
            "{pattern}"
        );
    }
    let mut rule = rule("/", &[("orders", 1)]);
    rule.matches[0].path = Some(proto::waypoint::r#match::Path::Regex(".*".to_owned()));
    let path = PathEdit {
        edit: Some(path_edit::Edit::Prefix("/v2".to_owned())),
    };
    let rewrite = Rewrite {
        path: Some(path),
        ..Rewrite::default()
    };
    let told = shop().route("all", vec![with(rule, vec![Wire::Rewrite(rewrite)])]);
    assert_eq!(ask(&told, whole).target(), "*");
}
