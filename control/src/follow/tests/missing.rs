//! Facts about starts that would end a binding which nobody wants to end.

use super::*;
use crate::world::Phase;

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: orders, namespace: shop, labels: {istio.io/use-waypoint: waypoint}}
spec: {clusterIP: 10.96.0.30, selector: {app: orders}, ports: [{name: http, port: 80}]}
";
const NAMESPACE: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/use-waypoint: waypoint}}
";
const GATEWAY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: shop}
spec: {gatewayClassName: own, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
";
const CLASS: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: own}
spec: {controllerName: ambit.dev/waypoint}
";

fn key(name: &str) -> Key {
    ("shop".to_owned(), name.to_owned())
}

/// As after a stop with shop/orders enforced.
fn recorded(scratch: &Scratch, service: &str) -> Bindings {
    let state = Arc::new(StateDir::open(scratch.path()).unwrap());
    let page = json!({ "ready": [], "bindings": [
        { "service": service, "phase": "enforced", "gateway": "shop/waypoint" },
    ]});
    state
        .write(WAYPOINTS, page.to_string().as_bytes(), PUBLIC)
        .unwrap();
    Bindings::open(state, Instant::now()).unwrap()
}

fn open(files: &[(&str, &str)]) -> Source {
    Source::open(Files::new(files).0.path(), Settings::default()).unwrap()
}

#[test]
fn a_start_that_would_unbind_for_what_is_not_understood_is_refused() {
    let scratch = Scratch::new();
    let bindings = recorded(&scratch, "shop/orders");
    let unlabelled = SERVICE.replace(", labels: {istio.io/use-waypoint: waypoint}", "");
    let good = [
        ("service.yaml", SERVICE),
        ("namespace.yaml", NAMESPACE),
        ("gateway.yaml", GATEWAY),
        ("class.yaml", CLASS),
    ];
    open(&good).keeps(&bindings).unwrap();
    for (at, broken, words) in [
        (
            0,
            SERVICE.replace("port: 80", "port: x"),
            "Service/shop/orders, spec.ports[0].port",
        ),
        (
            1,
            NAMESPACE.replace(": waypoint}", ": 7}"),
            "Namespace/shop, metadata.labels",
        ),
        (
            2,
            GATEWAY.replace("port: 15008", "port: x"),
            "Gateway/shop/waypoint, spec.listeners[0].port",
        ),
        (
            3,
            CLASS.replace("ambit.dev/waypoint", "7"),
            "GatewayClass/own, spec.controllerName",
        ),
    ] {
        let mut files = good;
        files[at].1 = &broken;
        let refused = open(&files).keeps(&bindings).unwrap_err().to_string();
        assert!(refused.contains(words), "{broken}: {refused}");
        let bound = "Service/shop/orders was bound to the waypoint of Gateway/shop/waypoint";
        assert!(refused.contains(bound), "{broken}: {refused}");
    }
    // The label is that of a namespace that is not understood.
    let lost = NAMESPACE.replace(": waypoint}", ": 7}");
    let files = [good[2], good[3], ("namespace.yaml", &lost)];
    let with = |service| [files[0], files[1], files[2], ("service.yaml", service)];
    assert!(open(&with(&unlabelled)).keeps(&bindings).is_err());
    // Who takes the label away says so.
    let files = [("service.yaml", &*unlabelled), good[2], good[3]];
    open(&files).keeps(&bindings).unwrap();
}

/// Nobody would know that a policy of its waypoint had closed it.
#[test]
fn a_start_that_would_open_what_was_closed_is_refused() {
    let scratch = Scratch::new();
    let state = Arc::new(StateDir::open(scratch.path()).unwrap());
    let page = json!({ "ready": [], "bindings": [
        { "service": "shop/orders", "phase": "closed" },
    ]});
    state
        .write(WAYPOINTS, page.to_string().as_bytes(), PUBLIC)
        .unwrap();
    let bindings = Bindings::open(state, Instant::now()).unwrap();
    open(&[("service.yaml", SERVICE)]).keeps(&bindings).unwrap();
    let broken = SERVICE.replace("port: 80", "port: x");
    for (name, text, words) in [
        (
            "service.yaml",
            broken.as_str(),
            "Service/shop/orders, spec.ports[0].port",
        ),
        (
            "namespace.yaml",
            &NAMESPACE.replace(": waypoint}", ": 7}"),
            "Namespace/shop, metadata.labels",
        ),
    ] {
        let refused = open(&[(name, text)])
            .keeps(&bindings)
            .unwrap_err()
            .to_string();
        assert!(refused.contains(words), "{text}: {refused}");
        assert!(
            refused.contains("Service/shop/orders was closed by a policy"),
            "{refused}"
        );
    }
}

#[test]
fn a_binding_stays_as_recorded_while_its_service_is_not_understood() {
    let scratch = Scratch::new();
    let mut bindings = recorded(&scratch, "shop/orders");
    let broken = SERVICE.replace("port: 80", "port: x");
    let source = open(&[("service.yaml", &broken), ("gateway.yaml", GATEWAY)]);
    let now = Instant::now() + Duration::from_secs(60);
    let reached = (&Reached::default(), now);
    source.mesh(&ByNode::new(), &mut bindings, reached, &Snapshot::default());
    let enforced = Phase::Enforced {
        gateway: key("waypoint"),
    };
    assert_eq!(
        bindings.recorded().phases.get(&key("orders")),
        Some(&enforced)
    );
}

/// Only its label unbinds a service. What is not looked at is not published, so nobody reaches it meanwhile.
#[test]
fn a_binding_stays_as_recorded_while_its_namespace_is_not_looked_at() {
    let scratch = Scratch::new();
    let mut bindings = recorded(&scratch, "shop/orders");
    let mesh = |selectors: &str| {
        format!(
            "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: ambit, namespace: ambit-system}}, data: {{mesh: '{selectors}'}}}}\n"
        )
    };
    let policy = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: shop}
spec: {targetRefs: [{group: \"\", kind: Service, name: orders}]}
";
    let namespace = NAMESPACE.replace("use-waypoint: waypoint", "team: blue");
    let all = mesh("{}");
    let others = mesh("{discoverySelectors: [{matchLabels: {team: red}}]}");
    let unlabelled = SERVICE.replace(", labels: {istio.io/use-waypoint: waypoint}", "");
    let enforced = Phase::Enforced {
        gateway: key("waypoint"),
    };
    let closed = Phase::Closed;
    for (mesh, service, expected, published) in [
        (&all, Some(SERVICE), Some(&enforced), true),
        (&others, Some(SERVICE), Some(&enforced), false),
        (&all, Some(SERVICE), Some(&enforced), true),
        // What it says is heard once it is looked at.
        (&others, Some(&unlabelled), Some(&enforced), false),
        (&all, Some(&unlabelled), Some(&closed), true),
        (&others, Some(&unlabelled), Some(&closed), false),
        (&others, None, None, false),
    ] {
        let mut files = vec![
            ("mesh.yaml", mesh.as_str()),
            ("gateway.yaml", GATEWAY),
            ("policy.yaml", policy),
            ("namespace.yaml", &namespace),
        ];
        files.extend(service.map(|service| ("service.yaml", service)));
        let source = open(&files);
        source.keeps(&bindings).unwrap();
        for second in 1..10 {
            let now = Instant::now() + Duration::from_secs(60 * second);
            source.mesh(
                &ByNode::new(),
                &mut bindings,
                (&Reached::default(), now),
                &Snapshot::default(),
            );
        }
        assert_eq!(
            bindings.recorded().phases.get(&key("orders")),
            expected,
            "{mesh}"
        );
        let (compiled, _) = source.compiled(&ByNode::new(), bindings.recorded());
        let name = "shop/orders.shop.svc.cluster.local";
        assert_eq!(compiled.addresses.contains_key(name), published, "{mesh}");
    }
}

#[test]
fn a_start_with_a_policy_of_what_is_not_understood_is_refused() {
    let policy = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: shop}
spec: {targetRefs: [{group: \"\", kind: Service, name: orders}]}
";
    let broken = SERVICE.replace("port: 80", "port: x");
    let files = |service| Files::new(&[("policy.yaml", policy), ("service.yaml", service)]);
    files(SERVICE).open().unwrap();
    let refused = files(&broken).open().unwrap_err().to_string();
    for words in [
        "Service/shop/orders, spec.ports[0].port",
        "AuthorizationPolicy/shop/p is, or may be, for it",
    ] {
        assert!(refused.contains(words), "{refused}");
    }
}
