//! What becomes of one request, or of one connection that carries no requests.

mod again;
mod changes;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

pub use again::{Endpoint, Place, judge_again};
use changes::{Changes, as_forwarded};

use crate::{
    decide::{self, Which},
    http::{
        authorize::{self, Connection, Decision, Matched, Policy, Verdict, append_new},
        balance::{self, Load},
        edit::HeaderEdits,
        head::Head,
        route::{Route, Timeouts},
        select::{self, Selected, select},
        weight::{self, NoBackend, Target, share},
    },
    identity::Identity,
    model::{self, Service, Workload},
    name::Name,
    pick::{Picked, Wanted, eligible},
    plan::{self, Flow, Outcome, Plan, Source},
    store,
    waypoint::{Answer, Backend, Denial, Generation, Port, Protocol, Routes, Table},
};

/// Who is at the other end of the tunnel, and what he asked for. Nothing that somebody says of a client is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// From its certificate; none only where it came without a tunnel.
    pub peer: Option<Identity>,
    /// Its socket.
    pub address: SocketAddr,
    /// The service's address that it asked for; none if it asked by name. [`Client::asked`] finds it.
    pub destination: Option<IpAddr>,
}

impl Client {
    /// The address that an authority is for, if it is for one: `ip:port`, `[v6]:port`.
    pub fn asked(authority: &str) -> Option<IpAddr> {
        let address: SocketAddr = authority.parse().ok()?;
        Some(address.ip().to_canonical())
    }

    /// What layer 7 policies are asked about: the client, and what it connected to. Where it did so by name, and at a
    /// service that a route leads to, that is the service's address if it has just one; else nobody knows.
    fn connection(&self, table: &Table, service: &Service, port: u16) -> Connection {
        let own = service.key == table.key;
        let asked = self.destination.filter(|_| own);
        let only = || match &service.vips[..] {
            [vip] if vip.is_single() => Some(vip.address),
            _ => None,
        };
        Connection {
            peer: self.peer,
            source: self.address.ip().to_canonical(),
            destination: asked.or_else(only),
            port,
        }
    }
}

/// What is asked, beside the request itself.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// The service.
    pub table: &'a Table,
    /// Its port.
    pub port: &'a Port,
    /// Who asks.
    pub client: &'a Client,
    /// This waypoint.
    pub from: &'a Source,
    /// Every choice derives from it, so that a second call chooses the same. Uniform over all of `u64`.
    pub seed: u64,
    /// Uids of endpoints that were tried in vain.
    pub tried: &'a [Arc<str>],
    /// How busy an endpoint is.
    pub load: &'a dyn Fn(&Workload) -> Load,
}

/// What was decided, and why.
#[derive(Clone, Debug)]
pub struct Judgement<'g> {
    /// The rule that the request is for, if the port has routes.
    pub route: Option<Selected<'g>>,
    /// The backend that its share fell on.
    pub backend: Option<&'g Arc<Backend>>,
    /// Its port, once the backend is known to have it.
    pub backend_port: Option<u16>,
    /// What to do.
    pub outcome: Result<Forward<'g>, Answer>,
    /// The ALLOW rule of the service's own policies that matched, if any had to.
    pub allowed_by: Option<Matched>,
    /// That of the backend's, where that is another service.
    pub backend_allowed_by: Option<Matched>,
    /// The ALLOW policy of the endpoint (layer 4) that matched, if any had to.
    pub connection_allowed_by: Option<Name>,
    /// What layer 7 policies with `dry_run` would have denied.
    pub dry_run: Vec<authorize::Denial>,
    /// Layer 4 policies with `dry_run` that would have denied it.
    pub connection_dry_run: Vec<Name>,
    /// What AUDIT policies match.
    pub audit: Vec<Matched>,
}

/// How to carry a request or connection.
#[derive(Clone, Debug)]
pub struct Forward<'g> {
    /// To which endpoint, and how.
    pub plan: Plan,
    /// The backend, `<namespace>/<hostname>`.
    backend: Name,
    backend_port: u16,
    /// A rule of the client's namespace leads there.
    is_consumers: bool,
    /// What to speak to it: `Http1`, `Http2`, or `Http`, which is as the client speaks. `Tcp` for a connection.
    pub upstream: Protocol,
    /// Path and query, normal and rewritten. None: a connection.
    pub target: Option<Vec<u8>>,
    /// In place of the host.
    pub host: Option<Box<str>>,
    /// In order.
    pub request_edits: Vec<&'g HeaderEdits>,
    /// In order.
    pub response_edits: Vec<&'g HeaderEdits>,
    /// How long it may take.
    pub timeouts: Timeouts,
}

/// Decides one HTTP request.
///
/// Policy of the service first, so that who may not ask learns nothing of its routes; then the rule, its redirect, the
/// backend, that one's policy if it is another service, the endpoint, and the endpoint's layer 4 policy.
///
/// The service's policies judge what the client asks for, whatever a route of its own namespace makes of that. A route of
/// the client's namespace is not the service's own word: then they judge what is forwarded, too.
pub fn judge<'g>(generation: &'g Generation, asked: &Asked<'g>, head: &Head<'_>) -> Judgement<'g> {
    let mut judgement = Judgement::undecided();
    judgement.outcome = judgement.of_request(generation, asked, head);
    judgement
}

/// Decides one connection whose bytes are carried as they are.
pub fn judge_connection<'g>(generation: &'g Generation, asked: &Asked<'g>) -> Judgement<'g> {
    let mut judgement = Judgement::undecided();
    judgement.outcome = judgement.of_connection(generation, asked);
    judgement
}

impl<'g> Judgement<'g> {
    fn undecided() -> Self {
        Self {
            route: None,
            backend: None,
            backend_port: None,
            outcome: Err(Answer::NotReady),
            allowed_by: None,
            backend_allowed_by: None,
            connection_allowed_by: None,
            dry_run: Vec::new(),
            connection_dry_run: Vec::new(),
            audit: Vec::new(),
        }
    }

    /// What policies that are only tried would have denied, of both layers.
    pub fn would_deny(&self) -> impl Iterator<Item = Denial> {
        let requests = self.dry_run.iter().copied().map(Denial::Request);
        let connections = self.connection_dry_run.iter().copied();
        // Which of its reasons it would have been, nobody kept.
        let denied = |name| Denial::Connection(decide::Denial::Denied(name));
        requests.chain(connections.map(denied))
    }

    fn of_request(
        &mut self,
        generation: &'g Generation,
        asked: &Asked<'g>,
        head: &Head<'_>,
    ) -> Result<Forward<'g>, Answer> {
        let Asked { table, port, .. } = *asked;
        let connection = asked.connection(&table.service, port.number);
        self.allowed_by = self.take(of_policies(&table.policies, connection, head))?;
        self.route = asked.route(|routes| select(routes, head, asked.client_namespace()))?;
        self.carried_out()?;
        let changes = Changes::new(self.route, head, port.number)?;
        let lead = self.lead(generation, asked)?;
        let request_edits = changes.request_edits(lead.chosen);
        if self.is_consumers() {
            let connection = asked.connection(&table.service, lead.port_of(asked));
            let forwarded = |head: &Head<'_>| of_policies(&table.policies, connection, head);
            let verdict = as_forwarded(head, &changes.forwarded(&request_edits), forwarded)?;
            self.take(verdict)?;
        }
        if lead.is_other {
            let service = lead.service;
            let connection = asked.connection(service, lead.port.service);
            let forwarded = |head: &Head<'_>| of_policies(&lead.backend.policies, connection, head);
            let verdict = as_forwarded(head, &changes.forwarded(&request_edits), forwarded)?;
            self.backend_allowed_by = self.take(verdict)?;
        }
        let plan = self.plan(generation, asked, &lead)?;
        let said = if lead.is_other || lead.port.service != port.number {
            lead.backend.protocol(lead.port.service)
        } else {
            port.protocol
        };
        Ok(Forward {
            plan,
            backend: lead.backend.key,
            backend_port: lead.port.service,
            is_consumers: self.is_consumers(),
            upstream: match said {
                Protocol::Http1 | Protocol::Http2 => said,
                Protocol::Detect | Protocol::Http | Protocol::Tcp => Protocol::Http,
            },
            response_edits: changes.response_edits(lead.chosen),
            target: Some(changes.target),
            host: changes.host,
            request_edits,
            timeouts: self.route.map(|it| it.rule.timeouts).unwrap_or_default(),
        })
    }

    fn of_connection(
        &mut self,
        generation: &'g Generation,
        asked: &Asked<'g>,
    ) -> Result<Forward<'g>, Answer> {
        let Asked { table, port, .. } = *asked;
        let decided = |policies: &'g [Arc<Policy>], service, port| {
            let connection = asked.connection(service, port);
            decided_connection(policies, connection)
        };
        self.allowed_by = self.take(decided(&table.policies, &table.service, port.number))?;
        // Rules for requests match none.
        self.route = asked.route(|_| None)?;
        self.carried_out()?;
        let lead = self.lead(generation, asked)?;
        if self.is_consumers() {
            let port = lead.port_of(asked);
            self.take(decided(&table.policies, &table.service, port))?;
        }
        if lead.is_other {
            let verdict = decided(&lead.backend.policies, lead.service, lead.port.service);
            self.backend_allowed_by = self.take(verdict)?;
        }
        Ok(Forward {
            plan: self.plan(generation, asked, &lead)?,
            backend: lead.backend.key,
            backend_port: lead.port.service,
            is_consumers: self.is_consumers(),
            upstream: Protocol::Tcp,
            target: None,
            host: None,
            request_edits: Vec::new(),
            response_edits: Vec::new(),
            timeouts: Timeouts::default(),
        })
    }

    /// Keeps what is told of a verdict; the ALLOW rule that matched, or the denial.
    fn take(&mut self, verdict: Verdict) -> Result<Option<Matched>, Answer> {
        append_new(&mut self.dry_run, verdict.dry_run);
        append_new(&mut self.audit, verdict.audit);
        match verdict.decision {
            Decision::Allow(matched) => Ok(matched),
            Decision::Deny(denial) => Err(Answer::Denied(Denial::Request(denial))),
        }
    }

    /// Whether the rule can be: it has matched all the same.
    fn carried_out(&self) -> Result<(), Answer> {
        match self.route.and_then(|it| it.rule.invalid.as_deref()) {
            Some(why) => Err(Answer::InvalidBackend(why.to_owned())),
            None => Ok(()),
        }
    }

    /// Whether the rule is of the client's namespace, and not of the service's.
    pub fn is_consumers(&self) -> bool {
        self.route
            .is_some_and(|selected| selected.route.client.is_some())
    }

    /// The backend by the weights of the rule, or the service itself where there is none.
    fn lead(&mut self, generation: &'g Generation, asked: &Asked<'g>) -> Result<Lead<'g>, Answer> {
        let Asked { table, port, .. } = *asked;
        let (chosen, key, number) = match self.route {
            None => (None, table.key, port.number),
            Some(selected) => {
                let chosen = share(&selected.rule.backends, asked.seed).map_err(|e| match e {
                    NoBackend::Weightless => Answer::NoBackend,
                    NoBackend::Invalid(why) => Answer::InvalidBackend(why.to_owned()),
                })?;
                match &chosen.target {
                    Target::Service { service, port } => (Some(chosen), *service, *port),
                    Target::Invalid(why) => return Err(Answer::InvalidBackend(why.to_string())),
                }
            }
        };
        let invalid = |why: String| Err(Answer::InvalidBackend(why));
        let Some(backend) = generation.backend(key) else {
            return invalid(format!("nobody knows {key}"));
        };
        self.backend = Some(backend);
        let service = match (&backend.service, &backend.refused) {
            (_, Some(why)) => return invalid(format!("{key}: {why}")),
            (None, None) => return invalid(format!("{key} has no service")),
            (Some(service), None) => service,
        };
        let Some(port) = service.ports.iter().find(|port| port.service == number) else {
            return invalid(format!("{key} has no port {number}"));
        };
        self.backend_port = Some(number);
        Ok(Lead {
            backend,
            service,
            port: *port,
            chosen,
            is_other: key != table.key,
        })
    }

    /// The endpoint and the way there, if its layer 4 policies let the client.
    fn plan(
        &mut self,
        generation: &Generation,
        asked: &Asked<'_>,
        lead: &Lead<'_>,
    ) -> Result<Plan, Answer> {
        let Asked {
            from, seed, tried, ..
        } = *asked;
        let service = lead.service;
        let mesh = &generation.mesh;
        let vip = service.vips.iter().find(|vip| vip.is_single());
        let address = vip.map(|vip| vip.address);
        let flow = |to| Flow {
            source: from,
            // Of no workload: who leads in a circle is told by the waypoints that a request names.
            from: SocketAddr::new(NOWHERE, 0),
            to,
            seed,
            tried,
        };
        if service.weighted_waypoints {
            return Err(Answer::Unserved(format!(
                "weighted waypoints of {}",
                service.key
            )));
        }
        // That one decides who may go on from there, by the identity of this one.
        if let Some(waypoint) = service.waypoint {
            let why = || Answer::InvalidBackend(format!("{} has no address", service.key));
            let to = SocketAddr::new(address.ok_or_else(why)?, lead.port.service);
            let hop = plan::through(mesh, &flow(to), service, waypoint);
            return hop.map(Plan::Tunnel).map_err(Answer::Upstream);
        }
        let wanted = Wanted {
            source: from,
            address: address.unwrap_or(NOWHERE),
            port: lead.port,
            seed,
            tried,
        };
        let candidates = eligible(service, mesh.endpoints(service.key), &wanted);
        let capacity = |picked: &Picked<'_>| picked.workload.capacity;
        let load = |picked: &Picked<'_>| (asked.load)(picked.workload);
        let picked = balance::choose(&candidates, seed, capacity, load)
            .ok_or(Answer::NoEndpoint(service.key))?;
        let to = SocketAddr::new(picked.address, picked.port);
        let verdict = of_endpoint(mesh, asked.client, picked.workload, to);
        self.connection_dry_run = verdict.dry_run;
        match verdict.decision {
            decide::Decision::Allow(policy) => self.connection_allowed_by = policy,
            decide::Decision::Deny(denial) => {
                return Err(Answer::Denied(Denial::Connection(denial)));
            }
        }
        match plan::to_workload(&flow(to), picked.workload, to, Some(service)) {
            Outcome::Do(plan) => Ok(plan),
            Outcome::Refuse(refusal) => Err(Answer::Upstream(refusal)),
            Outcome::Ask(question) => Err(Answer::Unserved(question.to_string())),
        }
    }
}

/// Where a request goes: a port of a service, that of the table or another.
struct Lead<'g> {
    backend: &'g Backend,
    service: &'g Arc<Service>,
    port: model::Port,
    /// None: no rule leads there.
    chosen: Option<&'g weight::Backend>,
    is_other: bool,
}

impl Lead<'_> {
    /// The port of the service that was asked for, which a rule may change.
    fn port_of(&self, asked: &Asked<'_>) -> u16 {
        if self.is_other {
            asked.port.number
        } else {
            self.port.service
        }
    }
}

const NOWHERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

impl<'g> Asked<'g> {
    fn client_namespace(&self) -> Option<Name> {
        self.client.peer.map(|peer| peer.namespace)
    }

    fn connection(&self, service: &Service, port: u16) -> Connection {
        self.client.connection(self.table, service, port)
    }

    /// The rule, where the port has routes that are for this client. Those of other clients change nothing for it.
    fn route(
        &self,
        select: impl FnOnce(&'g select::Table) -> Option<Selected<'g>>,
    ) -> Result<Option<Selected<'g>>, Answer> {
        let unserved = |why: &str| Err(Answer::Unserved(why.to_owned()));
        if let Some(why) = &self.table.refused {
            return unserved(why);
        }
        let selected = match &self.port.routes {
            Routes::None => return Ok(None),
            Routes::Refused(why) => return unserved(why),
            Routes::Http(routes) if !self.is_for_client(routes.routes()) => return Ok(None),
            Routes::Tcp(routes) if !self.is_for_client(routes) => return Ok(None),
            Routes::Http(routes) => select(routes),
            Routes::Tcp(routes) => self.tcp_route(routes),
        };
        selected.map(Some).ok_or(Answer::NoRoute)
    }

    /// Whether any route is for the client: the producer's are for all.
    fn is_for_client(&self, routes: &[Arc<Route>]) -> bool {
        let namespace = self.client_namespace();
        let mut routes = routes.iter();
        routes.any(|route| route.client.is_none() || route.client == namespace)
    }

    /// The first rule of the best route; consumers' routes take the place of the producer's.
    fn tcp_route(&self, routes: &'g [Arc<Route>]) -> Option<Selected<'g>> {
        let namespace = self.client_namespace();
        let mut consumers = routes.iter().filter(|route| route.client.is_some());
        let own = consumers.find(|route| route.client == namespace);
        let route = own.or_else(|| routes.iter().find(|route| route.client.is_none()))?;
        Some(Selected {
            route,
            at: 0,
            rule: route.rules.first()?,
            matched: None,
        })
    }
}

fn of_policies(policies: &[Arc<Policy>], connection: Connection, head: &Head<'_>) -> Verdict {
    let policies = policies.iter().map(|policy| &**policy);
    authorize::decide(policies, &authorize::Request { connection, head })
}

fn decided_connection(policies: &[Arc<Policy>], connection: Connection) -> Verdict {
    authorize::decide_connection(policies.iter().map(|policy| &**policy), &connection)
}

/// By layer 4 policies. Those of the control plane's own making are the endpoint's own proxy's to decide.
fn of_endpoint(
    mesh: &store::Generation,
    client: &Client,
    workload: &Workload,
    to: SocketAddr,
) -> decide::Verdict {
    let request = decide::Request {
        peer: client.peer,
        source: client.address.ip().to_canonical(),
        destination: to.ip(),
        port: to.port(),
    };
    decide::decide(mesh, workload, &request, Which::Written)
}

#[cfg(test)]
mod tests;
