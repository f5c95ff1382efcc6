//! Whether the API server keeps every field of a policy that is read here. An older CustomResourceDefinition knows fewer, and
//! takes the others away as an object is written: what is left of a policy may let in whom it was to keep out.

use std::collections::BTreeSet;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use serde_json::{Map, Value};
use tokio_stream::StreamExt;

use crate::manifest::{self, Fault, Kind, UnservedKind};

/// Our own, by kind.
fn text(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::AuthorizationPolicy => Some(include_str!(
            "../../../deploy/helm/ambit/crds/authorizationpolicy.yaml"
        )),
        Kind::PeerAuthentication => Some(include_str!(
            "../../../deploy/helm/ambit/crds/peerauthentication.yaml"
        )),
        Kind::Unserved(UnservedKind::RequestAuthentication) => Some(include_str!(
            "../../../deploy/helm/ambit/crds/requestauthentication.yaml"
        )),
        _ => None,
    }
}

fn own(kind: Kind) -> Option<Value> {
    let documents = manifest::documents(text(kind)?);
    manifest::tree(documents.first()?).ok()
}

/// What the name of its CustomResourceDefinition is.
fn name(kind: Kind) -> String {
    format!("{}.{}", kind.plural(), kind.group())
}

/// What every object of a kind is refused for; `None` if all of its fields are kept, or if it is no policy.
pub async fn pruned(client: &Client, kind: Kind) -> Result<Option<Fault>, kube::Error> {
    if text(kind).is_none() {
        return Ok(None);
    }
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let served = api.get_opt(&name(kind)).await?;
    Ok(served.and_then(|served| fault(kind, &served)))
}

/// Until [`pruned`] would answer something else than this; never, for other kinds than policies.
pub async fn changed(client: &Client, kind: Kind, pruned: Option<&Fault>) {
    if text(kind).is_none() {
        return std::future::pending().await;
    }
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let named = format!("metadata.name={}", name(kind));
    let events = watcher(api, watcher::Config::default().fields(&named)).default_backoff();
    tokio::pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(served) | Event::InitApply(served)) => {
                if fault(kind, &served).as_ref() != pruned {
                    return;
                }
            }
            // That it is gone is seen by who watches its objects.
            Ok(Event::Init | Event::InitDone | Event::Delete(_)) => {}
            Err(error) => {
                tracing::warn!(kind = kind.as_str(), %error, "whether all of its fields are kept is not known")
            }
        }
    }
    std::future::pending().await
}

fn fault(kind: Kind, served: &CustomResourceDefinition) -> Option<Fault> {
    let served = serde_json::to_value(served).ok()?;
    let lost = lost(&own(kind)?, &served);
    if lost.is_empty() {
        return None;
    }
    let name = name(kind);
    let file = format!("crds/{}.yaml", kind.as_str().to_ascii_lowercase());
    let lost: Vec<_> = lost.into_iter().collect();
    Some(Fault {
        field: String::new(),
        reason: format!(
            "the API server may have taken parts of it away: its CustomResourceDefinition {name} does not know {}; update it: \
             kubectl apply --server-side --force-conflicts -f {file} of the chart",
            lost.join(", ")
        ),
    })
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_lose_nothing() {
        for kind in Kind::all() {
            if let Some(own) = own(kind) {
                assert_eq!(lost(&own, &own), BTreeSet::new());
            }
        }
        let policies = Kind::all().filter(|kind| kind.is_policy());
        assert!(policies.into_iter().all(|kind| own(kind).is_some()));
    }

    #[test]
    fn what_an_older_one_takes_away_is_named() {
        let own = own(Kind::AuthorizationPolicy).unwrap();
        let mut older = own.clone();
        // Of one version alone: objects may be written by it.
        let spec =
            &mut older["spec"]["versions"][1]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        spec["x-kubernetes-preserve-unknown-fields"] = false.into();
        spec["properties"]
            .as_object_mut()
            .unwrap()
            .remove("targetRefs");
        let source = "/properties/rules/items/properties/from/items/properties/source";
        let source = spec.pointer_mut(source).unwrap();
        source["x-kubernetes-preserve-unknown-fields"] = false.into();
        source["properties"]
            .as_object_mut()
            .unwrap()
            .remove("serviceAccounts");
        let expected = [
            "spec.rules[].from[].source.serviceAccounts",
            "spec.targetRefs",
        ];
        let lost = lost(&own, &older);
        assert!(lost.iter().eq(expected), "{lost:?}");
        older["spec"]["versions"][1]["served"] = false.into();
        assert!(super::lost(&own, &older).is_empty());
    }

    #[test]
    fn where_everything_is_kept_nothing_is_lost() {
        let own = own(Kind::PeerAuthentication).unwrap();
        let open = |schema: Value| serde_json::json!({"spec": {"versions": [{"served": true, "schema": {"openAPIV3Schema": schema}}]}});
        let all = open(
            serde_json::json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}),
        );
        assert!(lost(&own, &all).is_empty());
        let none = open(serde_json::json!({"type": "object"}));
        assert!(lost(&own, &none).iter().eq(["spec"]));
    }
}
