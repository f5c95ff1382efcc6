//! Tells people what happened to a pod: Events beside it, one for each occurrence. What cannot be told is in the log.

use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::{
    agent::{Cut, Why},
    manifests::Key,
};

/// Who tells.
const REPORTER: &str = "ambit.dev/node";
/// The longest note that the API server takes, in bytes.
const LONGEST: usize = 1024;
/// What is told later is dropped while so much waits.
const AT_ONCE: usize = 256;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// The pod is in the mesh and not captured, and why.
    NotCaptured(String),
    /// Connections were cut.
    Cut(usize, Why),
}

/// Where to tell it.
#[derive(Clone, Debug)]
pub struct News(mpsc::Sender<(Key, String, Item)>);

impl News {
    /// Begins to tell an API server what happens on a node.
    pub fn new(client: Client, node: String) -> Self {
        let (sender, mut items) = mpsc::channel(AT_ONCE);
        tokio::spawn(async move {
            while let Some((pod, uid, item)) = items.recv().await {
                tell(&client, &node, &pod, uid, &item).await;
            }
        });
        Self(sender)
    }

    /// Something happened to the pod of this uid.
    pub fn tell(&self, pod: &Key, uid: &str, item: Item) {
        let (namespace, name) = pod;
        if self
            .0
            .try_send((pod.clone(), uid.to_owned(), item))
            .is_err()
        {
            warn!(
                namespace,
                pod = name,
                "too much happens to tell it all as Events"
            );
        }
    }

    /// Connections were cut.
    pub fn cut(&self, cut: &Cut) {
        if cut.connections > 0 || cut.why == Why::Left {
            self.tell(&cut.pod, &cut.uid, Item::Cut(cut.connections, cut.why));
        }
    }
}

impl Item {
    /// Kind, reason and note of the event.
    fn said(&self) -> (&'static str, &'static str, String) {
        match self {
            Self::NotCaptured(why) => {
                let why = if why.is_empty() {
                    "nobody knows why"
                } else {
                    why
                };
                (
                    "Warning",
                    "NotCaptured",
                    format!("the pod is in the mesh and not captured: {why}"),
                )
            }
            Self::Cut(count, Why::Judged) => (
                "Normal",
                "ConnectionsCut",
                format!(
                    "{}, open since before the pod was captured, because a policy is for it",
                    were_cut(*count)
                ),
            ),
            Self::Cut(count, Why::Late) => (
                "Normal",
                "ConnectionsCut",
                format!(
                    "{}, open since before the pod was captured, because they may not last longer outside of the mesh",
                    were_cut(*count)
                ),
            ),
            Self::Cut(count, Why::Left) => (
                "Normal",
                "LeftMesh",
                format!(
                    "the pod has left the mesh; {} that went through it",
                    were_cut(*count)
                ),
            ),
        }
    }
}

fn were_cut(count: usize) -> String {
    match count {
        1 => "1 connection was cut".to_owned(),
        _ => format!("{count} connections were cut"),
    }
}

async fn tell(client: &Client, node: &str, (namespace, name): &Key, uid: String, item: &Item) {
    let (kind, reason, mut note) = item.said();
    info!(namespace, pod = name, reason, note);
    let mut end = LONGEST.min(note.len());
    while !note.is_char_boundary(end) {
        end -= 1;
    }
    note.truncate(end);
    let now = Timestamp::now();
    let event = Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{:x}", now.as_nanosecond())),
            namespace: Some(namespace.clone()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(now)),
        reporting_controller: Some(REPORTER.to_owned()),
        reporting_instance: Some(node.to_owned()),
        action: Some("Capture".to_owned()),
        reason: Some(reason.to_owned()),
        type_: Some(kind.to_owned()),
        note: Some(note),
        regarding: Some(ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(namespace.clone()),
            name: Some(name.clone()),
            uid: Some(uid),
            ..ObjectReference::default()
        }),
        ..Event::default()
    };
    let api: Api<Event> = Api::namespaced(client.clone(), namespace);
    if let Err(error) = api.create(&PostParams::default(), &event).await {
        warn!(namespace, pod = name, %error, "an Event cannot be written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_says_what_was_cut_and_why() {
        for (item, expected) in [
            (
                Item::Cut(1, Why::Left),
                "the pod has left the mesh; 1 connection was cut that went through it",
            ),
            (
                Item::Cut(0, Why::Left),
                "the pod has left the mesh; 0 connections were cut that went through it",
            ),
            (
                Item::Cut(2, Why::Judged),
                "2 connections were cut, open since before the pod was captured, because a policy is for it",
            ),
            (
                Item::NotCaptured("no room".to_owned()),
                "the pod is in the mesh and not captured: no room",
            ),
        ] {
            assert_eq!(item.said().2, expected);
        }
    }
}
