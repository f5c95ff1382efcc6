//! What the process holds: file descriptors and tasks, read at scrape.

use std::fs;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::gauge::ConstGauge,
};

/// `ambit_tasks`, `process_open_fds` and `process_max_fds`; the latter are left out where `/proc` is not there.
#[derive(Debug)]
pub(super) struct Descriptors;

impl Collector for Descriptors {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut gauge = |name, help, value: Option<i64>| {
            let Some(value) = value else { return Ok(()) };
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
        };
        gauge(
            "ambit_tasks",
            "Tasks of the data path that are alive",
            Some(crate::task::live()),
        )?;
        gauge("process_open_fds", "File descriptors that are open", open())?;
        gauge(
            "process_max_fds",
            "File descriptors that may be open",
            limit(),
        )
    }
}

fn open() -> Option<i64> {
    // One of them is the listing's own.
    let count = fs::read_dir("/proc/self/fd")
        .ok()?
        .count()
        .saturating_sub(1);
    i64::try_from(count).ok()
}

fn limit() -> Option<i64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}
