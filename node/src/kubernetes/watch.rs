//! Lists and watches this node's pods, and all namespaces. A thin driver: [`pods`](super::pods) says what a change means.

use k8s_openapi::api::core::v1;
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DynamicObject, GroupVersionKind},
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use tokio::sync::mpsc::Sender;
use tokio_stream::StreamExt;
use tracing::warn;

use super::{
    pods::{Change, Namespace, PLAIN, START},
    policies::{self, Kind},
};

/// Where policies are.
const GROUP: &str = "security.istio.io";

/// Watches until `changes` is closed.
pub async fn watch(client: Client, node: String, changes: Sender<Change>) {
    tokio::join!(
        pods(client.clone(), &node, &changes),
        namespaces(client.clone(), &changes),
        policies(client.clone(), Kind::Authorization, &changes),
        policies(client, Kind::Peer, &changes),
    );
}

async fn policies(client: Client, kind: Kind, changes: &Sender<Change>) {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(GROUP, "v1", kind.name()));
    let api = Api::<DynamicObject>::all_with(client, &resource);
    let events = watcher(api, watcher::Config::default()).default_backoff();
    tokio::pin!(events);
    let key = |it: &DynamicObject| (it.namespace().unwrap_or_default(), it.name_any());
    let read = |it: &DynamicObject| {
        let namespace = it.namespace().unwrap_or_default();
        policies::policy(kind, &namespace, it.annotations(), &it.data["spec"])
    };
    let mut all = std::collections::BTreeMap::new();
    while let Some(event) = events.next().await {
        let change = match event {
            Ok(Event::Init) => {
                all.clear();
                continue;
            }
            Ok(Event::InitApply(it)) => {
                all.extend(read(&it).map(|policy| (key(&it), policy)));
                continue;
            }
            Ok(Event::InitDone) => Change::Policies(kind, std::mem::take(&mut all)),
            Ok(Event::Apply(it)) => Change::Policy(kind, key(&it), read(&it)),
            Ok(Event::Delete(it)) => Change::Policy(kind, key(&it), None),
            // There is no such kind: it is tried again.
            Err(watcher::Error::InitialListFailed(kube::Error::Api(status)))
                if status.code == 404 =>
            {
                continue;
            }
            Err(error) => {
                warn!(%error, kind = kind.name(), "policies cannot be watched: what is known of them stays");
                continue;
            }
        };
        if changes.send(change).await.is_err() {
            return;
        }
    }
}

async fn pods(client: Client, node: &str, changes: &Sender<Change>) {
    let own = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    let events = watcher(Api::<v1::Pod>::all(client), own).default_backoff();
    tokio::pin!(events);
    let mut all = Vec::new();
    while let Some(event) = events.next().await {
        let change = match event {
            Ok(Event::Init) => {
                all.clear();
                continue;
            }
            Ok(Event::InitApply(pod)) => {
                all.push(pod);
                continue;
            }
            Ok(Event::InitDone) => Change::Pods(std::mem::take(&mut all)),
            Ok(Event::Apply(pod)) => Change::Pod(Box::new(pod)),
            Ok(Event::Delete(pod)) => {
                Change::PodGone((pod.namespace().unwrap_or_default(), pod.name_any()))
            }
            Err(error) => {
                warn!(%error, "pods cannot be watched: what is known of them stays");
                continue;
            }
        };
        if changes.send(change).await.is_err() {
            return;
        }
    }
}

async fn namespaces(client: Client, changes: &Sender<Change>) {
    let events = watcher(
        Api::<v1::Namespace>::all(client),
        watcher::Config::default(),
    )
    .default_backoff();
    tokio::pin!(events);
    let seen = |it: &v1::Namespace| Namespace {
        labels: it.metadata.labels.clone().unwrap_or_default(),
        starts_plain: it.annotations().get(START).map(String::as_str) == Some(PLAIN),
    };
    let mut all = std::collections::BTreeMap::new();
    while let Some(event) = events.next().await {
        let change = match event {
            Ok(Event::Init) => {
                all.clear();
                continue;
            }
            Ok(Event::InitApply(it)) => {
                all.insert(it.name_any(), seen(&it));
                continue;
            }
            Ok(Event::InitDone) => Change::Namespaces(std::mem::take(&mut all)),
            Ok(Event::Apply(it)) => Change::Namespace(it.name_any(), seen(&it)),
            Ok(Event::Delete(it)) => Change::NamespaceGone(it.name_any()),
            Err(error) => {
                warn!(%error, "namespaces cannot be watched: what is known of them stays");
                continue;
            }
        };
        if changes.send(change).await.is_err() {
            return;
        }
    }
}
