//! Whatever changes from one world to the next: what is taken from the last one is what would be made anew.

use proptest::{collection::vec, prelude::*, sample::Index};

use super::{
    bound::{GET, LABEL, WEB, WP, key, namespace, ready},
    *,
};
use crate::{
    manifest::RouteKind,
    publish::{Kind as Resources, Snapshot, Stream},
    subject::Subject,
    world::{Phase, Waypoints},
};

/// An object, and what may be written of it.
struct Slot {
    reference: ObjectRef,
    written: Vec<World>,
}

fn slot(kind: Kind, namespace: &str, name: &str, written: &[String]) -> Slot {
    let read = |text: &String| {
        let text = [(PathBuf::from("test.yaml"), text.clone())].into();
        load(&text, None).world
    };
    let slot = Slot {
        reference: ObjectRef::new(kind, namespace, name),
        written: written.iter().map(read).collect(),
    };
    for world in &slot.written {
        let reference = &slot.reference;
        let is_there = world.object(reference).is_some() || world.faults.contains_key(reference);
        assert!(is_there, "{reference}");
    }
    slot
}

fn slots() -> Vec<Slot> {
    let mut all = Vec::new();
    for home in ["shop", "bank"] {
        pods(home, &mut all);
        services(home, &mut all);
        lists(home, &mut all);
    }
    for home in ["shop", "root"] {
        policies(home, &mut all);
    }
    rest(&mut all);
    all
}

fn pods(home: &str, all: &mut Vec<Slot>) {
    let labels = ["", "use: 'no'", "istio.io/use-waypoint: wp"];
    let homes = labels.map(|labels| namespace(home, labels));
    let near = homes[0].replace(
        "labels: {}",
        "annotations: {networking.istio.io/traffic-distribution: PreferClose}",
    );
    let homes = [&homes[..], &[near]].concat();
    all.push(slot(Kind::Namespace, "", home, &homes));
    for name in ["a", "b", "c"] {
        let labels = ["labels: {app: web}", "labels: {app: web, v: '2'}", ""];
        let mut pods = Vec::from(labels.map(|labels| pod(name, home, labels, "")));
        pods.push(pods[0].replace("10.0.0.1", "10.0.0.2"));
        pods.push(pods[0].replace("n1", "n2"));
        pods.push(pod(
            name,
            home,
            "annotations: {ambient.istio.io/redirection: enabled}",
            "",
        ));
        pods.push(pods[0].replace("podIPs", "phase: Failed, podIPs"));
        all.push(slot(Kind::Pod, home, name, &pods));
    }
}

fn services(home: &str, all: &mut Vec<Slot>) {
    for name in ["web", "other"] {
        let port = "ports: [{name: http, port: 80, targetPort: 8080}]";
        let selects = |metadata, selector, port| {
            let spec = format!("clusterIP: 10.0.1.1, {selector} {port}");
            service(name, metadata, &spec).replace("namespace: shop", &format!("namespace: {home}"))
        };
        let services = [
            selects("", "selector: {app: web},", port),
            selects(LABEL, "selector: {app: web},", port),
            selects("", "selector: {v: '2', app: web},", port),
            selects("", "", port),
            selects("", "selector: {app: web},", "ports: [{port: 81}]"),
            selects("", "selector: {app: [web]},", port),
        ];
        all.push(slot(Kind::Service, home, name, &services));
    }
}

/// Endpoints that somebody wrote.
fn lists(home: &str, all: &mut Vec<Slot>) {
    let slice = |endpoint: &str| {
        format!(
            "---\n{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, \
                 metadata: {{name: web-1, namespace: {home}, labels: {{kubernetes.io/service-name: web}}}}, \
                 ports: [{{name: http, port: 8080}}], endpoints: [{{{endpoint}}}]}}\n"
        )
    };
    let slices = [
        "addresses: [192.0.2.9]",
        "addresses: [10.0.0.2]",
        "addresses: [10.0.0.1], targetRef: {kind: Pod, name: a, namespace: shop}",
    ];
    all.push(slot(Kind::EndpointSlice, home, "web-1", &slices.map(slice)));
    let entry = |spec: &str| {
        format!(
            "---\n{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: ext, namespace: {home}}}, \
                 spec: {{hosts: [ext.example], ports: [{{number: 80, name: http, protocol: HTTP}}], {spec}}}}}\n"
        )
    };
    let entries = [
        "addresses: [198.51.100.1], resolution: STATIC, endpoints: [{address: 10.0.0.2}]",
        "addresses: [198.51.100.1], resolution: STATIC, workloadSelector: {labels: {app: web}}",
        "resolution: NONE",
    ];
    all.push(slot(Kind::ServiceEntry, home, "ext", &entries.map(entry)));
}

fn policies(home: &str, all: &mut Vec<Slot>) {
    let policies = [
        "{rules: [{from: [{source: {namespaces: [a]}}]}]}".to_owned(),
        "{selector: {matchLabels: {app: web}}, rules: [{}]}".to_owned(),
        "{selector: {matchLabels: {v: '2'}}, action: DENY, rules: [{}]}".to_owned(),
        format!("{{targetRefs: [{WEB}], {GET}}}"),
        format!("{{targetRefs: [{WP}], {GET}}}"),
        "{action: NONSENSE}".to_owned(),
    ];
    for name in ["p", "q"] {
        let policies = policies.each_ref().map(|spec| policy(name, home, spec));
        all.push(slot(Kind::AuthorizationPolicy, home, name, &policies));
    }
    let peers = [
        "{mtls: {mode: STRICT}}",
        "{selector: {matchLabels: {app: web}}, mtls: {mode: PERMISSIVE}}",
        "{selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}, portLevelMtls: {8080: {mode: DISABLE}}}",
    ];
    let peers = peers.map(|spec| peer("m", home, spec));
    all.push(slot(Kind::PeerAuthentication, home, "m", &peers));
}

fn rest(all: &mut Vec<Slot>) {
    let waypoints = [
        ready("wp", "shop", "", ""),
        ready("wp", "shop", "", "allowedRoutes: {namespaces: {from: All}}"),
    ];
    all.push(slot(Kind::Gateway, "shop", "wp", &waypoints));
    let route = |backend: &str| {
        format!(
            "---\n{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: r, namespace: shop}}, \
             spec: {{parentRefs: [{{group: '', kind: Service, name: web, port: 80}}], rules: [{{backendRefs: [{{name: {backend}, port: 80}}]}}]}}}}\n"
        )
    };
    all.push(slot(
        Kind::Route(RouteKind::Http),
        "shop",
        "r",
        &["web", "other"].map(route),
    ));
    let node = |zone: &str| {
        format!(
            "---\n{{apiVersion: v1, kind: Node, metadata: {{name: n1, labels: {{topology.kubernetes.io/zone: {zone}}}}}}}\n"
        )
    };
    all.push(slot(Kind::Node, "", "n1", &["z1", "z2"].map(node)));
    let hides = "discoverySelectors: [{matchLabels: {use: \"yes\"}}]";
    let configs = [
        mesh("root", hides),
        mesh("root", "trustDomain: cluster.local"),
    ];
    all.push(slot(Kind::ConfigMap, "root", "ambit", &configs));
}

/// What happens between two worlds.
#[derive(Clone, Debug)]
enum Edit {
    /// An object is written, as it was or otherwise.
    Write(Index, Index),
    Remove(Index),
    /// What a node agent says of a pod; that there is none, if there is no pod.
    Report(Option<(Index, bool)>),
    /// How far a binding has come; that nobody records it, if there is none.
    Phase(Option<u8>),
    Namesake,
}

fn edit() -> impl Strategy<Value = Edit> {
    let report = proptest::option::weighted(0.8, any::<(Index, bool)>());
    prop_oneof![
        8 => any::<(Index, Index)>().prop_map(|(slot, it)| Edit::Write(slot, it)),
        3 => any::<Index>().prop_map(Edit::Remove),
        1 => report.prop_map(Edit::Report),
        1 => proptest::option::weighted(0.8, 0..4_u8).prop_map(Edit::Phase),
        1 => Just(Edit::Namesake),
    ]
}

fn happen(world: &mut World, slots: &[Slot], edit: &Edit) {
    let remove = |world: &mut World, reference: &ObjectRef| {
        world.remove(reference);
        world.denials.remove(reference);
        world.refused.remove(reference);
        world.faults.remove(reference);
    };
    match edit {
        Edit::Write(slot, written) => {
            let slot = slot.get(slots);
            remove(world, &slot.reference);
            world.put_back(&slot.reference, written.get(&slot.written));
        }
        Edit::Remove(slot) => remove(world, &slot.get(slots).reference),
        Edit::Report(None) => world.reports = None,
        Edit::Report(Some((pod, captured))) => {
            let pod = pod.get(&["a", "b", "c"]);
            let report = PodReport {
                node: "n1".to_owned(),
                captured: *captured,
                ready: true,
                ..PodReport::default()
            };
            let reports = world.reports.get_or_insert_default();
            reports.insert(key("shop", pod), report);
        }
        Edit::Phase(None) => world.waypoints = None,
        Edit::Phase(Some(phase)) => {
            let gateway = key("shop", "wp");
            let phase = match phase {
                0 => Phase::Told {
                    gateway: gateway.clone(),
                },
                1 => Phase::Published {
                    gateway: gateway.clone(),
                },
                2 => Phase::Enforced {
                    gateway: gateway.clone(),
                },
                _ => Phase::Closed,
            };
            world.waypoints = Some(Waypoints {
                ready: [gateway].into(),
                phases: [(key("shop", "web"), phase)].into(),
            });
        }
        // As a file that is read again: equal, and not the same.
        Edit::Namesake => {
            let pods = world.pods.values_mut();
            pods.for_each(|pod| *pod = Arc::new((**pod).clone()));
            let services = world.services.values_mut();
            services.for_each(|service| *service = Arc::new((**service).clone()));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_world_after_another_becomes_what_it_would_become_alone(edits in vec(vec(edit(), 1..4), 1..30)) {
        let (slots, settings) = (slots(), settings());
        let mut world = World::default();
        for slot in &slots {
            world.put_back(&slot.reference, &slot.written[0]);
        }
        let mut compiler = Compiler::default();
        let mut last = Snapshot::default();
        let mut stream = Stream::new(Subject::Node("n1".to_owned()));
        for edits in [Vec::new()].iter().chain(&edits) {
            edits.iter().for_each(|edit| happen(&mut world, &slots, edit));
            let compiled = compiler.compile(&world, &settings);
            prop_assert_eq!(&compiled, &compile(&world, &settings), "{:?}", edits);
            let next = Snapshot::new(&compiled, &last);
            prop_assert!(next.same(&Snapshot::new(&compiled, &Snapshot::default())));
            last = next;
            let _ = stream.push(&last);
        }
        prop_assert!(last.nodes().version(Resources::Address).is_some());
    }
}
