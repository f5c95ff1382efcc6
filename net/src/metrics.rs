//! What is counted, and how it is read: OpenMetrics text for `/metrics`.
//!
//! Workers count through handles that they resolved before ([`Traffic`]): one relaxed add on a cache line of their own.
//! Adding up and encoding happens at scrape, on the main thread.

mod memory;
mod process;
mod traffic;

use std::{fmt, sync::Arc};

use prometheus_client::{
    encoding::text,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

pub use traffic::{Flag, Known, Labels, Party, Reporter, Security, Service, Table, Traffic};

use crate::{
    discovery::{Counters, Ended},
    hbone::Budget,
};

/// Types of resources that are told apart.
const KNOWN: [&str; 6] = [
    proto::ADDRESS_TYPE,
    proto::AUTHORIZATION_TYPE,
    proto::TABLE_TYPE,
    proto::ROUTE_TYPE,
    proto::POLICY_TYPE,
    proto::BACKEND_TYPE,
];

/// The content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All series of one process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Connections and bytes.
    pub traffic: Arc<Table>,
    /// The stream from the control plane.
    pub discovery: Discovery,
}

/// `istio_xds_*`.
#[derive(Clone, Debug, Default)]
pub struct Discovery {
    ended: Family<[(&'static str, &'static str); 1], Counter>,
    messages: Family<[(&'static str, String); 1], Counter>,
    bytes: Family<[(&'static str, String); 1], Counter>,
}

/// `workload_manager_*`.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    /// Pods that are served now.
    pub active: Gauge,
    /// Pods whose start failed and is tried again.
    pub pending: Gauge,
    /// Starts so far.
    pub started: Counter,
    /// Stops so far.
    pub stopped: Counter,
}

impl Metrics {
    /// The series of a component (`ztunnel`) of a version, with so many worker threads.
    pub fn new(component: &'static str, version: &'static str, workers: usize) -> Self {
        let mut registry = Registry::default();
        let traffic = Arc::new(Table::new(workers));
        registry.register_collector(Box::new(traffic::Collected(Arc::clone(&traffic))));
        registry.register_collector(Box::new(process::Descriptors));
        let build: Family<[(&'static str, &'static str); 2], Gauge> = Family::default();
        build
            .get_or_create(&[("component", component), ("tag", version)])
            .set(1);
        registry.register("istio_build", "Which build this is", build);
        let discovery = Discovery::default();
        let Discovery {
            ended,
            messages,
            bytes,
        } = discovery.clone();
        registry.register(
            "istio_xds_connection_terminations",
            "Streams from the control plane that ended",
            ended,
        );
        registry.register(
            "istio_xds_message",
            "Responses from the control plane",
            messages,
        );
        registry.register(
            "istio_xds_message_bytes",
            "Bytes of responses from the control plane",
            bytes,
        );
        Self {
            registry,
            traffic,
            discovery,
        }
    }

    /// Where further series are registered, before the value is shared.
    pub fn registry(&mut self) -> &mut Registry {
        &mut self.registry
    }

    /// Series of what tunnels may be made to keep, and how often that was too much.
    pub fn memory(&mut self, budget: &'static Budget) {
        let told = memory::Granted(budget);
        self.registry.register_collector(Box::new(told));
    }

    /// All series as OpenMetrics text.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut out = String::new();
        text::encode(&mut out, &self.registry)?;
        Ok(out)
    }
}

impl Proxies {
    /// Series of their own in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let all = Self::default();
        let Self {
            active,
            pending,
            started,
            stopped,
        } = all.clone();
        registry.register(
            "workload_manager_active_proxy_count",
            "Pods that are served",
            active,
        );
        registry.register(
            "workload_manager_pending_proxy_count",
            "Pods that are not served yet",
            pending,
        );
        registry.register(
            "workload_manager_proxies_started",
            "Pods whose service began",
            started,
        );
        registry.register(
            "workload_manager_proxies_stopped",
            "Pods whose service ended",
            stopped,
        );
        all
    }
}

impl Counters for Discovery {
    fn ended(&self, reason: Ended) {
        let reason = match reason {
            Ended::ConnectionError => "ConnectionError",
            Ended::GrpcError => "Error",
            Ended::Complete => "Complete",
            Ended::Violation => "ProtocolError",
        };
        self.ended.get_or_create(&[("reason", reason)]).inc();
    }

    fn received(&self, type_url: &str, bytes: usize) {
        // Types that nobody asked for come from a peer in error, and share a series.
        let known = KNOWN.contains(&type_url);
        let label = [("url", if known { type_url } else { "other" }.to_owned())];
        self.messages.get_or_create(&label).inc();
        self.bytes
            .get_or_create(&label)
            .inc_by(u64::try_from(bytes).unwrap_or(u64::MAX));
    }
}

#[cfg(test)]
mod tests;
