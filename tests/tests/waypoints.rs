//! Several waypoints: of other namespaces, one behind the other, in a circle; routes of clients; and what one of them may ask
//! for.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::LazyLock,
    time::Duration,
};

use ::mesh::identity::Identity;
use cli::{
    http::{Request, Response},
    lab::{CONTROL, Node},
};
use net::{
    ca::{Authority, NotIssued},
    channel::{Caller, Roots, Server, Token},
};
use sys::netns::privileged;
use tests::{
    gateway::{Gateway, service, through},
    mesh::{Mesh, PORT},
    pod::Pod,
};

const FIRST: Gateway = Gateway::new("first", Node::One, 200);
const SECOND: Gateway = Gateway::new("second", Node::Two, 201);
const FOREIGN: Gateway = Gateway::new("foreign", Node::One, 202).of("others");
const TRUSTED: Gateway = Gateway::new("trusted", Node::Two, 203).of("gates");

const CONFIGURATION: &str = "apiVersion: v1
kind: ConfigMap
metadata: {name: ambit, namespace: ambit-system}
data:
  mesh: |
    trustedWaypointNamespaces: [gates]
";

static WORLD: LazyLock<Mesh> = LazyLock::new(|| {
    let mut pods = vec![
        Pod::new("web", Node::One, 10),
        Pod::new("batch", Node::Two, 10),
        Pod::new("buyer", Node::One, 11).of("clients"),
    ];
    let servers = ["guarded", "kept", "behind", "consumed"];
    pods.extend(
        (20..)
            .zip(servers)
            .map(|(host, name)| Pod::new(name, Node::Two, host)),
    );
    let manifests = [("configuration", CONFIGURATION)];
    let mut world = Mesh::new(tests::place!(), "waypoints", &pods, &manifests, &[]);
    for gateway in [FIRST, SECOND, FOREIGN, TRUSTED] {
        world.run_gateway(&gateway);
    }
    world
});

fn vip(host: u8) -> SocketAddr {
    SocketAddr::new(IpAddr::from(Ipv4Addr::new(10, 96, 0, host)), 80)
}

fn ask(from: &str, to: SocketAddr, method: &str, path: &str) -> Option<Response> {
    let request = Request {
        method,
        ..Request::get(path)
    };
    WORLD.ask(from, to, &request).ok()
}

fn get(from: &str, to: SocketAddr, path: &str) -> Option<u16> {
    Some(ask(from, to, "GET", path)?.status)
}

fn is_judged(to: SocketAddr) -> bool {
    ask("web", to, "GET", "/headers").is_some_and(|answer| {
        String::from_utf8(answer.body)
            .unwrap()
            .contains("x-forwarded-for")
    })
}

/// The statuses that a waypoint has logged for a path.
fn logged(gateway: &Gateway, path: &str) -> Vec<u16> {
    let log = WORLD.waypoint_log(gateway);
    let request = format!("\"GET {path} HTTP/1.1\" ");
    let lines = log.lines().filter_map(|line| line.split_once(&request));
    lines.map(|(_, rest)| rest[..3].parse().unwrap()).collect()
}

/// A policy that allows these principals alone to come to what `target` names.
fn only(name: &str, target: &str, principals: &[&Identity]) -> String {
    let principals: Vec<_> = principals.iter().map(|it| it.principal()).collect();
    format!(
        "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: shop}}
spec:
  {target}
  action: ALLOW
  rules:
  - from:
    - source: {{principals: [{}]}}
",
        principals.join(", ")
    )
}

fn workload(app: &str) -> String {
    format!("selector: {{matchLabels: {{app: {app}}}}}")
}

/// A route of a service to another one, without conditions.
fn route(name: &str, to: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: shop}}
spec:
  parentRefs: [{{group: \"\", kind: Service, name: {name}}}]
  rules:
  - backendRefs: [{{name: {to}, port: 80}}]
"
    )
}

fn through_other(gateway: &Gateway) -> String {
    let Gateway {
        name, namespace, ..
    } = gateway;
    format!(
        ", labels: {{istio.io/use-waypoint: {name}, istio.io/use-waypoint-namespace: {namespace}}}"
    )
}

#[test]
fn a_waypoint_of_another_namespace_is_a_client_as_any_other() {
    if !privileged("a_waypoint_of_another_namespace_is_a_client_as_any_other") {
        return;
    }
    let to = vip(70);
    WORLD.put(
        "guarded",
        &service("guarded", 70, "guarded", &through_other(&FOREIGN)),
    );
    WORLD.known("guarded");
    WORLD.until("it is bound", || is_judged(to));
    let (web, foreign) = (WORLD.pod("web").identity(), FOREIGN.identity());
    let put = |allowed: &[&Identity]| {
        WORLD.put(
            "guarded-only",
            &only("guarded", &workload("guarded"), allowed),
        );
    };
    put(&[&web]);
    // It lets web through, and is not let in itself.
    WORLD.until("the endpoint refuses it", || {
        get("web", to, "/") == Some(503)
    });
    WORLD.until("the waypoint refuses batch", || {
        get("batch", to, "/") == Some(403)
    });
    put(&[&web, &foreign]);
    WORLD.until("both are allowed", || get("web", to, "/") == Some(200));
    assert_eq!(get("batch", to, "/"), Some(403));
    // Allowed to the waypoint alone, it is nobody's.
    put(&[&foreign]);
    WORLD.until("the waypoint refuses web", || {
        get("web", to, "/") == Some(403)
    });
}

#[test]
fn a_trusted_waypoint_judges_in_place_of_the_endpoint() {
    if !privileged("a_trusted_waypoint_judges_in_place_of_the_endpoint") {
        return;
    }
    let to = vip(71);
    WORLD.put(
        "kept",
        &service("kept", 71, "kept", &through_other(&TRUSTED)),
    );
    WORLD.known("kept");
    WORLD.until("it is bound", || is_judged(to));
    let web = WORLD.pod("web").identity();
    WORLD.put("kept-only", &only("kept", &workload("kept"), &[&web]));
    WORLD.until("batch is refused", || get("batch", to, "/") == Some(403));
    WORLD.refuses("batch", WORLD.ip("kept"));
    assert_eq!(get("web", to, "/"), Some(200));
    WORLD.open("web", WORLD.ip("kept")).unwrap();
}

#[test]
fn a_backend_behind_another_waypoint_is_reached_through_both() {
    if !privileged("a_backend_behind_another_waypoint_is_reached_through_both") {
        return;
    }
    let to = vip(72);
    WORLD.put(
        "front",
        &service("front", 72, "nobody", &through(FIRST.name)),
    );
    WORLD.put("front-route", &route("front", "behind"));
    WORLD.put(
        "behind",
        &service("behind", 73, "behind", &through(SECOND.name)),
    );
    WORLD.known("front");
    WORLD.until("the way is open", || get("web", to, "/open") == Some(200));
    WORLD.until("both have seen a request", || {
        logged(&FIRST, "/open").contains(&200) && logged(&SECOND, "/open").contains(&200)
    });
    let (web, first) = (WORLD.pod("web").identity(), FIRST.identity());
    let target = "targetRefs: [{group: \"\", kind: Service, name: behind}]";
    let put = |allowed: &[&Identity]| WORLD.put("behind-only", &only("behind", target, allowed));
    // The first judges with the client, the second with the first as its client.
    put(&[&web]);
    WORLD.until("the second refuses the first", || {
        get("web", to, "/second-says-no") == Some(403)
            && logged(&SECOND, "/second-says-no").contains(&403)
    });
    put(&[&web, &first]);
    WORLD.until("the way is open again", || get("web", to, "/") == Some(200));
    WORLD.until("batch is refused", || get("batch", to, "/") == Some(403));
    put(&[&first]);
    WORLD.until("the first refuses web", || get("web", to, "/") == Some(403));
    assert_eq!(get("web", to, "/first-says-no"), Some(403));
    assert!(logged(&SECOND, "/first-says-no").is_empty());
}

#[test]
fn routes_in_a_circle_end_soon() {
    if !privileged("routes_in_a_circle_end_soon") {
        return;
    }
    let to = vip(74);
    WORLD.put("ping", &service("ping", 74, "nobody", &through(FIRST.name)));
    WORLD.put(
        "pong",
        &service("pong", 75, "nobody", &through(SECOND.name)),
    );
    WORLD.put("ping-route", &route("ping", "pong"));
    WORLD.put("pong-route", &route("pong", "ping"));
    WORLD.known("ping");
    // Before both are there it is refused for other reasons.
    WORLD.until("it goes in a circle", || {
        get("web", to, "/before") == Some(503) && !logged(&SECOND, "/before").is_empty()
    });
    assert_eq!(get("web", to, "/circle"), Some(503));
    for gateway in [&FIRST, &SECOND] {
        WORLD.until("it is told", || !logged(gateway, "/circle").is_empty());
        assert_eq!(logged(gateway, "/circle"), [503], "{}", gateway.name);
    }
}

#[test]
fn a_route_of_clients_is_theirs_alone_and_opens_nothing() {
    if !privileged("a_route_of_clients_is_theirs_alone_and_opens_nothing") {
        return;
    }
    let to = vip(76);
    let policy = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: consumed, namespace: shop}
spec:
  targetRefs: [{group: \"\", kind: Service, name: consumed}]
  rules:
  - to:
    - operation: {methods: [GET], paths: [/open]}
---
";
    let consumed = service("consumed", 76, "consumed", &through(FIRST.name)) + policy;
    WORLD.put("consumed", &consumed);
    let route = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: consumer, namespace: clients}
spec:
  parentRefs: [{group: \"\", kind: Service, name: consumed, namespace: shop}]
  rules:
  - filters:
    - type: URLRewrite
      urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /open}}
    - type: ResponseHeaderModifier
      responseHeaderModifier: {set: [{name: x-consumer, value: \"yes\"}]}
    backendRefs: [{name: consumed, namespace: shop, port: 80}]
";
    WORLD.put("consumer", route);
    // What it leads to is not its own, and nobody has granted that.
    WORLD.known("consumed");
    WORLD.until("its backend is refused", || {
        get("buyer", to, "/open") == Some(500)
    });
    assert_eq!(get("web", to, "/open"), Some(200));
    let grant = "apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: clients, namespace: shop}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: clients}]
  to: [{group: \"\", kind: Service}]
";
    WORLD.put("consumer-grant", grant);
    let marked = |from: &str| {
        let answer = ask(from, to, "GET", "/open")?;
        (answer.status == 200).then(|| answer.header("x-consumer").is_some())
    };
    WORLD.until("it is in force", || marked("buyer") == Some(true));
    assert_eq!(marked("web"), Some(false));
    // What is decided is what was asked for, not what the route makes of it.
    for from in ["buyer", "web"] {
        assert_eq!(get(from, to, "/closed"), Some(403));
        assert_eq!(ask(from, to, "POST", "/open").unwrap().status, 403);
    }
    // What a client says of itself counts for nothing.
    let buyer = WORLD.pod("buyer").identity();
    let certificate = format!("URI={buyer}");
    let headers = [
        ("x-forwarded-client-cert", certificate.as_str()),
        ("baggage", "k8s.namespace.name=clients"),
    ];
    let request = Request {
        headers: &headers,
        ..Request::get("/open")
    };
    let answer = WORLD.ask("web", to, &request).unwrap();
    assert_eq!((answer.status, answer.header("x-consumer")), (200, None));
}

#[test]
fn a_waypoint_is_told_of_its_own_services_and_certified_as_itself() {
    if !privileged("a_waypoint_is_told_of_its_own_services_and_certified_as_itself") {
        return;
    }
    WORLD.put("mine", &service("mine", 77, "nobody", &through(FIRST.name)));
    WORLD.put(
        "theirs",
        &service("theirs", 78, "behind", &through(SECOND.name)),
    );
    WORLD.put("nobodys", &service("nobodys", 79, "kept", ""));
    let knows = |gateway: &Gateway, name: &str| {
        let dump = WORLD.waypoint_dump(gateway).unwrap().to_string();
        dump.contains(&format!("{name}.shop.svc.cluster.local"))
    };
    WORLD.until("each is told of its own", || {
        knows(&FIRST, "mine") && knows(&SECOND, "theirs")
    });
    assert!(!knows(&FIRST, "theirs") && !knows(&SECOND, "mine"));
    for gateway in [&FIRST, &SECOND] {
        assert!(!knows(gateway, "nobodys"));
    }
    issued(&FIRST, FIRST.identity()).unwrap();
    for other in [SECOND.identity(), WORLD.pod("web").identity()] {
        let refused = issued(&FIRST, other);
        assert!(
            matches!(refused, Err(NotIssued::Refused(..))),
            "{other}: {refused:?}"
        );
    }
}

/// Asks for a certificate of an identity with the credential of a Gateway, from its pod.
fn issued(gateway: &Gateway, identity: Identity) -> Result<(), NotIssued> {
    let roots = Roots::File(WORLD.path("state/root-cert.pem"));
    let server = Server::new(&format!("https://{CONTROL}:{PORT}"), roots, None).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let issue = async {
        let authority = Authority {
            channel: server.lazy(),
            caller: Caller {
                token: Some(Token::File(WORLD.path(&gateway.token()))),
                cluster: "Kubernetes".to_owned(),
                headers: Vec::new(),
            },
            life: Duration::from_secs(60),
            aliases: Vec::new(),
            now: net::clock::wall,
        };
        authority.issue(identity).await.map(drop)
    };
    // The runtime has no thread but this one, so what it connects is connected from the pod.
    let netns = WORLD.netns(gateway.name);
    netns.within(|| Ok(runtime.block_on(issue))).unwrap()
}
