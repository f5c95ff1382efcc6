//! Cases recorded from the ecosystem's own control plane: manifests, and the resources and statuses that it made of them.
//!
//! Ours are the same, or the difference is meant and stands, with its reason, in `recorded.yaml`. Cases that need what
//! is not served yet are skipped by name there, as a whole or some of their resources. Both lists can only shrink unnoticed: an entry that is no longer needed
//! fails the test.
//!
//! What a case leaves unsaid: the root namespace is `istio-system`, three classes of Gateways are there, settings of the
//! mesh are in the ConfigMap `istio-system/istio`, and an object with a deletionTimestamp, pods apart, is gone. Conditions of Gateways and the
//! messages of conditions are not compared.
#![allow(
    clippy::unwrap_used,
    reason = "a test may panic, in its helper functions too"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use control::{
    compile::{Compiled, Settings, json},
    manifest::{documents, tree},
    publish::Version,
    source::check::check_files,
};
use mesh::{
    delta::{Delta, Resource},
    local,
    model::Effect,
    name::Name,
    parse,
    waypoint::Store,
};
use prost::Message;
use proto::{BACKEND_TYPE, POLICY_TYPE, ROUTE_TYPE, TABLE_TYPE};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Lists {
    differences: Vec<Difference>,
    skipped: Vec<Skipped>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Difference {
    case: String,
    /// `authorizations/NAME` and the like; a policy's status goes with it.
    resources: Vec<String>,
    reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Skipped {
    case: String,
    /// Only these of its resources; none: the whole case.
    #[serde(default)]
    resources: Vec<String>,
    reason: String,
}

/// Classes that are there without being written.
const CLASSES: &str = "
{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: istio}, spec: {controllerName: istio.io/gateway-controller}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: istio-remote}, spec: {controllerName: istio.io/unmanaged-gateway}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: istio-waypoint}, spec: {controllerName: istio.io/mesh-controller}}
";

const SECTIONS: [&str; 3] = ["addresses", "authorizations", "status"];

#[test]
fn recorded_cases_come_out_equal_or_are_listed() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let lists: Lists =
        serde_saphyr::from_str(&fs::read_to_string(here.join("recorded.yaml")).unwrap()).unwrap();
    let mut listed = BTreeSet::new();
    for Difference {
        case,
        resources,
        reason,
    } in lists.differences
    {
        assert!(!reason.is_empty());
        listed.extend(
            resources
                .into_iter()
                .map(|resource| (case.clone(), resource)),
        );
    }
    let (mut skipped, mut parts) = (BTreeSet::new(), 0);
    for Skipped {
        case,
        resources,
        reason,
    } in lists.skipped
    {
        assert!(!reason.is_empty());
        parts += resources.len();
        if resources.is_empty() {
            skipped.insert(case);
        } else {
            let resources = resources.into_iter();
            listed.extend(resources.map(|resource| (case.clone(), resource)));
        }
    }
    let (mut wrong, mut equal, mut skips) = (Vec::new(), 0, 0);
    for (case, [input, output]) in cases(&here.join("recorded")) {
        let different = differences(&ours(&input), &recorded(&output));
        if skipped.remove(&case) {
            skips += 1;
            if different.is_empty() {
                wrong.push(format!(
                    "{case}: is skipped, but comes out equal: remove it from the list"
                ));
            }
            continue;
        }
        equal += 1;
        for (resource, [ours, recorded]) in different {
            if !listed.remove(&(case.clone(), resource.clone())) {
                wrong.push(format!(
                    "{case}: {resource}\n  ours:     {ours}\n  recorded: {recorded}"
                ));
            }
        }
    }
    let stale = |what: &str| {
        format!("{what}: is listed, but there is no such difference: remove it from the list")
    };
    wrong.extend(
        listed
            .iter()
            .map(|(case, resource)| stale(&format!("{case}: {resource}"))),
    );
    wrong.extend(skipped.iter().map(|case| stale(case)));
    println!("{equal} cases compared, {skips} skipped, and {parts} resources of others");
    assert!(equal > 30, "the cases are there");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A resource that a node refuses is as bad as one that is missing.
#[test]
fn nodes_understand_every_resource() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded");
    let mut resources = 0;
    for (case, [input, _]) in cases(&here) {
        let compiled = compiled(&input);
        for (name, address) in &compiled.addresses {
            let parsed = parse::address(name, &address.encode_to_vec());
            assert!(parsed.is_ok(), "{case}: {name}: {}", parsed.err().unwrap());
            resources += 1;
        }
        for (name, authorization) in &compiled.authorizations {
            let root = Name::new("istio-system");
            let policy = parse::authorization(name, &authorization.encode_to_vec(), root);
            assert!(
                matches!(policy.effect, Effect::Rules { .. }),
                "{case}: {name}: {:?}",
                policy.effect
            );
            resources += 1;
        }
    }
    assert!(resources > 200, "{resources}");
}

/// And what is told to waypoints they put in force.
#[test]
fn waypoints_understand_every_resource() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded");
    let mut tables = 0;
    for (case, [input, _]) in cases(&here) {
        for (gateway, told) in &compiled(&input).told {
            let mut store = Store::new(Name::new("istio-system"));
            let deltas = [
                delta(TABLE_TYPE, &told.tables),
                delta(ROUTE_TYPE, &told.routes),
                delta(POLICY_TYPE, &told.policies),
                delta(BACKEND_TYPE, &told.backends),
            ];
            for delta in &deltas {
                assert_eq!(store.apply(delta), [], "{case}: {gateway:?}");
            }
            let generation = store.current();
            assert!(generation.is_ready(), "{case}: {gateway:?}");
            assert_eq!(
                generation.tables().count(),
                told.tables.len(),
                "{case}: {gateway:?}"
            );
            tables += told.tables.len();
        }
    }
    assert!(tables > 20, "{tables}");
}

fn delta<M: Message>(type_url: &str, resources: &BTreeMap<String, M>) -> Delta {
    let resource = |(name, message): (&String, &M)| {
        let bytes = message.encode_to_vec();
        let version = Version::of(&bytes).to_string();
        Resource {
            name: name.clone(),
            version,
            bytes,
        }
    };
    Delta {
        type_url: type_url.to_owned(),
        resources: resources.iter().map(resource).collect(),
        removed: Vec::new(),
    }
}

/// Written as a local workload file and read again, no resource is lost and every policy says the same.
#[test]
fn a_local_workload_file_holds_every_resource() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded");
    for (case, [input, _]) in cases(&here) {
        let compiled = compiled(&input);
        let written = local::write(&compiled.own_addresses(), &compiled.authorizations);
        let read =
            local::parse(&written).unwrap_or_else(|error| panic!("{case}: {error}\n{written}"));
        assert_eq!(read.authorizations, compiled.authorizations, "{case}");
        assert!(
            read.addresses.keys().eq(compiled.addresses.keys()),
            "{case}"
        );
        let again = local::write(&read.addresses, &read.authorizations);
        assert_eq!(again, written, "{case}");
    }
}

fn cases(dir: &Path) -> BTreeMap<String, [String; 2]> {
    let mut cases = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if let Some(case) = name.strip_suffix(".in.yaml") {
            let output = dir.join(format!("{case}.out.json"));
            cases.insert(
                case.to_owned(),
                [&path, &output].map(|path| fs::read_to_string(path).unwrap()),
            );
        }
    }
    cases
}

/// Without what only we have: the Services that Gateways without one get, and whom a service trusts.
fn ours(input: &str) -> Value {
    let compiled = compiled(input);
    let mut value = json::compiled(&compiled);
    let addresses = value["addresses"].as_object_mut().unwrap();
    for (namespace, name) in compiled.told.keys() {
        let key = format!("{namespace}/{name}.{namespace}.svc.cluster.local");
        if addresses
            .get(&key)
            .is_some_and(|it| it["service"].get("addresses").is_none())
        {
            addresses.remove(&key);
        }
    }
    for address in addresses.values_mut() {
        if let Some(service) = address.get_mut("service").and_then(Value::as_object_mut) {
            service.remove("extensions");
        }
    }
    without_gateways(value)
}

fn compiled(input: &str) -> Compiled {
    let mut settings = Settings {
        root_namespace: "istio-system".to_owned(),
        // The class of its waypoints is ours.
        deploys: true,
        ..Settings::default()
    };
    let mut kept = CLASSES.to_owned();
    for document in documents(input) {
        let tree = tree(&document).unwrap();
        let kind = tree["kind"].as_str().unwrap();
        if kind == "ConfigMap" {
            let text = configured(&mut settings, tree["data"]["mesh"].as_str().unwrap());
            kept.push_str(&text);
        } else if kind == "Pod" || tree["metadata"].get("deletionTimestamp").is_none() {
            kept.push_str("---\n");
            kept.push_str(document.text);
        }
    }
    let files = [(PathBuf::from("case.yaml"), kept)].into();
    check_files(&files, &settings).compiled
}

/// The settings of a mesh where and as they are for us, as far as we have them.
fn configured(settings: &mut Settings, text: &str) -> String {
    let mesh: BTreeMap<String, Value> = serde_saphyr::from_str(text).unwrap();
    if let Some(name) = mesh.get("trustDomain").and_then(Value::as_str) {
        settings.trust_domain = name.to_owned();
    }
    if let Some(name) = mesh.get("rootNamespace").and_then(Value::as_str) {
        settings.root_namespace = name.to_owned();
    }
    let config = serde_json::json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "ambit", "namespace": settings.root_namespace},
        "data": {"mesh": serde_json::to_string(&mesh).unwrap()},
    });
    format!("---\n{config}\n")
}

fn recorded(output: &str) -> Value {
    without_gateways(serde_json::from_str(output).unwrap())
}

fn without_gateways(mut value: Value) -> Value {
    let statuses = value["status"].as_object_mut().unwrap();
    statuses.retain(|name, _| !name.starts_with("Gateway/"));
    value
}

fn differences(ours: &Value, recorded: &Value) -> BTreeMap<String, [Value; 2]> {
    let mut different = BTreeMap::new();
    for section in SECTIONS {
        let [ours, recorded] = [ours, recorded].map(|it| it[section].as_object().unwrap());
        for name in ours.keys().chain(recorded.keys()) {
            let pair = [ours, recorded].map(|it| it.get(name).cloned().unwrap_or_default());
            if pair[0] != pair[1] {
                different.insert(format!("{section}/{name}"), pair);
            }
        }
    }
    different
}
