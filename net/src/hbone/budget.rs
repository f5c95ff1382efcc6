//! What all tunnels of a process may make it hold, together. Two numbers: what is granted, counted up when a stream is granted
//! something and down when it ends; and what the process really holds, which it is told.
//!
//! Every stream begins with little; the streams of a tunnel get more once one of them is read as fast as it comes, as long as
//! half of the budget is left: whoever was granted something may use it at any time, all at once. Most never do, and so
//! streams are refused only when the process really holds too much, whatever for.

use std::{
    cell::Cell,
    rc::Rc,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

use super::Settings;

/// The window that streams begin with: enough for 1 Gbit/s over a way of two milliseconds.
pub(super) const LEAST: u32 = 256 << 10;
/// Bytes of a stream that are read before its tunnel asks for more: what the buffer of a socket may take of them though nobody
/// reads there (Linux: `tcp_wmem`).
const PROVEN: usize = 4 << 20;
/// Streams that share a tunnel with full windows: whoever else is in it, and is not read, keeps as much.
const SHARERS: usize = 16;

/// Of all tunnels of a process.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    granted: AtomicUsize,
    held: AtomicUsize,
    refused: AtomicU64,
}

/// No limit: for whoever has no process of its own.
pub(super) static NONE: Budget = Budget::new(usize::MAX);

/// Whether a stream may begin in a process that holds so many bytes.
const fn fits(limit: usize, held: usize) -> bool {
    held <= limit
}

/// Whether streams are granted so many bytes more, where so many are granted and held already.
const fn grows(limit: usize, held: usize, granted: usize, more: usize) -> bool {
    match granted.checked_add(more) {
        Some(all) => fits(limit, held) && all <= limit / 2,
        None => false,
    }
}

impl Budget {
    /// Of so many bytes.
    pub const fn new(limit: usize) -> Self {
        Self {
            limit,
            granted: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// Bytes that are granted now.
    pub fn granted(&self) -> usize {
        self.granted.load(Ordering::Relaxed)
    }

    /// Streams that were refused so far.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// What the process holds now, as far as it is known.
    pub fn hold(&self, bytes: usize) {
        self.held.store(bytes, Ordering::Relaxed);
    }

    fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    fn begin(&self, bytes: usize) -> bool {
        if !fits(self.limit, self.held()) {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        self.granted.fetch_add(bytes, Ordering::Relaxed);
        true
    }

    fn grow(&self, more: usize) -> bool {
        let held = self.held();
        let grow = |granted| grows(self.limit, held, granted, more).then(|| granted + more);
        let grown = self
            .granted
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, grow);
        grown.is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.granted.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// What one tunnel grants on each of its streams.
#[derive(Debug)]
pub(super) struct Grant {
    budget: &'static Budget,
    send_buffer: usize,
    /// The window of its streams, as long as it has not grown.
    least: u32,
    /// And when it has.
    full: u32,
    grown: Cell<bool>,
    wanted: Cell<bool>,
    streams: Cell<usize>,
}

impl Grant {
    pub(super) fn new(settings: &Settings) -> Rc<Self> {
        Rc::new(Self {
            budget: settings.budget,
            send_buffer: settings.send_buffer,
            least: settings.least(),
            full: settings.stream_window,
            grown: Cell::new(false),
            wanted: Cell::new(false),
            streams: Cell::new(0),
        })
    }

    /// What one stream can make us keep.
    fn cost(&self) -> usize {
        let window = if self.grown.get() {
            self.full
        } else {
            self.least
        };
        self.send_buffer.saturating_add(window as usize)
    }

    /// For one stream more, if the process does not hold too much.
    pub(super) fn stream(self: &Rc<Self>) -> Option<Share> {
        if !self.budget.begin(self.cost()) {
            return None;
        }
        self.streams.set(self.streams.get() + 1);
        Some(Share {
            grant: Rc::clone(self),
            read: 0,
        })
    }

    /// Streams that should be open at once.
    pub(super) fn most(&self) -> usize {
        if self.grown.get() {
            SHARERS
        } else {
            usize::MAX
        }
    }

    /// Grants all streams the full window by `set`, if one has asked for it and the budget has room.
    pub(super) fn grow<E>(&self, set: impl FnOnce(u32) -> Result<(), E>) {
        if !self.wanted.take() || self.grown.get() || self.streams.get() > SHARERS {
            return;
        }
        let more = self.full.saturating_sub(self.least) as usize;
        let more = more.saturating_mul(self.streams.get());
        if !self.budget.grow(more) {
            return;
        }
        // It cannot be said while what was said before is not acknowledged: the next one who asks may have more luck.
        if set(self.full).is_err() {
            return self.budget.give_back(more);
        }
        self.grown.set(true);
    }
}

/// What was granted for one stream; given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    grant: Rc<Grant>,
    read: usize,
}

impl Share {
    /// So many bytes were read: enough of them are worth a larger window. Said before the tunnel is told of them.
    pub(super) fn read(&mut self, bytes: usize) {
        self.read = self.read.saturating_add(bytes);
        if self.read >= PROVEN {
            self.read = 0;
            self.grant.wanted.set(true);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.grant.streams.set(self.grant.streams.get() - 1);
        self.grant.budget.give_back(self.grant.cost());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_begin_as_long_as_the_process_holds_no_more_than_the_limit_and_grow_into_half_of_it()
    {
        for (held, granted, more, begins, grown) in [
            (0, 0, 50, true, true),
            (0, 0, 51, true, false),
            (0, 50, 1, true, false),
            (0, 500, 1, true, false),
            (100, 0, 50, true, true),
            (101, 0, 1, false, false),
            (0, usize::MAX, 1, true, false),
        ] {
            let told = (fits(100, held), grows(100, held, granted, more));
            assert_eq!(
                told,
                (begins, grown),
                "{more} more than {granted}, {held} held"
            );
        }
    }

    fn grant(limit: usize) -> Rc<Grant> {
        Grant::new(&Settings {
            budget: Box::leak(Box::new(Budget::new(limit))),
            send_buffer: 10,
            stream_window: 4 * super::LEAST,
            ..Settings::default()
        })
    }

    const LEAST: usize = super::LEAST as usize;

    #[test]
    fn a_stream_is_refused_and_counted_while_the_process_holds_too_much() {
        let grant = grant(LEAST);
        let (one, two) = (grant.stream().unwrap(), grant.stream().unwrap());
        grant.budget.hold(LEAST + 1);
        assert!(grant.stream().is_none());
        assert_eq!(grant.budget.refused(), 1);
        grant.budget.hold(LEAST);
        assert!(grant.stream().is_some());
        drop((one, two));
        assert_eq!(grant.budget.granted(), 0);
    }

    #[test]
    fn a_tunnel_grows_once_a_stream_is_read_and_gives_all_of_it_back() {
        let grant = grant(20 * LEAST);
        let (mut one, two) = (grant.stream().unwrap(), grant.stream().unwrap());
        let told = Cell::new(None);
        let set = |window| {
            told.set(Some(window));
            Ok::<_, ()>(())
        };
        one.read(PROVEN - 1);
        grant.grow(set);
        assert_eq!(told.get(), None);
        one.read(1);
        grant.grow(set);
        assert_eq!(told.take(), Some(grant.full));
        assert_eq!(grant.most(), SHARERS);
        assert_eq!(grant.budget.granted(), 2 * (4 * LEAST + 10));
        one.read(PROVEN);
        grant.grow(set);
        assert_eq!(told.get(), None, "it has grown already");
        drop((one, two));
        assert_eq!(grant.budget.granted(), 0);
    }

    #[test]
    fn a_tunnel_stays_as_it_is_where_half_of_the_budget_is_granted_or_many_share_it_or_it_cannot_be_said()
     {
        let tight = grant(10 * LEAST);
        let (mut one, _two) = (tight.stream().unwrap(), tight.stream().unwrap());
        one.read(PROVEN);
        let before = tight.budget.granted();
        tight.grow(|_| -> Result<(), ()> { panic!("there is no room") });
        assert_eq!(tight.budget.granted(), before);
        let crowd = grant(usize::MAX);
        let mut streams: Vec<_> = (0..=SHARERS).map(|_| crowd.stream().unwrap()).collect();
        streams[0].read(PROVEN);
        crowd.grow(|_| -> Result<(), ()> { panic!("there are too many") });
        let roomy = grant(100 * LEAST);
        let mut one = roomy.stream().unwrap();
        one.read(PROVEN);
        let before = roomy.budget.granted();
        roomy.grow(|_| Err(()));
        assert_eq!(roomy.budget.granted(), before);
        drop(one);
        assert_eq!(roomy.budget.granted(), 0);
    }
}
