//! Pods in every state, and what is said of them.

use super::*;

const AMBIENT: &str = "ambient";

const MESH: (&str, Keys) = ("ambit-system", Keys::Shared);

fn namespace(name: &str, mode: &str) -> Value {
    match mode {
        "" => json!({"metadata": {"name": name}}),
        mode => json!({"metadata": {"name": name, "labels": {enrol::DATAPLANE_MODE: mode}}}),
    }
}

fn pod_of(namespace: &str, name: &str, more: &Value) -> Value {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"nodeName": "n1"},
        "status": {"phase": "Running"},
    });
    for (part, fields) in more.as_object().unwrap() {
        pod[part]
            .as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
    }
    pod
}

fn own(app: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}}, "spec": {"nodeName": "n1"},
           "status": {"conditions": [{"type": "Ready", "status": "True"}]}})
}

fn state(mode: &str, more: &Value, own_pods: &[Value]) -> Option<State> {
    let pods = [pod_of("shop", "a", more)];
    let mesh = mesh(MESH, &[namespace("shop", mode)], &pods, own_pods);
    mesh.first()
        .and_then(|it| it.pods.first())
        .map(|pod| pod.state.clone())
}

fn captured() -> Value {
    json!({"metadata": {"annotations": {Keys::Shared.redirection(): "enabled"}}})
}

#[test]
fn a_pod_is_captured_when_it_says_so_and_otherwise_it_is_said_why_not() {
    let both = [own("ambit-node"), own("ztunnel")];
    let condition = json!({"type": CAPTURED, "status": "False", "message": "no ztunnel takes it"});
    let waiting = |why: &str| Some(State::Waiting(why.to_owned()));
    for (more, own_pods, expected) in [
        (captured(), &both[..], Some(State::Captured)),
        (
            json!({}),
            &both[..],
            waiting("the agent of its node has not captured it yet"),
        ),
        (
            json!({}),
            &both[..1],
            waiting("its node n1 has no ready ztunnel: ambit check"),
        ),
        (
            json!({}),
            &both[1..],
            waiting("its node n1 has no ready agent: ambit check"),
        ),
        (
            json!({"spec": {"nodeName": ""}}),
            &both[..],
            waiting("it has no node yet"),
        ),
        (
            json!({"status": {"phase": "Pending"}}),
            &both[..],
            waiting("it does not run yet: phase Pending"),
        ),
        (
            json!({"status": {"conditions": [condition]}}),
            &both[..],
            waiting("no ztunnel takes it"),
        ),
        (
            json!({"metadata": {"labels": {enrol::DATAPLANE_MODE: "none"}}}),
            &both[..],
            Some(State::Out(
                "the pod has the label istio.io/dataplane-mode=none".to_owned(),
            )),
        ),
        (
            json!({"spec": {"hostNetwork": true}}),
            &both[..],
            Some(State::Out("the pod uses its node's network".to_owned())),
        ),
        (
            json!({"metadata": {"annotations": {"sidecar.istio.io/status": "{}"}}}),
            &both[..],
            Some(State::Out("the pod has a sidecar".to_owned())),
        ),
        (json!({"status": {"phase": "Succeeded"}}), &both[..], None),
    ] {
        assert_eq!(state(AMBIENT, &more, own_pods), expected, "{more}");
    }
}

#[test]
fn a_namespace_counts_by_its_label_or_by_its_pods() {
    assert_eq!(state("", &json!({}), &[]), None);
    assert_eq!(state("", &captured(), &[]), Some(State::Leaving));
    let labelled = json!({"metadata": {"labels": {enrol::DATAPLANE_MODE: AMBIENT}, "annotations": {Keys::Shared.redirection(): "enabled"}}});
    assert_eq!(state("", &labelled, &[]), Some(State::Captured));
    for excluded in ["kube-system", "ambit-system"] {
        let pods = [pod_of(excluded, "a", &json!({}))];
        let mesh = mesh(MESH, &[namespace(excluded, AMBIENT)], &pods, &[]);
        assert!(!mesh[0].pods[0].is_in(), "{excluded}");
    }
}

#[test]
fn the_summary_counts_and_only_those_not_captured_are_named() {
    let pods = [
        pod_of("shop", "a", &captured()),
        pod_of("shop", "b", &json!({"spec": {"hostNetwork": true}})),
        pod_of("bank", "c", &captured()),
    ];
    let all = mesh(
        MESH,
        &[namespace("bank", AMBIENT), namespace("shop", AMBIENT)],
        &pods,
        &[],
    );
    assert_eq!(
        as_text(&all, false),
        "NAMESPACE  MODE     PODS  CAPTURED\n\
         bank       ambient  1     1\n\
         shop       ambient  2     1\n\
         \n\
         NAMESPACE  POD  NODE  CAPTURED  WHY\n\
         shop       b    n1    no        the pod uses its node's network\n"
    );
    assert!(as_text(&all[..1], true).contains("bank       c    n1    yes"));
    let json: Value = serde_json::from_str(&as_json(&all)).unwrap();
    let b = json!({"name": "b", "node": "n1", "enrolled": false, "captured": false, "why": "the pod uses its node's network"});
    assert_eq!(json["namespaces"][1]["pods"][1], b);
}

#[test]
fn of_a_pod_only_what_counts_is_kept() {
    let whole = json!({
        "metadata": {"name": "a", "namespace": "b", "managedFields": [1]},
        "spec": {"nodeName": "n", "containers": [{}]},
        "status": {"phase": "Running", "podIP": "10.0.0.1"},
    });
    let expected = json!({
        "metadata": {"name": "a", "namespace": "b"}, "spec": {"nodeName": "n"}, "status": {"phase": "Running"},
    });
    assert_eq!(kept(whole), expected);
}
