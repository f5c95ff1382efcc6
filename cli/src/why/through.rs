//! What a waypoint does with a request or connection, by the functions that decide it there.
//!
//! A rule that shares requests out is followed to each of its backends, and those to each of their endpoints: the judge is
//! asked with a seed that falls on the share, and with all other endpoints left out.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use control::{subject::Subject, world::Key};
use mesh::{
    http::{balance::Load, head::Head},
    identity::Identity,
    model::Workload,
    pick::eligible,
    plan::{Hop, Plan, Source},
    refusal::Refusal,
    waypoint::{
        Answer, Asked, Client, Denial, Forward, Generation, Judgement, Port, Protocol, Table,
        judge, judge_connection,
    },
};

use super::{
    next::{self, Asker},
    request::Request,
    trace::{Choice, End, Outcome, Step, Way},
    walk::{Endpoint, Found, Walk, one_by_one, tell_hop, wanted},
    words,
};

mod decided;

use decided::{shares, tell_backends, tell_judgement};

/// What comes to a waypoint.
pub(super) struct Arriving<'a> {
    /// As the tunnel was planned.
    pub(super) hop: &'a Hop,
    /// The client's identity and address.
    pub(super) client: (Identity, IpAddr),
    /// As it comes.
    pub(super) request: Request,
    /// The waypoints before.
    pub(super) via: Vec<String>,
}

/// At the waypoint that a tunnel leads to, and on from there.
pub(super) fn through(walk: &Walk<'_>, arriving: &Arriving<'_>) -> Found {
    let workload = &arriving.hop.workload;
    let identity = workload.identity;
    let gateway: Key = (
        identity.namespace.to_string(),
        identity.service_account.to_string(),
    );
    let name = format!("{}/{}", gateway.0, gateway.1);
    let mut step = Step::new("waypoint", &name);
    let (peer, address) = arriving.client;
    step.tell("client", format!("{peer}, {address}"));
    let asker = Asker {
        facts: walk.facts,
        identity: Some(peer),
        is_waypoint: !arriving.via.is_empty(),
        what: format!("{} {}", arriving.request.method, arriving.request.target),
    };
    let alone = |step: Step, end: End| (vec![step], vec![Way::new(Vec::new(), end)]);
    let subject = Subject::Waypoint(gateway.clone());
    let to = arriving.hop.address;
    if let Some(end) = walk.absent(&mut step, &subject, to, &asker) {
        return alone(step, end);
    }
    let Some(generation) = walk.facts.waypoints.get(&gateway) else {
        let text = format!("no Gateway {name} is known, whose waypoint that would be");
        return alone(step, End::new(Outcome::Refused, text, None));
    };
    let answered = |answer| next::answered(&answer, &asker, false);
    if let Some(answer) = waypoint::circle(&arriving.via, &name) {
        return alone(step, answered(answer));
    }
    let authority = arriving.hop.authority.to_string();
    let (table, port) = match generation.served(workload.network, &authority) {
        Ok(served) => served,
        Err(answer) => return alone(step, answered(answer)),
    };
    let spoken = words::protocol(port.protocol);
    let service = words::short(table.key);
    step.tell(
        "service",
        format!("{service} port {}, {spoken}", port.number),
    );
    let fields = arriving.request.fields();
    let head = is_request(walk, port)
        .then(|| arriving.request.head(&fields))
        .transpose();
    let head = match head {
        Ok(head) => head,
        Err(answer) => return alone(step, answered(answer)),
    };
    let source = walk.source(workload);
    let client = Client {
        peer: Some(peer),
        address: SocketAddr::new(address, 0),
        destination: Client::asked(&authority),
    };
    let judge = Judge {
        client,
        walk,
        arriving,
        name,
        generation,
        table,
        port,
        head: head.as_ref(),
        source: &source,
        asker: &asker,
    };
    judge.all(step)
}

/// Whether requests are read on a port. Where nobody says what is spoken, a request that was given says it.
fn is_request(walk: &Walk<'_>, port: &Port) -> bool {
    match port.protocol {
        Protocol::Tcp => false,
        Protocol::Detect => walk.given,
        Protocol::Http | Protocol::Http1 | Protocol::Http2 => true,
    }
}

/// One request or connection at one waypoint.
struct Judge<'a> {
    walk: &'a Walk<'a>,
    arriving: &'a Arriving<'a>,
    client: Client,
    name: String,
    generation: &'a Generation,
    table: &'a Table,
    port: &'a Port,
    /// None: a connection.
    head: Option<&'a Head<'a>>,
    source: &'a Source,
    asker: &'a Asker<'a>,
}

impl Judge<'_> {
    fn all(&self, mut step: Step) -> Found {
        self.tell_path(&mut step);
        self.tell_policies(&mut step);
        let first = self.ask(0, &[]);
        let selected = first.route;
        self.tell_route(&mut step, selected, &first.outcome);
        let redirected = matches!(first.outcome, Err(Answer::Redirect { .. }));
        let backends = match selected {
            Some(selected) if selected.rule.invalid.is_none() && !redirected => {
                &*selected.rule.backends
            }
            _ => &[],
        };
        tell_backends(&mut step, backends);
        let shares = shares(backends);
        let ways = if shares.is_empty() {
            self.toward(0, None)
        } else {
            let each = shares.into_iter().flat_map(|(seed, choice)| {
                let choice = (backends.len() > 1).then_some(choice);
                self.toward(seed, choice)
            });
            each.collect()
        };
        (vec![step], ways)
    }

    fn ask<'g>(&'g self, seed: u64, tried: &'g [Arc<str>]) -> Judgement<'g> {
        self.ask_of(self.table, self.port, seed, tried)
    }

    fn ask_of<'g>(
        &'g self,
        table: &'g Table,
        port: &'g Port,
        seed: u64,
        tried: &'g [Arc<str>],
    ) -> Judgement<'g> {
        let asked = Asked {
            table,
            port,
            client: &self.client,
            from: self.source,
            seed,
            tried,
            // Nobody is busy.
            load: &|_: &Workload| Load::default(),
        };
        match self.head {
            Some(head) => judge(self.generation, &asked, head),
            None => judge_connection(self.generation, &asked),
        }
    }

    /// To the backend that a seed falls on, by each of its endpoints.
    fn toward(&self, seed: u64, choice: Option<Choice>) -> Vec<Way> {
        let first = self.ask(seed, &[]);
        let endpoints = self.endpoints(&first);
        let ways = endpoints.into_iter().flat_map(|(endpoint, tried)| {
            let choices: Vec<_> = choice.clone().into_iter().chain(endpoint).collect();
            let judgement = self.ask(seed, &tried);
            let ways = self.follow(&judgement);
            ways.into_iter().map(move |way| way.after(&choices, &[]))
        });
        ways.collect()
    }

    /// The endpoints that the judge chooses among, if it comes so far.
    fn endpoints(&self, first: &Judgement<'_>) -> Vec<Endpoint> {
        let none = || vec![(None, Vec::new())];
        let (plan, denied) = match &first.outcome {
            Ok(forward) => (Some(&forward.plan), false),
            Err(Answer::Denied(Denial::Connection(_))) => (None, true),
            Err(_) => (None, false),
        };
        let is_hop = matches!(plan, Some(Plan::Tunnel(hop)) if hop.waypoint);
        if is_hop || plan.is_none() && !denied {
            return none();
        }
        let backend = first.backend.and_then(|it| it.service.as_ref());
        let number = first.backend_port.unwrap_or(self.port.number);
        let Some((service, port)) = backend.and_then(|service| {
            let port = service.ports.iter().find(|port| port.service == number)?;
            Some((service, *port))
        }) else {
            return none();
        };
        let all = self.generation.mesh.endpoints(service.key);
        let address = service.vips.iter().find(|vip| vip.is_single());
        let address = address.map_or_else(|| self.arriving.hop.authority.ip(), |vip| vip.address);
        let eligible = eligible(service, all, &wanted(self.source, address, port));
        one_by_one(
            eligible.iter().map(|it| it.workload).collect(),
            all.iter().map(|it| &it.workload).collect(),
        )
    }

    /// Where one judgement leads.
    fn follow(&self, judgement: &Judgement<'_>) -> Vec<Way> {
        let backend = judgement.backend.map(|it| words::short(it.key));
        let to = match &backend {
            Some(backend) => format!("{}, to {backend}", self.name),
            None => self.name.clone(),
        };
        let mut step = Step::new("waypoint", to);
        tell_judgement(&mut step, judgement, self.table);
        let grpc = self.head.is_some() && self.arriving.request.is_grpc();
        let forward = match &judgement.outcome {
            Ok(forward) => forward,
            Err(answer) => {
                let mut end = next::answered(answer, self.asker, grpc);
                let ruled = judgement.route;
                let ruled = ruled.and_then(|it| next::of_rule(answer, it, self.walk.facts));
                end.next = ruled.or(end.next);
                if self.head.is_none() {
                    // Its bytes are not read, so nobody writes into them: it is closed.
                    (end.status, end.details) = (None, None);
                }
                let steps = if step.facts.is_empty() {
                    Vec::new()
                } else {
                    vec![step]
                };
                return vec![Way::new(steps, end)];
            }
        };
        self.tell_forward(&mut step, forward);
        let source = self.arriving.hop.address.ip();
        let identity = self.source.identity;
        if let Plan::Tunnel(hop) = &forward.plan
            && hop.waypoint
        {
            tell_hop(&mut step, hop);
            let arriving = Arriving {
                hop,
                client: (identity, source),
                request: self.arriving.request.forwarded(forward),
                via: [&self.arriving.via[..], std::slice::from_ref(&self.name)].concat(),
            };
            let (steps, ways) = through(self.walk, &arriving);
            let before = [vec![step], steps].concat();
            return ways
                .into_iter()
                .map(|way| way.after(&[], &before))
                .collect();
        }
        let (steps, end) = self.walk.arrive(&forward.plan, identity, source);
        let end = end.unwrap_or_else(|refusal| self.turned_away(forward, &refusal, grpc));
        vec![Way::new(steps, end).after(&[], &[step])]
    }

    /// What the client gets when the endpoint's ztunnel says no.
    fn turned_away(&self, forward: &Forward<'_>, refusal: &Refusal, grpc: bool) -> End {
        let answer = Answer::Upstream(Refusal::RefusedByPeer {
            peer: forward.plan.address(),
            status: refusal.status(),
        });
        let waypoint = Asker {
            facts: self.walk.facts,
            identity: Some(self.source.identity),
            is_waypoint: true,
            what: "connect".to_owned(),
        };
        let why = next::refused(refusal, &waypoint);
        let mut end = next::answered(&answer, &waypoint, grpc);
        end.outcome = why.outcome;
        end.text = format!("{}, because of this: {}", end.text, why.text);
        end.next = why.next;
        if self.head.is_none() {
            (end.status, end.details) = (None, None);
        }
        end
    }
}
