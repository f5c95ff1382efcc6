//! Lists and watches every kind that the mesh acts on, and tells of each change. A thin driver: [`objects`](super::objects)
//! says what a change means.
//!
//! A kind that the API server does not serve, because nobody has installed it, has no objects; it is asked for now and
//! then. A watch that breaks goes on where it was, and one that is too old (410) begins with a new list.

use std::{fmt, time::Duration};

use kube::{
    Api, Client,
    core::{ApiResource, Status},
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use mesh::keys::Keys;
use serde_json::Value;
use tokio::{sync::mpsc::Sender, task::JoinSet, time::sleep};
use tokio_stream::StreamExt;

use super::{
    object::Object,
    objects::{Change, Stored},
    schema,
};
use crate::manifest::{self, Fault, Kind, ObjectRef};

/// How often a kind is asked for that is not served.
const ABSENT: Duration = Duration::from_secs(5);

/// Until an API server that does not answer is asked again what it serves.
const RETRY: Duration = Duration::from_secs(1);

/// Which objects of a kind are watched, and under which names they are read.
#[derive(Clone, Debug)]
pub struct Scope {
    root_namespace: String,
    keys: Keys,
}

impl Scope {
    /// All of them; of ConfigMaps only that which configures the mesh of this root namespace.
    pub fn new(root_namespace: &str, keys: Keys) -> Self {
        Self {
            keys,
            root_namespace: root_namespace.to_owned(),
        }
    }

    fn of(
        &self,
        client: &Client,
        kind: Kind,
        resource: &ApiResource,
    ) -> (Api<Object>, watcher::Config) {
        let config = watcher::Config::default();
        if kind == Kind::ConfigMap {
            let api = Api::namespaced_with(client.clone(), &self.root_namespace, resource);
            let named = format!("metadata.name={}", manifest::mesh::NAME);
            return (api, config.fields(&named));
        }
        (Api::all_with(client.clone(), resource), config)
    }
}

/// Watches all kinds until `changes` is closed.
pub async fn watch(client: Client, scope: Scope, changes: Sender<Change>) {
    let mut kinds = JoinSet::new();
    for kind in Kind::all() {
        kinds.spawn(follow(client.clone(), scope.clone(), kind, changes.clone()));
    }
    drop(changes);
    while kinds.join_next().await.is_some() {}
}

/// The receiver is gone: nobody wants to know any more.
struct Closed;

async fn follow(client: Client, scope: Scope, kind: Kind, changes: Sender<Change>) {
    let mut was_served = None;
    loop {
        let pause = match looked_up(&client, kind).await {
            Ok(Some((resource, pruned))) => {
                if was_served == Some(false) {
                    tracing::info!(kind = kind.as_str(), "is served now");
                }
                was_served = Some(true);
                if let Some(fault) = &pruned {
                    tracing::error!(kind = kind.as_str(), reason = %fault, "every policy of this kind denies");
                }
                let (what, keys) = (scope.of(&client, kind, &resource), scope.keys);
                let pruned = pruned.as_ref();
                let ended = tokio::select! {
                    ended = objects(what, kind, keys, &resource, pruned, &changes) => ended,
                    () = schema::changed(&client, kind, pruned) => Ok(()),
                };
                if let Err(Closed) = ended {
                    return;
                }
                Duration::ZERO
            }
            Ok(None) => {
                if was_served != Some(false) {
                    tracing::info!(kind = kind.as_str(), "is not served by this API server");
                    if changes.send(Change::All(kind, Vec::new())).await.is_err() {
                        return;
                    }
                }
                was_served = Some(false);
                ABSENT
            }
            Err(error) => {
                unwell(kind, &error);
                RETRY
            }
        };
        tokio::select! {
            () = sleep(pause) => {}
            () = changes.closed() => return,
        }
    }
}

/// Under which version a kind is served, if it is, and what all of its objects are refused for.
async fn looked_up(
    client: &Client,
    kind: Kind,
) -> Result<Option<(ApiResource, Option<Fault>)>, kube::Error> {
    match served(client, kind).await? {
        None => Ok(None),
        Some(resource) => Ok(Some((resource, schema::pruned(client, kind).await?))),
    }
}

/// Tells of the objects of a kind, until it is not served any more.
async fn objects(
    (api, config): (Api<Object>, watcher::Config),
    kind: Kind,
    keys: Keys,
    resource: &ApiResource,
    pruned: Option<&Fault>,
    changes: &Sender<Change>,
) -> Result<(), Closed> {
    let read = |object| {
        let stored = read(kind, keys, resource, object)?;
        Some(match pruned {
            Some(fault) => stored.refused_for(fault),
            None => stored,
        })
    };
    let events = watcher(api, config).default_backoff();
    tokio::pin!(events);
    let mut all = Vec::new();
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = changes.closed() => return Err(Closed),
        };
        let change = match event {
            None => return Ok(()),
            Some(Ok(Event::Init)) => {
                all.clear();
                None
            }
            Some(Ok(Event::InitApply(object))) => {
                all.extend(read(object));
                None
            }
            Some(Ok(Event::InitDone)) => Some(Change::All(kind, std::mem::take(&mut all))),
            Some(Ok(Event::Apply(object))) => {
                let reference = reference(kind, &object);
                let stored = read(object).map(|stored| Change::Stored(Box::new(stored)));
                // A ConfigMap may stop being the one that configures the mesh.
                stored.or_else(|| reference.map(Change::Gone))
            }
            Some(Ok(Event::Delete(object))) => reference(kind, &object).map(Change::Gone),
            Some(Err(error)) if is_absent(&error) => return Ok(()),
            Some(Err(error)) => {
                unwell(kind, &error);
                None
            }
        };
        if let Some(change) = change {
            changes.send(change).await.map_err(|_| Closed)?;
        }
    }
}

fn unwell(kind: Kind, error: &dyn fmt::Display) {
    tracing::warn!(kind = kind.as_str(), %error, "cannot be watched: what is known of it stays in force");
}

fn reference(kind: Kind, object: &Object) -> Option<ObjectRef> {
    let (namespace, name) = object.name()?;
    Some(ObjectRef::new(kind, namespace, name))
}

fn read(kind: Kind, keys: Keys, resource: &ApiResource, object: Object) -> Option<Stored> {
    let (mut tree, deep) = object.into_parts();
    for said in ["labels", "annotations"] {
        if let Some(Value::Object(map)) = tree.pointer_mut(&format!("/metadata/{said}")) {
            translate(keys, map);
        }
    }
    if let Value::Object(fields) = &mut tree {
        // Items of a list do not say what they are.
        fields.insert("apiVersion".into(), resource.api_version.as_str().into());
        fields.insert("kind".into(), resource.kind.as_str().into());
    }
    let stored = Stored::read(kind, &tree)?;
    Some(match &deep {
        Some(fault) => stored.refused_for(fault),
        None => stored,
    })
}

fn translate(keys: Keys, map: &mut serde_json::Map<String, Value>) {
    let text = |value: Value| value.as_str().unwrap_or_default().to_owned();
    let all = std::mem::take(map).into_iter();
    let mut said = all.map(|(key, value)| (key, text(value))).collect();
    keys.translate(&mut said);
    map.extend(said.into_iter().map(|(key, value)| (key, value.into())));
}

/// Under which version a kind is served, if it is: the first that we know.
async fn served(client: &Client, kind: Kind) -> Result<Option<ApiResource>, kube::Error> {
    let group = kind.group();
    for version in kind.versions() {
        let api_version = match group {
            "" => (*version).to_owned(),
            _ => format!("{group}/{version}"),
        };
        let listed = match group {
            "" => client.list_core_api_resources(&api_version).await,
            _ => client.list_api_group_resources(&api_version).await,
        };
        let listed = match listed {
            Ok(listed) => listed.resources,
            Err(kube::Error::Api(status)) if is_not_found(&status) => continue,
            Err(error) => return Err(error),
        };
        let is_whole = |name: &str| !name.contains('/');
        let found = listed
            .into_iter()
            .find(|it| it.kind == kind.as_str() && is_whole(&it.name));
        if let Some(found) = found {
            return Ok(Some(ApiResource {
                group: group.to_owned(),
                version: (*version).to_owned(),
                api_version,
                kind: kind.as_str().to_owned(),
                plural: found.name,
            }));
        }
    }
    Ok(None)
}

fn is_not_found(status: &Status) -> bool {
    status.code == 404
}

/// Whether a kind is not served any more.
fn is_absent(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => is_not_found(status),
        watcher::Error::WatchError(status) => is_not_found(status),
        _ => false,
    }
}
