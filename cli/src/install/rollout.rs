//! How far the parts of the mesh have come up, from their Deployments, DaemonSets and pods. Pure.

use std::fmt;

use serde_json::Value;

/// The parts: what they are called, and which object runs them.
const PARTS: [(&str, &str, &str); 3] = [
    ("control plane", "Deployment", "ambit-control"),
    ("ztunnel", "DaemonSet", "ztunnel"),
    ("node agent", "DaemonSet", "ambit-node"),
];

/// One part of the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// What it is called.
    pub(crate) what: &'static str,
    /// `daemonset/ztunnel`.
    pub(crate) object: String,
    /// Whether there is such an object.
    pub(crate) exists: bool,
    /// How many pods of the newest version are ready.
    pub(crate) ready: u64,
    /// How many there have to be.
    pub(crate) wanted: u64,
    /// Whether the counts are of the newest version, and no pod of an older one is left.
    settled: bool,
}

impl Part {
    /// Whether all of it runs.
    pub(crate) fn is_rolled_out(&self) -> bool {
        self.settled && self.wanted > 0 && self.ready == self.wanted
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.what, self.ready, self.wanted)
    }
}

/// The parts of the mesh, from the Deployments and DaemonSets of its namespace.
pub(crate) fn parts(workloads: &[Value]) -> [Part; 3] {
    PARTS.map(|(what, kind, name)| {
        let object = workloads
            .iter()
            .find(|it| it["kind"] == kind && it["metadata"]["name"] == name);
        let mut part = Part {
            what,
            object: format!("{}/{name}", kind.to_lowercase()),
            exists: object.is_some(),
            ready: 0,
            wanted: 0,
            settled: false,
        };
        if let Some(object) = object {
            let number = |key: &str| object["status"][key].as_u64().unwrap_or(0);
            let (updated, ready, all) = if kind == "Deployment" {
                part.wanted = object["spec"]["replicas"].as_u64().unwrap_or(1);
                (
                    number("updatedReplicas"),
                    number("availableReplicas"),
                    number("replicas"),
                )
            } else {
                part.wanted = number("desiredNumberScheduled");
                (
                    number("updatedNumberScheduled"),
                    number("numberReady"),
                    part.wanted,
                )
            };
            part.ready = updated.min(ready);
            let seen = number("observedGeneration")
                >= object["metadata"]["generation"].as_u64().unwrap_or(0);
            part.settled = seen && all == part.wanted;
        }
        part
    })
}

/// All parts on a line.
pub(crate) fn line(parts: &[Part]) -> String {
    let parts: Vec<_> = parts.iter().map(Part::to_string).collect();
    parts.join(", ")
}

/// What keeps pods from being ready, a line each.
pub(crate) fn troubles(pods: &[Value]) -> Vec<String> {
    let unready = pods.iter().filter(|pod| !is_ready(pod));
    let lines = unready.map(|pod| {
        let name = pod["metadata"]["name"].as_str().unwrap_or("?");
        let node = pod["spec"]["nodeName"].as_str().unwrap_or("no node");
        format!("{name} ({node}): {}", why_unready(pod))
    });
    lines.collect()
}

/// Whether a pod is ready.
pub(crate) fn is_ready(pod: &Value) -> bool {
    pod["metadata"]["deletionTimestamp"].is_null()
        && condition(pod, "Ready").is_some_and(|it| it["status"] == "True")
}

/// A condition of an object.
pub(crate) fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    let conditions = object["status"]["conditions"].as_array()?;
    conditions.iter().find(|it| it["type"] == kind)
}

/// Why a pod is not ready, in Kubernetes' words.
pub(crate) fn why_unready(pod: &Value) -> String {
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        return "it is ending".to_owned();
    }
    let say = |of: &Value| {
        let reason = of["reason"].as_str().unwrap_or_default();
        match of["message"].as_str().unwrap_or_default().trim() {
            "" => reason.to_owned(),
            message => format!("{reason}: {message}"),
        }
    };
    if let Some(scheduled) = condition(pod, "PodScheduled").filter(|it| it["status"] == "False") {
        return say(scheduled);
    }
    let kinds = ["initContainerStatuses", "containerStatuses"];
    for container in kinds
        .iter()
        .flat_map(|kind| pod["status"][kind].as_array().into_iter().flatten())
    {
        let (now, before) = (&container["state"], &container["lastState"]["terminated"]);
        if !now["waiting"].is_null() && now["waiting"]["reason"] != "PodInitializing" {
            let last = if before.is_null() {
                String::new()
            } else {
                format!(" (last: {})", say(before))
            };
            return format!("{}{last}", say(&now["waiting"]));
        }
        if !now["terminated"].is_null() && now["terminated"]["exitCode"] != 0 {
            return say(&now["terminated"]);
        }
    }
    match condition(pod, "Ready") {
        Some(ready) => say(ready),
        None => format!(
            "phase {}",
            pod["status"]["phase"].as_str().unwrap_or("unknown")
        ),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deployment(status: &Value) -> Value {
        json!({"kind": "Deployment", "metadata": {"name": "ambit-control", "generation": 2},
               "spec": {"replicas": 2}, "status": status})
    }

    fn daemon_set(status: &Value) -> Value {
        json!({"kind": "DaemonSet", "metadata": {"name": "ztunnel", "generation": 1}, "status": status})
    }

    #[test]
    fn a_part_runs_when_all_pods_of_its_newest_version_are_ready_and_no_older_one_is_left() {
        for (status, ready, expected) in [
            (json!({}), 0, false),
            (
                json!({"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}),
                2,
                false,
            ),
            (
                json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 1, "availableReplicas": 2}),
                1,
                false,
            ),
            (
                json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 2, "availableReplicas": 2}),
                2,
                false,
            ),
            (
                json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 1}),
                1,
                false,
            ),
            (
                json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}),
                2,
                true,
            ),
        ] {
            let [control, ..] = parts(&[deployment(&status)]);
            assert_eq!(
                (control.ready, control.is_rolled_out()),
                (ready, expected),
                "{status}"
            );
        }
    }

    #[test]
    fn a_daemon_set_without_a_node_does_not_run() {
        for (status, expected) in [
            (
                json!({"observedGeneration": 1, "desiredNumberScheduled": 0}),
                false,
            ),
            (
                json!({"observedGeneration": 0, "desiredNumberScheduled": 2, "updatedNumberScheduled": 2, "numberReady": 2}),
                false,
            ),
            (
                json!({"observedGeneration": 1, "desiredNumberScheduled": 2, "updatedNumberScheduled": 2, "numberReady": 1}),
                false,
            ),
            (
                json!({"observedGeneration": 1, "desiredNumberScheduled": 2, "updatedNumberScheduled": 2, "numberReady": 2}),
                true,
            ),
        ] {
            let [_, ztunnel, _] = parts(&[daemon_set(&status)]);
            assert_eq!(ztunnel.is_rolled_out(), expected, "{status}");
        }
        let [_, _, node] = parts(&[]);
        assert!(!node.exists && !node.is_rolled_out());
    }

    #[test]
    fn what_keeps_a_pod_from_being_ready_is_said_in_kubernetes_words() {
        let pod = |status: Value| json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n"}, "status": status});
        for (status, expected) in [
            (
                json!({"conditions": [{"type": "Ready", "status": "True"}]}),
                None,
            ),
            (
                json!({"containerStatuses": [{"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}]}),
                Some("p (n): ImagePullBackOff: no such image"),
            ),
            (
                json!({"containerStatuses": [{"state": {"waiting": {"reason": "CrashLoopBackOff"}},
                    "lastState": {"terminated": {"reason": "OOMKilled"}}}]}),
                Some("p (n): CrashLoopBackOff (last: OOMKilled)"),
            ),
            (
                json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/2 nodes"}]}),
                Some("p (n): Unschedulable: 0/2 nodes"),
            ),
            (json!({"phase": "Pending"}), Some("p (n): phase Pending")),
        ] {
            let said = troubles(&[pod(status)]);
            assert_eq!(said.first().map(String::as_str), expected);
        }
    }
}
