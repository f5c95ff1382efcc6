//! Load: some clients that open a connection for every request, and some that keep theirs, while something else happens.
//!
//! A request that was open when a rule came into force may be cut; sent again it is a new one, and has to be answered. A
//! connection that is kept may be ended between two requests. A client that finds it ended, and has got nothing of an
//! answer, asks again on a new one, as every HTTP client does; what then fails has failed.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use cli::http::{Connection, Request, Response};

use crate::world::{PATIENCE, World};

/// What goes on beside a test.
#[derive(Debug)]
pub struct Load<'a> {
    world: &'a World,
    stop: AtomicBool,
    fresh: AtomicUsize,
    kept: AtomicUsize,
    reopened: AtomicUsize,
    cut: AtomicUsize,
    failed: Mutex<Vec<String>>,
}

/// What came of a load of which nothing failed.
#[derive(Clone, Copy, Debug)]
pub struct Counts {
    /// Requests on connections of their own.
    pub fresh: usize,
    /// Requests on connections that were kept.
    pub kept: usize,
    /// Kept connections that were ended by the other side.
    pub reopened: usize,
    /// Requests on connections of their own that were cut while they were open, and answered when they were sent again.
    pub cut: usize,
}

/// Has the pod `from` send GET requests to `to` from two clients of each kind while `body` runs.
///
/// # Panics
/// If a request is answered otherwise than with 200, or twice not at all.
pub fn during(
    world: &World,
    (from, to): (&str, SocketAddr),
    body: impl FnOnce(&Load<'_>),
) -> Counts {
    let load = Load {
        world,
        stop: AtomicBool::new(false),
        fresh: AtomicUsize::new(0),
        kept: AtomicUsize::new(0),
        reopened: AtomicUsize::new(0),
        cut: AtomicUsize::new(0),
        failed: Mutex::default(),
    };
    thread::scope(|scope| {
        let stop = Stop(&load.stop);
        for _ in 0..2 {
            scope.spawn(|| load.ask_afresh(from, to));
            scope.spawn(|| load.keep_asking(from, to));
        }
        load.goes_on();
        body(&load);
        load.goes_on();
        drop(stop);
    });
    load.holds();
    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    Counts {
        fresh: count(&load.fresh),
        kept: count(&load.kept),
        reopened: count(&load.reopened),
        cut: count(&load.cut),
    }
}

/// Ends the load, also when the test does not come to its end.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Load<'_> {
    /// Waits until some more requests of each kind have been answered.
    ///
    /// # Panics
    /// If one was not.
    pub fn goes_on(&self) {
        let before = [&self.fresh, &self.kept].map(|it| it.load(Ordering::Relaxed));
        self.world.until("requests are answered", || {
            self.holds();
            let now = [&self.fresh, &self.kept].map(|it| it.load(Ordering::Relaxed));
            now[0] > before[0] + 20 && now[1] > before[1] + 20
        });
    }

    /// That no request has failed so far.
    ///
    /// # Panics
    /// If one has.
    pub fn holds(&self) {
        let failed = self.failed.lock().expect("nobody panics with it");
        assert!(failed.is_empty(), "requests failed: {failed:?}");
    }

    fn ask_afresh(&self, from: &str, to: SocketAddr) {
        while !self.stop.load(Ordering::Relaxed) {
            let once = || open(self.world, from, to).and_then(|mut it| ask(&mut it));
            let answer = once().or_else(|_| {
                self.cut.fetch_add(1, Ordering::Relaxed);
                once()
            });
            self.count(&self.fresh, answer);
        }
    }

    fn keep_asking(&self, from: &str, to: SocketAddr) {
        let mut kept: Option<Connection> = None;
        while !self.stop.load(Ordering::Relaxed) {
            if let Some(connection) = &mut kept
                && let Ok(answer) = ask(connection)
            {
                if answer.header("connection") == Some("close") {
                    kept = None;
                }
                self.count(&self.kept, Ok(answer));
                continue;
            }
            if kept.is_some() {
                self.reopened.fetch_add(1, Ordering::Relaxed);
            }
            let answer = open(self.world, from, to).and_then(|mut connection| {
                let answer = ask(&mut connection)?;
                kept = Some(connection);
                Ok(answer)
            });
            self.count(&self.kept, answer);
        }
    }

    fn count(&self, kind: &AtomicUsize, answer: io::Result<Response>) {
        let why = match answer {
            Ok(answer) if answer.status == 200 => {
                kind.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Ok(answer) => format!(
                "status {}: {}",
                answer.status,
                String::from_utf8_lossy(&answer.body)
            ),
            Err(error) => error.to_string(),
        };
        self.stop.store(true, Ordering::Relaxed);
        self.failed.lock().expect("nobody panics with it").push(why);
    }
}

fn open(world: &World, from: &str, to: SocketAddr) -> io::Result<Connection> {
    let stream = world.lab.connect(world.netns(from), to, PATIENCE)?;
    Ok(Connection::over(stream, to.to_string()))
}

fn ask(connection: &mut Connection) -> io::Result<Response> {
    connection.ask(&Request::get("/"))
}
