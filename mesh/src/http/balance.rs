//! Which of several endpoints takes the next request: of two chosen at random the less loaded one.
//!
//! Two random choices spread requests nearly as well as asking every endpoint, and a whole herd of clients does not run to
//! the one that looks best. Load is what waits at an endpoint times how long it lately took there; how long is a moving
//! average that jumps up with a slow answer and comes down with time ("peak EWMA"), so that a slow endpoint is seen at once
//! and forgiven later.

use std::time::Duration;

/// After how long an old average counts for 1/e.
const DECAY: Duration = Duration::from_secs(10);

/// How busy an endpoint is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Requests that were sent and not yet answered.
    pub in_flight: u32,
    /// How long answers take, by [`peak_ewma`]; 0: nobody knows yet.
    pub latency: Duration,
}

/// The less loaded of two candidates that `seed` chooses by their capacity, which is at least 1; the only one if there is but
/// one. `seed` has to be uniform over all of `u64`.
pub fn choose<T>(
    candidates: &[T],
    seed: u64,
    capacity: impl Fn(&T) -> u32,
    load: impl Fn(&T) -> Load,
) -> Option<&T> {
    let weights: Vec<u32> = candidates.iter().map(&capacity).collect();
    let (one, other) = two_choices(&weights, seed)?;
    let (one, other) = (&candidates[one], &candidates[other]);
    let busy = is_busier((load(one), capacity(one)), (load(other), capacity(other)));
    Some(if busy { other } else { one })
}

/// Two different places in a list, each chosen by its weight; twice the same one if no other has a weight. None: nothing has.
pub fn two_choices(weights: &[u32], seed: u64) -> Option<(usize, usize)> {
    let sum = weights.iter().map(|weight| u64::from(*weight)).sum();
    let first = place(weights, None, scaled(mixed(seed), sum))?;
    let rest = sum - u64::from(weights[first]);
    // Another draw, which the first says nothing of.
    let second = place(weights, Some(first), scaled(mixed(!seed), rest));
    Some((first, second.unwrap_or(first)))
}

/// Whether the first is busier than the second, each with its capacity: by what waits there for each unit of capacity, and one
/// more, times how long it takes. Where nobody knows how long one of them takes, only what waits counts: so what is new
/// gets its share, and no more.
fn is_busier(one: (Load, u32), other: (Load, u32)) -> bool {
    let known = !one.0.latency.is_zero() && !other.0.latency.is_zero();
    // In fractions of both capacities, so that nothing is divided.
    let cost = |(load, capacity): (Load, u32), other: u32| {
        let latency = if known { load.latency.as_nanos() } else { 1 };
        let waiting = u128::from(load.in_flight) + u128::from(capacity);
        // An average of centuries is as bad as any.
        let latency = latency.min(u128::from(u64::MAX));
        (waiting * latency).saturating_mul(u128::from(other))
    };
    cost(one, other.1) > cost(other, one.1)
}

/// The average of latencies after one more `sample`, `elapsed` after the last.
pub fn peak_ewma(average: Duration, sample: Duration, elapsed: Duration) -> Duration {
    if sample >= average {
        return sample;
    }
    let keep = (-elapsed.as_secs_f64() / DECAY.as_secs_f64()).exp();
    sample + (average - sample).mul_f64(keep)
}

/// Spreads what differs in few bits over all (the finalizer of SplitMix64).
fn mixed(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A number below `sum`, by the high bits; 0 if that is 0.
fn scaled(random: u64, sum: u64) -> u64 {
    let scaled = (u128::from(random) * u128::from(sum)) >> u64::BITS;
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

fn place(weights: &[u32], but: Option<usize>, mut left: u64) -> Option<usize> {
    let others = weights
        .iter()
        .enumerate()
        .filter(|(at, _)| Some(*at) != but);
    for (at, weight) in others {
        let weight = u64::from(*weight);
        if left < weight {
            return Some(at);
        }
        left -= weight;
    }
    None
}

#[cfg(test)]
mod tests;
