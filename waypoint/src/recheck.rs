//! What is open and concerned by a change of the rules: it is judged once more where it is, by `mesh::waypoint::judge_again`.
//! What may not go on is cut, all else stays.
//!
//! Connections without requests, upgraded ones and requests that are under way have this in common.

use std::sync::Arc;

use mesh::{
    name::Name,
    waypoint::{Backend, Generation, Place},
};

/// One generation after another. Who may go on by the one may by the other, unless it concerns him: endpoints come and go
/// often, and what is open may be much.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change<'a> {
    before: &'a Generation,
    pub(crate) after: &'a Generation,
    /// Layer 4 policies are the same.
    same_policies: bool,
}

impl<'a> Change<'a> {
    pub(crate) fn new(before: &'a Generation, after: &'a Generation) -> Self {
        Self {
            before,
            after,
            same_policies: after.mesh.has_policies_of(&before.mesh),
        }
    }

    /// Whether what was asked of a service, and leads to a place, may be judged otherwise.
    pub(crate) fn concerns(&self, table: Name, place: Option<&Place>) -> bool {
        let Self { before, after, .. } = self;
        let Some(place) = place else {
            return true;
        };
        let (backend, endpoint) = (place.backend, &place.endpoint.workload.uid);
        let stays = self.same_policies
            && is_same(before.table(table), after.table(table))
            && match (before.backend(backend), after.backend(backend)) {
                (Some(one), Some(other)) => decides_alike(one, other),
                (one, other) => one.is_none() && other.is_none(),
            }
            && is_same(
                before.mesh.workload(endpoint),
                after.mesh.workload(endpoint),
            );
        !stays
    }
}

/// Whether it is the very same, or nothing both times.
fn is_same<T>(one: Option<&Arc<T>>, other: Option<&Arc<T>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (one, other) => one.is_none() && other.is_none(),
    }
}

/// A backend is made anew with each of its endpoints; what is decided by it mostly stays.
fn decides_alike(one: &Backend, other: &Backend) -> bool {
    let mut policies = one.policies.iter().zip(&other.policies);
    one.policies.len() == other.policies.len()
        && policies.all(|(one, other)| Arc::ptr_eq(one, other))
        && is_same(one.service.as_ref(), other.service.as_ref())
        && is_same(one.waypoint.as_ref(), other.waypoint.as_ref())
        && one.refused == other.refused
}
