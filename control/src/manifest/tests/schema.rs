//! The schemas that an API server is given, beside the reader: they know the same fields.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, json};

use super::*;

const CRDS: [(Kind, &str); 5] = [
    (
        Kind::AuthorizationPolicy,
        include_str!("../../../../deploy/helm/ambit/crds/authorizationpolicy.yaml"),
    ),
    (
        Kind::PeerAuthentication,
        include_str!("../../../../deploy/helm/ambit/crds/peerauthentication.yaml"),
    ),
    (
        Kind::Unserved(UnservedKind::RequestAuthentication),
        include_str!("../../../../deploy/helm/ambit/crds/requestauthentication.yaml"),
    ),
    (
        Kind::ServiceEntry,
        include_str!("../../../../deploy/helm/ambit/crds/serviceentry.yaml"),
    ),
    (
        Kind::WorkloadEntry,
        include_str!("../../../../deploy/helm/ambit/crds/workloadentry.yaml"),
    ),
];

fn crd(text: &str) -> Value {
    tree(&documents(text)[0]).unwrap()
}

fn schema(crd: &Value) -> &Value {
    &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
}

/// Fields by the path of what has them.
type Fields = BTreeMap<String, BTreeSet<String>>;

/// Those of which a schema keeps what it does not know: the reader is to refuse it.
fn kept(schema: &Value, path: &str, all: &mut Fields) {
    let none = Map::new();
    let properties = schema["properties"].as_object().unwrap_or(&none);
    let keeps = schema["x-kubernetes-preserve-unknown-fields"] == true;
    let is_free = path == "spec.jwtRules[0]";
    if keeps && !is_free {
        all.insert(path.to_owned(), properties.keys().cloned().collect());
    } else {
        assert!(
            properties.is_empty() || is_free,
            "{path}: a field that it does not know is pruned"
        );
    }
    for (key, schema) in properties {
        let below = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        if !["metadata", "status"].contains(&below.as_str()) {
            kept(schema, &below, all);
        }
    }
    if let Some(schema) = schema.get("items") {
        kept(schema, &format!("{path}[0]"), all);
    }
    if let Some(schema) = schema.get("additionalProperties") {
        kept(schema, &format!("{path}.80"), all);
    }
}

/// A value with every field of a schema, and one that no schema has.
fn sample(schema: &Value) -> Value {
    let below = |key: &str| sample(&schema[key]);
    match schema["type"].as_str().unwrap() {
        "array" => json!([below("items")]),
        "object" => {
            let mut fields = Map::new();
            for (key, schema) in schema["properties"].as_object().into_iter().flatten() {
                fields.insert(key.clone(), sample(schema));
            }
            if schema.get("additionalProperties").is_some() {
                fields.insert("80".to_owned(), below("additionalProperties"));
            }
            fields.insert("unheardOf".to_owned(), json!("x"));
            Value::Object(fields)
        }
        "string" => match schema["enum"].as_array() {
            Some(values) => values.last().unwrap().clone(),
            None => json!("x"),
        },
        "integer" => json!(1),
        other => panic!("{other}"),
    }
}

/// What the reader knows, in its own words: `no such field; known here: …`.
fn known(kind: Kind, schema: &Value) -> Fields {
    let mut all = Fields::new();
    let properties = &schema["properties"];
    // Fields of a spec that exclude each other are read one at a time.
    for key in properties["spec"]["properties"].as_object().unwrap().keys() {
        let mut whole = sample(schema);
        whole["apiVersion"] = kind.api_version().into();
        whole["kind"] = kind.as_str().into();
        whole["metadata"] = json!({"name": "x", "namespace": "shop"});
        let spec = whole["spec"].as_object_mut().unwrap();
        spec.retain(|it, _| [key, "action", "unheardOf"].contains(&it.as_str()));
        let Manifest::Refused(refused) = manifest(&whole, "") else {
            panic!("{kind:?}: {whole}");
        };
        for fault in refused.faults {
            let Some((_, names)) = fault.reason.split_once("known here: ") else {
                continue;
            };
            let path = fault.field.strip_suffix("unheardOf").unwrap();
            let names = names.split(", ").map(str::to_owned).collect();
            all.insert(path.trim_end_matches('.').to_owned(), names);
        }
    }
    all
}

#[test]
fn an_api_server_knows_the_fields_that_are_read() {
    for (kind, text) in CRDS {
        let crd = crd(text);
        let (mut kept_there, read_here) = (Fields::new(), known(kind, schema(&crd)));
        kept(schema(&crd), "", &mut kept_there);
        if !read_here.contains_key("") {
            // What stands beside the spec is not looked at.
            kept_there.remove("");
        }
        assert_eq!(kept_there, read_here, "{kind:?}");
    }
}

#[test]
fn every_version_that_is_read_is_served_and_all_are_alike() {
    for (kind, text) in CRDS {
        let crd = crd(text);
        let versions = crd["spec"]["versions"].as_array().unwrap();
        let names: Vec<_> = versions
            .iter()
            .map(|it| it["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, kind.versions());
        for version in versions {
            assert_eq!(version["schema"], versions[0]["schema"]);
            assert_eq!(version["served"], true);
            assert_eq!(version["subresources"], json!({"status": {}}));
        }
        assert_eq!(crd["spec"]["names"]["kind"], kind.as_str());
        let name = format!("{}.{}", kind.plural(), kind.group());
        assert_eq!(crd["metadata"]["name"], name.as_str());
    }
}
