//! What is counted, in the OpenMetrics text form.

use std::sync::Arc;

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use proto::discovery::DeltaDiscoveryResponse;

use super::Hub;
use crate::{publish::Kind, world::Phase};

/// The counts of a control plane.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Calls without a token.
    pub refused_callers: Counter,
    /// Objects that are not in force as written, and other problems of the source.
    pub problems: Gauge,
    pushes: Family<OfType, Counter>,
    rejections: Family<OfType, Counter>,
    certificates: Family<Answer, Counter>,
    resources: Family<OfType, Gauge>,
    streams: Gauge,
    bindings: Family<InPhase, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfType {
    r#type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InPhase {
    phase: &'static str,
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
            bindings: Family::default(),
            registry: Registry::default(),
        };
        registry.register(
            "refused_callers",
            "Calls without a token",
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
        registry.register(
            "bindings",
            "Services bound to waypoints now",
            metrics.bindings.clone(),
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
        let mesh = Arc::clone(&hub.mesh.borrow());
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        for kind in Kind::ALL {
            let parts = mesh.snapshot.waypoints().values().map(AsRef::as_ref);
            let parts = parts.chain([mesh.snapshot.nodes()]);
            let number = parts.map(|part| part.set(kind).len()).sum();
            self.resources.get_or_create(&of(kind)).set(count(number));
        }
        for phase in Phase::NAMES {
            let in_phase = mesh.bindings.values().filter(|it| it.name() == phase);
            let bindings = self.bindings.get_or_create(&InPhase { phase });
            bindings.set(count(in_phase.count()));
        }
        self.streams.set(count(hub.streams.list().len()));
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
        Kind::Table => "table",
        Kind::Route => "route",
        Kind::Policy => "policy",
        Kind::Backend => "backend",
    }
}
