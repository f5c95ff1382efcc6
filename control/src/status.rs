//! What the control plane says of an object, in the form of Kubernetes conditions.

/// Conditions of one object; only those that are ours to write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
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
}
