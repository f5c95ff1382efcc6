//! Requests that are under way, judged again whenever the rules change: what may not go on is cut.
//!
//! For that the head is kept as its client sent it; over HTTP/2 it serves to send the request once more, too. Not every
//! request is kept: see [`Judged::is_worth_it`].

use std::{
    cell::{Cell, RefCell},
    fmt,
    future::poll_fn,
    rc::{Rc, Weak},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use http::{HeaderMap, Method, Request, Version, header, request::Parts};
use mesh::waypoint::{Answer, Forward, Generation, Place, judge_again};

use super::{request, session::Session};
use crate::recheck::Change;

/// One request that is under way.
pub(super) struct Judged {
    session: Rc<Session>,
    /// As its client sent it, settled.
    head: Parts,
    /// Where it leads.
    place: RefCell<Option<Place>>,
    /// It is bytes both ways from now on.
    upgraded: Cell<bool>,
    /// Why it may not go on.
    cut: RefCell<Option<Answer>>,
    /// Who has to know, one per [`Side`].
    wakers: [RefCell<Option<Waker>>; 2],
    /// Its place among all.
    at: Cell<usize>,
}

/// Who is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// The request's body.
    Upload,
    /// Whoever waits for the answer, then the answer.
    Download,
}

/// Those of one worker.
#[derive(Default)]
pub(super) struct Requests(RefCell<Vec<Weak<Judged>>>);

impl fmt::Debug for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Judged")
    }
}

impl Judged {
    /// Whether a request is one that may last: any over HTTP/2, where the copy serves for sending it once more; else calls,
    /// streams of events, what changes its protocol, and what has a body. What an ordinary download over HTTP/1.1 was asked
    /// for with is not worth a copy for each short one.
    pub(super) fn is_worth_it(parts: &Parts, has_body: bool, is_call: bool) -> bool {
        has_body
            || is_call
            || parts.version == Version::HTTP_2
            || parts.method == Method::CONNECT
            || parts.headers.contains_key(header::UPGRADE)
            || wants_events(&parts.headers)
    }

    /// From now on until it is dropped it is judged whenever the rules change.
    pub(super) fn new(session: &Rc<Session>, head: &Parts) -> Rc<Self> {
        let mut all = session.front.requests.0.borrow_mut();
        let judged = Rc::new(Self {
            session: Rc::clone(session),
            head: copy(head),
            place: RefCell::default(),
            upgraded: Cell::new(false),
            cut: RefCell::default(),
            wakers: Default::default(),
            at: Cell::new(all.len()),
        });
        all.push(Rc::downgrade(&judged));
        judged
    }

    /// As its client sent it.
    pub(super) fn head(&self) -> Parts {
        copy(&self.head)
    }

    /// Remembers where it leads by a generation, before anything is awaited there.
    pub(super) fn leads_to(&self, forward: &Forward<'_>, by: &Arc<Generation>) {
        self.place
            .replace(forward.place(self.session.connection.table));
        // Where another endpoint was tried before, that may have taken its time.
        let newest = self.session.front.generation();
        if !Arc::ptr_eq(&newest, by) {
            self.judge(&newest);
        }
    }

    /// It is no request any more. Until when it may last nobody knows, so that it goes with its service, too.
    pub(super) fn upgrade(&self) {
        self.upgraded.set(true);
        self.judge(&self.session.front.generation());
    }

    /// Why it may not go on, if it may not.
    pub(super) fn cut(&self) -> Option<Answer> {
        self.cut.borrow().clone()
    }

    /// Whether it may not go on; `side` is woken when that is so.
    pub(super) fn poll_cut(&self, cx: &Context<'_>, side: Side) -> Poll<Answer> {
        if let Some(answer) = self.cut() {
            return Poll::Ready(answer);
        }
        match &mut *self.wakers[side as usize].borrow_mut() {
            Some(waker) => waker.clone_from(cx.waker()),
            waker => *waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Until it may not go on.
    pub(super) async fn until_cut(&self) -> Answer {
        poll_fn(|cx| self.poll_cut(cx, Side::Download)).await
    }

    fn judge(&self, generation: &Generation) {
        if self.cut.borrow().is_some() {
            return;
        }
        let Some(answer) = self.denied(generation) else {
            return;
        };
        self.cut.replace(Some(answer));
        let wakers = self.wakers.iter();
        for waker in wakers.filter_map(|waker| waker.borrow_mut().take()) {
            waker.wake();
        }
    }

    fn denied(&self, generation: &Generation) -> Option<Answer> {
        let session = &*self.session;
        let (key, number) = (session.connection.table, session.connection.port);
        let served = generation.table(key);
        let Some(served) = served.filter(|table| table.port(number).is_some()) else {
            // A request in flight comes to its end: who unbinds a service under load must not lose it.
            let gone = || Answer::NotServed(format!("{key}:{number}"));
            return self.upgraded.get().then(gone);
        };
        let (client, place) = (&session.connection.client, self.place.borrow());
        let denied = request::read(session, served, &self.head, |head| {
            judge_again(
                generation,
                (served, number),
                client,
                Some(head),
                place.as_ref(),
            )
        });
        // What cannot be read was answered so when it came.
        denied.unwrap_or_default()
    }
}

impl Drop for Judged {
    fn drop(&mut self) {
        let mut all = self.session.front.requests.0.borrow_mut();
        let at = self.at.get();
        all.swap_remove(at);
        if let Some(moved) = all.get(at).and_then(Weak::upgrade) {
            moved.at.set(at);
        }
    }
}

impl Requests {
    /// Judges all again that a change concerns.
    pub(super) fn recheck(&self, change: &Change<'_>) {
        // None of them ends meanwhile, nor begins.
        let all: Vec<_> = self.0.borrow().iter().filter_map(Weak::upgrade).collect();
        for judged in &all {
            let key = judged.session.connection.table;
            if change.concerns(key, judged.place.borrow().as_ref()) {
                judged.judge(change.after);
            }
        }
    }
}

/// A head without what only the connection that it came on can use.
fn copy(head: &Parts) -> Parts {
    let mut copy = Request::new(()).into_parts().0;
    copy.method.clone_from(&head.method);
    copy.uri.clone_from(&head.uri);
    copy.version = head.version;
    copy.headers.clone_from(&head.headers);
    copy
}

/// Whether an answer is asked for that has no end (`text/event-stream`, the `EventSource` of browsers).
fn wants_events(headers: &HeaderMap) -> bool {
    const EVENTS: &[u8] = b"text/event-stream";
    let mut accepted = headers.get_all(header::ACCEPT).iter();
    accepted.any(|value| {
        let mut kinds = value.as_bytes().split(|byte| *byte == b',');
        kinds.any(|kind| {
            let start = kind.trim_ascii().get(..EVENTS.len());
            start.is_some_and(|start| start.eq_ignore_ascii_case(EVENTS))
        })
    })
}
