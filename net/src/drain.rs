//! The end of a process, told to everyone who has something to finish.
//!
//! First *drain*: begin nothing new, let what runs come to its end. At the deadline *cut*: stop now. Handles are cheap,
//! and usable on every thread.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not begun.
    Running,
    /// Nothing new; what runs may finish.
    Draining {
        /// When it is cut.
        until: Instant,
    },
    /// Now.
    Cut,
}

/// Who decides.
#[derive(Debug)]
pub struct Drainer(watch::Sender<Phase>);

/// Who follows. Whoever holds one has something to finish; dropping it says that it is finished.
#[derive(Clone, Debug)]
pub struct Drain(watch::Receiver<Phase>);

/// A pair in the running phase.
pub fn pair() -> (Drainer, Drain) {
    let (sender, receiver) = watch::channel(Phase::Running);
    (Drainer(sender), Drain(receiver))
}

impl Drainer {
    /// Another follower.
    pub fn follow(&self) -> Drain {
        Drain(self.0.subscribe())
    }

    /// Drains for at most `grace`, then cuts. Returns whether everyone had finished before that.
    pub async fn drain(self, grace: Duration) -> bool {
        let until = Instant::now() + grace;
        self.0.send_replace(Phase::Draining { until });
        let finished = timeout_at(until, self.0.closed()).await.is_ok();
        self.0.send_replace(Phase::Cut);
        finished
    }

    /// Cuts at once.
    pub fn cut(self) {
        self.0.send_replace(Phase::Cut);
    }
}

impl Drain {
    /// How far it is.
    pub fn phase(&self) -> Phase {
        match *self.0.borrow() {
            // Nobody is left to decide otherwise.
            _ if self.0.has_changed().is_err() => Phase::Cut,
            phase => phase,
        }
    }

    /// Until draining has begun.
    pub async fn begun(&mut self) {
        // An error says that nobody decides any more, which is an end too.
        self.0.wait_for(|phase| *phase != Phase::Running).await.ok();
    }

    /// Until everything has to stop.
    pub async fn cut(&mut self) {
        self.0.wait_for(|phase| *phase == Phase::Cut).await.ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_when_everyone_has_finished() {
        let (drainer, mut drain) = pair();
        let mut other = drainer.follow();
        assert_eq!(drain.phase(), Phase::Running);
        let begun = Instant::now();
        let work = tokio::spawn(async move {
            drain.begun().await;
            tokio::time::sleep(Duration::from_secs(2)).await;
        });
        let last = tokio::spawn(async move { other.begun().await });
        assert!(drainer.drain(Duration::from_secs(5)).await);
        assert_eq!(begun.elapsed(), Duration::from_secs(2));
        work.await.unwrap();
        last.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_late_is_cut() {
        let (drainer, mut drain) = pair();
        let begun = Instant::now();
        let late = tokio::spawn(async move {
            drain.begun().await;
            assert_eq!(
                drain.phase(),
                Phase::Draining {
                    until: begun + Duration::from_secs(5)
                }
            );
            drain.cut().await;
            Instant::now()
        });
        assert!(!drainer.drain(Duration::from_secs(5)).await);
        assert_eq!(late.await.unwrap() - begun, Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_drainer_that_is_gone_has_cut() {
        for explicit in [true, false] {
            let (drainer, mut drain) = pair();
            if explicit {
                drainer.cut()
            } else {
                drop(drainer)
            }
            assert_eq!(drain.phase(), Phase::Cut);
            drain.begun().await;
            drain.cut().await;
        }
    }
}
