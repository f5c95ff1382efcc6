//! Counterparts that are not ours: a control plane, a node proxy and its tunnels that know the documented protocols and none
//! of the code that speaks them here.
//!
//! Bytes of messages come from the protocol's own definitions (crate `proto`) or are written out. gRPC, discovery, the
//! certificate service, ZDS and tunnels are spoken by hand on `h2` and `rustls`, so that an error that our two sides share is
//! one here. A node agent that is driven by a test is [`tests::agent`] already.

pub mod control;
pub mod grpc;
pub mod mesh;
pub mod proxy;
pub mod tunnel;
pub mod zds;

/// Where the calling test finds what Cargo built for it.
#[macro_export]
macro_rules! place {
    () => {
        tests::world::Place {
            component: env!("CARGO_BIN_EXE_interop"),
            scratch: env!("CARGO_TARGET_TMPDIR"),
        }
    };
}
