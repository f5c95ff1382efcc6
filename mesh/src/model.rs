//! What a proxy knows of the mesh, as values that can only say what makes sense.

mod policy;
mod service;
mod workload;

pub use policy::{
    Action, Effect, Group, IpRange, Match, Policy, Rule, Scope, StringMatch, WorkloadAccount,
    is_generated,
};
pub use service::{Balancing, Families, LocalityScope, Mode, Port, Service, Vip, Visibility};
pub use workload::{
    ApplicationTunnel, Gateway, Health, Locality, Membership, Protocol, Workload, WorkloadType,
};
