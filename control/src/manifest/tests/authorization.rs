//! What AuthorizationPolicies may say.

use super::*;
use crate::manifest::authorization::{Action, Condition, PolicyTarget, TargetKind, Values};

fn source(fields: &str) -> String {
    policy(&format!(
        "{{rules: [{{from: [{{source: {{{fields}}}}}]}}]}}"
    ))
}

fn operation(fields: &str) -> String {
    policy(&format!(
        "{{rules: [{{to: [{{operation: {{{fields}}}}}]}}]}}"
    ))
}

fn when(fields: &str) -> String {
    policy(&format!("{{rules: [{{when: [{{{fields}}}]}}]}}"))
}

const SOURCE: &str = "spec.rules[0].from[0].source";
const OPERATION: &str = "spec.rules[0].to[0].operation";
const WHEN: &str = "spec.rules[0].when[0]";

/// Each is refused for exactly one reason, at that place, in such words.
fn refuses(cases: &[(String, &str, &str)]) {
    for (text, field, reason) in cases {
        let refused = refused(text);
        let [fault] = refused.faults.as_slice() else {
            panic!("{text}\n{:?}", refused.faults)
        };
        assert_eq!(fault.field, *field, "{text}: {fault}");
        assert!(fault.reason.contains(reason), "{text}: {fault}");
    }
}

#[test]
fn actions_and_the_shape_of_rules_have_to_be_valid() {
    let many = |n: usize, item: &str| vec![item; n].join(", ");
    refuses(&[
        (
            policy("{action: ALOW}"),
            "spec.action",
            "ALLOW, DENY, AUDIT, CUSTOM",
        ),
        (policy("{action: allow}"), "spec.action", "ALLOW"),
        (policy("{colour: red}"), "spec.colour", "no such field"),
        (policy("[]"), "spec", "expected fields"),
        (policy("{rules: {}}"), "spec.rules", "expected a list"),
        (
            policy("{rules: [null]}"),
            "spec.rules[0]",
            "expected fields",
        ),
        (
            policy(&format!("{{rules: [{}]}}", many(513, "{}"))),
            "spec.rules",
            "512",
        ),
        (
            policy("{rules: [{form: []}]}"),
            "spec.rules[0].form",
            "no such field",
        ),
        (
            policy("{rules: [{from: [{}]}]}"),
            "spec.rules[0].from[0].source",
            "required",
        ),
        (
            policy("{rules: [{to: [{operation: null}]}]}"),
            "spec.rules[0].to[0].operation",
            "required",
        ),
    ]);
}

#[test]
fn a_policy_has_one_valid_target() {
    let many = |n: usize, item: &str| vec![item; n].join(", ");
    refuses(&[
        (
            policy("{selector: {matchLabels: {app: 1}}}"),
            "spec.selector.matchLabels.app",
            "quotes",
        ),
        (
            policy("{selector: {matchLabels: {app: 'a*'}}}"),
            "spec.selector.matchLabels.app",
            "wildcards",
        ),
        (
            policy("{selector: {app: a}}"),
            "spec.selector.app",
            "no such field",
        ),
        (
            policy("{selector: {matchLabels: {a: b}}, targetRefs: [{kind: Service, name: s}]}"),
            "spec",
            "at most one of",
        ),
        (
            policy("{targetRefs: [{kind: Pod, name: s}]}"),
            "spec.targetRefs[0].kind",
            "cannot be attached",
        ),
        (
            policy("{targetRefs: [{kind: Service}]}"),
            "spec.targetRefs[0].name",
            "required",
        ),
        (
            policy("{targetRefs: [{kind: Service, name: s, namespace: bank}]}"),
            "spec.targetRefs[0].namespace",
            "own namespace",
        ),
        (
            policy(&format!(
                "{{targetRefs: [{}]}}",
                many(17, "{kind: Service, name: s}")
            )),
            "spec.targetRefs",
            "16",
        ),
        (
            policy("{provider: {name: x}}"),
            "spec.provider",
            "only with action CUSTOM",
        ),
        (policy("{action: CUSTOM}"), "spec.provider", "needs one"),
    ]);
}

#[test]
fn sources_have_to_be_valid() {
    let many = |n: usize, item: &str| vec![item; n].join(", ");
    refuses(&[
        (
            source("principals: x"),
            &format!("{SOURCE}.principals"),
            "expected a list",
        ),
        (
            source("principals: ['']"),
            &format!("{SOURCE}.principals[0]"),
            "empty",
        ),
        (
            source("principals: [1]"),
            &format!("{SOURCE}.principals[0]"),
            "quotes",
        ),
        (
            source("principal: [x]"),
            &format!("{SOURCE}.principal"),
            "no such field",
        ),
        (
            source("ipBlocks: [10.0.0]"),
            &format!("{SOURCE}.ipBlocks[0]"),
            "neither an IP address",
        ),
        (
            source("ipBlocks: [10.0.0.0/33]"),
            &format!("{SOURCE}.ipBlocks[0]"),
            "neither an IP address",
        ),
        (
            source("ipBlocks: [10.0.0.0/08]"),
            &format!("{SOURCE}.ipBlocks[0]"),
            "neither an IP address",
        ),
        (
            source("ipBlocks: [10.0.0.0/+8]"),
            &format!("{SOURCE}.ipBlocks[0]"),
            "neither an IP address",
        ),
        (
            source("ipBlocks: ['10.0.0.0/']"),
            &format!("{SOURCE}.ipBlocks[0]"),
            "neither an IP address",
        ),
        (
            source("notIpBlocks: ['fe80::1%eth0']"),
            &format!("{SOURCE}.notIpBlocks[0]"),
            "neither an IP address",
        ),
        (
            source("serviceAccounts: [a/b/c]"),
            &format!("{SOURCE}.serviceAccounts[0]"),
            "<namespace>/<name>",
        ),
        (
            source("serviceAccounts: [/b]"),
            &format!("{SOURCE}.serviceAccounts[0]"),
            "<namespace>/<name>",
        ),
        (
            source("serviceAccounts: ['a/*']"),
            &format!("{SOURCE}.serviceAccounts[0]"),
            "<namespace>/<name>",
        ),
        (
            source("serviceAccounts: [a], namespaces: [b]"),
            &format!("{SOURCE}.serviceAccounts"),
            "not together",
        ),
        (
            source("notServiceAccounts: [a], principals: [b]"),
            &format!("{SOURCE}.serviceAccounts"),
            "not together",
        ),
        (
            source(&format!("serviceAccounts: [{}]", many(17, "a"))),
            &format!("{SOURCE}.serviceAccounts"),
            "16",
        ),
        (
            source(&format!("serviceAccounts: [{}]", "a".repeat(321))),
            &format!("{SOURCE}.serviceAccounts[0]"),
            "320",
        ),
    ]);
}

#[test]
fn operations_and_conditions_have_to_be_valid() {
    refuses(&[
        (
            operation("ports: [http]"),
            &format!("{OPERATION}.ports[0]"),
            "not a port number",
        ),
        (
            operation("ports: ['70000']"),
            &format!("{OPERATION}.ports[0]"),
            "not a port number",
        ),
        (
            operation("ports: ['+80']"),
            &format!("{OPERATION}.ports[0]"),
            "not a port number",
        ),
        (
            operation("notPorts: [80]"),
            &format!("{OPERATION}.notPorts[0]"),
            "quotes",
        ),
        (
            operation("methods: [1]"),
            &format!("{OPERATION}.methods[0]"),
            "quotes",
        ),
        (
            operation("verbs: [GET]"),
            &format!("{OPERATION}.verbs"),
            "no such field",
        ),
        (when("values: [a]"), &format!("{WHEN}.key"), "required"),
        (when("key: source.ip"), WHEN, "at least one of"),
        (when("key: source.ip, values: []"), WHEN, "at least one of"),
        (
            when("key: source.ips, values: [a]"),
            &format!("{WHEN}.key"),
            "not a condition",
        ),
        (
            when("key: 'request.headers[]', values: [a]"),
            &format!("{WHEN}.key"),
            "not a condition",
        ),
        (
            when("key: source.ip, values: [a]"),
            &format!("{WHEN}.values[0]"),
            "neither an IP address",
        ),
        (
            when("key: destination.port, notValues: [a]"),
            &format!("{WHEN}.notValues[0]"),
            "not a port number",
        ),
    ]);
}

#[test]
fn metadata_and_version_have_to_be_valid() {
    refuses(&[
        (
            policy("{}").replace("name: p", "name: P"),
            "metadata.name",
            "DNS subdomain",
        ),
        (
            policy("{}").replace("name: p", "name: a/b"),
            "metadata.name",
            "DNS subdomain",
        ),
        (
            policy("{}").replace("name: p, ", ""),
            "metadata.name",
            "required",
        ),
        (
            policy("{}").replace("namespace: shop", "namespace: a.b"),
            "metadata.namespace",
            "DNS label",
        ),
        (
            policy("{}").replace("name: p", "name: p, label: x"),
            "metadata.label",
            "no such field",
        ),
        (
            policy("{}").replace("name: p", "name: p, creationTimestamp: yesterday"),
            "metadata.creationTimestamp",
            "RFC 3339",
        ),
        (
            policy("{}").replace("io/v1", "io/v2"),
            "apiVersion",
            "use security.istio.io/v1",
        ),
        (
            policy("{}").replace("security.istio.io/v1", "v1"),
            "apiVersion",
            "use security.istio.io/v1",
        ),
        (policy("{}, rules: []"), "rules", "no such field"),
    ]);
}

#[test]
fn all_faults_of_an_object_are_found_at_once() {
    let text =
        policy("{action: NO, rules: [{from: [{source: {ipBlocks: [x, 10.0.0.1, y]}}], whom: 1}]}");
    let fields: Vec<_> = refused(&text)
        .faults
        .into_iter()
        .map(|fault| fault.field)
        .collect();
    let blocks = |i| format!("{SOURCE}.ipBlocks[{i}]");
    assert_eq!(
        fields,
        [
            "spec.action".to_owned(),
            "spec.rules[0].whom".to_owned(),
            blocks(0),
            blocks(2)
        ]
    );
}

#[test]
fn a_refused_policy_still_tells_whom_it_was_for() {
    let selects = refused(&policy("{selector: {matchLabels: {app: web}}, action: NO}"));
    assert_eq!(selects.selector.unwrap().labels["app"], "web");
    assert_eq!(selects.name.as_deref(), Some("p"));
    assert_eq!(selects.namespace, "shop");
    let unreadable = refused(&policy("{selector: {matchLabels: {app: 1}}}"));
    assert_eq!(unreadable.selector, None);
    let nameless = refused(&policy("{}").replace("name: p", "name: [p]"));
    assert_eq!((nameless.name, nameless.namespace.as_str()), (None, "shop"));
}

fn authorization(text: &str) -> AuthorizationPolicy {
    let Object::AuthorizationPolicy(policy) = good(text) else {
        panic!("{text}")
    };
    policy
}

#[test]
fn valid_authorization_policies_are_read() {
    let policy_ = authorization(&policy(
        "{action: DENY, rules: [{}, {from: [{source: {}}]}]}",
    ));
    assert_eq!(
        (
            policy_.action,
            policy_.rules.len(),
            policy_.rules[1].from.len()
        ),
        (Action::Deny, 2, 1)
    );
    assert_eq!(policy_.target, PolicyTarget::Everything);
    let accounts = authorization(&source("serviceAccounts: [cart, bank/teller]"));
    let any = &accounts.rules[0].from[0].service_accounts.any;
    assert_eq!(
        any,
        &[
            ("shop".into(), "cart".into()),
            ("bank".into(), "teller".into())
        ]
    );
    let beyond = authorization(&source(
        "requestPrincipals: [a], notRemoteIpBlocks: [b], trustDomains: []",
    ));
    assert_eq!(
        beyond.rules[0].from[0].beyond,
        ["requestPrincipals", "notRemoteIpBlocks"]
    );
    let stars = authorization(&source("namespaces: [shop, 's*p'], notNamespaces: ['*o*']"));
    let stars = &stars.rules[0].from[0];
    assert_eq!(stars.namespaces, Values::default());
    assert_eq!(
        stars.beyond,
        [
            "namespaces with a * within",
            "notNamespaces with a * within"
        ]
    );
    for key in [
        "request.headers[x]",
        "request.auth.claims[a][b]",
        "remote.ip",
        "connection.sni",
        "source.serviceAccount",
        "source.namespace",
    ] {
        let policy = authorization(&when(&format!("key: '{key}', values: ['a*b']")));
        let values = Values {
            any: vec!["a*b".to_owned()],
            none: Vec::new(),
        };
        assert_eq!(
            policy.rules[0].when,
            [Condition::Beyond(key.to_owned(), values)]
        );
    }
    let target = authorization(&policy(
        "{targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: g}}",
    ));
    assert!(
        matches!(&target.target, PolicyTarget::Objects(all) if all[0].kind == TargetKind::Gateway)
    );
    let everyone = authorization(&policy("{selector: {}}"));
    assert_eq!(
        everyone.target,
        PolicyTarget::Workloads(Selector::default())
    );
    assert_eq!(authorization(&policy("null")).rules, []);
    let beta = policy("{}").replace("io/v1", "io/v1beta1");
    assert_eq!(authorization(&beta).meta.name, "p");
}

#[test]
fn what_only_a_waypoint_can_judge_has_to_be_valid_too() {
    refuses(&[
        (
            operation("paths: [a]"),
            &format!("{OPERATION}.paths[0]"),
            "not a pattern of paths",
        ),
        (
            operation("notPaths: ['/a/{b}']"),
            &format!("{OPERATION}.notPaths[0]"),
            "not a pattern of paths",
        ),
        (
            operation("methods: ['']"),
            &format!("{OPERATION}.methods[0]"),
            "empty",
        ),
        (
            when("key: source.serviceAccount, values: [a/b/c]"),
            WHEN,
            "not a value of source.serviceAccount",
        ),
    ]);
}

#[test]
fn what_only_a_waypoint_can_judge_is_kept_as_written() {
    let policy = authorization(&operation(
        "hosts: [a.b], notHosts: ['*.c'], methods: [GET], paths: ['/a*', '/b/{*}/{**}'], notPaths: ['*'], ports: ['80']",
    ));
    let words = |all: &[&str]| all.iter().map(|&it| it.to_owned()).collect::<Vec<_>>();
    let operation = &policy.rules[0].to[0];
    assert_eq!(operation.hosts.any, words(&["a.b"]));
    assert_eq!(operation.hosts.none, words(&["*.c"]));
    assert_eq!(operation.methods.any, words(&["GET"]));
    assert_eq!(operation.paths.any, words(&["/a*", "/b/{*}/{**}"]));
    assert_eq!(operation.paths.none, words(&["*"]));
    let beyond = ["hosts", "notHosts", "methods", "paths", "notPaths"];
    assert_eq!(operation.beyond, beyond);
}

#[test]
fn a_refused_policy_still_says_what_it_is_attached_to() {
    let targets = |target: &str| {
        let found = refused(&policy(&format!("{{action: NO, {target}}}")));
        let names = found.targets.into_iter().map(|target| target.name);
        names.collect::<Vec<_>>()
    };
    assert_eq!(targets("targetRefs: [{kind: Service, name: s}]"), ["s"]);
    assert_eq!(targets("selector: {matchLabels: {a: b}}"), [""; 0]);
    // Half of them is not what is meant.
    let half = "targetRefs: [{kind: Service, name: s}, {kind: Pod, name: p}]";
    assert_eq!(targets(half), [""; 0]);
}
