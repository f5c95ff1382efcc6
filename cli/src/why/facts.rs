//! What is known when a question is answered: the world, and the generations that proxies make of what it is compiled to.
//!
//! Compiled by the control plane's functions, applied by those of the proxies: nothing is read in a way of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use control::{
    compile::{self, Compiled, Settings},
    manifest::{Labels, ObjectRef},
    publish::{Kind, Part, Snapshot},
    source,
    status::Status,
    subject::Subject,
    world::{Key, World},
};
use mesh::{
    delta::{Delta, Resource},
    enrol,
    keys::Keys,
    name::Name,
    parse::Rejected,
    store, waypoint,
};

use super::live::Standing;
use crate::Failure;

/// Stands for the address of a pod that nobody has made yet (RFC 5737).
const NOT_YET: [u8; 3] = [192, 0, 2];
/// The label that says which Gateway's waypoint a pod is.
pub(super) const GATEWAY: &str = "gateway.networking.k8s.io/gateway-name";

/// The annotation that says that a pod's traffic is captured.
const REDIRECTION: &str = "ambient.istio.io/redirection";

/// What is known.
#[derive(Debug)]
pub(super) struct Facts {
    /// Where it is from, then what is to be known of it.
    pub(super) lines: Vec<String>,
    /// Why it may not be what the proxies hold, so that nothing can be told from it.
    pub(super) doubt: Option<String>,
    /// What is wrong with it.
    pub(super) problems: Vec<String>,
    /// The objects.
    pub(super) world: World,
    /// The mesh's settings.
    pub(super) settings: Settings,
    /// What is said of the objects.
    pub(super) statuses: BTreeMap<ObjectRef, Status>,
    /// Layer 4 policies of which no rule makes an exception for anybody.
    pub(super) closing: BTreeSet<String>,
    /// What every ztunnel holds.
    pub(super) mesh: Arc<store::Generation>,
    /// What the waypoint of each Gateway holds.
    pub(super) waypoints: BTreeMap<Key, Arc<waypoint::Generation>>,
    /// Whether the network itself serves the addresses of services, as that of a cluster does.
    pub(super) serves: bool,
    /// Proxies that run, as far as somebody has asked them, and do not hold what is told here.
    pub(super) standings: BTreeMap<Subject, Standing>,
}

/// From a directory of manifests, or one file.
pub(super) fn from_directory(path: &Path, settings: Settings) -> Result<Facts, Failure> {
    let unreadable = |error| Failure::Failed(format!("cannot read {}: {error}", path.display()));
    let files = source::read_dir(path).map_err(unreadable)?;
    let source::Loaded {
        mut world,
        problems,
        ..
    } = source::load(&files, None);
    let presumed = compile::presume_ready(&mut world, &settings);
    let deployed = deploy(&mut world, &presumed);
    capture(&mut world);
    let compiled = compile::compile(&world, &settings);
    let path = path.display();
    let lines = vec![
        match presumption(&presumed, &deployed) {
            Some(presumption) => format!("From the manifests in {path}. {presumption}"),
            None => format!("From the manifests in {path}."),
        },
        "Pods are ready as written there, and captured if they are enrolled.".to_owned(),
    ];
    let snapshot = Snapshot::new(&compiled, &Snapshot::default());
    let problems = problems.iter().map(ToString::to_string).collect();
    Ok(Facts::new(
        lines, problems, world, settings, &compiled, &snapshot,
    ))
}

/// Takes every enrolled pod for captured, as its node would say.
fn capture(world: &mut World) {
    let none = Labels::new();
    for pod in world.pods.values_mut() {
        let namespace = world.namespaces.get(&pod.meta.namespace);
        let namespace = enrol::Namespace {
            labels: namespace.map_or(&none, |it| &it.meta.labels),
        };
        let facts = enrol::Pod {
            labels: &pod.meta.labels,
            annotations: &pod.meta.annotations,
            host_network: pod.host_network,
            ended: pod.over,
        };
        if enrol::enrolled(Keys::Shared, namespace, facts) == enrol::Enrolment::In {
            let annotations = &mut Arc::make_mut(pod).meta.annotations;
            annotations.insert(REDIRECTION.to_owned(), "enabled".to_owned());
        }
    }
}

/// Gives a pod to each waypoint that has none; whose those are.
fn deploy(world: &mut World, gateways: &[Key]) -> BTreeSet<Key> {
    let has_pod = |world: &World, (namespace, name): &Key| {
        let mut pods = world.pods.values();
        pods.any(|pod| {
            pod.meta.namespace == *namespace && pod.meta.labels.get(GATEWAY) == Some(name)
        })
    };
    let lacking = gateways.iter().filter(|key| !has_pod(world, key));
    let lacking: Vec<_> = lacking.cloned().collect();
    for (at, (namespace, name)) in lacking.iter().enumerate() {
        let [a, b, c] = NOT_YET;
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: {namespace}\n  labels: \
             {{{GATEWAY}: {name}, networking.istio.io/tunnel: http, istio.io/dataplane-mode: none}}\n\
             spec: {{serviceAccountName: {name}}}\n\
             status:\n  podIPs: [{{ip: {a}.{b}.{c}.{}}}]\n  conditions: [{{type: Ready, status: \"True\"}}]\n",
            at % 254 + 1
        );
        let file = BTreeMap::from([("waypoint.yaml".into(), text)]);
        let pods = source::load(&file, None).world.pods;
        for (key, pod) in pods {
            world.pods.entry(key).or_insert(pod);
        }
    }
    lacking.into_iter().collect()
}

fn presumption(presumed: &[Key], deployed: &BTreeSet<Key>) -> Option<String> {
    if presumed.is_empty() {
        return None;
    }
    let name = |key: &Key| {
        let (namespace, name) = key;
        let no_pod = if deployed.contains(key) {
            " (no pod yet)"
        } else {
            ""
        };
        format!("{namespace}/{name}{no_pod}")
    };
    let names: Vec<_> = presumed.iter().map(name).collect();
    let names = names.join(", ");
    Some(if presumed.len() == 1 {
        format!("Gateway {names} has no status: its waypoint is taken for ready.")
    } else {
        format!("Gateways {names} have no status: their waypoints are taken for ready.")
    })
}

impl Facts {
    pub(super) fn new(
        mut lines: Vec<String>,
        mut problems: Vec<String>,
        world: World,
        settings: Settings,
        compiled: &Compiled,
        snapshot: &Snapshot,
    ) -> Self {
        let root = Name::new(&settings.root_namespace);
        let mut nodes = store::Store::new(Name::EMPTY, root);
        let any_node = Subject::Node(String::new());
        for delta in deltas(&any_node, snapshot) {
            let (rejected, _) = nodes.apply(&delta);
            problems.extend(told("a ztunnel", rejected));
        }
        let mut waypoints = BTreeMap::new();
        for key in compiled.told.keys() {
            let subject = Subject::Waypoint(key.clone());
            let mut store = waypoint::Store::new(root);
            for delta in deltas(&subject, snapshot) {
                problems.extend(told(&subject.to_string(), store.apply(&delta)));
            }
            waypoints.insert(key.clone(), Arc::clone(store.current()));
        }
        lines.extend(source::check::strange_parents(&world));
        Self {
            lines,
            doubt: None,
            problems,
            world,
            settings,
            statuses: compiled.statuses.clone(),
            closing: closing(compiled),
            mesh: nodes.current(),
            waypoints,
            serves: true,
            standings: BTreeMap::new(),
        }
    }

    /// The cluster that its proxies run in.
    pub(super) fn cluster(&self) -> Name {
        Name::new(&self.settings.cluster_id)
    }
}

fn closing(compiled: &Compiled) -> BTreeSet<String> {
    let all = compiled.authorizations.iter();
    let closing = all.filter(|(_, policy)| {
        let clauses = policy.groups.iter().flat_map(|group| &group.rules);
        let mut matches = clauses.flat_map(|clause| &clause.matches);
        matches.all(|it| it.not_principals.is_empty())
    });
    closing.map(|(name, _)| name.clone()).collect()
}

/// What a subject is told first.
fn deltas(subject: &Subject, snapshot: &Snapshot) -> Vec<Delta> {
    let part = snapshot.part(subject);
    let kinds = Kind::served(subject).iter();
    kinds.map(|kind| delta(*kind, &part)).collect()
}

fn delta(kind: Kind, part: &Part) -> Delta {
    let resources = part.set(kind).iter().map(|(name, resource)| Resource {
        name: name.to_string(),
        version: resource.version.to_string(),
        bytes: resource.bytes().to_vec(),
    });
    Delta {
        type_url: kind.type_url().to_owned(),
        resources: resources.collect(),
        removed: Vec::new(),
    }
}

fn told(who: &str, rejected: Vec<Rejected>) -> impl Iterator<Item = String> {
    let who = who.to_owned();
    rejected
        .into_iter()
        .map(move |it| format!("{who} does not take {}: {}", it.name, it.reason))
}
