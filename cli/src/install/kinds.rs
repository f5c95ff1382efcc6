//! The definitions of kinds (CRDs) that the chart carries, and those that a cluster has.
//!
//! One that is there is another's, or users rely on it: it is never replaced by an installation, only missed where it takes
//! fields away that are read here. Helm applies what is absent when it installs, and never after; an upgrade does it here.

use std::collections::BTreeSet;

use mesh::schema;
use serde_json::Value;

use super::chart::FILES;
use crate::{
    Failure,
    cluster::{Cluster, whole_object},
};

const PATH: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A kind, by its plural: authorizationpolicies [default: all].
    #[arg(value_name = "KIND")]
    kinds: Vec<String>,
}

/// Prints definitions, as manifests.
pub(crate) fn main(arguments: &Arguments) -> Result<(), Failure> {
    let all = own()?;
    let plural = |it: &Definition| it.name.split('.').next().unwrap_or_default().to_owned();
    let known: Vec<_> = all.iter().map(plural).collect();
    if let Some(wrong) = arguments.kinds.iter().find(|it| !known.contains(it)) {
        let known = known.join(", ");
        return Err(Failure::Usage(format!("{wrong:?} is none of {known}")));
    }
    let wanted = all
        .iter()
        .filter(|it| arguments.kinds.is_empty() || arguments.kinds.contains(&plural(it)));
    let texts: Vec<_> = wanted.map(|it| it.text).collect();
    crate::print(&texts.join("---\n"))
}

/// A definition that the chart carries.
#[derive(Clone, Debug)]
struct Definition {
    name: String,
    tree: Value,
    text: &'static str,
}

fn own() -> Result<Vec<Definition>, Failure> {
    let files = FILES.iter().filter(|(name, _)| name.starts_with("crds/"));
    let read = files.map(|(file, text)| {
        let tree: Value = serde_saphyr::from_str(text)
            .map_err(|error| Failure::Failed(format!("{file} of the chart: {error}")))?;
        let name = tree["metadata"]["name"].as_str().unwrap_or_default();
        Ok(Definition {
            name: name.to_owned(),
            tree,
            text,
        })
    });
    read.collect()
}

/// A definition of a cluster that takes fields away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Older {
    /// Its name.
    pub(crate) name: String,
    /// What it takes away.
    pub(crate) lost: BTreeSet<String>,
}

impl Older {
    /// What is wrong with it.
    pub(crate) fn what(&self) -> String {
        let lost: Vec<_> = self.lost.iter().map(String::as_str).collect();
        format!(
            "the CustomResourceDefinition {} does not know {}: the API server takes that away from what is applied",
            self.name,
            lost.join(", ")
        )
    }

    /// The command that updates it.
    pub(crate) fn repair(&self) -> String {
        schema::update(self.name.split('.').next().unwrap_or_default())
    }
}

/// All definitions of a cluster that are among ours.
pub(crate) fn served(cluster: &Cluster) -> Result<Vec<Value>, Failure> {
    let mut found = Vec::new();
    for definition in own()? {
        let path = format!("{PATH}/{}", definition.name);
        found.extend(cluster.get(&path)?.map(whole_object));
    }
    Ok(found)
}

/// Those of a cluster that take fields away. Pure.
pub(crate) fn older(served: &[Value]) -> Result<Vec<Older>, Failure> {
    let found = own()?.into_iter().filter_map(|definition| {
        let served = served
            .iter()
            .find(|it| it["metadata"]["name"] == definition.name.as_str())?;
        let lost = schema::lost(&definition.tree, served);
        (!lost.is_empty()).then_some(Older {
            name: definition.name,
            lost,
        })
    });
    Ok(found.collect())
}

/// Refuses a cluster whose definitions take fields away.
pub(super) fn refuse_older(served: &[Value]) -> Result<(), Failure> {
    let older = older(served)?;
    if older.is_empty() {
        return Ok(());
    }
    let lines = older
        .iter()
        .map(|it| format!("{}\n  {}", it.what(), it.repair()));
    let lines: Vec<_> = lines.collect();
    Err(Failure::Failed(format!(
        "policies would mean something else than is written in them:\n{}",
        lines.join("\n")
    )))
}

/// Applies those that are absent, as helm does when it installs.
pub(super) fn apply_absent(cluster: &Cluster, served: &[Value]) -> Result<(), Failure> {
    for definition in own()? {
        let is_it = |it: &Value| it["metadata"]["name"] == definition.name.as_str();
        if !served.iter().any(is_it) {
            cluster.apply(&format!("{PATH}/{}", definition.name), &definition.tree)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_istio_that_is_served_has_a_definition() {
        let names: Vec<_> = own().unwrap().into_iter().map(|it| it.name).collect();
        assert_eq!(
            names,
            [
                "authorizationpolicies.security.istio.io",
                "peerauthentications.security.istio.io",
                "requestauthentications.security.istio.io",
                "serviceentries.networking.istio.io",
                "workloadentries.networking.istio.io",
            ]
        );
    }

    #[test]
    fn an_older_definition_is_refused_with_the_command_that_updates_it() {
        let mut served: Vec<_> = own().unwrap().into_iter().map(|it| it.tree).collect();
        assert_eq!(older(&served).unwrap(), []);
        assert_eq!(older(&[]).unwrap(), []);
        for version in served[1]["spec"]["versions"].as_array_mut().unwrap() {
            let spec = &mut version["schema"]["openAPIV3Schema"]["properties"]["spec"];
            spec["x-kubernetes-preserve-unknown-fields"] = false.into();
            spec["properties"]
                .as_object_mut()
                .unwrap()
                .remove("portLevelMtls");
        }
        let said = refuse_older(&served).unwrap_err().to_string();
        for word in [
            "peerauthentications.security.istio.io does not know spec.portLevelMtls",
            "ambit crds peerauthentications | kubectl apply --server-side",
        ] {
            assert!(said.contains(word), "{said}");
        }
    }
}
