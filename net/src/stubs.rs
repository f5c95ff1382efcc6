//! The generated gRPC clients. Made from `proto/proto/*.proto` by `UPDATE=1 cargo test -p proto`; never edited.
#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic
)]

pub mod discovery {
    include!("gen/envoy.service.discovery.v3.rs");
}

pub mod certificate {
    include!("gen/istio.v1.auth.rs");
}
