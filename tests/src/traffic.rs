//! Requests one after the other, all the time, each on a connection of its own, while something else happens.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread::{self, ScopedJoinHandle},
};

use crate::world::World;

/// What goes on beside a test.
#[derive(Debug)]
pub struct Traffic<'scope, 'world> {
    world: &'world World,
    answered: &'world AtomicUsize,
    thread: &'scope ScopedJoinHandle<'scope, ()>,
}

/// Ends the traffic, also when the test does not come to its end.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Has the pod `from` call `to`, which `by` answers, while `body` runs.
///
/// # Panics
/// If a single request is not answered.
pub fn during(
    world: &World,
    (from, to, by): (&str, SocketAddr, &str),
    body: impl FnOnce(&Traffic<'_, '_>),
) {
    let (stop, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let answer = world.get(from, to).expect("an answer");
                assert_eq!((answer.status, answer.pod.as_str()), (200, by));
                answered.fetch_add(1, Ordering::Relaxed);
            }
        });
        let stop = Stop(&stop);
        let traffic = Traffic {
            world,
            answered: &answered,
            thread: &thread,
        };
        traffic.goes_on();
        body(&traffic);
        traffic.goes_on();
        drop(stop);
        thread.join().expect("every request is answered");
    });
}

impl Traffic<'_, '_> {
    /// Waits until some more requests have been answered.
    ///
    /// # Panics
    /// If one was not.
    pub fn goes_on(&self) {
        let so_far = self.answered.load(Ordering::Relaxed);
        self.world.until("requests are answered", || {
            self.holds();
            self.answered.load(Ordering::Relaxed) > so_far + 20
        });
    }

    /// That no request has failed so far.
    ///
    /// # Panics
    /// If one has.
    pub fn holds(&self) {
        assert!(!self.thread.is_finished(), "a request was not answered");
    }
}
