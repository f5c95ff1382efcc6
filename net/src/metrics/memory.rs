//! What all tunnels together were granted, as it is counted elsewhere.

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};

use crate::hbone::Budget;

#[derive(Debug)]
pub(super) struct Granted(pub(super) &'static Budget);

impl Collector for Granted {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let granted = ConstGauge::new(i64::try_from(self.0.granted()).unwrap_or(i64::MAX));
        granted.encode(encoder.encode_descriptor(
            "ambit_tunnel_memory_bytes",
            "What open streams in tunnels may make this process keep",
            None,
            granted.metric_type(),
        )?)?;
        let refused = ConstCounter::new(self.0.refused());
        refused.encode(encoder.encode_descriptor(
            "ambit_tunnel_memory_refused",
            "Streams in tunnels that were refused because the process held MAX_MEMORY",
            None,
            refused.metric_type(),
        )?)
    }
}
