//! Where a backendRef leads.

use super::{super::Scope, tls::Tls};
use crate::{
    manifest::{Route, route::BackendRef},
    world::Key,
};

/// Why a reference leads nowhere.
pub(super) struct Unresolved {
    /// One word for programs (Gateway API, RouteConditionReason).
    pub(super) reason: &'static str,
    pub(super) message: String,
}

const GATEWAY: &str = "gateway.networking.k8s.io";

/// The service and its port.
pub(super) fn target(
    scope: Scope<'_>,
    route: &Route,
    reference: &BackendRef,
    tls: &Tls<'_>,
) -> Result<(Key, u16), Unresolved> {
    let fails = |reason, message: String| Err(Unresolved { reason, message });
    if !reference.is_service() {
        let kind = match reference.group.as_str() {
            "" => reference.kind.clone(),
            group => format!("{group}/{}", reference.kind),
        };
        return fails(
            "InvalidKind",
            format!("{kind} is not a kind that is served"),
        );
    }
    let own = &route.meta.namespace;
    let namespace = reference.namespace.as_ref().unwrap_or(own);
    let key = (namespace.clone(), reference.name.clone());
    let words = format!("Service {namespace}/{}", reference.name);
    // First, so that nobody can ask what there is in another namespace.
    if namespace != own && !is_granted(scope, route, &key) {
        let message = format!(
            "no ReferenceGrant of namespace {namespace} lets a {} of namespace {own} refer to {words}",
            route.kind.as_str()
        );
        return fails("RefNotPermitted", message);
    }
    let service = scope.world.services.get(&key);
    let Some(service) = service.filter(|service| scope.sees(&service.meta.namespace)) else {
        return fails("BackendNotFound", format!("{words} is not there"));
    };
    if service.external_name {
        let message = format!("{words} is a name for something outside");
        return fails("UnsupportedValue", message);
    }
    let number = reference.port.unwrap_or_default();
    let Some(port) = service.ports.iter().find(|it| it.port == number && !it.udp) else {
        return fails(
            "BackendNotFound",
            format!("{words} has no TCP port {number}"),
        );
    };
    if let Some(object) = tls.wanted(service, port) {
        let message = format!("{object} wants TLS to {words}, which is not served");
        return fails("UnsupportedProtocol", message);
    }
    Ok((key, number))
}

fn is_granted(scope: Scope<'_>, route: &Route, service: &Key) -> bool {
    let (namespace, name) = service;
    let mut grants = scope.world.reference_grants.values();
    grants.any(|grant| {
        let kind = route.kind.as_str();
        grant.meta.namespace == *namespace
            && grant.grants_service(GATEWAY, kind, &route.meta.namespace, name)
    })
}
