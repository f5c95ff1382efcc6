//! What Ambit asks of the Linux kernel beyond the standard library: namespaces, netlink, descriptor passing, socket options.
//!
//! The only crate with `unsafe`, so that it can be read as a whole. Everything here is synchronous and knows nothing of
//! the mesh: callers decide, and make what they get asynchronous where they need it.

pub mod diag;
pub mod file;
pub mod group;
pub mod iptables;
pub mod netlink;
pub mod netns;
pub mod nft;
pub mod packet;
pub mod process;
pub mod route;
pub mod seqpacket;
pub mod socket;
pub mod succession;
pub mod sysctl;
