//! Writes on each pod whether it is captured: the annotation that makes peers reach it through tunnels.
//!
//! It is there only while it is true. What is on a pod already is not written again.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::core::v1;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use mesh::keys::Keys;
use proto::node::PodReport;
use serde_json::json;
use tokio::{sync::watch, time::sleep};
use tracing::{info, warn};

use super::pods::ENABLED;
use crate::{manifests::Key, report::Reports};

/// Until what could not be written is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// On each pod of this node, by its uid, whether it says that it is captured.
pub type Published = BTreeMap<Key, (String, bool)>;

/// What is to be written on one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    pod: Key,
    uid: String,
    captured: bool,
}

/// What is to be written on pods, where they say something else than is true. Of a pod without addresses the agent has not
/// seen the network namespace yet: what is written there stays.
pub fn writes(published: &Published, reports: &[PodReport]) -> Vec<Write> {
    let wrong = reports.iter().filter_map(|report| {
        let pod = (report.namespace.clone(), report.name.clone());
        let (uid, says) = published.get(&pod)?;
        let is_seen = report.uid == *uid && !report.addresses.is_empty();
        (is_seen && report.captured != *says).then(|| Write {
            pod,
            uid: uid.clone(),
            captured: report.captured,
        })
    });
    wrong.collect()
}

/// Writes until the agent ends.
pub async fn run(
    client: Client,
    keys: Keys,
    mut published: watch::Receiver<Published>,
    mut reports: watch::Receiver<Reports>,
) {
    loop {
        let list = match &*reports.borrow_and_update() {
            // Before the first look nobody knows what is true.
            None => Vec::new(),
            Some(reports) => writes(&published.borrow_and_update(), reports),
        };
        let mut failed = false;
        for write in &list {
            failed |= !carry_out(&client, keys, write).await;
        }
        tokio::select! {
            changed = reports.changed() => if changed.is_err() { return },
            changed = published.changed() => if changed.is_err() { return },
            () = sleep(RETRY), if failed => {}
        }
    }
}

async fn carry_out(client: &Client, keys: Keys, write: &Write) -> bool {
    let (namespace, name) = &write.pod;
    let api: Api<v1::Pod> = Api::namespaced(client.clone(), namespace);
    let value = write.captured.then_some(ENABLED);
    // The uid makes sure that it is still this pod: another one of its name refuses.
    let patch = json!({"metadata": {"uid": write.uid, "annotations": {keys.redirection(): value}}});
    let patched = api
        .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
        .await;
    match patched {
        Ok(_) => {
            info!(
                namespace,
                pod = name,
                captured = write.captured,
                "published"
            );
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

#[cfg(test)]
mod tests {
    use super::*;

    fn report(name: &str, uid: &str, captured: bool) -> PodReport {
        PodReport {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            captured,
            addresses: vec![vec![10, 0, 0, 1]],
            ..PodReport::default()
        }
    }

    fn published(name: &str, uid: &str, says: bool) -> Published {
        let key = ("shop".to_owned(), name.to_owned());
        [(key, (uid.to_owned(), says))].into()
    }

    fn write(captured: bool) -> Vec<Write> {
        let pod = ("shop".to_owned(), "a".to_owned());
        let uid = "1".to_owned();
        vec![Write { pod, uid, captured }]
    }

    #[test]
    fn what_is_true_and_not_yet_said_is_written_and_nothing_else() {
        for (says, is) in [(false, true), (true, false)] {
            let list = writes(&published("a", "1", says), &[report("a", "1", is)]);
            assert_eq!(list, write(is), "says {says}, is {is}");
        }
        for both in [false, true] {
            let list = writes(&published("a", "1", both), &[report("a", "1", both)]);
            assert_eq!(list, [], "{both}");
        }
    }

    #[test]
    fn on_a_pod_that_the_agent_has_not_seen_stays_what_is_written() {
        assert_eq!(writes(&published("a", "1", true), &[]), []);
        let mut unseen = report("a", "1", false);
        unseen.addresses.clear();
        assert_eq!(writes(&published("a", "1", true), &[unseen]), []);
    }

    #[test]
    fn an_earlier_pod_of_the_same_name_says_nothing_of_this_one() {
        let reports = [report("a", "0", true)];
        assert_eq!(writes(&published("a", "1", false), &reports), []);
        assert_eq!(writes(&published("a", "1", true), &reports), []);
    }
}
