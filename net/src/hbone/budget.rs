//! What all tunnels of a process may be made to keep, together: a number that is counted up when a stream is granted
//! something and down when it ends.
//!
//! It counts what was granted, not what is held: whoever was granted something may use it at any time, all at once. Every
//! stream begins with little; the streams of a tunnel get more once one of them is read as fast as it comes, as long as
//! half of the budget is left for those that begin.

use std::{
    cell::Cell,
    rc::Rc,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

use super::Settings;

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
    refused: AtomicU64,
}

/// No limit: for whoever has no process of its own.
pub(super) static NONE: Budget = Budget::new(usize::MAX);

/// What more is granted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A stream that would not be without it.
    Stream,
    /// Streams that would be slower without it.
    Speed,
}

/// Whether so many bytes more are granted where so many are already. Half of the limit is for new streams alone.
pub const fn allows(limit: usize, granted: usize, more: usize, need: Need) -> bool {
    let limit = match need {
        Need::Stream => limit,
        Need::Speed => limit / 2,
    };
    match granted.checked_add(more) {
        Some(all) => all <= limit,
        None => false,
    }
}

impl Budget {
    /// Of so many bytes.
    pub const fn new(limit: usize) -> Self {
        Self {
            limit,
            granted: AtomicUsize::new(0),
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

    fn take(&self, more: usize, need: Need) -> bool {
        let take = |granted| allows(self.limit, granted, more, need).then(|| granted + more);
        let taken = self
            .granted
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        if taken.is_err() && need == Need::Stream {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        taken.is_ok()
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

    /// For one stream more, if the budget has room for it.
    pub(super) fn stream(self: &Rc<Self>) -> Option<Share> {
        if !self.budget.take(self.cost(), Need::Stream) {
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
        if !self.budget.take(more, Need::Speed) {
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
    fn speed_is_granted_from_one_half_alone_and_streams_from_all() {
        for (granted, more, stream, speed) in [
            (0, 50, true, true),
            (0, 51, true, false),
            (50, 1, true, false),
            (0, 100, true, false),
            (99, 1, true, false),
            (99, 2, false, false),
            (100, 0, true, false),
            (101, 0, false, false),
            (usize::MAX, 1, false, false),
        ] {
            let told = [Need::Stream, Need::Speed].map(|need| allows(100, granted, more, need));
            assert_eq!(told, [stream, speed], "{more} more than {granted}");
        }
    }

    fn grant(limit: usize) -> Rc<Grant> {
        Grant::new(&Settings {
            budget: Box::leak(Box::new(Budget::new(limit))),
            send_buffer: 10,
            stream_window: 4 * 65_535,
            ..Settings::default()
        })
    }

    const LEAST: usize = super::super::FIRST;

    #[test]
    fn a_stream_beyond_the_budget_is_refused_and_counted_until_another_ends() {
        let grant = grant(2 * (LEAST + 10));
        let (one, two) = (grant.stream().unwrap(), grant.stream().unwrap());
        assert!(grant.stream().is_none());
        assert_eq!(grant.budget.refused(), 1);
        drop(one);
        assert!(grant.stream().is_some());
        drop(two);
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
