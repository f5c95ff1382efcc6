//! Facts about pods that refuse everybody, because a policy is for them that nobody can carry out.

use std::collections::BTreeMap;

use mesh::decide::{Decision, Request, Which, decide};

use super::{
    bound::{GET, LABEL, WEB, WP, attached, gateway, key, namespace, ready, recorded, web},
    told::delta,
    *,
};
use crate::{
    phase::{Known, Reached, Waits, next},
    source::{Loaded, load},
    world::{Phase, Waypoints},
};

/// What is loaded of a mesh that runs, after `text` has come to what was there.
fn later(text: &str) -> Loaded {
    let pods = pod("web", "shop", "labels: {app: web}", "")
        + &pod("other", "shop", "labels: {app: other}", "")
        + &pod("far", "bank", "labels: {app: web}", "");
    let mut files = BTreeMap::from([(PathBuf::from("a.yaml"), pods)]);
    let first = load(&files, None);
    assert_eq!(first.problems, []);
    files.insert(PathBuf::from("b.yaml"), text.to_owned());
    load(&files, Some(&first))
}

/// Whether shop/web, shop/other and bank/far are among the workloads that a policy denies everything, on all ports.
fn closed(compiled: &Compiled) -> [bool; 3] {
    ["shop/web", "shop/other", "bank/far"].map(|pod| {
        let Some(Type::Workload(workload)) =
            &compiled.addresses[&format!("Kubernetes//Pod/{pod}")].r#type
        else {
            panic!("{pod}")
        };
        let mut named = workload.authorization_policies.iter();
        named.any(|name| {
            let policy = &compiled.authorizations[name];
            assert!(mesh::model::is_generated(name.as_str().into()), "{name}");
            policy.action == proto::security::Action::Deny as i32
                && policy.groups == [proto::security::Group::default()]
        })
    })
}

/// Nobody would be kept to the policy: the service has no endpoints that anybody knows.
#[test]
fn the_pods_of_a_new_service_that_cannot_be_understood_and_has_a_policy_refuse_everybody() {
    let broken = |more: &str| {
        let ports = "clusterIP: 10.0.1.1, ports: [{port: x}]";
        service("web", "", &format!("{ports}{more}"))
    };
    let torn = "---\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {[";
    let selecting = broken(", selector: {app: web}");
    let policed = attached("p", WEB, GET);
    let dry = policed.replace(
        "namespace: shop}",
        "namespace: shop, annotations: {istio.io/dry-run: 'true'}}",
    );
    let bad = attached("p", WEB, "action: NO");
    let tokens = attached("p", WEB, "jwtRules: [{issuer: i}]")
        .replace("AuthorizationPolicy", "RequestAuthentication");
    for (text, expected) in [
        (selecting.clone() + &policed, [true, false, false]),
        (selecting.clone() + &bad, [true, false, false]),
        (selecting.clone() + &tokens, [true, false, false]),
        (broken("") + &policed, [true, true, false]),
        (
            broken(", selector: {app: 7}") + &policed,
            [true, true, false],
        ),
        (
            selecting.replace("name: web,", "name: WEB,") + &policed,
            [true, true, false],
        ),
        (
            selecting.clone() + &selecting.replace("app: web", "app: other") + &policed,
            [true, true, false],
        ),
        (policed.clone() + torn, [true, true, false]),
        (
            policed.clone() + &torn.replace("name: web", "nam"),
            [true, true, false],
        ),
        (selecting.clone(), [false; 3]),
        (selecting.clone() + &dry, [false; 3]),
        (
            selecting.replace("namespace: shop", "namespace: bank") + &policed,
            [false; 3],
        ),
    ] {
        let loaded = later(&text);
        assert_ne!(loaded.problems, [], "{text}");
        let compiled = compile(&loaded.world, &settings());
        assert_eq!(closed(&compiled), expected, "{text}");
    }
}

/// Whom a waypoint would have kept to the policy nobody knows.
#[test]
fn the_pods_of_a_new_service_whose_waypoint_may_have_a_policy_refuse_everybody() {
    let broken = |metadata: &str| {
        let ports = "clusterIP: 10.0.1.1, ports: [{port: x}], selector: {app: web}";
        service("web", metadata, ports)
    };
    let class = "{group: gateway.networking.k8s.io, kind: GatewayClass, name: ambit-waypoint}";
    let class = policy("p", "root", &format!("{{targetRefs: [{class}], {GET}}}"));
    let gateways = gateway("wp", "shop", "", "") + &gateway("other", "shop", "", "");
    let by_namespace = namespace("shop", "istio.io/use-waypoint: wp");
    let torn = "---\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {[";
    let none = "labels: {istio.io/use-waypoint: none}";
    for policed in [attached("p", WP, GET), class] {
        for (text, expected) in [
            (broken(LABEL), [true, false, false]),
            (broken("") + &by_namespace, [true, false, false]),
            (
                broken("labels: {istio.io/use-waypoint: 7}"),
                [true, false, false],
            ),
            (broken(LABEL) + &broken(none), [true, true, false]),
            (broken(none) + &broken(LABEL), [true, true, false]),
            (torn.to_owned(), [true, true, false]),
            (broken(""), [false; 3]),
            (broken(none) + &by_namespace, [false; 3]),
        ] {
            let loaded = later(&(gateways.clone() + &policed + &text));
            let compiled = compile(&loaded.world, &settings());
            assert_eq!(closed(&compiled), expected, "{text}{policed}");
            let status = &compiled.statuses[&ObjectRef::new(Kind::Service, "shop", "web")];
            let said = &status.conditions[0].message;
            assert_eq!(said.contains("refuse every peer"), expected[0], "{said}");
        }
    }
    let open = later(
        &(gateways + &attached("p", &WP.replace("name: wp", "name: other"), GET) + &broken(LABEL)),
    );
    assert_eq!(closed(&compile(&open.world, &settings())), [false; 3]);
}

#[test]
fn the_pods_of_a_new_namespace_that_cannot_be_understood_refuse_everybody_if_a_policy_may_be_for_them()
 {
    let broken = namespace("shop", "istio.io/use-waypoint: wp, x: 5");
    let torn = broken.replace("{name: shop", "{[name: shop");
    let nameless = broken.replace("name: shop", "name: SHOP");
    let both = [true, true, false];
    for (policed, expected) in [
        (policy("p", "shop", "{}"), both),
        (peer("p", "shop", "{mtls: {mode: STRICT}}"), both),
        (policy("p", "root", "{}"), both),
        (
            attached("p", WP, GET).replace("namespace: shop", "namespace: infra"),
            both,
        ),
        (policy("p", "bank", "{}"), [false; 3]),
        (String::new(), [false; 3]),
    ] {
        for text in [&broken, &torn] {
            let compiled = compile(&later(&(text.clone() + &policed)).world, &settings());
            assert_eq!(closed(&compiled), expected, "{text}{policed}");
            let status = &compiled.statuses[&ObjectRef::new(Kind::Namespace, "", "shop")];
            let said = &status.conditions[0].message;
            assert_eq!(said.contains("refuse every peer"), expected[0], "{said}");
        }
    }
    // It may be any of those that are not there.
    let world = later(&(nameless.clone() + &policy("p", "root", "{}"))).world;
    assert_eq!(closed(&compile(&world, &settings())), [true; 3]);
    let known = namespace("shop", "") + &policy("p", "shop", "{}");
    let world = later(&(nameless + &known)).world;
    assert_eq!(closed(&compile(&world, &settings())), [false; 3]);
}

/// Of which class it is nobody knows, so a policy of any may be for it.
#[test]
fn a_policy_of_a_class_closes_what_is_labelled_to_a_gateway_that_cannot_be_understood() {
    let class = "{group: gateway.networking.k8s.io, kind: GatewayClass, name: ambit-waypoint}";
    let class = policy("p", "root", &format!("{{targetRefs: [{class}], {GET}}}"));
    let broken = gateway("wp", "shop", "", "").replace("listeners", "listenerz");
    for (policed, expected) in [(class, SHUT), (String::new(), OPEN)] {
        let text = web(LABEL) + &broken + &policed;
        let files = BTreeMap::from([(PathBuf::from("a.yaml"), text)]);
        let compiled = compile(&load(&files, None).world, &settings());
        let status = &compiled.statuses[&ObjectRef::new(Kind::Gateway, "shop", "wp")];
        let said = &status.conditions[0].message;
        assert_eq!(said.contains("labelled to it is refused"), expected == SHUT);
        let [client, waypoint, ..] = doors(&compiled);
        assert_eq!([client, waypoint], expected[..2], "{policed}");
    }
}

#[test]
fn a_service_that_is_not_understood_says_what_that_does_and_is_no_matter_once_it_is() {
    let text = service("web", "", "selector: {app: web}, ports: [{port: x}]");
    let loaded = later(&(text + &attached("p", WEB, GET)));
    let compiled = compile(&loaded.world, &settings());
    let said = |kind, name: &str| {
        let status = &compiled.statuses[&ObjectRef::new(kind, "shop", name)];
        status.conditions[0].message.clone()
    };
    assert!(said(Kind::Service, "web").contains("refuse every peer"));
    assert!(said(Kind::AuthorizationPolicy, "p").contains("refuse every peer"));
    let mended =
        later(&(web("").split("---\n").nth(1).unwrap().to_owned() + &attached("p", WEB, GET)));
    assert_eq!(mended.problems, []);
    assert_eq!(closed(&compile(&mended.world, &settings())), [false; 3]);
}

/// Whether the pod `web` of `shop` lets a service account of `shop` in at a port.
fn admits(compiled: &Compiled, account: &str, port: u16) -> bool {
    let mut store = mesh::store::Store::new("n1".into(), "root".into());
    for delta in [
        delta(proto::AUTHORIZATION_TYPE, &compiled.authorizations),
        delta(proto::ADDRESS_TYPE, &compiled.own_addresses()),
    ] {
        assert_eq!(store.apply(&delta).0, []);
    }
    let generation = store.current();
    let pod = generation.workload("Kubernetes//Pod/shop/web").unwrap();
    let identity = format!("spiffe://cluster.local/ns/shop/sa/{account}");
    let request = Request {
        peer: Some(identity.parse().unwrap()),
        source: "10.0.0.7".parse().unwrap(),
        destination: "10.0.0.1".parse().unwrap(),
        port,
    };
    let verdict = decide(&generation, pod, &request, Which::All);
    matches!(verdict.decision, Decision::Allow(_))
}

/// At 8080, to which services lead, and at 9090: whether a client, and whether the waypoint `wp`, is let in.
fn doors(compiled: &Compiled) -> [bool; 4] {
    [("sa", 8080), ("wp", 8080), ("sa", 9090), ("wp", 9090)]
        .map(|(account, port)| admits(compiled, account, port))
}

const FOR_PODS: &str = "labels: {istio.io/waypoint-for: workload}";
const FOR_ALL: &str = "labels: {istio.io/waypoint-for: all}";
const OPEN: [bool; 4] = [true; 4];
const SHUT: [bool; 4] = [false; 4];

/// Nobody keeps who asks a pod's own address to the policy.
#[test]
fn a_pod_that_is_labelled_to_a_waypoint_for_workloads_with_a_policy_refuses_everybody() {
    let labelled = |label: &str| pod("web", "shop", &format!("labels: {{app: web, {label}}}"), "");
    let own = || labelled("istio.io/use-waypoint: wp");
    let by_namespace = || namespace("shop", "istio.io/use-waypoint: wp");
    let of_pods = || ready("wp", "shop", FOR_PODS, "");
    let policed = attached("p", WP, GET);
    let class = "{group: gateway.networking.k8s.io, kind: GatewayClass, name: ambit-waypoint}";
    let class = policy("p", "root", &format!("{{targetRefs: [{class}], {GET}}}"));
    let dry = policed.replace(
        "namespace: shop}",
        "namespace: shop, annotations: {istio.io/dry-run: 'true'}}",
    );
    let far = labelled("istio.io/use-waypoint: wp, istio.io/use-waypoint-namespace: infra");
    let infra = |routes: &str| {
        ready("wp", "infra", FOR_PODS, routes)
            + &policed.replace("namespace: shop", "namespace: infra")
    };
    let cases = [
        (own() + &of_pods() + &policed, SHUT),
        (own() + &of_pods() + &class, SHUT),
        (own() + &ready("wp", "shop", FOR_ALL, "") + &policed, SHUT),
        (
            own() + &gateway("wp", "shop", FOR_PODS, "") + &policed,
            SHUT,
        ),
        (
            own() + &of_pods().replace("ambit-waypoint", "other") + &policed,
            SHUT,
        ),
        (labelled("") + &by_namespace() + &of_pods() + &policed, SHUT),
        (
            far.clone() + &infra("allowedRoutes: {namespaces: {from: All}}"),
            SHUT,
        ),
        (far + &infra(""), OPEN),
        (
            labelled("istio.io/use-waypoint: none") + &by_namespace() + &of_pods() + &policed,
            OPEN,
        ),
        (labelled("") + &of_pods() + &policed, OPEN),
        (own() + &of_pods(), OPEN),
        (own() + &of_pods() + &dry, OPEN),
        (own() + &ready("wp", "shop", "", "") + &policed, OPEN),
        (own() + &policed, OPEN),
    ];
    for (text, expected) in cases {
        let compiled = compile(&world(&text), &settings());
        assert_eq!(doors(&compiled), expected, "{text}");
    }
    // Whom a Gateway that cannot be understood is for, nobody knows.
    let broken = gateway("wp", "shop", "labels: 7", "") + &policed;
    let pods = BTreeMap::from([(PathBuf::from("a.yaml"), own() + &broken)]);
    let compiled = compile(&load(&pods, None).world, &settings());
    assert_eq!(doors(&compiled), SHUT);
}

#[test]
fn a_waypoint_of_a_service_is_let_in_at_the_ports_that_it_leads_to_and_nowhere_else() {
    let gateways = ready("wp", "shop", FOR_ALL, "") + &ready("pods", "shop", FOR_PODS, "");
    let of_pods = attached("p", &WP.replace("name: wp", "name: pods"), GET);
    let to = |name: &str| format!("labels: {{app: web, istio.io/use-waypoint: {name}}}");
    let web = |name: &str| web(LABEL).replace("labels: {app: web}", &to(name));
    let through = [false, true, false, false];
    for text in [
        web("wp") + &gateways + &attached("p", WP, GET),
        // That of the service has no policy, and what is sent past it would not be kept to that of the pod.
        web("pods") + &gateways + &of_pods,
    ] {
        let compiled = compile(&world(&text), &settings());
        assert_eq!(doors(&compiled), through, "{text}");
    }
    // On its way to a binding a service loses no request.
    let text = web("wp") + &gateways + &attached("p", WP, GET);
    let gateway = || key("shop", "wp");
    let unbound = recorded(&text, &[gateway()], None);
    assert_eq!(
        doors(&compile(&unbound, &settings())),
        [true, true, false, false]
    );
    let enforced = Some(Phase::Enforced { gateway: gateway() });
    let bound = recorded(&text, &[gateway()], enforced);
    assert_eq!(doors(&compile(&bound, &settings())), through);
}

#[test]
fn a_headless_service_without_ports_leads_to_all_of_them() {
    let headless = service("own", "", "clusterIP: None, selector: {app: web}");
    let policed = attached("p", "{kind: Service, name: own}", GET);
    let text = headless + &pod("web", "shop", "labels: {app: web}", "");
    assert_eq!(doors(&compile(&world(&text), &settings())), OPEN);
    assert_eq!(
        doors(&compile(&world(&(text + &policed)), &settings())),
        SHUT
    );
}

/// A control plane without node proxies, to which states of the files come one after the other.
struct History {
    waypoints: Waypoints,
}

impl History {
    /// With shop/web enforced.
    fn enforced() -> Self {
        let gateway = key("shop", "wp");
        let phase = Phase::Enforced {
            gateway: gateway.clone(),
        };
        Self {
            waypoints: Waypoints {
                ready: [gateway].into(),
                phases: [(key("shop", "web"), phase)].into(),
            },
        }
    }

    /// Whether a client is let in at 8080 at any moment from when the files are this until all has settled.
    fn opens(&mut self, text: &str) -> bool {
        self.opens_with(&world(text))
    }

    fn opens_with(&mut self, world: &World) -> bool {
        let mut opened = false;
        let now = std::time::Instant::now();
        // One step at a time, as if each had to be waited for.
        for _ in 0..4 {
            let world = World {
                waypoints: Some(self.waypoints.clone()),
                ..world.clone()
            };
            let compiled = compile(&world, &settings());
            let node = Reached {
                nodes: vec![None],
                ..Reached::default()
            };
            let known = Known {
                wanted: &compiled.wanted,
                closed: &compiled.closed,
                gateways: &compiled.told.keys().cloned().collect(),
                reached: &node,
                waits: &Waits::default(),
                now,
            };
            self.waypoints = next(&self.waypoints, &known);
            let world = World {
                waypoints: Some(self.waypoints.clone()),
                ..world
            };
            opened |= admits(&compile(&world, &settings()), "sa", 8080);
        }
        opened
    }
}

#[test]
fn a_service_that_is_closed_is_never_open_on_its_way_to_another_way_of_being_closed() {
    let headless = |text: &str| text.replace("clusterIP: 10.0.1.1", "clusterIP: None");
    let gateways = gateway("wp", "shop", "", "")
        + &gateway(
            "no",
            "shop",
            "",
            "allowedRoutes: {namespaces: {from: None}}",
        )
        + &gateway("shared", "shop", FOR_PODS, "");
    let labelled = |name: &str| web(&format!("labels: {{istio.io/use-waypoint: {name}}}"));
    let named = attached("p", WEB, GET);
    let of_gateway = attached("p", WP, GET);
    let states = [
        (labelled("wp"), true),
        (headless(&labelled("wp")), true),
        (web(""), false),
        (headless(&web("")), false),
        (labelled("no"), false),
        (labelled("gone"), false),
        (labelled("shared"), false),
    ];
    for (first, _) in &states {
        for (second, _) in &states {
            for (third, _) in &states {
                let mut history = History::enforced();
                for state in [first, second, third] {
                    let text = state.clone() + &gateways + &named;
                    assert!(!history.opens(&text), "{first}{second}{third}");
                }
            }
        }
    }
    let bound: Vec<_> = states.iter().filter(|(_, bound)| *bound).collect();
    let mut history = History::enforced();
    for (state, _) in bound.iter().chain(&bound) {
        assert!(
            !history.opens(&(state.clone() + &gateways + &of_gateway)),
            "{state}"
        );
    }
    // Who takes the policy away, or the label that leads to it, opens it.
    for (state, _) in bound {
        let unlabelled = state.replace("use-waypoint: wp", "use-waypoint: none");
        for open in [
            state.clone() + &gateways,
            unlabelled + &gateways + &of_gateway,
        ] {
            let mut history = History::enforced();
            history.opens(&(state.clone() + &gateways + &of_gateway));
            assert!(history.opens(&open), "{open}");
        }
    }
}

/// The text with a change in the metadata of its Service.
fn head(text: &str, from: &str, to: &str) -> String {
    let (before, rest) = text.split_once("kind: Service, meta").unwrap();
    format!("{before}kind: Service, meta{}", rest.replacen(from, to, 1))
}

/// What closes shop/web because it is not understood, and the same corrected, which denies whoever goes around.
fn corrected() -> [(&'static str, String, String); 13] {
    let class = |controller: &str| {
        format!(
            "---\n{{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {{name: own}}, spec: {{controllerName: {controller}}}}}\n"
        )
    };
    let named =
        |service: String| service + &gateway("wp", "shop", "", "") + &attached("p", WEB, GET);
    let behind =
        |service: String| service + &gateway("wp", "shop", "", "") + &attached("p", WP, GET);
    let of_class =
        |controller| behind(web(LABEL)).replace("ambit-waypoint", "own") + &class(controller);
    let by_namespace =
        behind(web("labels: {a: b}") + &namespace("shop", "istio.io/use-waypoint: wp"));
    let (named, behind) = (named(web(LABEL)), behind(web(LABEL)));
    let service = |text: &str| text.replacen("metadata: {", "metadata: {[", 1);
    let ports = |text: &str| text.replacen("port: 80,", "port: x,", 1);
    let torn = "kind: Namespace, metadata: {";
    [
        ("a Service", ports(&named), named.clone()),
        ("a torn Service", service(&named), named.clone()),
        ("a Service of a waypoint", ports(&behind), behind.clone()),
        (
            "one of no name",
            service(&behind).replacen("name: web,", "", 1),
            behind.clone(),
        ),
        (
            "one of no name that can be",
            head(&behind, "name: web,", "name: Bad_Web,"),
            behind.clone(),
        ),
        (
            "one of any namespace",
            head(&behind, "namespace: shop", "namespace: [shop]"),
            behind.clone(),
        ),
        (
            "one of any namespace that is named",
            head(&named, "namespace: shop", "namespce: shop"),
            named.clone(),
        ),
        (
            "one of no kind",
            behind.replace("kind: Service, meta", "kind: Servce, meta"),
            behind.clone(),
        ),
        (
            "a Namespace",
            by_namespace.replace("use-waypoint: wp", "use-waypoint: 7"),
            by_namespace.clone(),
        ),
        (
            "a torn Namespace",
            by_namespace.replace(torn, &format!("{torn}[")),
            by_namespace,
        ),
        ("a class", of_class("[]"), of_class("ambit.dev/waypoint")),
        (
            "a policy",
            named.replace("kind: Service, name", "kinds: Service, name"),
            named,
        ),
        (
            "a policy of a Gateway",
            behind.replace("kind: Gateway, name", "kin: Gateway, name"),
            behind,
        ),
    ]
}

/// In a control plane that runs, whose files have what is faulty for the first time.
#[test]
fn what_a_fault_closed_is_never_open_on_its_way_to_being_denied_for_good() {
    let read = |text: &str, before: Option<&Loaded>| {
        load(&[(PathBuf::from("a.yaml"), text.to_owned())].into(), before)
    };
    let pods = read(&pod("web", "shop", "labels: {app: web}", ""), None);
    for (what, faulty, good) in corrected() {
        let faulty = read(&faulty, Some(&pods));
        assert_ne!(faulty.problems, [], "{what}");
        let good = read(&good, Some(&faulty));
        assert_eq!(good.problems, [], "{what}");
        for ready in [None, Some(key("shop", "wp"))] {
            let waypoints = Waypoints {
                ready: ready.into_iter().collect(),
                ..Waypoints::default()
            };
            let mut history = History { waypoints };
            assert!(!history.opens_with(&faulty.world), "{what}");
            assert!(!history.opens_with(&good.world), "{what}");
            let end: Vec<_> = history.waypoints.phases.into_iter().collect();
            let gateway = key("shop", "wp");
            let enforced = Phase::Enforced { gateway };
            assert_eq!(end, [(key("shop", "web"), enforced)], "{what}");
        }
    }
}
