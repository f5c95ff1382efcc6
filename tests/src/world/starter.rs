//! Processes die with the thread that started them: this one lives as long as whoever needs it.

use std::{sync::mpsc, thread};

/// A thread that starts processes and lives on.
#[derive(Debug)]
pub(super) struct Starter(mpsc::Sender<Box<dyn FnOnce() + Send>>);

impl Starter {
    pub(super) fn new() -> Self {
        let (jobs, todo) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        thread::spawn(move || todo.into_iter().for_each(|job| job()));
        Self(jobs)
    }

    /// Does something on the thread.
    pub(super) fn call<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, answer) = mpsc::channel();
        let job = Box::new(move || done.send(job()).expect("somebody waits"));
        self.0.send(job).expect("the thread lives");
        answer.recv().expect("the thread answers")
    }
}
