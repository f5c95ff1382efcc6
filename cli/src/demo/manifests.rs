//! The demo's manifests: carried in the executable, written out to be edited, and read to know which pods to make.

use std::{fs, io, net::IpAddr, path::Path};

use control::source;

use crate::lab::Node;

/// File names and texts.
pub(crate) const FILES: [(&str, &str); 3] = [
    ("bank.yaml", include_str!("../../../deploy/demo/bank.yaml")),
    (POLICIES, include_str!("../../../deploy/demo/policies.yaml")),
    ("shop.yaml", include_str!("../../../deploy/demo/shop.yaml")),
];

/// The file that says who may talk to whom.
pub(crate) const POLICIES: &str = "policies.yaml";

/// The annotation that names a pod's network namespace.
const NETNS: &str = "ambit.dev/netns";

/// A pod to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pod {
    /// Of its network namespace, and in the demo's own words.
    pub(crate) netns: String,
    /// Kubernetes namespace.
    pub(crate) namespace: String,
    /// Name.
    pub(crate) name: String,
    /// Where it runs.
    pub(crate) node: Node,
    /// At least one.
    pub(crate) addresses: Vec<IpAddr>,
    /// Who it is.
    pub(crate) identity: String,
    /// In the mesh.
    pub(crate) enrolled: bool,
}

/// Writes them into a directory.
pub(crate) fn write(directory: &Path) -> io::Result<()> {
    FILES
        .into_iter()
        .try_for_each(|(name, text)| fs::write(directory.join(name), text))
}

/// The pods of the manifests in a directory.
///
/// # Errors
/// A sentence, if a pod lacks what the demo needs of it.
pub(crate) fn pods(directory: &Path) -> Result<Vec<Pod>, String> {
    let files = source::read_dir(directory)
        .map_err(|error| format!("cannot read {}: {error}", directory.display()))?;
    let loaded = source::load(&files, None);
    if let Some(problem) = loaded.problems.first() {
        return Err(problem.to_string());
    }
    let world = &loaded.world;
    world
        .pods
        .values()
        .map(|pod| {
            let of = |what: &str| format!("pod {}/{}: {what}", pod.meta.namespace, pod.meta.name);
            let netns = pod
                .meta
                .annotations
                .get(NETNS)
                .ok_or_else(|| of(&format!("no annotation {NETNS}")))?;
            let node =
                Node::named(&pod.node).ok_or_else(|| of("spec.nodeName is neither n1 nor n2"))?;
            if pod.addresses.is_empty() {
                return Err(of("no status.podIPs"));
            }
            let none = control::manifest::Labels::new();
            let namespace = world
                .namespaces
                .get(&pod.meta.namespace)
                .map_or(&none, |namespace| &namespace.meta.labels);
            let facts = mesh::enrol::Pod {
                labels: &pod.meta.labels,
                annotations: &pod.meta.annotations,
                host_network: pod.host_network,
                ended: pod.over,
            };
            let enrolled =
                mesh::enrol::enrolled(mesh::enrol::Namespace { labels: namespace }, facts);
            let account = if pod.service_account.is_empty() {
                "default"
            } else {
                &pod.service_account
            };
            Ok(Pod {
                netns: netns.clone(),
                namespace: pod.meta.namespace.clone(),
                name: pod.meta.name.clone(),
                node,
                addresses: pod.addresses.clone(),
                identity: format!(
                    "spiffe://cluster.local/ns/{}/sa/{account}",
                    pod.meta.namespace
                ),
                enrolled: enrolled == mesh::enrol::Enrolment::In,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::{compile::Settings, source::check};
    use std::{collections::BTreeMap, path::PathBuf};

    #[test]
    fn they_compile_without_a_problem() {
        let files: BTreeMap<_, _> = FILES
            .into_iter()
            .map(|(name, text)| (PathBuf::from(name), text.to_owned()))
            .collect();
        let check = check::check_files(&files, &Settings::default());
        assert_eq!(check.problems, []);
        assert_eq!(check.notes, <[String; 0]>::default());
    }

    #[test]
    fn they_are_two_nodes_with_pods_in_and_outside_the_mesh() {
        let directory =
            std::env::temp_dir().join(format!("ambit-manifests-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        write(&directory).unwrap();
        let pods = pods(&directory).unwrap();
        fs::remove_dir_all(&directory).unwrap();
        let count = |which: &dyn Fn(&Pod) -> bool| pods.iter().filter(|pod| which(pod)).count();
        assert!(pods.len() >= 6);
        assert!(
            count(&|pod| pod.node == Node::One) >= 2 && count(&|pod| pod.node == Node::Two) >= 2
        );
        assert!(count(&|pod| pod.enrolled) >= 5 && count(&|pod| !pod.enrolled) >= 1);
        assert!(count(&|pod| pod.addresses.len() == 2) >= 2, "dual-stack");
        let namespaces: std::collections::BTreeSet<_> =
            pods.iter().map(|pod| &pod.namespace).collect();
        assert_eq!(namespaces.len(), 2);
    }
}
