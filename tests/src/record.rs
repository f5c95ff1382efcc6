//! Lines of a ztunnel's log, which is JSON in these tests.

use serde_json::Value;

/// One line.
#[derive(Clone, Debug)]
pub struct Record(Value);

impl Record {
    /// Reads a line; `None` if it is not JSON.
    pub fn read(line: &str) -> Option<Self> {
        serde_json::from_str(line).ok().map(Self)
    }

    /// Whether it is about a connection.
    pub fn is_access(&self) -> bool {
        self.0["scope"] == "access"
    }

    /// A field's text; empty if there is no such field.
    pub fn get(&self, key: &str) -> &str {
        self.0[key].as_str().unwrap_or_default()
    }

    /// Whether a field has this text.
    pub fn is(&self, key: &str, text: impl ToString) -> bool {
        self.get(key) == text.to_string()
    }

    /// Whether it is about a connection that came in from a tunnel or as it is.
    pub fn inbound(&self) -> bool {
        self.is_access() && self.is("direction", "inbound")
    }

    /// Whether it is about a connection that a pod of the node made.
    pub fn outbound(&self) -> bool {
        self.is_access() && self.is("direction", "outbound")
    }
}
