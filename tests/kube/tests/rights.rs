//! What each component may do in the API, and what not: asked of the API server, and tried.

use std::path::Path;

use control::{kubernetes::status, manifest::Kind};
use serde_json::{Value, json};
use tests_kube::{
    Cluster,
    mesh::{self, IMAGE, NAMESPACE},
    token,
};

/// Whether an account may do something; what is empty is meant as any.
struct Question {
    account: &'static str,
    verb: String,
    group: String,
    resource: String,
    namespace: String,
    name: String,
}

/// `verb group:resource/subresource namespace name`, with `-` for what is empty.
fn question(account: &'static str, what: &str) -> Question {
    let mut parts = what
        .split(' ')
        .map(|part| if part == "-" { "" } else { part });
    let mut next = || parts.next().unwrap_or_default();
    let (verb, kind) = (next(), next());
    let (group, resource) = kind.split_once(':').unwrap_or(("", kind));
    Question {
        account,
        verb: verb.to_owned(),
        group: group.to_owned(),
        resource: resource.to_owned(),
        namespace: next().to_owned(),
        name: next().to_owned(),
    }
}

impl Question {
    /// What `kubectl auth can-i --as` asks.
    fn review(&self) -> Value {
        let (resource, subresource) = match self.resource.split_once('/') {
            Some((resource, subresource)) => (resource, subresource),
            None => (self.resource.as_str(), ""),
        };
        json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": format!("system:serviceaccount:{NAMESPACE}:{}", self.account),
                "groups": ["system:serviceaccounts", format!("system:serviceaccounts:{NAMESPACE}"), "system:authenticated"],
                "resourceAttributes": {
                    "verb": self.verb, "group": self.group, "resource": resource, "subresource": subresource,
                    "namespace": self.namespace, "name": self.name,
                },
            },
        })
    }

    fn shown(&self) -> String {
        let Self {
            account,
            verb,
            group,
            resource,
            namespace,
            name,
        } = self;
        format!("{account}: {verb} {group}:{resource} {namespace}/{name}")
    }
}

/// Those of the questions that are answered otherwise than expected.
fn otherwise(cluster: &Cluster, questions: &[Question], expected: bool) -> Vec<String> {
    let reviews: Vec<_> = questions.iter().map(Question::review).collect();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": reviews});
    let answers = cluster.kubectl_with(
        &[
            "create",
            "-f",
            "-",
            "-o",
            "jsonpath={.status.allowed}{\"\\n\"}",
        ],
        &list.to_string(),
    );
    let answers = answers.unwrap_or_else(|failed| panic!("{failed}"));
    let answers: Vec<_> = answers.lines().collect();
    assert_eq!(answers.len(), questions.len(), "{answers:?}");
    let both = questions.iter().zip(answers);
    let wrong = both.filter(|(_, answer)| (*answer == "true") != expected);
    wrong.map(|(question, _)| question.shown()).collect()
}

const CONTROL: &str = "ambit-control";
const NODE: &str = "ambit-node";
const ZTUNNEL: &str = "ztunnel";

const CONTROL_NEEDS: [&str; 9] = [
    "create authentication.k8s.io:tokenreviews - -",
    "get secrets ambit-system ambit-ca",
    "create secrets ambit-system -",
    "create configmaps shop istio-ca-root-cert",
    "patch configmaps shop istio-ca-root-cert",
    "update coordination.k8s.io:leases ambit-system ambit-control-leader",
    "patch coordination.k8s.io:leases ambit-system a-replica",
    "create events.k8s.io:events shop -",
    "watch apiextensions.k8s.io:customresourcedefinitions - authorizationpolicies.security.istio.io",
];

const NODE_NEEDS: [&str; 7] = [
    "watch security.istio.io:authorizationpolicies - -",
    "list security.istio.io:peerauthentications - -",
    "watch pods - -",
    "watch namespaces - -",
    "patch pods - -",
    "patch pods/status - -",
    "create events.k8s.io:events - -",
];

/// What nobody of the mesh may.
const NOBODY: [&str; 33] = [
    "list secrets - -",
    "list secrets ambit-system -",
    "get secrets shop ambit-ca",
    "get secrets ambit-system another",
    "delete secrets ambit-system ambit-ca",
    "update secrets ambit-system ambit-ca",
    "create pods shop -",
    "delete pods shop x",
    "update pods shop x",
    "create pods/exec shop x",
    "create pods/ephemeralcontainers shop x",
    "patch pods/ephemeralcontainers shop x",
    "patch namespaces - shop",
    "patch nodes - kn1",
    "get nodes/proxy - kn1",
    "create serviceaccounts/token shop x",
    "create configmaps shop another",
    "patch configmaps ambit-system ambit",
    "list configmaps - -",
    "patch services shop x",
    "create rbac.authorization.k8s.io:clusterrolebindings - -",
    "escalate rbac.authorization.k8s.io:clusterroles - ambit-control",
    "impersonate users - system:admin",
    "update security.istio.io:authorizationpolicies shop x",
    "patch security.istio.io:authorizationpolicies shop x",
    "delete security.istio.io:peerauthentications shop x",
    "patch apiextensions.k8s.io:customresourcedefinitions - authorizationpolicies.security.istio.io",
    "list apiextensions.k8s.io:customresourcedefinitions - -",
    "patch admissionregistration.k8s.io:validatingadmissionpolicies - ambit-node",
    "update coordination.k8s.io:leases kube-system kube-scheduler",
    "update coordination.k8s.io:leases ambit-system a-replica",
    "delete coordination.k8s.io:leases ambit-system ambit-control-leader",
    "patch apps:daemonsets ambit-system ztunnel",
];

/// What of the mesh the control plane alone may.
const CONTROL_ALONE: [&str; 8] = [
    "get secrets ambit-system ambit-ca",
    "create authentication.k8s.io:tokenreviews - -",
    "list services - -",
    "get security.istio.io:authorizationpolicies shop x",
    "list security.istio.io:requestauthentications - -",
    "patch services/status shop x",
    "get coordination.k8s.io:leases ambit-system ambit-control-leader",
    "create configmaps shop istio-ca-root-cert",
];

fn needed() -> Vec<Question> {
    let mut all = Vec::new();
    for kind in Kind::all() {
        let what = format!("{}:{}", kind.group(), kind.plural());
        let which = match kind {
            Kind::ConfigMap => "ambit-system ambit",
            _ => "- -",
        };
        for verb in ["list", "watch"] {
            all.push(question(CONTROL, &format!("{verb} {what} {which}")));
        }
        if status::is_written(kind) {
            all.push(question(CONTROL, &format!("patch {what}/status shop x")));
        }
    }
    all.extend(CONTROL_NEEDS.map(|what| question(CONTROL, what)));
    all.extend(NODE_NEEDS.map(|what| question(NODE, what)));
    all
}

fn not_needed() -> Vec<Question> {
    let mut all = Vec::new();
    for account in [CONTROL, NODE, ZTUNNEL] {
        all.extend(NOBODY.map(|what| question(account, what)));
    }
    for account in [NODE, ZTUNNEL] {
        all.extend(CONTROL_ALONE.map(|what| question(account, what)));
    }
    for account in [CONTROL, ZTUNNEL] {
        let agents = ["patch pods shop x", "patch pods/status shop x"];
        all.extend(agents.map(|what| question(account, what)));
    }
    let nothing = [
        "list pods - -",
        "list namespaces - -",
        "list security.istio.io:authorizationpolicies - -",
    ];
    all.extend(nothing.map(|what| question(ZTUNNEL, what)));
    all
}

fn pods() -> String {
    let pod = |name: &str, node: &str| {
        format!(
            "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: shop, labels: {{app: {name}}}, annotations: {{others: as-it-was}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 1
  containers: [{{name: echo, image: \"{IMAGE}\", imagePullPolicy: Never, args: [echo]}}]
---"
        )
    };
    [pod("here", "kn1"), pod("there", "kn2")].concat()
}

#[test]
fn components_may_do_what_they_need_and_nothing_else() {
    let Some(cluster) = Cluster::start("rights on a cluster", 2) else {
        return;
    };
    mesh::load(&cluster, Path::new(env!("CARGO_BIN_EXE_ambit")));
    mesh::install(&cluster, &["control.replicas=1"]);
    cluster.does(&["create", "namespace", "shop"]);

    let refused = otherwise(&cluster, &needed(), true);
    assert!(refused.is_empty(), "needed, and refused: {refused:#?}");
    let allowed = otherwise(&cluster, &not_needed(), false);
    assert!(allowed.is_empty(), "not needed, and allowed: {allowed:#?}");

    cluster.apply(&pods());
    // `kubectl` looks at what it patches; agents do not.
    let role = [
        "create",
        "clusterrole",
        "look",
        "--verb=get",
        "--resource=pods/status",
    ];
    cluster.does(&role);
    let account = format!("--serviceaccount={NAMESPACE}:{NODE}");
    let binding = ["create", "clusterrolebinding", "look", "--clusterrole=look"];
    cluster.does(&[&binding[..], &[account.as_str()]].concat());
    agents_write_on_pods_of_their_node_whether_they_are_captured(&cluster);
}

const REDIRECTION: &str =
    r#"{"metadata":{"annotations":{"ambient.istio.io/redirection":"enabled"}}}"#;
const CAPTURED: &str =
    r#"{"status":{"conditions":[{"type":"ambit.dev/Captured","status":"True"}]}}"#;

const GONE: &str = r#"{"status":{"conditions":[{"type":"ambit.dev/Captured","$patch":"delete"}]}}"#;

/// What no agent may change of a pod, and what the refusal speaks of.
const WHOLE: [(&str, &str); 7] = [
    (
        r#"{"metadata":{"annotations":{"others":"x"}}}"#,
        "annotations",
    ),
    (
        r#"{"metadata":{"annotations":{"others":null}}}"#,
        "annotations",
    ),
    (r#"{"metadata":{"annotations":{"new":"x"}}}"#, "annotations"),
    (r#"{"metadata":{"labels":{"app":"x"}}}"#, "metadata"),
    (r#"{"metadata":{"labels":null}}"#, "metadata"),
    (r#"{"metadata":{"finalizers":["a.b/c"]}}"#, "metadata"),
    (
        r#"{"spec":{"activeDeadlineSeconds":1}}"#,
        "what a pod is to be",
    ),
];

/// As [`WHOLE`], by way of its status.
const STATUS: [(&str, &str); 5] = [
    (
        r#"{"status":{"conditions":[{"type":"ambit.dev/Other","status":"True"}]}}"#,
        "ambit.dev/Captured alone",
    ),
    (r#"{"status":{"podIP":"192.0.2.1"}}"#, "status"),
    (
        r#"{"status":{"conditions":[{"type":"Ready","status":"False"}]}}"#,
        "status",
    ),
    (r#"{"status":{"conditions":null}}"#, "status"),
    (r#"{"metadata":{"labels":{"app":"x"}}}"#, "metadata"),
];

fn agents_write_on_pods_of_their_node_whether_they_are_captured(cluster: &Cluster) {
    let agent = token::pod_on(cluster, NAMESPACE, NODE, "kn1");
    let bound = token::of(cluster, (NAMESPACE, NODE), Some(&agent), None);
    let unbound = token::of(cluster, (NAMESPACE, NODE), None, None);
    let patch = |token: &str, pod: &str, part: &[&str], patch: &str| {
        let arguments = [&["-n", "shop", "patch", "pod", pod, "-p", patch], part].concat();
        token::kubectl(cluster, token, &arguments)
    };
    let whole = &["--type=merge"][..];
    let status = &["--subresource=status"][..];

    patch(&bound, "here", status, CAPTURED).unwrap_or_else(|failed| panic!("{failed}"));
    patch(&bound, "here", status, GONE).unwrap_or_else(|failed| panic!("{failed}"));
    patch(&bound, "here", whole, REDIRECTION).unwrap_or_else(|failed| panic!("{failed}"));

    let refused = |token: &str, pod: &str, part: &[&str], change: &str, why: &str| {
        let said = patch(token, pod, part, change).expect_err(change).said;
        assert!(
            said.contains("Forbidden") && said.contains(why),
            "{change}: {said}"
        );
    };
    let elsewhere = "the node agent of node kn1 may not change a pod of kn2";
    refused(&bound, "there", whole, REDIRECTION, elsewhere);
    refused(&bound, "there", status, CAPTURED, elsewhere);
    let nowhere = "the node agent of no node may not change a pod of kn1";
    refused(&unbound, "here", whole, REDIRECTION, nowhere);
    for (change, why) in WHOLE {
        refused(&bound, "here", whole, change, why);
    }
    for (change, why) in STATUS {
        refused(&bound, "here", status, change, why);
    }
    let container =
        r#"[{"op":"replace","path":"/spec/containers/0/image","value":"example.com/other"}]"#;
    refused(
        &bound,
        "here",
        &["--type=json"],
        container,
        "what a pod is to be",
    );
}
