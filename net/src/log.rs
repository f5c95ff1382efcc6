//! The log: one line an event, on standard output, never in the way.
//!
//! Whoever logs formats a line and leaves it in a bounded queue; a thread of its own writes. When the queue is full
//! lines are dropped and counted, and the count is logged. Control characters are escaped, so that a line is a line
//! whatever a peer sent.

mod line;

use std::{
    fmt,
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use tracing::{Event, Subscriber, subscriber};
use tracing_subscriber::{
    Layer, Registry,
    filter::{LevelFilter, Targets},
    layer::{Context, SubscriberExt},
    reload,
};

/// Lines that wait to be written.
const QUEUE: usize = 10_000;
/// So much is written at once, if so much waits.
const BATCH: usize = 64 * 1024;
/// What is logged when nothing is said about it.
pub const DEFAULT_FILTER: &str = "info";

/// The target of events whose message is a whole line of text in a form of its own, time included.
pub const WHOLE: &str = "request";

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `time level target message key=value …`, with tabs before the values.
    #[default]
    Text,
    /// One object (`LOG_FORMAT=json`): `level`, `time`, `scope`, `message` and the values.
    Json,
}

impl Format {
    /// The format of this name (`LOG_FORMAT`): `json`, or `plain` or `text`.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "json" => Some(Self::Json),
            "plain" | "text" => Some(Self::Text),
            _ => None,
        }
    }
}

/// The running log.
#[derive(Clone)]
pub struct Log {
    filter: reload::Handle<Targets, Registry>,
    first: Arc<str>,
    dropped: Arc<AtomicU64>,
    queue: SyncSender<Line>,
}

/// Why a log cannot start or change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogError {
    /// Not of the form `level` or `target=level`, separated by commas.
    BadFilter(String),
    /// This process has one already.
    Running,
    /// No thread can be started.
    NoThread,
}

enum Line {
    Text(String),
    /// Everything before it is written.
    Flush(SyncSender<()>),
}

/// Starts the log of this process. `filter` is as in `RUST_LOG`: `info,ztunnel=debug`; empty means `info`.
pub fn start(filter: &str, format: Format) -> Result<Log, LogError> {
    let (queue, lines) = sync_channel(QUEUE);
    let dropped = Arc::new(AtomicU64::new(0));
    let lost = Arc::clone(&dropped);
    let write = move || write(&lines, &mut std::io::stdout(), &lost, format);
    thread::Builder::new()
        .name("log".into())
        .spawn(write)
        .map_err(|_| LogError::NoThread)?;
    let (log, subscriber) = build(filter, format, queue, dropped)?;
    subscriber::set_global_default(subscriber).map_err(|_| LogError::Running)?;
    Ok(log)
}

fn build(
    filter: &str,
    format: Format,
    queue: SyncSender<Line>,
    dropped: Arc<AtomicU64>,
) -> Result<(Log, impl Subscriber + Send + Sync), LogError> {
    let filter = if filter.trim().is_empty() {
        DEFAULT_FILTER
    } else {
        filter
    };
    let (targets, handle) = reload::Layer::new(parse(filter)?);
    let lines = Lines {
        format,
        queue: queue.clone(),
        dropped: Arc::clone(&dropped),
    };
    let log = Log {
        filter: handle,
        first: filter.into(),
        dropped,
        queue,
    };
    Ok((
        log,
        tracing_subscriber::registry().with(lines.with_filter(targets)),
    ))
}

/// Stricter than the library, for which `inof` is a target to be traced.
fn parse(filter: &str) -> Result<Targets, LogError> {
    let bad = || LogError::BadFilter(filter.to_owned());
    let plain = |part: &str| part.contains('=') || part.trim().parse::<LevelFilter>().is_ok();
    let targets = filter.parse().map_err(|_| bad())?;
    if filter.split(',').all(plain) {
        Ok(targets)
    } else {
        Err(bad())
    }
}

impl Log {
    /// Changes what is logged from now on.
    pub fn set(&self, filter: &str) -> Result<(), LogError> {
        let targets = parse(filter)?;
        self.filter.reload(targets).map_err(|_| LogError::Running)
    }

    /// Goes back to what the process was started with.
    pub fn reset(&self) {
        self.set(&self.first).ok();
    }

    /// What is logged now.
    pub fn filter(&self) -> String {
        self.filter
            .with_current(Targets::to_string)
            .unwrap_or_default()
    }

    /// Lines that were dropped so far.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits until what was logged is written, for as long as `patience`. For the end of a process.
    pub fn flush(&self, patience: Duration) {
        let until = Instant::now() + patience;
        let (done, wait) = sync_channel(1);
        let mut flush = Line::Flush(done);
        while let Err(TrySendError::Full(back)) = self.queue.try_send(flush) {
            if Instant::now() >= until {
                return;
            }
            flush = back;
            thread::sleep(Duration::from_millis(1));
        }
        wait.recv_timeout(until.saturating_duration_since(Instant::now()))
            .ok();
    }
}

/// Formats events and queues their lines.
struct Lines {
    format: Format,
    queue: SyncSender<Line>,
    dropped: Arc<AtomicU64>,
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let line = line::format(event, self.format);
        if self.queue.try_send(Line::Text(line)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Writes until no one can log any more. An output that fails is not worth a proxy: its lines are lost.
fn write(lines: &Receiver<Line>, output: &mut impl Write, dropped: &AtomicU64, format: Format) {
    let mut reported = 0;
    let mut batch = Vec::new();
    while let Ok(first) = lines.recv() {
        let mut flushed = Vec::new();
        for line in std::iter::once(first).chain(lines.try_iter()) {
            match line {
                Line::Text(text) => batch.extend_from_slice(text.as_bytes()),
                Line::Flush(done) => flushed.push(done),
            }
            if batch.len() >= BATCH {
                break;
            }
        }
        let lost = dropped.load(Ordering::Relaxed);
        if lost > reported {
            batch.extend_from_slice(line::dropped(lost - reported, format).as_bytes());
            reported = lost;
        }
        output.write_all(&batch).and_then(|()| output.flush()).ok();
        batch.clear();
        for done in flushed {
            done.try_send(()).ok();
        }
    }
}

/// The lines that `body` logs in this thread.
#[cfg(test)]
pub(crate) fn capture(filter: &str, format: Format, body: impl FnOnce()) -> Vec<String> {
    let (queue, lines) = sync_channel(QUEUE);
    let (_, subscriber) = build(filter, format, queue, Arc::default()).expect("tests give filters");
    subscriber::with_default(subscriber, body);
    lines
        .try_iter()
        .filter_map(|line| {
            if let Line::Text(text) = line {
                Some(text)
            } else {
                None
            }
        })
        .collect()
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadFilter(text) => write!(
                f,
                "{text:?} is no log filter: use a level (error, warn, info, debug, trace, off) or target=level, \
                 separated by commas"
            ),
            Self::Running => f.write_str("the log of this process cannot be changed"),
            Self::NoThread => f.write_str("no thread could be started for the log"),
        }
    }
}

impl std::error::Error for LogError {}

#[cfg(test)]
mod tests;
