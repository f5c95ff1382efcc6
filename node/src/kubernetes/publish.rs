//! Writes on each pod whether it is captured: the annotation that makes peers reach it through tunnels.
//!
//! It is there only while it is true. What is on a pod already is not written again.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::core::v1;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use proto::node::PodReport;
use serde_json::json;
use tokio::{sync::watch, time::sleep};
use tracing::{info, warn};

use super::pods::{ENABLED, REDIRECTION};
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

/// What is to be written on pods, where they say something else than is true. A pod that is not reported is not captured.
pub fn writes(published: &Published, reports: &[PodReport]) -> Vec<Write> {
    let captured = |(namespace, name): &Key, uid: &str| {
        let of = |report: &&PodReport| {
            report.namespace == *namespace && report.name == *name && report.uid == uid
        };
        reports.iter().find(of).is_some_and(|report| report.captured)
    };
    let all = published.iter().map(|(pod, (uid, says))| {
        let write = Write {
            pod: pod.clone(),
            uid: uid.clone(),
            captured: captured(pod, uid),
        };
        (write, *says)
    });
    all.filter(|(write, says)| write.captured != *says)
        .map(|(write, _)| write)
        .collect()
}

/// Writes until the agent ends.
pub async fn run(
    client: Client,
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
            failed |= !carry_out(&client, write).await;
        }
        tokio::select! {
            changed = reports.changed() => if changed.is_err() { return },
            changed = published.changed() => if changed.is_err() { return },
            () = sleep(RETRY), if failed => {}
        }
    }
}

async fn carry_out(client: &Client, write: &Write) -> bool {
    let (namespace, name) = &write.pod;
    let api: Api<v1::Pod> = Api::namespaced(client.clone(), namespace);
    let value = write.captured.then_some(ENABLED);
    // The uid makes sure that it is still this pod: another one of its name refuses.
    let patch = json!({"metadata": {"uid": write.uid, "annotations": {REDIRECTION: value}}});
    let patched = api
        .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
        .await;
    match patched {
        Ok(_) => {
            info!(namespace, pod = name, captured = write.captured, "published");
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
    fn a_pod_that_nobody_reports_is_not_captured() {
        assert_eq!(writes(&published("a", "1", true), &[]), write(false));
        assert_eq!(writes(&published("a", "1", false), &[]), []);
    }

    #[test]
    fn an_earlier_pod_of_the_same_name_says_nothing_of_this_one() {
        let reports = [report("a", "0", true)];
        assert_eq!(writes(&published("a", "1", false), &reports), []);
        assert_eq!(writes(&published("a", "1", true), &reports), write(false));
    }
}
