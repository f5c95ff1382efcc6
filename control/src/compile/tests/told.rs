//! Facts about what a waypoint is told.

use proto::waypoint::{
    Action, Authorization, Backend, Protocol, Reference, Table, policy::Policy as Of,
};

use super::{
    bound::{GET, LABEL, WEB, WP, attached, key, ready, web},
    *,
};
use crate::publish::Version;

const WEB_HOST: &str = "shop/web.shop.svc.cluster.local";

fn told(text: &str) -> Told {
    compile(&world(text), &settings())
        .told
        .remove(&key("shop", "wp"))
        .unwrap()
}

fn bound(more: &str) -> Told {
    told(&(web(LABEL) + &ready("wp", "shop", "", "") + more))
}

fn http<'a>(told: &'a Told, name: &str) -> &'a Authorization {
    match &told.policies[name].policy {
        Some(Of::Http(policy)) => policy,
        other => panic!("{other:?}"),
    }
}

fn route(kind: &str, parent: &str, rules: &str) -> String {
    format!(
        "---\n{{apiVersion: gateway.networking.k8s.io/v1, kind: {kind}, metadata: {{name: r, namespace: shop}}, \
         spec: {{parentRefs: [{{group: '', kind: Service, {parent}}}], rules: [{rules}]}}}}\n"
    )
}

/// A service that is not bound.
fn back() -> String {
    service(
        "back",
        "",
        "clusterIP: 10.0.2.1, selector: {app: back}, ports: [{name: http, port: 80}]",
    ) + &pod("back", "shop", "labels: {app: back}", "").replace("10.0.0.1", "10.0.0.2")
}

#[test]
fn a_waypoint_is_told_its_services_and_their_endpoints() {
    let told = bound(&(back() + &attached("p", WEB, GET)));
    assert_eq!(told.tables.len(), 1);
    let Table {
        backend,
        ports,
        policies,
        backends,
        requires,
        tells_identity,
        gateways,
        waypoints,
    } = &told.tables[WEB_HOST];
    assert!(
        !tells_identity && gateways.is_empty() && waypoints.is_empty(),
        "unless they are asked for"
    );
    assert_eq!((backend.as_str(), requires.len()), (WEB_HOST, 0));
    assert_eq!(backends, &[WEB_HOST]);
    assert_eq!(
        (
            ports[0].number,
            ports[0].name.as_str(),
            ports[0].routes.len()
        ),
        (80, "http", 0)
    );
    assert_eq!(policies[0].name, "http/shop/p");
    let Backend {
        service,
        workloads,
        waypoint_service,
        policies,
        ..
    } = &told.backends[WEB_HOST];
    let service = service.as_ref().unwrap();
    assert_eq!(
        (&service.waypoint, waypoint_service),
        (&None, &None),
        "this waypoint is where it ends"
    );
    assert_eq!(service.addresses.len(), 1);
    let uids: Vec<_> = workloads.iter().map(|it| it.uid.as_str()).collect();
    assert_eq!(
        uids,
        ["Kubernetes//Pod/shop/web"],
        "and back is nobody's business here"
    );
    assert_eq!(policies[0].name, "http/shop/p");
}

#[test]
fn what_applications_hear_of_clients_is_asked_for() {
    for (value, tells) in [("'true'", true), ("'yes'", false), ("'false'", false)] {
        let annotation =
            format!("annotations: {{ambient.istio.io/xfcc-include-client-identity: {value}}}");
        let told = told(&(web(LABEL) + &ready("wp", "shop", &annotation, "")));
        assert_eq!(told.tables[WEB_HOST].tells_identity, tells, "{value}");
    }
    let config = "gateways: [edge/gateway, edge/other.one]";
    assert_eq!(
        bound(&mesh("root", config)).tables[WEB_HOST].gateways,
        [
            "spiffe://cluster.local/ns/edge/sa/gateway",
            "spiffe://cluster.local/ns/edge/sa/other.one"
        ]
    );
    assert!(
        bound(&mesh("shop", config)).tables[WEB_HOST]
            .gateways
            .is_empty()
    );
}

#[test]
fn references_have_the_versions_of_what_they_name() {
    let rules = "{backendRefs: [{name: back, port: 80}]}";
    let told =
        bound(&(back() + &attached("p", WEB, GET) + &route("HTTPRoute", "name: web", rules)));
    let table = &told.tables[WEB_HOST];
    let version = |bytes: Vec<u8>| Version::of(&bytes).to_string();
    let [
        Reference {
            name,
            version: found,
        },
    ] = &table.policies[..]
    else {
        panic!("{table:?}")
    };
    assert_eq!(
        *found,
        version(prost::Message::encode_to_vec(&told.policies[name]))
    );
    let [
        Reference {
            name,
            version: found,
        },
    ] = &table.ports[0].routes[..]
    else {
        panic!("{table:?}")
    };
    assert_eq!(
        *found,
        version(prost::Message::encode_to_vec(&told.routes[name]))
    );
    assert_eq!(
        table.backends,
        ["shop/back.shop.svc.cluster.local", WEB_HOST]
    );
}

#[test]
fn a_number_is_told_once() {
    let ports =
        "ports: [{name: http, port: 80}, {port: 80, protocol: SCTP}, {port: 80, protocol: UDP}]";
    let spec = format!("clusterIP: 10.0.1.1, selector: {{app: web}}, {ports}");
    let told = told(&(service("web", LABEL, &spec) + &ready("wp", "shop", "", "")));
    let numbers: Vec<_> = told.tables[WEB_HOST]
        .ports
        .iter()
        .map(|it| it.number)
        .collect();
    assert_eq!(numbers, [80]);
}

#[test]
fn what_a_port_speaks() {
    let port = |spec: &str| {
        service(
            "web",
            LABEL,
            &format!("clusterIP: 10.0.1.1, selector: {{app: web}}, ports: [{{port: 80, {spec}}}]"),
        )
    };
    let rules = "{backendRefs: [{name: web, port: 80}]}";
    let http = route("HTTPRoute", "name: web", rules);
    let grpc = route("GRPCRoute", "name: web", rules);
    let tcp = route("TCPRoute", "name: web", rules);
    let methods = attached("p", WEB, GET);
    let elsewhere = attached(
        "p",
        WEB,
        "rules: [{to: [{operation: {methods: [GET], ports: ['81']}}]}]",
    );
    let peers = attached(
        "p",
        WEB,
        "rules: [{from: [{source: {namespaces: [shop]}}]}]",
    );
    let dry = methods.replace(
        "namespace: shop}",
        "namespace: shop, annotations: {istio.io/dry-run: 'true'}}",
    );
    let cases = [
        ("name: http", "", Protocol::Http1),
        ("name: http2-x", "", Protocol::Http2),
        ("name: grpc", "", Protocol::Http2),
        ("name: tcp", "", Protocol::Tcp),
        ("name: https", "", Protocol::Tcp),
        ("name: redis", "", Protocol::Tcp),
        ("name: web", "", Protocol::Detect),
        (
            "name: tcp, appProtocol: kubernetes.io/h2c",
            "",
            Protocol::Http2,
        ),
        ("name: grpc-web", "", Protocol::Http1),
        ("name: web", &http, Protocol::Http),
        // What is declared is not for a route to change.
        ("name: tcp", &http, Protocol::Tcp),
        ("name: http2", &http, Protocol::Http2),
        ("name: web", &grpc, Protocol::Http2),
        ("name: web", &tcp, Protocol::Tcp),
        ("name: http", &tcp, Protocol::Http1),
        ("name: web", &methods, Protocol::Http),
        // What it asks of requests cannot be found in bytes, so it lets nobody in.
        ("name: tcp", &methods, Protocol::Tcp),
        ("name: web", &elsewhere, Protocol::Detect),
        ("name: web", &peers, Protocol::Detect),
        ("name: web", &dry, Protocol::Detect),
    ];
    for (spec, more, protocol) in cases {
        let told = told(&(port(spec) + &ready("wp", "shop", "", "") + more));
        let found = told.tables[WEB_HOST].ports[0].protocol();
        assert_eq!(found, protocol, "{spec} {more}");
    }
}

/// A waypoint judges what is attached to its services; the rest is for the proxies of their endpoints, which it helps by
/// judging with the real client what somebody wrote.
#[test]
fn of_layer_4_policies_those_that_bind_its_endpoints_are_told() {
    let allow = "rules: [{from: [{source: {namespaces: [shop]}}]}]";
    let select = |app: &str| format!("{{selector: {{matchLabels: {{app: {app}}}}}, {allow}}}");
    let strict = "---\n{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: d, namespace: root}, spec: {mtls: {mode: STRICT}}}\n";
    let text = policy("mesh", "root", &format!("{{{allow}}}"))
        + &policy("all", "shop", &format!("{{{allow}}}"))
        + &policy("web", "shop", &select("web"))
        + &policy("back", "shop", &select("back"))
        + &policy("bank", "bank", &format!("{{{allow}}}"))
        + &back()
        + strict
        + &attached("p", WEB, GET);
    let told = bound(&text);
    let names: Vec<_> = told.policies.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "connection/root/mesh",
            "connection/shop/all",
            "connection/shop/web",
            "http/shop/p"
        ]
    );
    let workload = &told.backends[WEB_HOST].workloads[0];
    assert_eq!(
        workload.authorization_policies,
        ["shop/web"],
        "no generated ones"
    );
}

#[test]
fn a_backend_behind_another_waypoint_is_reached_through_that() {
    let rules = "{backendRefs: [{name: back, port: 80}]}";
    let other = "clusterIP: 10.0.3.1, selector: {gateway.networking.k8s.io/gateway-name: wp2}, ports: [{port: 15008}]";
    let instance = pod(
        "wp2-1",
        "shop",
        "labels: {gateway.networking.k8s.io/gateway-name: wp2}",
        "",
    )
    .replace("serviceAccountName: sa", "serviceAccountName: wp2");
    let text = back().replace(
        "namespace: shop, }",
        "namespace: shop, labels: {istio.io/use-waypoint: wp2}}",
    ) + &route("HTTPRoute", "name: web", rules)
        + &ready("wp2", "shop", "", "")
        + &service("wp2", "", other)
        + &instance;
    let told = bound(&text);
    let backend = &told.backends["shop/back.shop.svc.cluster.local"];
    assert!(backend.service.as_ref().unwrap().waypoint.is_some());
    assert_eq!(backend.waypoint_service.as_ref().unwrap().name, "wp2");
    let uids: Vec<_> = backend.workloads.iter().map(|it| it.uid.as_str()).collect();
    assert_eq!(uids, ["Kubernetes//Pod/shop/wp2-1"]);
    assert_eq!(told.tables.len(), 1);
    assert!(told.tables[WEB_HOST].waypoints.is_empty());
    // The other one knows who comes, if that may be trusted.
    let text = web(LABEL) + &ready("wp", "shop", "", "") + &text;
    for (text, waypoints) in [
        (text.clone(), vec!["spiffe://cluster.local/ns/shop/sa/wp"]),
        (
            text + &pod("thief", "shop", "", "")
                .replace("serviceAccountName: sa", "serviceAccountName: wp"),
            Vec::new(),
        ),
    ] {
        let other = compile(&world(&text), &settings()).told;
        let table = &other[&key("shop", "wp2")].tables["shop/back.shop.svc.cluster.local"];
        assert_eq!(table.waypoints, waypoints);
    }
}

#[test]
fn a_backend_that_is_closed_stays_closed_from_a_waypoint_too() {
    let rules = "{backendRefs: [{name: back, port: 80}]}";
    let closed = attached("p", "{kind: Service, name: back}", GET);
    let told = bound(&(back() + &route("HTTPRoute", "name: web", rules) + &closed));
    let backend = &told.backends["shop/back.shop.svc.cluster.local"];
    assert!(backend.service.as_ref().unwrap().waypoint.is_some());
    assert_eq!(
        (&backend.waypoint_service, backend.workloads.len()),
        (&None, 0)
    );
    assert_eq!(backend.policies[0].name, "http/shop/p");
}

#[test]
fn policies_of_the_service_the_gateway_and_its_class_are_in_force() {
    let class = "{group: gateway.networking.k8s.io, kind: GatewayClass, name: ambit-waypoint}";
    let told = bound(
        &(attached("service", WEB, GET)
            + &attached("gateway", WP, GET)
            + &attached("stranger", "{kind: Service, name: back}", GET)
            + &policy(
                "class",
                "root",
                &format!("{{targetRefs: [{class}], {GET}}}"),
            )
            + &policy(
                "class",
                "shop",
                &format!("{{targetRefs: [{class}], {GET}}}"),
            )),
    );
    let names: Vec<_> = told.tables[WEB_HOST]
        .policies
        .iter()
        .map(|it| it.name.as_str())
        .collect();
    assert_eq!(
        names,
        ["http/shop/service", "http/shop/gateway", "http/root/class"]
    );
    assert_eq!(told.policies.len(), 3);
    let backend = &told.backends[WEB_HOST];
    assert_eq!(
        backend.policies.len(),
        1,
        "a route of another service asks only the service's own"
    );
}

/// Where we serve both, both names mean our class.
#[test]
fn a_policy_of_either_name_of_our_class_is_for_all_its_gateways() {
    let of = |class: &str| {
        let class =
            format!("{{group: gateway.networking.k8s.io, kind: GatewayClass, name: {class}}}");
        policy("p", "root", &format!("{{targetRefs: [{class}], {GET}}}"))
    };
    let classes = ["ambit-waypoint", "istio-waypoint"];
    for (deploys, expected) in [(true, [1, 1]), (false, [1, 0])] {
        let settings = Settings {
            deploys,
            ..settings()
        };
        for (i, named) in classes.into_iter().enumerate() {
            let gateway = ready("wp", "shop", "", "").replace("ambit-waypoint", named);
            let both = classes.map(|class| {
                let text = web(LABEL) + &gateway + &of(class);
                let compiled = compile(&world(&text), &settings);
                let told = compiled.told.get(&key("shop", "wp"));
                told.map_or(0, |told| told.policies.len())
            });
            let expected = match (deploys, i) {
                (false, 1) => [0, 0],
                _ => expected,
            };
            assert_eq!(both, expected, "{deploys} {named}");
        }
    }
}

/// Every text arrives as it was written.
#[test]
fn a_policy_is_told_as_it_was_written() {
    let rules = "[{from: [{source: {principals: [a], notNamespaces: [n], ipBlocks: [10.0.0.0/8], notIpBlocks: ['::1'], requestPrincipals: [i/s]}}, \
                 {source: {serviceAccounts: [client, bank/teller]}}], \
                 to: [{operation: {hosts: [h], notHosts: ['*.h'], ports: ['80'], notPorts: ['81'], methods: [GET], notMethods: [PUT], paths: [/a*], notPaths: [/b]}}], \
                 when: [{key: 'request.headers[x]', values: [v], notValues: [w]}, {key: destination.port, values: ['80']}]}]";
    let told = bound(&attached(
        "p",
        WEB,
        &format!("action: DENY, rules: {rules}"),
    ));
    let policy = http(&told, "http/shop/p");
    assert_eq!(
        (policy.action(), policy.dry_run, policy.deny_all.as_str()),
        (Action::Deny, false, "")
    );
    let rule = &policy.rules[0];
    let [first, second] = &rule.from[..] else {
        panic!("{rule:?}")
    };
    assert_eq!(
        (&first.principals[..], &first.not_namespaces[..]),
        (&["a".to_owned()][..], &["n".to_owned()][..])
    );
    assert_eq!(
        (&first.ip_blocks[0], &first.not_ip_blocks[0]),
        (&"10.0.0.0/8".to_owned(), &"::1/128".to_owned())
    );
    assert_eq!(first.unserved, ["requestPrincipals"]);
    assert_eq!(second.service_accounts, ["shop/client", "bank/teller"]);
    let to = &rule.to[0];
    let lists = [
        &to.hosts,
        &to.not_hosts,
        &to.ports,
        &to.not_ports,
        &to.methods,
        &to.not_methods,
        &to.paths,
        &to.not_paths,
    ];
    assert_eq!(
        lists.map(|it| it.join(",")),
        ["h", "*.h", "80", "81", "GET", "PUT", "/a*", "/b"]
    );
    let when: Vec<_> = rule
        .when
        .iter()
        .map(|it| {
            (
                it.key.as_str(),
                it.values.join(","),
                it.not_values.join(","),
            )
        })
        .collect();
    let expected = [
        ("request.headers[x]", "v", "w"),
        ("destination.port", "80", ""),
    ];
    assert_eq!(
        when,
        expected.map(|(key, yes, no)| (key, yes.to_owned(), no.to_owned()))
    );
}

#[test]
fn an_action_that_is_not_served_denies_what_it_matches() {
    let custom = attached(
        "p",
        WEB,
        "action: CUSTOM, provider: {name: x}, rules: [{to: [{operation: {paths: [/admin]}}]}]",
    );
    let told = bound(&custom);
    let policy = http(&told, "http/shop/p");
    assert_eq!(policy.action(), Action::Deny);
    assert_eq!(policy.rules[0].to[0].paths, ["/admin"]);
}

#[test]
fn what_does_not_enforce_is_told_as_such() {
    let dry = attached("dry", WEB, GET).replace(
        "namespace: shop}",
        "namespace: shop, annotations: {istio.io/dry-run: 'true'}}",
    );
    let told = bound(&(dry + &attached("audit", WEB, "action: AUDIT, rules: [{}]")));
    assert!(http(&told, "http/shop/dry").dry_run);
    assert_eq!(http(&told, "http/shop/audit").action(), Action::Audit);
}

/// In whatever order it arrives.
#[test]
fn a_waypoint_puts_in_force_what_it_is_told() {
    let rules =
        "{matches: [{path: {type: Exact, value: /a}}], backendRefs: [{name: back, port: 80}]}";
    let text = back()
        + &attached("p", WEB, GET)
        + &policy(
            "l4",
            "shop",
            "{rules: [{from: [{source: {namespaces: [shop]}}]}]}",
        )
        + &route("HTTPRoute", "name: web", rules);
    let told = bound(&text);
    for backwards in [false, true] {
        let mut store = mesh::waypoint::Store::new("root".into());
        let mut deltas = vec![
            delta(proto::TABLE_TYPE, &told.tables),
            delta(proto::ROUTE_TYPE, &told.routes),
            delta(proto::POLICY_TYPE, &told.policies),
            delta(proto::BACKEND_TYPE, &told.backends),
        ];
        if backwards {
            deltas.reverse();
        }
        for delta in &deltas {
            assert_eq!(store.apply(delta), [], "{}", delta.type_url);
        }
        let generation = store.current();
        assert!(generation.is_ready());
        let table = generation.table(WEB_HOST.into()).unwrap();
        assert_eq!((table.ports.len(), table.policies.len()), (1, 1));
        assert!(
            generation
                .backend("shop/back.shop.svc.cluster.local".into())
                .is_some()
        );
    }
}

pub(super) fn delta<M: prost::Message>(
    type_url: &str,
    resources: &BTreeMap<String, M>,
) -> mesh::delta::Delta {
    let resource = |(name, message): (&String, &M)| {
        let bytes = message.encode_to_vec();
        mesh::delta::Resource {
            name: name.clone(),
            version: Version::of(&bytes).to_string(),
            bytes,
        }
    };
    mesh::delta::Delta {
        type_url: type_url.to_owned(),
        resources: resources.iter().map(resource).collect(),
        removed: Vec::new(),
    }
}
