//! Counts of durations in buckets whose width grows with the value: at most 1/32 off, whatever the range.

use std::time::Duration;

/// Buckets per doubling.
const STEPS: u64 = 32;
const STEPS_BITS: u32 = STEPS.trailing_zeros();

/// How often durations of each length occurred, in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Histogram {
    /// Counts one.
    pub fn record(&mut self, took: Duration) {
        let bucket = bucket(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += 1;
        self.total += 1;
    }

    /// Takes in what another one has counted.
    pub fn add(&mut self, other: &Self) {
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
    }

    /// The duration that `share` (0 to 1) of all are not above; zero if there are none.
    pub fn quantile(&self, share: f64) -> Duration {
        let wanted = ((self.total as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Duration::from_micros(largest(bucket));
            }
        }
        Duration::ZERO
    }
}

/// Values below `STEPS` have a bucket each; above, each doubling is cut into `STEPS` buckets.
fn bucket(micros: u64) -> usize {
    let doublings = u64::BITS.saturating_sub(micros.leading_zeros() + STEPS_BITS + 1);
    let within = micros >> doublings;
    (u64::from(doublings) * STEPS + within) as usize
}

fn largest(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let doublings = (bucket / STEPS).saturating_sub(1);
    let within = bucket - doublings * STEPS;
    ((within + 1) << doublings) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_a_bucket_that_is_no_more_than_a_thirty_second_off() {
        let mut before = 0;
        for micros in (0..5000).chain([1 << 20, (1 << 20) + 12345, 3_600_000_000]) {
            let bucket = bucket(micros);
            assert!(bucket >= before, "{micros}");
            before = bucket;
            let largest = largest(bucket);
            assert!(
                largest >= micros && largest - micros <= micros / 32,
                "{micros} {largest}"
            );
        }
    }

    #[test]
    fn a_quantile_is_not_below_what_was_recorded() {
        let mut one = Histogram::default();
        assert_eq!(one.quantile(0.5), Duration::ZERO);
        for micros in 1..=20 {
            one.record(Duration::from_micros(micros));
        }
        let mut other = Histogram::default();
        other.record(Duration::from_micros(31));
        one.add(&other);
        assert_eq!(one.quantile(0.5), Duration::from_micros(11));
        assert_eq!(one.quantile(1.0), Duration::from_micros(31));
        assert_eq!(one.quantile(0.0), Duration::from_micros(1));
    }
}
