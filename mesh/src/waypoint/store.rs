//! Applies what the control plane says.

use std::sync::Arc;

use crate::{
    delta::Delta,
    name::Name,
    waypoint::{Generation, Rejected},
};

/// The writer's side.
#[derive(Debug)]
pub struct Store {
    /// Layer 4 policies of this namespace are for the mesh where nothing better can be read.
    root_namespace: Name,
    current: Arc<Generation>,
}

impl Store {
    /// An empty store.
    pub fn new(root_namespace: Name) -> Self {
        Self {
            root_namespace,
            current: Arc::default(),
        }
    }

    /// Applies one response. What is not acceptable is told by name and reason; all else is in force.
    pub fn apply(&mut self, delta: &Delta) -> Vec<Rejected> {
        let reason = format!(
            "{} is not read yet ({})",
            delta.type_url, self.root_namespace
        );
        let rejected = |name: &String| Rejected {
            name: name.clone(),
            reason: reason.clone(),
        };
        delta.resources.iter().map(|r| rejected(&r.name)).collect()
    }

    /// The newest generation.
    pub fn current(&self) -> &Arc<Generation> {
        &self.current
    }
}
