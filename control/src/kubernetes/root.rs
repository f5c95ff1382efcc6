//! The root of all identities, in a Secret that every replica reads; and its certificate, in a ConfigMap in every namespace
//! for those who have to trust it.

use std::{collections::BTreeMap, fmt, time::SystemTime};

use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Namespace, Secret},
};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams, PostParams},
    core::ObjectMeta,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use mesh::keys::Keys;
use serde_json::json;
use tokio_stream::StreamExt;

use crate::ca::{Authority, BadRoot, ROOT_CERT, ROOT_KEY};

/// The Secret with the root's key.
pub const SECRET: &str = "ambit-ca";

const MANAGER: &str = "ambit-control";

/// Why there is no root.
#[derive(Debug)]
pub enum NoRoot {
    /// The API server.
    Api(Box<kube::Error>),
    /// The Secret's content.
    Bad(BadRoot),
}

impl fmt::Display for NoRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Api(error) => write!(f, "the Secret {SECRET} cannot be had: {error}"),
            Self::Bad(bad) => write!(
                f,
                "the Secret {SECRET}: {bad}; restore it, or, if it is lost, delete the Secret to start with a new root"
            ),
        }
    }
}

impl std::error::Error for NoRoot {}

/// The root that the Secret keeps; if there is none, a new one. Of two replicas that start at once the first one's stays.
pub async fn open(
    client: &Client,
    namespace: &str,
    trust_domain: &str,
    now: SystemTime,
) -> Result<Authority, NoRoot> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let failed = |error| NoRoot::Api(Box::new(error));
    if let Some(secret) = api.get_opt(SECRET).await.map_err(failed)? {
        return load(&secret);
    }
    let (key, certificate) = Authority::make(trust_domain, now).map_err(NoRoot::Bad)?;
    let part = |text: String| ByteString(text.into_bytes());
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(SECRET.to_owned()),
            ..ObjectMeta::default()
        },
        data: Some(
            [
                (ROOT_KEY.to_owned(), part(key)),
                (ROOT_CERT.to_owned(), part(certificate)),
            ]
            .into(),
        ),
        ..Secret::default()
    };
    match api.create(&PostParams::default(), &secret).await {
        Ok(secret) => {
            tracing::info!(secret = SECRET, "made a new root");
            load(&secret)
        }
        Err(kube::Error::Api(status)) if status.code == 409 => {
            load(&api.get(SECRET).await.map_err(failed)?)
        }
        Err(error) => Err(failed(error)),
    }
}

fn load(secret: &Secret) -> Result<Authority, NoRoot> {
    let none = BTreeMap::new();
    let data = secret.data.as_ref().unwrap_or(&none);
    let part = |part: &'static str| {
        let missing = || {
            NoRoot::Bad(BadRoot {
                part,
                reason: "is missing".to_owned(),
            })
        };
        data.get(part)
            .map(|bytes| bytes.0.clone())
            .ok_or_else(missing)
    };
    Authority::load(&part(ROOT_KEY)?, part(ROOT_CERT)?).map_err(NoRoot::Bad)
}

/// Keeps the roots in every namespace, in the ConfigMap [`Keys::root_certificate`], until the task ends.
pub async fn tell(client: Client, keys: Keys, roots: String) {
    let namespaces = watcher(
        Api::<Namespace>::all(client.clone()),
        watcher::Config::default(),
    );
    let namespaces = namespaces.default_backoff();
    tokio::pin!(namespaces);
    while let Some(event) = namespaces.next().await {
        match event {
            Ok(Event::Apply(namespace) | Event::InitApply(namespace)) => {
                let ends = namespace.metadata.deletion_timestamp.is_some();
                if !ends
                    && let Err(error) = put(
                        &client,
                        keys.root_certificate(),
                        &namespace.name_any(),
                        &roots,
                    )
                    .await
                {
                    tracing::warn!(namespace = namespace.name_any(), %error, "is not given the root certificate");
                }
            }
            Ok(Event::Init | Event::InitDone | Event::Delete(_)) => {}
            Err(error) => tracing::warn!(%error, "namespaces cannot be watched"),
        }
    }
}

async fn put(client: &Client, name: &str, namespace: &str, roots: &str) -> Result<(), kube::Error> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let there = api.get_opt(name).await?;
    let said = there.and_then(|it| it.data?.get(ROOT_CERT).cloned());
    if said.as_deref() == Some(roots) {
        return Ok(());
    }
    let wanted = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "ambit"}},
        "data": {ROOT_CERT: roots},
    });
    let apply = PatchParams::apply(MANAGER).force();
    api.patch(name, &apply, &Patch::Apply(&wanted))
        .await
        .map(drop)
}
