//! The objects of a large cluster, as its API server has them: what benches feed the control plane with.
//!
//! Nothing is random: the same numbers give the same objects, in every run.

use clap::Args;
use control::manifest::Kind;
use serde_json::{Value, json};

/// How much there is of everything.
#[derive(Args, Clone, Copy, Debug)]
pub struct Size {
    /// Namespaces that hold the rest, in equal shares.
    #[arg(long, default_value_t = 20)]
    pub namespaces: usize,
    /// Services, each with an EndpointSlice.
    #[arg(long, default_value_t = 1000)]
    pub services: usize,
    /// Pods, in equal shares of the services.
    #[arg(long, default_value_t = 5000)]
    pub pods: usize,
    /// AuthorizationPolicies: every second is for the pods of one service, the others are for a namespace.
    #[arg(long, default_value_t = 100)]
    pub policies: usize,
}

/// The node that all pods are on.
pub const NODE: &str = "fake";

impl Size {
    /// The name of a namespace; `i` may be the number of anything in it.
    pub fn namespace(self, i: usize) -> String {
        format!("bench-{}", i % self.namespaces)
    }

    /// All objects, each with its kind, in an order in which an API server takes them.
    pub fn objects(self) -> impl Iterator<Item = (Kind, Value)> {
        let namespaces = (0..self.namespaces).map(move |i| (Kind::Namespace, self.home(i)));
        let services = (0..self.services).map(move |i| (Kind::Service, self.service(i)));
        let pods = (0..self.pods).map(move |i| (Kind::Pod, self.pod(i)));
        let slices = (0..self.services).map(move |i| (Kind::EndpointSlice, self.slice(i)));
        let policies =
            (0..self.policies).map(move |i| (Kind::AuthorizationPolicy, self.policy(i, "GET")));
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}});
        namespaces
            .chain([(Kind::Node, node)])
            .chain(services)
            .chain(pods)
            .chain(slices)
            .chain(policies)
    }

    /// A namespace.
    pub fn home(self, i: usize) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": self.namespace(i), "labels": {"istio.io/dataplane-mode": "ambient"}},
        })
    }

    /// A service.
    pub fn service(self, i: usize) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": format!("service-{i}"), "namespace": self.namespace(i), "labels": {"app": format!("app-{i}")}},
            "spec": {
                "clusterIP": format!("10.97.{}.{}", i / 250, i % 250 + 1),
                "selector": {"app": format!("app-{i}")},
                "ports": [
                    {"name": "http", "port": 80, "targetPort": 8080},
                    {"name": "metrics", "port": 9090, "targetPort": "metrics"},
                ],
            },
        })
    }

    /// A pod, running and ready.
    pub fn pod(self, i: usize) -> Value {
        let service = i % self.services;
        let address = address(i);
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": format!("app-{service}-5d8f9c7b6d-{i:05}"), "namespace": self.namespace(service),
                "generateName": format!("app-{service}-5d8f9c7b6d-"),
                "labels": {"app": format!("app-{service}"), "version": "v1", "pod-template-hash": "5d8f9c7b6d"},
                "annotations": {"ambient.istio.io/redirection": "enabled"},
            },
            "spec": {
                "nodeName": NODE, "serviceAccountName": "default",
                "containers": [{
                    "name": "app", "image": "registry.example/shop/app:v1",
                    "ports": [{"name": "http", "containerPort": 8080}, {"name": "metrics", "containerPort": 9100}],
                }],
            },
            "status": running(&address),
        })
    }

    /// The EndpointSlice of a service.
    pub fn slice(self, i: usize) -> Value {
        let namespace = self.namespace(i);
        let endpoints = (i..self.pods).step_by(self.services).map(|pod| {
            let name = format!("app-{i}-5d8f9c7b6d-{pod:05}");
            json!({
                "addresses": [address(pod)], "conditions": {"ready": true}, "nodeName": NODE,
                "targetRef": {"kind": "Pod", "namespace": namespace, "name": name},
            })
        });
        let endpoints: Vec<_> = endpoints.collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {
                "name": format!("service-{i}-x7k2p"), "namespace": namespace,
                "labels": {"kubernetes.io/service-name": format!("service-{i}")},
            },
            "ports": [{"name": "http", "port": 8080}, {"name": "metrics", "port": 9100}],
            "endpoints": endpoints,
        })
    }

    /// A policy that lets some callers in; `caller` makes one differ from another.
    pub fn policy(self, i: usize, caller: &str) -> Value {
        let mut policy = json!({
            "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": {"name": format!("policy-{i}"), "namespace": self.namespace(i)},
            "spec": {
                "action": "ALLOW",
                "rules": [{
                    "from": [{"source": {"principals": [format!("cluster.local/ns/{}/sa/{caller}", self.namespace(i))]}}],
                    "to": [{"operation": {"ports": ["8080"]}}],
                }],
            },
        });
        if i.is_multiple_of(2) {
            policy["spec"]["selector"] = json!({"matchLabels": {"app": format!("app-{i}")}});
        }
        policy
    }
}

/// The status of a pod that runs and is ready.
pub fn running(address: &str) -> Value {
    json!({
        "phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
        "conditions": [{"type": "Ready", "status": "True"}],
    })
}

/// The address of a pod.
pub fn address(i: usize) -> String {
    format!("10.98.{}.{}", i / 250, i % 250 + 1)
}
