//! What becomes of one request, or of one connection that carries no requests.

use std::{net::SocketAddr, sync::Arc};

use crate::{
    http::{
        authorize::{self, Matched},
        balance::Load,
        edit::HeaderEdits,
        head::Head,
        route::Timeouts,
        select::Selected,
    },
    identity::Identity,
    model::Workload,
    name::Name,
    plan::{Plan, Source},
    waypoint::{Answer, Backend, Generation, Port, Protocol, Table},
};

/// Who is at the other end of the tunnel. Nothing that somebody says of a client is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// From its certificate; none only where it came without a tunnel.
    pub peer: Option<Identity>,
    /// Its socket.
    pub address: SocketAddr,
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
pub fn judge<'g>(generation: &'g Generation, asked: &Asked<'g>, head: &Head<'_>) -> Judgement<'g> {
    let _ = (generation, asked, head);
    refused()
}

/// Decides one connection whose bytes are carried as they are.
pub fn judge_connection<'g>(generation: &'g Generation, asked: &Asked<'g>) -> Judgement<'g> {
    let _ = (generation, asked);
    refused()
}

fn refused<'g>() -> Judgement<'g> {
    Judgement {
        route: None,
        backend: None,
        outcome: Err(Answer::Unserved("nothing is decided yet".to_owned())),
        allowed_by: None,
        backend_allowed_by: None,
        connection_allowed_by: None,
        dry_run: Vec::new(),
        connection_dry_run: Vec::new(),
        audit: Vec::new(),
    }
}
