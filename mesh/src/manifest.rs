//! What a Kubernetes manifest may be called and say, for all who read manifests: they have to agree on what is a slip.
//!
//! Not what any kind means. The names are those of the Kubernetes API.

/// The groups that Kubernetes itself has without a dot in their names, with all their kinds. Custom ones have to have a dot.
pub const BUILT_IN: [(&str, &[&str]); 6] = [
    (
        "",
        &[
            "Binding",
            "ComponentStatus",
            "ConfigMap",
            "Endpoints",
            "Event",
            "LimitRange",
            "List",
            "Namespace",
            "Node",
            "PersistentVolume",
            "PersistentVolumeClaim",
            "Pod",
            "PodTemplate",
            "ReplicationController",
            "ResourceQuota",
            "Secret",
            "Service",
            "ServiceAccount",
        ],
    ),
    (
        "apps",
        &[
            "ControllerRevision",
            "DaemonSet",
            "Deployment",
            "ReplicaSet",
            "StatefulSet",
        ],
    ),
    ("autoscaling", &["HorizontalPodAutoscaler", "Scale"]),
    ("batch", &["CronJob", "Job"]),
    (
        "extensions",
        &[
            "DaemonSet",
            "Deployment",
            "Ingress",
            "NetworkPolicy",
            "PodSecurityPolicy",
            "ReplicaSet",
        ],
    ),
    (
        "policy",
        &["Eviction", "PodDisruptionBudget", "PodSecurityPolicy"],
    ),
];

/// Every field that `metadata` has (ObjectMeta v1).
pub const METADATA: [&str; 15] = [
    "name",
    "generateName",
    "namespace",
    "selfLink",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "labels",
    "annotations",
    "ownerReferences",
    "finalizers",
    "managedFields",
];

/// What is read of a pod's `spec`, here or there.
pub const POD_SPEC: [&str; 5] = [
    "nodeName",
    "serviceAccountName",
    "hostNetwork",
    "containers",
    "initContainers",
];

/// The group of an `apiVersion`, of which the version may be missing. What is written like a version is no group.
pub fn group(version: &str) -> &str {
    match version.split_once('/') {
        Some((group, _)) => group,
        None if version.contains('.') && !is_version(version) => version,
        None => "",
    }
}

/// Whether this begins like a version, such as `v1beta1`, or `v1.0`, which is none.
fn is_version(text: &str) -> bool {
    let number = text.trim_start_matches(['v', 'V']);
    number.starts_with(|c: char| c.is_ascii_digit() || c == '.')
}

/// Whether a group is, or may have been meant to be, one of the APIs that a mesh is described by.
pub fn is_family(group: &str) -> bool {
    group.ends_with("istio.io") || group.ends_with("k8s.io")
}

/// Whether a built-in group has this kind.
pub fn is_built_in(group: &str, kind: &str) -> bool {
    let mut all = BUILT_IN.iter();
    all.any(|(of, kinds)| *of == group && kinds.contains(&kind))
}

/// The names that a name is, or is nearly: those with the fewest slips. That of a list of objects is theirs.
pub fn near<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let name = name.to_ascii_lowercase();
    let one = name.strip_suffix("list").filter(|it| !it.is_empty());
    let name = one.unwrap_or(&name);
    let most = if name.len() < SHORT { 1 } else { 2 };
    let all = known.map(|known| (slips(&known.to_ascii_lowercase(), name), known));
    let near: Vec<_> = all.filter(|(slips, _)| *slips <= most).collect();
    let fewest = near.iter().map(|(slips, _)| *slips).min();
    let near = near.into_iter().filter(|(slips, _)| Some(*slips) == fewest);
    near.map(|(_, known)| known).collect()
}

/// The kinds of built-in groups, some of them twice.
pub fn built_in() -> impl Iterator<Item = &'static str> {
    BUILT_IN.iter().flat_map(|(_, kinds)| kinds.iter().copied())
}

/// The name that a name is but for its case.
pub fn in_case<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let mut meant = known.iter().filter(|it| it.eq_ignore_ascii_case(name));
    meant.find(|it| **it != name).copied()
}

/// Names with fewer characters have at most one slip: with two they could be any.
const SHORT: usize = 5;

/// How many characters are added, missing, others or swapped with the next.
fn slips(one: &str, other: &str) -> usize {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    if one.len().abs_diff(other.len()) > 2 {
        return usize::MAX;
    }
    let mut rows = vec![(0..=other.len()).collect::<Vec<_>>()];
    for (i, a) in one.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in other.iter().enumerate() {
            let changed = rows[i][j] + usize::from(a != b);
            let mut fewest = changed.min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *a == other[j - 1] && one[i - 1] == *b {
                fewest = fewest.min(rows[i - 1][j - 1] + 1);
            }
            row.push(fewest);
        }
        rows.push(row);
    }
    rows[one.len()][other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_near_those_with_the_fewest_slips() {
        for (name, meant) in [
            ("Pod", &["Pod"][..]),
            ("Pdo", &["Pod"]),
            ("PODS", &["Pod"]),
            ("PodList", &["Pod"]),
            ("Servce", &["Service"]),
            ("Namespcae", &["Namespace"]),
            ("Pode", &["Node", "Pod"]),
            ("Svc", &[]),
            ("", &[]),
            ("Certificate", &[]),
        ] {
            let known = BUILT_IN[0].1.iter().copied();
            assert_eq!(near(name, known), meant, "{name}");
        }
    }

    #[test]
    fn a_group_may_lack_its_version() {
        assert_eq!(group("v1"), "");
        assert_eq!(group("apps/v1"), "apps");
        assert_eq!(group("security.istio.io"), "security.istio.io");
        for version in ["v1.0", "v.1", "V1.", "1.0", "v2.beta"] {
            assert_eq!(group(version), "", "{version}");
        }
    }
}
