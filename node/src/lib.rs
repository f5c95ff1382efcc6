//! The node agent: finds the pods of its node that are in the mesh, captures their TCP, and hands them to the node proxy.
//!
//! It carries no traffic and knows no policy. For each pod the order is fixed: rules in the pod's namespace, then the
//! proxy is told (ZDS) and acknowledges, and only then the control plane learns that the pod is captured.

pub mod capture;
pub mod manifests;
mod readiness;
pub mod rules;
pub mod watch;
pub mod zds;
