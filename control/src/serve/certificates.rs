//! The certificate service: who may ask is decided by [`placements`](crate::placements), what is signed by
//! [`ca`](crate::ca); every answer, yes or no, is logged.

use std::{sync::Arc, time::SystemTime};

use prost_types::value::Kind as Value;
use proto::auth::{IstioCertificateRequest, IstioCertificateResponse};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tonic::{Request, Response, Status};

use super::{Caller, Hub};
use crate::{
    ca, ca::Issued, placements,
    stubs::certificate::istio_certificate_service_server::IstioCertificateService,
    subject::Subject,
};

pub(super) struct Certificates(pub(super) Arc<Hub>);

#[tonic::async_trait]
impl IstioCertificateService for Certificates {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let hub = &self.0;
        let caller = hub.caller(&request, "certificate").await?;
        let request = request.into_inner();
        let asked = impersonated(&request);
        let shown: String = asked
            .unwrap_or("none")
            .chars()
            .filter(|c| !c.is_control())
            .take(256)
            .collect();
        match sign(hub, &caller, asked, &request) {
            Ok(issued) => {
                let until = OffsetDateTime::from(issued.expires)
                    .format(&Rfc3339)
                    .unwrap_or_default();
                tracing::info!(
                    identity = shown,
                    %caller,
                    serial = issued.serial,
                    not_after = until,
                    "issued a certificate"
                );
                hub.metrics.issued(true);
                let cert_chain = vec![issued.leaf, hub.authority.roots().to_owned()];
                Ok(Response::new(IstioCertificateResponse { cert_chain }))
            }
            Err(status) => {
                tracing::warn!(
                    identity = shown,
                    %caller,
                    reason = status.message(),
                    "refused a certificate"
                );
                hub.metrics.issued(false);
                Err(status)
            }
        }
    }
}

fn sign(
    hub: &Hub,
    caller: &Caller,
    asked: Option<&str>,
    request: &IstioCertificateRequest,
) -> Result<Issued, Status> {
    let mesh = Arc::clone(&hub.mesh.borrow());
    let identity = match caller {
        Caller::Subject(Subject::Node(node)) => {
            mesh.placements.may_ask(node, asked, &hub.trust_domain)
        }
        Caller::Subject(waypoint @ Subject::Waypoint(gateway)) => {
            let is_there = mesh.snapshot.knows(waypoint);
            placements::own_identity(gateway, is_there, asked, &hub.trust_domain)
        }
        Caller::Account(account) => {
            placements::own_identity(account, true, asked, &hub.trust_domain)
        }
    };
    let identity = identity.map_err(|refused| Status::permission_denied(refused.to_string()))?;
    let signed = ca::life(request.validity_duration, hub.longest_life).and_then(|life| {
        hub.authority
            .sign(&request.csr, identity, life, SystemTime::now())
    });
    signed.map_err(|refused| match refused.is_callers_fault() {
        true => Status::invalid_argument(refused.to_string()),
        false => Status::internal(refused.to_string()),
    })
}

/// The identity that a caller names: a node proxy does so in a pod's place.
fn impersonated(request: &IstioCertificateRequest) -> Option<&str> {
    match request
        .metadata
        .as_ref()?
        .fields
        .get("ImpersonatedIdentity")?
        .kind
        .as_ref()?
    {
        Value::StringValue(identity) => Some(identity),
        _ => None,
    }
}
