//! A pod for the waypoint of each Gateway, as a controller makes one in a cluster: written into the directory of manifests.
//!
//! Where the waypoint is and who it is, no more; the process is started like the others. A Gateway that has a pod already is
//! left alone.

use std::{collections::BTreeSet, fs, net::IpAddr, path::Path};

use control::{
    compile::{Settings, gateways},
    source,
    world::World,
};

use crate::lab::Node;

/// The label that says which Gateway's waypoint a pod is.
pub(super) const GATEWAY: &str = "gateway.networking.k8s.io/gateway-name";
/// Where the addresses of waypoints begin in a node's range.
const FIRST: u8 = 200;

/// Writes a manifest for each Gateway that has no pod. Returns how many those were.
///
/// # Errors
/// A sentence.
pub(super) fn deploy(directory: &Path) -> Result<usize, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", directory.display());
    let files = source::read_dir(directory).map_err(failed)?;
    let made = manifests(&source::load(&files, None).world)?;
    for (name, text) in &made {
        // Whoever watches the directory sees the whole file or none.
        let new = directory.join(format!("{name}.new"));
        fs::write(&new, text).map_err(failed)?;
        fs::rename(&new, directory.join(name)).map_err(failed)?;
    }
    Ok(made.len())
}

/// File names and texts.
fn manifests(world: &World) -> Result<Vec<(String, String)>, String> {
    let mut taken: BTreeSet<IpAddr> = world
        .pods
        .values()
        .flat_map(|pod| pod.addresses.iter().copied())
        .collect();
    let mut names: BTreeSet<String> = world
        .pods
        .values()
        .filter_map(|pod| pod.meta.annotations.get(super::pod::NETNS).cloned())
        .collect();
    let mut counts = Node::ALL.map(|node| {
        let here = world.pods.values().filter(|pod| pod.node == node.name());
        here.count()
    });
    let mut manifests = Vec::new();
    // As the control plane of the mesh that runs.
    let settings = Settings {
        deploys: true,
        ..Settings::default()
    };
    for (namespace, name) in &gateways(world, &settings) {
        let deployed = world.pods.values().any(|pod| {
            pod.meta.namespace == *namespace && pod.meta.labels.get(GATEWAY) == Some(name)
        });
        if deployed {
            continue;
        }
        let at = usize::from(counts[1] < counts[0]);
        counts[at] += 1;
        let node = Node::ALL[at];
        let address = (FIRST..=u8::MAX - 1)
            .map(|host| node.v4(host))
            .find(|address| taken.insert(*address))
            .ok_or_else(|| format!("node {} has no address for a waypoint", node.name()))?;
        let whole = format!("{namespace}-{name}");
        let netns = if names.insert(name.clone()) {
            name
        } else {
            &whole
        };
        let text = manifest(namespace, name, netns, node, address);
        manifests.push((format!("waypoint-{whole}.yaml"), text));
    }
    Ok(manifests)
}

fn manifest(namespace: &str, name: &str, netns: &str, node: Node, address: IpAddr) -> String {
    let node = node.name();
    format!(
        "# The waypoint of the Gateway {namespace}/{name}. Generated: the Gateway is what to edit.
apiVersion: v1
kind: ServiceAccount
metadata: {{name: {name}, namespace: {namespace}}}
---
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: {namespace}
  labels:
    {GATEWAY}: {name}
    networking.istio.io/tunnel: http
    istio.io/dataplane-mode: none
  annotations: {{{}: {netns}}}
spec:
  nodeName: {node}
  serviceAccountName: {name}
  containers:
  - {{name: waypoint, image: ambit, args: [waypoint]}}
status:
  podIPs: [{{ip: {address}}}]
  conditions: [{{type: Ready, status: \"True\"}}]
",
        super::pod::NETNS
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeMap, path::PathBuf};

    fn world(text: &str) -> World {
        let files = BTreeMap::from([(PathBuf::from("x.yaml"), text.to_owned())]);
        let loaded = source::load(&files, None);
        assert_eq!(loaded.problems, []);
        loaded.world
    }

    const GATEWAYS: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: w, namespace: a}
spec: {gatewayClassName: ambit-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: w, namespace: b}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: other, namespace: b}
spec: {gatewayClassName: somebody-elses, listeners: [{name: web, port: 80, protocol: HTTP}]}
---
apiVersion: v1
kind: Pod
metadata: {name: x, namespace: a, annotations: {ambit.dev/netns: x}}
spec: {nodeName: n1}
status: {podIPs: [{ip: 10.71.2.200}]}
";

    #[test]
    fn each_gateway_of_ours_gets_a_pod_once() {
        let made = manifests(&world(GATEWAYS)).unwrap();
        let names: Vec<_> = made.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["waypoint-a-w.yaml", "waypoint-b-w.yaml"]);
        let whole = made.iter().fold(GATEWAYS.to_owned(), |all, (_, text)| {
            format!("{all}---\n{text}")
        });
        let world = world(&whole);
        let pod = |namespace: &str| &world.pods[&(namespace.to_owned(), "w".to_owned())];
        assert_eq!(pod("a").addresses, [Node::Two.v4(201)], "200 is taken");
        assert_eq!(pod("b").addresses, [Node::One.v4(200)]);
        assert_eq!(pod("a").meta.annotations[super::super::pod::NETNS], "w");
        assert_eq!(pod("b").meta.annotations[super::super::pod::NETNS], "b-w");
        assert_eq!(pod("b").service_account, "w");
        assert_eq!(manifests(&world).unwrap(), []);
    }
}
