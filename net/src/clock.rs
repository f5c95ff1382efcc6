//! The wall clock and a little chance: what the drivers hand to rules that take `now` and a random number.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Time since 1970.
pub fn wall() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// A random number in `[0, 1)`.
pub fn chance() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness everyone would do the same at the same time, which is no reason to stop.
    aws_lc_rs::rand::fill(&mut bytes).ok();
    f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
}

/// A wall clock that follows tokio's, so that tests can let hours pass.
#[cfg(test)]
pub(crate) fn virtual_wall() -> Duration {
    static BASE: std::sync::OnceLock<(Duration, std::time::Instant)> = std::sync::OnceLock::new();
    let (wall, instant) = *BASE.get_or_init(|| (wall(), std::time::Instant::now()));
    let now = tokio::time::Instant::now().into_std();
    now.checked_duration_since(instant)
        .map_or_else(|| wall - (instant - now), |passed| wall + passed)
}
