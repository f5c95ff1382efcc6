//! Judging once more what is open, when the rules have changed: what may not go on is cut, all else stays where it is.
//!
//! Connections without requests, upgraded ones and requests that are under way have this in common.

use std::sync::Arc;

use mesh::{
    name::Name,
    waypoint::{Answer, Generation},
};

/// Where something open leads.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The backend.
    pub(crate) backend: Name,
    /// The uid of its endpoint.
    pub(crate) endpoint: Arc<str>,
}

impl Place {
    /// All endpoints of the backend but this one. With those out of question, the same endpoint is judged, if it is still one.
    pub(crate) fn others(&self, generation: &Generation) -> Vec<Arc<str>> {
        let all = generation.mesh.endpoints(self.backend).iter();
        all.map(|endpoint| Arc::clone(&endpoint.workload.uid))
            .filter(|uid| *uid != self.endpoint)
            .collect()
    }
}

/// Why something may not go on, if what it was judged to now says so. That it would lead elsewhere, or nowhere, is no reason:
/// it was well begun.
pub(crate) fn cut<T>(outcome: Result<T, Answer>) -> Option<Answer> {
    match outcome {
        Err(answer @ (Answer::Denied(_) | Answer::NotServed(_))) => Some(answer),
        Ok(_) | Err(_) => None,
    }
}
