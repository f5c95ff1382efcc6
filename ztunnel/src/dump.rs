//! `/config_dump`: all that this proxy knows, in the shape that the ecosystem's tools read.

mod address;
mod policy;

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use net::tls::Certificate;
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::sync::oneshot;

use crate::{admin::Inside, app::INSPECT_TIMEOUT, config::Config, flows::Shown, worker::Command};

/// Everything, as JSON text.
pub(crate) async fn all(inside: &Inside) -> serde_json::Result<String> {
    let generation = inside.state.current();
    let sorted = |mut all: Vec<Value>, keys: &[&str]| {
        all.sort_by_cached_key(|v| {
            keys.iter()
                .map(|key| v[*key].to_string())
                .collect::<Vec<_>>()
        });
        all
    };
    let dump = json!({
        "certificates": certificates(inside),
        "policies": sorted(generation.policies().map(|p| policy::policy(p)).collect(), &["namespace", "name"]),
        "services": sorted(generation.services().map(|s| address::service(&generation, s)).collect(), &["namespace", "hostname"]),
        "stagedServices": {},
        "staticConfig": { "workloads": [], "services": [], "policies": [] },
        "version": version(),
        "workloadState": pods(inside).await,
        "workloads": sorted(generation.workloads().map(address::workload).collect(), &["uid"]),
        "config": config(&inside.shared.config),
    });
    serde_json::to_string_pretty(&dump)
}

/// An object without what is absent.
fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let present = fields.into_iter().filter(|(_, value)| !value.is_null());
    Value::Object(
        present
            .map(|(key, value)| (key.to_owned(), value))
            .collect(),
    )
}

fn certificates(inside: &Inside) -> Vec<Value> {
    let entries = inside.shared.certificates.snapshot().into_iter();
    let one = |entry: net::certificates::Entry| {
        let shown = |certificates: &[Certificate]| certificates.iter().map(certificate).collect();
        let held = entry.credential.as_deref();
        let chain: Vec<Value> = held.map(|held| shown(held.chain())).unwrap_or_default();
        let roots: Vec<Value> = held.map(|held| shown(held.roots())).unwrap_or_default();
        json!({
            "identity": entry.identity.to_string(),
            "state": entry.state,
            "certChain": chain,
            "rootCerts": roots,
        })
    };
    entries.map(one).collect()
}

fn certificate(certificate: &Certificate) -> Value {
    json!({
        "pem": STANDARD.encode(&certificate.pem),
        "serialNumber": certificate.serial,
        "validFrom": instant(certificate.not_before),
        "expirationTime": instant(certificate.not_after),
    })
}

fn instant(seconds: i64) -> Value {
    let time = OffsetDateTime::from_unix_timestamp(seconds).ok();
    json!(time.and_then(|time| time.format(&Rfc3339).ok()))
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

fn version() -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "gitRevision": "unknown",
        "rustVersion": env!("CARGO_PKG_RUST_VERSION"),
        "buildProfile": if cfg!(debug_assertions) { "debug" } else { "release" },
        "buildStatus": "unknown",
        "istioVersion": "unknown",
    })
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
