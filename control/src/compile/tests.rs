//! Facts about the resources that manifests become, and about the conditions that say so.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;
use crate::{source::load, world::PodReport};

mod again;
mod around;
mod bound;
mod closed;
mod entry;
mod features;
mod gateways;
mod led;
mod past;
mod told;

/// Objects without problems.
fn world(text: &str) -> World {
    let loaded = load(
        &[(PathBuf::from("test.yaml"), text.to_owned())].into(),
        None,
    );
    assert_eq!(loaded.problems, [], "{text}");
    loaded.world
}

fn settings() -> Settings {
    Settings {
        root_namespace: "root".to_owned(),
        ..Settings::default()
    }
}

fn resources(world: &World) -> Value {
    json::compiled(&compile(world, &settings()))
}

fn mesh(namespace: &str, config: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: ConfigMap, metadata: {{name: ambit, namespace: {namespace}}}, data: {{mesh: '{config}'}}}}\n"
    )
}

fn policy(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: {name}, namespace: {namespace}}}, spec: {spec}}}\n"
    )
}

fn peer(name: &str, namespace: &str, spec: &str) -> String {
    policy(name, namespace, spec).replace("AuthorizationPolicy", "PeerAuthentication")
}

fn pod(name: &str, namespace: &str, metadata: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: {namespace}, {metadata}}}, \
         spec: {{nodeName: n1, serviceAccountName: sa, {spec}}}, \
         status: {{podIPs: [{{ip: 10.0.0.1}}], conditions: [{{type: Ready, status: 'True'}}]}}}}\n"
    )
}

fn service(name: &str, metadata: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: shop, {metadata}}}, spec: {{{spec}}}}}\n"
    )
}

/// What the fields that a node proxy cannot judge leave of a rule.
#[test]
fn what_cannot_be_judged_narrows_allow_and_widens_deny() {
    let namespaces = json!([{"namespaces": [{"exact": "a"}]}]);
    let ports = json!([{"destination_ports": [80]}]);
    let cases = [
        // Nothing but such a field: the rule is about everything.
        ("{to: [{operation: {methods: [GET]}}]}", json!({})),
        ("{from: [{source: {requestPrincipals: ['*']}}]}", json!({})),
        (
            "{when: [{key: 'request.headers[x]', values: [a]}]}",
            json!({}),
        ),
        (
            "{when: [{key: source.serviceAccount, notValues: [a]}]}",
            json!({}),
        ),
        ("{from: [{source: {notTrustDomains: [a]}}]}", json!({})),
        ("{from: [{source: {namespaces: ['s*p']}}]}", json!({})),
        (
            "{when: [{key: source.namespace, values: ['s*p']}]}",
            json!({}),
        ),
        // Beside others, in the same place: only the field goes.
        (
            "{to: [{operation: {ports: ['80'], paths: [/x]}}]}",
            json!({"rules": [{"matches": ports}]}),
        ),
        (
            "{from: [{source: {namespaces: [a], remoteIpBlocks: [10.0.0.0/8]}}]}",
            json!({"rules": [{"matches": namespaces}]}),
        ),
        // One of two alternatives is about everything, so both together are.
        (
            "{to: [{operation: {ports: ['80']}}, {operation: {notHosts: [h]}}]}",
            json!({}),
        ),
        // The other parts of the rule stay.
        (
            "{from: [{source: {namespaces: [a]}}], to: [{operation: {hosts: [h]}}]}",
            json!({"rules": [{"matches": namespaces}]}),
        ),
        (
            "{from: [{source: {namespaces: [a]}}], when: [{key: connection.sni, values: [s]}]}",
            json!({"rules": [{"matches": namespaces}]}),
        ),
    ];
    for (rule, widened) in cases {
        let world = world(
            &(policy("d", "shop", &format!("{{action: DENY, rules: [{rule}]}}"))
                + &policy("a", "shop", &format!("{{rules: [{rule}]}}"))),
        );
        let out = resources(&world);
        assert_eq!(
            out["authorizations"]["shop/d"]["groups"],
            json!([widened]),
            "{rule}"
        );
        assert_eq!(
            out["authorizations"]["shop/a"]["groups"],
            Value::Null,
            "{rule}"
        );
        for name in ["a", "d"] {
            let condition =
                &out["status"][format!("AuthorizationPolicy/shop/{name}")]["conditions"][0];
            assert_eq!(
                (&condition["status"], &condition["reason"]),
                (&json!("False"), &json!("UnsupportedValue")),
                "{rule}"
            );
        }
    }
}

#[test]
fn fields_that_are_there_but_empty_are_not_there() {
    let world = world(&policy(
        "p",
        "shop",
        "{action: DENY, rules: [{to: [{operation: {methods: [], ports: ['80']}}]}]}",
    ));
    let out = resources(&world);
    let condition = &out["status"]["AuthorizationPolicy/shop/p"]["conditions"][0];
    assert_eq!(condition["reason"], "Accepted");
    assert_eq!(
        out["authorizations"]["shop/p"]["groups"][0]["rules"][0]["matches"][0]["destination_ports"],
        json!([80])
    );
}

#[test]
fn a_policy_reaches_as_far_as_its_selector_and_namespace() {
    let select = "{selector: {matchLabels: {app: web}}, rules: [{}]}";
    let text = policy("everywhere", "root", "{rules: [{}]}")
        + &policy("mine", "shop", "{rules: [{}]}")
        + &policy("z-web", "root", select)
        + &policy("a-web", "shop", select)
        + &policy("other", "bank", select)
        + &policy("everyone", "shop", "{selector: {}}")
        + &policy(
            "audit",
            "shop",
            "{action: AUDIT, selector: {matchLabels: {app: web}}}",
        )
        + &pod("web", "shop", "labels: {app: web, v: '1'}", "")
        + &pod("db", "shop", "", "")
        + &pod("web", "root", "labels: {app: web}", "");
    let out = resources(&world(&text));
    let scope = |name: &str| out["authorizations"][name]["scope"].clone();
    assert_eq!(scope("root/everywhere"), Value::Null, "GLOBAL is zero");
    assert_eq!(scope("shop/mine"), "NAMESPACE");
    assert_eq!(scope("root/z-web"), "WORKLOAD_SELECTOR");
    assert_eq!(scope("shop/everyone"), "WORKLOAD_SELECTOR");
    assert_eq!(scope("shop/audit"), Value::Null, "not sent");
    let listed = |name: &str| {
        out["addresses"][format!("Kubernetes//Pod/{name}")]["workload"]["authorization_policies"]
            .clone()
    };
    assert_eq!(
        listed("shop/web"),
        json!(["root/z-web", "shop/a-web", "shop/everyone"])
    );
    assert_eq!(listed("shop/db"), json!(["shop/everyone"]));
    assert_eq!(listed("root/web"), json!(["root/z-web"]));
}

#[test]
fn policies_for_waypoints_are_not_sent_and_say_so() {
    let cases = [
        ("shop", "{kind: Service, name: web}", "AncestorNotBound"),
        ("shop", "{kind: Service, name: gone}", "TargetNotFound"),
        (
            "shop",
            "{group: gateway.networking.k8s.io, kind: Gateway, name: g}",
            "TargetNotFound",
        ),
        (
            "shop",
            "{group: gateway.networking.k8s.io, kind: GatewayClass, name: c}",
            "Invalid",
        ),
    ];
    for (namespace, target, reason) in cases {
        let text = policy(
            "p",
            namespace,
            &format!("{{action: DENY, targetRefs: [{target}], rules: [{{}}]}}"),
        ) + &service("web", "", "clusterIP: 10.0.1.1");
        let out = resources(&world(&text));
        assert_eq!(out["authorizations"], json!({}), "{target}");
        let condition = &out["status"]["AuthorizationPolicy/shop/p"]["conditions"][0];
        assert_eq!(
            (&condition["type"], &condition["reason"]),
            (&json!("WaypointAccepted"), &json!(reason)),
            "{target}"
        );
    }
}

/// Who must have an identity: namespace mode, workload mode, mode of port 80; what the pod refers to, and its groups.
#[test]
fn modes_of_ports_are_told_from_those_around_them() {
    let anybody = json!({"matches": [{"not_principals": [{"presence": {}}]}]});
    let elsewhere = json!({"matches": [{"not_destination_ports": [80]}]});
    let here = json!({"rules": [{"matches": [{"destination_ports": [80], "not_principals": [{"presence": {}}]}]}]});
    let strict = "root/istio_converted_static_strict";
    let own = "shop/converted_peer_authentication_w";
    let cases = [
        ("STRICT", "UNSET", "UNSET", Some(strict), Value::Null),
        ("STRICT", "PERMISSIVE", "PERMISSIVE", None, Value::Null),
        ("STRICT", "DISABLE", "STRICT", Some(own), json!([here])),
        (
            "STRICT",
            "UNSET",
            "PERMISSIVE",
            Some(own),
            json!([{"rules": [elsewhere, anybody]}]),
        ),
        (
            "STRICT",
            "STRICT",
            "PERMISSIVE",
            Some(own),
            json!([{"rules": [anybody, elsewhere, anybody]}]),
        ),
        (
            "PERMISSIVE",
            "STRICT",
            "DISABLE",
            Some(own),
            json!([{"rules": [anybody, elsewhere]}]),
        ),
        ("PERMISSIVE", "STRICT", "STRICT", Some(strict), Value::Null),
        ("PERMISSIVE", "UNSET", "STRICT", Some(own), json!([here])),
        ("PERMISSIVE", "UNSET", "PERMISSIVE", None, Value::Null),
        ("UNSET", "UNSET", "STRICT", Some(strict), Value::Null),
    ];
    for (namespace, workload, port, refers, groups) in cases {
        // The mesh is strict; the namespace may say otherwise.
        let text = peer("mesh", "root", "{mtls: {mode: STRICT}}")
            + &peer("ns", "shop", &format!("{{mtls: {{mode: {namespace}}}}}"))
            + &peer(
                "w",
                "shop",
                &format!(
                    "{{selector: {{matchLabels: {{app: web}}}}, mtls: {{mode: {workload}}}, portLevelMtls: {{'80': {{mode: {port}}}}}}}"
                ),
            )
            + &pod("web", "shop", "labels: {app: web}", "");
        let out = resources(&world(&text));
        let case = format!("{namespace} {workload} {port}");
        let listed =
            out["addresses"]["Kubernetes//Pod/shop/web"]["workload"]["authorization_policies"]
                .clone();
        assert_eq!(
            listed,
            refers.map_or(Value::Null, |name| json!([name])),
            "{case}"
        );
        assert_eq!(out["authorizations"][own]["groups"], groups, "{case}");
    }
}

#[test]
fn without_agents_the_manifest_says_whether_a_pod_is_captured() {
    let text = pod(
        "in",
        "shop",
        "annotations: {ambient.istio.io/redirection: enabled}",
        "",
    ) + &pod("out", "shop", "", "");
    let out = resources(&world(&text));
    let tunnel = |name: &str| {
        out["addresses"][format!("Kubernetes//Pod/shop/{name}")]["workload"]["tunnel_protocol"]
            .clone()
    };
    assert_eq!((tunnel("in"), tunnel("out")), (json!("HBONE"), Value::Null));
}

#[test]
fn with_agents_only_what_a_pods_own_node_reports_counts() {
    let enabled = "annotations: {ambient.istio.io/redirection: enabled}";
    let mut world = world(
        &(pod("seen", "shop", "", "")
            + &pod("unseen", "shop", enabled, "")
            + &pod("claimed", "shop", enabled, "")
            + &pod(
                "native",
                "shop",
                "labels: {networking.istio.io/tunnel: 'x,http'}",
                "",
            )
            + &pod("elsewhere", "shop", "", "")
                .replace("status: {podIPs: [{ip: 10.0.0.1}]", "status: {podIPs: []")),
    );
    let report = |node: &str, captured| PodReport {
        node: node.to_owned(),
        addresses: vec!["10.9.9.9".parse().unwrap()],
        ready: false,
        captured,
    };
    let key = |name: &str| ("shop".to_owned(), name.to_owned());
    world.reports = Some(
        [
            (key("seen"), report("n1", true)),
            (key("claimed"), report("n2", true)),
            (key("elsewhere"), report("n1", false)),
        ]
        .into(),
    );
    let out = resources(&world);
    let fact = |name: &str, field: &str| {
        out["addresses"][format!("Kubernetes//Pod/shop/{name}")]["workload"][field].clone()
    };
    let tunnel = |name: &str| fact(name, "tunnel_protocol");
    assert_eq!(
        (tunnel("seen"), fact("seen", "addresses")),
        (json!("HBONE"), json!(["10.9.9.9"]))
    );
    assert_eq!(fact("seen", "status"), "UNHEALTHY");
    assert_eq!(
        (tunnel("unseen"), fact("unseen", "addresses")),
        (Value::Null, json!(["10.0.0.1"]))
    );
    assert_eq!(
        tunnel("claimed"),
        Value::Null,
        "another node cannot speak for a pod"
    );
    assert_eq!(tunnel("native"), "HBONE", "it captures itself");
    assert_eq!(
        (tunnel("elsewhere"), fact("elsewhere", "addresses")),
        (Value::Null, json!(["10.9.9.9"]))
    );
}

#[test]
fn a_pod_in_its_nodes_network_is_not_found_by_address() {
    let out = resources(&world(&pod("host", "shop", "", "hostNetwork: true")));
    assert_eq!(
        out["addresses"]["Kubernetes//Pod/shop/host"]["workload"]["network_mode"],
        "HOST_NETWORK"
    );
}

#[test]
fn named_ports_are_each_pods_own() {
    let containers = |port: &str| format!("containers: [{{name: c, ports: [{port}]}}]");
    let text = service(
        "web",
        "",
        "selector: {app: web}, ports: [{port: 80, targetPort: http}, {port: 81, targetPort: 8081}]",
    ) + &pod(
        "tcp",
        "shop",
        "labels: {app: web}",
        &containers("{name: http, containerPort: 8080}"),
    ) + &pod(
        "udp",
        "shop",
        "labels: {app: web}",
        &containers("{name: http, containerPort: 8080, protocol: UDP}"),
    ) + &pod(
        "sidecar",
        "shop",
        "labels: {app: web}",
        "containers: [{name: c}], initContainers: [{name: i, ports: [{name: http, containerPort: 1}]}, {name: s, restartPolicy: Always, ports: [{name: http, containerPort: 2}]}]",
    );
    let out = resources(&world(&text));
    let ports = |name: &str| {
        let workload = &out["addresses"][format!("Kubernetes//Pod/shop/{name}")]["workload"];
        workload["services"]["shop/web.shop.svc.cluster.local"]["ports"].clone()
    };
    let fixed = json!({"service_port": 81, "target_port": 8081});
    assert_eq!(
        ports("tcp"),
        json!([{"service_port": 80, "target_port": 8080}, fixed])
    );
    assert_eq!(ports("udp"), json!([fixed]));
    assert_eq!(
        ports("sidecar"),
        json!([{"service_port": 80, "target_port": 2}, fixed])
    );
}

#[test]
fn an_endpoint_is_a_pod_only_if_its_uid_is_the_pods() {
    let slice = |name: &str, uid: &str| {
        format!(
            "---\n{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: man}}}}, \
             addressType: IPv4, ports: [{{name: http, port: 8080}}], \
             endpoints: [{{addresses: [10.0.0.1], targetRef: {{kind: Pod, name: {name}, namespace: shop, uid: {uid}}}}}]}}\n"
        )
    };
    let text = service(
        "man",
        "",
        "ports: [{port: 80, name: http}, {port: 90, name: other}]",
    ) + &slice("same", "u1")
        + &slice("later", "u2")
        + &pod("same", "shop", "uid: u1", "")
        + &pod("later", "shop", "uid: u3", "");
    let out = resources(&world(&text));
    let services = |name: &str| {
        out["addresses"][format!("Kubernetes//Pod/shop/{name}")]["workload"]["services"].clone()
    };
    let port = json!({"service_port": 80, "target_port": 8080});
    assert_eq!(
        services("same"),
        json!({"shop/man.shop.svc.cluster.local": {"ports": [port]}})
    );
    assert_eq!(services("later"), Value::Null);
    assert_eq!(
        out["addresses"].as_object().unwrap().len(),
        3,
        "no workload of its own for either"
    );
}

#[test]
fn slices_of_services_with_a_selector_are_not_looked_at() {
    let text = service(
        "web",
        "",
        "selector: {app: web}, ports: [{port: 80, name: http}]",
    ) + "---\n{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: s, namespace: shop, labels: {kubernetes.io/service-name: web}}, \
           addressType: IPv4, ports: [{name: http, port: 8080}], endpoints: [{addresses: [192.0.2.1]}]}\n";
    let out = resources(&world(&text));
    assert_eq!(out["addresses"].as_object().unwrap().len(), 1);
}

#[test]
fn how_endpoints_are_chosen() {
    let namespace = "---\n{apiVersion: v1, kind: Namespace, metadata: {name: shop, annotations: {networking.istio.io/traffic-distribution: PreferSameNode}}}\n";
    let zone = json!({"mode": "FAILOVER", "routing_preference": ["NETWORK", "REGION", "ZONE"]});
    let node = json!({"mode": "FAILOVER", "routing_preference": ["NETWORK", "REGION", "ZONE", "SUBZONE", "NODE"]});
    let annotated =
        |value: &str| format!("annotations: {{networking.istio.io/traffic-distribution: {value}}}");
    let cases = [
        (String::new(), "", node),
        (annotated("preferclose"), "", zone.clone()),
        (annotated("Any"), "", Value::Null),
        (
            annotated("PreferSameNode"),
            "trafficDistribution: PreferClose",
            zone,
        ),
        (
            annotated("Any"),
            "publishNotReadyAddresses: true",
            json!({"health_policy": "ALLOW_ALL"}),
        ),
        (
            String::new(),
            "internalTrafficPolicy: Local",
            json!({"mode": "STRICT", "routing_preference": ["NODE"]}),
        ),
    ];
    for (metadata, spec, balancing) in cases {
        let out = resources(&world(
            &(namespace.to_owned() + &service("s", &metadata, spec)),
        ));
        let got = &out["addresses"]["shop/s.shop.svc.cluster.local"]["service"]["load_balancing"];
        assert_eq!(*got, balancing, "{metadata} {spec}");
    }
}

#[test]
fn a_service_that_asks_for_a_waypoint_is_told_that_there_is_none() {
    let label = |name: &str| format!("labels: {{istio.io/use-waypoint: {name}}}");
    let namespace = format!(
        "---\n{{apiVersion: v1, kind: Namespace, metadata: {{name: shop, {}}}}}\n",
        label("wp")
    );
    let out = resources(&world(
        &(namespace
            + &service("a", "", "clusterIP: 10.0.1.1")
            + &service("b", &label("none"), "clusterIP: 10.0.1.2")),
    ));
    let condition = &out["status"]["Service/shop/a"]["conditions"][0];
    assert_eq!(
        (&condition["status"], &condition["reason"]),
        (&json!("False"), &json!("WaypointIsNotReady"))
    );
    assert_eq!(out["status"]["Service/shop/b"], Value::Null);
}

#[test]
fn another_trust_domain_cluster_and_domain_show() {
    let settings = Settings {
        trust_domain: "corp.example".to_owned(),
        cluster_id: "east".to_owned(),
        domain: "corp.local".to_owned(),
        ..settings()
    };
    let text =
        service("web", "", "selector: {app: web}") + &pod("web", "shop", "labels: {app: web}", "");
    let out = json::compiled(&compile(&world(&text), &settings));
    let workload = &out["addresses"]["east//Pod/shop/web"]["workload"];
    assert_eq!(
        (&workload["trust_domain"], &workload["cluster_id"]),
        (&json!("corp.example"), &json!("east"))
    );
    assert_eq!(
        workload["services"],
        json!({"shop/web.shop.svc.corp.local": {}})
    );
    assert_eq!(
        out["addresses"]["shop/web.shop.svc.corp.local"]["service"]["hostname"],
        "web.shop.svc.corp.local"
    );
}

#[test]
fn what_an_action_nobody_carries_out_matches_is_denied() {
    let custom = |rules: &str| {
        let spec = format!("{{action: CUSTOM, provider: {{name: x}}, rules: [{rules}]}}");
        let out = compile(&world(&policy("p", "shop", &spec)), &settings());
        let status = out.statuses.values().next().unwrap().conditions[0].clone();
        assert!(!status.holds && status.message.contains("is denied"));
        let out = json::compiled(&out);
        let resource = &out["authorizations"]["shop/p"];
        assert_eq!(resource["action"], "DENY");
        resource["groups"].clone()
    };
    let port = custom("{to: [{operation: {ports: ['80']}}]}");
    assert_eq!(
        port[0]["rules"][0]["matches"][0]["destination_ports"],
        json!([80])
    );
    // What only a request would tell counts as matching.
    assert_eq!(
        custom("{to: [{operation: {paths: [/admin]}}]}"),
        custom("{}")
    );
}

#[test]
fn the_root_namespace_is_looked_at_whatever_discovery_says() {
    let selector = "{matchLabels: {mesh: on}, matchExpressions: [{key: team, operator: Exists}]}";
    let config = mesh("root", &format!("discoverySelectors: [{selector}]"));
    let spaces = [("shop", "mesh: on"), ("till", "mesh: on, team: till")];
    let spaces = spaces.map(|(name, labels)| {
        format!("---\n{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, labels: {{{labels}}}}}}}\n")
    });
    let policies = ["root", "shop", "till", "bank"].map(|namespace| policy("p", namespace, "{}"));
    let objects = spaces.concat() + &policies.concat();
    for (text, seen) in [
        (config.clone() + &objects, &["root/p", "till/p"][..]),
        (
            config.replace("namespace: root", "namespace: shop") + &objects,
            &["bank/p", "root/p", "shop/p", "till/p"],
        ),
    ] {
        let compiled = compile(&world(&text), &settings());
        let names: Vec<_> = compiled.authorizations.keys().collect();
        assert_eq!(names, seen);
    }
}

#[test]
fn what_configures_the_mesh_does_so_in_the_root_namespace_only_and_says_so_elsewhere() {
    let compiled = compile(&world(&mesh("shop", "{}")), &settings());
    let (reference, status) = compiled.statuses.first_key_value().unwrap();
    assert_eq!(reference.to_string(), "ConfigMap/shop/ambit");
    let message = &status.conditions[0].message;
    assert!(message.contains("root namespace root"), "{message}");
    let compiled = compile(&world(&mesh("root", "{}")), &settings());
    assert!(compiled.statuses.is_empty());
}

#[test]
fn mapped_addresses_keep_their_family_in_json() {
    let out = resources(&world(&policy(
        "p",
        "shop",
        "{rules: [{from: [{source: {ipBlocks: ['::ffff:10.0.0.1']}}]}]}",
    )));
    let block =
        &out["authorizations"]["shop/p"]["groups"][0]["rules"][0]["matches"][0]["source_ips"][0];
    assert_eq!(*block, json!({"address": "::ffff:a00:1", "length": 128}));
}
