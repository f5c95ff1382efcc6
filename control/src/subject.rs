//! Who calls, and whom a stream of resources is for. Known by the token alone; what a request says of itself counts for
//! nothing.

use std::fmt;

use crate::world::Key;

/// One caller.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// What runs on the node of this name: its proxy and its agent.
    Node(String),
    /// The waypoint of the Gateway of this namespace and name.
    Waypoint(Key),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(name) => write!(f, "node {name}"),
            Self::Waypoint((namespace, name)) => write!(f, "waypoint {namespace}/{name}"),
        }
    }
}
