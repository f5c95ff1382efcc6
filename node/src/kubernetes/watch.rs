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
use tokio_stream::{Stream, StreamExt};
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

/// What a watch tells, of objects as they are read here.
enum Seen<T> {
    /// All that there are.
    All(Vec<T>),
    /// One that is new, or has changed.
    One(T),
    /// One that is gone, by namespace and name.
    Gone((String, String)),
}

async fn policies(client: Client, kind: Kind, changes: &Sender<Change>) {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(GROUP, "v1", kind.name()));
    let api = Api::<DynamicObject>::all_with(client, &resource);
    let events = watcher(api, watcher::Config::default()).default_backoff();
    // Where there is no such kind, it is tried again.
    let events = events.filter(|event| match event {
        Err(watcher::Error::InitialListFailed(kube::Error::Api(status))) => status.code != 404,
        _ => true,
    });
    let read = |it: DynamicObject| {
        let key = key(&it);
        let policy = policies::policy(kind, &key.0, it.annotations(), &it.data["spec"]);
        (key, policy)
    };
    let change = |seen| match seen {
        Seen::All(all) => {
            let all = all.into_iter();
            let all = all.filter_map(|(key, policy)| Some((key, policy?)));
            Change::Policies(kind, all.collect())
        }
        Seen::One((key, policy)) => Change::Policy(kind, key, policy),
        Seen::Gone(key) => Change::Policy(kind, key, None),
    };
    follow(kind.name(), events, read, change, changes).await;
}

async fn pods(client: Client, node: &str, changes: &Sender<Change>) {
    let own = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    let events = watcher(Api::<v1::Pod>::all(client), own).default_backoff();
    let change = |seen| match seen {
        Seen::All(all) => Change::Pods(all),
        Seen::One(pod) => Change::Pod(Box::new(pod)),
        Seen::Gone(key) => Change::PodGone(key),
    };
    follow("Pod", events, |pod| pod, change, changes).await;
}

async fn namespaces(client: Client, changes: &Sender<Change>) {
    let api = Api::<v1::Namespace>::all(client);
    let events = watcher(api, watcher::Config::default()).default_backoff();
    let read = |it: v1::Namespace| {
        let starts_plain = it.annotations().get(START).map(String::as_str) == Some(PLAIN);
        let labels = it.metadata.labels.clone().unwrap_or_default();
        let namespace = Namespace {
            labels,
            starts_plain,
        };
        (it.name_any(), namespace)
    };
    let change = |seen| match seen {
        Seen::All(all) => Change::Namespaces(all.into_iter().collect()),
        Seen::One((name, namespace)) => Change::Namespace(name, namespace),
        Seen::Gone((_, name)) => Change::NamespaceGone(name),
    };
    follow("Namespace", events, read, change, changes).await;
}

/// Tells what is watched of a kind; of a list that is under way each object is read as it comes.
async fn follow<K: ResourceExt, T>(
    kind: &str,
    events: impl Stream<Item = watcher::Result<Event<K>>>,
    read: impl Fn(K) -> T,
    change: impl Fn(Seen<T>) -> Change,
    changes: &Sender<Change>,
) {
    tokio::pin!(events);
    let mut all = Vec::new();
    while let Some(event) = events.next().await {
        let seen = match event {
            Ok(Event::Init) => {
                all.clear();
                continue;
            }
            Ok(Event::InitApply(it)) => {
                all.push(read(it));
                continue;
            }
            Ok(Event::InitDone) => Seen::All(std::mem::take(&mut all)),
            Ok(Event::Apply(it)) => Seen::One(read(it)),
            Ok(Event::Delete(it)) => Seen::Gone(key(&it)),
            Err(error) => {
                warn!(%error, kind, "cannot be watched: what is known of these objects stays");
                continue;
            }
        };
        if changes.send(change(seen)).await.is_err() {
            return;
        }
    }
}

fn key(it: &impl ResourceExt) -> (String, String) {
    (it.namespace().unwrap_or_default(), it.name_any())
}
