//! The demo's manifests: carried in the executable, and written out to be edited.

use std::{fs, io, path::Path};

/// File names and texts.
pub(crate) const FILES: [(&str, &str); 4] = [
    ("bank.yaml", include_str!("../../../deploy/demo/bank.yaml")),
    (ORDERS, include_str!("../../../deploy/demo/orders.yaml")),
    (POLICIES, include_str!("../../../deploy/demo/policies.yaml")),
    ("shop.yaml", include_str!("../../../deploy/demo/shop.yaml")),
];

/// The file with the service that has a waypoint, and all that is said about its requests.
pub(crate) const ORDERS: &str = "orders.yaml";

/// The file that says who may talk to whom.
pub(crate) const POLICIES: &str = "policies.yaml";

/// Writes them into a directory.
pub(crate) fn write(directory: &Path) -> io::Result<()> {
    FILES
        .into_iter()
        .try_for_each(|(name, text)| fs::write(directory.join(name), text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        lab::Node,
        mesh::pod::{self, Pod},
    };
    use control::{
        compile::Settings,
        source::{self, check},
    };
    use std::{collections::BTreeMap, path::PathBuf};

    #[test]
    fn they_compile_without_a_problem() {
        // As in the mesh that runs, where the waypoint has an address.
        let listener = "  - {name: mesh, port: 15008, protocol: HBONE}\n";
        let status =
            "status: {addresses: [{type: Hostname, value: waypoint.shop.svc.cluster.local}]}\n";
        let files: BTreeMap<_, _> = FILES
            .into_iter()
            .map(|(name, text)| {
                let text = text.replace(listener, &format!("{listener}{status}"));
                (PathBuf::from(name), text)
            })
            .collect();
        let settings = Settings {
            deploys: true,
            ..Settings::default()
        };
        let check = check::check_files(&files, &settings);
        assert_eq!(check.problems, []);
        let doubts: Vec<_> = check
            .notes
            .iter()
            .filter(|it| it.contains(" False "))
            .collect();
        assert_eq!(doubts, <[&String; 0]>::default());
        // As in the mesh that runs, where the nodes say that the pods are ready.
        let printed = check.print(check::Format::Json);
        assert!(!printed.contains("UNHEALTHY"), "{printed}");
    }

    #[test]
    fn they_are_two_nodes_with_pods_in_and_outside_the_mesh() {
        let files = FILES.map(|(name, text)| (PathBuf::from(name), text.to_owned()));
        let loaded = source::load(&BTreeMap::from(files), None);
        let pods = pod::read(&loaded.world).unwrap().pods;
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
