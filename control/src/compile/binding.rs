//! Which service is bound to which waypoint: labels, what a listener admits, and how far the binding has come.

use std::collections::{BTreeMap, BTreeSet};

use super::Scope;
use crate::world::Key;

/// The bindings of all services.
pub(super) struct Bindings {
    gateways: BTreeMap<Key, Key>,
    services: BTreeMap<Key, BTreeSet<Key>>,
}

impl Bindings {
    pub(super) fn new(_scope: Scope<'_>) -> Self {
        Self {
            gateways: BTreeMap::new(),
            services: BTreeMap::new(),
        }
    }

    /// The gateway that a service is labelled to and that admits it, ready or not.
    pub(super) fn of(&self, service: &Key) -> Option<&Key> {
        self.gateways.get(service)
    }

    /// The services that the waypoint of a gateway is told of.
    pub(super) fn services_of(&self, gateway: &Key) -> impl Iterator<Item = &Key> {
        self.services.get(gateway).into_iter().flatten()
    }
}
