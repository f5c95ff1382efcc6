//! The configuration of the mesh: the ConfigMap `ambit` of the root namespace, YAML under its key `mesh`.
//!
//! Whether its namespace is the root namespace, and whether it fits how the control plane was started, is for who knows
//! that to say ([`MeshConfig::faults`]). What is read here is refused for any key that nobody acts on: a misspelt one
//! would be a setting that silently is not there.

use std::collections::BTreeSet;

use super::{
    Document, Fault, Labels, Meta,
    gateway::{LabelSelector, label_selector},
    meta::{is_label, is_subdomain},
    read::{At, Faults},
    tree,
};

/// Name of the ConfigMap.
pub const NAME: &str = "ambit";
/// The key that holds the configuration.
const KEY: &str = "mesh";
const PATH: &str = "data.mesh";

/// The configuration of the mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MeshConfig {
    /// Metadata of the ConfigMap.
    pub meta: Meta,
    /// `rootNamespace`: where this has to stand, for the reader to see.
    pub root_namespace: Option<String>,
    /// `trustDomain`, for the reader to see.
    pub trust_domain: Option<String>,
    /// `discoverySelectors`: only namespaces that match one of these are looked at, and the root namespace. None: all.
    /// Workloads of others are not published: those whose traffic is captured are reached by nobody. A service that is bound
    /// to a waypoint stays so meanwhile, for when its namespace is looked at again; only its label unbinds it.
    pub discovery: Vec<LabelSelector>,
    /// `trustedWaypointNamespaces`: those whose waypoints are trusted by services of other namespaces to have decided
    /// their policies. Those of a service's own namespace are in any case.
    pub trusted_waypoint_namespaces: BTreeSet<String>,
    /// `gateways`, each `<namespace>/<service account>`: what these say of the clients that they forward for
    /// (`x-forwarded-*`, `forwarded`) reaches applications. Of anybody else it does not. Nothing is allowed or denied by it.
    pub gateways: BTreeSet<(String, String)>,
    /// `serviceEntryVisibility`: who sees the hosts of ServiceEntries. `None`: everybody, and nothing is said of it.
    pub visibility: Option<Visibility>,
}

/// Who sees the hosts of ServiceEntries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Visibility {
    /// Of namespaces that none of `policies` is for.
    pub fallback: Visible,
    /// For namespaces that match any of the selectors; the first counts.
    pub policies: Vec<(Visible, Vec<LabelSelector>)>,
}

/// Who sees the hosts of a ServiceEntry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Visible {
    /// Everybody.
    #[default]
    Public,
    /// Clients of its own namespace.
    Namespace,
    /// Nobody: it is as if it were not there.
    Nobody,
}

impl Visibility {
    /// Who sees those of a namespace with these labels.
    pub fn of(&self, labels: &Labels) -> Visible {
        let mut policies = self.policies.iter();
        let found = policies.find(|(_, all)| all.iter().any(|it| it.matches(labels)));
        found.map_or(self.fallback, |(visible, _)| *visible)
    }
}

impl MeshConfig {
    /// What of this cannot be, with the names that a control plane was started with: they do not change while it runs.
    pub fn faults(&self, root_namespace: &str, trust_domain: &str) -> Vec<Fault> {
        let pairs = [
            ("rootNamespace", &self.root_namespace, root_namespace),
            ("trustDomain", &self.trust_domain, trust_domain),
        ];
        let other = pairs.into_iter().filter_map(|(key, written, started)| {
            let written = written.as_deref().filter(|written| *written != started)?;
            Some(Fault {
                field: format!("{PATH}.{key}"),
                reason: format!(
                    "{written:?} is another than the control plane was started with, {started:?}: it does not change while \
                     that runs; start it with the new one, or take the key away"
                ),
            })
        });
        other.collect()
    }
}

/// Whether a ConfigMap holds a configuration of a mesh, by its name and key.
pub(super) fn is_meant(root: &At<'_>) -> bool {
    let named = root.get("metadata").and_then(|at| at.peek("name")) == Some(NAME);
    named && root.get("data").is_some_and(|data| data.get(KEY).is_some())
}

pub(super) fn mesh_config(meta: Meta, root: &At<'_>, faults: &mut Faults) -> MeshConfig {
    let nothing = MeshConfig::default();
    let Some(data) = root.mapping("data", faults) else {
        return MeshConfig { meta, ..nothing };
    };
    data.only(&[KEY], faults);
    let Some(text) = data.text(KEY, faults) else {
        return MeshConfig { meta, ..nothing };
    };
    let document = Document {
        number: 1,
        line: 1,
        text,
    };
    // Nothing written is nothing set.
    let tree = match tree(&document) {
        Ok(tree) if tree.is_null() => return MeshConfig { meta, ..nothing },
        Ok(tree) => tree,
        Err(Fault { field, reason }) => {
            faults.add(&data, KEY, format!("{field}: {reason}"));
            return MeshConfig { meta, ..nothing };
        }
    };
    let at = At::new(PATH, &tree);
    at.only(
        &[
            "rootNamespace",
            "trustDomain",
            "discoverySelectors",
            "trustedWaypointNamespaces",
            "gateways",
            "serviceEntryVisibility",
        ],
        faults,
    );
    let selectors = at.items("discoverySelectors", faults);
    let mut trusted = BTreeSet::new();
    for (item, namespace) in at.texts("trustedWaypointNamespaces", faults) {
        if !is_label(namespace) {
            let reason = format!("{namespace:?} is not the name of a namespace");
            faults.add(&item, "", reason);
        }
        trusted.insert(namespace.to_owned());
    }
    let mut gateways = BTreeSet::new();
    for (item, text) in at.texts("gateways", faults) {
        match text.split_once('/') {
            Some((namespace, account)) if is_label(namespace) && is_subdomain(account) => {
                gateways.insert((namespace.to_owned(), account.to_owned()));
            }
            _ => {
                let reason = format!("{text:?} is not <namespace>/<service account>");
                faults.add(&item, "", reason);
            }
        }
    }
    MeshConfig {
        meta,
        root_namespace: name(&at, "rootNamespace", is_label, faults),
        trust_domain: name(&at, "trustDomain", is_subdomain, faults),
        discovery: selectors
            .iter()
            .map(|at| label_selector(at, faults))
            .collect(),
        trusted_waypoint_namespaces: trusted,
        gateways,
        visibility: visibility(&at, faults),
    }
}

fn visibility(at: &At<'_>, faults: &mut Faults) -> Option<Visibility> {
    let at = at.mapping("serviceEntryVisibility", faults)?;
    at.only(&["defaultVisibility", "policies"], faults);
    let mut visibility = Visibility {
        fallback: visible(&at, "defaultVisibility", faults).unwrap_or_default(),
        policies: Vec::new(),
    };
    for at in at.items("policies", faults) {
        at.only(&["visibility", "matchingRules"], faults);
        let rules = at.items("matchingRules", faults);
        if rules.is_empty() {
            faults.add(&at, "matchingRules", "at least one is required");
        }
        let mut selectors = Vec::new();
        for at in &rules {
            at.only(&["namespaceSelector"], faults);
            match at.mapping("namespaceSelector", faults) {
                Some(at) => selectors.push(label_selector(&at, faults)),
                None => faults.add(at, "namespaceSelector", "required"),
            }
        }
        match visible(&at, "visibility", faults) {
            Some(visible) => visibility.policies.push((visible, selectors)),
            None => faults.add(&at, "visibility", "required"),
        }
    }
    Some(visibility)
}

fn visible(at: &At<'_>, key: &str, faults: &mut Faults) -> Option<Visible> {
    match at.text(key, faults)? {
        "PUBLIC" => Some(Visible::Public),
        "NAMESPACE" => Some(Visible::Namespace),
        "NONE" => Some(Visible::Nobody),
        other => {
            let reason = format!("{other:?} is none of PUBLIC, NAMESPACE, NONE");
            faults.add(at, key, reason);
            Some(Visible::Public)
        }
    }
}

fn name(at: &At<'_>, key: &str, is: impl Fn(&str) -> bool, faults: &mut Faults) -> Option<String> {
    let text = at.text(key, faults)?;
    if !is(text) {
        faults.add(at, key, format!("{text:?} is not a name"));
    }
    Some(text.to_owned())
}
