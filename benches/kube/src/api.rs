//! What is written to the API server, fast: many requests at once, without a process for each.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bench_control::{NODE, Size};
use control::manifest::Kind;
use k8s_openapi::jiff::Timestamp;
use kube::{
    Client, Config,
    api::{Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::{ApiResource, DynamicObject},
};
use serde_json::{Value, json};
use tests_kube::{Cluster, mesh::NAMESPACE};
use tokio::{task::JoinSet, time::sleep};

/// How often a node says that it is well.
const BEAT: Duration = Duration::from_secs(5);

/// The pod whose token the subscriber has.
pub(crate) const PROXY: &str = "ztunnel-fake";

/// The API server of a cluster.
pub(crate) struct Api {
    client: Client,
    at_once: usize,
    ended: Arc<AtomicBool>,
}

impl Api {
    pub(crate) async fn new(cluster: &Cluster, at_once: usize) -> Self {
        let config = Kubeconfig::read_from(cluster.kubeconfig()).expect("the cluster wrote it");
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(config, &options).await;
        let client = Client::try_from(config.expect("it has a cluster")).expect("a client");
        Self {
            client,
            at_once,
            ended: Arc::default(),
        }
    }

    /// What is there before anything is measured: kinds, namespaces, the node, and a pod that is its proxy.
    pub(crate) async fn prepare(&self, cluster: &Cluster, size: Size) {
        let crds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/helm/ambit/crds");
        let crds = crds.display().to_string();
        cluster.does(&["apply", "--server-side", "-f", &crds]);
        let established = ["wait", "--for=condition=Established", "crd", "--all"];
        cluster.does(&established);
        cluster.does(&["create", "namespace", NAMESPACE]);
        let homes = size
            .objects()
            .filter(|(kind, _)| [Kind::Namespace, Kind::Node].contains(kind));
        self.create(homes).await;
        self.beat().await;
        cluster.does(&["-n", NAMESPACE, "create", "serviceaccount", "ztunnel"]);
        for i in 0..size.namespaces {
            let account = ["get", "serviceaccount", "default"];
            let namespace = size.namespace(i);
            while cluster
                .kubectl(&[&["-n", &namespace], &account[..]].concat())
                .is_err()
            {
                sleep(Duration::from_millis(100)).await;
            }
        }
        let proxy = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": PROXY, "namespace": NAMESPACE},
            "spec": {
                "nodeName": NODE, "serviceAccountName": "ztunnel",
                "containers": [{"name": "ztunnel", "image": "none"}],
            },
            "status": bench_control::running("10.99.0.1"),
        });
        self.create_one(Kind::Pod, &proxy).await;
    }

    /// Has the node say that it is well, from now on: else the cluster takes its pods for lost.
    async fn beat(&self) {
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "Bench", "message": ""}]}});
        let nodes =
            kube::Api::<DynamicObject>::all_with(self.client.clone(), &resource(Kind::Node));
        let params = PatchParams::default();
        let patched = nodes
            .patch_status(NODE, &params, &Patch::Merge(&ready))
            .await;
        patched.expect("the node is there");
        let lease = ApiResource {
            group: "coordination.k8s.io".to_owned(),
            version: "v1".to_owned(),
            api_version: "coordination.k8s.io/v1".to_owned(),
            kind: "Lease".to_owned(),
            plural: "leases".to_owned(),
        };
        let leases: kube::Api<DynamicObject> =
            kube::Api::namespaced_with(self.client.clone(), "kube-node-lease", &lease);
        let ended = Arc::clone(&self.ended);
        tokio::spawn(async move {
            while !ended.load(Ordering::Relaxed) {
                let now = Timestamp::now();
                let lease = json!({
                    "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": NODE},
                    "spec": {"holderIdentity": NODE, "leaseDurationSeconds": 40, "renewTime": format!("{now:.6}")},
                });
                let params = PatchParams::apply("bench").force();
                if let Err(error) = leases.patch(NODE, &params, &Patch::Apply(&lease)).await {
                    eprintln!("the node cannot say that it is well: {error}");
                }
                sleep(BEAT).await;
            }
        });
    }

    /// Creates objects, many at once.
    pub(crate) async fn create(&self, objects: impl Iterator<Item = (Kind, Value)>) {
        let mut tasks = JoinSet::new();
        for (kind, object) in objects {
            if tasks.len() == self.at_once {
                let done = tasks.join_next().await;
                done.expect("one is under way").expect("it is created");
            }
            let client = self.client.clone();
            tasks.spawn(async move { create(&client, kind, &object).await });
        }
        while let Some(done) = tasks.join_next().await {
            done.expect("it is created");
        }
    }

    /// Creates an object.
    pub(crate) async fn create_one(&self, kind: Kind, object: &Value) {
        create(&self.client, kind, object).await;
    }

    /// Nothing more is to be done.
    pub(crate) fn done(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

/// Creates an object, and then its status, if it has one.
async fn create(client: &Client, kind: Kind, object: &Value) {
    let mut object = object.clone();
    if let Some(spec) = object["spec"].as_object_mut() {
        // The cluster gives addresses of its own.
        spec.remove("clusterIP");
    }
    let read: DynamicObject = serde_json::from_value(object.clone()).expect("it is an object");
    let name = read.metadata.name.clone().unwrap_or_default();
    let api: kube::Api<DynamicObject> = match &read.metadata.namespace {
        Some(namespace) => kube::Api::namespaced_with(client.clone(), namespace, &resource(kind)),
        None => kube::Api::all_with(client.clone(), &resource(kind)),
    };
    let made = api.create(&PostParams::default(), &read).await;
    if let Err(error) = made {
        panic!("{} {name}: {error}", kind.as_str());
    }
    let status = &object["status"];
    if !status.is_null() {
        let patch = json!({ "status": status });
        let params = PatchParams::default();
        let patched = api
            .patch_status(&name, &params, &Patch::Merge(&patch))
            .await;
        if let Err(error) = patched {
            panic!("status of {} {name}: {error}", kind.as_str());
        }
    }
}

fn resource(kind: Kind) -> ApiResource {
    // Of all that the bench creates.
    let version = "v1";
    let group = kind.group();
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: match group {
            "" => version.to_owned(),
            group => format!("{group}/{version}"),
        },
        kind: kind.as_str().to_owned(),
        plural: kind.plural(),
    }
}
