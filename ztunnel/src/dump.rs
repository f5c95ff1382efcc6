//! `/config_dump`: all that this proxy knows, in the shape that the ecosystem's tools read.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use net::dump::{certificates, policy, service, sorted, version, workload};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::{admin::Inside, app::INSPECT_TIMEOUT, config::Config, flows::Shown, worker::Command};

/// Everything, as JSON text.
pub(crate) async fn all(inside: &Inside) -> serde_json::Result<String> {
    let generation = inside.state.current();
    let dump = json!({
        "certificates": certificates(&inside.shared.certificates),
        "policies": sorted(generation.policies().map(|p| policy(p)).collect(), &["namespace", "name"]),
        "services": sorted(generation.services().map(|s| service(&generation, s)).collect(), &["namespace", "hostname"]),
        "stagedServices": {},
        "staticConfig": { "workloads": [], "services": [], "policies": [] },
        "version": version(),
        "workloadState": pods(inside).await,
        "workloads": sorted(generation.workloads().map(workload).collect(), &["uid"]),
        "config": config(&inside.shared.config),
    });
    serde_json::to_string_pretty(&dump)
}

/// The pods that are served, and their open flows.
async fn pods(inside: &Inside) -> Value {
    let mut flows: BTreeMap<Arc<str>, Vec<Shown>> = BTreeMap::new();
    for worker in &inside.shared.workers {
        let (reply, shown) = oneshot::channel();
        worker.send(Command::Inspect(reply)).ok();
        if let Ok(Ok(shown)) = tokio::time::timeout(INSPECT_TIMEOUT, shown).await {
            for (uid, shown) in shown {
                flows.entry(uid).or_default().extend(shown);
            }
        }
    }
    let pods = inside.pods.borrow().pods.clone();
    let pod = |pod: &Arc<crate::pod::PodFacts>| {
        let flows = flows.get(&pod.uid).map_or(&[][..], Vec::as_slice);
        let (inbound, outbound): (Vec<&Shown>, Vec<&Shown>) =
            flows.iter().partition(|flow| flow.inbound);
        let shown = json!({
            "state": "Up",
            "info": {
                "name": pod.name,
                "namespace": pod.workload.identity.namespace.as_str(),
                "serviceAccount": pod.workload.identity.service_account.as_str(),
            },
            "connections": { "inbound": inbound, "outbound": outbound },
        });
        (pod.uid.to_string(), shown)
    };
    Value::Object(pods.iter().map(pod).collect())
}

/// Settings; no secret is one of them.
fn config(config: &Config) -> Value {
    let address = |address: SocketAddr| address.to_string();
    json!({
        "localNode": config.node.as_str(),
        "clusterId": config.cluster.as_str(),
        "network": config.network.as_str(),
        "trustDomain": config.trust_domain.as_str(),
        "rootNamespace": config.root_namespace.as_str(),
        "proxyMode": "Shared",
        "inpodUds": config.zds.display().to_string(),
        "inpodPortReuse": config.port_reuse,
        "packetMark": config.mark,
        "xdsAddress": config.discovery.as_ref().map(|server| &server.address),
        "caAddress": &config.authority.address,
        "secretTtl": format!("{}s", config.ttl.as_secs()),
        "numWorkerThreads": config.workers,
        "poolMaxStreamsPerConn": config.max_streams,
        "poolUnusedReleaseTimeout": format!("{}s", config.tunnel_idle.as_secs()),
        "selfTerminationDeadline": format!("{}s", config.drain.as_secs()),
        "windowSize": config.tunnel.stream_window,
        "connectionWindowSize": config.tunnel.connection_window,
        "frameSize": config.tunnel.frame_size,
        "adminAddr": address(config.admin),
        "statsAddr": address(config.metrics),
        "readinessAddr": address(config.readiness),
    })
}
