//! Services that get a waypoint and lose it: what clients see of it, under load and step by step, and what keeps a service
//! closed.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::LazyLock,
};

use cli::{http::Request, lab::Node};
use sys::netns::privileged;
use tests::{
    gateway::{Gateway, methods, service, through},
    load,
    mesh::Mesh,
    pod::Pod,
    world::{ECHO, HTTP},
};

/// Its waypoint is there from the beginning.
const READY: Gateway = Gateway::new("ready", Node::One, 200);
/// Deleted and put back by one test.
const FICKLE: Gateway = Gateway::new("fickle", Node::Two, 201);

static WORLD: LazyLock<Mesh> = LazyLock::new(|| {
    let servers = ["orders", "routed", "fickled", "spared", "unlabelled"];
    let mut pods = vec![
        Pod::new("web", Node::One, 10),
        Pod::new("bare", Node::Two, 30),
    ];
    pods.extend(
        (20..)
            .zip(servers)
            .map(|(host, name)| Pod::new(name, Node::Two, host)),
    );
    let mut world = Mesh::new(tests::place!(), "binding", &pods, &[], &[]);
    world.run_gateway(&READY);
    world.run_gateway(&FICKLE);
    world
});

fn vip(host: u8) -> SocketAddr {
    SocketAddr::new(IpAddr::from(Ipv4Addr::new(10, 96, 0, host)), 80)
}

fn around(pod: &str) -> SocketAddr {
    SocketAddr::new(WORLD.ip(pod), HTTP)
}

/// The status of a request from `web`; `None` if nobody answers.
fn status(method: &str, to: SocketAddr) -> Option<u16> {
    let request = Request {
        method,
        ..Request::get("/")
    };
    Some(WORLD.ask("web", to, &request).ok()?.status)
}

/// Whether a waypoint stands between, as the application sees it; `None` if nobody answers.
fn is_judged(to: SocketAddr) -> Option<bool> {
    let answer = WORLD.ask("web", to, &Request::get("/headers")).ok()?;
    let body = String::from_utf8(answer.body).unwrap();
    (answer.status == 200).then(|| body.contains("x-forwarded-for"))
}

/// Whether the waypoint `ready` is told of a service as one of its own.
fn is_told(service: &str) -> bool {
    let dump = WORLD.waypoint_dump(&READY).unwrap();
    dump["tables"]
        .to_string()
        .contains(&format!("\"{service}.shop.svc."))
}

fn until(what: &str, holds: impl FnMut() -> bool) {
    WORLD.until(what, holds);
}

#[test]
fn a_binding_that_comes_and_goes_under_load_loses_no_request() {
    if !privileged("a_binding_that_comes_and_goes_under_load_loses_no_request") {
        return;
    }
    let (to, straight) = (vip(60), around("orders"));
    let plain = service("orders", 60, "orders", "");
    let bound =
        service("orders", 60, "orders", &through(READY.name)) + &methods("orders", "orders", "GET");
    WORLD.put("orders", &plain);
    WORLD.known("orders");
    until("the service is known", || is_judged(to) == Some(false));
    let counts = load::during(&WORLD, ("web", to), |load| {
        for _ in 0..3 {
            WORLD.put("orders", &bound);
            until("whoever goes around is refused", || {
                status("GET", straight).is_none()
            });
            // That comes last: the way through the waypoint is taken already.
            assert_eq!(is_judged(to), Some(true));
            assert_eq!(status("POST", to), Some(403));
            assert!(is_told("orders"));
            load.goes_on();

            WORLD.put("orders", &plain);
            until("the waypoint is left out", || is_judged(to) == Some(false));
            // That comes last: nobody is refused any more.
            assert_eq!(status("GET", straight), Some(200));
            load.goes_on();
            until("the waypoint has forgotten it", || !is_told("orders"));
            load.goes_on();
        }
    });
    // Of the two connections that are kept, each is ended once by each of the three denials.
    assert!(counts.reopened <= 6, "{counts:?}");
    assert_eq!(counts.cut, 0, "what was opening had the time to arrive");
}

#[test]
fn a_route_that_changes_under_load_loses_no_request() {
    if !privileged("a_route_that_changes_under_load_loses_no_request") {
        return;
    }
    let to = vip(61);
    let route = |turn: usize| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: routed, namespace: shop}}
spec:
  parentRefs: [{{group: \"\", kind: Service, name: routed}}]
  rules:
  - filters:
    - type: ResponseHeaderModifier
      responseHeaderModifier: {{set: [{{name: x-turn, value: \"{turn}\"}}]}}
    backendRefs: [{{name: routed, port: 80}}]
"
        )
    };
    WORLD.put(
        "routed-service",
        &service("routed", 61, "routed", &through(READY.name)),
    );
    WORLD.put("routed", &route(0));
    let turn = || {
        let answer = WORLD.ask("web", to, &Request::get("/")).ok()?;
        answer.header("x-turn")?.parse::<usize>().ok()
    };
    WORLD.known("routed");
    until("the route is in force", || turn() == Some(0));
    let counts = load::during(&WORLD, ("web", to), |load| {
        for next in 1..=20 {
            WORLD.put("routed", &route(next));
            until("the change is in force", || turn() == Some(next));
        }
        load.holds();
    });
    assert_eq!(
        (counts.reopened, counts.cut),
        (0, 0),
        "a route ends nothing"
    );
}

#[test]
fn only_its_label_unbinds_a_service() {
    if !privileged("only_its_label_unbinds_a_service") {
        return;
    }
    let to = vip(62);
    let put = |more: &str| WORLD.put("fickled", &service("fickled", 62, "fickled", more));
    put(&through(FICKLE.name));
    WORLD.known("fickled");
    until("it is bound", || is_judged(to) == Some(true));

    // The Gateway goes, and comes back.
    WORLD.take("gateway-fickle");
    until("it is closed", || status("GET", to).is_none());
    WORLD.put("gateway-fickle", &FICKLE.manifest());
    until("it is open again", || is_judged(to) == Some(true));

    // A label that names what is not there.
    put(&through("nobody"));
    until("it is closed", || status("GET", to).is_none());
    let mark = WORLD.mark(Node::One);
    until("the client's own node says why", || {
        assert_eq!(status("GET", to), None);
        let records = WORLD.records(Node::One, mark);
        records
            .iter()
            .any(|it| it.outbound() && it.get("error").contains("nobody.shop.svc"))
    });
    put(&through(READY.name));
    until("it has another waypoint", || is_judged(to) == Some(true));
    put(", labels: {istio.io/use-waypoint: none}");
    until("it has none", || is_judged(to) == Some(false));
}

#[test]
fn a_policy_of_a_headless_service_closes_its_target_ports() {
    if !privileged("a_policy_of_a_headless_service_closes_its_target_ports") {
        return;
    }
    let headless = "apiVersion: v1
kind: Service
metadata: {name: bare, namespace: shop, labels: {istio.io/use-waypoint: ready}}
spec:
  clusterIP: None
  selector: {app: bare}
  ports:
  - {name: http, port: 8080}
---
";
    WORLD.put("bare", headless);
    let (http, echo) = (around("bare"), WORLD.ip("bare"));
    until("it is open", || is_judged(http) == Some(false));
    WORLD.put(
        "bare",
        &(headless.to_owned() + &methods("bare", "bare", "GET")),
    );
    until("its target port is closed", || {
        status("GET", http).is_none()
    });
    WORLD.open("web", echo).unwrap();
    WORLD.put("bare", headless);
    until("it is open again", || is_judged(http) == Some(false));
}

#[test]
fn a_policy_without_a_label_closes_a_service() {
    if !privileged("a_policy_without_a_label_closes_a_service") {
        return;
    }
    let (to, straight) = (vip(63), around("unlabelled"));
    let plain = service("unlabelled", 63, "unlabelled", "");
    WORLD.put("unlabelled", &plain);
    WORLD.known("unlabelled");
    until("it is open", || is_judged(to) == Some(false));
    let policy = methods("unlabelled", "unlabelled", "GET");
    WORLD.put("unlabelled", &(plain + &policy));
    until("nobody gets there", || status("GET", to).is_none());
    until("by no way", || status("GET", straight).is_none());
    let mark = WORLD.mark(Node::One);
    until("the client's own node says why", || {
        assert_eq!(status("GET", to), None);
        let records = WORLD.records(Node::One, mark);
        records
            .iter()
            .any(|it| it.outbound() && it.get("error").contains("no-waypoint.invalid"))
    });
    // The annotation is about who goes around, not about who is to be judged.
    let spared = ", annotations: {ambit.dev/waypoint-bypass: allowed}";
    let spared = service("unlabelled", 63, "unlabelled", spared);
    WORLD.put("unlabelled", &(spared + &policy));
    until("going around is let be", || {
        status("GET", straight) == Some(200)
    });
    assert_eq!(status("GET", to), None);
    WORLD.put(
        "unlabelled",
        &(service("unlabelled", 63, "unlabelled", &through(READY.name)) + &policy),
    );
    until("it is judged", || is_judged(to) == Some(true));
    assert_eq!(status("POST", to), Some(403));
    until("nobody goes around", || status("GET", straight).is_none());
}

#[test]
fn an_annotation_lets_clients_go_around() {
    if !privileged("an_annotation_lets_clients_go_around") {
        return;
    }
    let (to, straight) = (vip(64), around("spared"));
    let bound = |more: &str| {
        let more = format!("{}{more}", through(READY.name));
        service("spared", 64, "spared", &more) + &methods("spared", "spared", "GET")
    };
    WORLD.put("spared", &bound(""));
    WORLD.known("spared");
    until("nobody goes around", || status("GET", straight).is_none());
    // Another value is none.
    for (value, expected) in [("allowed", Some(200)), ("perhaps", None)] {
        let annotation = format!(", annotations: {{ambit.dev/waypoint-bypass: {value}}}");
        WORLD.put("spared", &bound(&annotation));
        until("the annotation is in force", || {
            status("GET", straight) == expected
        });
        assert_eq!(status("POST", to), Some(403), "it is judged either way");
    }
    // Ports that the service does not lead to are not its affair.
    let mark = WORLD.mark(Node::Two);
    WORLD.open("web", WORLD.ip("spared")).unwrap_err();
    WORLD.record(Node::Two, mark, |it| {
        it.inbound()
            && it
                .get("policy")
                .contains(&format!("ambit_waypoint_{ECHO}_"))
    });
}
