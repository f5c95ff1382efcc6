//! Which worker takes a new connection.
//!
//! A pod's listeners live on its home worker, so that its flows share tunnels and nothing wakes up for nothing. Only
//! when that worker has clearly more to do than another is a connection handed over, once.

/// Flows by which a worker may be ahead before it hands over.
const SLACK: usize = 16;

/// The worker for a connection that `home` has accepted; `loads` are the open flows of each worker.
pub(crate) fn place(home: usize, loads: &[usize]) -> usize {
    let least = (0..loads.len())
        .min_by_key(|worker| loads[*worker])
        .unwrap_or(home);
    if loads[home] > loads[least].saturating_mul(2) + SLACK {
        least
    } else {
        home
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn home_keeps_what_is_not_too_much() {
        assert_eq!(place(0, &[0, 0]), 0);
        assert_eq!(place(1, &[0, 16]), 1);
        assert_eq!(place(0, &[100, 60, 70]), 0);
        assert_eq!(place(0, &[5]), 0);
    }

    #[test]
    fn a_worker_that_is_far_ahead_hands_over_to_the_least_busy() {
        assert_eq!(place(1, &[0, 17]), 0);
        assert_eq!(place(0, &[1000, 30, 20]), 2);
    }
}
