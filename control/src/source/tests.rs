//! Facts about files together: what a fault in one costs, and what stays in force when it comes later.

use serde_json::json;

use super::*;
use crate::{
    compile::{Settings, compile, json},
    manifest::{Kind, RouteKind},
    world::UNREADABLE,
};

mod lost;
mod misspelt;
mod start;
mod torn;

fn files(texts: &[(&str, &str)]) -> BTreeMap<PathBuf, String> {
    texts
        .iter()
        .map(|(name, text)| (PathBuf::from(name), (*text).to_owned()))
        .collect()
}

fn one(text: &str, previous: Option<&Loaded>) -> Loaded {
    load(&files(&[("a.yaml", text)]), previous)
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: {name}, namespace: shop}}, spec: {spec}}}\n"
    )
}

fn reference(name: &str) -> ObjectRef {
    ObjectRef::new(Kind::AuthorizationPolicy, "shop", name)
}

const NAMESPACE: &str = "---\n{apiVersion: v1, kind: Namespace, metadata: {name: shop}}\n";
const DENY_BANK: &str = "{action: DENY, rules: [{from: [{source: {namespaces: [bank]}}]}]}";
/// What is not even YAML.
const TORN: &str = "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: torn\n  namespace: shop\nspec: {rules: [\n";

#[test]
fn a_problem_names_file_document_object_field_and_reason() {
    let loaded = one(&(NAMESPACE.to_owned() + &policy("p", "{action: NO}")), None);
    let [problem] = loaded.problems.as_slice() else {
        panic!("{:?}", loaded.problems)
    };
    assert_eq!(
        problem.to_string(),
        r#"a.yaml, document 2, AuthorizationPolicy/shop/p, spec.action: "NO" is none of ALLOW, DENY, AUDIT, CUSTOM"#
    );
    assert!(
        loaded.world.namespaces.contains_key("shop"),
        "the rest is in force"
    );
}

#[test]
fn two_of_one_name_are_the_same_when_they_are_loaded_again() {
    let route = |field: &str| {
        format!(
            "---\n{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: r, namespace: shop}}, \
             spec: {{parentRefs: [{{group: '', kind: Service, name: web}}], rules: [{{matches: [{{path: {{{field}: /a}}}}]}}]}}}}\n"
        )
    };
    let wish = |host: &str| {
        format!(
            "---\n{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: d, namespace: shop}}, \
             spec: {{host: {host}, trafficPolicy: {{tls: {{mode: SIMPLE}}}}}}}}\n"
        )
    };
    let guard = |kind: &str| {
        format!(
            "---\n{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: r, namespace: shop}}, \
             spec: {{parentRefs: [{{group: '', kind: Service, name: web}}], rules: [{{filters: [{{type: {kind}}}]}}]}}}}\n"
        )
    };
    let nameless = guard("Unknown").replace("name: r, namespace: shop", "");
    for all in [
        [route("value"), route("ralue"), String::new()],
        [wish("web"), wish("cart"), String::new()],
        [route("value"), guard("One"), guard("Two")],
        [guard("One"), guard("Two"), guard("Two")],
        [route("value"), nameless, String::new()],
    ] {
        let text = NAMESPACE.to_owned() + &all.concat();
        let first = one(&text, None);
        let again = one(&text, Some(&first));
        assert!(!first.problems.is_empty());
        assert_eq!(again.world.refused, first.world.refused);
        assert_eq!(
            compile(&again.world, &Settings::default()),
            compile(&first.world, &Settings::default())
        );
    }
}

#[test]
fn the_last_good_version_stays_while_the_newest_is_refused() {
    let first = one(&policy("p", DENY_BANK), None);
    let second = one(&policy("p", "{action: NO}"), Some(&first));
    assert_eq!(
        second.world.authorization_policies,
        first.world.authorization_policies
    );
    assert_eq!((second.problems.len(), second.world.denials.len()), (1, 0));
    let third = one(&policy("p", "{action: NEITHER}"), Some(&second));
    assert_eq!(
        third.world.authorization_policies, first.world.authorization_policies,
        "and for as long as it takes"
    );
    let fourth = one(&policy("p", "{}"), Some(&third));
    assert_ne!(
        fourth.world.authorization_policies,
        first.world.authorization_policies
    );
    assert!(fourth.problems.is_empty() && fourth.world.faults.is_empty());
    let gone = one(NAMESPACE, Some(&second));
    assert!(
        gone.world.authorization_policies.is_empty(),
        "what is taken out is gone"
    );
}

#[test]
fn what_is_said_of_a_refused_version_names_its_generation() {
    let policy = |generation: &str, spec: &str| {
        let numbered = format!("namespace: shop, generation: {generation}");
        policy("p", spec).replace("namespace: shop", &numbered)
    };
    let said = |loaded: &Loaded| {
        let compiled = compile(&loaded.world, &Settings::default());
        let status = json::status(&compiled.statuses[&reference("p")]);
        let condition = &status["conditions"][0];
        (
            condition["reason"].clone(),
            condition["observedGeneration"].clone(),
        )
    };
    let first = one(&policy("3", DENY_BANK), None);
    assert_eq!(said(&first), (json!("Accepted"), json!(3)));
    for previous in [None, Some(&first)] {
        let second = one(&policy("4", "{action: NO}"), previous);
        assert_eq!(said(&second), (json!("Invalid"), json!(4)));
        let unknown = one(&policy("x", DENY_BANK), Some(&second));
        assert_eq!(said(&unknown), (json!("Invalid"), json!(null)));
    }
    let twice = one(&(policy("4", DENY_BANK) + &policy("5", "{}")), Some(&first));
    assert_eq!(said(&twice), (json!("Invalid"), json!(5)));
    // A file that is kept as it was has no newer version of its objects.
    let second = one(&policy("4", "{action: NO}"), Some(&first));
    assert_eq!(said(&one("", Some(&second))), said(&second));
}

#[test]
fn what_a_refused_route_says_at_its_parents_is_about_the_version_in_force() {
    let route = |generation: u8, rules: &str| {
        format!(
            "---\n{{apiVersion: v1, kind: Service, metadata: {{name: web, namespace: shop}}, spec: {{clusterIP: 10.0.0.1, ports: [{{port: 80}}]}}}}\n\
             ---\n{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: r, namespace: shop, generation: {generation}}}, \
             spec: {{parentRefs: [{{group: '', kind: Service, name: web}}], rules: {rules}}}}}\n"
        )
    };
    let first = one(&route(1, "[]"), None);
    assert_eq!(first.problems, []);
    let second = one(&route(2, "7"), Some(&first));
    let compiled = compile(&second.world, &Settings::default());
    let reference = ObjectRef::new(Kind::Route(RouteKind::Http), "shop", "r");
    let status = json::status(&compiled.statuses[&reference]);
    assert_eq!(status["conditions"][0]["observedGeneration"], 2, "{status}");
    let parent = &status["parents"][0]["conditions"][0];
    assert_eq!(parent["observedGeneration"], 1, "{status}");
}

#[test]
fn an_emptied_file_keeps_its_objects_until_it_is_removed() {
    let first = one(&(NAMESPACE.to_owned() + &policy("p", DENY_BANK)), None);
    for text in [
        "",
        " \n\t\n",
        "# all gone\r\n",
        "---\n---\n",
        "%YAML 1.2\n--- # nothing\n...\n",
    ] {
        let emptied = one(text, Some(&first));
        assert_eq!(emptied.world, first.world, "{text:?}");
        let [problem] = emptied.problems.as_slice() else {
            panic!("{:?}", emptied.problems)
        };
        assert_eq!(
            problem.to_string(),
            "a.yaml: the file is empty; remove the file to remove its objects"
        );
        let still = one(text, Some(&emptied));
        assert_eq!(
            (still.world, still.problems.len()),
            (first.world.clone(), 1)
        );
        let removed = load(&files(&[]), Some(&emptied));
        assert_eq!(removed.world, World::default());
    }
    assert!(one("", None).problems.is_empty(), "one that held nothing");
    for (now_empty, now_full) in [("a.yaml", "b.yaml"), ("b.yaml", "a.yaml")] {
        let before = load(&files(&[(now_empty, &policy("p", DENY_BANK))]), None);
        let moved = files(&[(now_empty, ""), (now_full, &policy("p", "{}"))]);
        let moved = load(&moved, Some(&before));
        assert!(moved.problems.is_empty(), "{:?}", moved.problems);
        assert_ne!(
            moved.world, before.world,
            "the object of the other file counts"
        );
    }
}

#[test]
fn a_policy_that_was_never_good_denies() {
    for (spec, selects) in [
        ("{action: NO}", false),
        ("{action: NO, selector: {matchLabels: {a: b}}}", true),
    ] {
        let loaded = one(&policy("p", spec), None);
        assert_eq!(
            loaded.world.denials[&reference("p")].selector.is_some(),
            selects,
            "{spec}"
        );
        let again = one(&policy("p", spec), Some(&loaded));
        assert_eq!(again.world.denials, loaded.world.denials);
        assert!(
            one(&policy("p", "{}"), Some(&again))
                .world
                .denials
                .is_empty()
        );
    }
}

#[test]
fn a_denial_is_compiled_for_its_scope_and_status_tells() {
    let cases = [
        (
            "shop",
            "{action: NO}",
            "NAMESPACE",
            "AuthorizationPolicy",
            "p",
        ),
        ("root", "{action: NO}", "GLOBAL", "AuthorizationPolicy", "p"),
        (
            "root",
            "{action: NO, selector: {matchLabels: {a: b}}}",
            "WORKLOAD_SELECTOR",
            "AuthorizationPolicy",
            "p",
        ),
        (
            "shop",
            "{mtls: 1}",
            "NAMESPACE",
            "PeerAuthentication",
            "refused_peer_authentication_p",
        ),
    ];
    let pod = "---\n{apiVersion: v1, kind: Pod, metadata: {name: w, namespace: bank, labels: {a: b}}, status: {podIP: 10.0.0.1}}\n";
    for (namespace, spec, scope, kind, name) in cases {
        let text = policy("p", spec)
            .replace("namespace: shop", &format!("namespace: {namespace}"))
            .replace("AuthorizationPolicy", kind);
        let loaded = one(&(text + pod), None);
        let settings = Settings {
            root_namespace: "root".to_owned(),
            ..Settings::default()
        };
        let compiled = compile(&loaded.world, &settings);
        let name = format!("{namespace}/{name}");
        let denial = &compiled.authorizations[&name];
        assert_eq!(denial.scope().as_str_name(), scope, "{spec}");
        assert_eq!(denial.action(), proto::security::Action::Deny);
        assert_eq!(
            denial.groups,
            [proto::security::Group::default()],
            "a group without rules is everything"
        );
        let status = compiled
            .statuses
            .iter()
            .find(|(object, _)| object.name == "p")
            .unwrap()
            .1;
        assert_eq!(
            (status.conditions[0].holds, status.conditions[0].reason),
            (false, "Invalid")
        );
        let Some(proto::workload::address::Type::Workload(pod)) =
            &compiled.addresses["Kubernetes//Pod/bank/w"].r#type
        else {
            panic!()
        };
        let listed = if scope == "WORKLOAD_SELECTOR" {
            vec![name]
        } else {
            vec![]
        };
        assert_eq!(pod.authorization_policies, listed, "{spec}");
    }
}

#[test]
fn a_document_that_is_not_yaml_costs_no_other() {
    let good = policy("p", DENY_BANK);
    let loaded = one(&(NAMESPACE.to_owned() + TORN + &good), None);
    assert!(loaded.world.namespaces.contains_key("shop"));
    assert!(
        loaded
            .world
            .authorization_policies
            .contains_key(&("shop".to_owned(), "p".to_owned()))
    );
    assert_eq!(loaded.problems[0].document, Some(2));
    assert_eq!(
        loaded.world.denials.keys().collect::<Vec<_>>(),
        [&reference("torn")],
        "it was a policy"
    );
}

#[test]
fn a_broken_document_whose_name_is_taken_is_another_one() {
    let denied = |loaded: &Loaded| loaded.world.denials.keys().cloned().collect::<Vec<_>>();
    let good = policy("torn", DENY_BANK);
    let made_up = reference(&format!("{UNREADABLE}a_2"));
    let beside = one(&(good.clone() + TORN), None);
    assert_eq!(denied(&beside), [made_up]);
    assert_eq!(beside.world.authorization_policies.len(), 1);
    let again = one(&(good.clone() + TORN), Some(&beside));
    assert_eq!(again.world, beside.world);
    // Whichever file has it, and whether or not the other one is good.
    let faulty = policy("torn", "{selector: {matchLabels: {a: b}}, no: such}");
    for (other, all) in [(&good, 1), (&faulty, 2)] {
        for [torn, whole] in [["a.yaml", "b.yaml"], ["b.yaml", "a.yaml"]] {
            let both = files(&[(torn, TORN), (whole, other)]);
            let beside = load(&both, None);
            let stem = torn.trim_end_matches(".yaml");
            let made_up = reference(&format!("{UNREADABLE}{stem}_1"));
            assert_eq!(denied(&beside).len(), all, "{torn} {other}");
            assert!(denied(&beside).contains(&made_up), "{torn} {other}");
            assert_eq!(beside.problems.len(), all, "{:?}", beside.problems);
            assert_eq!(load(&both, Some(&beside)).world, beside.world);
        }
    }
    // What has moved is not there twice.
    let moved = files(&[("a.yaml", &TORN.replace("torn", "new")), ("b.yaml", &good)]);
    let moved = load(&moved, Some(&one(&good, None)));
    assert_eq!(
        (moved.problems.len(), denied(&moved)),
        (1, vec![reference("new")])
    );
    // A line of `---` is forgotten.
    let second = TORN.replace("torn", "second").replace("---\n", "");
    let joined = TORN.replace("spec: {rules: [\n", "spec: {}\n") + &second;
    let [first, second] = ["torn", "second"].map(reference);
    assert_eq!(denied(&one(&joined, None)), [second, first]);
    let before = one(&(good + &policy("second", DENY_BANK)), None);
    let kept = one(&joined, Some(&before));
    assert_eq!(kept.world, before.world, "the last good versions");
}

#[test]
fn what_a_torn_document_held_stays() {
    let before = one(&(policy("torn", DENY_BANK) + NAMESPACE), None);
    let after = one(&(NAMESPACE.to_owned() + TORN), Some(&before));
    assert_eq!(after.world, before.world);
    assert_eq!(after.problems.len(), 1);
    // Not even its name is left, but the only policy that is missing is it.
    let nameless = one(
        &(NAMESPACE.to_owned() + &TORN.replace("name: torn", "nam")),
        Some(&before),
    );
    assert_eq!(nameless.world, before.world);
    // A policy that is new and torn denies, although another one of the file is missing.
    let other = one(&TORN.replace("torn", "new"), Some(&before));
    assert!(
        other.world.denials.contains_key(&reference("new")),
        "{:?}",
        other.world.denials
    );
}

#[test]
fn a_policy_without_a_name_or_with_a_slip_in_its_kind_is_not_lost() {
    let slips = [
        policy("p", "{}").replace("name: p, ", ""),
        policy("p", "{}").replace("kind: AuthorizationPolicy", "kind: AuthorizationPolice"),
        policy("p", "{}").replace("security.istio.io/v1", "v1"),
        policy("p", "{}").replace("apiVersion: security.istio.io/v1, ", ""),
    ];
    for slip in slips {
        let loaded = one(&slip, None);
        assert_eq!(loaded.problems.len(), 1, "{slip}");
        let before = one(&policy("p", DENY_BANK), None);
        let after = one(&slip, Some(&before));
        assert_eq!(
            after.world.authorization_policies, before.world.authorization_policies,
            "{slip}"
        );
        assert!(after.world.denials.is_empty(), "{slip}");
    }
    let nameless = one(&policy("p", "{}").replace("name: p, ", ""), None);
    assert_eq!(nameless.world.denials.len(), 1);
}

/// Nobody's status would say so.
#[test]
fn a_parent_of_a_kind_that_nobody_serves_is_worth_a_note() {
    let route = |parent: &str| {
        format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: r, namespace: shop}}, \
             spec: {{parentRefs: [{{name: web, {parent}}}]}}}}"
        )
    };
    for (parent, strange) in [
        ("group: '', kind: Servce", Some("Servce/web of group \"\"")),
        (
            "kind: Servce",
            Some("Servce/web of group \"gateway.networking.k8s.io\""),
        ),
        (
            "group: core, kind: Service",
            Some("Service/web of group \"core\""),
        ),
        ("group: ''", Some("Gateway/web of group \"\"")),
        ("group: '', kind: Service", None),
        ("kind: Service", None),
        ("kind: Gateway", None),
        ("", None),
    ] {
        let check = check::check_files(&files(&[("a.yaml", &route(parent))]), &Settings::default());
        assert_eq!((check.problems, check.refusal), (vec![], None), "{parent}");
        let of_group: Vec<_> = check
            .notes
            .iter()
            .filter(|it| it.contains(" of group "))
            .collect();
        assert_eq!(
            of_group.len(),
            usize::from(strange.is_some()),
            "{of_group:?}"
        );
        for words in strange
            .into_iter()
            .chain(strange.map(|_| "HTTPRoute/shop/r"))
        {
            assert!(of_group[0].contains(words), "{of_group:?}");
        }
    }
}

#[test]
fn two_definitions_of_one_object_are_a_problem() {
    let same = load(
        &files(&[
            ("a.yaml", &policy("p", "{}")),
            ("b.yaml", &policy("p", "{}")),
        ]),
        None,
    );
    assert_eq!((same.problems.len(), same.world.denials.len()), (1, 0));
    assert_eq!(same.problems[0].file, PathBuf::from("b.yaml"));
    let different = files(&[
        ("a.yaml", &policy("p", "{}")),
        ("b.yaml", &policy("p", DENY_BANK)),
    ]);
    let unknown = load(&different, None);
    assert_eq!(
        unknown.world.denials.len(),
        1,
        "nobody can say which is meant"
    );
    assert!(unknown.world.authorization_policies.is_empty());
    let before = load(&files(&[("b.yaml", &policy("p", DENY_BANK))]), None);
    let kept = load(&different, Some(&before));
    assert_eq!(
        kept.world.authorization_policies,
        before.world.authorization_policies
    );
}

#[test]
fn a_file_that_cannot_be_read_as_a_whole_keeps_what_it_held() {
    let before = one(&policy("p", DENY_BANK), None);
    for text in [
        "\u{fffd}".to_owned(),
        "#".repeat(LIMITS.file + 1),
        "---\na: b\n".repeat(LIMITS.documents + 1),
        unread("not a regular file"),
        policy("p", "{}").replace('\n', "\r"),
        format!("# more{}", policy("p", "{}")).replace('\n', "\r"),
        policy("p", "{}") + "\r",
    ] {
        let after = one(&text, Some(&before));
        assert_eq!(after.world, before.world);
        let first = check::refusal(&one(&text, None), false, &Settings::default());
        assert!(first.is_some(), "{text}");
        assert_eq!(
            (after.problems.len(), after.problems[0].document),
            (1, None)
        );
    }
}

#[test]
fn lists_are_unpacked_and_unused_kinds_listed_once() {
    let text = "apiVersion: v1\nkind: List\nitems:\n\
        - {apiVersion: v1, kind: Namespace, metadata: {name: a}}\n\
        - {apiVersion: v1, kind: Namespace, metadata: {name: B}}\n\
        - {apiVersion: apps/v1, kind: Deployment, metadata: {name: a}}\n\
        - {apiVersion: apps/v1, kind: Deployment, metadata: {name: b}}\n";
    let loaded = one(text, None);
    assert_eq!(loaded.world.namespaces.len(), 1);
    assert_eq!(
        loaded.unused.iter().collect::<Vec<_>>(),
        ["apps/v1/Deployment"]
    );
    assert_eq!(loaded.problems[0].field, "items[1].metadata.name");
}

const STORED: &str =
    "workloads:\n- {uid: u, name: w, namespace: n, workloadIps: [10.0.0.1], protocol: TCP}\n";

#[test]
fn a_stored_workload_file_is_a_source_too() {
    let loaded = load(
        &files(&[("a.yaml", NAMESPACE), ("stored.yaml", STORED)]),
        None,
    );
    assert_eq!(loaded.problems, []);
    let compiled = compile(&loaded.world, &Settings::default());
    assert!(compiled.addresses.contains_key("u"));
    let broken = load(
        &files(&[("stored.yaml", &STORED.replace("TCP", "QUIC"))]),
        Some(&loaded),
    );
    assert_eq!(broken.problems[0].field, "workloads[0].protocol");
    assert_eq!(broken.world.stored, loaded.world.stored);
    assert_eq!(
        load(&files(&[("a.yaml", NAMESPACE)]), Some(&loaded))
            .world
            .stored,
        Local::default()
    );
    let flow = load(
        &files(&[("a.json", r#"{"workloads": [], "policies": []}"#)]),
        None,
    );
    assert_eq!((flow.problems, flow.unused.len()), (vec![], 0));
}

#[test]
fn a_stored_file_that_was_never_good_denies_where_its_policies_were() {
    let policies = "policies:\n- {name: p, namespace: shop, scope: Namespace, action: Forbid}\n\
        - {name: q, namespace: bank, scope: Namespace, action: Deny}\n";
    let text = format!("{STORED}{policies}");
    let loaded = load(&files(&[("stored.yaml", &text)]), None);
    let denials = loaded.world.denials.keys();
    let namespaces: Vec<_> = denials.map(|denial| denial.namespace.as_str()).collect();
    assert_eq!(namespaces, ["bank", "shop"]);
    let reread = load(&files(&[("stored.yaml", &text)]), Some(&loaded));
    assert_eq!(reread.world, loaded.world, "however often it is read");
    let good = text.replace("Forbid", "Deny");
    let good = load(&files(&[("stored.yaml", &good)]), Some(&loaded));
    assert_eq!(good.world.denials.len(), 0);
    assert_eq!(good.world.stored.authorizations.len(), 2);
    let again = load(&files(&[("stored.yaml", &text)]), Some(&good));
    assert_eq!(again.world, good.world);
}

const MESH: &str = "{discoverySelectors: [{matchLabels: {mesh: on}}], trustedWaypointNamespaces: [infra], rootNamespace: ambit-system, trustDomain: cluster.local}";

/// Faulty configurations, the field and what is said of it.
const WRONG: [(&str, &str, &str); 13] = [
    (
        "{gateways: [edge]}",
        "data.mesh.gateways[0]",
        "is not <namespace>",
    ),
    (
        "{trustedWaypointNamespace: [infra]}",
        "data.mesh.trustedWaypointNamespace",
        "no such field",
    ),
    (
        "{serviceEntryVisibility: {default: PUBLIC}}",
        "data.mesh.serviceEntryVisibility.default",
        "no such field",
    ),
    (
        "{serviceEntryVisibility: {defaultVisibility: public}}",
        "data.mesh.serviceEntryVisibility.defaultVisibility",
        "none of PUBLIC, NAMESPACE, NONE",
    ),
    (
        "{serviceEntryVisibility: {policies: [{visibility: NONE}]}}",
        "data.mesh.serviceEntryVisibility.policies[0].matchingRules",
        "at least one is required",
    ),
    (
        "{serviceEntryVisibility: {policies: [{matchingRules: [{namespaceSelector: {}}]}]}}",
        "data.mesh.serviceEntryVisibility.policies[0].visibility",
        "required",
    ),
    (
        "{trustedWaypointNamespaces: [Infra]}",
        "data.mesh.trustedWaypointNamespaces[0]",
        "not the name",
    ),
    (
        "{trustedWaypointNamespaces: infra}",
        "data.mesh.trustedWaypointNamespaces",
        "expected a list",
    ),
    (
        "{discoverySelectors: [{matchLabel: {a: b}}]}",
        "data.mesh.discoverySelectors[0].matchLabel",
        "no such field",
    ),
    (
        "{rootNamespace: top}",
        "data.mesh.rootNamespace",
        "does not change while",
    ),
    (
        "{trustDomain: corp.example}",
        "data.mesh.trustDomain",
        "does not change while",
    ),
    ("[", "data.mesh", "not YAML"),
    ("mesh", "data.mesh", "expected fields"),
];

/// The configuration of a mesh, in the root namespace.
fn mesh(config: &str) -> BTreeMap<PathBuf, String> {
    let text = format!(
        "{NAMESPACE}---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: ambit, namespace: ambit-system}}\ndata:\n  mesh: '{config}'\n"
    );
    files(&[("a.yaml", &text)])
}

#[test]
fn what_cannot_be_of_a_mesh_is_refused_by_name_and_the_last_good_version_stays() {
    let settings = Settings::default();
    let key = ("ambit-system".to_owned(), "ambit".to_owned());
    let good = load_for(&mesh(MESH), None, &settings);
    assert_eq!(good.problems, []);
    let found = &good.world.mesh_configs[&key];
    assert!(found.trusted_waypoint_namespaces.contains("infra"));
    assert_eq!(found.discovery.len(), 1);
    for (wrong, field, reason) in WRONG {
        let files = mesh(wrong);
        let bad = load_for(&files, Some(&good), &settings);
        let [problem] = bad.problems.as_slice() else {
            panic!("{wrong}: {:?}", bad.problems)
        };
        let object = problem.object.as_ref().map(ToString::to_string);
        assert_eq!(object.as_deref(), Some("ConfigMap/ambit-system/ambit"));
        assert!(
            problem.field == field && problem.reason.contains(reason),
            "{problem}"
        );
        assert_eq!(bad.world.mesh_configs, good.world.mesh_configs, "{wrong}");
        assert!(
            bad.world.namespaces.contains_key("shop"),
            "others are not touched"
        );
        let compiled = compile(&bad.world, &settings);
        let status = compiled.statuses.values().next().unwrap();
        assert!(
            status.conditions[0]
                .message
                .contains("last good version stays")
        );
        assert_eq!(load_for(&files, Some(&bad), &settings).world, bad.world);
        // There is nothing that could stand in at a start.
        let first = load_for(&files, None, &settings);
        assert!(first.world.mesh_configs.is_empty());
        let refusal = check::refusal(&first, false, &settings)
            .unwrap()
            .to_string();
        assert!(
            refusal.contains("ConfigMap/ambit-system/ambit"),
            "{refusal}"
        );
        assert_eq!(check::refusal(&bad, false, &settings), None);
    }
    for empty in ["", "{}", "# nothing yet"] {
        let cleared = load_for(&mesh(empty), Some(&good), &settings);
        assert_eq!(cleared.problems, [], "{empty:?}");
        assert!(cleared.world.mesh_configs[&key].discovery.is_empty());
    }
}

#[test]
fn other_config_maps_are_none_of_ours() {
    for other in [
        "metadata: {name: ambit, namespace: shop}, data: {theirs: x}",
        "metadata: {name: app, namespace: ambit-system}, data: {mesh: x}",
        "metadata: {name: ambit, namespace: ambit-system}",
    ] {
        let loaded = one(
            &format!("{{apiVersion: v1, kind: ConfigMap, {other}}}"),
            None,
        );
        assert_eq!(
            (loaded.problems, loaded.unused.len()),
            (vec![], 1),
            "{other}"
        );
    }
}

#[test]
fn an_unreadable_stored_document_holds_up_no_other_of_its_file() {
    let stored = |name: &str, action: &str| {
        let policy = format!("{{name: {name}, namespace: shop, scope: Global, action: {action}}}");
        format!("---\npolicies: [{policy}]\n")
    };
    let first = [stored("a", "Deny"), stored("b", "Deny"), policy("p", "{}")].concat();
    let first = one(&first, None);
    assert_eq!(first.problems, []);
    // Whichever of the two is torn.
    for stored in [
        stored("a", "Forbid") + &stored("b", "Allow"),
        stored("b", "Allow") + &stored("a", "Forbid"),
    ] {
        let second = one(&(stored + &policy("p", DENY_BANK)), Some(&first));
        assert_eq!(second.problems.len(), 1, "{:?}", second.problems);
        let expected = one(&policy("p", DENY_BANK), None).world;
        assert_eq!(
            second.world.authorization_policies,
            expected.authorization_policies
        );
        let names: Vec<_> = second.world.stored.authorizations.keys().collect();
        assert_eq!(names, ["shop/a", "shop/b"], "the last good version stays");
    }
}

#[test]
fn a_second_nameless_policy_denies_beside_the_first_and_each_is_told_of_once() {
    let nameless = |namespace: &str| {
        format!("---\nkind: AuthorizationPolicy\nmetadata: {{namespace: {namespace}\n")
    };
    let stored = "---\npolicies: [{namespace: till}]\n";
    for (before, expected) in [
        ("", &["bank", "shop"][..]),
        (stored, &["bank", "shop", "till"]),
    ] {
        let first = one(&(before.to_owned() + &nameless("shop")), None);
        let both = before.to_owned() + &nameless("shop") + &nameless("bank");
        let second = one(&both, Some(&first));
        let denials = second.world.denials.keys();
        let namespaces: Vec<_> = denials.map(|denial| denial.namespace.as_str()).collect();
        assert_eq!(namespaces, expected);
        assert_eq!(one(&both, Some(&second)).world, second.world);
    }
}

#[test]
fn what_is_renamed_while_a_directory_is_read_is_not_lost() {
    let scratch = crate::state::scratch::Scratch::new();
    let at = |name: &str| scratch.path().join(name);
    for name in ["b.yaml", "c.yaml"] {
        fs::write(at(name), name).unwrap();
    }
    let open = |path: &Path| found(path, io::read_to_string);
    let read = listed(scratch.path(), |path| {
        // Before what is read first, where the listing is no more.
        if at("c.yaml").exists() {
            fs::rename(at("c.yaml"), at("a.yaml")).unwrap();
        }
        open(path)
    });
    let expected = [("a.yaml", "c.yaml"), ("b.yaml", "b.yaml")];
    let expected = expected.map(|(name, text)| (at(name), Found::Read(text.to_owned())));
    assert_eq!(read.unwrap(), expected.into());
    // What is always renamed keeps nobody waiting.
    let times = std::cell::Cell::new(0);
    let read = listed(scratch.path(), |path| {
        times.set(times.get() + 1);
        fs::rename(path, at(&format!("{}.yaml", times.get()))).ok()?;
        open(path)
    });
    assert_eq!(read.unwrap(), BTreeMap::new());
    assert_eq!(times.get(), 2 * LISTINGS);
}

#[test]
fn a_directory_is_read_without_hidden_and_other_files() {
    let dir = std::env::temp_dir().join(format!("ambit-read-dir-{}", std::process::id()));
    fs::create_dir_all(dir.join("below.yaml")).unwrap();
    for name in [
        "a.yaml",
        "b.YML",
        "c.Json",
        ".a.yaml.swp",
        ".hidden.yaml",
        "notes.txt",
        "a.yaml~",
    ] {
        fs::write(dir.join(name), b"\xff").unwrap();
    }
    let read = read_dir(&dir);
    let single = read_dir(&dir.join("notes.txt"));
    fs::remove_dir_all(&dir).unwrap();
    let names: Vec<_> = read
        .as_ref()
        .unwrap()
        .keys()
        .map(|path| path.file_name().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["a.yaml", "b.YML", "c.Json"]);
    assert_eq!(read.unwrap().values().next().unwrap(), "\u{fffd}");
    assert_eq!(single.unwrap().len(), 1);
    assert!(read_dir(&dir).is_err());
}
