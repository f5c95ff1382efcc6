//! The life of one identity's certificate: when to ask for it, when to renew it, when it must no longer be used.
//!
//! One enum, one transition function. It asks nobody and holds no key: `net::certificates` carries out what is due
//! and reports back. Times are since 1970, because certificates speak of wall-clock time.
//!
//! ```text
//! Missing ──asked──▶ Asking ──issued──▶ Held ──asked (half-life)──▶ Renewing ──issued──▶ Held
//!    ▲                  │                 ▲                            │
//!    └──────failed──────┘                 └───failed, asks later───────┘
//! ```
//! A certificate that has ended is [`Standing::Expired`] wherever its life stands: asking for the next one goes on.

use std::time::Duration;

/// The first failure is followed by a pause of this length …
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// … each further one by twice the pause before, up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(150);
/// Connections that wait cut a pause short: to this, counted from the failure.
const PAUSE_WHILE_WAITED_FOR: Duration = Duration::from_secs(1);
/// How much of a pause is left to chance.
const JITTER: f64 = 0.2;
/// How much of the time until renewal is left to chance, so that identities asked for together part ways.
const RENEWAL_JITTER: f64 = 0.1;

/// Where one identity's certificate stands. Failures are counted since the last success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// None was ever issued, or there is none to go back to.
    Missing(Pause),
    /// The first one is asked for.
    Asking {
        /// Failures before this attempt.
        failures: u32,
    },
    /// One is held; the next is asked for after the pause.
    Held {
        /// When it ends.
        until: Duration,
        /// When the next one is due.
        next: Pause,
    },
    /// One is held, and the next is asked for.
    Renewing {
        /// When the held one ends.
        until: Duration,
        /// Failures before this attempt.
        failures: u32,
    },
}

/// The time until the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    /// Failures so far.
    pub failures: u32,
    /// When it began.
    pub since: Duration,
    /// When it is over.
    pub until: Duration,
}

/// What happens to a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A connection waits for it.
    Awaited,
    /// The authority is being asked.
    Asked,
    /// The authority answered with a certificate that ends then.
    Issued {
        /// When it ends.
        until: Duration,
    },
    /// The authority refused, could not be reached, or answered with something that cannot be used.
    Failed,
    /// What it may have failed by is another one now, such as the token: the next attempt is worth making at once.
    Changed,
}

/// What an identity's connections may count on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Never had one; no attempt has failed yet.
    Initializing,
    /// A valid one is held.
    Available,
    /// Never had one, and asking failed.
    Unavailable,
    /// The one held has ended.
    Expired,
}

impl Default for Life {
    fn default() -> Self {
        Self::Missing(Pause {
            failures: 0,
            since: Duration::ZERO,
            until: Duration::ZERO,
        })
    }
}

impl Life {
    /// What follows from `event` at `now`. `chance` is a random number in `[0, 1)`.
    ///
    /// Total: an answer that comes late still counts if it is a certificate, and changes nothing if it is a failure.
    #[must_use]
    pub fn on(self, event: Event, now: Duration, chance: f64) -> Self {
        match (self, event) {
            (_, Event::Issued { until }) => {
                let half = until.saturating_sub(now) / 2;
                let next = now + half.mul_f64(1.0 - RENEWAL_JITTER * chance).max(FIRST_PAUSE);
                Self::Held {
                    until,
                    next: Pause {
                        failures: 0,
                        since: now,
                        until: next,
                    },
                }
            }
            (Self::Missing(pause), Event::Awaited) => Self::Missing(pause.hurried()),
            (Self::Held { until, next }, Event::Awaited) if now >= until => Self::Held {
                until,
                next: next.hurried(),
            },
            (Self::Missing(pause), Event::Asked) => Self::Asking {
                failures: pause.failures,
            },
            (Self::Held { until, next }, Event::Asked) => Self::Renewing {
                until,
                failures: next.failures,
            },
            (Self::Asking { failures }, Event::Failed) => {
                Self::Missing(Pause::after(failures, now, chance))
            }
            (Self::Renewing { until, failures }, Event::Failed) => Self::Held {
                until,
                next: Pause::after(failures, now, chance),
            },
            (Self::Missing(pause), Event::Changed) => Self::Missing(pause.over(now)),
            (Self::Held { until, next }, Event::Changed) if next.failures > 0 => Self::Held {
                until,
                next: next.over(now),
            },
            // Asked by what is the old one now.
            (Self::Asking { failures }, Event::Changed) => Self::Asking {
                failures: failures.min(1),
            },
            (Self::Renewing { until, failures }, Event::Changed) => Self::Renewing {
                until,
                failures: failures.min(1),
            },
            (Self::Held { .. }, Event::Awaited | Event::Failed | Event::Changed)
            | (Self::Missing(_), Event::Failed)
            | (Self::Asking { .. } | Self::Renewing { .. }, Event::Awaited | Event::Asked) => self,
        }
    }

    /// When the authority should next be asked; none while it is being asked.
    pub fn due(&self) -> Option<Duration> {
        match self {
            Self::Missing(pause) | Self::Held { next: pause, .. } => Some(pause.until),
            Self::Asking { .. } | Self::Renewing { .. } => None,
        }
    }

    /// What connections may count on at `now`. A certificate is not used from the second of its end on.
    pub fn standing(&self, now: Duration) -> Standing {
        match *self {
            Self::Held { until, .. } | Self::Renewing { until, .. } if now < until => {
                Standing::Available
            }
            Self::Held { .. } | Self::Renewing { .. } => Standing::Expired,
            Self::Missing(Pause { failures: 0, .. }) | Self::Asking { failures: 0 } => {
                Standing::Initializing
            }
            Self::Missing(_) | Self::Asking { .. } => Standing::Unavailable,
        }
    }
}

impl Pause {
    /// The pause after one more failure.
    fn after(failures: u32, now: Duration, chance: f64) -> Self {
        // 2^9 × 0.5 s is more than the longest pause.
        let length = (FIRST_PAUSE * (1 << failures.min(9))).min(LONGEST_PAUSE);
        let length = length.mul_f64(1.0 + JITTER * (2.0 * chance - 1.0));
        Self {
            failures: failures.saturating_add(1),
            since: now,
            until: now + length,
        }
    }

    /// The pause when someone waits for its end. One attempt a second is what a waiting connection is worth: after an
    /// outage of the authority it is served at once, and an authority in trouble is not asked per connection.
    fn hurried(self) -> Self {
        Self {
            until: self.until.min(self.since + PAUSE_WHILE_WAITED_FOR),
            ..self
        }
    }

    /// The pause when there is no reason for it any more. What fails now begins with short ones again.
    fn over(self, now: Duration) -> Self {
        Self {
            failures: self.failures.min(1),
            until: self.until.min(now),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    const NOW: Duration = s(1_000_000);
    /// Midway: no jitter of pauses.
    const EVEN: f64 = 0.5;

    fn pause(failures: u32, since: Duration, until: Duration) -> Pause {
        Pause {
            failures,
            since,
            until,
        }
    }

    #[test]
    fn every_state_takes_every_event() {
        use {Event::*, Life::*};
        let (failed, later) = (pause(3, NOW - s(1), NOW + s(9)), NOW + s(500));
        let hurried = pause(3, NOW - s(1), NOW);
        let issued = Issued {
            until: NOW + s(100),
        };
        let held = Held {
            until: NOW + s(100),
            next: pause(0, NOW, NOW + s(50).mul_f64(0.95)),
        };
        let again = pause(4, NOW, NOW + s(4));
        let (missing, asking) = (Missing(failed), Asking { failures: 3 });
        let (holding, renewing) = (
            Held {
                until: later,
                next: failed,
            },
            Renewing {
                until: later,
                failures: 3,
            },
        );
        let ended = Held {
            until: NOW,
            next: failed,
        };
        let table = [
            (missing, Awaited, Missing(hurried)),
            (missing, Asked, asking),
            (missing, issued, held),
            (missing, Failed, missing),
            (asking, Awaited, asking),
            (asking, Asked, asking),
            (asking, issued, held),
            (asking, Failed, Missing(again)),
            (holding, Awaited, holding),
            (
                ended,
                Awaited,
                Held {
                    until: NOW,
                    next: hurried,
                },
            ),
            (holding, Asked, renewing),
            (holding, issued, held),
            (holding, Failed, holding),
            (renewing, Awaited, renewing),
            (renewing, Asked, renewing),
            (renewing, issued, held),
            (
                renewing,
                Failed,
                Held {
                    until: later,
                    next: again,
                },
            ),
        ];
        for (state, event, next) in table {
            assert_eq!(state.on(event, NOW, EVEN), next, "{state:?} {event:?}");
        }
    }

    #[test]
    fn what_failed_is_due_at_once_when_its_reason_has_changed_and_nothing_else() {
        use {Event::Changed, Life::*};
        let until = NOW + s(500);
        let (failed, over) = (pause(3, NOW - s(1), NOW + s(9)), pause(1, NOW - s(1), NOW));
        let fine = pause(0, NOW - s(1), NOW + s(9));
        let held = |next| Held { until, next };
        let renewing = |failures| Renewing { until, failures };
        for (state, next) in [
            (Missing(failed), Missing(over)),
            (held(failed), held(over)),
            (held(fine), held(fine)),
            (Asking { failures: 3 }, Asking { failures: 1 }),
            (renewing(3), renewing(1)),
        ] {
            assert_eq!(state.on(Changed, NOW, EVEN), next, "{state:?}");
        }
    }

    #[test]
    fn the_first_is_due_at_once_and_the_next_at_half_life() {
        assert_eq!(Life::default().due(), Some(Duration::ZERO));
        let held = |chance| {
            Life::default()
                .on(
                    Event::Issued {
                        until: NOW + s(86_400),
                    },
                    NOW,
                    chance,
                )
                .due()
                .unwrap()
        };
        assert_eq!(held(0.0), NOW + s(43_200));
        assert_eq!(held(1.0), NOW + s(38_880));
    }

    #[test]
    fn pauses_double_up_to_their_longest() {
        let mut life = Life::default();
        let mut pauses = Vec::new();
        for _ in 0..40 {
            life = life
                .on(Event::Asked, NOW, EVEN)
                .on(Event::Failed, NOW, EVEN);
            pauses.push((life.due().unwrap() - NOW).as_millis());
        }
        assert_eq!(
            pauses[..10],
            [
                500, 1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 128_000, 150_000
            ]
        );
        assert!(pauses[10..].iter().all(|&p| p == 150_000));
        let least = Life::Asking { failures: 0 }
            .on(Event::Failed, NOW, 0.0)
            .due()
            .unwrap()
            - NOW;
        let most = Life::Asking { failures: 0 }
            .on(Event::Failed, NOW, 1.0)
            .due()
            .unwrap()
            - NOW;
        assert_eq!((least.as_millis(), most.as_millis()), (400, 600));
    }

    #[test]
    fn a_certificate_is_kept_until_it_ends_and_not_longer() {
        let until = NOW + s(100);
        let mut life = Life::default().on(Event::Issued { until }, NOW, EVEN);
        for _ in 0..3 {
            life = life.on(Event::Asked, NOW, EVEN);
            assert_eq!(
                life.standing(until - Duration::from_nanos(1)),
                Standing::Available
            );
            assert_eq!(life.standing(until), Standing::Expired);
            life = life.on(Event::Failed, NOW, EVEN);
            assert_eq!(life.standing(NOW), Standing::Available);
            assert_eq!(life.standing(until), Standing::Expired);
        }
    }

    #[test]
    fn what_was_never_held_says_whether_asking_failed() {
        let life = Life::default();
        assert_eq!(life.standing(NOW), Standing::Initializing);
        let life = life.on(Event::Asked, NOW, EVEN);
        assert_eq!(life.standing(NOW), Standing::Initializing);
        let life = life.on(Event::Failed, NOW, EVEN);
        assert_eq!(life.standing(NOW), Standing::Unavailable);
        let life = life.on(Event::Asked, NOW, EVEN);
        assert_eq!(life.standing(NOW), Standing::Unavailable);
    }

    #[test]
    fn one_that_has_ended_on_arrival_is_asked_for_again_after_a_pause() {
        let life = Life::default().on(Event::Issued { until: NOW - s(5) }, NOW, EVEN);
        assert_eq!(
            (life.standing(NOW), life.due()),
            (Standing::Expired, Some(NOW + FIRST_PAUSE))
        );
    }
}
