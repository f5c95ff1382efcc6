//! Which of a rule's backends a request goes to.

use crate::{http::edit::HeaderEdits, name::Name};

/// One backend of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Where it leads.
    pub target: Target,
    /// Its share of the sum of all.
    pub weight: u32,
    /// For requests that go to this backend only.
    pub request_headers: HeaderEdits,
    /// For the answers that come from it.
    pub response_headers: HeaderEdits,
}

/// Where a backend leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A service's port.
    Service {
        /// `<namespace>/<hostname>`.
        service: Name,
        /// The service's port, not the pod's.
        port: u16,
    },
    /// Nowhere: the reference does not resolve, or is not granted. Its share of the requests is answered with 500.
    Invalid(Box<str>),
}

/// Why a request has no backend. The answer is 500.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoBackend<'a> {
    /// The rule has none, or none with a weight.
    Weightless,
    /// The share is that of an invalid one. Says why.
    Invalid(&'a str),
}

/// The backend for a request, by weight. `seed` has to be uniform over all of `u64`; the choice is made by its high bits, so
/// that its remainder, by which an endpoint is picked, is free of it.
pub fn share(backends: &[Backend], seed: u64) -> Result<&Backend, NoBackend<'_>> {
    let sum: u64 = backends.iter().map(|b| u64::from(b.weight)).sum();
    let scaled = (u128::from(seed) * u128::from(sum)) >> u64::BITS;
    let mut left = u64::try_from(scaled).map_err(|_| NoBackend::Weightless)?;
    for backend in backends {
        let weight = u64::from(backend.weight);
        if left < weight {
            return match &backend.target {
                Target::Invalid(why) => Err(NoBackend::Invalid(why)),
                Target::Service { .. } => Ok(backend),
            };
        }
        left -= weight;
    }
    Err(NoBackend::Weightless)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(port: u16, weight: u32) -> Backend {
        Backend {
            target: Target::Service {
                service: "shop/cart.shop.svc.cluster.local".into(),
                port,
            },
            weight,
            request_headers: HeaderEdits::default(),
            response_headers: HeaderEdits::default(),
        }
    }

    fn invalid(weight: u32) -> Backend {
        Backend {
            target: Target::Invalid("no such service".into()),
            ..backend(0, weight)
        }
    }

    fn port(chosen: Result<&Backend, NoBackend<'_>>) -> u16 {
        match chosen.map(|backend| &backend.target) {
            Ok(Target::Service { port, .. }) => *port,
            Ok(Target::Invalid(_)) => unreachable!(),
            Err(NoBackend::Invalid(_)) => 500,
            Err(NoBackend::Weightless) => 501,
        }
    }

    /// How many of `n` seeds, evenly over all, choose each port.
    fn counts(backends: &[Backend], n: u64, ports: &[u16]) -> Vec<u64> {
        let seed = |i: u64| u64::try_from((u128::from(i) << 64).div_ceil(u128::from(n))).unwrap();
        let chosen: Vec<_> = (0..n).map(|i| port(share(backends, seed(i)))).collect();
        let count = |port: &u16| chosen.iter().filter(|p| *p == port).count() as u64;
        ports.iter().map(count).collect()
    }

    #[test]
    fn each_backend_gets_exactly_its_share() {
        let canary = [backend(1, 90), backend(2, 10)];
        assert_eq!(counts(&canary, 100, &[1, 2]), [90, 10]);
        assert_eq!(counts(&canary, 1000, &[1, 2]), [900, 100]);
        let three = [backend(1, 1), backend(2, 1), backend(3, 1)];
        assert_eq!(counts(&three, 3000, &[1, 2, 3]), [1000; 3]);
        let large = [backend(1, 1_000_000), backend(2, 1_000_000)];
        assert_eq!(counts(&large, 10, &[1, 2]), [5, 5]);
        assert_eq!(port(share(&large, u64::MAX)), 2);
    }

    #[test]
    fn a_backend_without_weight_gets_nothing() {
        let backends = [backend(1, 0), backend(2, 1), backend(3, 0)];
        assert_eq!(counts(&backends, 100, &[1, 2, 3]), [0, 100, 0]);
        assert_eq!(port(share(&backends, u64::MAX)), 2);
    }

    #[test]
    fn an_invalid_backend_keeps_its_share() {
        let backends = [backend(1, 3), invalid(1)];
        assert_eq!(counts(&backends, 100, &[1, 500]), [75, 25]);
        assert_eq!(counts(&[invalid(1)], 10, &[500]), [10]);
    }

    #[test]
    fn no_weight_at_all_is_no_backend() {
        for backends in [&[][..], &[backend(1, 0), backend(2, 0)], &[invalid(0)]] {
            assert_eq!(share(backends, 7), Err(NoBackend::Weightless));
        }
    }

    #[test]
    fn the_choice_leaves_the_remainder_free() {
        let halves = [backend(1, 1), backend(2, 1)];
        let remainders = |wanted: u16| {
            let seeds = (0..1000_u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let of = seeds.filter(|seed| port(share(&halves, *seed)) == wanted);
            of.filter(|seed| seed % 2 == 0).count()
        };
        assert!((200..300).contains(&remainders(1)), "{}", remainders(1));
        assert!((200..300).contains(&remainders(2)), "{}", remainders(2));
    }
}
