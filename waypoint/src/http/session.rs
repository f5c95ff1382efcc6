//! What all requests of one client connection have in common.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use http::HeaderValue;
use mesh::waypoint::Answer;
use tokio::time::Instant;

use super::{Connection, Front, upgrade::Upgraded};

/// One client connection.
pub(super) struct Session {
    pub(super) front: Rc<Front>,
    pub(super) connection: Connection,
    /// `x-forwarded-for`: the client's address.
    pub(super) forwarded_for: HeaderValue,
    /// `forwarded` (RFC 7239).
    pub(super) forwarded: HeaderValue,
    /// Requests that are not over.
    pub(super) in_flight: Cell<usize>,
    /// When the last one was over.
    pub(super) rested: Cell<Instant>,
    /// Every answer is the last one.
    pub(super) draining: Cell<bool>,
    /// Why no more is read.
    pub(super) fault: RefCell<Option<Answer>>,
    /// What the connection is from now on.
    pub(super) upgraded: RefCell<Option<Upgraded>>,
}

impl Session {
    pub(super) fn new(front: Rc<Front>, connection: Connection) -> Rc<Self> {
        let client = connection.client;
        let text = |text: String| HeaderValue::try_from(text).expect("addresses are plain ASCII");
        Rc::new(Self {
            forwarded_for: text(client.address.ip().to_canonical().to_string()),
            forwarded: text(format!("for=\"{}\";proto=http", client.address)),
            front,
            connection,
            in_flight: Cell::new(0),
            rested: Cell::new(Instant::now()),
            draining: Cell::new(false),
            fault: RefCell::default(),
            upgraded: RefCell::default(),
        })
    }
}
