//! Facts about local workload files: read, written and read again, and refused with the field that is wrong.

use proto::{
    security::{Action, Scope, string_match::MatchType},
    workload::{TunnelProtocol, address::Type, gateway_address::Destination},
};

use super::*;

const EXAMPLE: &str = r#"
workloads:
- {uid: Kubernetes//Pod/default/server, name: server, namespace: default, serviceAccount: server, workloadIps: [10.71.2.11], protocol: HBONE, node: n2, network: "", trustDomain: cluster.local,
   workloadName: server, canonicalName: server, services: {default/echo.default.svc.cluster.local: {80: 8080}}}
services:
- {name: echo, namespace: default, hostname: echo.default.svc.cluster.local, vips: [/10.96.0.10], ports: {80: 8080}}
policies:
- {name: allow-client, namespace: default, scope: Namespace, action: Allow, dryRun: false, rules: [[[{principals: [!Exact cluster.local/ns/default/sa/client]}]]]}
"#;

#[test]
fn the_usual_file_is_read() {
    let local = parse(EXAMPLE).unwrap();
    let Some(Type::Workload(server)) = &local.addresses["Kubernetes//Pod/default/server"].r#type
    else {
        panic!()
    };
    assert_eq!(server.addresses, [[10, 71, 2, 11]]);
    assert_eq!(server.tunnel_protocol(), TunnelProtocol::Hbone);
    let ports = &server.services["default/echo.default.svc.cluster.local"].ports;
    assert_eq!((ports[0].service_port, ports[0].target_port), (80, 8080));
    let Some(Type::Service(echo)) =
        &local.addresses["default/echo.default.svc.cluster.local"].r#type
    else {
        panic!()
    };
    assert_eq!(echo.addresses[0].address, [10, 96, 0, 10]);
    let policy = &local.authorizations["default/allow-client"];
    assert_eq!(
        (policy.scope(), policy.action()),
        (Scope::Namespace, Action::Allow)
    );
    let principal = &policy.groups[0].rules[0].matches[0].principals[0].match_type;
    assert_eq!(
        *principal,
        Some(MatchType::Exact(
            "cluster.local/ns/default/sa/client".to_owned()
        ))
    );
}

/// Every field that the format has.
const FULL: &str = r#"
workloads:
- uid: u
  name: w
  namespace: shop
  serviceAccount: cart
  trustDomain: corp.example
  workloadIps: [10.0.0.1, "fd00::1"]
  hostname: h.example
  protocol: TCP
  node: n1
  network: east
  networkGateway: {destination: west/10.9.9.9, hboneMtlsPort: 15008}
  workloadName: cart
  workloadType: Job
  canonicalName: "a \"b\" \\ c"
  canonicalRevision: v1
  clusterId: c1
  locality: {region: r, zone: z, subzone: s}
  status: Unhealthy
  networkMode: HostNetwork
  applicationTunnel: {protocol: PROXY, port: 15088}
  authorizationPolicies: [shop/p, root/q]
  waypoint: {destination: shop/wp.shop.svc.cluster.local, hboneMtlsPort: 15008}
  services: {shop/a.example: {80: 8080, 81: 0}, shop/b.example: {}}
services:
- name: s
  namespace: shop
  hostname: s.example
  vips: [east/10.1.0.1, /fd00::2, /10.2.0.0/16]
  ports: {80: 8080, 443: 0}
  subjectAltNames: [spiffe://corp.example/ns/a/sa/b]
  waypoint: {destination: /10.3.0.1, hboneMtlsPort: 15008}
  loadBalancer: {routingPreferences: [Network, Region, Zone, Subzone, Node, Cluster], mode: Failover, healthPolicy: AllowAll}
  ipFamilies: Dual
  canonical: true
policies:
- name: p
  namespace: shop
  scope: WorkloadSelector
  action: Deny
  dryRun: true
  rules:
  - - - namespaces: [!Exact a, !Prefix b, !Suffix c, !Presence ]
        notNamespaces: [!Exact d]
        principals: [!Presence []]
        notPrincipals: [!Presence {}]
        sourceIps: [10.0.0.1/8, 10.0.0.1]
        notSourceIps: ["fd00::/8"]
        destinationIps: [10.0.0.2]
        notDestinationIps: [10.0.0.3]
        destinationPorts: [80]
        notDestinationPorts: [9999]
        serviceAccounts: [{namespace: a, serviceAccount: b}]
        notServiceAccounts: [{namespace: c, serviceAccount: d}]
      - {}
  - []
  - - []
- {name: nobody, namespace: shop, scope: Global, action: Allow, dryRun: false, rules: []}
"#;

#[test]
fn every_field_survives_writing_and_reading() {
    let once = parse(FULL).unwrap();
    let Some(Type::Workload(workload)) = &once.addresses["u"].r#type else {
        panic!()
    };
    let hostname = workload
        .waypoint
        .as_ref()
        .and_then(|waypoint| waypoint.destination.clone());
    assert!(
        matches!(hostname, Some(Destination::Hostname(name)) if name.hostname == "wp.shop.svc.cluster.local")
    );
    assert_eq!(workload.addresses.len(), 2);
    let groups = &once.authorizations["shop/p"].groups;
    assert_eq!(groups.len(), 3);
    assert_eq!(groups[0].rules[0].matches[0].namespaces.len(), 4);
    assert_eq!(groups[0].rules[0].matches[0].source_ips[0].length, 8);
    let written = write(&once.addresses, &once.authorizations);
    assert_eq!(parse(&written).unwrap(), once, "{written}");
}

#[test]
fn nothing_is_a_file_too() {
    assert_eq!(parse("workloads: []").unwrap(), Local::default());
    let written = write(
        &Local::default().addresses,
        &Local::default().authorizations,
    );
    assert_eq!(written, "workloads: []\nservices: []\npolicies: []\n");
    assert_eq!(parse(&written).unwrap(), Local::default());
}

#[test]
fn faults_name_their_place() {
    let workload = |rest: &str| format!("workloads:\n- {{uid: u, name: w, namespace: n, {rest}}}");
    let service =
        |rest: &str| format!("services:\n- {{name: s, namespace: n, hostname: h, {rest}}}");
    let policy =
        |rest: &str| format!("policies:\n- {{name: p, namespace: n, scope: Global, {rest}}}");
    let cases = [
        (workload("workloadIps: [10.0.0]"), "workloads[0].workloadIps[0]", "not an IP address"),
        (workload("protocol: QUIC"), "workloads[0].protocol", "none of TCP, HBONE"),
        (workload("waypoint: {destination: wp, hboneMtlsPort: 1}"), "workloads[0].waypoint.destination", "neither"),
        (workload("colour: red"), "line 2", "colour"),
        (workload("services: {a/b: {http: 80}}"), "line 2", ""),
        (service("vips: [10.0.0.1]"), "services[0].vips[0]", "<network>/<address>"),
        (service("vips: [/10.0.0.0/33]"), "services[0].vips[0]", "<network>/<address>"),
        (service("loadBalancer: {mode: Best}"), "services[0].loadBalancer.mode", "Standard, Strict"),
        (policy("action: Audit"), "policies[0].action", "none of Allow, Deny"),
        (policy("action: Deny, rules: [[[{sourceIps: [x]}]]]"), "policies[0].rules[0][0][0].sourceIps[0]", "neither"),
        (policy("action: Deny, rules: [[[{paths: [/]}]]]"), "line 2", "paths"),
        (policy("action: Deny, rules: [[[{principals: [!Regex x]}]]]"), "line 2", "Regex"),
        ("workloads: [".to_owned(), "line", ""),
        ("extras: []".to_owned(), "line 1", "extras"),
        ("services:\n- {name: s, namespace: n, hostname: h}\n- {name: t, namespace: n, hostname: h}".to_owned(), "services[1]", "n/h is there twice"),
    ];
    for (text, field, reason) in cases {
        let error = parse(&text).expect_err(&text);
        assert!(error.field.starts_with(field), "{text}: {error:?}");
        assert!(error.reason.contains(reason), "{text}: {error:?}");
    }
}
