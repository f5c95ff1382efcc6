//! `/config_dump`: all that this waypoint knows. Beside what the ecosystem's tools read there are `tables`, `routes`,
//! `backends` and `requestPolicies`, which only a waypoint has.

mod policy;
mod route;

use net::dump::{certificates, policy as connection_policy, service, sorted, version, workload};
use serde_json::{Value, json};

use crate::{admin::Inside, config::Config};

/// Everything, as JSON text.
pub(crate) fn all(inside: &Inside) -> serde_json::Result<String> {
    let generation = inside.state.current();
    let mesh = &generation.mesh;
    let discovery = inside.synced.borrow().clone();
    let dump = json!({
        "certificates": certificates(&inside.shared.certificates),
        "policies": sorted(mesh.policies().map(|p| connection_policy(p)).collect(), &["namespace", "name"]),
        "tables": generation.tables().map(route::table).collect::<Vec<_>>(),
        "routes": route::routes(&generation),
        "backends": sorted(generation.backends().map(|b| route::backend(&generation, b)).collect(), &["namespace", "hostname"]),
        "requestPolicies": policy::policies(&generation),
        "services": sorted(mesh.services().map(|s| service(mesh, s)).collect(), &["namespace", "hostname"]),
        "workloads": sorted(mesh.workloads().map(workload).collect(), &["uid"]),
        "ready": generation.is_ready(),
        "generation": generation.number,
        "discovery": { "connected": discovery.connected, "synced": discovery.synced, "error": discovery.error },
        "version": version(),
        "config": config(&inside.shared.config),
    });
    serde_json::to_string_pretty(&dump)
}

/// Settings; no secret is one of them.
fn config(config: &Config) -> Value {
    json!({
        "gateway": config.own_name(),
        "identity": config.identity().to_string(),
        "localNode": config.node.as_str(),
        "clusterId": config.cluster.as_str(),
        "network": config.network.as_str(),
        "trustDomain": config.trust_domain.as_str(),
        "rootNamespace": config.root_namespace.as_str(),
        "xdsAddress": &config.discovery.address,
        "caAddress": &config.authority.address,
        "secretTtl": format!("{}s", config.ttl.as_secs()),
        "numWorkerThreads": config.workers,
        "tunnelMaxStreams": config.tunnel.max_streams,
        "maxTunnels": config.max_tunnels,
        "poolMaxStreamsPerConn": config.max_streams,
        "poolUnusedReleaseTimeout": format!("{}s", config.tunnel_idle.as_secs()),
        "selfTerminationDeadline": format!("{}s", config.drain.as_secs()),
        "tunnelAddr": config.listen.to_string(),
        "adminAddr": config.admin.to_string(),
        "statsAddr": config.metrics.to_string(),
        "readinessAddr": config.readiness.to_string(),
    })
}

/// A list, or nothing if it is empty.
fn list<T>(values: &[T], one: impl Fn(&T) -> Value) -> Value {
    if values.is_empty() {
        Value::Null
    } else {
        values.iter().map(one).collect()
    }
}

#[cfg(test)]
mod tests;
