//! Watches a link and counts: which TCP flows, and frames that hold a certain string.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use sys::{
    netns::Netns,
    packet::{Capture, LARGEST_FRAME},
};

use super::frame::{self, Flow};

/// Collects until it is asked for what it saw.
#[derive(Debug)]
pub struct Sniffer {
    stop: Arc<AtomicBool>,
    /// `None` once it was asked.
    thread: Option<JoinHandle<io::Result<Seen>>>,
}

/// What went over a link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Frames of any kind.
    pub frames: u64,
    /// Frames that hold the string.
    pub canaries: u64,
    /// Segments of each TCP flow.
    pub flows: BTreeMap<Flow, u64>,
    /// Frames that were not looked at, because they came too fast.
    pub lost: u32,
}

impl Sniffer {
    /// Begins to watch an interface of a namespace for frames that hold `canary`, which is not empty.
    pub fn start(netns: &Netns, interface: &str, canary: &[u8]) -> io::Result<Self> {
        let capture = netns.within(|| Capture::open(interface))?;
        let (stop, canary) = (Arc::new(AtomicBool::new(false)), canary.to_vec());
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("sniffer".into())
            .spawn(move || watch(&capture, &canary, &stopped))?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }

    /// Stops, and tells what went over the link from the start until now.
    pub fn finish(mut self) -> io::Result<Seen> {
        self.stop.store(true, Ordering::Release);
        let thread = self
            .thread
            .take()
            .ok_or_else(|| io::Error::other("the sniffer has ended already"))?;
        thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the sniffer panicked")))
    }
}

impl Drop for Sniffer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

fn watch(capture: &Capture, canary: &[u8], stop: &AtomicBool) -> io::Result<Seen> {
    let mut seen = Seen::default();
    let mut buffer = vec![0; LARGEST_FRAME];
    loop {
        // Asked before the queue is emptied, so that all that came before the stop is seen.
        let last = stop.load(Ordering::Acquire);
        loop {
            match capture.receive(&mut buffer) {
                Ok(length) => seen.take(&buffer[..length], canary),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        seen.lost += capture.lost()?;
        if last {
            return Ok(seen);
        }
        thread::sleep(Duration::from_millis(2));
    }
}

impl Seen {
    fn take(&mut self, frame: &[u8], canary: &[u8]) {
        self.frames += 1;
        self.canaries += u64::from(frame.windows(canary.len()).any(|part| part == canary));
        if let Some(flow) = frame::flow(frame) {
            *self.flows.entry(flow).or_default() += 1;
        }
    }
}
