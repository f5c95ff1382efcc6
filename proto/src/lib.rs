//! The messages that Ambit's processes, and their counterparts in the ecosystem, exchange.
//!
//! `proto/*.proto` is written by hand, `src/gen` is made from it and committed, so that a build needs no protobuf
//! compiler. `cargo test -p proto` compares the two; `UPDATE=1 cargo test -p proto` writes them anew, together with the
//! gRPC clients and servers that live in the crates that use them.
#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic
)]

/// Workloads and services (`istio.workload`).
pub mod workload {
    include!("gen/istio.workload.rs");

    /// The node agent's protocol (`istio.workload.zds`).
    pub mod zds {
        include!("gen/istio.workload.zds.rs");
    }
}

/// Layer 4 authorization (`istio.security`).
pub mod security {
    include!("gen/istio.security.rs");
}

/// The certificate service (`istio.v1.auth`).
pub mod auth {
    include!("gen/istio.v1.auth.rs");
}

/// Delta discovery (`envoy.service.discovery.v3`).
pub mod discovery {
    include!("gen/envoy.service.discovery.v3.rs");
}

/// Who asks (`envoy.config.core.v3`).
pub mod core {
    include!("gen/envoy.config.core.v3.rs");
}

/// Errors in discovery messages (`google.rpc`).
pub mod rpc {
    include!("gen/google.rpc.rs");
}

/// Node agent to control plane (`ambit.node.v1`).
pub mod node {
    include!("gen/ambit.node.v1.rs");
}

/// What a waypoint is told (`ambit.waypoint.v1`).
pub mod waypoint {
    include!("gen/ambit.waypoint.v1.rs");
}

/// Type URL of [`workload::Address`] resources.
pub const ADDRESS_TYPE: &str = "type.googleapis.com/istio.workload.Address";
/// Type URL of [`security::Authorization`] resources.
pub const AUTHORIZATION_TYPE: &str = "type.googleapis.com/istio.security.Authorization";
/// Type URL of [`waypoint::Table`] resources.
pub const TABLE_TYPE: &str = "type.googleapis.com/ambit.waypoint.v1.Table";
/// Type URL of [`waypoint::Route`] resources.
pub const ROUTE_TYPE: &str = "type.googleapis.com/ambit.waypoint.v1.Route";
/// Type URL of [`waypoint::Policy`] resources.
pub const POLICY_TYPE: &str = "type.googleapis.com/ambit.waypoint.v1.Policy";
/// Type URL of [`waypoint::Backend`] resources.
pub const BACKEND_TYPE: &str = "type.googleapis.com/ambit.waypoint.v1.Backend";
/// Name of the extension of a service that holds a [`waypoint::Trust`].
pub const TRUST_EXTENSION: &str = "ambit.dev/waypoint";
/// Type URL of [`waypoint::Trust`].
pub const TRUST_TYPE: &str = "type.googleapis.com/ambit.waypoint.v1.Trust";
