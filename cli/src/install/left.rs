//! What is left of a mesh whose release is gone: objects that it made while it ran, and its namespace.
//!
//! Objects of users are never removed, and neither is a namespace that has any.

use std::{thread, time::Instant};

use serde_json::{Value, json};

use super::{MADE, PAUSE, namespace_path};
use crate::{
    Failure,
    cluster::{Cluster, whole_object},
};

/// On what the control plane makes in namespaces of others.
const OURS: &str = "app.kubernetes.io/part-of%3Dambit";

/// What it is called, by whichever names.
const CERTIFICATES: [&str; 2] = ["istio-ca-root-cert", "ambit-ca-root-cert"];

/// What has been removed, in words, and what users have in the namespace, which therefore stays.
pub(super) fn remove(
    cluster: &Cluster,
    namespace: &str,
    end: Instant,
) -> Result<(Vec<String>, Vec<String>), Failure> {
    let mut removed = Vec::new();
    let mut count = 0;
    for object in cluster.list(
        &format!("/api/v1/configmaps?labelSelector={OURS}"),
        whole_object,
    )? {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        if CERTIFICATES.contains(&name) {
            let of = object["metadata"]["namespace"].as_str().unwrap_or_default();
            let path = format!("{}/configmaps/{name}", namespace_path(of));
            count += usize::from(cluster.delete(&path)?);
        }
    }
    if count > 0 {
        removed.push(format!(
            "the ConfigMap with the root certificate of {count} namespaces"
        ));
    }
    if cluster.delete(&format!("{}/secrets/ambit-ca", namespace_path(namespace)))? {
        removed.push("the Secret ambit-ca with the root key".to_owned());
    }
    let leases = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases");
    for lease in cluster.list(&leases, whole_object)? {
        let name = lease["metadata"]["name"].as_str().unwrap_or_default();
        if name.starts_with("ambit") && cluster.delete(&format!("{leases}/{name}"))? {
            removed.push(format!("the Lease {name}"));
        }
    }
    let path = namespace_path(namespace);
    let Some(there) = cluster.get(&path)? else {
        return Ok((removed, Vec::new()));
    };
    if there["metadata"]["annotations"][MADE].is_null() {
        // It is another's: only our labels go.
        cluster.apply(
            &path,
            &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}),
        )?;
        return Ok((removed, Vec::new()));
    }
    let stays = of_users(cluster, namespace)?;
    if stays.is_empty() {
        cluster.delete(&path)?;
        while cluster.get(&path)?.is_some() && Instant::now() < end {
            thread::sleep(PAUSE);
        }
        removed.push(format!("the namespace {namespace}"));
    }
    Ok((removed, stays))
}

/// What users have in a namespace, as kind/name.
fn of_users(cluster: &Cluster, namespace: &str) -> Result<Vec<String>, Failure> {
    let mut found = Vec::new();
    for group in groups(cluster)? {
        let Some(served) = cluster.get(&group)? else {
            continue;
        };
        for (kind, plural) in listable(&served) {
            let path = format!("{group}/namespaces/{namespace}/{plural}");
            let all = cluster.list(&path, whole_object)?;
            let names = all.iter().filter(|it| !is_of_cluster(&kind, it));
            found
                .extend(names.map(|it| {
                    format!("{kind}/{}", it["metadata"]["name"].as_str().unwrap_or("?"))
                }));
        }
    }
    Ok(found)
}

/// The paths of all groups, each in its preferred version.
fn groups(cluster: &Cluster) -> Result<Vec<String>, Failure> {
    let mut paths = vec!["/api/v1".to_owned()];
    let served = cluster.get("/apis")?.unwrap_or_default();
    for group in served["groups"].as_array().into_iter().flatten() {
        // Of these every object is another's shadow.
        let is_derived = matches!(
            group["name"].as_str(),
            Some("events.k8s.io" | "metrics.k8s.io")
        );
        if let Some(version) = group["preferredVersion"]["groupVersion"].as_str()
            && !is_derived
        {
            paths.push(format!("/apis/{version}"));
        }
    }
    Ok(paths)
}

/// Kinds whose objects are in namespaces and can be listed, with the words for their paths.
fn listable(served: &Value) -> Vec<(String, String)> {
    let resources = served["resources"].as_array().into_iter().flatten();
    let kinds = resources.filter(|it| {
        let lists = it["verbs"]
            .as_array()
            .is_some_and(|verbs| verbs.iter().any(|verb| verb == "list"));
        it["namespaced"] == true && lists
    });
    let words = kinds.filter_map(|it| {
        Some((
            it["kind"].as_str()?.to_owned(),
            it["name"].as_str()?.to_owned(),
        ))
    });
    words.collect()
}

/// Whether an object is there because its namespace is, or because another object is.
fn is_of_cluster(kind: &str, object: &Value) -> bool {
    let metadata = &object["metadata"];
    let is_owned = metadata["ownerReferences"]
        .as_array()
        .is_some_and(|all| !all.is_empty());
    let ends = !metadata["deletionTimestamp"].is_null();
    let name = metadata["name"].as_str().unwrap_or_default();
    is_owned
        || ends
        || match kind {
            "Event" => true,
            "ConfigMap" => name == "kube-root-ca.crt" || CERTIFICATES.contains(&name),
            "ServiceAccount" => name == "default",
            // Of a cluster that still gives tokens to service accounts.
            "Secret" => object["type"] == "kubernetes.io/service-account-token",
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_somebody_has_put_there_keeps_a_namespace() {
        let named = |name: &str| json!({"metadata": {"name": name}});
        let owned = json!({"metadata": {"name": "x", "ownerReferences": [{"kind": "ReplicaSet"}]}});
        for (kind, object, expected) in [
            ("AuthorizationPolicy", named("deny-all"), false),
            ("ConfigMap", named("mine"), false),
            ("ConfigMap", named("kube-root-ca.crt"), true),
            ("ServiceAccount", named("default"), true),
            ("ServiceAccount", named("mine"), false),
            ("Pod", owned, true),
            ("Pod", named("mine"), false),
            ("Event", named("x"), true),
            ("Secret", named("mine"), false),
        ] {
            assert_eq!(is_of_cluster(kind, &object), expected, "{kind} {object}");
        }
    }

    #[test]
    fn kinds_that_cannot_be_listed_are_not() {
        let served = json!({"resources": [
            {"kind": "Pod", "name": "pods", "namespaced": true, "verbs": ["get", "list"]},
            {"kind": "Pod", "name": "pods/log", "namespaced": true, "verbs": ["get"]},
            {"kind": "Node", "name": "nodes", "namespaced": false, "verbs": ["list"]},
        ]});
        assert_eq!(listable(&served), [("Pod".to_owned(), "pods".to_owned())]);
    }
}
