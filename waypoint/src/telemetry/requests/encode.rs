//! What was counted, as it is scraped: families by the names that dashboards know, and labels in their order.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use net::metrics;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, LabelSetEncoder},
    metrics::MetricType,
};

use super::{
    BOUNDS, Count, Families, GRPC, Histogram, Labels, PolicyLabels, Requests, RouteLabels,
};

/// Shared with the registry.
#[derive(Debug)]
pub(in crate::telemetry) struct Collected(pub(in crate::telemetry) Arc<Families>);

impl Collector for Collected {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let requests = self.0.requests.all();
        if !requests.is_empty() {
            let help = "Requests that were answered";
            let mut family =
                encoder.encode_descriptor("istio_requests", help, None, MetricType::Counter)?;
            for (labels, cells) in &requests {
                let total: u64 = cells.iter().map(|cell| cell.total.load(Relaxed)).sum();
                family
                    .encode_family(labels)?
                    .encode_counter::<metrics::Labels, _, f64>(&total, None)?;
            }
            type Which = fn(&Requests) -> &Histogram;
            let histograms: [(&str, &str, Which); 3] = [
                (
                    "istio_request_duration_milliseconds",
                    "From a request's head to the end of its answer",
                    |cell| &cell.milliseconds,
                ),
                ("istio_request_bytes", "Bytes of requests' bodies", |cell| {
                    &cell.received
                }),
                ("istio_response_bytes", "Bytes of answers' bodies", |cell| {
                    &cell.sent
                }),
            ];
            for (name, help, which) in histograms {
                let mut family =
                    encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
                for (labels, cells) in &requests {
                    let (sum, count, buckets) = added(cells.iter().map(which));
                    let mut metric = family.encode_family(labels)?;
                    metric.encode_histogram::<metrics::Labels>(sum, count, &buckets, None)?;
                }
            }
        }
        messages(&mut encoder, &requests)?;
        let help = "Requests by the rule of a route";
        counts(
            &mut encoder,
            "ambit_route_requests",
            help,
            &self.0.routes.all(),
        )?;
        let help = "Requests and connections by what a rule of a policy did to them";
        counts(
            &mut encoder,
            "ambit_policy_decisions",
            help,
            &self.0.policies.all(),
        )
    }
}

/// What is counted of calls only.
fn messages(
    encoder: &mut DescriptorEncoder<'_>,
    requests: &[(Labels, Arc<[Requests]>)],
) -> Result<(), fmt::Error> {
    type Which = fn(&Requests) -> &AtomicU64;
    let counters: [(&str, &str, Which); 2] = [
        (
            "istio_request_messages",
            "Messages in the requests of gRPC calls",
            |cell| &cell.messages.0,
        ),
        (
            "istio_response_messages",
            "Messages in the answers to gRPC calls",
            |cell| &cell.messages.1,
        ),
    ];
    let calls = || {
        requests
            .iter()
            .filter(|(labels, _)| labels.protocol == GRPC)
    };
    if calls().next().is_none() {
        return Ok(());
    }
    for (name, help, which) in counters {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, cells) in calls() {
            let total: u64 = cells.iter().map(|cell| which(cell).load(Relaxed)).sum();
            family
                .encode_family(labels)?
                .encode_counter::<metrics::Labels, _, f64>(&total, None)?;
        }
    }
    Ok(())
}

fn counts<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    all: &[(L, Arc<[Count]>)],
) -> Result<(), fmt::Error> {
    if all.is_empty() {
        return Ok(());
    }
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, cells) in all {
        let total: u64 = cells.iter().map(|cell| cell.0.load(Relaxed)).sum();
        family
            .encode_family(labels)?
            .encode_counter::<metrics::Labels, _, f64>(&total, None)?;
    }
    Ok(())
}

fn added<'a>(all: impl Iterator<Item = &'a Histogram>) -> (f64, u64, Vec<(f64, u64)>) {
    let bounds = BOUNDS.into_iter().chain([f64::INFINITY]);
    let mut buckets: Vec<(f64, u64)> = bounds.map(|bound| (bound, 0)).collect();
    let mut sum = 0;
    for histogram in all {
        sum += histogram.sum.load(Relaxed);
        for (to, from) in buckets.iter_mut().zip(&histogram.buckets) {
            to.1 += from.load(Relaxed);
        }
    }
    let count = buckets.iter().map(|(_, count)| count).sum();
    #[allow(clippy::cast_precision_loss)] // Precise up to petabytes.
    let sum = sum as f64 / 1000.0;
    (sum, count, buckets)
}

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        let (status, grpc) = (
            code(self.status),
            self.grpc_status.map(|status| status.to_string()),
        );
        let mut pairs = self.ends.pairs().to_vec();
        for (name, value) in &mut pairs {
            match *name {
                "request_protocol" => *value = self.protocol,
                "response_flags" => *value = self.flags,
                _ => {}
            }
        }
        pairs.push(("response_code", &status));
        pairs.push(("grpc_response_status", grpc.as_deref().unwrap_or_default()));
        pairs.encode(encoder)
    }
}

/// 0, and not `unknown`, where there was no answer: so the ecosystem counts a client that is gone.
fn code(status: u16) -> String {
    status.to_string()
}

impl EncodeLabelSet for RouteLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        let status = code(self.status);
        [
            ("route_kind", self.kind),
            ("route_namespace", &self.namespace),
            ("route_name", &self.name),
            ("rule", &self.rule),
            ("destination_service", &self.service),
            ("backend_service", &self.backend),
            ("response_code", &status),
        ]
        .encode(encoder)
    }
}

impl EncodeLabelSet for PolicyLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        [
            ("policy", &*self.policy),
            ("rule", &self.rule),
            ("decision", self.what),
            ("destination_service", &self.service),
        ]
        .encode(encoder)
    }
}
