//! The local workload file (`LOCAL_XDS_PATH`): workloads, services and policies as YAML, for a mesh without a control
//! plane. Text to resources and back; the resources then go the way of those that a control plane sends.
//!
//! Three lists, `workloads`, `services`, `policies`; keys in camel case, unknown ones refused, values of a match tagged
//! `!Exact`, `!Prefix`, `!Suffix` or `!Presence`, keys of port maps numbers.

use std::{collections::BTreeMap, fmt};

use proto::{security::Authorization, workload::Address};

mod read;
mod write;

pub use self::write::write;

/// The resources of a local workload file, by resource name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Local {
    /// Workloads by uid, services by `<namespace>/<hostname>`.
    pub addresses: BTreeMap<String, Address>,
    /// By `<namespace>/<name>`.
    pub authorizations: BTreeMap<String, Authorization>,
}

/// Why a file is not one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Path of the field (`services[0].vips[1]`), or a line where there is no saying which field; may be empty.
    pub field: String,
    /// What is wrong, in words.
    pub reason: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            f.write_str(&self.reason)
        } else {
            write!(f, "{}: {}", self.field, self.reason)
        }
    }
}

impl std::error::Error for Error {}

/// Reads a local workload file. The first fault ends it: half a mesh is not what was asked for.
pub fn parse(text: &str) -> Result<Local, Error> {
    read::parse(text)
}

#[cfg(test)]
mod tests;
