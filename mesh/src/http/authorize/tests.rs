//! Tables of what a policy means, and a second evaluator that random policies must agree with.

mod naive;

use proptest::prelude::*;

use super::*;
use crate::{
    http::{
        head::{Field, Raw},
        host::Scheme,
    },
    identity::Identity,
};
use naive::{Asked, Said, SaidOperation, SaidRule};

/// What the policies decide about a request.
fn verdict(policies: &[Policy], asked: &Asked<'_>) -> Verdict {
    let headers: Vec<Field<'_>> = asked
        .headers
        .iter()
        .map(|(name, value)| (name.as_bytes(), *value))
        .collect();
    let head = Head::read(&Raw {
        method: asked.method.as_bytes(),
        scheme: Scheme::Http,
        authority: Some(asked.host.as_bytes()),
        target: asked.target.as_bytes(),
        headers: &headers,
    });
    let peer = |namespace| Identity::new("cluster.local", namespace, "teller");
    let request = Request {
        connection: Connection {
            peer: asked.namespace.map(peer),
            source: "10.0.0.1".parse().unwrap(),
            destination: Some("10.0.0.2".parse().unwrap()),
            port: asked.port,
        },
        head: &head.unwrap(),
    };
    decide(policies, &request)
}

fn passes(policies: &[Policy], asked: &Asked<'_>) -> bool {
    matches!(verdict(policies, asked).decision, Decision::Allow(_))
}

fn texts(list: &[&str]) -> Box<[StringMatch]> {
    list.iter().map(|value| text(value)).collect()
}

fn hosts(list: &[&str]) -> Box<[StringMatch]> {
    list.iter().map(|value| host(value)).collect()
}

fn paths(list: &[&str]) -> Box<[PathPattern]> {
    list.iter()
        .flat_map(|value| PathPattern::spellings(value).unwrap())
        .collect()
}

fn policy(name: &str, action: Action, rules: Vec<Rule>) -> Policy {
    let effect = Effect::Rules {
        action,
        dry_run: false,
        rules: rules.into(),
    };
    Policy {
        name: name.into(),
        effect,
    }
}

fn dry_run(mut policy: Policy) -> Policy {
    if let Effect::Rules { dry_run, .. } = &mut policy.effect {
        *dry_run = true;
    }
    policy
}

fn to(operation: Operation) -> Rule {
    Rule {
        to: [operation].into(),
        ..Rule::default()
    }
}

fn when(condition: Condition) -> Rule {
    Rule {
        when: [condition].into(),
        ..Rule::default()
    }
}

fn on_path(path: &str) -> Rule {
    to(Operation {
        paths: paths(&[path]),
        ..Operation::default()
    })
}

fn on_host(host: &str) -> Rule {
    to(Operation {
        hosts: hosts(&[host]),
        ..Operation::default()
    })
}

fn header(values: &[&str], not_values: &[&str]) -> Rule {
    when(Condition::Header {
        name: "X-Group".into(),
        values: texts(values),
        not_values: texts(not_values),
    })
}

fn matched(policy: &str, rule: usize) -> Matched {
    Matched {
        policy: policy.into(),
        rule,
    }
}

/// Whether a lone ALLOW of the rule passes the request, and whether a lone DENY does.
fn both(rule: &Rule, asked: &Asked<'_>) -> (bool, bool) {
    let lone = |action| passes(&[policy("shop/p", action, vec![rule.clone()])], asked);
    (lone(Action::Allow), lone(Action::Deny))
}

/// Matches for sure; is in doubt, which passes by neither; does not match.
const YES: (bool, bool) = (true, false);
const DOUBT: (bool, bool) = (false, false);
const NO: (bool, bool) = (false, true);

#[test]
fn a_rule_without_parts_matches_everything_and_a_policy_without_rules_nothing() {
    assert_eq!(both(&Rule::default(), &Asked::default()), YES);
    let lone = |action| passes(&[policy("shop/p", action, vec![])], &Asked::default());
    assert!(!lone(Action::Allow));
    assert!(lone(Action::Deny));
    assert!(lone(Action::Audit));
    assert!(passes(&[], &Asked::default()));
}

#[test]
fn paths_match_by_value_prefix_suffix_presence_or_template() {
    for (pattern, target, expected) in [
        ("/a", "/a", YES),
        ("/a", "/a?b", YES),
        ("/a", "/a/", NO),
        ("/a", "/A", NO),
        ("/a", "/%61", YES),
        ("/%61", "/a", YES),
        ("/x/../a", "/a", YES),
        ("/a", "/x/%2e%2E/a", YES),
        ("/a*", "/ab", YES),
        ("/a/*", "/a", NO),
        ("*.php", "/x.php", YES),
        ("*.php", "/x.php?a", YES),
        ("*.php", "/x.php/y", NO),
        ("*", "/", YES),
        ("/a*b", "/axb", NO),
        ("/a/{*}/c", "/a/b/c", YES),
        ("/a/{*}/c", "/a/b/b/c", NO),
        ("/a/{**}", "/a/b/b/c", YES),
    ] {
        let asked = Asked {
            target,
            ..Asked::default()
        };
        assert_eq!(
            both(&on_path(pattern), &asked),
            expected,
            "{pattern} {target}"
        );
    }
}

#[test]
fn a_path_that_is_read_in_two_ways_passes_only_if_it_does_in_both() {
    for target in [
        "//admin",
        "/admin;x",
        "/;/admin",
        "/public/..;/admin",
        "/public/..%2fadmin",
        "/public/..%5cadmin",
        "/public\\..\\admin",
        "/%2fadmin",
        "/admin%00.html",
        "/public/..%252fadmin",
    ] {
        let asked = Asked {
            target,
            ..Asked::default()
        };
        assert_eq!(both(&on_path("/admin"), &asked), DOUBT, "{target}");
        assert_eq!(both(&on_path("/*"), &asked), YES, "{target}");
        let not_admin = to(Operation {
            not_paths: paths(&["/admin"]),
            ..Operation::default()
        });
        assert_eq!(both(&not_admin, &asked), DOUBT, "{target}");
        // Each reading by a rule of its own.
        let readings = [on_path("/admin*"), on_path("/*"), on_path("*admin")];
        assert!(passes(
            &[policy("p", Action::Allow, readings.into())],
            &asked
        ));
    }
}

#[test]
fn an_escape_that_need_not_be_is_read_with_and_without() {
    for (pattern, target, expected) in [
        ("/a@b", "/a@b", YES),
        ("/a%40b", "/a%40b", YES),
        // A DENY of one spelling is one of the other.
        ("/a%40b", "/a@b", YES),
        // What need not be escaped and is may be something else: an ALLOW of the bare one does not pass it.
        ("/a@b", "/a%40b", DOUBT),
        ("/a@b", "/a%2540b", DOUBT),
        ("/a%40*", "/a@b", YES),
        ("*%40b", "/a@b", YES),
        ("/{*}/a%40b", "/x/a@b", YES),
        ("/{**}/a%40b", "/x/y/a@b", YES),
        // A star that is escaped is no star.
        ("/a%2A", "/a*", YES),
        ("/a%2A", "/ab", NO),
        ("/a%20b", "/a%20b", YES),
        ("/a*", "/a%40b", YES),
    ] {
        let asked = Asked {
            target,
            ..Asked::default()
        };
        assert_eq!(
            both(&on_path(pattern), &asked),
            expected,
            "{pattern} {target}"
        );
        let not = to(Operation {
            not_paths: paths(&[pattern]),
            ..Operation::default()
        });
        let opposite = (expected.1, expected.0);
        assert_eq!(both(&not, &asked), opposite, "not {pattern} {target}");
    }
}

#[test]
fn methods_have_case() {
    let rule = |method: &str| {
        to(Operation {
            methods: texts(&[method]),
            ..Operation::default()
        })
    };
    for (pattern, method, expected) in [
        ("GET", "GET", YES),
        ("GET", "POST", NO),
        ("get", "GET", NO),
        ("P*", "PUT", YES),
        ("PURGE", "purge", NO),
        ("*", "GET", YES),
    ] {
        let asked = Asked {
            method,
            ..Asked::default()
        };
        assert_eq!(both(&rule(pattern), &asked), expected, "{pattern} {method}");
    }
}

#[test]
fn hosts_have_no_case_and_doubtful_ports() {
    for (pattern, host, expected) in [
        ("secret.com", "secret.com", YES),
        ("Secret.com.", "SECRET.com.", YES),
        ("secret.com", "secret.com:80", YES),
        ("secret.com:80", "secret.com", YES),
        ("secret.com", "secret.com:9000", DOUBT),
        ("secret.com:9000", "secret.com:9000", YES),
        ("secret.com:*", "secret.com:9000", YES),
        ("secret.com:9000", "secret.com", NO),
        // The client connected to port 8080.
        ("secret.com:8080", "secret.com", DOUBT),
        ("*.com", "secret.com", YES),
        ("*.COM", "secret.com:9000", DOUBT),
        ("secret*", "secret.com", YES),
        ("*", "secret.com", YES),
        ("secret.com", "public.com", NO),
        ("a", "secret.com", NO),
        ("a-very-long-prefix-of-a-host*", "a", NO),
        ("*a-very-long-suffix-of-a-host", "a", NO),
    ] {
        let asked = Asked {
            host,
            port: 8080,
            ..Asked::default()
        };
        assert_eq!(
            both(&on_host(pattern), &asked),
            expected,
            "{pattern} {host}"
        );
    }
}

#[test]
fn what_must_not_be_is_in_doubt_wherever_what_must_be_is() {
    let rule = to(Operation {
        not_hosts: hosts(&["secret.com"]),
        ..Operation::default()
    });
    for (host, expected) in [
        ("secret.com", NO),
        ("secret.com:9000", DOUBT),
        ("a.com", YES),
    ] {
        let asked = Asked {
            host,
            ..Asked::default()
        };
        assert_eq!(both(&rule, &asked), expected, "{host}");
    }
}

#[test]
fn each_value_of_a_header_is_judged() {
    for (values, not_values, sent, expected) in [
        (&["a"][..], &[][..], &["a"][..], YES),
        (&["a"], &[], &["b"], NO),
        (&["a"], &[], &[], NO),
        (&["a"], &[], &["a", "b"], DOUBT),
        (&["a"], &[], &["b", "a"], DOUBT),
        (&["a", "b"], &[], &["b", "a"], YES),
        (&["a"], &[], &["a,b"], NO),
        (&["a"], &[], &["A"], NO),
        (&["*"], &[], &["x"], YES),
        (&["*"], &[], &[""], NO),
        (&["*"], &[], &["", "x"], DOUBT),
        (&[], &["a"], &["b"], YES),
        (&[], &["a"], &["a"], NO),
        (&[], &["a"], &[], YES),
        (&[], &["a"], &["a", "b"], DOUBT),
        (&["a*"], &["ab"], &["ac"], YES),
        (&["a*"], &["ab"], &["ab"], NO),
        (&[], &[], &["a"], DOUBT),
    ] {
        let asked = Asked {
            headers: sent
                .iter()
                .map(|value| ("x-group", value.as_bytes()))
                .collect(),
            ..Asked::default()
        };
        let rule = header(values, not_values);
        assert_eq!(
            both(&rule, &asked),
            expected,
            "{values:?} {not_values:?} {sent:?}"
        );
    }
}

#[test]
fn values_are_bytes() {
    for value in [&b"\xff"[..], b"a\x80", b"\xc0\xaf"] {
        let asked = Asked {
            headers: vec![("x-group", value)],
            ..Asked::default()
        };
        assert_eq!(both(&header(&["b"], &[]), &asked), NO);
        assert_eq!(both(&header(&[], &["b"]), &asked), YES);
        assert_eq!(both(&header(&["*"], &[]), &asked), YES);
        assert_eq!(both(&header(&[], &["*"]), &asked), NO);
    }
}

#[test]
fn what_cannot_be_evaluated_denies() {
    let asked = Asked::default();
    let unserved = || Condition::Unserved("request.auth.principal".into());
    let source = |peer, unserved: Option<&str>| Rule {
        from: [Source {
            peer,
            unserved: unserved.map(Into::into),
        }]
        .into(),
        ..Rule::default()
    };
    let from = |namespace: &str| Match {
        namespaces: texts(&[namespace]),
        ..Match::default()
    };
    for rule in [
        when(unserved()),
        when(Condition::Peer(Match::default())),
        when(Condition::Operation(Operation::default())),
        to(Operation::default()),
        source(Match::default(), None),
        source(Match::default(), Some("requestPrincipals")),
        source(from("bank"), Some("requestPrincipals")),
    ] {
        assert_eq!(both(&rule, &asked), DOUBT, "{rule:?}");
    }
    // What cannot match whatever the rest says does not.
    assert_eq!(both(&source(from("shop"), Some("x")), &asked), NO);
    let elsewhere = Rule {
        when: [unserved()].into(),
        ..on_path("/elsewhere")
    };
    assert_eq!(both(&elsewhere, &asked), NO);
}

#[test]
fn an_address_that_nobody_knows_matches_nothing_for_sure() {
    let known = Connection {
        peer: Some(Identity::new("cluster.local", "bank", "teller")),
        source: "10.0.0.1".parse().unwrap(),
        destination: Some("10.1.0.1".parse().unwrap()),
        port: 80,
    };
    let unknown = Connection {
        destination: None,
        ..known
    };
    let rule = |values: &[&str], not_values: &[&str]| {
        when(Condition::read("destination.ip", values, not_values, "shop").unwrap())
    };
    let both = |rule: &Rule, connection: &Connection| {
        let lone = |action| {
            let policy = policy("shop/p", action, vec![rule.clone()]);
            let verdict = decide_connection([&policy], connection);
            matches!(verdict.decision, Decision::Allow(_))
        };
        (lone(Action::Allow), lone(Action::Deny))
    };
    for (rule, expected) in [
        (rule(&["10.1.0.1"], &[]), YES),
        (rule(&["10.1.0.2"], &[]), NO),
        (rule(&[], &["10.1.0.0/24"]), NO),
        (rule(&[], &["10.1.0.2"]), YES),
        (rule(&["0.0.0.0/0"], &["0.0.0.0"]), YES),
    ] {
        assert_eq!(both(&rule, &known), expected, "{rule:?}");
        assert_eq!(both(&rule, &unknown), DOUBT, "{rule:?}");
    }
    // What asks about something else does not care.
    let port = when(Condition::read("destination.port", &["80"], &[], "shop").unwrap());
    assert_eq!(both(&port, &unknown), YES);
}

#[test]
fn a_policy_that_is_not_understood_denies_all() {
    let broken = Policy {
        name: "shop/broken".into(),
        effect: Effect::DenyAll("nobody knows it".to_owned()),
    };
    let open = policy("shop/open", Action::Allow, vec![Rule::default()]);
    let denial = Denial::NotUnderstood("shop/broken".into());
    assert_eq!(
        verdict(&[open, broken], &Asked::default()).decision,
        Decision::Deny(denial)
    );
}

#[test]
fn the_verdict_names_policy_and_rule() {
    let deny = policy(
        "shop/deny",
        Action::Deny,
        vec![on_path("/x"), on_path("/a")],
    );
    let allow = policy(
        "shop/allow",
        Action::Allow,
        vec![on_path("/y"), on_path("/b")],
    );
    let decision = |target| {
        let asked = Asked {
            target,
            ..Asked::default()
        };
        verdict(&[allow.clone(), deny.clone()], &asked).decision
    };
    assert_eq!(
        decision("/a"),
        Decision::Deny(Denial::Denied(matched("shop/deny", 1)))
    );
    assert_eq!(
        decision("/b"),
        Decision::Allow(Some(matched("shop/allow", 1)))
    );
    assert_eq!(
        decision("/c"),
        Decision::Deny(Denial::NotAllowed("shop/allow".into()))
    );
    assert_eq!(
        Denial::Denied(matched("shop/deny", 1)).to_string(),
        "denied by policy shop/deny, rule 1"
    );
}

#[test]
fn dry_run_and_audit_are_told_and_never_deny() {
    let deny = dry_run(policy("shop/deny", Action::Deny, vec![on_path("/a")]));
    let allow = dry_run(policy("shop/allow", Action::Allow, vec![on_path("/b")]));
    let audit = policy(
        "shop/audit",
        Action::Audit,
        vec![on_path("/b"), on_path("/a")],
    );
    let doubtful = dry_run(policy(
        "shop/doubt",
        Action::Deny,
        vec![when(Condition::Unserved("x".into()))],
    ));
    let asked = Asked {
        target: "/a",
        ..Asked::default()
    };
    let told = verdict(&[deny.clone(), allow.clone(), audit, doubtful], &asked);
    assert_eq!(told.decision, Decision::Allow(None));
    assert_eq!(told.audit, [matched("shop/audit", 1)]);
    assert_eq!(
        told.dry_run,
        [
            Denial::Denied(matched("shop/deny", 0)),
            Denial::Denied(matched("shop/doubt", 0)),
            Denial::NotAllowed("shop/allow".into()),
        ]
    );
    // An ALLOW that is enforced and matches makes up for the one that is not.
    let open = policy("shop/open", Action::Allow, vec![Rule::default()]);
    assert_eq!(verdict(&[allow, open], &asked).dry_run, []);
    // Told once, in however many readings.
    let twice = Asked {
        target: "/a;b",
        ..Asked::default()
    };
    let told = verdict(&[deny], &twice);
    assert_eq!(told.dry_run, [Denial::Denied(matched("shop/deny", 0))]);
}

#[test]
fn parts_are_joined_by_and_their_entries_by_or() {
    let from = |namespace: &str| Source {
        peer: Match {
            namespaces: texts(&[namespace]),
            ..Match::default()
        },
        unserved: None,
    };
    let operation = |method: &str, port| Operation {
        methods: texts(&[method]),
        ports: [port].into(),
        ..Operation::default()
    };
    let rule = Rule {
        from: [from("x"), from("bank")].into(),
        to: [operation("GET", 81), operation("GET", 80)].into(),
        when: header(&["a"], &[]).when,
    };
    let fits = Asked {
        headers: vec![("x-group", b"a")],
        ..Asked::default()
    };
    assert_eq!(both(&rule, &fits), YES);
    let others = [
        Asked {
            namespace: Some("y"),
            ..fits.clone()
        },
        Asked {
            namespace: None,
            ..fits.clone()
        },
        Asked {
            method: "PUT",
            ..fits.clone()
        },
        Asked {
            port: 82,
            ..fits.clone()
        },
        Asked {
            headers: vec![],
            ..fits.clone()
        },
    ];
    for asked in others {
        assert_eq!(both(&rule, &asked), NO, "{asked:?}");
    }
}

fn rule_of(said: &SaidRule) -> Rule {
    let source = |(namespaces, not_namespaces, unserved): &(Vec<&str>, Vec<&str>, bool)| Source {
        peer: Match {
            namespaces: texts(namespaces),
            not_namespaces: texts(not_namespaces),
            ..Match::default()
        },
        unserved: unserved.then(|| "remoteIpBlocks".into()),
    };
    let operation = |said: &SaidOperation| Operation {
        hosts: hosts(&said.hosts),
        not_hosts: hosts(&said.not_hosts),
        ports: said.ports.clone().into(),
        not_ports: said.not_ports.clone().into(),
        methods: texts(&said.methods),
        not_methods: texts(&said.not_methods),
        paths: paths(&said.paths),
        not_paths: paths(&said.not_paths),
    };
    let condition = |(name, values, not_values): &(&str, Vec<&str>, Vec<&str>)| match *name {
        "unserved" => Condition::Unserved((*name).into()),
        name => Condition::Header {
            name: name.into(),
            values: texts(values),
            not_values: texts(not_values),
        },
    };
    Rule {
        from: said.from.iter().map(source).collect(),
        to: said.to.iter().map(operation).collect(),
        when: said.when.iter().map(condition).collect(),
    }
}

fn policy_of(said: &Said) -> Policy {
    let rules = said.rules.iter().map(rule_of).collect();
    let policy = policy("shop/p", said.action, rules);
    if said.dry_run {
        dry_run(policy)
    } else {
        policy
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 3000, ..ProptestConfig::default() })]

    #[test]
    fn random_policies_mean_what_they_say(
        said in prop::collection::vec(naive::policy(), 0..5),
        asked in prop::collection::vec(naive::asked(), 1..6),
    ) {
        let policies: Vec<_> = said.iter().map(policy_of).collect();
        for asked in &asked {
            prop_assert_eq!(passes(&policies, asked), naive::passes(&said, asked), "{:?}", asked);
        }
    }
}
