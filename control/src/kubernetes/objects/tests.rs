//! What a world keeps of what a watch tells.

use serde_json::{Value, json};

use super::*;
use crate::manifest::RouteKind;

fn policy(name: &str, action: &str) -> Value {
    json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": name, "namespace": "shop", "generation": 3},
        "spec": {"selector": {"matchLabels": {"app": "a"}}, "action": action},
    })
}

fn stored(kind: Kind, tree: &Value) -> Stored {
    Stored::read(kind, tree).unwrap()
}

fn reference(name: &str) -> ObjectRef {
    ObjectRef::new(Kind::AuthorizationPolicy, "shop", name)
}

fn listed(all: &[Value]) -> Objects {
    let kind = Kind::AuthorizationPolicy;
    let all = all.iter().map(|tree| stored(kind, tree)).collect();
    let mut objects = Objects::default();
    objects.apply(Change::All(kind, all));
    objects
}

#[test]
fn a_policy_that_becomes_faulty_denies_for_its_scope_and_one_that_is_mended_does_not() {
    let kind = Kind::AuthorizationPolicy;
    let mut objects = listed(&[policy("p", "DENY")]);
    assert_eq!(objects.world().authorization_policies.len(), 1);
    objects.apply(Change::Stored(stored(kind, &policy("p", "DENIE")).into()));
    assert!(objects.world().authorization_policies.is_empty());
    let denial = &objects.world().denials[&reference("p")];
    assert!(denial.selector.is_some());
    assert_eq!(objects.world().faults[&reference("p")].generation, 3);
    objects.apply(Change::Stored(stored(kind, &policy("p", "ALLOW")).into()));
    assert!(objects.world().denials.is_empty() && objects.world().faults.is_empty());
    assert_eq!(objects.world().authorization_policies.len(), 1);
}

#[test]
fn the_outcome_does_not_depend_on_the_way_there() {
    let kind = Kind::AuthorizationPolicy;
    let mut long = listed(&[policy("p", "DENY"), policy("q", "DENY")]);
    long.apply(Change::Stored(
        stored(kind, &policy("r", "nonsense")).into(),
    ));
    long.apply(Change::Stored(
        stored(kind, &policy("p", "nonsense")).into(),
    ));
    long.apply(Change::Gone(reference("q")));
    let short = listed(&[policy("r", "nonsense"), policy("p", "nonsense")]);
    assert_eq!(long.world().denials, short.world().denials);
    assert_eq!(long.world().faults, short.world().faults);
    assert_eq!(
        long.world().authorization_policies,
        short.world().authorization_policies
    );
    assert_eq!(long.count(), short.count());
}

#[test]
fn what_a_new_list_does_not_name_is_gone() {
    let kind = Kind::AuthorizationPolicy;
    let mut objects = listed(&[policy("p", "DENY"), policy("q", "nonsense")]);
    objects.apply(Change::All(kind, vec![stored(kind, &policy("r", "DENY"))]));
    assert!(objects.world().denials.is_empty() && objects.world().faults.is_empty());
    let names: Vec<_> = objects.world().authorization_policies.keys().collect();
    assert_eq!(names, [&("shop".to_owned(), "r".to_owned())]);
}

#[test]
fn what_comes_before_the_first_list_of_its_kind_waits_for_it() {
    let kind = Kind::AuthorizationPolicy;
    let mut objects = Objects::default();
    objects.apply(Change::Stored(stored(kind, &policy("p", "DENY")).into()));
    assert!(!objects.knows(kind) && objects.count() == 0);
}

#[test]
fn of_a_faulty_route_counts_what_could_be_read() {
    let kind = Kind::Route(RouteKind::Http);
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "r", "namespace": "shop"},
        "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "web"}], "rules": [{"matches": 7}]},
    });
    let mut objects = Objects::default();
    objects.apply(Change::All(kind, vec![stored(kind, &route)]));
    let reference = ObjectRef::new(kind, "shop", "r");
    assert!(objects.world().http_routes.is_empty());
    assert!(objects.world().refused.contains_key(&reference));
    assert!(!objects.world().faults[&reference].faults.is_empty());
}

#[test]
fn a_config_map_that_is_not_the_meshs_is_not_read() {
    let tree = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "namespace": "y"}, "data": {}});
    assert_eq!(Stored::read(Kind::ConfigMap, &tree), None);
}
