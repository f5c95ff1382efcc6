//! Writes on each pod whether it is captured: the annotation that makes peers reach it through tunnels, and the condition that
//! says why, or why not.
//!
//! The annotation is there only while it is true. What is on a pod already is not written again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use k8s_openapi::{api::core::v1, jiff::Timestamp};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use mesh::keys::Keys;
use serde_json::{Value, json};
use tokio::{sync::watch, time::sleep};
use tracing::{info, warn};

use super::{
    condition::{self, Condition, GRACE, TYPE},
    news::{Item, News},
    pods::ENABLED,
};
use crate::{
    manifests::Key,
    report::{Report, Reports},
};

/// Until what could not be written is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How often a condition is written again of which only the message is another.
const MESSAGES: Duration = Duration::from_secs(10);

/// On each pod of this node, what it says.
pub type Published = BTreeMap<Key, Says>;

/// What is written on a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Says {
    /// Which one it is.
    pub uid: String,
    /// The annotation is there.
    pub captured: bool,
    /// The condition.
    pub condition: Option<Condition>,
}

/// What is to be written on one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    pod: Key,
    uid: String,
    what: What,
}

/// A part of what is written on a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Annotation(bool),
    Condition {
        new: Option<Condition>,
        /// It is true now and was not, or the other way round.
        turned: bool,
    },
}

/// When conditions that are to change were first seen to be wrong, and when each was written last.
#[derive(Debug, Default)]
pub struct Times(BTreeMap<Key, Time>);

#[derive(Clone, Copy, Debug)]
struct Time {
    wrong: Option<Instant>,
    written: Option<Instant>,
}

/// What is to be written on pods, where they say something else than is true. Of a pod without addresses the agent has not
/// seen the network namespace yet: what is written there stays, but that it is not captured.
pub fn writes(
    published: &Published,
    reports: &[Report],
    times: &mut Times,
    now: Instant,
) -> Vec<Write> {
    let key = |report: &Report| (report.pod.namespace.clone(), report.pod.name.clone());
    let known: BTreeSet<Key> = reports.iter().map(key).collect();
    times.0.retain(|key, _| known.contains(key));
    let mut list = Vec::new();
    for report in reports {
        let pod = key(report);
        let Some(says) = published
            .get(&pod)
            .filter(|says| says.uid == report.pod.uid)
        else {
            continue;
        };
        let is_seen = !report.is_hidden && !report.pod.addresses.is_empty();
        let parts = [
            (is_seen && report.pod.captured != says.captured)
                .then_some(What::Annotation(report.pod.captured)),
            condition(report, says, is_seen, times.of(&pod), now),
        ];
        list.extend(parts.into_iter().flatten().map(|what| Write {
            pod: pod.clone(),
            uid: says.uid.clone(),
            what,
        }));
    }
    list
}

impl Times {
    fn of(&mut self, pod: &Key) -> &mut Time {
        let none = Time {
            wrong: None,
            written: None,
        };
        self.0.entry(pod.clone()).or_insert(none)
    }

    /// Something is to be written, but not yet.
    fn any_waits(&self) -> bool {
        self.0.values().any(|time| time.wrong.is_some())
    }
}

/// What is to be written of a condition now.
fn condition(
    report: &Report,
    says: &Says,
    is_seen: bool,
    time: &mut Time,
    now: Instant,
) -> Option<What> {
    let new = condition::of(report);
    // While it leaves, peers still take it for captured.
    let leaves = new.is_none() && report.pod.captured;
    let hides = !is_seen && says.captured && new.is_some();
    if new == says.condition || leaves || hides {
        time.wrong = None;
        return None;
    }
    let was = says.condition.as_ref().map(|it| it.is_true);
    let turned = new.as_ref().map(|it| it.is_true) != was;
    let is_on_its_way = new.as_ref().is_some_and(|it| !it.is_true);
    let since = |then: Option<Instant>| then.map(|then| now.duration_since(then));
    let wrong = now.duration_since(*time.wrong.get_or_insert(now));
    let waits = (is_on_its_way && wrong < GRACE)
        || (!turned && since(time.written).is_some_and(|since| since < MESSAGES));
    if waits {
        return None;
    }
    *time = Time {
        wrong: None,
        written: Some(now),
    };
    Some(What::Condition { new, turned })
}

/// Writes until the agent ends.
pub async fn run(
    client: Client,
    keys: Keys,
    mut published: watch::Receiver<Published>,
    mut reports: watch::Receiver<Reports>,
    news: News,
) {
    let mut times = Times::default();
    loop {
        let list = match &*reports.borrow_and_update() {
            // Before the first look nobody knows what is true.
            None => Vec::new(),
            Some(reports) => {
                let now = Instant::now();
                writes(&published.borrow_and_update(), reports, &mut times, now)
            }
        };
        let mut failed = times.any_waits();
        for write in &list {
            failed |= !carry_out(&client, keys, write, &news).await;
        }
        tokio::select! {
            changed = reports.changed() => if changed.is_err() { return },
            changed = published.changed() => if changed.is_err() { return },
            () = sleep(RETRY), if failed => {}
        }
    }
}

async fn carry_out(client: &Client, keys: Keys, write: &Write, news: &News) -> bool {
    let (namespace, name) = &write.pod;
    let api: Api<v1::Pod> = Api::namespaced(client.clone(), namespace);
    let none = PatchParams::default();
    // The uid makes sure that it is still this pod: another one of its name refuses.
    let patched = match &write.what {
        What::Annotation(captured) => {
            let value = captured.then_some(ENABLED);
            let annotations = json!({keys.redirection(): value});
            let patch = json!({"metadata": {"uid": write.uid, "annotations": annotations}});
            api.patch(name, &none, &Patch::Merge(&patch)).await
        }
        What::Condition { new, turned } => {
            let patch = status(&write.uid, new.as_ref(), *turned);
            api.patch_status(name, &none, &Patch::Strategic(&patch))
                .await
        }
    };
    match patched {
        Ok(_) => {
            info!(namespace, pod = name, what = ?write.what, "published");
            if let What::Condition { new: Some(new), .. } = &write.what
                && !new.is_true
            {
                news.tell(
                    &write.pod,
                    &write.uid,
                    Item::NotCaptured(new.message.clone()),
                );
            }
            true
        }
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409 | 422) => {
            // It is gone, or another one: the watch says so.
            true
        }
        Err(error) => {
            warn!(namespace, pod = name, %error, "whether the pod is captured cannot be written on it");
            false
        }
    }
}

/// The change of a pod's status: of its conditions, which are known by their types, this one.
pub(super) fn status(uid: &str, new: Option<&Condition>, turned: bool) -> Value {
    let condition = match new {
        None => json!({"type": TYPE, "$patch": "delete"}),
        Some(Condition {
            is_true,
            reason,
            message,
        }) => {
            let status = if *is_true { "True" } else { "False" };
            let mut condition =
                json!({"type": TYPE, "status": status, "reason": reason, "message": message});
            if turned {
                condition["lastTransitionTime"] = json!(Timestamp::now());
            }
            condition
        }
    };
    json!({"metadata": {"uid": uid}, "status": {"conditions": [condition]}})
}

#[cfg(test)]
mod tests;
