//! The local workload file: workloads, services and policies as YAML, for a mesh without a control plane.

use std::collections::BTreeMap;

use proto::{security::Authorization, workload::Address};

/// The resources of a local workload file, by resource name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Local {
    /// Workloads by uid, services by `<namespace>/<hostname>`.
    pub addresses: BTreeMap<String, Address>,
    /// By `<namespace>/<name>`.
    pub authorizations: BTreeMap<String, Authorization>,
}
