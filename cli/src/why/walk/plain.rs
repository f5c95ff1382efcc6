//! The way of a client that nothing captures: what it sends goes as it is, and only who takes it may be in the mesh.

use std::{net::SocketAddr, sync::Arc};

use mesh::{
    admit::Arrival,
    model::{Protocol, Service, Workload},
    pick::eligible,
    plan::Source,
    store::Known,
};

use super::{Found, Walk, answered, one_by_one, wanted};
use crate::why::{
    ends::{Ends, called},
    next::{Asker, refused},
    trace::{Choice, End, Outcome, Step, Way},
};

impl Walk<'_> {
    /// A client whose traffic nothing captures.
    pub(super) fn uncaptured(&self, ends: &Ends) -> Found {
        let client = &ends.client;
        let mut step = Step::new("network", format!("of {}", called(client)));
        step.tell(
            "client",
            format!("{}: not in the mesh, nothing captures it", ends.source),
        );
        let source = self.source(client);
        self.tell_destination(&mut step, &source, ends.to);
        let namespace = client.identity.namespace;
        let mesh = &self.facts.mesh;
        let targets = match mesh.lookup(client.network, ends.to.ip(), namespace) {
            Known::Service(_) if !self.facts.serves => {
                let text = "nothing but the mesh serves the addresses of services here".to_owned();
                let next = "ask for a pod's own address, or enrol the client's pod".to_owned();
                let end = End::new(Outcome::Refused, text, Some(next));
                return (vec![step], vec![Way::new(Vec::new(), end)]);
            }
            Known::Service(service) => {
                step.tell(
                    "network",
                    "chooses an endpoint, where it serves the addresses of services",
                );
                self.plain_endpoints(service, &source, ends.to)
            }
            Known::Workload(workload) => vec![(None, Arc::clone(workload), ends.to)],
            Known::Nothing | Known::Unusable(_) => {
                let text = format!("to {}, as it is", ends.to);
                let end = End::new(Outcome::Leaves, text, None);
                return (vec![step], vec![Way::new(Vec::new(), end)]);
            }
        };
        if targets.is_empty() {
            let text = format!("the service has no endpoint for port {}", ends.to.port());
            let end = End::new(Outcome::Refused, text, None);
            return (vec![step], vec![Way::new(Vec::new(), end)]);
        }
        let asker = Asker {
            facts: self.facts,
            identity: None,
            is_waypoint: false,
            what: format!("connect to {}", ends.name),
        };
        let ways = targets.into_iter().map(|(choice, workload, to)| {
            let captured = workload.protocol == Protocol::Hbone && !workload.native_tunnel;
            let (steps, end) = if captured {
                let (step, end) = self.enter(&workload, Arrival::Plain { to }, ends.source);
                let end = end.unwrap_or_else(|refusal| refused(&refusal, &asker));
                (vec![step], end)
            } else {
                (Vec::new(), answered(&workload, to))
            };
            Way::new(steps, end).after(choice.as_slice(), &[])
        });
        (vec![step], ways.collect())
    }

    /// What the cluster's network may choose, where it serves the addresses of services.
    fn plain_endpoints(
        &self,
        service: &Arc<Service>,
        source: &Source,
        to: SocketAddr,
    ) -> Vec<(Option<Choice>, Arc<Workload>, SocketAddr)> {
        let Some(port) = service.ports.iter().find(|port| port.service == to.port()) else {
            return Vec::new();
        };
        let wanted = wanted(source, to.ip(), *port);
        let picked = eligible(service, self.facts.mesh.endpoints(service.key), &wanted);
        let all: Vec<_> = picked.iter().map(|it| it.workload).collect();
        let choices = one_by_one(all.clone(), all);
        let both = choices.into_iter().zip(&picked);
        both.map(|((choice, _), it)| {
            let to = SocketAddr::new(it.address, it.port);
            (choice, Arc::clone(it.workload), to)
        })
        .collect()
    }
}
