//! What the directory of manifests lacks, decided from what it holds: the file of each waypoint's pod, and which to remove.
//!
//! Nothing is read, written or started here.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::{Path, PathBuf},
};

use control::{
    compile::{Settings, gateways},
    world::World,
};

use crate::{
    lab::Node,
    mesh::{
        CONTROL,
        pod::{self, GATEWAY, Pod},
    },
};

/// Where the addresses of waypoints begin in a node's range.
const FIRST: u8 = 200;
/// How a generated file begins; then come the Gateway, as `NAMESPACE/NAME`, and [`GENERATED`].
const HEAD: &str = "# The waypoint of the Gateway ";
const GENERATED: &str = ". Generated: the Gateway is what to edit.";

/// Namespace and name.
type Key = (String, String);

/// What to do with the directory of manifests.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) write: Vec<(PathBuf, String)>,
    pub(super) remove: Vec<PathBuf>,
    pub(super) refused: Vec<String>,
}

/// A file for each Gateway that has no pod, and none for those that are gone.
pub(super) fn plan(
    world: &World,
    files: &BTreeMap<PathBuf, String>,
    directory: &Path,
    running: &[Pod],
) -> Plan {
    let ours = ours(world);
    let generated = files
        .iter()
        .filter_map(|(file, text)| Some((whose(text)?, file)));
    let generated: BTreeMap<Key, &PathBuf> = generated.collect();
    let gone = generated.iter().filter(|(key, _)| !ours.contains(*key));
    let mut plan = Plan {
        remove: gone.map(|(_, file)| (*file).clone()).collect(),
        ..Plan::default()
    };
    let mut room = Room::of(world, running);
    for key in &ours {
        let (namespace, name) = key;
        let is_its = |of: &str, label: Option<&String>| of == namespace && label == Some(name);
        let mut pods = world.pods.values();
        if pods.any(|pod| is_its(&pod.meta.namespace, pod.meta.labels.get(GATEWAY))) {
            continue;
        }
        let own = directory.join(format!("waypoint-{namespace}.{name}.yaml"));
        let file = generated.get(key).map(|file| (*file).clone());
        let clash = match file {
            Some(_) => None,
            None if world.service_accounts.contains_key(key) => Some("ServiceAccount"),
            None if world.pods.contains_key(key) => Some("Pod"),
            None => files.contains_key(&own).then_some("file"),
        };
        if let Some(what) = clash {
            plan.refused.push(format!(
                "Gateway {namespace}/{name} gets no waypoint: there is a {what} already that is called as its own would be; rename one of them"
            ));
            continue;
        }
        let same = running
            .iter()
            .find(|pod| is_its(&pod.namespace, pod.gateway.as_ref()));
        let place = match same {
            Some(pod) => Some((pod.netns.clone(), pod.node, pod.addresses[0])),
            None => room.take(namespace, name),
        };
        let Some((netns, node, address)) = place else {
            plan.refused.push(format!(
                "Gateway {namespace}/{name} gets no waypoint: there is no address left for one"
            ));
            continue;
        };
        let text = manifest(namespace, name, &netns, node, address);
        plan.write.push((file.unwrap_or(own), text));
    }
    plan
}

/// The Gateways that are to have a waypoint, as the control plane of the mesh that runs sees it.
pub(super) fn ours(world: &World) -> BTreeSet<Key> {
    let settings = Settings {
        deploys: true,
        ..Settings::default()
    };
    gateways(world, &settings).into_iter().collect()
}

/// The Gateway whose generated file this is.
pub(super) fn whose(text: &str) -> Option<Key> {
    let line = text.lines().next()?;
    let (namespace, name) = line
        .strip_prefix(HEAD)?
        .strip_suffix(GENERATED)?
        .split_once('/')?;
    Some((namespace.to_owned(), name.to_owned()))
}

/// What pods have already.
struct Room {
    addresses: BTreeSet<IpAddr>,
    names: BTreeSet<String>,
    counts: [usize; 2],
}

impl Room {
    /// By the manifests, and by what runs whatever they say.
    fn of(world: &World, running: &[Pod]) -> Self {
        let pods = world.pods.values();
        let addresses = pods.clone().flat_map(|pod| &pod.addresses);
        let names = pods.filter_map(|pod| pod.meta.annotations.get(pod::NETNS));
        // Those are links beside the pods'.
        let reserved = Node::ALL.map(Node::name).into_iter().chain([CONTROL]);
        Self {
            addresses: addresses
                .chain(running.iter().flat_map(|pod| &pod.addresses))
                .copied()
                .collect(),
            names: names
                .chain(running.iter().map(|pod| &pod.netns))
                .cloned()
                .chain(reserved.map(str::to_owned))
                .collect(),
            counts: Node::ALL.map(|node| {
                let here = world.pods.values().filter(|pod| pod.node == node.name());
                here.count()
            }),
        }
    }

    /// A place for one more, on the node that has fewer. `None` if that has no address left.
    fn take(&mut self, namespace: &str, name: &str) -> Option<(String, Node, IpAddr)> {
        let at = usize::from(self.counts[1] < self.counts[0]);
        let node = Node::ALL[at];
        let mut addresses = (FIRST..=u8::MAX - 1).map(|host| node.v4(host));
        let address = addresses.find(|address| self.addresses.insert(*address))?;
        self.counts[at] += 1;
        let whole = format!("{namespace}-{name}");
        let numbered = (2..).map(|number| format!("{whole}-{number}"));
        let mut names = [name.to_owned(), whole.clone()].into_iter().chain(numbered);
        let netns = names.find(|name| self.names.insert(name.clone()))?;
        Some((netns, node, address))
    }
}

fn manifest(namespace: &str, name: &str, netns: &str, node: Node, address: IpAddr) -> String {
    let node = node.name();
    format!(
        "{HEAD}{namespace}/{name}{GENERATED}
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
        pod::NETNS
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::source;

    fn files(texts: &[(&str, &str)]) -> BTreeMap<PathBuf, String> {
        let own = |(name, text): &(&str, &str)| (PathBuf::from(name), (*text).to_owned());
        texts.iter().map(own).collect()
    }

    fn planned(files: &BTreeMap<PathBuf, String>, running: &[Pod]) -> Plan {
        let world = source::load(files, None).world;
        plan(&world, files, Path::new(""), running)
    }

    fn read(files: &BTreeMap<PathBuf, String>) -> Vec<Pod> {
        let loaded = source::load(files, None);
        assert_eq!(loaded.problems, []);
        pod::read(&loaded.world).unwrap().pods
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
        let mut all = files(&[("x.yaml", GATEWAYS)]);
        let plan = planned(&all, &[]);
        assert_eq!((&plan.remove[..], &plan.refused[..]), (&[][..], &[][..]));
        let names: Vec<_> = plan.write.iter().map(|(file, _)| file.to_str()).collect();
        assert_eq!(
            names,
            [Some("waypoint-a.w.yaml"), Some("waypoint-b.w.yaml")]
        );
        all.extend(plan.write);
        let pods = read(&all);
        let pod = |namespace: &str| {
            let is = |pod: &&Pod| pod.namespace == namespace && pod.name == "w";
            pods.iter().find(is).unwrap()
        };
        assert_eq!(pod("a").addresses, [Node::Two.v4(201)], "200 is taken");
        assert_eq!(pod("b").addresses, [Node::One.v4(200)]);
        assert_eq!((&*pod("a").netns, &*pod("b").netns), ("w", "b-w"));
        assert_eq!(pod("b").identity, "spiffe://cluster.local/ns/b/sa/w");
        assert_eq!(planned(&all, &pods), Plan::default());
    }

    #[test]
    fn an_account_or_a_file_in_the_way_costs_one_gateway_its_waypoint() {
        let account = "{apiVersion: v1, kind: ServiceAccount, metadata: {name: w, namespace: a}}";
        for (name, text) in [("y.yaml", account), ("waypoint-a.w.yaml", "# mine")] {
            let all = files(&[("x.yaml", GATEWAYS), (name, text)]);
            let plan = planned(&all, &[]);
            assert!(plan.refused[0].contains("Gateway a/w gets no waypoint"));
            let names: Vec<_> = plan.write.iter().map(|(file, _)| file.to_str()).collect();
            assert_eq!(names, [Some("waypoint-b.w.yaml")]);
        }
    }

    #[test]
    fn the_file_of_a_gateway_that_is_gone_goes_too() {
        let mut all = files(&[("x.yaml", GATEWAYS)]);
        let plan = planned(&all, &[]);
        all.extend(plan.write);
        let without = GATEWAYS.replacen("name: w, namespace: a", "name: v, namespace: a", 1);
        all.insert("x.yaml".into(), without);
        let plan = planned(&all, &[]);
        assert_eq!(plan.remove, [PathBuf::from("waypoint-a.w.yaml")]);
        let names: Vec<_> = plan.write.iter().map(|(file, _)| file.to_str()).collect();
        assert_eq!(names, [Some("waypoint-a.v.yaml")]);
    }

    #[test]
    fn a_generated_file_that_was_deleted_comes_again_as_it_was() {
        let mut all = files(&[("x.yaml", GATEWAYS)]);
        all.extend(planned(&all, &[]).write);
        let running = read(&all);
        let lost = all.remove(Path::new("waypoint-b.w.yaml")).unwrap();
        let again = [(PathBuf::from("waypoint-b.w.yaml"), lost)];
        assert_eq!(planned(&all, &running).write, again);
    }

    #[test]
    fn no_pod_gets_a_name_or_address_that_is_in_use() {
        let gateways = GATEWAYS.replace("name: w, namespace: a", "name: control, namespace: a");
        let mut all = files(&[("x.yaml", &gateways)]);
        let gone = read(&all);
        let pod = gateways.rfind("---").unwrap();
        all.insert("x.yaml".into(), gateways[..pod].to_owned());
        all.extend(planned(&all, &gone).write);
        let pods = read(&all);
        assert_eq!(pods[0].netns, "a-control");
        assert!(pods.iter().all(|pod| pod.addresses != gone[0].addresses));
    }
}
