//! The way of a connection from its client to an application, by the functions that decide it in ztunnels.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use control::subject::Subject;
use mesh::{
    admit::{Admission, Arrival, Pod, admit, trusting},
    decide::Which,
    identity::Identity,
    model::{Mode, Port, Protocol, Workload},
    name::Name,
    pick::{Wanted, eligible},
    plan::{Flow, Hop, Outcome, Plan, Source, plan},
    refusal::{Refusal, Stage},
    store::Known,
};
use serde_json::json;

mod plain;

use super::{
    ends::{Ends, called, short},
    facts::Facts,
    live::Standing,
    next::{Asker, refused},
    request::Request,
    said,
    through::{Arriving, through},
    trace::{self, Choice, End, Step, Way},
};

/// One question, and what is known.
pub(super) struct Walk<'a> {
    /// What is known.
    pub(super) facts: &'a Facts,
    /// The request, if it is one.
    pub(super) request: &'a Request,
    /// Something of it was asked for: it is not only what is usual.
    pub(super) given: bool,
}

/// What is the same whatever is chosen, and what may be chosen.
pub(super) type Found = (Vec<Step>, Vec<Way>);

/// From the client on.
pub(super) fn walk(walk: &Walk<'_>, ends: &Ends) -> Found {
    let client = &ends.client;
    if client.protocol == Protocol::Tcp || client.native_tunnel {
        return walk.uncaptured(ends);
    }
    let mut step = Step::new(
        "ztunnel",
        format!("of {} on {}", called(client), client.node),
    );
    step.tell("client", format!("{}, {}", client.identity, ends.source));
    let asker = Asker {
        facts: walk.facts,
        identity: Some(client.identity),
        is_waypoint: false,
        what: format!("connect to {}", ends.name),
    };
    if let Some(end) = walk.absent(&mut step, &node(client), ends.to, &asker) {
        return (vec![step], vec![Way::new(Vec::new(), end)]);
    }
    let source = walk.source(client);
    let from = SocketAddr::new(ends.source, 0);
    let flow = |tried| Flow {
        source: &source,
        from,
        to: ends.to,
        seed: 0,
        tried,
    };
    let first = match decided(plan(&walk.facts.mesh, &flow(&[]))) {
        Ok(first) => first,
        Err(refusal) => {
            walk.tell_destination(&mut step, &source, ends.to);
            return (
                vec![step],
                vec![Way::new(Vec::new(), refused(&refusal, &asker))],
            );
        }
    };
    walk.tell_destination(&mut step, &source, ends.to);
    if let Plan::Tunnel(hop) = &first
        && hop.waypoint
    {
        tell_hop(&mut step, hop);
        let arriving = Arriving {
            hop,
            client: (client.identity, ends.source),
            request: walk.request.clone(),
            via: Vec::new(),
        };
        let (steps, ways) = through(walk, &arriving);
        return ([vec![step], steps].concat(), ways);
    }
    let choices = walk.endpoints(&first, &source, ends.to);
    let ways = choices.iter().map(|(choice, tried)| {
        let plan = match decided(plan(&walk.facts.mesh, &flow(tried))) {
            Ok(plan) => plan,
            Err(refusal) => return Way::new(Vec::new(), refused(&refusal, &asker)),
        };
        let (steps, end) = walk.arrive(&plan, client.identity, ends.source);
        let end = end.unwrap_or_else(|refusal| refused(&refusal, &asker));
        Way::new(steps, end).after(choice.as_slice(), &[])
    });
    (vec![step], ways.collect())
}

/// An outcome of a decision that has all that it needs.
fn decided<T>(outcome: Outcome<T>) -> Result<T, Refusal> {
    match outcome {
        Outcome::Do(it) => Ok(it),
        Outcome::Refuse(refusal) => Err(refusal),
        Outcome::Ask(question) => Err(Refusal::NotKnownYet(question.to_string())),
    }
}

/// The proxy of a workload's node.
pub(super) fn node(workload: &Workload) -> Subject {
    Subject::Node(workload.node.to_string())
}

/// Where a tunnel goes.
pub(super) fn tell_hop(step: &mut Step, hop: &Hop) {
    let Hop {
        address,
        identities,
        authority,
        ..
    } = hop;
    let who: Vec<_> = identities.iter().map(ToString::to_string).collect();
    let line = format!(
        "to {address} for {authority}, where only {} may answer",
        who.join(" or ")
    );
    let value =
        json!({ "to": address.to_string(), "for": authority.to_string(), "identities": who });
    step.list("tunnel", vec![line], value);
}

/// A choice of one endpoint, if there is one to make; and which others are not to be chosen.
pub(super) type Endpoint = (Option<Choice>, Vec<Arc<str>>);

impl Walk<'_> {
    /// A workload as what flows come from.
    pub(super) fn source(&self, workload: &Workload) -> Source {
        Source {
            identity: workload.identity,
            network: workload.network,
            node: workload.node,
            cluster: self.facts.cluster(),
            locality: workload.locality,
        }
    }

    fn tell_destination(&self, step: &mut Step, source: &Source, to: SocketAddr) {
        let namespace = source.identity.namespace;
        let known = self.facts.mesh.lookup(source.network, to.ip(), namespace);
        match known {
            Known::Service(service) => {
                let waypoint = match (service.waypoint, service.balancing.mode) {
                    (Some(waypoint), _) => format!(", which has the waypoint {waypoint}"),
                    (None, Mode::Passthrough) => ", whose destinations are kept".to_owned(),
                    (None, _) => ", which has no waypoint".to_owned(),
                };
                step.tell("service", format!("{} at {to}{waypoint}", short(service)));
                let key = (service.namespace.to_string(), service.name.to_string());
                let said = said::about(self.facts, &key, service.waypoint.is_none());
                step.list("status", said.clone(), json!(said));
            }
            Known::Workload(workload) => step.tell("pod", format!("{} at {to}", called(workload))),
            Known::Unusable(name) => step.tell("resource", name),
            Known::Nothing => step.tell("address", format!("{to}, which nobody knows")),
        }
    }

    /// What stands between this and a proxy that runs; the end, if it is away.
    pub(super) fn absent(
        &self,
        step: &mut Step,
        subject: &Subject,
        to: SocketAddr,
        asker: &Asker<'_>,
    ) -> Option<End> {
        match self.facts.standings.get(subject)? {
            Standing::Behind(what) => {
                step.tell("now", format!("{what}; it may do something else"));
                None
            }
            Standing::Away(why) => {
                step.tell("now", format!("it does not answer: {why}"));
                let refusal = Refusal::Tunnel {
                    to,
                    stage: Stage::Connect,
                    reason: format!("the proxy of {subject} does not answer: {why}"),
                };
                Some(refused(&refusal, asker))
            }
        }
    }

    /// The endpoints that a ztunnel chooses among.
    fn endpoints(&self, first: &Plan, source: &Source, to: SocketAddr) -> Vec<Endpoint> {
        let Some(service) = first.service() else {
            return vec![(None, Vec::new())];
        };
        let Some(port) = service.ports.iter().find(|port| port.service == to.port()) else {
            return vec![(None, Vec::new())];
        };
        let endpoints = self.facts.mesh.endpoints(service.key);
        let wanted = wanted(source, to.ip(), *port);
        let eligible = eligible(service, endpoints, &wanted);
        one_by_one(
            eligible.iter().map(|it| it.workload).collect(),
            endpoints.iter().map(|it| &it.workload).collect(),
        )
    }

    /// What happens where a plan leads: what is told of it, and how it ends or why it does not get in.
    pub(super) fn arrive(
        &self,
        plan: &Plan,
        peer: Identity,
        source: IpAddr,
    ) -> (Vec<Step>, Result<End, Refusal>) {
        match plan {
            Plan::Passthrough { to } => {
                let text = format!("to {to}, as it is");
                (Vec::new(), Ok(End::new(trace::Outcome::Leaves, text, None)))
            }
            Plan::Direct { to, workload, .. } => {
                let mut step = Step::new("application", called(workload));
                step.tell("comes", "in plain text: it is not in the mesh");
                (vec![step], Ok(answered(workload, *to)))
            }
            Plan::Tunnel(hop) if hop.workload.native_tunnel => {
                let mut step = Step::new("application", called(&hop.workload));
                tell_hop(&mut step, hop);
                let text = format!("to {}, which ends tunnels itself", called(&hop.workload));
                (vec![step], Ok(End::new(trace::Outcome::Leaves, text, None)))
            }
            Plan::Tunnel(hop) => {
                let authority = hop.authority.to_string();
                let arrival = Arrival::Tunnelled {
                    peer,
                    at: hop.address.ip(),
                    authority: &authority,
                };
                let (mut step, end) = self.enter(&hop.workload, arrival, source);
                let mut facts = std::mem::take(&mut step.facts);
                tell_hop(&mut step, hop);
                step.facts.append(&mut facts);
                (vec![step], end)
            }
        }
    }

    /// At the ztunnel of a pod.
    fn enter(
        &self,
        workload: &Arc<Workload>,
        arrival: Arrival<'_>,
        source: IpAddr,
    ) -> (Step, Result<End, Refusal>) {
        let name = format!("of {} on {}", called(workload), workload.node);
        let mut step = Step::new("ztunnel", name);
        let (peer, port) = match arrival {
            Arrival::Plain { to } => (None, to.port()),
            Arrival::Tunnelled {
                peer, authority, ..
            } => {
                let port = authority.parse().map_or(0, |to: SocketAddr| to.port());
                (Some(peer), port)
            }
        };
        let comes = peer.map_or_else(|| "none, in plain text".to_owned(), |peer| peer.to_string());
        step.tell("peer", format!("{comes}, from {source}"));
        let asker = Asker {
            facts: self.facts,
            identity: peer,
            is_waypoint: false,
            what: String::new(),
        };
        let to = SocketAddr::new(source, port);
        if self
            .absent(&mut step, &node(workload), to, &asker)
            .is_some()
        {
            let reason = "its ztunnel does not answer".to_owned();
            return (step, Err(Refusal::Unreachable { to, reason }));
        }
        self.tell_policies(&mut step, workload, peer, port);
        let pod = Pod {
            uid: Arc::clone(&workload.uid),
            identity: workload.identity,
        };
        match decided(admit(&self.facts.mesh, &pod, arrival, source)) {
            Ok(admission) => {
                let end = answered(workload, admission.to);
                tell_admission(&mut step, &admission);
                (step, Ok(end))
            }
            Err(refusal) => {
                step.tell("decision", refusal.to_string());
                (step, Err(refusal))
            }
        }
    }

    fn tell_policies(
        &self,
        step: &mut Step,
        workload: &Workload,
        peer: Option<Identity>,
        port: u16,
    ) {
        let mesh = &self.facts.mesh;
        let trusted = peer.and_then(|peer| trusting(mesh, workload, peer, port));
        let which = match trusted {
            None => Which::All,
            Some(service) => {
                let line = format!(
                    "service {} trusts this peer to have decided all that somebody wrote",
                    short(service)
                );
                step.tell("trusts", line);
                Which::Generated
            }
        };
        let unlisted = mesh.unlisted_policies(workload.identity.namespace);
        let unlisted = unlisted.map(|policy| policy.name);
        let mut names: Vec<Name> = unlisted.chain(workload.policies.iter().copied()).collect();
        names.retain(|name| which.holds(*name));
        names.sort_by_key(|name| name.as_str());
        names.dedup();
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let lines = if names.is_empty() {
            vec!["none applies".to_owned()]
        } else {
            vec![names.join(", ")]
        };
        step.list("policies", lines, json!(names));
    }
}

/// What a choice of an endpoint depends on.
pub(super) fn wanted(source: &Source, address: IpAddr, port: Port) -> Wanted<'_> {
    Wanted {
        source,
        address,
        port,
        seed: 0,
        tried: &[],
    }
}

/// Each of those that may be chosen, with all others to be left out.
pub(super) fn one_by_one(eligible: Vec<&Arc<Workload>>, all: Vec<&Arc<Workload>>) -> Vec<Endpoint> {
    if eligible.is_empty() {
        return vec![(None, Vec::new())];
    }
    let sum = eligible.iter().map(|it| u64::from(it.capacity)).sum();
    let each = eligible.iter().map(|chosen| {
        let others = all.iter().filter(|it| it.uid != chosen.uid);
        let choice = Choice {
            what: called(chosen),
            share: (u64::from(chosen.capacity), sum),
            endpoint: true,
        };
        let choice = (eligible.len() > 1).then_some(choice);
        (choice, others.map(|it| Arc::clone(&it.uid)).collect())
    });
    each.collect()
}

fn answered(workload: &Workload, to: SocketAddr) -> End {
    let text = format!("that of {} at {to}, if it listens", called(workload));
    End::new(trace::Outcome::Answered, text, None)
}

fn tell_admission(step: &mut Step, admission: &Admission) {
    match admission.allowed_by {
        Some(policy) => step.tell("decision", format!("allowed by {policy}")),
        None => step.tell(
            "decision",
            "allowed: nothing denies it, and no ALLOW policy applies",
        ),
    }
    let dry: Vec<_> = admission.dry_run.iter().map(ToString::to_string).collect();
    let lines = dry.iter().map(|it| format!("{it} would deny it"));
    step.list("dryRun", lines.collect(), json!(dry));
}
