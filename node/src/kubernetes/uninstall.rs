//! Takes away what agents have put on nodes and into pods.
//!
//! Neither an agent's end nor the deletion of its DaemonSet can do it: at an upgrade all must stay, and when a release is
//! deleted the agents' rights go with it, before they are through. So it is done before anything is deleted, by the agents
//! themselves: one Job gives their DaemonSet the flag `--uninstall`, and its rollout tells on which nodes it is done. A node
//! on which the agent restarts meanwhile, or that comes later, does it too, and none installs anything anew.

use std::{collections::BTreeMap, io, time::Duration};

use k8s_openapi::api::{apps::v1::DaemonSet, core::v1};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use mesh::keys::Keys;
use serde_json::json;
use tokio::time::{Instant, sleep};
use tracing::{error, info, warn};

use super::{condition, host, netns, publish};
use crate::{Config, Error, capture, cni, config::Extent};

/// The agents' DaemonSet, and their container in it.
const DAEMON_SET: &str = "ambit-node";
const CONTAINER: &str = "node";

/// What the agents are given.
const FLAG: &str = "--uninstall";

/// How long the agents of all nodes may take.
const PATIENCE: Duration = Duration::from_secs(240);

/// Until it is tried, or looked at, again.
const AGAIN: Duration = Duration::from_secs(1);

/// Takes away what was installed.
///
/// # Errors
/// If it cannot be.
pub async fn run(config: &Config, extent: Extent) -> Result<(), Error> {
    let client = super::client().await.map_err(cluster)?;
    match extent {
        Extent::Everywhere => everywhere(&client, &config.own_namespace).await,
        Extent::Node => {
            while let Err(reason) = node(&client, config).await {
                error!(reason, "this node is not restored yet: tried again");
                sleep(AGAIN).await;
            }
            info!("this node is as it was before");
            if let Some(address) = config.ready {
                let _ready = cni::say_ready(address);
                // Ended it would be started again.
                std::future::pending::<()>().await;
            }
            Ok(())
        }
    }
}

/// Restores this node. Nothing of it needs the agent to know what an earlier one did.
async fn node(client: &Client, config: &Config) -> Result<(), String> {
    if let Some(places) = cni::places(config) {
        cni::install::restore(&places).map_err(|error| error.to_string())?;
    }
    // Before the rules: peers are to have ended their tunnels when nobody takes them any more.
    unwrite(client, config.keys(), &config.node).await?;
    // The other way round pods would take what anybody sends as the node's probes.
    let all = netns::all(|_| true).map_err(|error| error.to_string())?;
    for (uid, netns) in all {
        let removed = capture::remove(&netns);
        removed.map_err(|error| format!("the pod of uid {uid}: {error}"))?;
    }
    host::remove().map_err(|error| format!("the host's rules: {error}"))?;
    match std::fs::remove_file(&config.zds_socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(format!("{}: {error}", config.zds_socket.display()))
        }
        _ => Ok(()),
    }
}

/// Takes away what is written on this node's pods.
async fn unwrite(client: &Client, keys: Keys, node: &str) -> Result<(), String> {
    let api: Api<v1::Pod> = Api::all(client.clone());
    let own = ListParams::default().fields(&format!("spec.nodeName={node}"));
    let pods = api.list(&own).await.map_err(|error| error.to_string())?;
    let says = |pod: &&v1::Pod| {
        let status = pod.status.as_ref();
        let mut conditions = status.iter().flat_map(|it| it.conditions.iter().flatten());
        conditions.any(|it| it.type_ == condition::TYPE)
    };
    let none = PatchParams::default();
    for pod in pods.items.iter().filter(says) {
        let api = of_its_namespace(client, pod);
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let (name, patch) = (pod.name_any(), publish::status(uid, None, true));
        let patch = Patch::Strategic(&patch);
        gone_is_fine(&name, api.patch_status(&name, &none, &patch).await)?;
    }
    let written = |pod: &&v1::Pod| keys.captured(pod.annotations());
    for pod in pods.items.iter().filter(written) {
        let api = of_its_namespace(client, pod);
        let annotations = json!({keys.redirection(): Option::<&str>::None});
        let patch = json!({"metadata": {"uid": pod.metadata.uid, "annotations": annotations}});
        let (name, patch) = (pod.name_any(), Patch::Merge(&patch));
        gone_is_fine(&name, api.patch(&name, &none, &patch).await)?;
    }
    Ok(())
}

fn of_its_namespace(client: &Client, pod: &v1::Pod) -> Api<v1::Pod> {
    Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default())
}

/// A pod that is gone, or another one by now, says nothing.
fn gone_is_fine(name: &str, patched: kube::Result<v1::Pod>) -> Result<(), String> {
    match patched {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409 | 422) => Ok(()),
        Err(error) => Err(format!("pod {name}: {error}")),
    }
}

async fn everywhere(client: &Client, namespace: &str) -> Result<(), Error> {
    let api: Api<DaemonSet> = Api::namespaced(client.clone(), namespace);
    let Some(found) = api.get_opt(DAEMON_SET).await.map_err(cluster)? else {
        warn!(
            namespace,
            "there are no agents: nothing can be restored, or all is"
        );
        return Ok(());
    };
    let patch = json!({
        "spec": {
            // There is nothing to be kept up.
            "updateStrategy": {"rollingUpdate": {"maxUnavailable": "100%", "maxSurge": 0}},
            "template": {"spec": {"containers": [{"name": CONTAINER, "args": told(&found)}]}},
        }
    });
    let patch = Patch::Strategic(&patch);
    api.patch(DAEMON_SET, &PatchParams::default(), &patch)
        .await
        .map_err(cluster)?;
    let end = Instant::now() + PATIENCE;
    loop {
        let (done, all) = progress(&api.get(DAEMON_SET).await.map_err(cluster)?);
        if done == all {
            info!(nodes = all, "every node is as it was before");
            return Ok(());
        }
        if Instant::now() >= end {
            return Err(Error::Cluster(left(client, namespace, done, all).await));
        }
        info!(done, all, "nodes are being restored");
        sleep(AGAIN).await;
    }
}

/// The arguments of an agent that restores its node.
fn told(found: &DaemonSet) -> Vec<String> {
    let spec = found
        .spec
        .as_ref()
        .and_then(|spec| spec.template.spec.as_ref());
    let mut containers = spec.iter().flat_map(|spec| &spec.containers);
    let container = containers.find(|container| container.name == CONTAINER);
    let mut arguments = container.and_then(|it| it.args.clone()).unwrap_or_default();
    if !arguments.iter().any(|argument| argument == FLAG) {
        arguments.push(FLAG.to_owned());
    }
    arguments
}

/// On how many nodes of how many it is done.
fn progress(found: &DaemonSet) -> (i32, i32) {
    let status = found.status.clone().unwrap_or_default();
    let all = status.desired_number_scheduled;
    if status.observed_generation < found.metadata.generation {
        return (0, all.max(1));
    }
    let updated = status.updated_number_scheduled.unwrap_or_default();
    // Before its pod is replaced a node counts as available too.
    let done = status.number_available.unwrap_or_default().min(updated);
    let replaced = updated == all;
    (if replaced { done } else { done.min(all - 1) }, all)
}

/// What is to be done about nodes that are not restored in time.
async fn left(client: &Client, namespace: &str, done: i32, all: i32) -> String {
    let api: Api<v1::Pod> = Api::namespaced(client.clone(), namespace);
    let agents = ListParams::default().labels(&format!("app={DAEMON_SET}"));
    let pods = api
        .list(&agents)
        .await
        .map(|list| list.items)
        .unwrap_or_default();
    let is_ready = |pod: &v1::Pod| {
        let conditions = pod
            .status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten());
        conditions
            .clone()
            .any(|it| it.type_ == "Ready" && it.status == "True")
    };
    let names: BTreeMap<_, ()> = pods
        .iter()
        .filter(|pod| !is_ready(pod))
        .filter_map(|pod| Some((pod.spec.as_ref()?.node_name.clone()?, ())))
        .collect();
    let names: Vec<_> = names.into_keys().collect();
    format!(
        "{done} of {all} nodes are restored, not so: {}; look there with `kubectl -n {namespace} logs -l app={DAEMON_SET}`, or leave what is on them with `helm uninstall --no-hooks`",
        names.join(", ")
    )
}

fn cluster(error: kube::Error) -> Error {
    Error::Cluster(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(generation: i64, observed: i64, all: i32, updated: i32, available: i32) -> DaemonSet {
        let tree = json!({
            "metadata": {"generation": generation},
            "spec": {
                "selector": {},
                "template": {"spec": {"containers": [
                    {"name": "other", "args": ["x"]},
                    {"name": "node", "args": ["node", "--kubernetes"]},
                ]}},
            },
            "status": {
                "observedGeneration": observed, "desiredNumberScheduled": all,
                "updatedNumberScheduled": updated, "numberAvailable": available,
                "currentNumberScheduled": all, "numberMisscheduled": 0, "numberReady": available,
            },
        });
        serde_json::from_value(tree).unwrap()
    }

    #[test]
    fn agents_are_told_once() {
        let mut found = set(1, 1, 1, 1, 1);
        let expected = ["node", "--kubernetes", "--uninstall"];
        assert_eq!(told(&found), expected);
        let spec = found.spec.as_mut().unwrap().template.spec.as_mut().unwrap();
        spec.containers[1].args = Some(expected.map(str::to_owned).into());
        assert_eq!(told(&found), expected);
    }

    #[test]
    fn it_is_done_when_every_node_has_an_agent_that_says_so() {
        for (found, expected) in [
            (set(2, 1, 3, 3, 3), (0, 3)),
            (set(2, 1, 0, 0, 0), (0, 1)),
            (set(2, 2, 3, 0, 3), (0, 3)),
            (set(2, 2, 3, 2, 3), (2, 3)),
            (set(2, 2, 3, 3, 2), (2, 3)),
            (set(2, 2, 3, 3, 3), (3, 3)),
            (set(2, 2, 0, 0, 0), (0, 0)),
        ] {
            assert_eq!(progress(&found), expected, "{:?}", found.status);
        }
    }
}
