//! What the control plane says of an object, in the form of Kubernetes conditions.

use crate::manifest::route::ParentRef;

/// Who serves the class of waypoints, and speaks in statuses that more than one controller writes.
pub const CONTROLLER: &str = "ambit.dev/waypoint";

/// What is said of one object; only what is ours to write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The generation of the object that this is about; 0 if it has none.
    pub generation: i64,
    /// The generation that `conditions` are about if that version is refused; 0 if nobody knows it. The rest is about the
    /// version in force.
    pub refused: Option<i64>,
    /// In the order of their types.
    pub conditions: Vec<Condition>,
    /// Routes: one for each of its `parentRefs` that is ours to serve, in their order.
    pub parents: Vec<ParentStatus>,
    /// Gateways: one for each of its listeners, in their order.
    pub listeners: Vec<ListenerStatus>,
}

/// What is said of a listener of a Gateway (Gateway API, ListenerStatus).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerStatus {
    /// Its name.
    pub name: String,
    /// How many objects are attached to it.
    pub attached: usize,
    /// In the order of their types.
    pub conditions: Vec<Condition>,
}

/// What is said of a route at one of its parents (Gateway API, RouteParentStatus).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentStatus {
    /// As written in the route.
    pub parent: ParentRef,
    /// In the order of their types.
    pub conditions: Vec<Condition>,
}
/// One condition (Kubernetes API conventions, Condition v1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// For example `ZtunnelAccepted`.
    pub kind: &'static str,
    /// Whether it holds.
    pub holds: bool,
    /// One word for programs.
    pub reason: &'static str,
    /// A sentence for people; empty if there is nothing to say.
    pub message: String,
}

impl Condition {
    /// A condition that holds.
    pub fn holds(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            kind,
            holds: true,
            reason,
            message: message.into(),
        }
    }

    /// A condition that does not hold.
    pub fn fails(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            kind,
            holds: false,
            reason,
            message: message.into(),
        }
    }

    /// Says one thing more.
    pub fn add(&mut self, text: &str) {
        if !self.message.is_empty() {
            self.message.push_str("; ");
        }
        self.message.push_str(text);
    }
}
