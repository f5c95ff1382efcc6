//! Whether the API server keeps every field of a policy that is read here. An older CustomResourceDefinition knows fewer, and
//! takes the others away as an object is written: what is left of a policy may let in whom it was to keep out.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use mesh::schema::lost;
use serde_json::Value;
use tokio_stream::StreamExt;

use crate::manifest::{self, Fault, Kind, UnservedKind};

/// Our own, by kind.
fn text(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::AuthorizationPolicy => Some(include_str!(
            "../../../deploy/helm/ambit/crds/authorizationpolicy.yaml"
        )),
        Kind::PeerAuthentication => Some(include_str!(
            "../../../deploy/helm/ambit/crds/peerauthentication.yaml"
        )),
        Kind::Unserved(UnservedKind::RequestAuthentication) => Some(include_str!(
            "../../../deploy/helm/ambit/crds/requestauthentication.yaml"
        )),
        _ => None,
    }
}

fn own(kind: Kind) -> Option<Value> {
    let documents = manifest::documents(text(kind)?);
    manifest::tree(documents.first()?).ok()
}

/// What the name of its CustomResourceDefinition is.
fn name(kind: Kind) -> String {
    format!("{}.{}", kind.plural(), kind.group())
}

/// What every object of a kind is refused for; `None` if all of its fields are kept, or if it is no policy.
pub async fn pruned(client: &Client, kind: Kind) -> Result<Option<Fault>, kube::Error> {
    if text(kind).is_none() {
        return Ok(None);
    }
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let served = api.get_opt(&name(kind)).await?;
    Ok(served.and_then(|served| fault(kind, &served)))
}

/// Until [`pruned`] would answer something else than this; never, for other kinds than policies.
pub async fn changed(client: &Client, kind: Kind, pruned: Option<&Fault>) {
    if text(kind).is_none() {
        return std::future::pending().await;
    }
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let named = format!("metadata.name={}", name(kind));
    let events = watcher(api, watcher::Config::default().fields(&named)).default_backoff();
    tokio::pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(served) | Event::InitApply(served)) => {
                if fault(kind, &served).as_ref() != pruned {
                    return;
                }
            }
            // That it is gone is seen by who watches its objects.
            Ok(Event::Init | Event::InitDone | Event::Delete(_)) => {}
            Err(error) => {
                tracing::warn!(kind = kind.as_str(), %error, "whether all of its fields are kept is not known")
            }
        }
    }
    std::future::pending().await
}

fn fault(kind: Kind, served: &CustomResourceDefinition) -> Option<Fault> {
    let served = serde_json::to_value(served).ok()?;
    let lost = lost(&own(kind)?, &served);
    if lost.is_empty() {
        return None;
    }
    let name = name(kind);
    let lost: Vec<_> = lost.into_iter().collect();
    Some(Fault {
        field: String::new(),
        reason: format!(
            "the API server may have taken parts of it away: its CustomResourceDefinition {name} does not know {}; update it: {}",
            lost.join(", "),
            mesh::schema::update(kind.plural().as_str())
        ),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn our_own_lose_nothing() {
        for kind in Kind::all() {
            if let Some(own) = own(kind) {
                assert_eq!(lost(&own, &own), BTreeSet::new());
            }
        }
        let policies = Kind::all().filter(|kind| kind.is_policy());
        assert!(policies.into_iter().all(|kind| own(kind).is_some()));
    }
}
