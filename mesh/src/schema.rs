//! Whether an API server keeps every field that is read here. An older CustomResourceDefinition knows fewer, and takes the
//! others away as an object is written.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// The fields that a CustomResourceDefinition of ours has and another, in any version that is served, takes away. Pure.
pub fn lost(own: &Value, served: &Value) -> BTreeSet<String> {
    let ours = &own["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let versions = served["spec"]["versions"].as_array();
    let mut lost = BTreeSet::new();
    for version in versions
        .into_iter()
        .flatten()
        .filter(|it| it["served"] == true)
    {
        let schema = &version["schema"]["openAPIV3Schema"];
        match schema["properties"].get("spec") {
            Some(theirs) => compare(ours, theirs, "spec", &mut lost),
            None if keeps(schema) => {}
            None => {
                lost.insert("spec".to_owned());
            }
        }
    }
    lost
}

fn keeps(schema: &Value) -> bool {
    schema["x-kubernetes-preserve-unknown-fields"] == true
}

/// What a schema keeps unknown it keeps with all that is below; what it lists, as it says there.
fn compare(ours: &Value, theirs: &Value, path: &str, lost: &mut BTreeSet<String>) {
    let none = Map::new();
    let fields = ours["properties"].as_object().unwrap_or(&none).iter();
    let fields =
        fields.map(|(key, ours)| (format!("{path}.{key}"), ours, theirs["properties"].get(key)));
    let below = [("items", "[]"), ("additionalProperties", ".*")].into_iter();
    let below = below.filter_map(|(key, below)| {
        Some((format!("{path}{below}"), ours.get(key)?, theirs.get(key)))
    });
    for (path, ours, theirs_there) in fields.chain(below) {
        match theirs_there {
            Some(Value::Bool(true)) => {}
            Some(theirs) => compare(ours, theirs, &path, lost),
            None if keeps(theirs) => {}
            None => {
                lost.insert(path);
            }
        }
    }
}

/// The command that updates the CustomResourceDefinition of a kind, by its plural.
pub fn update(plural: &str) -> String {
    format!("ambit crds {plural} | kubectl apply --server-side --force-conflicts -f -")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn open(schema: &Value) -> Value {
        let version = json!({"served": true, "schema": {"openAPIV3Schema": schema}});
        json!({"spec": {"versions": [version, version]}})
    }

    fn own() -> Value {
        let source = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {
            "principals": {"type": "array"}, "serviceAccounts": {"type": "array"},
        }});
        open(
            &json!({"properties": {"spec": {"x-kubernetes-preserve-unknown-fields": true, "properties": {
                "targetRefs": {"type": "array"},
                "from": {"type": "array", "items": {"properties": {"source": source}}},
            }}}}),
        )
    }

    #[test]
    fn our_own_loses_nothing() {
        assert_eq!(lost(&own(), &own()), BTreeSet::new());
    }

    #[test]
    fn what_an_older_one_takes_away_is_named() {
        let mut older = own();
        // Of one version alone: objects may be written by it.
        let spec =
            &mut older["spec"]["versions"][1]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        spec["x-kubernetes-preserve-unknown-fields"] = false.into();
        let fields = spec["properties"].as_object_mut().unwrap();
        fields.remove("targetRefs");
        let source = &mut fields["from"]["items"]["properties"]["source"];
        source["x-kubernetes-preserve-unknown-fields"] = false.into();
        let fields = source["properties"].as_object_mut().unwrap();
        fields.remove("serviceAccounts");
        let expected = ["spec.from[].source.serviceAccounts", "spec.targetRefs"];
        let found = lost(&own(), &older);
        assert!(found.iter().eq(expected), "{found:?}");
        older["spec"]["versions"][1]["served"] = false.into();
        assert!(lost(&own(), &older).is_empty());
    }

    #[test]
    fn where_everything_is_kept_nothing_is_lost() {
        let all = open(&json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}));
        assert!(lost(&own(), &all).is_empty());
        let none = open(&json!({"type": "object"}));
        assert!(lost(&own(), &none).iter().eq(["spec"]));
    }
}
