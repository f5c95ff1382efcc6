//! What one discovery response changes, before anybody has looked inside.

/// Resources of one type that are new, changed or gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Of what type: `type.googleapis.com/…`.
    pub type_url: String,
    /// New and changed ones.
    pub resources: Vec<Resource>,
    /// Names of those that are gone.
    pub removed: Vec<String>,
}

/// One encoded resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resource {
    /// Unique within its type.
    pub name: String,
    /// Opaque; may be empty.
    pub version: String,
    /// The message, without its `Any`.
    pub bytes: Vec<u8>,
}
