//! Facts about ServiceEntries and WorkloadEntries.

use std::collections::BTreeMap;

use mesh::plan::{Flow, Outcome, Plan, Source, plan};

use super::{
    bound::{GET, HOST, LABEL, WP, attached, gateway, key, namespace, ready, web},
    told::delta,
    *,
};
use crate::{
    source::{check, load},
    world::{Phase, Waypoints, host},
};

/// A ServiceEntry `ext` of `shop`; `spec` is added to its hosts and ports.
fn entry(metadata: &str, spec: &str) -> String {
    named(
        "ext",
        "shop",
        metadata,
        &format!("hosts: [ext.example], {spec}"),
    )
}

fn named(name: &str, namespace: &str, metadata: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: {name}, namespace: {namespace}, {metadata}}}, \
         spec: {{ports: [{{number: 80, name: http, protocol: HTTP, targetPort: 8080}}], {spec}}}}}\n"
    )
}

const STATIC: &str =
    "addresses: [198.51.100.1], resolution: STATIC, endpoints: [{address: 192.0.2.1}]";
const DNS: &str = "addresses: [198.51.100.1], resolution: DNS";
const EXT: &str = "{group: networking.istio.io, kind: ServiceEntry, name: ext}";
const NOWHERE: &str = "no-waypoint.invalid";

fn machine(name: &str, namespace: &str, metadata: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {{name: {name}, namespace: {namespace}, {metadata}}}, spec: {{{spec}}}}}\n"
    )
}

fn compiled(text: &str) -> Compiled {
    compile(&world(text), &settings())
}

fn out(text: &str) -> Value {
    json::compiled(&compiled(text))
}

/// The host name of the waypoint that a service of `shop` is published with.
fn waypoint(out: &Value, host: &str) -> Value {
    let service = &out["addresses"][format!("shop/{host}")]["service"];
    service["waypoint"]["hostname"]["hostname"].clone()
}

fn said(compiled: &Compiled, object: &str) -> String {
    let mut statuses = compiled.statuses.iter();
    let found = statuses.find(|(it, _)| it.to_string() == object);
    let conditions = found.into_iter().flat_map(|(_, it)| &it.conditions);
    let all = conditions.map(|it| format!("{} {} {}\n", it.kind, it.reason, it.message));
    all.collect()
}

fn services_of(out: &Value, workload: &str) -> Value {
    out["addresses"][format!("Kubernetes/{workload}")]["workload"]["services"].clone()
}

#[test]
fn a_host_is_bound_to_the_waypoint_that_its_entry_is_labelled_to() {
    let wp = ready("wp", "shop", "", "");
    for (text, expected) in [
        (entry(LABEL, STATIC) + &wp, json!(HOST)),
        (entry("", STATIC) + &wp, Value::Null),
        (
            entry("", STATIC) + &wp + &namespace("shop", "istio.io/use-waypoint: wp"),
            json!(HOST),
        ),
        (
            entry(LABEL, STATIC) + &gateway("wp", "shop", "", ""),
            Value::Null,
        ),
    ] {
        assert_eq!(waypoint(&out(&text), "ext.example"), expected, "{text}");
    }
    let two = entry(LABEL, STATIC).replace("[ext.example]", "[a.example, b.example]") + &wp;
    let compiled = compiled(&two);
    let told = &compiled.told[&key("shop", "wp")];
    let tables: Vec<_> = told.tables.keys().map(String::as_str).collect();
    assert_eq!(tables, ["shop/a.example", "shop/b.example"]);
    let backend = &told.backends["shop/a.example"];
    assert_eq!(backend.workloads.len(), 1);
    assert_eq!(said(&compiled, "ServiceEntry/shop/ext").lines().count(), 1);
}

#[test]
fn a_policy_of_an_entry_is_told_to_its_waypoint_and_closes_it_while_there_is_none() {
    let policed = attached("p", EXT, GET);
    let bound = compiled(&(entry(LABEL, STATIC) + &ready("wp", "shop", "", "") + &policed));
    let table = &bound.told[&key("shop", "wp")].tables["shop/ext.example"];
    assert_eq!(table.policies.len(), 1);
    assert!(said(&bound, "AuthorizationPolicy/shop/p").starts_with("WaypointAccepted Accepted"));
    let unbound = compiled(&(entry("", STATIC) + &policed));
    assert_eq!(
        waypoint(&json::compiled(&unbound), "ext.example"),
        json!(NOWHERE)
    );
    assert!(said(&unbound, "AuthorizationPolicy/shop/p").contains("AncestorNotBound"));
    // It is for no Service of that name.
    let other = policed.replace(EXT, "{kind: Service, name: ext}");
    let open = out(&(entry("", STATIC) + &other));
    assert_eq!(waypoint(&open, "ext.example"), Value::Null);
    let missing = compiled(&policed);
    assert!(said(&missing, "AuthorizationPolicy/shop/p").contains("TargetNotFound"));
}

/// What becomes of what a client of `shop` sends to an address at port 80.
fn sent(text: &str, address: &str) -> &'static str {
    let compiled = compiled(text);
    let mut store = mesh::store::Store::new("n1".into(), "root".into());
    for delta in [
        delta(proto::AUTHORIZATION_TYPE, &compiled.authorizations),
        delta(proto::ADDRESS_TYPE, &compiled.own_addresses()),
    ] {
        assert_eq!(store.apply(&delta).0, []);
    }
    let none = mesh::name::Name::EMPTY;
    let source = Source {
        identity: "spiffe://cluster.local/ns/shop/sa/sa".parse().unwrap(),
        network: none,
        node: "n1".into(),
        cluster: "Kubernetes".into(),
        locality: mesh::model::Locality {
            region: none,
            zone: none,
            subzone: none,
        },
    };
    let flow = Flow {
        source: &source,
        from: "10.0.0.7:40000".parse().unwrap(),
        to: format!("{address}:80").parse().unwrap(),
        seed: 0,
        tried: &[],
    };
    match plan(&store.current(), &flow) {
        Outcome::Do(Plan::Direct { to, .. }) if to.port() == 8080 => "to an endpoint",
        Outcome::Do(Plan::Tunnel(hop)) if hop.waypoint => "to the waypoint",
        Outcome::Do(Plan::Passthrough { .. }) => "past the mesh",
        Outcome::Refuse(_) => "nowhere",
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn a_client_is_sent_where_it_is_said() {
    let wp = ready("wp", "shop", "", "")
        + &service(
            "wp",
            "",
            "clusterIP: 10.0.3.1, selector: {gateway.networking.k8s.io/gateway-name: wp}, ports: [{name: hbone, port: 15008}]",
        )
        + &pod(
            "wp",
            "shop",
            "labels: {gateway.networking.k8s.io/gateway-name: wp}",
            "",
        )
        .replace("serviceAccountName: sa", "serviceAccountName: wp");
    let policed = attached("p", EXT, GET);
    let range = STATIC.replace("[198.51.100.1]", "[198.51.100.0/24]");
    let vip = "198.51.100.1";
    for (text, to, expected) in [
        (entry("", STATIC), vip, "to an endpoint"),
        (entry("", &range), "198.51.100.77", "to an endpoint"),
        (entry("", &range), "198.51.101.1", "past the mesh"),
        (entry(LABEL, STATIC) + &wp, vip, "to the waypoint"),
        (
            entry(LABEL, STATIC) + &wp + &policed,
            vip,
            "to the waypoint",
        ),
        (entry("", STATIC) + &policed, vip, "nowhere"),
        (entry("", DNS), vip, "past the mesh"),
        (entry("", DNS) + &policed, vip, "nowhere"),
        (entry(LABEL, DNS) + &wp + &policed, vip, "nowhere"),
    ] {
        assert_eq!(sent(&text, to), expected, "{text}");
    }
}

#[test]
fn names_that_begin_alike_are_told_apart() {
    let other = |name: &str, address: &str| {
        let spec = format!(
            "hosts: [{name}.example], resolution: STATIC, endpoints: [{{address: {address}}}]"
        );
        named(name, "shop", "", &spec)
    };
    let text = entry("", STATIC) + &other("ext-2", "192.0.2.2") + &other("ext.3", "192.0.2.3");
    let all = out(&text);
    for (name, host, address) in [
        ("ext", "ext.example", "192.0.2.1"),
        ("ext-2", "ext-2.example", "192.0.2.2"),
        ("ext.3", "ext.3.example", "192.0.2.3"),
    ] {
        let found = services_of(
            &all,
            &format!("networking.istio.io/ServiceEntry/shop/{name}/{address}"),
        );
        let hosts: Vec<_> = found.as_object().unwrap().keys().collect();
        assert_eq!(hosts, [&format!("shop/{host}")]);
    }
}

#[test]
fn what_is_not_served_is_outside_the_mesh_unless_a_policy_is_for_it() {
    let wp = ready("wp", "shop", "", "");
    let none = "addresses: [198.51.100.1], resolution: NONE";
    let dynamic = "addresses: [198.51.100.1], resolution: DYNAMIC_DNS";
    let names = "addresses: [198.51.100.1], resolution: STATIC, endpoints: [{address: a.example}]";
    for spec in [DNS, none, dynamic, names] {
        let open = compiled(&(entry(LABEL, spec) + &wp));
        let all = json::compiled(&open);
        assert_eq!(all["addresses"]["shop/ext.example"], Value::Null, "{spec}");
        let text = said(&open, "ServiceEntry/shop/ext");
        assert!(text.contains("past every waypoint"), "{text}");
        for policed in [attached("p", EXT, GET), attached("p", WP, GET)] {
            let shut = compiled(&(entry(LABEL, spec) + &wp + &policed));
            let all = json::compiled(&shut);
            assert_eq!(waypoint(&all, "ext.example"), json!(NOWHERE), "{spec}");
            let text = said(&shut, "ServiceEntry/shop/ext");
            assert!(text.contains("is refused"), "{text}");
            assert!(!text.contains("past every waypoint"), "{text}");
            let mut hosts = shut.closed.iter();
            assert!(hosts.any(|it| *it == host::all("shop", "ext")));
        }
    }
    // Without an address nobody is refused, and that is said.
    let bare = compiled(&(entry("", "resolution: NONE") + &attached("p", EXT, GET)));
    let text = said(&bare, "AuthorizationPolicy/shop/p");
    assert!(text.contains("nobody is kept to"), "{text}");
}

#[test]
fn endpoints_with_addresses_are_served_whatever_the_resolution_and_the_others_are_told() {
    let both = "addresses: [198.51.100.1], resolution: DNS, endpoints: [{address: 192.0.2.1}, {address: a.example}]";
    let compiled = compiled(&entry("", both));
    let all = json::compiled(&compiled);
    let prefix = "networking.istio.io/ServiceEntry/shop/ext";
    let ports = json!({"shop/ext.example": {"ports": [{"service_port": 80, "target_port": 8080}]}});
    assert_eq!(services_of(&all, &format!("{prefix}/192.0.2.1")), ports);
    assert_eq!(
        services_of(&all, &format!("{prefix}/a.example")),
        Value::Null
    );
    assert!(said(&compiled, "ServiceEntry/shop/ext").contains("a.example is left out"));
}

/// Who may write an entry has no say over how a pod is reached.
#[test]
fn an_endpoint_with_the_address_of_a_pod_is_that_pod_or_nothing() {
    let listing = STATIC.replace("192.0.2.1", "10.0.0.1");
    let own = out(&(entry("", &listing) + &pod("web", "shop", "", "")));
    let ports = json!({"shop/ext.example": {"ports": [{"service_port": 80, "target_port": 8080}]}});
    assert_eq!(services_of(&own, "/Pod/shop/web"), ports);
    let listed = "Kubernetes/networking.istio.io/ServiceEntry/shop/ext/10.0.0.1";
    assert_eq!(own["addresses"][listed], Value::Null);
    let text = entry("", &listing) + &pod("web", "bank", "", "");
    let foreign = compiled(&text);
    let all = json::compiled(&foreign);
    assert_eq!(services_of(&all, "/Pod/bank/web"), Value::Null);
    assert_eq!(all["addresses"][listed], Value::Null);
    assert!(said(&foreign, "ServiceEntry/shop/ext").contains("bank/web"));
    // A node's address is nobody's alone, and that of another network is another one.
    let hosted = pod("web", "bank", "", "hostNetwork: true");
    assert_ne!(
        out(&(entry("", &listing) + &hosted))["addresses"][listed],
        Value::Null
    );
    let far = listing.replace("10.0.0.1}", "10.0.0.1, network: n2}");
    let far = out(&(entry("", &far) + &pod("web", "bank", "", "")));
    assert_eq!(far["addresses"][listed]["workload"]["network"], json!("n2"));
}

#[test]
fn a_workload_entry_with_the_address_of_a_pod_is_left_out() {
    let text = machine("vm", "bank", "", "address: 10.0.0.1") + &pod("web", "shop", "", "");
    let compiled = compiled(&text);
    let uid = "Kubernetes/networking.istio.io/WorkloadEntry/bank/vm";
    assert!(!compiled.addresses.contains_key(uid));
    assert!(said(&compiled, "WorkloadEntry/bank/vm").contains("pod shop/web"));
}

#[test]
fn workload_entries_are_endpoints_of_what_selects_them_at_their_own_ports() {
    let vm = |ports: &str| {
        let spec = format!("address: 10.1.0.1, labels: {{app: vm}}, ports: {{{ports}}}");
        machine("vm", "shop", "", &spec)
    };
    let services = service(
        "back",
        "",
        "clusterIP: 10.0.2.1, selector: {app: vm}, ports: [{name: web, port: 80, targetPort: 81}, {name: admin, port: 90, targetPort: door}]",
    ) + &entry(
        "",
        "addresses: [198.51.100.1], resolution: STATIC, workloadSelector: {labels: {app: vm}}",
    ) + &named(
        "far",
        "bank",
        "",
        "hosts: [far.example], addresses: [198.51.100.2], resolution: STATIC, workloadSelector: {labels: {app: vm}}",
    );
    let port = |service: u16, target: u16| json!({"service_port": service, "target_port": target});
    let back = "shop/back.shop.svc.cluster.local";
    for (mapped, to_back, to_entry) in [
        ("", vec![port(80, 81)], vec![port(80, 8080)]),
        ("http: 1, web: 2", vec![port(80, 2)], vec![port(80, 1)]),
        (
            "door: 3",
            vec![port(80, 81), port(90, 3)],
            vec![port(80, 8080)],
        ),
    ] {
        let out = out(&(vm(mapped) + &services));
        let found = services_of(&out, "networking.istio.io/WorkloadEntry/shop/vm");
        let expected = json!({back: {"ports": to_back}, "shop/ext.example": {"ports": to_entry}});
        assert_eq!(found, expected, "{mapped}");
    }
}

#[test]
fn a_workload_is_not_taken_for_a_pod_of_its_name() {
    // Its labels would let the policy select it.
    let vm = machine("web", "shop", "", "address: 10.1.0.1");
    let text = web("") + &vm + &policy("p", "shop", "{selector: {matchLabels: {app: web}}}");
    let all = out(&text);
    let uid = "Kubernetes/networking.istio.io/WorkloadEntry/shop/web";
    let workload = &all["addresses"][uid]["workload"];
    assert_ne!(*workload, Value::Null);
    assert_eq!(workload["authorization_policies"], Value::Null);
    // Nor is it closed with it.
    let broken = service(
        "web",
        "",
        "clusterIP: 10.0.1.1, selector: {app: web}, ports: [{port: x}]",
    );
    let pods = vm + &pod("web", "shop", "labels: {app: web}", "");
    let target = "{kind: Service, name: web}";
    let files = BTreeMap::from([(
        PathBuf::from("a.yaml"),
        broken + &pods + &attached("p", target, GET),
    )]);
    let all = json::compiled(&compile(&load(&files, None).world, &settings()));
    assert_eq!(
        all["addresses"][uid]["workload"]["authorization_policies"],
        Value::Null
    );
    let pod = &all["addresses"]["Kubernetes//Pod/shop/web"]["workload"];
    assert_ne!(pod["authorization_policies"], Value::Null);
}

#[test]
fn of_two_that_have_a_host_the_older_is_meant_and_a_service_before_all() {
    let dated = |name: &str, namespace: &str, day: u8, address: &str| {
        let metadata = format!("creationTimestamp: '2026-01-0{day}T00:00:00Z'");
        let spec = format!(
            "hosts: [a.example], addresses: [{address}], resolution: STATIC, endpoints: [{{address: 192.0.2.1}}]"
        );
        named(name, namespace, &metadata, &spec)
    };
    let first = |out: &Value, service: &str| {
        out["addresses"][service]["service"]["addresses"][0]["address"].clone()
    };
    let near = dated("young", "shop", 2, "198.51.100.2") + &dated("old", "shop", 1, "198.51.100.1");
    let compiled = compiled(&near);
    let all = json::compiled(&compiled);
    assert_eq!(first(&all, "shop/a.example"), json!("198.51.100.1"));
    assert!(said(&compiled, "ServiceEntry/shop/young").contains("old has the same host"));
    let far =
        out(&(dated("x", "bank", 2, "198.51.100.2") + &dated("x", "shop", 1, "198.51.100.1")));
    let canonical = |name: &str| far["addresses"][name]["service"]["canonical"].clone();
    assert_eq!(canonical("shop/a.example"), json!(true));
    assert_eq!(canonical("bank/a.example"), Value::Null);
    let taken = entry("", STATIC).replace("[ext.example]", "[web.shop.svc.cluster.local]");
    let all = out(&(taken.clone() + &web("")));
    assert_eq!(
        first(&all, "shop/web.shop.svc.cluster.local"),
        json!("10.0.1.1")
    );
    // What a policy is for is refused all the same.
    let all = out(&(taken + &web("") + &attached("p", EXT, GET)));
    let own = "web.shop.svc.cluster.local.ext.invalid";
    assert_eq!(waypoint(&all, own), json!(NOWHERE));
    assert_eq!(first(&all, &format!("shop/{own}")), json!("198.51.100.1"));
}

#[test]
fn the_address_of_a_service_stays_its_own() {
    let text = entry(
        "",
        &STATIC.replace("[198.51.100.1]", "[10.0.1.1, 198.51.100.1]"),
    ) + &web("");
    let compiled = compiled(&text);
    let all = json::compiled(&compiled);
    let addresses = &all["addresses"]["shop/ext.example"]["service"]["addresses"];
    assert_eq!(*addresses, json!([{"address": "198.51.100.1"}]));
    assert!(
        said(&compiled, "ServiceEntry/shop/ext")
            .contains("10.0.1.1 is the address of Service shop/web")
    );
}

#[test]
fn tls_that_is_wanted_to_a_host_is_not_left_out() {
    let rule = |host: &str| {
        format!(
            "---\n{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: d, namespace: shop}}, spec: {{host: '{host}', trafficPolicy: {{tls: {{mode: SIMPLE}}}}}}}}\n"
        )
    };
    let text = entry(LABEL, STATIC) + &ready("wp", "shop", "", "");
    let wild = text.replace("[ext.example]", "['*.ext.example']");
    for (text, host, expected) in [
        (&text, "ext.example", 1),
        (&text, "*.example", 1),
        (&text, "ext", 0),
        (&text, "other.example", 0),
        (&wild, "a.ext.example", 1),
        (&wild, "*.ext.example", 1),
        (&wild, "ext.example", 0),
    ] {
        let compiled = compiled(&(text.clone() + &rule(host)));
        let routes = &compiled.told[&key("shop", "wp")].routes;
        assert_eq!(routes.len(), expected, "{host}");
    }
}

#[test]
fn a_binding_goes_on_while_its_entry_cannot_be_understood_or_is_not_looked_at() {
    let host = host::all("shop", "ext");
    let enforced = Phase::Enforced {
        gateway: key("shop", "wp"),
    };
    let waypoints = Waypoints {
        ready: [key("shop", "wp")].into(),
        phases: [(host.clone(), enforced)].into(),
    };
    let wanted = |text: &str| {
        let files = BTreeMap::from([(PathBuf::from("a.yaml"), text.to_owned())]);
        let mut world = load(&files, None).world;
        world.waypoints = Some(waypoints.clone());
        let compiled = compile(&world, &settings());
        let waypoint = waypoint(&json::compiled(&compiled), "ext.example");
        (compiled.wanted.contains_key(&host), waypoint)
    };
    let wp = gateway("wp", "shop", "", "");
    let good = entry(LABEL, STATIC) + &wp;
    assert_eq!(wanted(&good), (true, json!(HOST)));
    let broken = good.replace("resolution: STATIC", "resolution: STATIK");
    assert_eq!(wanted(&broken), (true, json!(NOWHERE)));
    let unseen = good + &mesh("root", "discoverySelectors: [{matchLabels: {a: b}}]");
    assert_eq!(wanted(&unseen), (true, Value::Null));
    assert_eq!(wanted(&wp), (false, Value::Null));
    let unlabelled = entry("", STATIC) + &wp;
    assert_eq!(
        wanted(&unlabelled),
        (false, json!(HOST)),
        "it is on its way out"
    );
}

/// Whom it selects nobody could keep to the policy, and who asks for its addresses neither.
#[test]
fn an_entry_that_never_was_understood_and_has_a_policy_is_closed_as_far_as_it_can_be_read() {
    let select =
        "addresses: [198.51.100.1], resolution: STATIC, workloadSelector: {labels: {app: web}}";
    let broken = |spec: &str| entry("", &format!("{spec}, location: HERE"));
    let pods = pod("web", "shop", "labels: {app: web}", "")
        + &pod("other", "shop", "labels: {app: other}", "").replace("10.0.0.1", "10.0.0.2");
    let torn = entry("", select).replace("spec: {", "spec: {[");
    for (text, closed, refused) in [
        (broken(select), [true, false], true),
        (broken(STATIC), [false, false], true),
        (broken(&select.replace("web", "7")), [true, true], true),
        (torn, [true, true], false),
    ] {
        for policed in [attached("p", EXT, GET), String::new()] {
            let text = text.clone() + &policed + &pods;
            let files = BTreeMap::from([(PathBuf::from("a.yaml"), text.clone())]);
            let compiled = compile(&load(&files, None).world, &settings());
            let all = json::compiled(&compiled);
            let named = |pod: &str| {
                let uid = format!("Kubernetes//Pod/shop/{pod}");
                let names = &all["addresses"][uid]["workload"]["authorization_policies"];
                names.to_string().contains("shop/refused_service_entry_ext")
            };
            let (policed, none) = (!policed.is_empty(), [false, false]);
            let expected = if policed { closed } else { none };
            assert_eq!(["web", "other"].map(named), expected, "{text}");
            let nowhere = waypoint(&all, "ext.example") == json!(NOWHERE);
            assert_eq!(nowhere, policed && refused, "{text}");
            let refusal = check::check_files(&files, &settings()).refusal;
            assert_eq!(
                refusal.is_some(),
                policed || !refused,
                "{text}: {refusal:?}"
            );
        }
    }
}

#[test]
fn no_control_plane_starts_with_a_workload_entry_that_a_policy_may_select() {
    let broken = machine("vm", "shop", "", "address: 10.1.0.1, weight: many");
    for (text, expected) in [
        (broken.clone(), false),
        (
            broken.clone()
                + &policy(
                    "p",
                    "shop",
                    "{action: DENY, selector: {matchLabels: {app: vm}}, rules: [{}]}",
                ),
            true,
        ),
        (
            broken.clone() + &peer("p", "root", "{mtls: {mode: STRICT}}"),
            true,
        ),
        (broken + &policy("p", "bank", "{}"), false),
    ] {
        let files = BTreeMap::from([(PathBuf::from("a.yaml"), text.clone())]);
        let refusal = check::check_files(&files, &settings()).refusal;
        assert_eq!(refusal.is_some(), expected, "{text}: {refusal:?}");
    }
}

#[test]
fn only_its_own_namespace_sees_an_entry_whose_namespace_is_to_keep_it() {
    let config = "serviceEntryVisibility: {policies: [{visibility: NAMESPACE, matchingRules: [{namespaceSelector: {matchLabels: {vis: own}}}]}]}";
    let far = "labels: {istio.io/use-waypoint: wp, istio.io/use-waypoint-namespace: infra}";
    let text = entry(far, STATIC)
        + &namespace("shop", "vis: own")
        + &mesh("root", config)
        + &ready(
            "wp",
            "infra",
            "",
            "allowedRoutes: {namespaces: {from: All}}",
        );
    let all = out(&text);
    let service = &all["addresses"]["shop/ext.example"]["service"];
    assert_eq!(service["visibility"], json!("NAMESPACE"));
    assert_eq!(service["waypoint"], Value::Null);
    // A waypoint that it cannot have is not gone around.
    let policed = attached("p", EXT, GET);
    assert_eq!(
        waypoint(&out(&(text.clone() + &policed)), "ext.example"),
        json!(NOWHERE)
    );
    let hidden = text.replace("visibility: NAMESPACE", "visibility: NONE");
    assert_eq!(out(&hidden)["addresses"], json!({}));
}
