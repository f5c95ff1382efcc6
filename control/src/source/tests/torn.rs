//! Facts about files of which the end is missing, and documents of which nobody can say what they hold.

use super::{check::Refusal, *};

/// The end of a file is not there yet, or not any more; what is, is YAML.
#[test]
fn what_is_missing_stays_as_long_as_something_is_wrong_with_its_file() {
    let good = policy("p", DENY_BANK) + &policy("q", DENY_BANK) + &policy("r", DENY_BANK);
    let before = one(&good, None);
    let first = policy("p", DENY_BANK);
    for cut in [
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: q\n  namespace: shop\nspec:\n  m",
        "---\napiVersion: v1\nkind: Servce\nmetadata: {name: x, namespace: shop}\n",
        "---\napiVersion: v1\nkind: Pod\nmetadata: {name: x, namespace: shop}\nspec: 7\n",
    ] {
        let text = format!("{first}{cut}");
        let torn = one(&text, Some(&before));
        let names: Vec<_> = torn.world.authorization_policies.keys().collect();
        assert_eq!(names.len(), 3, "{text}: {:?}", torn.problems);
        let kept = check::kept(&torn.kept);
        assert!(
            kept.iter()
                .any(|it| it.contains("AuthorizationPolicy/shop/r")),
            "{kept:?}"
        );
        let again = one(&text, Some(&torn));
        assert_eq!(
            (again.world, again.problems, again.kept),
            (torn.world, torn.problems, torn.kept),
            "{text}"
        );
        assert_eq!(
            one(&first, Some(&before))
                .world
                .authorization_policies
                .len(),
            1
        );
    }
}

#[test]
fn a_list_whose_kind_is_misspelt_is_read_nevertheless_and_refuses_a_start() {
    let item = "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p, namespace: shop}, spec: {}}";
    let list = |kind: &str, metadata: &str| {
        format!("{{apiVersion: v1, kind: {kind}, {metadata}items: [{item}]}}")
    };
    let before = one(&list("List", ""), None);
    assert_eq!(before.world.authorization_policies.len(), 1);
    for text in [
        list("Lst", ""),
        list("Lst", "metadata: {name: x}, "),
        list("Lits", ""),
    ] {
        let after = one(&text, Some(&before));
        assert_eq!(
            after.world.authorization_policies, before.world.authorization_policies,
            "{text}"
        );
        assert_eq!(
            (after.problems.len(), after.world.denials.len()),
            (1, 0),
            "{text}"
        );
        let refusal = check::refusal(&one(&text, None), false, &Settings::default());
        assert_eq!(
            refusal,
            Some(Refusal::Unknown("a.yaml".into(), 1)),
            "{text}"
        );
    }
}

/// As long as it is the only one of its name: others have kinds that are called so.
#[test]
fn what_is_of_a_group_that_nobody_knows_and_was_not_stays_as_it_was() {
    let good = "---\n{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {ports: [{port: 80}]}}\n";
    let other = good.replace("apiVersion: v1", "apiVersion: serving.example/v1");
    let before = one(good, None);
    let after = one(&other, Some(&before));
    assert_eq!(after.world.services, before.world.services);
    assert_eq!(after.problems[0].field, "apiVersion");
    let again = one(&other, Some(&after));
    assert_eq!((again.world, again.problems), (after.world, after.problems));
    let both = one(&(good.to_owned() + &other), Some(&before));
    assert_eq!(both.problems, []);
    let removed = one(&other, Some(&both));
    assert_eq!(
        (removed.world, removed.problems),
        (World::default(), vec![])
    );
}

#[test]
fn a_policy_is_one_in_whatever_group() {
    let before = one(&policy("p", DENY_BANK), None);
    for group in ["security.example", "istio.io", "security.io"] {
        let text = policy("p", DENY_BANK).replace("security.istio.io", group);
        let after = load(&files(&[("b.yaml", &text)]), Some(&before));
        assert_eq!(
            after.world.authorization_policies,
            before.world.authorization_policies
        );
        assert_eq!(one(&text, None).world.denials.len(), 1, "{group}");
    }
}

/// As a tool writes what it was asked for, in place or under another name.
#[test]
fn what_is_wrapped_otherwise_is_kept() {
    let items = [policy("p", DENY_BANK), policy("q", DENY_BANK)];
    let before = one(&items.concat(), None);
    let items = items.map(|it| it.replace("---\n", "").trim_end().to_owned());
    let [one_, other] = &items;
    for text in [
        format!("[{one_}, {other}]"),
        format!("- {one_}\n- {other}\n"),
        format!("{{items: [{one_}, {other}]}}"),
        format!("{{resources: [{one_}, {other}]}}"),
        format!("{{apiVersion: v1, Kind: List, items: [{one_}, {other}]}}"),
        format!("{{apiVersion: v1, kind: Bundle, items: [{one_}, {other}]}}"),
        format!("{{p: {one_}, q: {other}}}"),
        format!("{one_}\n{other}\n"),
        format!("[{one_}, {{apiVersion: "),
    ] {
        for file in ["a.yaml", "b.yaml"] {
            let after = load(&files(&[(file, &text)]), Some(&before));
            assert_eq!(
                after.world.authorization_policies, before.world.authorization_policies,
                "{file} {text}"
            );
            assert_eq!(after.world.denials.len(), 0, "{file} {text}");
        }
        let refusal = check::refusal(&one(&text, None), false, &Settings::default());
        assert!(refusal.is_some(), "{text}");
    }
}

/// Who may not do something any more is not let in by a slip in another object.
#[test]
fn what_is_removed_goes_although_an_object_that_is_known_is_faulty() {
    let before = one(&(policy("p", DENY_BANK) + &policy("q", DENY_BANK)), None);
    let text = policy("q", "{action: DNY}") + NAMESPACE;
    let after = one(&text, Some(&before));
    let names: Vec<_> = after.world.authorization_policies.keys().collect();
    assert_eq!(names, [&("shop".to_owned(), "q".to_owned())]);
}

#[test]
fn a_policy_whose_kind_is_not_to_be_seen_is_the_one_of_its_name_that_is_missing() {
    let peer = policy("p", "{mtls: {mode: PERMISSIVE}}")
        .replace("AuthorizationPolicy", "PeerAuthentication");
    let before = one(&peer, None);
    for slip in [
        "knd: PeerAuthentication",
        "kind: 7",
        "kind PeerAuthentication: x",
    ] {
        let text = peer.replace("kind: PeerAuthentication", slip);
        let after = one(&text, Some(&before));
        assert_eq!(
            after.world.peer_authentications, before.world.peer_authentications,
            "{slip}"
        );
        assert_eq!(after.world.denials.len(), 0, "{slip}");
        assert!(check::refusal(&one(&text, None), false, &Settings::default()).is_some());
        let never = one(&text, Some(&one(NAMESPACE, None)));
        assert_eq!(never.world.denials.len(), 1, "{slip}");
    }
}

#[test]
fn a_document_of_which_nobody_can_say_what_it_is_refuses_a_start() {
    for (text, starts) in [
        (
            "---\nKind: Service\nApiVersion: v1\nmetadata: {name: x}\n",
            false,
        ),
        ("---\napiVersion: v1\nmetadata: {name: x}\n", false),
        ("---\nkind: Node\nmetadata: {name: x\n", false),
        ("---\nreplicas: 3\nimage: {tag: x}\n", false),
        ("---\n[1, 2]\n", false),
        (
            "---\n{apiVersion: v1, kind: Items, items: [{apiVersion: v1, kind: Node, metadata: {name: n}}]}\n",
            false,
        ),
        ("---\n{apiVersion: v1, kind: Items, spec: {}}\n", false),
        (
            "---\n{apiVersion: apps/v1, kind: Deployment, metadata: {name: x}}\n",
            true,
        ),
    ] {
        let refusal = check::refusal(&one(text, None), false, &Settings::default());
        let expected = (!starts).then(|| Refusal::Unknown("a.yaml".into(), 1));
        assert_eq!(refusal, expected, "{text}");
    }
}
