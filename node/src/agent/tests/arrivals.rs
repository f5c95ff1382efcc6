//! Pods that are about to run: their runtime is told when they are captured, and not before.

use k8s_openapi::api::core::v1;
use serde_json::json;
use tokio::sync::oneshot;

use super::*;
use crate::kubernetes::pods::{Ask, Change, Excluded, Namespace, Pods, Told};

const UID: &str = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";

fn pod() -> v1::Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "cart", "namespace": "shop", "uid": UID},
        "spec": {
            "containers": [{"name": "a", "livenessProbe": {"tcpSocket": {"port": 8080}}}],
            "serviceAccountName": "keeper",
        },
    }))
    .unwrap()
}

fn ask(netns: &Arc<Netns>) -> Ask {
    Ask {
        key: ("shop".to_owned(), "cart".to_owned()),
        uid: UID.to_owned(),
        netns: Arc::clone(netns),
        pod: None,
        reply: oneshot::channel().0,
    }
}

/// A node that learns of its pods from an API server, which has told of the namespace so far.
fn node(test: &str) -> Node {
    let mut node = Node::new(test);
    let mut pods = Pods::new(
        mesh::keys::Keys::Shared,
        Excluded(["kube-system".to_owned()].into()),
        "ambit-system",
    );
    let mode = ("istio.io/dataplane-mode".to_owned(), "ambient".to_owned());
    let shop = Namespace {
        labels: [mode].into(),
        starts_plain: false,
    };
    pods.apply(Change::Namespaces([("shop".to_owned(), shop)].into()));
    node.agent.source = Source::Cluster(pods);
    node
}

#[tokio::test]
async fn who_starts_a_pod_waits_until_a_proxy_has_it_where_it_runs() {
    if !privileged("who_starts_a_pod_waits_until_a_proxy_has_it_where_it_runs") {
        return;
    }
    let mut node = node("arrivals");
    let first = ask(&Arc::new(node.namespace()));
    node.agent.arrived(&first);
    let unknown = Told::Unknown {
        namespace_is_out: false,
    };
    assert_eq!(node.agent.told(&first), Some(unknown));
    let fetched = Ask {
        pod: Some(Box::new(pod())),
        ..ask(&first.netns)
    };
    assert_eq!(
        node.agent.told(&fetched),
        Some(Told::In),
        "but not watched yet"
    );

    node.agent.take(Change::Pods(vec![pod()]));
    assert_eq!(
        node.agent.told(&first),
        Some(Told::In),
        "it is to ask again"
    );
    node.agent.arrived(&first);
    node.agent.look(Instant::now());
    assert_eq!(node.agent.told(&first), None, "there is no proxy");
    let proxy = node.proxy();
    assert!(is_add_of(&node.told(&proxy).await, &first.netns));
    assert_eq!(node.agent.told(&first), None, "it has not answered");
    proxy.answer("");
    assert!(matches!(
        node.told(&proxy).await.0,
        Payload::SnapshotSent(_)
    ));
    proxy.answer("");
    node.work().await;
    assert_eq!(node.agent.told(&first), Some(Told::Captured));

    // The kubelet makes the pod's network anew.
    let second = ask(&Arc::new(node.namespace()));
    node.agent.arrived(&second);
    assert_eq!(node.agent.told(&second), None, "that was the one before");
    assert_eq!(node.agent.told(&first), Some(Told::In));
    node.agent.look(Instant::now());
    assert!(matches!(node.told(&proxy).await.0, Payload::Del(_)));
    proxy.answer("");
    node.work().await;
    assert_eq!(node.agent.told(&second), None);
    node.agent.look(Instant::now());
    assert!(is_add_of(&node.told(&proxy).await, &second.netns));
    // Where the host does not tell probes, as here, pods take none past the proxy.
    assert_eq!(
        capture::verify(&second.netns, &Probed::new()).unwrap(),
        State::Whole
    );
    let reports = node.reports.borrow().clone().unwrap();
    assert!(reports[0].is_probed_as_plain);
    proxy.answer("");
    node.work().await;
    assert_eq!(node.agent.told(&second), Some(Told::Captured));
}
