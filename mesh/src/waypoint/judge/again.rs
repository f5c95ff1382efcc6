//! What is open is judged again where it is, when the rules have changed.
//!
//! Nothing is chosen here: weights, routes and endpoints say where the next one goes, and nothing of what has begun well. So
//! the only answer is that a policy denies it by now.

use std::{net::SocketAddr, sync::Arc};

use super::{
    Client, Forward, changes::Forwarded, changes::as_forwarded, decided_connection, of_endpoint,
    of_policies,
};
use crate::{
    decide,
    http::{
        authorize::{self, Policy},
        edit::HeaderEdits,
        head::Head,
    },
    model::{Service, Workload},
    name::Name,
    plan::Plan,
    waypoint::{Answer, Denial, Generation, Table},
};

/// Where something open leads, as it was decided when it began.
#[derive(Clone, Debug)]
pub struct Place {
    /// The backend, `<namespace>/<hostname>`.
    pub backend: Name,
    /// Its port.
    pub port: u16,
    /// What is at the end of it.
    pub endpoint: Endpoint,
    /// A rule of the client's namespace led here, and not one of the service's.
    is_consumers: bool,
    /// What it was made, where policies are asked about that.
    made: Option<Box<Made>>,
}

/// The workload that something open leads to.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// As it was then.
    pub workload: Arc<Workload>,
    /// Its address, whose layer 4 policies were asked. None: it is another waypoint, which decides for itself.
    pub address: Option<SocketAddr>,
}

/// What a rule made of a request.
#[derive(Clone, Debug)]
struct Made {
    /// Path and query.
    target: Vec<u8>,
    host: Option<Box<str>>,
    edits: Vec<HeaderEdits>,
}

impl Forward<'_> {
    /// Where it leads whoever asked for the service with the table of this name; none where no workload is known there.
    pub fn place(&self, table: Name) -> Option<Place> {
        let address = match &self.plan {
            Plan::Tunnel(hop) if hop.waypoint => None,
            plan => Some(plan.end()),
        };
        let endpoint = Endpoint {
            workload: Arc::clone(self.plan.workload()?),
            address,
        };
        let target = self.target.as_ref();
        let target = target.filter(|_| self.is_consumers || self.backend != table);
        let made = target.map(|target| Made {
            target: target.clone(),
            host: self.host.clone(),
            edits: self.request_edits.iter().copied().cloned().collect(),
        });
        Some(Place {
            backend: self.backend,
            port: self.backend_port,
            endpoint,
            is_consumers: self.is_consumers,
            made: made.map(Box::new),
        })
    }
}

/// Why a request (`head`: as it was asked) or a connection (without one) may not go on, if it may not: always a denial.
///
/// Asked are the policies of the service, on the port that was asked for; of a rule of the client's namespace or another
/// backend those about what was forwarded, as at first; and the layer 4 policies of the workload, an endpoint by now or not.
/// A backend that the generation does not have any more has no policies here either. Nor has a workload but for the DENY
/// policies of its namespace and the mesh, as far as they are told: what is in none of the backends is not told to a waypoint,
/// be it that it drains. Its own proxy goes on deciding whether this waypoint may reach it.
pub fn judge_again(
    generation: &Generation,
    (table, port): (&Table, u16),
    client: &Client,
    head: Option<&Head<'_>>,
    place: Option<&Place>,
) -> Option<Answer> {
    let again = Again {
        table,
        client,
        head,
    };
    let denial = again
        .asked(&table.policies, &table.service, port)
        .or_else(|| again.there(generation, port, place?));
    denial.map(Answer::Denied)
}

/// Who asked for what.
struct Again<'a> {
    table: &'a Table,
    client: &'a Client,
    head: Option<&'a Head<'a>>,
}

impl Again<'_> {
    /// By policies that are about what was asked.
    fn asked(&self, policies: &[Arc<Policy>], service: &Service, port: u16) -> Option<Denial> {
        self.decided(policies, service, port, self.head)
    }

    /// By those that are about what was forwarded.
    fn forwarded(
        &self,
        policies: &[Arc<Policy>],
        service: &Service,
        port: u16,
        place: &Place,
    ) -> Option<Denial> {
        let (Some(head), Some(made)) = (self.head, &place.made) else {
            return self.asked(policies, service, port);
        };
        let edits: Vec<&HeaderEdits> = made.edits.iter().collect();
        let forwarded = Forwarded {
            target: &made.target,
            host: made.host.as_deref(),
            edits: &edits,
        };
        let decided = |head: &Head<'_>| self.decided(policies, service, port, Some(head));
        // It made a request once, and is the same.
        as_forwarded(head, &forwarded, decided).unwrap_or_default()
    }

    fn decided(
        &self,
        policies: &[Arc<Policy>],
        service: &Service,
        port: u16,
        head: Option<&Head<'_>>,
    ) -> Option<Denial> {
        let connection = self.client.connection(self.table, service, port);
        let verdict = match head {
            Some(head) => of_policies(policies, connection, head),
            None => decided_connection(policies, connection),
        };
        match verdict.decision {
            authorize::Decision::Allow(_) => None,
            authorize::Decision::Deny(denial) => Some(Denial::Request(denial)),
        }
    }

    fn there(&self, generation: &Generation, port: u16, place: &Place) -> Option<Denial> {
        let table = self.table;
        let is_other = place.backend != table.key;
        let of_consumer = || {
            let port = if is_other { port } else { place.port };
            self.forwarded(&table.policies, &table.service, port, place)
        };
        let of_backend = || {
            let backend = generation.backend(place.backend)?;
            // Without a service of its own there is no address that its policies could be asked about.
            let service = backend.service.as_ref()?;
            self.forwarded(&backend.policies, service, place.port, place)
        };
        let of_workload = || {
            let (mesh, then) = (&generation.mesh, &place.endpoint.workload);
            let to = place.endpoint.address?;
            let denied = |workload| match of_endpoint(mesh, self.client, workload, to).decision {
                decide::Decision::Allow(_) => None,
                decide::Decision::Deny(denial) => Some(denial),
            };
            let denial = match mesh.workload(&then.uid) {
                Some(workload) => denied(workload),
                // What lets somebody in may be a policy that is not told any more.
                None => denied(&unlisting(then))
                    .filter(|denial| !matches!(denial, decide::Denial::NotAllowed(_))),
            };
            denial.map(Denial::Connection)
        };
        let consumers = place.is_consumers.then(of_consumer).flatten();
        let backends = || is_other.then(of_backend).flatten();
        consumers.or_else(backends).or_else(of_workload)
    }
}

/// A workload that names no policies: which of them are for it is not known any more.
fn unlisting(workload: &Workload) -> Workload {
    Workload {
        policies: Box::default(),
        ..workload.clone()
    }
}

#[cfg(test)]
mod tests;
