//! Tables of what a policy means, and a second evaluator that random policies must agree with.

mod reference;

use proptest::prelude::*;
use proto::security::{
    Action, Address, Authorization, Group as WireGroup, Match as WireMatch, Presence, Rules, Scope,
    ServiceAccountMatch, StringMatch as WireString, string_match::MatchType,
};

use super::*;
use crate::fixture::{self, authorizations, bytes, generation, policy, to_port};

const CLIENT: &str = "spiffe://cluster.local/ns/bank/sa/teller";

fn request() -> Request {
    Request {
        peer: Some(CLIENT.parse().unwrap()),
        source: "10.0.0.1".parse().unwrap(),
        destination: "10.0.0.2".parse().unwrap(),
        port: 80,
    }
}

/// What the policies decide about a request to workload `server` in `shop`, which lists `listed`.
fn verdict(policies: &[Authorization], listed: &[&str], request: &Request) -> Verdict {
    let mut server = fixture::workload("server", &["10.0.0.2"]);
    server.authorization_policies = listed.iter().map(|name| (*name).to_owned()).collect();
    let generation = generation(&[server], &[], policies);
    decide(
        &generation,
        generation.workload(&fixture::uid("server")).unwrap(),
        request,
        Which::All,
    )
}

fn decision(policies: &[Authorization], listed: &[&str], request: &Request) -> Decision {
    verdict(policies, listed, request).decision
}

fn denied(name: &str) -> Decision {
    Decision::Deny(Denial::Denied(name.into()))
}

fn not_allowed(name: &str) -> Decision {
    Decision::Deny(Denial::NotAllowed(name.into()))
}

fn allowed_by(name: &str) -> Decision {
    Decision::Allow(Some(name.into()))
}

const NOT_ASKED: Decision = Decision::Allow(None);

/// A policy for the namespace `shop`.
fn for_shop(name: &str, action: Action, matches: &[WireMatch]) -> Authorization {
    policy(name, Scope::Namespace, action, matches)
}

/// A policy with groups of its own.
fn with_groups(action: Action, groups: Vec<WireGroup>) -> Authorization {
    Authorization {
        groups,
        ..for_shop("p", action, &[])
    }
}

fn exact(text: &str) -> WireString {
    WireString {
        match_type: Some(MatchType::Exact(text.to_owned())),
    }
}

fn presence() -> WireString {
    WireString {
        match_type: Some(MatchType::Presence(Presence {})),
    }
}

fn range(ip: &str, length: u32) -> Address {
    Address {
        address: bytes(ip),
        length,
    }
}

fn account(namespace: &str, account: &str) -> ServiceAccountMatch {
    ServiceAccountMatch {
        namespace: namespace.to_owned(),
        service_account: account.to_owned(),
    }
}

/// Asserts that a policy with these groups matches, or not, under either action.
fn assert_matches(groups: &[WireGroup], request: &Request, matches: bool) {
    for (action, yes, no) in [
        (Action::Allow, allowed_by("shop/p"), not_allowed("shop/p")),
        (Action::Deny, denied("shop/p"), NOT_ASKED),
    ] {
        let found = decision(&[with_groups(action, groups.to_vec())], &[], request);
        assert_eq!(
            found,
            if matches { yes } else { no },
            "{action:?} {groups:?} {request:?}"
        );
    }
}

fn one(m: WireMatch) -> Vec<WireGroup> {
    vec![WireGroup {
        rules: vec![Rules { matches: vec![m] }],
    }]
}

#[test]
fn without_policy_everything_passes() {
    assert_eq!(decision(&[], &[], &request()), NOT_ASKED);
    assert_eq!(
        decision(
            &[],
            &[],
            &Request {
                peer: None,
                ..request()
            }
        ),
        NOT_ASKED
    );
}

#[test]
fn groups_are_or_rules_are_and_matches_are_or() {
    let (hit, miss) = (to_port(80), to_port(81));
    let rule = |matches: &[&WireMatch]| Rules {
        matches: matches.iter().map(|m| (*m).clone()).collect(),
    };
    let group = |rules: &[&Rules]| WireGroup {
        rules: rules.iter().map(|r| (*r).clone()).collect(),
    };
    let (yes, no) = (rule(&[&hit]), rule(&[&miss]));
    for (groups, matches) in [
        // No group: never. A group without rules: always. A rule without matches: always.
        (vec![], false),
        (vec![group(&[])], true),
        (vec![group(&[&rule(&[])])], true),
        (vec![group(&[&rule(&[]), &no])], false),
        (vec![group(&[&yes])], true),
        (vec![group(&[&no])], false),
        (vec![group(&[&yes, &yes])], true),
        (vec![group(&[&yes, &no])], false),
        (vec![group(&[&no, &yes])], false),
        (vec![group(&[&no]), group(&[&yes])], true),
        (vec![group(&[&no]), group(&[&no])], false),
        (vec![group(&[&rule(&[&miss, &hit])])], true),
        (vec![group(&[&rule(&[&miss, &miss])])], false),
        // A match without attributes: never, alone or beside another.
        (vec![group(&[&rule(&[&WireMatch::default()])])], false),
        (vec![group(&[&rule(&[&WireMatch::default(), &hit])])], true),
        (
            vec![group(&[&rule(&[&WireMatch::default(), &miss])])],
            false,
        ),
    ] {
        assert_matches(&groups, &request(), matches);
    }
}

/// Every attribute: a match that says it with a value that the request has, with one that it has not, and with both.
fn attributes() -> Vec<(&'static str, [WireMatch; 3], [WireMatch; 3])> {
    macro_rules! attribute {
        ($yes:ident, $no:ident, $has:expr, $other:expr) => {{
            let values = [vec![$has], vec![$other], vec![$other, $has]];
            let yes = values.clone().map(|$yes| WireMatch {
                $yes,
                ..Default::default()
            });
            (
                stringify!($yes),
                yes,
                values.map(|$no| WireMatch {
                    $no,
                    ..Default::default()
                }),
            )
        }};
    }
    vec![
        attribute!(namespaces, not_namespaces, exact("bank"), exact("ban")),
        attribute!(namespaces, not_namespaces, presence(), exact("Bank")),
        attribute!(
            principals,
            not_principals,
            exact("cluster.local/ns/bank/sa/teller"),
            exact(CLIENT)
        ),
        attribute!(principals, not_principals, presence(), exact("*")),
        attribute!(
            source_ips,
            not_source_ips,
            range("10.0.0.1", 32),
            range("10.0.0.2", 32)
        ),
        attribute!(
            destination_ips,
            not_destination_ips,
            range("10.0.0.2", 32),
            range("10.0.0.1", 32)
        ),
        attribute!(destination_ports, not_destination_ports, 80, 8080),
        attribute!(
            service_accounts,
            not_service_accounts,
            account("bank", "teller"),
            account("shop", "teller")
        ),
        attribute!(
            service_accounts,
            not_service_accounts,
            account("bank", "teller"),
            account("bank", "tell")
        ),
    ]
}

#[test]
fn every_attribute_matches_by_any_of_its_values_and_its_negation_by_none() {
    for (name, positive, negative) in attributes() {
        for (m, matches) in positive.into_iter().zip([true, false, true]) {
            println!("{name}");
            assert_matches(&one(m), &request(), matches);
        }
        for (m, matches) in negative.into_iter().zip([false, true, false]) {
            println!("not {name}");
            assert_matches(&one(m), &request(), matches);
        }
    }
}

#[test]
fn all_attributes_of_a_match_must_match() {
    for (_, [hit, miss, _], [not_hit, not_miss, _]) in attributes() {
        let and = |m: &WireMatch, ports: &[u32], not_ports: &[u32]| {
            let mut m = m.clone();
            m.destination_ports.extend(ports);
            m.not_destination_ports.extend(not_ports);
            one(m)
        };
        if !hit.destination_ports.is_empty() || !not_hit.not_destination_ports.is_empty() {
            continue;
        }
        for (m, matches) in [
            (&hit, true),
            (&miss, false),
            (&not_hit, false),
            (&not_miss, true),
        ] {
            assert_matches(&and(m, &[80], &[]), &request(), matches);
            assert_matches(&and(m, &[81], &[]), &request(), false);
            assert_matches(&and(m, &[], &[81]), &request(), matches);
            assert_matches(&and(m, &[], &[80]), &request(), false);
            assert_matches(&and(m, &[80], &[80]), &request(), false);
        }
    }
}

#[test]
fn a_peer_without_identity_matches_no_value_of_it() {
    let nobody = Request {
        peer: None,
        ..request()
    };
    for (name, positive, negative) in attributes() {
        let of_identity = matches!(name, "namespaces" | "principals" | "service_accounts");
        if of_identity {
            positive
                .into_iter()
                .for_each(|m| assert_matches(&one(m), &nobody, false));
            negative
                .into_iter()
                .for_each(|m| assert_matches(&one(m), &nobody, true));
        }
    }
}

#[test]
fn strict_is_a_deny_of_those_without_identity() {
    let strict = [for_shop(
        "strict",
        Action::Deny,
        &[WireMatch {
            not_principals: vec![presence()],
            ..Default::default()
        }],
    )];
    assert_eq!(decision(&strict, &[], &request()), NOT_ASKED);
    let nobody = Request {
        peer: None,
        ..request()
    };
    assert_eq!(decision(&strict, &[], &nobody), denied("shop/strict"));
}

#[test]
fn strings_match_as_they_are_written() {
    let kinds = [
        (MatchType::Exact("bank".to_owned()), true),
        (MatchType::Exact("b.nk".to_owned()), false),
        (MatchType::Exact("BANK".to_owned()), false),
        (MatchType::Exact("bank ".to_owned()), false),
        (MatchType::Exact(String::new()), false),
        (MatchType::Prefix("ba".to_owned()), true),
        (MatchType::Prefix("an".to_owned()), false),
        (MatchType::Prefix("bank1".to_owned()), false),
        (MatchType::Prefix("ba*".to_owned()), false),
        (MatchType::Suffix("nk".to_owned()), true),
        (MatchType::Suffix("an".to_owned()), false),
        (MatchType::Suffix("*nk".to_owned()), false),
        (MatchType::Presence(Presence {}), true),
    ];
    for (kind, matches) in kinds {
        let namespaces = vec![WireString {
            match_type: Some(kind),
        }];
        let m = WireMatch {
            namespaces: namespaces.clone(),
            ..Default::default()
        };
        assert_matches(&one(m), &request(), matches);
        let m = WireMatch {
            not_namespaces: namespaces,
            ..Default::default()
        };
        assert_matches(&one(m), &request(), !matches);
    }
}

#[test]
fn ranges_match_addresses_of_their_family_in_either_writing() {
    for (range, source, matches) in [
        (range("10.0.0.9", 24), "10.0.0.1", true),
        (range("10.0.1.9", 24), "10.0.0.1", false),
        (range("0.0.0.0", 0), "10.0.0.1", true),
        (range("0.0.0.0", 0), "fd00::1", false),
        (range("::", 0), "fd00::1", true),
        (range("::", 0), "10.0.0.1", false),
        (range("fd00::", 64), "fd00::9", true),
        (range("fd00::", 64), "fd00:0:0:1::9", false),
        (range("10.0.0.1", 32), "::ffff:10.0.0.1", true),
        (range("::ffff:10.0.0.1", 128), "10.0.0.1", true),
        (range("::ffff:10.0.0.1", 104), "10.9.9.9", true),
        (range("::ffff:10.0.0.1", 104), "11.9.9.9", false),
    ] {
        let m = WireMatch {
            source_ips: vec![range],
            ..Default::default()
        };
        assert_matches(
            &one(m),
            &Request {
                source: source.parse().unwrap(),
                ..request()
            },
            matches,
        );
    }
}

#[test]
fn service_accounts_match_in_any_trust_domain_and_principals_in_theirs() {
    let other = Request {
        peer: Some(Identity::new("other", "bank", "teller")),
        ..request()
    };
    let accounts = vec![account("bank", "teller")];
    assert_matches(
        &one(WireMatch {
            service_accounts: accounts,
            ..Default::default()
        }),
        &other,
        true,
    );
    let principals = vec![exact("cluster.local/ns/bank/sa/teller")];
    assert_matches(
        &one(WireMatch {
            principals,
            ..Default::default()
        }),
        &other,
        false,
    );
}

#[test]
fn a_deny_wins_and_an_allow_must_match_if_there_is_any() {
    let (hit, miss) = ([to_port(80)], [to_port(81)]);
    let allow = |name, m: &[WireMatch]| for_shop(name, Action::Allow, m);
    let deny = |name, m: &[WireMatch]| for_shop(name, Action::Deny, m);
    for (policies, expected) in [
        (vec![allow("a", &hit)], allowed_by("shop/a")),
        (vec![allow("a", &miss)], not_allowed("shop/a")),
        (vec![deny("d", &hit)], denied("shop/d")),
        (vec![deny("d", &miss)], NOT_ASKED),
        (vec![allow("a", &hit), deny("d", &hit)], denied("shop/d")),
        (vec![deny("d", &hit), allow("a", &hit)], denied("shop/d")),
        (
            vec![allow("a", &hit), deny("d", &miss)],
            allowed_by("shop/a"),
        ),
        (
            vec![allow("a", &miss), deny("d", &miss)],
            not_allowed("shop/a"),
        ),
        (vec![allow("a", &miss), deny("d", &hit)], denied("shop/d")),
        (
            vec![allow("a", &miss), allow("b", &hit)],
            allowed_by("shop/b"),
        ),
        (
            vec![allow("a", &miss), allow("b", &miss)],
            not_allowed("shop/a"),
        ),
        (vec![deny("d", &miss), deny("e", &hit)], denied("shop/e")),
    ] {
        assert_eq!(
            decision(&policies, &[], &request()),
            expected,
            "{policies:?}"
        );
    }
}

#[test]
fn a_policy_is_for_the_mesh_its_namespace_or_those_that_list_it() {
    let deny = |namespace: &str, scope| Authorization {
        namespace: namespace.to_owned(),
        ..policy("p", scope, Action::Deny, &[to_port(80)])
    };
    for (policy, listed, applies) in [
        (deny("ambit-system", Scope::Global), false, true),
        (deny("bank", Scope::Global), false, true),
        (deny("shop", Scope::Namespace), false, true),
        (deny("bank", Scope::Namespace), false, false),
        (deny("shop", Scope::WorkloadSelector), false, false),
        (deny("shop", Scope::WorkloadSelector), true, true),
        (deny("bank", Scope::WorkloadSelector), true, true),
        (deny("shop", Scope::Namespace), true, true),
    ] {
        let name = format!("{}/p", policy.namespace);
        let listed = if listed { vec![&*name] } else { vec![] };
        let expected = if applies { denied(&name) } else { NOT_ASKED };
        assert_eq!(
            decision(&[policy], &listed, &request()),
            expected,
            "{name} {listed:?}"
        );
    }
}

#[test]
fn a_listed_policy_that_is_unknown_denies() {
    let unknown = Decision::Deny(Denial::Unknown("shop/gone".into()));
    assert_eq!(decision(&[], &["shop/gone"], &request()), unknown);
    let allow = for_shop("a", Action::Allow, &[to_port(80)]);
    assert_eq!(decision(&[allow], &["shop/gone"], &request()), unknown);
}

#[test]
fn a_policy_that_is_not_understood_denies_in_its_scope() {
    for (scope, listed, denies) in [
        (Scope::Global, false, true),
        (Scope::Namespace, false, true),
        (Scope::WorkloadSelector, false, false),
        (Scope::WorkloadSelector, true, true),
    ] {
        for action in [Action::Allow, Action::Deny] {
            let dry_run = true;
            let policy = Authorization {
                dry_run,
                ..policy("p", scope, action, &[to_port(81)])
            };
            let mut delta = authorizations([policy]);
            delta.resources[0].bytes.extend([0x7a, 0x01, 0x00]);
            let mut server = fixture::workload("server", &["10.0.0.2"]);
            server
                .authorization_policies
                .extend(listed.then(|| "shop/p".to_owned()));
            let mut store = fixture::store();
            store.apply(&fixture::addresses([
                proto::workload::address::Type::Workload(server),
            ]));
            store.apply(&delta);
            let generation = store.current();
            let server = generation.workload(&fixture::uid("server")).unwrap();
            let not_understood = Decision::Deny(Denial::NotUnderstood("shop/p".into()));
            let expected = if denies { not_understood } else { NOT_ASKED };
            let found = decide(&generation, server, &request(), Which::All).decision;
            assert_eq!(found, expected, "{scope:?} {listed} {action:?}");
        }
    }
}

#[test]
fn a_dry_run_is_told_and_not_enforced() {
    let (hit, miss) = ([to_port(80)], [to_port(81)]);
    let dry = |name, action, m: &[WireMatch]| Authorization {
        dry_run: true,
        ..for_shop(name, action, m)
    };
    let allow = for_shop("a", Action::Allow, &hit);
    for (policies, expected, told) in [
        (
            vec![dry("d", Action::Deny, &hit)],
            NOT_ASKED,
            vec!["shop/d"],
        ),
        (vec![dry("d", Action::Deny, &miss)], NOT_ASKED, vec![]),
        (vec![dry("d", Action::Allow, &hit)], NOT_ASKED, vec![]),
        // Alone it would be the first ALLOW policy, and shut out what it does not match …
        (
            vec![dry("d", Action::Allow, &miss)],
            NOT_ASKED,
            vec!["shop/d"],
        ),
        // … but not what another one allows.
        (
            vec![dry("d", Action::Allow, &miss), allow.clone()],
            allowed_by("shop/a"),
            vec![],
        ),
        (
            vec![
                dry("d", Action::Allow, &miss),
                dry("e", Action::Allow, &hit),
            ],
            NOT_ASKED,
            vec![],
        ),
        (
            vec![dry("d", Action::Deny, &hit), allow],
            allowed_by("shop/a"),
            vec!["shop/d"],
        ),
    ] {
        let verdict = verdict(&policies, &[], &request());
        let told: Vec<Name> = told.into_iter().map(Name::from).collect();
        assert_eq!(
            (verdict.decision, verdict.dry_run),
            (expected, told),
            "{policies:?}"
        );
    }
}

#[test]
fn a_dry_run_that_is_listed_beside_its_scope_is_told_once() {
    let dry = Authorization {
        dry_run: true,
        ..for_shop("d", Action::Deny, &[to_port(80)])
    };
    assert_eq!(
        verdict(&[dry], &["shop/d"], &request()).dry_run,
        [Name::from("shop/d")]
    );
}

#[test]
fn denials_name_their_policy_in_words() {
    let name = Name::from("shop/p");
    for (denial, words) in [
        (Denial::Denied(name), "denied by policy shop/p"),
        (
            Denial::NotAllowed(name),
            "no ALLOW policy matches, such as shop/p",
        ),
        (
            Denial::NotUnderstood(name),
            "policy shop/p could not be understood, so it denies",
        ),
        (
            Denial::Unknown(name),
            "the workload names policy shop/p, which is unknown, so it denies",
        ),
    ] {
        assert_eq!(
            (denial.policy(), denial.to_string()),
            (name, words.to_owned())
        );
    }
}

#[test]
fn only_the_policies_that_are_meant_are_decided() {
    let (hit, miss) = ([to_port(80)], [to_port(81)]);
    let made = |action, m: &[WireMatch]| policy("made_p", Scope::WorkloadSelector, action, m);
    let written = |action, m: &[WireMatch]| policy("written-p", Scope::WorkloadSelector, action, m);
    let (m, w) = ("shop/made_p", "shop/written-p");
    let unknown = |name: &str| Decision::Deny(Denial::Unknown(name.into()));
    // What is known, and what all, the generated and the written ones decide about a workload that lists both.
    for (policies, all, generated, written) in [
        (
            vec![made(Action::Deny, &hit), written(Action::Deny, &hit)],
            denied(m),
            denied(m),
            denied(w),
        ),
        (
            vec![made(Action::Deny, &miss), written(Action::Deny, &hit)],
            denied(w),
            NOT_ASKED,
            denied(w),
        ),
        (
            vec![made(Action::Deny, &hit), written(Action::Allow, &hit)],
            denied(m),
            denied(m),
            allowed_by(w),
        ),
        (
            vec![made(Action::Deny, &miss), written(Action::Allow, &miss)],
            not_allowed(w),
            NOT_ASKED,
            not_allowed(w),
        ),
        (
            vec![made(Action::Deny, &miss)],
            unknown(w),
            NOT_ASKED,
            unknown(w),
        ),
        (
            vec![written(Action::Deny, &miss)],
            unknown(m),
            unknown(m),
            NOT_ASKED,
        ),
    ] {
        let mut server = fixture::workload("server", &["10.0.0.2"]);
        server.authorization_policies = vec![m.to_owned(), w.to_owned()];
        let generation = generation(&[server], &[], &policies);
        let server = generation.workload(&fixture::uid("server")).unwrap();
        for (which, expected) in [
            (Which::All, all),
            (Which::Generated, generated),
            (Which::Written, written),
        ] {
            let found = decide(&generation, server, &request(), which).decision;
            assert_eq!(found, expected, "{which:?} {policies:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..Default::default() })]

    #[test]
    fn the_second_evaluator_agrees(policies in reference::policies(), asked in reference::requests()) {
        let server = proto::workload::Workload {
            namespace: asked.namespace.to_owned(),
            authorization_policies: asked.listed.clone(),
            ..fixture::workload("server", &["10.0.0.2"])
        };
        let generation = generation(&[server], &[], &policies);
        let request = Request {
            peer: asked.peer.map(|(td, ns, sa)| Identity::new(td, ns, sa)),
            source: asked.source,
            destination: asked.destination,
            port: asked.port,
        };
        let server = generation.workload(&fixture::uid("server")).unwrap();
        let made = |name: &str| name.contains("/made");
        let wanted = [
            (Which::All, reference::allowed(&policies, &asked, |_| true)),
            (Which::Generated, reference::allowed(&policies, &asked, made)),
            (Which::Written, reference::allowed(&policies, &asked, |name| !made(name))),
        ];
        for (which, wanted) in wanted {
            let decision = decide(&generation, server, &request, which).decision;
            prop_assert_eq!(matches!(decision, Decision::Allow(_)), wanted, "{:?}", which);
        }
    }
}
