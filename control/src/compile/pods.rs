//! All pods as workloads. One of which nothing is another than it was last is not made again.
//!
//! What a workload depends on is here in three parts: what all depend on, what those of a namespace do, and what is its own.
//! Whatever else `workloads` begins to look at has to be added to one of them.

use std::{
    cell::LazyCell,
    collections::{BTreeMap, HashMap},
    iter::{self, Peekable},
    sync::Arc,
    vec,
};

use proto::workload::{Address, Locality, Port, PortList, Workload, address::Type};

use super::{
    Scope,
    authorization::{self, Named, Selecting},
    endpoints::Listed,
    entry, gateway, is_same,
    peer::{self, Modes},
    services::is_served,
    workloads::{Facts, has_all, locality, ports, resource},
};
use crate::{
    manifest::{Labels, Pod, Service},
    world::{Key, PodReport},
};

pub(super) fn compile(scope: Scope<'_>, last: &mut Made) -> Vec<(String, Arc<Address>)> {
    let common = Common::new(scope);
    if last.common != common {
        *last = Made {
            common,
            homes: BTreeMap::new(),
        };
    }
    let mut leading = leading(scope);
    let policies = (Selecting::new(scope), Modes::new(scope));
    let making = Making {
        scope,
        reported: last.common.reported,
        localities: &last.common.localities,
        listed: Listed::new(scope),
        entered: entry::Pods::new(scope),
    };
    let mut homes = BTreeMap::new();
    let mut all = Vec::with_capacity(scope.world.pods.len());
    let mut pods = scope.world.pods.iter().peekable();
    while let Some(&((namespace, _), _)) = pods.peek() {
        let own = iter::from_fn(|| pods.next_if(|((home, _), _)| home == namespace));
        if !scope.sees(namespace) {
            own.for_each(drop);
            continue;
        }
        let around = Around {
            services: leading.remove(namespace.as_str()).unwrap_or_default(),
            policies: Policies::of(&policies.0, &policies.1, namespace),
        };
        let before = last.homes.remove(namespace).unwrap_or_default();
        let home = making.home(own, around, before);
        let made = home.pods.iter().filter_map(|it| it.made.as_ref());
        let made = made.map(|(uid, address)| (uid.clone(), Arc::clone(address)));
        all.extend(made);
        homes.insert(namespace.clone(), home);
    }
    last.homes = homes;
    all
}

/// By namespace: the services that select pods.
fn leading<'a>(scope: Scope<'a>) -> HashMap<&'a str, Vec<Leading>> {
    let mut leading: HashMap<&str, Vec<_>> = HashMap::new();
    let served = scope.services().filter(|service| is_served(scope, service));
    let served = served.filter(|service| !entry::is_lacking(scope, service));
    // A service without a selector selects nothing, not everything.
    for service in served.filter(|service| !service.selector.is_empty()) {
        let own = leading.entry(&service.meta.namespace).or_default();
        own.push(Leading {
            service: Arc::clone(service),
            guarded: gateway::is_guarded(scope, service),
        });
    }
    leading
}

/// What was made of all pods last.
#[derive(Debug, Default)]
pub(super) struct Made {
    common: Common,
    /// By namespace.
    homes: BTreeMap<String, Home>,
}

/// What all workloads depend on.
#[derive(Debug, Default, PartialEq)]
struct Common {
    /// Node agents speak for pods.
    reported: bool,
    /// By node.
    localities: BTreeMap<String, Locality>,
}

impl Common {
    fn new(scope: Scope<'_>) -> Self {
        let nodes = scope.world.nodes.iter();
        let places = nodes.filter_map(|(name, node)| Some((name.clone(), locality(node)?)));
        Self {
            reported: scope.world.reports.is_some(),
            localities: places.collect(),
        }
    }
}

/// The pods of a namespace, by name.
#[derive(Debug, Default)]
struct Home {
    around: Around,
    pods: Vec<OfPod>,
}

/// What the workloads of a namespace depend on.
#[derive(Debug, Default)]
struct Around {
    services: Vec<Leading>,
    policies: Policies,
}

/// A service that selects pods.
#[derive(Debug)]
struct Leading {
    service: Arc<Service>,
    guarded: bool,
}

impl Leading {
    fn selects(&self, pod: &Pod) -> bool {
        let own = !self.guarded || pod.service_account == self.service.meta.name;
        own && has_all(&pod.meta.labels, &self.service.selector)
    }
}

impl PartialEq for Leading {
    fn eq(&self, other: &Self) -> bool {
        self.guarded == other.guarded && is_same(&self.service, &other.service)
    }
}

/// The policies that workloads of a namespace may name.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Policies {
    selecting: Vec<Arc<Named>>,
    modes: peer::OfNamespace,
}

impl Policies {
    pub(super) fn of(selecting: &Selecting<'_>, modes: &Modes<'_>, namespace: &str) -> Self {
        Self {
            selecting: selecting.of(namespace),
            modes: modes.of(namespace),
        }
    }

    /// Those that workloads with these labels name.
    pub(super) fn names(&self, labels: &Labels) -> Vec<String> {
        let mut names = authorization::names(&self.selecting, labels);
        names.extend(self.modes.name(labels));
        names
    }
}

/// A pod, and what was made of it.
#[derive(Debug)]
struct OfPod {
    pod: Arc<Pod>,
    report: Option<PodReport>,
    /// By those that list it.
    listed: Vec<(String, Vec<Port>)>,
    /// With its name; nothing of a pod that is over, or has no address.
    made: Option<(String, Arc<Address>)>,
}

/// What it takes to make workloads.
struct Making<'a> {
    scope: Scope<'a>,
    /// Node agents speak for pods.
    reported: bool,
    localities: &'a BTreeMap<String, Locality>,
    listed: Listed<'a>,
    entered: entry::Pods,
}

impl<'a> Making<'a> {
    fn home(
        &self,
        pods: impl Iterator<Item = (&'a Key, &'a Arc<Pod>)>,
        around: Around,
        before: Home,
    ) -> Home {
        let same_services = around.services == before.around.services;
        let same_policies = around.policies == before.around.policies;
        let pods: Vec<_> = pods.collect();
        let alone = !self.reported && self.listed.is_empty() && self.entered.is_empty();
        let unlisted = |it: &OfPod| it.listed.is_empty() && it.report.is_none();
        let same_pods = pods.len() == before.pods.len()
            && before
                .pods
                .iter()
                .zip(&pods)
                .all(|(it, (_, pod))| Arc::ptr_eq(&it.pod, pod) && unlisted(it));
        if alone && same_services && same_policies && same_pods {
            return Home {
                around: before.around,
                pods: before.pods,
            };
        }
        let selecting = LazyCell::new(|| BySelector::new(&around.services));
        let mut before = before.pods.into_iter().peekable();
        let pods = pods.into_iter().map(|(key, pod)| {
            let was = of_name(&mut before, pod);
            let report = self.scope.report(key, pod);
            let listed = self.listed.of(pod).chain(self.entered.of(pod));
            let listed: Vec<_> = listed
                .map(|(key, ports)| (key.clone(), ports.clone()))
                .collect();
            let same = was.as_ref().is_some_and(|was| {
                same_services
                    && is_same(&was.pod, pod)
                    && was.report.as_ref() == report
                    && was.listed == listed
            });
            match was {
                Some(was) if same && same_policies => OfPod {
                    pod: Arc::clone(pod),
                    ..was
                },
                Some(was) if same => OfPod {
                    pod: Arc::clone(pod),
                    made: was.made.map(|made| policed(made, pod, &around.policies)),
                    ..was
                },
                was => {
                    let new = self.made(pod, report, &listed, &selecting);
                    let new = new.map(|new| policed_workload(new, pod, &around.policies));
                    let made = new.map(super::workload);
                    let before = was.and_then(|was| was.made);
                    OfPod {
                        pod: Arc::clone(pod),
                        report: report.cloned(),
                        listed,
                        // What has come out the same stays the same.
                        made: if before == made { before } else { made },
                    }
                }
            }
        });
        let pods = pods.collect();
        drop(selecting);
        Home { around, pods }
    }

    /// A workload, without its policies.
    fn made(
        &self,
        pod: &Pod,
        report: Option<&PodReport>,
        listed: &[(String, Vec<Port>)],
        selecting: &BySelector<'_>,
    ) -> Option<Workload> {
        let facts = Facts::of(self.scope, pod, report);
        if pod.over || facts.addresses.is_empty() {
            return None;
        }
        let locality = self.localities.get(&pod.node).cloned();
        let mut workload = resource(self.scope, pod, &facts, locality);
        for service in selecting.of(pod) {
            let meta = &service.meta;
            let key = self.scope.service_key(&meta.namespace, &meta.name);
            let ports = ports(service, pod);
            workload.services.insert(key, PortList { ports });
        }
        for (key, ports) in listed {
            let ports = ports.clone();
            workload.services.insert(key.clone(), PortList { ports });
        }
        Some(workload)
    }
}

/// What was made of the pod of this name. Both come in the order of their names.
fn of_name(before: &mut Peekable<vec::IntoIter<OfPod>>, pod: &Arc<Pod>) -> Option<OfPod> {
    let name = &pod.meta.name;
    if before.peek().is_some_and(|it| Arc::ptr_eq(&it.pod, pod)) {
        return before.next();
    }
    while before.next_if(|it| it.pod.meta.name < *name).is_some() {}
    before.next_if(|it| it.pod.meta.name == *name)
}

fn policed_workload(mut workload: Workload, pod: &Pod, policies: &Policies) -> Workload {
    workload.authorization_policies = policies.names(&pod.meta.labels);
    workload
}

/// The same under other policies.
fn policed(
    (uid, address): (String, Arc<Address>),
    pod: &Pod,
    policies: &Policies,
) -> (String, Arc<Address>) {
    match &address.r#type {
        Some(Type::Workload(workload))
            if workload.authorization_policies != policies.names(&pod.meta.labels) =>
        {
            super::workload(policed_workload(workload.clone(), pod, policies))
        }
        _ => (uid, address),
    }
}

/// Services by one of the labels that each asks for, and their places.
struct BySelector<'a> {
    services: &'a [Leading],
    places: HashMap<(&'a str, &'a str), Vec<usize>>,
}

impl<'a> BySelector<'a> {
    fn new(services: &'a [Leading]) -> Self {
        let mut places: HashMap<_, Vec<_>> = HashMap::new();
        for (place, leading) in services.iter().enumerate() {
            if let Some((key, value)) = leading.service.selector.first_key_value() {
                let all = places.entry((key.as_str(), value.as_str())).or_default();
                all.push(place);
            }
        }
        Self { services, places }
    }

    /// Those that select a pod, in their order.
    fn of(&self, pod: &Pod) -> impl Iterator<Item = &'a Service> {
        let labels = pod.meta.labels.iter();
        let places =
            labels.filter_map(|(key, value)| self.places.get(&(key.as_str(), value.as_str())));
        let mut places: Vec<_> = places.flatten().copied().collect();
        places.sort_unstable();
        let services = places
            .into_iter()
            .filter_map(|place| self.services.get(place));
        let selecting = services.filter(|it| it.selects(pod));
        selecting.map(|it| &*it.service)
    }
}
