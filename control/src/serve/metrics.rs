//! What is counted, in the OpenMetrics text form.

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use proto::discovery::DeltaDiscoveryResponse;

use super::Hub;
use crate::publish::Kind;

/// The counts of a control plane.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Calls without a node's token.
    pub refused_callers: Counter,
    /// Objects that are not in force as written, and other problems of the source.
    pub problems: Gauge,
    pushes: Family<OfType, Counter>,
    rejections: Family<OfType, Counter>,
    certificates: Family<Answer, Counter>,
    resources: Family<OfType, Gauge>,
    streams: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfType {
    r#type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answer {
    result: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("ambit_control");
        let metrics = Self {
            refused_callers: Counter::default(),
            problems: Gauge::default(),
            pushes: Family::default(),
            rejections: Family::default(),
            certificates: Family::default(),
            resources: Family::default(),
            streams: Gauge::default(),
            registry: Registry::default(),
        };
        registry.register(
            "refused_callers",
            "Calls without a node's token",
            metrics.refused_callers.clone(),
        );
        registry.register(
            "problems",
            "Problems of the source now",
            metrics.problems.clone(),
        );
        registry.register("pushes", "Discovery responses sent", metrics.pushes.clone());
        registry.register(
            "rejections",
            "Discovery responses not wholly accepted",
            metrics.rejections.clone(),
        );
        registry.register(
            "certificates",
            "Certificate requests answered",
            metrics.certificates.clone(),
        );
        registry.register(
            "resources",
            "Resources published now",
            metrics.resources.clone(),
        );
        registry.register(
            "streams",
            "Subscribers connected now",
            metrics.streams.clone(),
        );
        Self {
            registry,
            ..metrics
        }
    }
}

impl Metrics {
    /// A discovery response was sent.
    pub fn pushed(&self, response: &DeltaDiscoveryResponse) {
        if let Some(kind) = Kind::of(&response.type_url) {
            self.pushes.get_or_create(&of(kind)).inc();
        }
    }

    /// Something in a discovery response was not accepted.
    pub fn rejected(&self, type_url: &str) {
        if let Some(kind) = Kind::of(type_url) {
            self.rejections.get_or_create(&of(kind)).inc();
        }
    }

    /// A certificate request was answered.
    pub fn issued(&self, signed: bool) {
        self.certificates
            .get_or_create(&Answer {
                result: if signed { "issued" } else { "refused" },
            })
            .inc();
    }

    /// All counts now.
    pub fn text(&self, hub: &Hub) -> String {
        let snapshot = hub.mesh.borrow().snapshot.clone();
        for kind in Kind::ALL {
            self.resources
                .get_or_create(&of(kind))
                .set(i64::try_from(snapshot.set(kind).len()).unwrap_or(i64::MAX));
        }
        self.streams
            .set(i64::try_from(hub.streams.list().len()).unwrap_or(i64::MAX));
        let mut page = String::new();
        match text::encode(&mut page, &self.registry) {
            Ok(()) => page,
            Err(error) => format!("# {error}\n"),
        }
    }
}

fn of(kind: Kind) -> OfType {
    OfType { r#type: name(kind) }
}

/// A kind's short name.
pub fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Address => "address",
        Kind::Authorization => "authorization",
    }
}
