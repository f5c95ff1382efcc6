//! Whatever is in the manifests: nothing panics, and the order of the objects does not matter.

use std::{collections::BTreeMap, path::PathBuf};

use control::{
    compile::{Settings, compile, json},
    publish::Version,
    source::load,
    world::PodReport,
};
use mesh::{
    delta::{Delta, Resource},
    name::Name,
    waypoint::Store,
};
use proptest::{collection::vec, prelude::*, sample::select, strategy::Union};
use prost::Message;
use serde_json::{Map, Value, json};

/// Fields that some kind reads, and a few that none does.
const FIELDS: &[&str] = &[
    "action",
    "addresses",
    "addressType",
    "annotations",
    "apiVersion",
    "app",
    "appProtocol",
    "clusterIP",
    "clusterIPs",
    "conditions",
    "containerPort",
    "containers",
    "controller",
    "creationTimestamp",
    "deletionTimestamp",
    "endpoints",
    "from",
    "generateName",
    "hostNetwork",
    "initContainers",
    "internalTrafficPolicy",
    "ip",
    "ipBlocks",
    "ipFamilies",
    "istio.io/dry-run",
    "items",
    "key",
    "kind",
    "labels",
    "matchLabels",
    "methods",
    "mode",
    "mtls",
    "name",
    "namespace",
    "namespaces",
    "nodeName",
    "notIpBlocks",
    "notPorts",
    "notPrincipals",
    "notValues",
    "operation",
    "ownerReferences",
    "paths",
    "phase",
    "podIPs",
    "port",
    "portLevelMtls",
    "ports",
    "principals",
    "protocol",
    "provider",
    "ready",
    "restartPolicy",
    "rules",
    "selector",
    "serviceAccountName",
    "serviceAccounts",
    "source",
    "spec",
    "status",
    "targetPort",
    "targetRef",
    "targetRefs",
    "to",
    "trafficDistribution",
    "type",
    "uid",
    "values",
    "when",
    "workloads",
    "80",
    "unheard-of",
    "allowedRoutes",
    "backendRefs",
    "backendRequest",
    "controllerName",
    "filters",
    "group",
    "gatewayClassName",
    "headers",
    "host",
    "hostname",
    "hostnames",
    "hosts",
    "listeners",
    "matches",
    "method",
    "parentRefs",
    "path",
    "queryParams",
    "replacePrefixMatch",
    "request",
    "requestHeaderModifier",
    "requestRedirect",
    "retry",
    "sectionName",
    "service",
    "set",
    "statusCode",
    "timeouts",
    "tls",
    "trafficPolicy",
    "urlRewrite",
    "value",
    "weight",
    "address",
    "exportTo",
    "locality",
    "location",
    "network",
    "number",
    "resolution",
    "serviceAccount",
    "subjectAltNames",
    "workloadSelector",
];
const WORDS: &[&str] = &[
    "",
    "*",
    "a",
    "A/b",
    "shop",
    "root",
    "web",
    "*a",
    "a*",
    "10.0.0.1",
    "10.0.0.0/8",
    "::1",
    "fe80::%1",
    "80",
    "-1",
    "70000",
    "http",
    "IPv4",
    "FQDN",
    "None",
    "True",
    "ALLOW",
    "DENY",
    "AUDIT",
    "CUSTOM",
    "STRICT",
    "DISABLE",
    "Local",
    "Always",
    "Pod",
    "Service",
    "ReplicaSet",
    "Job",
    "job-12345678",
    "source.ip",
    "destination.port",
    "List",
    "Gateway",
    "PathPrefix",
    "RegularExpression",
    "RequestRedirect",
    "URLRewrite",
    "ambit-waypoint",
    "HBONE",
    "GET",
    "/a",
    "(",
    "5s",
    "request.headers[x]",
    "a.example",
    "*.a.example",
    "192.0.2.0/24",
    "unix:///a",
    "STATIC",
    "DNS",
    "MESH_INTERNAL",
    "2026-01-01T00:00:01Z",
    "\u{0}",
    "é",
];
const KINDS: &[(&str, &str)] = &[
    ("v1", "Namespace"),
    ("v1", "Node"),
    ("v1", "ServiceAccount"),
    ("v1", "Service"),
    ("v1", "Pod"),
    ("discovery.k8s.io/v1", "EndpointSlice"),
    ("security.istio.io/v1", "AuthorizationPolicy"),
    ("security.istio.io/v1beta1", "PeerAuthentication"),
    ("gateway.networking.k8s.io/v1", "Gateway"),
    ("gateway.networking.k8s.io/v1", "GatewayClass"),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"),
    ("gateway.networking.k8s.io/v1", "GRPCRoute"),
    ("gateway.networking.k8s.io/v1", "TCPRoute"),
    ("gateway.networking.k8s.io/v1beta1", "ReferenceGrant"),
    ("gateway.networking.k8s.io/v1", "BackendTLSPolicy"),
    ("networking.istio.io/v1", "DestinationRule"),
    ("networking.istio.io/v1", "ServiceEntry"),
    ("networking.istio.io/v1alpha3", "WorkloadEntry"),
    ("security.istio.io/v1", "RequestAuthentication"),
    ("v1", "List"),
    ("apps/v1", "Deployment"),
];

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        prop_oneof![0..90_i64, any::<i64>()].prop_map(Value::from),
        select(WORDS).prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((select(FIELDS), inner), 0..6).prop_map(|fields| {
                fields
                    .into_iter()
                    .map(|(key, value)| (key.to_owned(), value))
                    .collect::<Map<_, _>>()
                    .into()
            }),
        ]
    })
}

/// An object of a real kind, with a name, and anything else in it.
fn wild() -> impl Strategy<Value = Value> {
    let name = select(&["a", "b", "web"][..]);
    let namespace = select(&["shop", "bank", "root"][..]);
    (select(KINDS), name, namespace, value(), value(), value()).prop_map(
        |((version, kind), name, ns, meta, spec, rest)| {
            let mut object = rest.as_object().cloned().unwrap_or_default();
            let mut metadata = meta.as_object().cloned().unwrap_or_default();
            metadata.insert("name".to_owned(), name.into());
            metadata.insert("namespace".to_owned(), ns.into());
            object.insert("apiVersion".to_owned(), version.into());
            object.insert("kind".to_owned(), kind.into());
            object.insert("metadata".to_owned(), metadata.into());
            object.insert("spec".to_owned(), spec);
            object.into()
        },
    )
}

/// What a good object is made of: version, kind, spec and status.
type Parts = BoxedStrategy<(&'static str, &'static str, Value, Value)>;

/// An object that is mostly good, so that much of it reaches the compile step.
fn tame() -> impl Strategy<Value = Value> {
    let mut kinds: Vec<Parts> = vec![
        labels().prop_map(|_| ("v1", "Namespace", json!({}), json!({}))).boxed(),
        (select(&["10.0.0.1", "fd00::1"][..]), any::<bool>(), select(&["Running", "Failed"][..]))
            .prop_map(|(ip, ready, phase)| {
                let condition = json!({"type": "Ready", "status": if ready { "True" } else { "False" }});
                let spec = json!({"nodeName": "n1", "containers": [{"ports": [{"name": "http", "containerPort": 8080}]}]});
                ("v1", "Pod", spec, json!({"phase": phase, "podIPs": [{"ip": ip}], "conditions": [condition]}))
            })
            .boxed(),
        (labels(), any::<bool>())
            .prop_map(|(labels, named)| {
                let target = if named { json!("http") } else { json!(8080) };
                let spec = json!({"clusterIP": "10.96.0.1", "selector": labels, "ports": [{"port": 80, "name": "http", "targetPort": target}]});
                ("v1", "Service", spec, json!({}))
            })
            .boxed(),
        (select(&["ALLOW", "DENY", "AUDIT"][..]), labels(), vec(rule(), 0..3))
            .prop_map(|(action, labels, rules)| {
                let spec = json!({"action": action, "selector": {"matchLabels": labels}, "rules": rules});
                ("security.istio.io/v1", "AuthorizationPolicy", spec, json!({}))
            })
            .boxed(),
        (mode(), mode(), labels())
            .prop_map(|(whole, port, labels)| {
                let ports = if labels == json!({}) { json!({}) } else { json!({"80": {"mode": port}}) };
                let spec = json!({"selector": {"matchLabels": labels}, "mtls": {"mode": whole}, "portLevelMtls": ports});
                ("security.istio.io/v1", "PeerAuthentication", spec, json!({}))
            })
            .boxed(),
    ];
    kinds.extend(of_waypoints());
    kinds.extend(entries());
    let created = select(&["2026-01-01T00:00:01Z", "2026-01-01T00:00:02Z"][..]);
    (Union::new(kinds), select(&["a", "b", "c", "d"][..]), select(&["shop", "bank", "root"][..]), labels(), created).prop_map(
        |((version, kind, spec, status), name, namespace, labels, created)| {
            json!({
                "apiVersion": version, "kind": kind, "spec": spec, "status": status,
                "metadata": {"name": name, "namespace": namespace, "labels": labels, "creationTimestamp": created},
            })
        },
    )
}

/// ServiceEntries and WorkloadEntries.
fn entries() -> Vec<Parts> {
    let address = || select(&["10.0.0.1", "192.0.2.1", "a.example", "unix:///a"][..]);
    let host = select(&["a.example", "*.a.example", "a.shop.svc.cluster.local"][..]);
    let vips = select(vec![
        json!([]),
        json!(["10.96.0.1"]),
        json!(["198.51.100.1", "198.51.100.0/24"]),
    ]);
    let resolution = select(&["NONE", "STATIC", "DYNAMIC_DNS"][..]);
    let members = (any::<bool>(), labels(), vec(address(), 0..3));
    let service = (host, vips, resolution, members).prop_map(
        |(host, vips, resolution, (selects, labels, listed))| {
            let ports = json!([{"number": 80, "name": "http", "protocol": "HTTP", "targetPort": 8080}]);
            let mut spec = json!({"hosts": [host], "addresses": vips, "resolution": resolution, "ports": ports});
            if selects {
                spec["workloadSelector"] = json!({ "labels": labels });
            } else if resolution != "NONE" {
                let listed = listed.iter().map(|it| json!({ "address": it }));
                spec["endpoints"] = listed.collect();
            }
            ("networking.istio.io/v1", "ServiceEntry", spec, json!({}))
        },
    );
    let workload = (address(), labels()).prop_map(|(address, labels)| {
        let spec = json!({"address": address, "labels": labels});
        ("networking.istio.io/v1", "WorkloadEntry", spec, json!({}))
    });
    vec![service.boxed(), workload.boxed()]
}

/// Gateways, routes, and policies of objects.
fn of_waypoints() -> Vec<Parts> {
    const GATEWAY: &str = "gateway.networking.k8s.io/v1";
    let name = || select(&["a", "b", "c", "d"][..]);
    let namespace = || select(&["shop", "bank"][..]);
    let gateway = select(&["Same", "All"][..]).prop_map(|from| {
        let listener = json!({"name": "mesh", "port": 15008, "protocol": "HBONE", "allowedRoutes": {"namespaces": {"from": from}}});
        let spec = json!({"gatewayClassName": "ambit-waypoint", "listeners": [listener]});
        (GATEWAY, "Gateway", spec, json!({"addresses": [{"type": "Hostname", "value": "w"}]}))
    });
    let kinds = select(&["HTTPRoute", "GRPCRoute", "TCPRoute"][..]);
    let route = (kinds, name(), namespace(), name(), namespace(), 0..3_u32, any::<bool>()).prop_map(
        |(kind, parent, of, backend, to, weight, matches)| {
            let mut rule = json!({"backendRefs": [{"name": backend, "namespace": to, "port": 80, "weight": weight}]});
            if matches && kind == "HTTPRoute" {
                rule["matches"] = json!([{"path": {"value": "/a"}, "headers": [{"name": "x", "value": "y"}]}]);
                rule["filters"] = json!([{"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}}}]);
            } else if matches && kind == "GRPCRoute" {
                rule["matches"] = json!([{"method": {"service": "a.B"}}]);
                rule["filters"] = json!([{"type": "ExtensionRef", "extensionRef": {}}]);
            }
            let parent = json!({"group": "", "kind": "Service", "name": parent, "namespace": of});
            (GATEWAY, kind, json!({"parentRefs": [parent], "rules": [rule]}), json!({}))
        },
    );
    let policy = (
        select(&["ALLOW", "DENY", "AUDIT"][..]),
        select(&[("", "Service"), ("networking.istio.io", "ServiceEntry")][..]),
        name(),
        vec(rule(), 0..3),
    )
        .prop_map(|(action, (group, kind), name, rules)| {
            let target = json!({"group": group, "kind": kind, "name": name});
            let spec = json!({"action": action, "targetRefs": [target], "rules": rules});
            (
                "security.istio.io/v1",
                "AuthorizationPolicy",
                spec,
                json!({}),
            )
        });
    let grant = namespace().prop_map(|namespace| {
        let from = json!({"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": namespace});
        let spec = json!({"from": [from], "to": [{"kind": "Service"}]});
        ("gateway.networking.k8s.io/v1beta1", "ReferenceGrant", spec, json!({}))
    });
    let tls = name().prop_map(|name| {
        let target = json!({"group": "", "kind": "Service", "name": name});
        (
            GATEWAY,
            "BackendTLSPolicy",
            json!({"targetRefs": [target]}),
            json!({}),
        )
    });
    vec![
        gateway.boxed(),
        route.boxed(),
        policy.boxed(),
        grant.boxed(),
        tls.boxed(),
    ]
}

fn labels() -> impl Strategy<Value = Value> {
    select(vec![
        json!({}),
        json!({"app": "web"}),
        json!({"app": "web", "v": "1"}),
        json!({"app": "web", "istio.io/use-waypoint": "a"}),
    ])
}

fn mode() -> impl Strategy<Value = &'static str> {
    select(&["UNSET", "DISABLE", "PERMISSIVE", "STRICT"][..])
}

fn rule() -> impl Strategy<Value = Value> {
    select(vec![
        json!({}),
        json!({"from": [{"source": {"namespaces": ["a"]}}]}),
        json!({"to": [{"operation": {"methods": ["GET"]}}]}),
        json!({"when": [{"key": "source.ip", "values": ["10.0.0.0/8"]}]}),
    ])
}

fn files(objects: &[Value]) -> BTreeMap<PathBuf, String> {
    let documents: Vec<_> = objects.iter().map(Value::to_string).collect();
    [(PathBuf::from("a.yaml"), documents.join("\n---\n"))].into()
}

/// One of each name: which of two is meant is another matter. Names of kinds without namespaces count everywhere.
fn distinct(objects: Vec<Value>) -> Vec<Value> {
    let key = |object: &Value| {
        let namespace = if object["kind"] == "Namespace" {
            &Value::Null
        } else {
            &object["metadata"]["namespace"]
        };
        [&object["kind"], namespace, &object["metadata"]["name"]].map(Value::to_string)
    };
    let by_name: BTreeMap<_, _> = objects
        .into_iter()
        .map(|object| (key(&object), object))
        .collect();
    by_name.into_values().collect()
}

fn settings() -> Settings {
    Settings {
        root_namespace: "root".to_owned(),
        ..Settings::default()
    }
}

/// A Gateway and two services that are bound to it.
fn bound() -> Vec<Value> {
    let gateway = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"name": "a", "namespace": "shop"},
        "spec": {"gatewayClassName": "ambit-waypoint", "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}]},
        "status": {"addresses": [{"type": "Hostname", "value": "a.shop.svc.cluster.local"}]},
    });
    let service = |name: &str, ip: &str, port: &str| {
        let labels = json!({"istio.io/use-waypoint": "a"});
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": "shop", "labels": labels},
            "spec": {"clusterIP": ip, "selector": {"app": "web"}, "ports": [{"port": 80, "name": port}]},
        })
    };
    vec![
        gateway,
        service("b", "10.96.1.1", "http"),
        service("c", "10.96.1.2", "any"),
    ]
}

fn delta<M: Message>(type_url: &str, resources: &BTreeMap<String, M>) -> Delta {
    let resource = |(name, message): (&String, &M)| {
        let bytes = message.encode_to_vec();
        Resource {
            name: name.clone(),
            version: Version::of(&bytes).to_string(),
            bytes,
        }
    };
    Delta {
        type_url: type_url.to_owned(),
        resources: resources.iter().map(resource).collect(),
        removed: Vec::new(),
    }
}

proptest! {
    #[test]
    fn no_object_panics(objects in vec(prop_oneof![wild(), tame(), value()], 0..8), more in vec(wild(), 0..4)) {
        let first = load(&files(&objects), None);
        let mut world = load(&files(&more), Some(&first)).world;
        json::compiled(&compile(&world, &settings()));
        let report = PodReport { node: "n1".to_owned(), captured: true, ..PodReport::default() };
        world.reports = Some([(("shop".to_owned(), "a".to_owned()), report)].into());
        json::compiled(&compile(&world, &settings()));
        json::compiled(&compile(&first.world, &settings()));
    }

    #[test]
    fn no_text_panics(text in "(---|[a-zA-Z:{}\\[\\]\"'*&!|> \\n\\t-]|kind: AuthorizationPolicy\\n|workloads:\\n){0,60}") {
        let files = [(PathBuf::from("a.yaml"), text)].into();
        let first = load(&files, None);
        compile(&load(&files, Some(&first)).world, &settings());
    }

    /// Whatever control tells a waypoint, that can put in force as a whole.
    #[test]
    fn a_waypoint_understands_what_it_is_told(objects in vec(tame(), 0..24)) {
        let objects = distinct(objects.into_iter().chain(bound()).collect());
        let world = load(&files(&objects), None).world;
        let compiled = compile(&world, &settings());
        for (gateway, told) in &compiled.told {
            let mut store = Store::new(Name::new("root"));
            let mut rejected = store.apply(&delta(proto::TABLE_TYPE, &told.tables));
            rejected.extend(store.apply(&delta(proto::ROUTE_TYPE, &told.routes)));
            rejected.extend(store.apply(&delta(proto::POLICY_TYPE, &told.policies)));
            rejected.extend(store.apply(&delta(proto::BACKEND_TYPE, &told.backends)));
            prop_assert_eq!(rejected, vec![], "{:?} is told {:#}", gateway, json::told([(gateway, told)]));
            prop_assert!(store.current().is_ready());
            prop_assert_eq!(store.current().tables().count(), told.tables.len());
        }
        let shop = ("shop".to_owned(), "a".to_owned());
        prop_assert!(compiled.told[&shop].tables.len() >= 2);
    }

    #[test]
    fn the_order_of_objects_does_not_matter(
        (objects, shuffled) in vec(tame(), 0..16).prop_map(distinct).prop_flat_map(|all| (Just(all.clone()), Just(all).prop_shuffle()))
    ) {
        let [one, other] = [&objects, &shuffled].map(|objects| load(&files(objects), None));
        prop_assert_eq!(&one.problems, &vec![]);
        prop_assert_eq!(compile(&one.world, &settings()), compile(&other.world, &settings()));
    }
}
