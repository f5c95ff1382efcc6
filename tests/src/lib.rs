//! What the tests of whole meshes share: namespaces with components running in them, and ways to drive and ask them.
//!
//! [`world`] is the place: nodes, pods, applications and processes. What tells its proxies what to do is either the
//! real thing ([`mesh`], with [`gateway`] for waypoints), or something that a test drives step by step and that may misbehave ([`driven`]): [`script`] for the
//! control plane, [`agent`] for the node agent, [`peer`] for another proxy, [`waypoint`] for one on the way. The behaviours are in `tests/`, one file
//! each; a file's tests share one world, because starting one costs more than most of them.

pub mod agent;
pub mod driven;
pub mod front;
pub mod gateway;
pub mod load;
pub mod mesh;
pub mod parsers;
pub mod peer;
pub mod pod;
pub mod reading;
pub mod record;
pub mod script;
pub mod server;
pub mod talk;
pub mod traffic;
pub mod waypoint;
pub mod world;

/// Where the calling test finds what Cargo built for it.
#[macro_export]
macro_rules! place {
    () => {
        $crate::world::Place {
            component: env!("CARGO_BIN_EXE_component"),
            scratch: env!("CARGO_TARGET_TMPDIR"),
        }
    };
}
