//! The log: one line an event, on standard output, never in the way.
//!
//! Whoever logs formats a line and leaves it in a bounded buffer; a thread of its own writes. The first line after silence
//! wakes that thread, and those of the next moment go out in one piece: to wake a thread costs more than a request. When
//! the buffer is full lines are dropped and counted, and the count is logged. Control characters are escaped, so that a
//! line is a line whatever a peer sent.

mod line;

use std::{
    fmt,
    io::Write,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use tracing::{Event, Subscriber, subscriber};
use tracing_subscriber::{
    Layer, Registry,
    filter::{LevelFilter, Targets},
    layer::{Context, SubscriberExt},
    reload,
};

/// Bytes of lines that wait to be written.
const ROOM: usize = 4 << 20;
/// So much memory is kept between writes.
const KEPT: usize = 512 << 10;
/// How long the writer lets lines gather, if it has just written some.
const PAUSE: Duration = Duration::from_millis(20);
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
    queue: Arc<Queue>,
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

/// Lines on their way from whoever logs to the writer.
struct Queue {
    waiting: Mutex<Waiting>,
    news: Condvar,
    /// Bytes that there is room for.
    room: usize,
    dropped: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    text: Vec<u8>,
    /// Who wants to know when all of it is written.
    flushes: Vec<SyncSender<()>>,
    /// The writer waits for as long as there is nothing.
    idle: bool,
    /// Nobody logs any more.
    closed: bool,
}

/// Starts the log of this process. `filter` is as in `RUST_LOG`: `info,ztunnel=debug`; empty means `info`.
pub fn start(filter: &str, format: Format) -> Result<Log, LogError> {
    let queue = Queue::new(ROOM);
    let lines = Arc::clone(&queue);
    let write = move || write(&lines, &mut std::io::stdout(), format);
    thread::Builder::new()
        .name("log".into())
        .spawn(write)
        .map_err(|_| LogError::NoThread)?;
    let (log, subscriber) = build(filter, format, queue)?;
    subscriber::set_global_default(subscriber).map_err(|_| LogError::Running)?;
    Ok(log)
}

fn build(
    filter: &str,
    format: Format,
    queue: Arc<Queue>,
) -> Result<(Log, impl Subscriber + Send + Sync), LogError> {
    let filter = if filter.trim().is_empty() {
        DEFAULT_FILTER
    } else {
        filter
    };
    let (targets, handle) = reload::Layer::new(parse(filter)?);
    let lines = Lines {
        format,
        queue: Arc::clone(&queue),
    };
    let log = Log {
        filter: handle,
        first: filter.into(),
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
        self.queue.dropped.load(Ordering::Relaxed)
    }

    /// Waits until what was logged is written, for as long as `patience`. For the end of a process.
    pub fn flush(&self, patience: Duration) {
        let (done, wait) = sync_channel(1);
        self.queue.lock().flushes.push(done);
        self.queue.news.notify_one();
        wait.recv_timeout(patience).ok();
    }
}

impl Queue {
    fn new(room: usize) -> Arc<Self> {
        Arc::new(Self {
            waiting: Mutex::default(),
            news: Condvar::new(),
            room,
            dropped: AtomicU64::new(0),
        })
    }

    /// Never held for longer than it takes to copy a line.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &str) {
        let mut waiting = self.lock();
        if waiting.text.len() + line.len() > self.room {
            drop(waiting);
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.text.extend_from_slice(line.as_bytes());
        if std::mem::take(&mut waiting.idle) {
            drop(waiting);
            self.news.notify_one();
        }
    }

    /// Takes what waits, in exchange for an empty buffer, and who wants to know that it is written. Blocks while there is
    /// nothing; false: and never will be.
    fn take(&self, text: &mut Vec<u8>, flushes: &mut Vec<SyncSender<()>>) -> bool {
        let nothing = |waiting: &mut Waiting| {
            waiting.idle = waiting.text.is_empty() && waiting.flushes.is_empty();
            waiting.idle && !waiting.closed
        };
        let waiting = self.news.wait_while(self.lock(), nothing);
        let mut waiting = waiting.unwrap_or_else(PoisonError::into_inner);
        waiting.idle = false;
        std::mem::swap(&mut waiting.text, text);
        std::mem::swap(&mut waiting.flushes, flushes);
        !(text.is_empty() && flushes.is_empty())
    }

    /// What waits, line by line.
    fn lines(&self) -> Vec<String> {
        let text = std::mem::take(&mut self.lock().text);
        let text = String::from_utf8_lossy(&text);
        text.split_inclusive('\n').map(str::to_owned).collect()
    }

    /// Lets lines gather, unless somebody waits for them.
    fn pause(&self) {
        let gathers = |waiting: &mut Waiting| waiting.flushes.is_empty() && !waiting.closed;
        let waited = self.news.wait_timeout_while(self.lock(), PAUSE, gathers);
        drop(waited);
    }
}

/// The lines that `body` logs in this thread, each with its newline: for tests of what is logged.
pub fn capture(filter: &str, format: Format, body: impl FnOnce()) -> Result<Vec<String>, LogError> {
    let queue = Queue::new(ROOM);
    let (_, subscriber) = build(filter, format, Arc::clone(&queue))?;
    subscriber::with_default(subscriber, body);
    Ok(queue.lines())
}

/// Formats events and queues their lines.
struct Lines {
    format: Format,
    queue: Arc<Queue>,
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        line::with(event, self.format, |line| self.queue.push(line));
    }
}

/// Writes until no one can log any more. An output that fails is not worth a proxy: its lines are lost.
fn write(queue: &Queue, output: &mut impl Write, format: Format) {
    let mut reported = 0;
    let (mut batch, mut flushes) = (Vec::new(), Vec::new());
    while queue.take(&mut batch, &mut flushes) {
        let lost = queue.dropped.load(Ordering::Relaxed);
        if lost > reported {
            batch.extend_from_slice(line::dropped(lost - reported, format).as_bytes());
            reported = lost;
        }
        output.write_all(&batch).and_then(|()| output.flush()).ok();
        batch.clear();
        batch.shrink_to(KEPT);
        for done in flushes.drain(..) {
            done.try_send(()).ok();
        }
        queue.pause();
    }
}

#[cfg(test)]
impl Queue {
    /// Lets the writer end, once it has written.
    fn close(&self) {
        self.lock().closed = true;
        self.news.notify_one();
    }
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
