//! Facts about what must not get lost: files that cannot be looked at, kinds that are misspelt, and what was moved to
//! where it cannot be read.

use std::{
    os::unix::{fs::symlink, net::UnixListener},
    process::Command,
};

use super::*;
use crate::state::scratch::Scratch;

#[test]
fn what_is_no_file_is_told_by_name_and_refuses_a_start() {
    let scratch = Scratch::new();
    let at = |name: &str| scratch.path().join(name);
    fs::write(at("a.yaml"), NAMESPACE).unwrap();
    fs::create_dir(at("below.yaml")).unwrap();
    let read = || load(&read_dir(scratch.path()).unwrap(), None);
    assert_eq!(read().problems, []);
    let link = |target: &str| symlink(at(target), at("b.yaml")).unwrap();
    let makes: [(&dyn Fn(), &str); 6] = [
        (&|| link("nowhere"), "a link to nothing"),
        (&|| link("b.yaml"), "symbolic links"),
        (&|| link("a.yaml/b"), "Not a directory"),
        (&|| link("below.yaml"), "not a regular file"),
        (
            &|| drop(UnixListener::bind(at("b.yaml")).unwrap()),
            "not a regular file",
        ),
        (
            &|| {
                let made = Command::new("mkfifo").arg(at("b.yaml")).status();
                assert!(made.unwrap().success());
            },
            "not a regular file",
        ),
    ];
    for (make, reason) in makes {
        make();
        let loaded = read();
        let [problem] = loaded.problems.as_slice() else {
            panic!("{:?}", loaded.problems)
        };
        assert_eq!(problem.file, at("b.yaml"));
        assert!(problem.reason.contains(reason), "{problem}");
        assert!(problem.reason.starts_with("cannot be read: "), "{problem}");
        assert!(loaded.world.namespaces.contains_key("shop"));
        let refusal = check::refusal(&loaded, false, &Settings::default());
        assert_eq!(refusal, Some(check::Refusal::Unread(at("b.yaml"))));
        fs::remove_file(at("b.yaml")).unwrap();
    }
}

/// One good object of each kind that is found by its own name.
fn objects() -> [(String, ObjectRef); 9] {
    let of = |version: &str, kind: &str, more: &str| {
        format!(
            "---\n{{apiVersion: {version}, kind: {kind}, metadata: {{name: web, namespace: shop}}, {more}}}\n"
        )
    };
    let gateway = "gateway.networking.k8s.io/v1";
    let listeners =
        "spec: {gatewayClassName: c, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}";
    let route = "spec: {parentRefs: [{group: '', kind: Service, name: web}]}";
    let slice = "addressType: IPv4, endpoints: []";
    let wish = "spec: {host: web, trafficPolicy: {tls: {mode: SIMPLE}}}";
    [
        ("v1", Kind::Pod, "spec: {nodeName: n}"),
        ("v1", Kind::Namespace, "spec: {}"),
        ("v1", Kind::Service, "spec: {ports: [{port: 80}]}"),
        ("v1", Kind::ServiceAccount, "x: y"),
        ("discovery.k8s.io/v1", Kind::EndpointSlice, slice),
        (gateway, Kind::Gateway, listeners),
        (gateway, Kind::GatewayClass, "spec: {controllerName: a/b}"),
        (gateway, Kind::Route(RouteKind::Http), route),
        (
            "networking.istio.io/v1",
            Kind::Unserved(manifest::UnservedKind::DestinationRule),
            wish,
        ),
    ]
    .map(|(version, kind, more)| {
        let namespace = if kind.namespaced() { "shop" } else { "" };
        let reference = ObjectRef::new(kind, namespace, "web");
        (of(version, kind.as_str(), more), reference)
    })
}

#[test]
fn an_object_whose_kind_is_written_as_commands_have_it_keeps_its_last_good_version() {
    for (text, reference) in objects() {
        let spelt = reference.kind.as_str();
        let before = one(&text, None);
        assert_eq!(before.problems, [], "{text}");
        let lower = spelt.to_ascii_lowercase();
        let end = if lower.ends_with('s') { "es" } else { "s" };
        let (upper, many) = (spelt.to_ascii_uppercase(), lower.clone() + end);
        for slip in [&lower, &upper, &many, &format!("{spelt}{end}")] {
            let text = text.replace(&format!("kind: {spelt},"), &format!("kind: {slip},"));
            let after = one(&text, Some(&before));
            let [problem] = after.problems.as_slice() else {
                panic!("{text}: {:?}", after.problems)
            };
            assert_eq!(problem.object.as_ref(), Some(&reference));
            assert_eq!(problem.field, "kind");
            assert!(problem.reason.ends_with(&format!("{spelt:?}")), "{problem}");
            assert_eq!(
                after.world.object(&reference),
                before.world.object(&reference),
                "{text}"
            );
            assert!(one(&text, None).world.faults.contains_key(&reference));
        }
    }
}

#[test]
fn what_others_call_alike_is_theirs() {
    for (version, kind) in [
        ("serving.knative.dev/v1", "Service"),
        ("serving.knative.dev/v1", "service"),
        ("v1", "Secret"),
    ] {
        let text = format!("{{apiVersion: {version}, kind: {kind}, metadata: {{name: web}}}}");
        let loaded = one(&text, None);
        assert_eq!((loaded.problems, loaded.unused.len()), (vec![], 1));
    }
}

#[test]
fn lists_in_lists_are_unpacked_whatever_their_case() {
    let item = policy("p", DENY_BANK).replace("---\n", "");
    for kind in ["List", "list", "Lists"] {
        let list = |items: &str| {
            format!(
                "{{apiVersion: v1, kind: {kind}, items: [{}]}}",
                items.trim()
            )
        };
        let loaded = one(&list(&list(&item)), None);
        assert_eq!(
            (&loaded.problems, loaded.unused.len()),
            (&vec![], 0),
            "{kind}"
        );
        assert_eq!(loaded.world.authorization_policies.len(), 1, "{kind}");
        let faulty = one(&list(&list(&item.replace("DENY", "NO"))), None);
        assert_eq!(faulty.problems[0].field, "items[0].items[0].spec.action");
        let without = list(&list(&item).replace("items", "item"));
        assert_eq!(one(&without, None).problems[0].field, "items[0].items");
    }
}

/// Documents that cannot be read.
fn torn(kind: &str) -> [String; 5] {
    [
        format!("---\nkind: {kind}\nmetadata: {{name: web, namespace: shop\n"),
        format!("---\nkind: {kind}\nmetadata: {{nam\n"),
        format!("---\nkind: List\nitems:\n- kind: {kind}\n  metadata: {{name: other\n"),
        "---\napiVersion: v1\nki".to_owned(),
        "---\nmetadata: {name: web, namespace: shop}\n".to_owned(),
    ]
}

#[test]
fn what_was_moved_to_where_it_cannot_be_read_stays_until_it_can() {
    for (text, reference) in objects() {
        let kept = |loaded: &Loaded, was: &Loaded| {
            loaded.world.object(&reference) == was.world.object(&reference)
                && loaded.world.object(&reference).is_some()
        };
        let before = load(&files(&[("a.yaml", &text), ("b.yaml", "")]), None);
        for torn in torn(reference.kind.as_str()) {
            for left in [Some(NAMESPACE), None] {
                let mut moved = files(&[("b.yaml", &torn)]);
                moved.extend(left.map(|text| ("a.yaml".into(), text.to_owned())));
                let after = load(&moved, Some(&before));
                assert!(kept(&after, &before), "{left:?} {torn}");
                let again = load(&moved, Some(&after));
                assert_eq!(again.world, after.world, "{left:?} {torn}");
                let emptied = load(&files(&[("b.yaml", "")]), Some(&again));
                assert!(kept(&emptied, &before), "{torn}");
                let good = load(&files(&[("b.yaml", NAMESPACE)]), Some(&again));
                assert_eq!(good.world.object(&reference), None, "{torn}");
                let arrived = load(&files(&[("b.yaml", &text)]), Some(&again));
                assert_eq!(
                    (&arrived.world, &arrived.problems),
                    (&before.world, &vec![])
                );
            }
        }
        for other in [
            "---\nkind: Deployment\nmetadata: {name: web, namespace: shop\n",
            "---\n{apiVersion: v1, kind: Node, metadata: {labels: {}}}\n",
        ] {
            let after = load(&files(&[("b.yaml", other)]), Some(&before));
            assert!(!after.problems.is_empty(), "{other}");
            assert_eq!(after.world.object(&reference), None, "{other}");
        }
    }
    let whole = load(&files(&[("a.yaml", NAMESPACE)]), None);
    let unread = load(&files(&[("b.yaml", "\u{fffd}")]), Some(&whole));
    assert_eq!(unread.world, whole.world, "nobody knows what it holds");
}

#[test]
fn what_an_emptied_file_held_is_told_of_there_whatever_else_cannot_be_read() {
    let before = load(&files(&[("b.yaml", &policy("p", DENY_BANK))]), None);
    let emptied = files(&[("a.yaml", "---\nkind: List\nitems: [\n"), ("b.yaml", "")]);
    let emptied = load(&emptied, Some(&before));
    assert_eq!(emptied.problems.len(), 2, "{:?}", emptied.problems);
    let mended = load(&files(&[("b.yaml", "")]), Some(&emptied));
    assert_eq!(mended.world, before.world);
}

#[test]
fn stored_resources_that_were_moved_to_where_they_cannot_be_read_stay_until_they_can() {
    let before = load(&files(&[("a.yaml", STORED)]), None);
    let torn = files(&[("b.yaml", &STORED.replace("TCP", "QUIC"))]);
    let after = load(&torn, Some(&before));
    assert_eq!(after.world, before.world);
    let again = load(&torn, Some(&after));
    assert_eq!(again.world, after.world);
    let good = load(&files(&[("b.yaml", "workloads: []")]), Some(&again));
    assert_eq!(good.world, World::default());
}

#[test]
fn a_file_that_holds_nothing_and_never_did_is_worth_a_note() {
    let empty = files(&[("a.yaml", " \n"), ("b.yaml", NAMESPACE)]);
    let check = check::check_files(&empty, &Settings::default());
    assert_eq!((check.problems, check.refusal), (vec![], None));
    assert_eq!(check.notes, ["a.yaml: the file is empty"]);
}

#[test]
fn what_stands_in_for_another_says_nothing_of_what_a_kind_like_none_is() {
    let text = "{apiVersion: v1, kind: v1, metadata: {name: cart, namespace: shop}}\n---\n\
                apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
                metadata: {name: cart, namespace: shop}\nspec: {mtls: {mode: [}\n";
    let first = one(text, None);
    let pod = ObjectRef::new(Kind::Pod, "shop", "cart");
    assert!(first.world.faults.contains_key(&pod));
    let again = one(text, Some(&first));
    let known = |loaded: &Loaded| loaded.world.faults.keys().cloned().collect::<Vec<_>>();
    assert_eq!(known(&again), known(&first));
}
